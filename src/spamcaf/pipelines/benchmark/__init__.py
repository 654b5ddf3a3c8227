"""Sections, masks and protocols run one after the other, and one table of all models with intervals."""

from spamcaf.pipelines.benchmark.pipeline import create_pipeline

__all__ = ["create_pipeline"]
