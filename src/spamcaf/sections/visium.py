"""What is known of every Visium array."""

from __future__ import annotations

PITCH_UM = 100.0
SPOT_UM = 55.0
THEORETICAL_SPOT_UM = 65.0
"""What `spot_diameter_fullres` measures, by 10x's definition: wider than the printed spot."""
