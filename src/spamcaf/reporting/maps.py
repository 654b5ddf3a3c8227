"""Gene maps: what was measured, what was predicted at hidden spots, and what lies between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from spamcaf.names import SPATIAL, model_of_run
from spamcaf.reporting.canvas import draw_discs, draw_scale_bar, draw_tissue, frame

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

_PANEL_INCHES = 3.5
_PERCENTILES = (1, 99)
_COLUMNS = 3


def choose_genes(gene_scores: pd.DataFrame, requested: Sequence[str], n: int) -> dict[str, float]:
    """Return up to `n` genes to show, each with its held-out PCC by the run's model.

    Requested genes come first, in their order, as far as the panel holds them; then those predicted best.
    `gene_scores` has one row per model and gene (columns model, gene, pearson).
    """
    ours = gene_scores[gene_scores["model"] == model_of_run(gene_scores["model"])].set_index("gene")["pearson"]
    ranked = ours.sort_values(ascending=False, kind="stable").index
    wanted = dict.fromkeys([*(gene for gene in requested if gene in ours.index), *ranked])
    return {gene: float(ours[gene]) for gene in list(wanted)[:n]}


def choose_varying_genes(predicted: AnnData, requested: Sequence[str], n: int) -> list[str]:
    """Return up to `n` genes of a prediction: those requested, as far as it holds them, then those that vary most."""
    spread = np.asarray(predicted.X).std(axis=0)
    ranked = predicted.var_names[np.argsort(-spread, kind="stable")]
    return list(dict.fromkeys([*(gene for gene in requested if gene in predicted.var_names), *ranked]))[:n]


def plot_gene_maps(
    measured: AnnData,
    recovered: AnnData,
    super_resolved: AnnData | None,
    genes: Mapping[str, float],
    mpp: float,
) -> Figure:
    """Draw a row per gene: measured spots, prediction at hidden spots, super-resolved map where there is one.

    `genes` maps each gene to its held-out PCC. X of each AnnData is log1p CP10k, `obsm["spatial"]` in full-resolution
    pixels of `mpp` micrometres. Colours span the 1st to 99th percentile, of the measured values in the first map and of
    the predicted ones in the others: a prediction varies less than noisy counts, and would look flat in their range.
    """
    sections = {"measured": measured, "predicted at hidden spots": recovered}
    if super_resolved is not None:
        sections["super-resolved"] = super_resolved
    _check(sections, genes)
    figure = Figure(figsize=(_PANEL_INCHES * len(sections) + 1.6, _PANEL_INCHES * len(genes)), layout="constrained")
    grid = figure.subplots(len(genes), len(sections), squeeze=False)
    xy_px = np.asarray(measured.obsm[SPATIAL], dtype=float)
    for row, (gene, pcc) in zip(grid, genes.items(), strict=True):
        values = {title: _values(section, gene) for title, section in sections.items()}
        predicted = _limits(np.concatenate([values[title] for title in list(sections)[1:]]))
        ranges = [_limits(values["measured"])] + [predicted] * (len(sections) - 1)
        drawn = []
        for axes, (title, section), limits in zip(row, sections.items(), ranges, strict=True):
            draw_tissue(axes, measured)
            drawn.append(draw_discs(axes, section, values[title], limits))
            frame(axes, xy_px)
            axes.set_title(_title(gene, title, pcc), fontsize=10)
        draw_scale_bar(row[0], mpp)
        _add_bar(figure, drawn[0], [row[0]], "measured")
        _add_bar(figure, drawn[-1], list(row[1:]), "predicted")
    return figure


def plot_predicted_maps(predicted: AnnData, requested: Sequence[str], n: int) -> Figure:
    """Draw up to `n` genes of a prediction: those requested, then those whose prediction varies most.

    X is log1p CP10k, `obsm["spatial"]` in full-resolution pixels; the picture and its scale are in `uns["spatial"]`.
    """
    genes = choose_varying_genes(predicted, requested, n)
    columns = min(len(genes), _COLUMNS)
    rows = -(-len(genes) // columns)
    figure = Figure(figsize=((_PANEL_INCHES + 0.8) * columns, _PANEL_INCHES * rows), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    xy_px, entry = np.asarray(predicted.obsm[SPATIAL], dtype=float), next(iter(predicted.uns[SPATIAL].values()))
    for axes, gene in zip(panels, genes, strict=False):
        values = _values(predicted, gene)
        draw_tissue(axes, predicted)
        bar = figure.colorbar(draw_discs(axes, predicted, values, _limits(values)), ax=axes, shrink=0.75, extend="both")
        bar.set_label("predicted, log1p CP10k", fontsize=9)
        frame(axes, xy_px)
        axes.set_title(gene, fontsize=10)
    for axes in panels[len(genes) :]:
        axes.set_axis_off()
    draw_scale_bar(panels[0], float(entry["metadata"]["mpp"]))
    return figure


def _add_bar(figure: Figure, discs: ScalarMappable, axes: list[Axes], what: str) -> None:
    bar = figure.colorbar(discs, ax=axes, shrink=0.75, pad=0.01, extend="both")
    bar.set_label(f"{what}, log1p CP10k", fontsize=9)
    bar.outline.set_visible(False)


def _title(gene: str, what: str, pcc: float) -> str:
    suffix = f"\nheld-out PCC {pcc:.2f}" if what.startswith("predicted") else "\n"
    return f"{gene}: {what}{suffix}"


def _check(sections: Mapping[str, AnnData], genes: Mapping[str, float]) -> None:
    if not genes:
        raise ValueError("No gene to draw. Ask for at least one.")
    for name, section in sections.items():
        missing = [gene for gene in genes if gene not in section.var_names]
        if missing:
            raise ValueError(
                f"Genes {', '.join(missing)} are not among the {section.n_vars} genes of the '{name}' section. "
                "Choose genes of the panel."
            )


def _values(section: AnnData, gene: str) -> NDArray[np.float64]:
    column = section[:, gene].X
    dense = column.toarray() if hasattr(column, "toarray") else column
    return np.asarray(dense, dtype=float).ravel()


def _limits(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(max(high, low + 1e-3))  # a constant gene still needs a range to colour by
