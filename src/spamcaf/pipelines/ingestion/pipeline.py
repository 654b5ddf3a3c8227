"""Wiring of the ingestion pipeline."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from spamcaf.pipelines.ingestion import nodes


def create_pipeline(**kwargs: object) -> Pipeline:
    """Return the pipeline; `kwargs` is Kedro's convention."""
    steps = [
        Node(
            nodes.check_section,
            ["raw_section", "slide", "params:section_checks", "params:tissue"],
            ["section", "section_report"],
            name="check_section",
        ),
        Node(nodes.find_tissue, ["section", "slide", "params:tissue"], "tissue", name="find_tissue"),
        Node(nodes.plot_overlay, ["section", "tissue"], "section_overlay", name="plot_overlay"),
        Node(
            nodes.split_spots,
            ["section", "params:split", "params:tiles", "params:seed"],
            "spot_split",
            name="split_spots",
        ),
        Node(
            nodes.choose_gene_panel,
            ["section", "spot_split", "other_sections", "params:panel"],
            ["gene_panel", "program_genes"],
            name="choose_gene_panel",
        ),
        Node(
            nodes.normalise_expression,
            ["section", "gene_panel", "program_genes"],
            "expression",
            name="normalise_expression",
        ),
        Node(nodes.lay_grid, ["section", "tissue", "params:grid"], "grid", name="lay_grid"),
    ]
    return Pipeline(steps, namespace="ingestion", prefix_datasets_with_namespace=False)
