"""Space Ranger."""
