"""What pooling needs of a section: its checked counts, and the features of its spots without those of the grid."""

from __future__ import annotations

from kedro.pipeline import Pipeline

from spamcaf.pipelines import feature_extraction, ingestion


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the nodes of two pipelines on the way to both, without grid, split and panel; `kwargs` is Kedro's."""
    both = ingestion.create_pipeline() + feature_extraction.create_pipeline()
    return both.to_outputs("section", "section_overlay", "spot_features")
