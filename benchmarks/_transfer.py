"""Table of sections that were never measured: learned from the others, seen as pictures alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from _hiding import centred
from _models import Expression, Options, by_name, coverage_90, fit_ours, mean_pcc, predict_ours
from _recovery import BASELINE_SEED, OURS, PROCESS
from _rgb import rgb_ridge
from _section import Section
from _table import Table, ratios, versus_best, worst_difference

from spamcaf.model.data import TrainingSection
from spamcaf.names import Model
from spamcaf.scoring import baselines
from spamcaf.sections.gene_names import is_shared, stack_spots, take_genes
from spamcaf.sections.panel import choose_gene_panel
from spamcaf.sections.sites import stack

RIDGE, MEAN = str(Model.RIDGE), str(Model.GENE_MEAN)
RIDGE_CENTRED = "ridge, each section centred"
RGB, RGB_CENTRED = "ridge on RGB statistics", "ridge on RGB statistics, each section centred"


def transfer_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """Leave one section out; `n_masks` has no say. The folds of the fit are the sections."""
    table, notes = Table("leave one section out, pictures only"), Table("spamcaf: interval", 3)
    for section in sections:
        others = [other for other in sections if other is not section]
        genes = _panel(section, others, options)
        truth = section.measured(genes)
        training = [
            TrainingSection(other.measured(genes), np.full(len(other), number))
            if len(others) > 1
            else TrainingSection(other.measured(genes), np.arange(len(other)) % 5)
            for number, other in enumerate(others)
        ]
        predicted = predict_ours(fit_ours(None, training, section.pitch_um, options), None, truth.sites, options)
        for row, values in (by_name(predicted) | _baselines(section, others, genes)).items():
            table.add(row, section.name, mean_pcc(truth.expression, values))
        notes.add("coverage of the 90 % interval", section.name, coverage_90(truth.expression, predicted))
    against = [
        f"{OURS} / {row}: mean {table.mean(OURS) / table.mean(row):.3f} x, "
        f"{ratios(table, OURS, lambda column, row=row: table.value(row, column), table.columns)}."  # type: ignore[misc]
        for row in (RIDGE, RGB)
    ]
    said = [
        *against,
        versus_best(table, OURS, (RIDGE, RIDGE_CENTRED, RGB, RGB_CENTRED, MEAN)),
        worst_difference(table, OURS, PROCESS),
    ]
    return f"{table.markdown(said)}\n{notes.markdown()}"


def _panel(section: Section, others: Sequence[Section], options: Options) -> list[str]:
    """Choose genes on the other sections, among those that all sections have, as the pipeline does."""
    sections = [other.data for other in others]
    shared = section.data[:, is_shared(section.data, sections)]
    training = stack_spots([take_genes(lot, shared.var) for lot in sections])
    return [str(gene) for gene in choose_gene_panel(training, options.panel)["gene"]]


def _baselines(section: Section, others: Sequence[Section], genes: list[str]) -> dict[str, Expression]:
    sections, truth = [other.measured(genes) for other in others], section.measured(genes)
    rgb = [other.seen.rgb for other in others]
    rgb_of_each = np.concatenate([values - values.mean(axis=0) for values in rgb])
    whole, apart = stack(sections), stack([centred(lot) for lot in sections])
    at, pitch_um = truth.sites, section.pitch_um
    return {
        RIDGE: baselines.ridge(whole, at, pitch_um, BASELINE_SEED),
        RIDGE_CENTRED: baselines.ridge(apart, centred(truth).sites, pitch_um, BASELINE_SEED),
        RGB: rgb_ridge(np.concatenate(rgb), whole.expression, section.seen.rgb),
        RGB_CENTRED: rgb_ridge(rgb_of_each, apart.expression, section.seen.rgb - section.seen.rgb.mean(axis=0)),
        MEAN: np.repeat(whole.expression.mean(axis=0, keepdims=True), len(truth), axis=0),
    }
