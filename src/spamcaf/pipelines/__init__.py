"""The pipelines: thin nodes and their wiring."""
