"""Wiring of the inference pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.inference import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    settings = ["params:compute", "params:inference", "params:seed", "backbone_loader"]
    features = ["spot_features", "grid_features"]
    steps = [
        Node(
            nodes.predict_hidden_spots,
            ["model", "expression", "spot_split", "spot_features", "section", "tissue", *settings],
            "recovered",
            name="predict_hidden_spots",
            tags="gpu",
        ),
        Node(
            nodes.predict_grid,
            ["full_model", "expression", *features, "grid", "section", "tissue", "params:grid", *settings],
            "super_resolved",
            name="predict_grid",
            tags="gpu",
        ),
        Node(
            nodes.describe_programs,
            ["full_model", "super_resolved", "params:evaluation.gene_sets", "params:seed"],
            "programs",
            name="describe_programs",
        ),
        Node(
            nodes.write_spatialdata,
            ["super_resolved", "section", "slide"],
            "super_resolved_spatialdata",
            name="write_spatialdata",
        ),
    ]
    return Pipeline(steps, namespace="inference", prefix_datasets_with_namespace=False)
