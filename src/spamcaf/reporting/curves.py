"""Training curves, averaged over the folds."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from matplotlib.figure import Figure

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes


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


def plot_training_curves(log: pd.DataFrame) -> Figure:
    """Draw the training log: losses on the left, PCC on validation spots on the right.

    `log` has a row per fold and epoch: fold, epoch, loss, l1, l2, l3, l4, validation_pcc. Lines are means over the
    folds, bands reach from the lowest fold to the highest. A log of fold, epoch and loss alone, as `released` leaves
    it, has one panel. Raises ValueError where a column is missing.
    """
    if list(log.columns) == _LOSS_ALONE and not log.empty:
        figure = Figure(figsize=(5, 3.6), layout="constrained")
        axes = figure.subplots()
        _draw(axes, log, "loss", _LOSSES["loss"])
        axes.set(xlabel="epoch", ylabel="mean squared error on training spots", title="Loss")
        _tidy(axes)
        return figure
    missing = [column for column in ("fold", "epoch", *_LOSSES, _VALIDATION) if column not in log.columns]
    if missing or log.empty:
        raise ValueError(
            f"The training log has {len(log)} rows and lacks the columns {missing}. Expected at least one row and "
            f"fold, epoch, {', '.join(_LOSSES)}, {_VALIDATION}."
        )
    figure = Figure(figsize=(10, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    for column, line in _LOSSES.items():
        _draw(left, log, column, line)
    left.set(xlabel="epoch", ylabel="loss on training spots", title="Losses")
    left.legend(frameon=False, fontsize=8)
    n_folds = log["fold"].nunique()
    mean = _Line(f"mean of {n_folds} fold{'s' if n_folds > 1 else ''}", "#0072b2", 2.0)
    _draw(right, log, _VALIDATION, mean)
    right.set(xlabel="epoch", ylabel="mean PCC on validation spots", title="Validation")
    right.legend(frameon=False, fontsize=8)
    for axes in (left, right):
        _tidy(axes)
    return figure


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)


def _draw(axes: Axes, log: pd.DataFrame, column: str, line: _Line) -> None:
    by_epoch = log.dropna(subset=[column]).groupby("epoch")[column].agg(["mean", "min", "max"])
    epochs = by_epoch.index.to_numpy()
    axes.plot(epochs, by_epoch["mean"], color=line.colour, linewidth=line.width, label=line.label)
    axes.fill_between(epochs, by_epoch["min"], by_epoch["max"], color=line.colour, alpha=0.15, linewidth=0)
