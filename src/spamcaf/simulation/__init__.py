"""A simulated section with known truth: tissue, image and counts."""
