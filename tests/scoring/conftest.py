"""A small scored run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from spamcaf.scoring.scores import HiddenSpots, Setting, SuperResolution, build_scores, score_super_resolution
from spamcaf.sections.sites import Measured, Sites

N_SPOTS, N_GENES = 120, 40
PITCH_UM = 200.0


@pytest.fixture
def run() -> dict[str, Any]:
    """Return the arguments of `build_scores` for predictions of known order: spamcaf, then idw, then gene_mean."""
    rng = np.random.default_rng(0)
    xy_um = 100.0 * np.stack(np.meshgrid(np.arange(12), np.arange(10)), axis=-1).reshape(-1, 2)
    signal = np.sin(xy_um[:, :1] / 300) * rng.uniform(0.5, 1.0, size=(1, N_GENES))
    counts = rng.poisson(10 * np.exp(signal))
    depth = np.full(N_SPOTS, 10_000)
    truth = np.log1p(counts).astype(np.float32)
    genes = [f"g{i}" for i in range(N_GENES)]
    predictions = {
        "spamcaf": (2.3 + signal).astype(np.float32),
        "idw": (2.3 + signal + rng.normal(size=signal.shape)).astype(np.float32),
        "gene_mean": np.tile(truth.mean(axis=0), (N_SPOTS, 1)),
    }
    return {
        "setting": Setting("s1", "spamcaf", "random", 110, 0, (), "square", 0),
        "hidden": HiddenSpots(genes, xy_um, truth, counts, depth, (xy_um / 100).astype(int)),
        "predictions": predictions,
        "sd": np.full_like(truth, 0.35),
        "visible": np.log1p(rng.poisson(10 * np.exp(signal))).astype(np.float32),
    }


@pytest.fixture
def super_resolution(run: dict[str, Any]) -> SuperResolution:
    """Return the hidden spots as sites between the spots, with one baseline more."""
    hidden: HiddenSpots = run["hidden"]
    predictions = {**run["predictions"], "nearest_spot": hidden.expression[::-1]}
    return SuperResolution(4, hidden.genes, hidden.xy_um, hidden.expression, predictions, hidden.index)


@pytest.fixture
def scored(run: dict[str, Any], super_resolution: SuperResolution) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the record of scores, super-resolution included, and the gene scores of `run`."""
    scores, gene_scores = build_scores(**run)
    return {**scores, "super_resolution": score_super_resolution(super_resolution, "spamcaf", "square")}, gene_scores


class Case(NamedTuple):
    """Measured spots, hidden sites and the truth there."""

    measured: Measured
    hidden: Sites
    truth: NDArray[np.float32]


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Return a maker of cases; `place` and `image` are the strengths of the two sources of expression."""

    def make(
        place: float = 0.0,
        image: float = 0.0,
        side: int = 12,
        n_genes: int = 30,
        n_train: int = 90,
        base: float = 2.0,
    ) -> Case:
        rng = np.random.default_rng(3)
        xy_um = PITCH_UM * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)
        seen = rng.normal(size=(len(xy_um), 3))
        neighbours = seen[:, None, :] @ rng.normal(size=(3, 40)) + 0.3 * rng.normal(size=(len(xy_um), 9, 40))
        waves = np.stack([np.sin(xy_um[:, 0] / 700), np.cos(xy_um[:, 1] / 900)], axis=1)
        signal = place * waves @ rng.normal(size=(2, n_genes)) + image * seen @ rng.normal(size=(3, n_genes))
        expression = (base + signal + rng.normal(size=signal.shape)).astype(np.float32)
        colours = np.tile(seen, 18) + 0.3 * rng.normal(size=(len(xy_um), 54))
        images = (part.astype(np.float32) for part in (neighbours[:, 4], neighbours))
        sites = Sites(xy_um, *images, colours=colours.astype(np.float32))
        order = rng.permutation(len(xy_um))
        train, hidden = order[:n_train], order[n_train:]
        measured = Measured(sites, expression, np.full(len(xy_um), 1e4))
        return Case(measured.at(train), sites.at(hidden), expression[hidden])

    return make
