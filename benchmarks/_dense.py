"""What dense features cost in score: the simulated section with the features of either mode."""

from __future__ import annotations

import numpy as np
from _hiding import Hiding
from _models import Expression, Options, by_name, fit_ours, mean_pcc, predict_ours
from _recovery import BASELINE_SEED
from _section import Section, Seen
from _simulated import all_measured
from _table import Table

from spamcaf.model.data import TrainingSection
from spamcaf.model.fitted import SpamcafModel
from spamcaf.names import Model
from spamcaf.parameters import SplitSettings
from spamcaf.scoring.predictors import predict_all
from spamcaf.sections.sites import Sites

EXACT, DENSE = "exact", "dense"
PICTURES_ONLY = (Model.RIDGE,)


def dense_table(exact: Section, dense: Section, options: Options) -> str:
    """Half of the spots hidden, and sites between the spots; spots and grid are always of one mode."""
    table = Table("dense features beside exact ones, simulated section")
    for mode, section in ((EXACT, exact), (DENSE, dense)):
        _score_hidden(section, mode, options, table)
        _score_grids(section, mode, options, table)
    rows = [row.removesuffix(f", {EXACT}") for row in table.cells if row.endswith(EXACT)]
    notes = [f"{row}, dense - exact: {_differences(table, row)}." for row in rows]
    return table.markdown([*notes, f"Cosine of the spots' features: {_cosine(exact.seen, dense.seen)}."])


def _score_hidden(section: Section, mode: str, options: Options, table: Table) -> None:
    hiding = Hiding.of(section, SplitSettings(), options.panel)
    target_section, held = hiding.visible(), hiding.held_out()
    model = fit_ours(target_section, [], section.pitch_um, options)
    for row, values in _predicted(model, target_section, held.sites, section.pitch_um, options).items():
        table.add(f"{row}, {mode}", "hidden spots", mean_pcc(held.expression, values))


def _score_grids(section: Section, mode: str, options: Options, table: Table) -> None:
    target_section, genes = all_measured(section, options)
    columns = section.data.var_names.get_indexer(genes)
    model = fit_ours(target_section, [], section.pitch_um, options)
    for grid in section.grids:
        found = _predicted(model, target_section, grid.seen.sites(grid.xy_um), section.pitch_um, options)
        for row, values in found.items():
            table.add(f"{row}, {mode}", f"{grid.factor} x", mean_pcc(grid.truth[:, columns], values))


def _predicted(
    model: SpamcafModel, target_section: TrainingSection, sites: Sites, pitch_um: float, options: Options
) -> dict[str, Expression]:
    found = by_name(predict_ours(model, target_section.measured, sites, options))
    return found | predict_all(target_section.measured, sites, pitch_um, BASELINE_SEED, PICTURES_ONLY)


def _differences(table: Table, row: str) -> str:
    pairs = ((c, table.value(f"{row}, {DENSE}", c), table.value(f"{row}, {EXACT}", c)) for c in table.columns)
    return ", ".join(f"{column} {dense - exact:+.4f}" for column, dense, exact in pairs)


def _cosine(exact: Seen, dense: Seen) -> str:
    """Say how alike the two are tile by tile, as they are and counted from their means."""

    def mean_of(a: Expression, b: Expression) -> float:
        return float(((a * b).sum(-1) / np.linalg.norm(a, axis=-1) / np.linalg.norm(b, axis=-1)).mean())

    a, b = exact.windows, dense.windows
    centred = mean_of(a - a.mean(axis=(0, 1)), b - b.mean(axis=(0, 1)))
    return f"{mean_of(a, b):.3f}, centred {centred:.3f}"
