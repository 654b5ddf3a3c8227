"""Training curves, averaged over the folds, and what the fit decided for each program."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
_COLUMNS = ("fold", "epoch", *_LOSSES, _VALIDATION)
_LOSS_ALONE = ["fold", "epoch", "loss"]

_SHARES = {
    "recovery_share": _Line("among measured spots", "#0072b2", 0.4),
    "transfer_share": _Line("on unmeasured sections", "#e69f00", 0.4),
}
_SIGNAL = "shrink"

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
    _require(log, _COLUMNS, "training log")
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
