"""Table of what each part adds: one switch changed at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from _hiding import Hiding
from _models import Options, fit_ours, mean_pcc, network_alone, predict_ours
from _section import Section
from _table import Table

from spamcaf.parameters import FitSettings, NetworkSettings, SplitSettings

WHOLE, PROCESS_ALONE, NETWORK_ALONE = "spamcaf", "Gaussian process alone (program_gp)", "network alone (share set to 1)"
NO_PLACES = "pictures only: no position and no measured spot (transfer mode)"

FIT_SWITCHES: dict[str, dict[str, Any]] = {
    "squared error only (pearson_weight=0)": {"pearson_weight": 0.0},
    "loss on the fusion head only (branch_weights=0,0,0,1)": {"branch_weights": (0.0, 0.0, 0.0, 1.0)},
    "context never hidden in training (context_dropout=0)": {"context_dropout": 0.0},
    "no blind steps (transfer_step_share=0)": {"transfer_step_share": 0.0},
    "at most 5 programs (n_programs=5)": {"n_programs": 5},
    "at most 32 programs (n_programs=32)": {"n_programs": 32},
}
NETWORK_SWITCHES: dict[str, dict[str, Any]] = {
    "no measured spot as context (n_context=0)": {"n_context": 0},
    "one pooled key per branch, as the figure is drawn (one_token=true)": {"one_token": True},
    "one summary token of the section (n_summary=1)": {"n_summary": 1},
}
NO_SWITCH = (
    "target, neighbour and global branch of the network one by one, position encoding, shrinkage of programs, single "
    "kernels of the process"
)


def ablation_table(sections: Sequence[Section], n_masks: int, options: Options) -> str:
    """Random protocol, one section at a time; two masks at most."""
    n_masks = min(n_masks, 2)
    table = Table(f"ablation: random, one section at a time, masks 0-{n_masks - 1}")
    for mask in range(n_masks):
        for section in sections:
            hiding = Hiding.of(section, SplitSettings(mask=mask), options.panel)
            for row, score in _scores(hiding, options):
                table.add(row, section.name, score)
    return table.markdown([f"Parts without a switch yet: {NO_SWITCH}."])


def _scores(hiding: Hiding, options: Options) -> Iterator[tuple[str, float]]:
    target_section, held = hiding.visible(), hiding.held_out()
    model = fit_ours(target_section, [], hiding.section.pitch_um, options)
    whole = predict_ours(model, target_section.measured, held.sites, options)
    assert whole.gp is not None
    yield WHOLE, mean_pcc(held.expression, whole.mean)
    yield PROCESS_ALONE, mean_pcc(held.expression, whole.gp)
    alone = predict_ours(network_alone(model), target_section.measured, held.sites, options)
    yield NETWORK_ALONE, mean_pcc(held.expression, alone.mean)
    yield NO_PLACES, mean_pcc(held.expression, predict_ours(model, None, held.sites, options).mean)
    for row, changed in _switched(options):
        model = fit_ours(target_section, [], hiding.section.pitch_um, changed)
        yield row, mean_pcc(held.expression, predict_ours(model, target_section.measured, held.sites, changed).mean)


def _switched(options: Options) -> Iterator[tuple[str, Options]]:
    for row, change in FIT_SWITCHES.items():
        yield row, replace(options, fit=FitSettings(**{**options.fit.model_dump(), **change}))
    for row, change in NETWORK_SWITCHES.items():
        yield row, replace(options, network=NetworkSettings(**{**options.network.model_dump(), **change}))
