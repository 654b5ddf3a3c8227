"""Wiring of the training pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.training import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    data = ["expression", "spot_split", "spot_features", "other_sections", "references"]
    settings = ["params:fit", "params:network", "params:released", "params:compute", "params:seed", "backbone_loader"]
    steps = [
        Node(
            nodes.fit_spamcaf,
            [*data, "fit_checkpoints", *settings],
            ["model", "training_log", "program_log"],
            name="fit_spamcaf",
            tags="gpu",
        ),
        Node(
            nodes.fit_on_all_spots,
            [*data, "full_fit_checkpoints", *settings],
            "full_model",
            name="fit_on_all_spots",
            tags="gpu",
        ),
        Node(nodes.plot_training, ["training_log", "program_log"], "training_curves", name="plot_training"),
    ]
    return Pipeline(steps, namespace="training", prefix_datasets_with_namespace=False)
