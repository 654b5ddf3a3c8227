"""Figures: gene maps on tissue, the section overlay, and training curves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from matplotlib.collections import EllipseCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from mpl_toolkits.axes_grid1.anchored_artists import AnchoredSizeBar
from numpy.typing import NDArray

from spamcaf.names import SPATIAL, ScaleFactor
from spamcaf.reporting.prediction import as_uint8, library_of, values_of
from spamcaf.sections.gene_names import find_genes, named
from spamcaf.sections.lattice import nearest_neighbours

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable

logger = logging.getLogger(__name__)

_LUMA = (0.299, 0.587, 0.114)
_FADE = 0.55
_BAR_SHARE = 0.3
_MARGIN = 0.04
_UM_PER_MM = 1000
_PANEL_INCHES, _TITLE_INCHES, _BAR_INCHES, _LABEL_INCHES, _GAP_INCHES = 3.3, 0.5, 0.1, 0.75, 0.12
_ASPECTS = (0.4, 2.5)  # least and most height of a panel, in its widths
_PERCENTILES = (1, 99)
_MAP_COLUMNS = 3
_MAX_DISCS = 2000  # above, discs touch or run into each other, and half a million are slow to draw
_SURFACE_PX = 600  # pixels along a surface's longer side
CELL_REACH = 0.8  # of the distance of neighbours: a square cell reaches 0.71, one of spots off their lattice 0.8
SPOT_SHARE = 0.65  # of the pitch: 65 um spots, 100 um apart; where the source states no diameter


@dataclass(frozen=True)
class _Frame:
    """The part of the slide that all maps show, full-resolution pixels."""

    x: tuple[float, float]
    y: tuple[float, float]

    @classmethod
    def around(cls, xy_px: NDArray[np.float64]) -> _Frame:
        """Return the frame of sites (site, 2), with a margin."""
        low, high = xy_px.min(axis=0), xy_px.max(axis=0)
        margin = _MARGIN * (high - low).max() + 0.5 * nearest_px(xy_px)
        (x0, y0), (x1, y1) = (low - margin).tolist(), (high + margin).tolist()
        return cls((x0, x1), (y0, y1))

    @property
    def aspect(self) -> float:
        """Height of a panel in its widths."""
        return float(np.clip((self.y[1] - self.y[0]) / (self.x[1] - self.x[0]), *_ASPECTS))


class _Sites:
    """Sites of a section on a panel: discs of their true diameter, or a closed surface of their cells."""

    def __init__(self, section: AnnData, frame: _Frame, *, is_surface: bool) -> None:
        self._xy_px = np.asarray(section.obsm[SPATIAL], dtype=float)
        self._frame = frame
        diameter = library_of(section)[1]["scalefactors"].get(ScaleFactor.SPOT)
        self._diameter_px = float(diameter) if diameter else SPOT_SHARE * nearest_px(self._xy_px)
        self._nearest = self._nearest_sites() if is_surface or len(self._xy_px) > _MAX_DISCS else None

    def draw(self, axes: Axes, values: NDArray[np.floating], limits: tuple[float, float]) -> ScalarMappable:
        """Draw `values` (site,) in colours between `limits`; return what a colour bar is made of."""
        values = np.asarray(values, dtype=float)
        if self._nearest is not None:
            (x0, x1), (y0, y1) = self._frame.x, self._frame.y
            coloured = np.append(values, np.nan)[self._nearest]
            return axes.imshow(coloured, cmap="viridis", clim=limits, extent=(x0, x1, y1, y0), interpolation="nearest")
        n, transform = len(values), axes.transData
        size, angles = np.full(n, self._diameter_px), np.zeros(n)
        where: dict[str, Any] = {"offsets": self._xy_px, "offset_transform": transform}
        discs = EllipseCollection(size, size, angles, units="xy", linewidths=0, **where)
        discs.set(array=values, cmap="viridis", clim=limits)
        axes.add_collection(discs)
        return discs

    def _nearest_sites(self) -> NDArray[np.intp]:
        """Return the nearest site of each pixel of the frame, (row, column); -1 where none is near."""
        from scipy.spatial import cKDTree

        (x0, x1), (y0, y1) = self._frame.x, self._frame.y
        step = max(x1 - x0, y1 - y0) / _SURFACE_PX
        x, y = (np.arange(low + step / 2, high, step) for low, high in ((x0, x1), (y0, y1)))
        pixels = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        reach = CELL_REACH * nearest_px(self._xy_px)
        nearest = cKDTree(self._xy_px).query(pixels, distance_upper_bound=reach)[1]
        return np.where(nearest < len(self._xy_px), nearest, -1).reshape(len(y), len(x))


def _lay_out(rows: int, groups: Sequence[int], aspect: float) -> tuple[Figure, NDArray[Any], NDArray[Any]]:
    """Return a figure, its panels (row, panel), and a place for a colour bar beside each group, (row, group).

    `groups` are numbers of panels. Places are set, not searched: an automatic layout draws everything several times.
    """
    height = _PANEL_INCHES * aspect
    width = sum(n * (_PANEL_INCHES + _GAP_INCHES) + _BAR_INCHES + _LABEL_INCHES for n in groups)
    total = rows * (height + _TITLE_INCHES)
    figure = Figure(figsize=(width, total + _GAP_INCHES))

    def place(left: float, row: int, wide: float, share: float = 1.0) -> Axes:
        bottom = total + _GAP_INCHES - (row + 1) * (height + _TITLE_INCHES) + (1 - share) / 2 * height
        inches = np.array([left / width, bottom, wide / width, height * share])
        return figure.add_axes((inches / [1, total + _GAP_INCHES, 1, total + _GAP_INCHES]).tolist())

    panels = np.empty((rows, sum(groups)), object)
    bars = np.empty((rows, len(groups)), object)
    for row in range(rows):
        left, at, bar_at = _GAP_INCHES, 0, []
        for n in groups:
            for _ in range(n):
                panels[row, at] = place(left, row, _PANEL_INCHES)
                left, at = left + _PANEL_INCHES + _GAP_INCHES, at + 1
            bar_at.append(left)
            left += _BAR_INCHES + _LABEL_INCHES
        bars[row] = [place(start, row, _BAR_INCHES, 0.75) for start in bar_at]
    return figure, panels, bars


class _Tissue:
    """A section's hires image, grey and faded, no finer than a panel needs; nothing where it has none."""

    def __init__(self, section: AnnData, frame: _Frame) -> None:
        _, entry = library_of(section)
        image, scale = entry["images"].get("hires"), entry["scalefactors"].get(ScaleFactor.HIRES)
        self._frame, self._grey = frame, None
        if image is None or scale is None:
            return
        grey = as_uint8(np.asarray(image)).astype(np.float32) @ np.asarray(_LUMA, dtype=np.float32) / 255
        shown = float(scale) * max(frame.x[1] - frame.x[0], frame.y[1] - frame.y[0])  # its pixels along a panel
        every = max(int(shown // _SURFACE_PX), 1)
        height, width = (n // every for n in grey.shape)  # what is left over at the right and below is cut off
        grey = grey[: height * every, : width * every].reshape(height, every, width, every).mean(axis=(1, 3))
        self._extent = (0, width * every / float(scale), height * every / float(scale), 0)
        self._grey = _FADE + (1 - _FADE) * grey

    def draw(self, axes: Axes) -> None:
        """Draw it and fit the axes to the frame: equal aspect, y down, no ticks."""
        if self._grey is not None:
            axes.imshow(self._grey, cmap="gray", vmin=0, vmax=1, extent=self._extent, interpolation="bilinear")
        frame = self._frame
        axes.set(aspect="equal", xlim=frame.x, ylim=frame.y[::-1], xticks=[], yticks=[])
        axes.spines[:].set_visible(False)


def _draw_scale_bar(axes: Axes, mpp: float) -> None:
    """Add a bar of a round length, about a quarter of the axes' width; `mpp` is micrometres per pixel."""
    left, right = axes.get_xlim()
    longest_um = _BAR_SHARE * (right - left) * mpp
    power = 10.0 ** np.floor(np.log10(longest_um))
    length_um = power * max(step for step in (1, 2, 5) if step * power <= longest_um)
    label = f"{length_um / _UM_PER_MM:g} mm" if length_um >= _UM_PER_MM else f"{length_um:g} µm"
    height = 0.008 * (right - left)
    bar = AnchoredSizeBar(
        axes.transData, length_um / mpp, label, "lower right", pad=0.3, size_vertical=height, fontproperties={"size": 8}
    )
    bar.patch.set(alpha=0.8, linewidth=0)
    axes.add_artist(bar)


def nearest_px(xy_px: NDArray[np.float64]) -> float:
    """Return the median distance to the nearest other site, 1 for a single site."""
    return 1.0 if len(xy_px) == 1 else float(np.median(nearest_neighbours(xy_px, 1)[0])) or 1.0


def warn_of_absent(requested: Sequence[str], genes: pd.DataFrame) -> None:
    """Log which requested symbols or ids are not among the predicted genes (table of symbols and gene_ids)."""
    absent = find_genes(requested, genes)[1]
    if absent:
        how = "panel.include=<gene> predicts it too, where the section has it"
        logger.warning("report.genes: not in the panel and not shown: %s; %s", named(absent), how)


def choose_genes(gene_scores: pd.DataFrame, model: str, requested: Sequence[str], n: int) -> dict[str, float]:
    """Return up to `n` genes, each with its PCC at hidden spots by `model`: those requested, then those predicted best.

    `gene_scores` has a row per model and gene (columns model, gene, pearson). A gene outside the panel is left out.
    """
    ours = gene_scores[gene_scores["model"] == model].set_index("gene")["pearson"]
    ranked = ours.sort_values(ascending=False, kind="stable").index
    return {gene: float(ours[gene]) for gene in _first(requested, ranked, n)}


def choose_varying_genes(predicted: AnnData, requested: Sequence[str], n: int) -> list[str]:
    """Return up to `n` genes of a prediction: those requested, as far as it holds them, then those that vary most."""
    spread = np.asarray(predicted.X).std(axis=0)
    return _first(requested, predicted.var_names[np.argsort(-spread, kind="stable")], n)


def _first(requested: Sequence[str], ranked: pd.Index, n: int) -> list[str]:
    return list(dict.fromkeys([*(gene for gene in requested if gene in ranked), *ranked]))[:n]


def plot_gene_maps(
    measured: AnnData,
    recovered: AnnData,
    super_resolved: AnnData | None,
    genes: Mapping[str, float],
    mpp: float,
    truth: AnnData | None = None,
) -> Figure:
    """Draw a row per gene: measured spots, prediction at hidden spots, super-resolved map and truth, where known.

    Colours span the 1st to 99th percentile, of the measured values in the first map and of the predicted ones in the
    others: a prediction varies less than noisy counts, and would look flat in their range. The truth has its own range.

    Parameters
    ----------
    measured, recovered, super_resolved, truth : AnnData
        X is log1p CP10k, `obsm["spatial"]` in full-resolution pixels.
    genes : dict of float
        PCC at hidden spots by gene.
    mpp : float
        Micrometres per pixel.

    Raises
    ------
    ValueError
        Where there is no gene, or a section lacks one.
    """
    sections = {"measured": measured, "predicted at hidden spots": recovered}
    if super_resolved is not None:
        sections["super-resolved"] = super_resolved
    groups = [1, len(sections) - 1]
    if truth is not None:
        sections["true expression"] = truth
        groups.append(1)
    _check(sections, genes)
    frame = _Frame.around(np.asarray(measured.obsm[SPATIAL], dtype=float))
    figure, panels, bars = _lay_out(len(genes), groups, frame.aspect)
    tissue, surfaces = _Tissue(measured, frame), (super_resolved, truth)
    sites = [_Sites(section, frame, is_surface=any(section is s for s in surfaces)) for section in sections.values()]
    for row, row_bars, (gene, pcc) in zip(panels, bars, genes.items(), strict=True):
        values = [values_of(section, gene) for section in sections.values()]
        ends = np.cumsum(groups)
        limits = [colour_limits(np.concatenate(values[end - n : end])) for end, n in zip(ends, groups, strict=True)]
        limits = [limit for limit, n in zip(limits, groups, strict=True) for _ in range(n)]
        drawn = []
        for i, (axes, (title, section)) in enumerate(zip(row, sections.items(), strict=True)):
            tissue.draw(axes)
            drawn.append(sites[i].draw(axes, values[i], limits[i]))
            score = f"held-out PCC {pcc:.2f}" if section is recovered else ""
            axes.set_title(f"{gene}: {title}\n{score}", fontsize=10)
        _draw_scale_bar(row[0], mpp)
        for axes, end, what in zip(row_bars, ends, ("measured", "predicted", "true"), strict=False):
            _draw_colour_bar(axes, drawn[end - 1], what)
    return figure


def plot_predicted_maps(predicted: AnnData, requested: Sequence[str], n: int, unit: str = "log1p CP10k") -> Figure:
    """Draw up to `n` genes of a prediction: those requested, then those whose prediction varies most.

    X is in `unit`, `obsm["spatial"]` in full-resolution pixels; image and scale are in `uns["spatial"]`.
    """
    genes = choose_varying_genes(predicted, requested, n)
    columns = min(len(genes), _MAP_COLUMNS)
    rows = -(-len(genes) // columns)
    frame = _Frame.around(np.asarray(predicted.obsm[SPATIAL], dtype=float))
    figure, panels, bars = _lay_out(rows, (1,) * columns, frame.aspect)
    tissue, sites = _Tissue(predicted, frame), _Sites(predicted, frame, is_surface=True)
    for axes, bar, gene in zip(panels.ravel(), bars.ravel(), genes, strict=False):
        values = values_of(predicted, gene)
        tissue.draw(axes)
        _draw_colour_bar(bar, sites.draw(axes, values, colour_limits(values)), "predicted", unit)
        axes.set_title(gene, fontsize=10)
    for axes in [*panels.ravel()[len(genes) :], *bars.ravel()[len(genes) :]]:
        axes.set_axis_off()
    _draw_scale_bar(panels[0, 0], float(library_of(predicted)[1]["metadata"]["mpp"]))
    return figure


def _draw_colour_bar(axes: Axes, colours: ScalarMappable, what: str, unit: str = "log1p CP10k") -> None:
    bar = axes.figure.colorbar(colours, cax=axes, extend="both")
    bar.set_label(f"{what}, {unit}", fontsize=9)
    bar.outline.set_visible(False)


def _check(sections: Mapping[str, AnnData], genes: Mapping[str, float]) -> None:
    if not genes:
        raise ValueError("No gene to draw. Give at least one.")
    for name, section in sections.items():
        if missing := [gene for gene in genes if gene not in section.var_names]:
            raise ValueError(
                f"Genes {', '.join(missing)} are not among the {section.n_vars} genes of the '{name}' section. "
                "Choose genes of the panel."
            )


def colour_limits(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 1st and 99th percentile, between which colours are spread."""
    low, high = np.percentile(values, _PERCENTILES)
    return float(low), float(max(high, low + 1e-3))  # a constant gene still needs a range to colour by


_SPOTS = "#00a040"  # green stands out on pink, purple and white
_OUTLINE = "#d55e00"
_INCHES = 7.0
_MANY = 1500  # spots from which circles are drawn smaller, lest they cover the tissue


def plot_overlay(
    thumbnail: NDArray[np.uint8],
    spots_xy_px: NDArray[np.float64],
    thumbnail_scale: float,
    tissue_outline: NDArray[np.bool_] | None = None,
) -> Figure:
    """Draw the spots on the thumbnail, and the edge of the tissue mask where one is given; axes in thumbnail pixels.

    Parameters
    ----------
    thumbnail : (row, column, 3), RGB
    spots_xy_px : (spot, 2), full-resolution pixels
    thumbnail_scale : thumbnail pixels per full-resolution pixel
    tissue_outline : (row, column), true on tissue; covers the same image at any resolution
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
    axes.set_title(f"{len(x)} spots, {int((~inside).sum())} outside the image", fontsize=10)
    x_limits, y_limits = (min(0, x.min()), max(width, x.max())), (max(height, y.max()), min(0, y.min()))
    axes.set(xlim=x_limits, ylim=y_limits, aspect="equal", xticks=[], yticks=[])
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
_LOSS_ALONE = ["fold", "epoch", "loss"]
_WEIGHTS = {
    "within_section_network_weight": _Line("among measured spots", "#0072b2", 0.4),
    "new_section_network_weight": _Line("on unmeasured sections", "#e69f00", 0.4),
}
_SIGNAL = "signal_fraction"


def plot_training_curves(log: pd.DataFrame, programs: pd.DataFrame) -> Figure:
    """Draw losses and validation PCC by epoch, and beside them the network's weight in each gene program.

    Lines are means over the folds, bands reach from the lowest fold to the highest. A table without rows has no panel.
    Raises ValueError where a column is missing, or both tables are empty.

    Parameters
    ----------
    log : a row per fold and epoch: fold, epoch, loss, l1, l2, l3, l4, validation_pcc; of `released` fold, epoch, loss
    programs : a row per program: program, signal_fraction, within_section_network_weight, new_section_network_weight
    """
    panels: list[tuple[Callable[[Axes, pd.DataFrame], None], pd.DataFrame]] = [(_draw_losses, log)] if len(log) else []
    if len(log) and list(log.columns) != _LOSS_ALONE:
        _require(log, ("fold", "epoch", *_LOSSES, _VALIDATION), "training log")
        panels.append((_draw_validation, log))
    if len(programs):
        _require(programs, ("program", _SIGNAL, *_WEIGHTS), "program log")
        panels.append((_draw_weights, programs))
    if not panels:
        raise ValueError("The training log and the program log have 0 rows. Expected at least one row in one of them.")
    figure = Figure(figsize=(5 * len(panels), 3.6), layout="constrained")
    for axes, (draw, table) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        draw(axes, table)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure


def _require(table: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    if missing := [column for column in columns if column not in table.columns]:
        raise ValueError(f"The {name} lacks the columns {missing}. Expected {', '.join(columns)}.")


def _draw_losses(axes: Axes, log: pd.DataFrame) -> None:
    drawn = {column: line for column, line in _LOSSES.items() if column in log}
    loss = "loss" if len(drawn) > 1 else "mean squared error"  # the one loss of the released network
    _draw_lines(axes, log, drawn)
    axes.set(ylabel=f"{loss} on training spots", title="Losses")


def _draw_validation(axes: Axes, log: pd.DataFrame) -> None:
    n_folds = log["fold"].nunique()
    mean = _Line(f"mean of {n_folds} fold{'s' if n_folds > 1 else ''}", "#0072b2", 2.0)
    _draw_lines(axes, log, {_VALIDATION: mean})
    axes.set(ylabel="mean PCC on validation spots", title="Validation")


def _draw_weights(axes: Axes, programs: pd.DataFrame) -> None:
    number = programs["program"].to_numpy()
    for side, (column, bar) in zip((-0.5, 0.5), _WEIGHTS.items(), strict=True):
        axes.bar(number + side * bar.width, programs[column], bar.width, color=bar.colour, label=bar.label)
    axes.hlines(programs[_SIGNAL], number - 0.45, number + 0.45, color="#222222", label="signal fraction")
    axes.set(xlabel="gene program", ylabel="network weight", title="Stacking weights", ylim=(0, 1.35))
    axes.set_xticks(number, ["depth" if program == 0 else str(program) for program in number], rotation=90)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])  # the legend takes the space above
    axes.legend(frameon=False, fontsize=8, loc="upper right")


def _draw_lines(axes: Axes, log: pd.DataFrame, lines: Mapping[str, _Line]) -> None:
    for column, line in lines.items():
        by_epoch = log.dropna(subset=[column]).groupby("epoch")[column].agg(["mean", "min", "max"])
        epochs = by_epoch.index.to_numpy()
        axes.plot(epochs, by_epoch["mean"], color=line.colour, linewidth=line.width, label=line.label)
        axes.locator_params(axis="x", integer=True)
        axes.fill_between(epochs, by_epoch["min"], by_epoch["max"], color=line.colour, alpha=0.15, linewidth=0)
    axes.set_xlabel("epoch")
    axes.legend(frameon=False, fontsize=8)
