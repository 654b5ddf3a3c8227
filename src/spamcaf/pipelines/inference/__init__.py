"""Predicting hidden spots and the sites between the spots."""

from spamcaf.pipelines.inference.pipeline import create_pipeline

__all__ = ["create_pipeline"]
