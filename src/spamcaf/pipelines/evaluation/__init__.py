"""Scores on hidden spots beside the baselines, maps and the report."""

from spamcaf.pipelines.evaluation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
