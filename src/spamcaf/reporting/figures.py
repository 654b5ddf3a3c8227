"""Figures: gene maps on tissue, the section overlay, and training curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray

from spamcaf.names import SPATIAL, ScaleFactor, model_of_run

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

_LUMA = (0.299, 0.587, 0.114)
_FADE = 0.55
_BAR_SHARE = 0.3
_MARGIN = 0.04
_MICROMETRES_PER_MM = 1000


def library(section: AnnData) -> dict[str, dict[str, Any]]:
    """Return the images and scale factors of an AnnData's only library; an empty one where it has none."""
    libraries = section.uns.get(SPATIAL, {})
    return next(iter(libraries.values())) if libraries else {"images": {}, "scalefactors": {}}


def draw_tissue(axes: Axes, section: AnnData) -> None:
    """Draw the section's hires picture, grey and faded, where it has one."""
    entry = library(section)
    picture, scale = entry["images"].get("hires"), entry["scalefactors"].get(ScaleFactor.HIRES)
    if picture is None or scale is None:
        return
    rgb = np.asarray(picture)[..., :3].astype(np.float32)
    grey = rgb @ np.asarray(_LUMA, dtype=np.float32) / (255 if np.asarray(picture).dtype == np.uint8 else 1)
    height, width = grey.shape
    extent = (0, width / float(scale), height / float(scale), 0)
    axes.imshow(_FADE + (1 - _FADE) * grey, cmap="gray", vmin=0, vmax=1, extent=extent, interpolation="bilinear")


def draw_discs(
    axes: Axes, section: AnnData, values: NDArray[np.floating], limits: tuple[float, float]
) -> EllipseCollection:
    """Draw each place of `section` as a disc of its true diameter, coloured by `values` (place,) between `limits`."""
    xy_px = np.asarray(section.obsm[SPATIAL], dtype=float)
    diameter = library(section)["scalefactors"].get(ScaleFactor.SPOT)
    diameter_px = float(diameter) if diameter else 0.65 * _nearest_px(xy_px)  # 65 um spots, 100 um apart
    discs = EllipseCollection(
        np.full(len(xy_px), diameter_px),
        np.full(len(xy_px), diameter_px),
        np.zeros(len(xy_px)),
        units="xy",
        offsets=xy_px,
        offset_transform=axes.transData,
        array=np.asarray(values, dtype=float),
        cmap="viridis",
        clim=limits,
        linewidths=0,
    )
    axes.add_collection(discs)
    return discs


def frame(axes: Axes, xy_px: NDArray[np.floating]) -> None:
    """Show the places `xy_px` (place, 2) with a margin: equal aspect, y down, no ticks."""
    low, high = xy_px.min(axis=0), xy_px.max(axis=0)
    margin = _MARGIN * (high - low).max() + 0.5 * _nearest_px(xy_px)
    axes.set_aspect("equal")
    axes.set_xlim(low[0] - margin, high[0] + margin)
    axes.set_ylim(high[1] + margin, low[1] - margin)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(False)


def draw_scale_bar(axes: Axes, mpp: float) -> None:
    """Add a bar of a round length, about a quarter of the axes' width; `mpp` is micrometres per pixel."""
    left, right = axes.get_xlim()
    room_um = _BAR_SHARE * (right - left) * mpp
    power = 10.0 ** np.floor(np.log10(room_um))
    length_um = power * max(step for step in (1, 2, 5) if step * power <= room_um)
    millimetres = length_um >= _MICROMETRES_PER_MM
    label = f"{length_um / _MICROMETRES_PER_MM:g} mm" if millimetres else f"{length_um:g} µm"
    bar = AnchoredSizeBar(
        axes.transData,
        length_um / mpp,
        label,
        "lower right",
        pad=0.3,
        frameon=True,
        size_vertical=0.008 * (right - left),
        fontproperties={"size": 8},
    )
    bar.patch.set(alpha=0.8, linewidth=0)
    axes.add_artist(bar)


def _nearest_px(xy_px: NDArray[np.floating]) -> float:
    """Return the median distance of a place's nearest other place, 1 for a single place."""
    from scipy.spatial import cKDTree

    if len(xy_px) == 1:
        return 1.0
    distance_px, _ = cKDTree(xy_px).query(xy_px, k=2)
    return float(np.median(distance_px[:, 1])) or 1.0


_PANEL_INCHES = 3.5
_PERCENTILES = (1, 99)
_MAP_COLUMNS = 3


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
    columns = min(len(genes), _MAP_COLUMNS)
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


_SPOTS = "#00a040"  # green stands out on pink, purple and white
_OUTLINE = "#d55e00"
_INCHES = 7.0
_MANY = 1500  # spots from which circles are drawn smaller, lest they cover the picture


def plot_overlay(
    thumbnail: NDArray[np.uint8],
    spots_xy_px: NDArray[np.float64],
    thumbnail_scale: float,
    tissue_outline: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw the spots on the thumbnail, and the edge of the tissue mask where one is given.

    `thumbnail` is (row, column, 3) RGB, `spots_xy_px` (spot, 2) in full-resolution pixels, `thumbnail_scale` thumbnail
    pixels per full-resolution pixel. `tissue_outline`, True on tissue, covers the same picture at any resolution.
    The axes are in thumbnail pixels, y down.
    """
    height, width = thumbnail.shape[:2]
    figure = Figure(figsize=(_INCHES, _INCHES * height / width + 0.4), layout="constrained")
    axes = figure.subplots()
    axes.imshow(thumbnail, extent=(0, width, height, 0))
    x, y = (spots_xy_px * thumbnail_scale).T
    size = min(1.0, _MANY / max(len(x), 1))
    axes.scatter(x, y, s=14 * size, facecolors="none", edgecolors=_SPOTS, linewidths=1.1 * size**0.5)
    handles = [Line2D([], [], marker="o", linestyle="", markerfacecolor="none", color=_SPOTS, label="spots")]
    if tissue_outline is not None and tissue_outline.any() and not tissue_outline.all():
        rows, columns = tissue_outline.shape
        column_px = (np.arange(columns) + 0.5) * width / columns
        row_px = (np.arange(rows) + 0.5) * height / rows
        axes.contour(column_px, row_px, tissue_outline.astype(float), levels=[0.5], colors=_OUTLINE, linewidths=1.2)
        handles.append(Line2D([], [], color=_OUTLINE, label="edge of tissue"))
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    axes.set_title(f"{len(x)} spots, {int((~inside).sum())} outside the picture", fontsize=10)
    axes.set(xlim=(min(0, x.min()), max(width, x.max())), ylim=(max(height, y.max()), min(0, y.min())), aspect="equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.legend(handles=handles, loc="upper right", fontsize=8, framealpha=0.9)
    return figure


class _Line(NamedTuple):
    label: str
    colour: str  # of the Okabe-Ito palette, told apart by colour-blind readers
    width: float


_LOSSES = {
    "loss": _Line("total", "#222222", 2.0),
    "l1": _Line("L1 target", "#0072b2", 1.2),
    "l2": _Line("L2 neighbours", "#e69f00", 1.2),
    "l3": _Line("L3 global", "#009e73", 1.2),
    "l4": _Line("L4 fusion", "#cc79a7", 1.2),
}

_VALIDATION = "validation_pcc"
_CURVE_COLUMNS = ("fold", "epoch", *_LOSSES, _VALIDATION)
_LOSS_ALONE = ["fold", "epoch", "loss"]

_SHARES = {
    "within_section_network_weight": _Line("among measured spots", "#0072b2", 0.4),
    "new_section_network_weight": _Line("on unmeasured sections", "#e69f00", 0.4),
}
_SIGNAL = "signal_fraction"

_Panel = Callable[["Axes"], None]


def plot_training_curves(log: pd.DataFrame, programs: pd.DataFrame) -> Figure:
    """Draw the training log, losses and PCC on validation spots, and beside it the network's share of each program.

    `log` has a row per fold and epoch: fold, epoch, loss, l1, l2, l3, l4, validation_pcc. Lines are means over the
    folds, bands reach from the lowest fold to the highest. `programs` has a row per program: program, shrink,
    recovery_share, transfer_share. What has no rows has no panel: the log where no network was trained, the programs of
    `released`, whose log is fold, epoch and loss alone. Raises ValueError where a column is missing, or all is empty.
    """
    panels = [*_log_panels(log), *_program_panels(programs)]
    if not panels:
        raise ValueError("The training log and the program log have 0 rows. Expected at least one row in one of them.")
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axes, draw in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _log_panels(log: pd.DataFrame) -> list[_Panel]:
    if log.empty:
        return []
    if list(log.columns) == _LOSS_ALONE:
        return [partial(_draw_one_loss, log=log)]
    _require(log, _CURVE_COLUMNS, "training log")
    return [partial(_draw_losses, log=log), partial(_draw_validation, log=log)]


def _program_panels(programs: pd.DataFrame) -> list[_Panel]:
    if programs.empty:
        return []
    _require(programs, ("program", _SIGNAL, *_SHARES), "program log")
    return [partial(_draw_shares, programs=programs)]


def _require(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"The {name} lacks the columns {missing}. Expected {', '.join(columns)}.")


def _draw_one_loss(axes: Axes, log: pd.DataFrame) -> None:
    _draw(axes, log, "loss", _LOSSES["loss"])
    axes.set(xlabel="epoch", ylabel="mean squared error on training spots", title="Loss")


def _draw_losses(axes: Axes, log: pd.DataFrame) -> None:
    for column, line in _LOSSES.items():
        _draw(axes, log, column, line)
    axes.set(xlabel="epoch", ylabel="loss on training spots", title="Losses")
    axes.legend(frameon=False, fontsize=8)


def _draw_validation(axes: Axes, log: pd.DataFrame) -> None:
    n_folds = log["fold"].nunique()
    mean = _Line(f"mean of {n_folds} fold{'s' if n_folds > 1 else ''}", "#0072b2", 2.0)
    _draw(axes, log, _VALIDATION, mean)
    axes.set(xlabel="epoch", ylabel="mean PCC on validation spots", title="Validation")
    axes.legend(frameon=False, fontsize=8)


def _draw_shares(axes: Axes, programs: pd.DataFrame) -> None:
    number = programs["program"].to_numpy() + 1
    for side, (column, bar) in zip((-0.5, 0.5), _SHARES.items(), strict=True):
        axes.bar(number + side * bar.width, programs[column], bar.width, color=bar.colour, label=bar.label)
    axes.hlines(
        programs[_SIGNAL], number - 0.45, number + 0.45, color="#222222", label="share of the program that is signal"
    )
    axes.set(xlabel="gene program", ylabel="network's share", title="Mixing weights", ylim=(0, 1.35))
    axes.set_xticks(number)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])  # the room above is the legend's
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _draw(axes: Axes, log: pd.DataFrame, column: str, line: _Line) -> None:
    by_epoch = log.dropna(subset=[column]).groupby("epoch")[column].agg(["mean", "min", "max"])
    epochs = by_epoch.index.to_numpy()
    axes.plot(epochs, by_epoch["mean"], color=line.colour, linewidth=line.width, label=line.label)
    axes.fill_between(epochs, by_epoch["min"], by_epoch["max"], color=line.colour, alpha=0.15, linewidth=0)
