"""Wiring of the evaluation pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.evaluation import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    spots = ["expression", "spot_split"]
    others = ["params:evaluation", "params:compute", "params:seed"]
    steps = [
        Node(
            nodes.fit_baselines,
            [*spots, "spot_features", "other_sections", "open_slide", "params:tiles", *others],
            "baseline_predictions",
            name="fit_baselines",
        ),
        Node(
            nodes.score_super_resolution,
            ["truth", "super_resolved", "expression", "grid", "spot_features", "grid_features", *others],
            "super_resolution_scores",
            name="score_super_resolution",
        ),
        Node(
            nodes.score_domains,
            ["expression", "recovered", "super_resolved", "params:evaluation", "params:seed"],
            "domain_scores",
            name="score_domains",
        ),
        Node(
            nodes.score_predictions,
            ["recovered", "baseline_predictions", *spots, "params:split", "params:seed", "params:evaluation"],
            ["gene_scores", "hidden_scores"],
            name="score_predictions",
        ),
        Node(
            nodes.join_scores,
            ["hidden_scores", "super_resolution_scores", "domain_scores"],
            "scores",
            name="join_scores",
        ),
        Node(
            nodes.plot_maps,
            ["expression", "recovered", "super_resolved", "gene_scores", "params:report"],
            "maps",
            name="plot_maps",
        ),
        Node(
            nodes.write_geojson,
            ["super_resolved", "recovered", "gene_scores", "section_report", "params:report"],
            "super_resolved_geojson",
            name="write_geojson",
        ),
        Node(
            nodes.write_report,
            [
                *["scores", "section_report", "gene_scores", "section_overlay", "training_curves", "maps"],
                *["expression", "recovered", "super_resolved", "params:report", "parameters"],
            ],
            "report",
            name="write_report",
        ),
    ]
    return Pipeline(steps, namespace="evaluation", prefix_datasets_with_namespace=False)
