"""Tables of hidden spots: single ones at random, on one section or on several pooled, and whole blocks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from _hiding import Hiding
from _models import Options, by_name, coverage_90, fit_ours, fit_predict_released, mean_pcc, predict_ours
from _section import Section
from _table import Table, ratios, versus_best, worst_difference

from spamcaf.names import Model
from spamcaf.parameters import SplitSettings
from spamcaf.scoring.predictors import DEFAULT, predict_all

BASELINES = tuple(map(str, DEFAULT))
OURS, PROCESS, REPLICA = str(Model.SPAMCAF), str(Model.PROGRAM_GP), str(Model.RELEASED)
BASELINE_SEED = 0


def random_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """One section at a time, half of the spots hidden at random."""
    return _random(sections, n_masks, options, is_pooled=False)


def pooled_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """The same, learned from the visible halves of all sections."""
    return _random(sections, n_masks, options, is_pooled=True)


def _random(sections: Sequence[Section], n_masks: int, options: Options, *, is_pooled: bool) -> str:
    how = "visible halves of all sections pooled" if is_pooled else "one section at a time"
    table = Table(f"random, {how}, masks 0-{n_masks - 1}")
    notes = Table("spamcaf: interval and ceiling", 3)
    for mask in range(n_masks):
        hidings = [Hiding.of(section, SplitSettings(mask=mask), options.panel) for section in sections]
        for hiding in hidings:
            others = [other for other in hidings if other is not hiding] if is_pooled else []
            _recover(hiding, others, options, table, notes, hiding.section.name)
    return _judged(table, notes)


def lattice_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """One section at a time, every second row and column visible, each phase once; `n_masks` has no say."""
    table, notes = (
        Table("lattice, every 2, one section at a time, masks 0-3"),
        Table("spamcaf: interval and ceiling", 3),
    )
    for mask in range(4):
        for section in sections:
            split = SplitSettings(protocol="lattice", every=2, mask=mask)
            _recover(Hiding.of(section, split, options.panel), [], options, table, notes, section.name)
    return _judged(table, notes)


def block_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """One section at a time, whole blocks hidden; `n_masks` has no say, each block is hidden once."""
    return _blocks(sections, options, "halves", 2) + "\n" + _blocks(sections, options, "quadrants", 4)


def _blocks(sections: Sequence[Section], options: Options, name: str, n_blocks: Literal[2, 4]) -> str:
    table = Table(f"block, {name}, one section at a time, masks 0-{n_blocks - 1}")
    notes = Table("spamcaf: interval and ceiling", 3)
    for mask in range(n_blocks):
        split = SplitSettings(protocol="block", n_blocks=n_blocks, mask=mask)
        for section in sections:
            _recover(Hiding.of(section, split, options.panel), [], options, table, notes, section.name)
    return _judged(table, notes)


def _recover(
    hiding: Hiding, others: Sequence[Hiding], options: Options, table: Table, notes: Table, column: str
) -> None:
    """Fit and score every predictor on one hiding."""
    target_section, held = hiding.visible(), hiding.held_out()
    pooled = [other.visible(hiding) for other in others]
    pitch_um = hiding.section.pitch_um
    predicted = predict_ours(
        fit_ours(target_section, pooled, pitch_um, options), target_section.measured, held.sites, options
    )
    baselines = predict_all(target_section.measured, held.sites, pitch_um, BASELINE_SEED)
    for row, values in (by_name(predicted) | baselines).items():
        table.add(row, column, mean_pcc(held.expression, values))
    ceiling = hiding.ceiling()
    notes.add("coverage of the 90 % interval", column, coverage_90(held.expression, predicted))
    notes.add("noise ceiling, mean PCC", column, ceiling)
    notes.add("share of the ceiling reached", column, mean_pcc(held.expression, predicted.mean) / ceiling)


def _judged(table: Table, notes: Table) -> str:
    said = [versus_best(table, OURS, BASELINES), worst_difference(table, OURS, PROCESS)]
    return f"{table.markdown(said)}\n{notes.markdown()}"


def released_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """Mask 0 alone, ours beside the replica of the released network; `n_masks` has no say."""
    table = Table(f"random, mask 0 only, beside `released` ({options.released.epochs} epochs)")
    for section in sections:
        hiding = Hiding.of(section, SplitSettings(mask=0), options.panel)
        target_section, held = hiding.visible(), hiding.held_out()
        model = fit_ours(target_section, [], section.pitch_um, options)
        rows = by_name(predict_ours(model, target_section.measured, held.sites, options))
        rows[REPLICA] = fit_predict_released(target_section, held.sites, options)
        for row, values in rows.items():
            table.add(row, section.name, mean_pcc(held.expression, values))
    return table.markdown(
        [
            f"spamcaf / released: mean {table.mean(OURS) / table.mean(REPLICA):.2f} x, "
            f"{ratios(table, OURS, lambda column: table.value(REPLICA, column), table.columns)}."
        ]
    )
