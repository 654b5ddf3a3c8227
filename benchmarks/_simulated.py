"""Tables of a simulated section: hidden spots, and sites between the spots where the truth is known."""

from __future__ import annotations

import numpy as np
from _hiding import Hiding
from _models import Options, by_name, fit_ours, mean_pcc, predict_ours
from _recovery import BASELINE_SEED, OURS, PROCESS, random_table
from _section import Grid, Section
from _table import Table, versus_best, worst_difference

from spamcaf.model.data import TrainingSection
from spamcaf.model.fitted import SpamcafModel
from spamcaf.names import Model
from spamcaf.parameters import SplitSettings
from spamcaf.scoring.predictors import DEFAULT, predict_all

BETWEEN = (*DEFAULT, str(Model.NEAREST_SPOT))


def simulated_table(section: Section, n_masks: int, options: Options) -> str:
    """Hidden spots of a section of Visium size, and its 4 x and 16 x grid against the truth."""
    head = f"## Simulated section, {len(section)} spots\n\n"
    return head + random_table([section], n_masks, options) + "\n" + grid_table(section, options)


def grid_table(section: Section, options: Options) -> str:
    """Sites between the spots, every predictor fitted to all measured spots, the panel chosen on half of them."""
    target_section, genes = all_measured(section, options)
    model = fit_ours(target_section, [], section.pitch_um, options)
    table = Table("grids against the truth, all spots measured")
    columns = section.data.var_names.get_indexer(genes)
    notes = [
        f"{grid.factor} x: {len(grid.xy_um)} sites drawn at random from those between the spots ({grid.n_sites} "
        "sites in all, spots included)."
        for grid in section.grids
    ]
    for grid in section.grids:
        _score(grid, target_section, model, section.pitch_um, grid.truth[:, columns], options, table)
    weights = " ".join(f"{weight:.2f}" for weight in model.within_section.stacking.network_weight)
    notes += [versus_best(table, OURS, BETWEEN), worst_difference(table, OURS, PROCESS)]
    return table.markdown([*notes, f"The network's share of each program: {weights}."])


def all_measured(section: Section, options: Options) -> tuple[TrainingSection, list[str]]:
    """Return all spots of a section as visible ones, and the panel that was chosen on half of them."""
    genes = Hiding.of(section, SplitSettings(), options.panel).genes
    folds = np.random.default_rng(BASELINE_SEED).permutation(len(section)) % SplitSettings().n_folds
    return TrainingSection(section.measured(genes), folds), genes


def _score(
    grid: Grid,
    target_section: TrainingSection,
    model: SpamcafModel,
    pitch_um: float,
    truth: np.ndarray,
    options: Options,
    table: Table,
) -> None:
    sites = grid.seen.sites(grid.xy_um)
    rows = by_name(predict_ours(model, target_section.measured, sites, options))
    rows |= predict_all(target_section.measured, sites, pitch_um, BASELINE_SEED, BETWEEN)
    for row, values in rows.items():
        table.add(row, f"{grid.factor} x", mean_pcc(truth, values))
