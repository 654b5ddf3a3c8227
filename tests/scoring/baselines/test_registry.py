"""What every baseline owes its callers, and how the registry shares work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from spamcaf.names import Model
from spamcaf.scoring.baselines import RECOVERY, SUPER_RESOLUTION, load_baseline, predict_all

PITCH_UM = 200.0
INFORMED = [
    (Model.IDW, {"place": 1.5}),
    (Model.NEAREST_SPOT, {"place": 3.0}),
    (Model.KRIGING, {"place": 1.0}),
    (Model.RIDGE, {"picture": 1.0}),
    (Model.KRIGING_RIDGE_PROGRAMS, {"place": 0.7, "picture": 0.7}),
]


@pytest.mark.parametrize(("name", "sources"), INFORMED)
def test_beats_the_gene_mean_where_there_is_something_to_learn(name, sources, make_case: Callable) -> None:
    case = make_case(**sources)
    found = predict_all(case.measured, case.hidden, PITCH_UM, 0, names=[Model.GENE_MEAN, name])
    error = {key: np.mean((values - case.truth) ** 2) for key, values in found.items()}
    assert error[name] < 0.8 * error[Model.GENE_MEAN]


@pytest.mark.parametrize("name", [Model.KRIGING, Model.RIDGE, Model.KRIGING_RIDGE_PROGRAMS])
def test_is_no_worse_than_the_gene_mean_on_pure_noise(name, make_case: Callable) -> None:
    case = make_case()
    found = predict_all(case.measured, case.hidden, PITCH_UM, 0, names=[Model.GENE_MEAN, name])
    error = {key: np.mean((values - case.truth) ** 2) for key, values in found.items()}
    assert error[name] < 1.03 * error[Model.GENE_MEAN]


@pytest.mark.parametrize("n_train", [3, 5])
def test_tiny_sections_with_constant_genes_stay_finite(n_train: int, make_case: Callable) -> None:
    case = make_case(place=1.0, picture=1.0, n_train=n_train, side=4)
    case.measured.expression[:, :3] = 0.0
    case.measured.expression[:, 3] = 1.5
    found = predict_all(case.measured, case.hidden, PITCH_UM, 0, names=SUPER_RESOLUTION)
    for values in found.values():
        assert values.shape == case.truth.shape
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values[:, :3], 0.0, atol=1e-5)
        np.testing.assert_allclose(values[:, 3], 1.5, atol=1e-5)


def test_nothing_varies_at_all(make_case: Callable) -> None:
    case = make_case(n_train=20, side=6)
    flat = replace(case.measured, expression=np.ones_like(case.measured.expression))
    for values in predict_all(flat, case.hidden, PITCH_UM, 0, names=SUPER_RESOLUTION).values():
        np.testing.assert_allclose(values, 1.0, atol=1e-6)


def test_one_gene(make_case: Callable) -> None:
    case = make_case(place=1.0, picture=1.0, n_genes=1, n_train=30, side=8)
    for values in predict_all(case.measured, case.hidden, PITCH_UM, 0, names=SUPER_RESOLUTION).values():
        assert values.shape == (len(case.hidden), 1)


def test_shared_parts_equal_the_baselines_alone(make_case: Callable) -> None:
    case = make_case(place=1.0, picture=1.0)
    together = predict_all(case.measured, case.hidden, PITCH_UM, 5)
    assert list(together) == list(RECOVERY)
    for name in RECOVERY:
        alone = load_baseline(name)(case.measured, case.hidden, PITCH_UM, 5)
        np.testing.assert_array_equal(together[name], alone)


def test_kriging_and_ridge_are_fitted_once(make_case: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from spamcaf.scoring import baselines

    calls = []
    for module in (baselines, baselines):
        monkeypatch.setattr(module, "predict", _counted(module.predict, module.__name__, calls))
    case = make_case(place=1.0, n_train=30, side=8)
    found = predict_all(case.measured, case.hidden, PITCH_UM, 0, names=[Model.KRIGING_RIDGE_PROGRAMS, Model.RIDGE])
    assert sorted(calls) == [baselines.__name__, baselines.__name__]
    assert list(found) == [Model.KRIGING_RIDGE_PROGRAMS, Model.RIDGE]


def _counted(predict: Callable, name: str, calls: list[str]) -> Callable:
    def wrapped(*args: object) -> object:
        calls.append(name)
        return predict(*args)

    return wrapped


def test_unknown_name_lists_the_known_ones(make_case: Callable) -> None:
    case = make_case(n_train=30, side=8)
    with pytest.raises(ValueError, match=r"Unknown baseline 'os'.*kriging"):
        predict_all(case.measured, case.hidden, PITCH_UM, 0, names=["os"])


def test_too_few_spots_is_an_error(make_case: Callable) -> None:
    case = make_case(n_train=2, side=4)
    with pytest.raises(ValueError, match="Found: 2 visible spots"):
        predict_all(case.measured, case.hidden, PITCH_UM, 0)


def test_importing_the_registry_loads_no_learner() -> None:
    code = "import sys, spamcaf.scoring.baselines; print('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
