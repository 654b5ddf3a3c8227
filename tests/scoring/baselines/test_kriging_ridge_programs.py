"""The projection keeps what the programs span and drops the rest."""

from __future__ import annotations

import numpy as np

from spamcaf.scoring.baselines import mean_on_programs
from spamcaf.sections.sites import Measured, Sites


def _measured(rank: int) -> Measured:
    rng = np.random.default_rng(0)
    expression = (1.0 + rng.normal(size=(50, rank)) @ rng.normal(size=(rank, 20))).astype(np.float32)
    sites = Sites(rng.normal(size=(50, 2)), np.zeros((50, 1), np.float32), np.zeros((50, 9, 1), np.float32))
    return Measured(sites, expression, np.ones(50))


def test_expression_of_few_programs_passes_unchanged() -> None:
    measured = _measured(rank=3)
    np.testing.assert_allclose(
        mean_on_programs(measured, measured.expression, measured.expression), measured.expression, atol=1e-4
    )


def test_the_result_has_five_programs() -> None:
    measured = _measured(rank=12)
    found = mean_on_programs(measured, measured.expression, measured.expression)
    centred = found - found.mean(axis=0)
    assert np.linalg.matrix_rank(centred, tol=1e-3) == 5


def test_both_halves_count_alike() -> None:
    measured = _measured(rank=3)
    mean = np.tile(measured.expression.mean(axis=0), (50, 1))
    found = mean_on_programs(measured, measured.expression, mean)
    np.testing.assert_allclose(found, (measured.expression + mean) / 2, atol=1e-4)
