"""Fitting the model to the visible spots."""

from spamcaf.pipelines.training.pipeline import create_pipeline

__all__ = ["create_pipeline"]
