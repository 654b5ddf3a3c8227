"""Wiring of the feature extraction pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.feature_extraction import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    slide = ["slide", "tissue", "backbone"]
    settings = ["params:tiles", "params:compute", "params:fit.model", "params:fit.finetune"]
    mapped = [*slide, "slide_features"]
    steps = [
        Node(
            nodes.embed_slide,
            ["section", *slide, "stored_slide_blocks", *settings],
            "slide_features",
            name="embed_slide",
            tags="gpu",
        ),
        Node(
            nodes.embed_spots,
            ["section", *mapped, "stored_spot_blocks", *settings],
            "spot_features",
            name="embed_spots",
            tags="gpu",
        ),
        Node(
            nodes.embed_grid,
            ["grid", "section", *mapped, "stored_grid_blocks", *settings],
            "grid_features",
            name="embed_grid",
            tags="gpu",
        ),
    ]
    return Pipeline(steps, namespace="feature_extraction", prefix_datasets_with_namespace=False)
