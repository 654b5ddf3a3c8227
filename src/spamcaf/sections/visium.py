"""What is known of every Visium array."""

from __future__ import annotations

PITCH_UM = 100.0
SPOT_UM = 55.0
"""Diameter of a printed spot."""
FIDUCIAL_UM = 105.0
"""Diameter of a dot of the fiducial frame, `fiducial_diameter_fullres` in all generations of Space Ranger."""
STATED_SPOT_UM = (65.0, 70.0, 60.0, 55.0)
"""What `spot_diameter_fullres` stands for: 65 um in direct Visium of later Space Ranger, 70 in its first version, as in
all DLPFC sections, 60 with CytAssist, and 55 as other tools write it."""
