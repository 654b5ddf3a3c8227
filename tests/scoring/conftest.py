"""A small scored run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from spamcaf.scoring.scores import HiddenSpots, Setting, SuperResolution, build_scores, score_super_resolution

N_SPOTS, N_GENES = 120, 40


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
