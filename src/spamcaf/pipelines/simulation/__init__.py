"""Writing the simulated section to disk, as Space Ranger would."""

from spamcaf.pipelines.simulation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
