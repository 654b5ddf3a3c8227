"""A model of measured sections applied to one that was never measured."""

from spamcaf.pipelines.transfer.pipeline import create_pipeline

__all__ = ["create_pipeline"]
