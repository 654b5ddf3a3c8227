"""Every baseline against hand-made arithmetic or a section whose truth is known, and how they share work."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from spamcaf.names import Model
from spamcaf.scoring import baselines
from spamcaf.scoring.predictors import DEFAULT, able, predict_all
from spamcaf.sections.sites import Measured, Sites

if TYPE_CHECKING:
    from conftest import Case

PITCH_UM = 200.0
BETWEEN = [*DEFAULT, Model.NEAREST_SPOT]
INFORMED = [
    (Model.IDW, {"place": 1.5}),
    (Model.NEAREST_SPOT, {"place": 3.0}),
    (Model.KRIGING, {"place": 1.0}),
    (Model.RIDGE, {"image": 1.0}),
    (Model.KRIGING_RIDGE_PROGRAMS, {"place": 0.7, "image": 0.7}),
    (Model.RIDGE_KRIGING, {"place": 0.7, "image": 0.7}),
    (Model.RGB_RIDGE, {"image": 1.0}),
    (Model.BOOSTED_PROGRAMS, {"image": 1.0}),
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
    case = make_case(place=1.0, image=1.0, n_train=n_train, side=4)
    case.measured.expression[:, :3] = 0.0
    case.measured.expression[:, 3] = 1.5
    found = predict_all(case.measured, case.hidden, PITCH_UM, 0, names=BETWEEN)
    for values in found.values():
        assert values.shape == case.truth.shape
        assert values.dtype == np.float32
        assert np.isfinite(values).all()
        np.testing.assert_allclose(values[:, :3], 0.0, atol=1e-5)
        np.testing.assert_allclose(values[:, 3], 1.5, atol=1e-5)


def test_nothing_varies_at_all(make_case: Callable) -> None:
    case = make_case(n_train=20, side=6)
    flat = replace(case.measured, expression=np.ones_like(case.measured.expression))
    for values in predict_all(flat, case.hidden, PITCH_UM, 0, names=BETWEEN).values():
        np.testing.assert_allclose(values, 1.0, atol=1e-6)


def test_one_gene(make_case: Callable) -> None:
    case = make_case(place=1.0, image=1.0, n_genes=1, n_train=30, side=8)
    for values in predict_all(case.measured, case.hidden, PITCH_UM, 0, names=BETWEEN).values():
        assert values.shape == (len(case.hidden), 1)


def test_shared_parts_equal_the_baselines_alone(make_case: Callable) -> None:
    case = make_case(place=1.0, image=1.0)
    together = predict_all(case.measured, case.hidden, PITCH_UM, 5)
    assert list(together) == list(DEFAULT)
    for name in DEFAULT:
        alone = getattr(baselines, name)(case.measured, case.hidden, PITCH_UM, 5)
        np.testing.assert_array_equal(together[name], alone)


def test_kriging_and_ridge_are_fitted_once(make_case: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    for name in (Model.KRIGING, Model.RIDGE):
        monkeypatch.setattr(baselines, name, _counted(getattr(baselines, name), name, calls))
    case = make_case(place=1.0, n_train=30, side=8)
    found = predict_all(case.measured, case.hidden, PITCH_UM, 0, names=[Model.KRIGING_RIDGE_PROGRAMS, Model.RIDGE])
    assert sorted(calls) == [Model.KRIGING, Model.RIDGE]
    assert list(found) == [Model.KRIGING_RIDGE_PROGRAMS, Model.RIDGE]


def _counted(predict: Callable, name: str, calls: list[str]) -> Callable:
    def wrapped(*args: object) -> object:
        calls.append(name)
        return predict(*args)

    return wrapped


def test_unknown_name_lists_the_known_ones(make_case: Callable) -> None:
    case = make_case(n_train=30, side=8)
    with pytest.raises(ValueError, match=r"Unknown predictor 'os'.*kriging"):
        predict_all(case.measured, case.hidden, PITCH_UM, 0, names=["os"])


def test_too_few_spots_is_an_error(make_case: Callable) -> None:
    case = make_case(n_train=2, side=4)
    with pytest.raises(ValueError, match="Found: 2 visible spots"):
        predict_all(case.measured, case.hidden, PITCH_UM, 0)


def test_importing_the_registry_loads_no_learner() -> None:
    code = "import sys, spamcaf.scoring.predictors as p; print({'sklearn', 'torch', p.__name__} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'spamcaf.scoring.predictors'}"


def _sites(xy_um: list[tuple[float, float]]) -> Sites:
    n = len(xy_um)
    return Sites(np.asarray(xy_um, dtype=float), np.zeros((n, 1), np.float32), np.zeros((n, 9, 1), np.float32))


def test_weights_fall_with_the_square_of_the_distance() -> None:
    measured = Measured(_sites([(0, 0), (300, 0)]), np.array([[1.0], [6.0]], np.float32), np.ones(2))
    found = baselines.idw(measured, _sites([(100, 0)]), 100.0, 0)
    assert found[0, 0] == pytest.approx((1.0 * 1 + 6.0 / 4) / (1 + 1 / 4))


def test_a_site_on_a_spot_takes_its_value() -> None:
    measured = Measured(_sites([(0, 0), (100, 0), (200, 0)]), np.array([[1.0], [6.0], [3.0]], np.float32), np.ones(3))
    assert baselines.idw(measured, _sites([(100, 0)]), 100.0, 0)[0, 0] == pytest.approx(6.0, abs=1e-4)


def test_only_the_eight_nearest_count() -> None:
    ring = [(100 * np.cos(a), 100 * np.sin(a)) for a in np.arange(8) * np.pi / 4]
    values = np.r_[np.ones(8), 1000.0].astype(np.float32)[:, None]
    measured = Measured(_sites([*ring, (150, 0)]), values, np.ones(9))
    assert baselines.idw(measured, _sites([(0, 0)]), 100.0, 0)[0, 0] == pytest.approx(1.0)


def test_is_deterministic(make_case: Callable) -> None:
    case = make_case(place=1.0, n_genes=100)
    first, second = (baselines.kriging(case.measured, case.hidden, PITCH_UM, 1) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_does_not_depend_on_origin_or_unit(make_case: Callable) -> None:
    case = make_case(place=1.0)
    sites = type(case.hidden)
    far = Measured(
        sites(case.measured.sites.xy_um * 2 + 1e5, case.measured.sites.target, case.measured.sites.neighbours),
        case.measured.expression,
        case.measured.depth,
    )
    moved = sites(case.hidden.xy_um * 2 + 1e5, case.hidden.target, case.hidden.neighbours)
    here = baselines.kriging(case.measured, case.hidden, PITCH_UM, 1)
    np.testing.assert_allclose(baselines.kriging(far, moved, 2 * PITCH_UM, 1), here, atol=1e-3)


def test_shrinks_noise_that_interpolation_repeats(make_case: Callable) -> None:
    case = make_case(place=0.0)
    prediction = baselines.kriging(case.measured, case.hidden, PITCH_UM, 0)
    assert prediction.var(axis=0).mean() < 0.05 * case.measured.expression.var(axis=0).mean()


def test_hyper_parameters_are_those_of_all_spots_up_to_500(make_case: Callable) -> None:
    case = make_case(place=1.0)
    start = ConstantKernel(0.3, (1e-4, 1e2)) * Matern(3.0, (0.5, 50.0), nu=1.5) + WhiteKernel(0.7, (1e-3, 1e1))
    mean = case.measured.expression.mean(axis=0, dtype=np.float64)
    residual = case.measured.expression - mean
    process = GaussianProcessRegressor(start).fit(case.measured.sites.xy_um / PITCH_UM, residual / residual.std())
    expected = mean + residual.std() * process.predict(case.hidden.xy_um / PITCH_UM)
    found = baselines.kriging(case.measured, case.hidden, PITCH_UM, 0)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_sketch_keeps_the_spots_covariance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(5, 2)) @ rng.normal(size=(2, 500))
    sketches = np.mean([_gram(baselines._sketch(values, np.random.default_rng(seed))) for seed in range(60)], axis=0)
    np.testing.assert_allclose(sketches, _gram(values), atol=0.1 * np.abs(_gram(values)).max())


def _gram(values: np.ndarray) -> np.ndarray:
    return values @ values.T / values.shape[1]


def _with_channels(sites: Sites, channels: np.ndarray) -> Sites:
    neighbours = np.concatenate([sites.neighbours, channels.astype(np.float32)], axis=2)
    return Sites(sites.xy_um, neighbours[:, 4], neighbours)


def test_nearly_dead_channels_do_not_destroy_it(make_case: Callable) -> None:
    case = make_case(image=1.0, n_train=60)
    rng = np.random.default_rng(0)

    def add_dead(sites: Sites, outlier: float) -> Sites:
        dead = 1e-6 * rng.normal(size=(len(sites), 9, 400))
        dead[0] += outlier  # a channel that is 0 in training and large once afterwards
        return _with_channels(sites, dead)

    measured = Measured(add_dead(case.measured.sites, 0.0), case.measured.expression, case.measured.depth)
    clean = np.mean((baselines.ridge(case.measured, case.hidden, PITCH_UM, 0) - case.truth) ** 2)
    dirty = np.mean((baselines.ridge(measured, add_dead(case.hidden, 1e-2), PITCH_UM, 0) - case.truth) ** 2)
    assert dirty < 1.05 * clean


def test_scale_of_the_features_does_not_matter(make_case: Callable) -> None:
    case = make_case(image=1.0, n_train=60)

    def scaled(sites: Sites) -> Sites:
        return Sites(sites.xy_um, 1000 * sites.target + 5, 1000 * sites.neighbours + 5)

    large = Measured(scaled(case.measured.sites), case.measured.expression, case.measured.depth)
    expected = baselines.ridge(case.measured, case.hidden, PITCH_UM, 0)
    np.testing.assert_allclose(baselines.ridge(large, scaled(case.hidden), PITCH_UM, 0), expected, atol=1e-2)


def test_features_without_variation_give_the_mean(make_case: Callable) -> None:
    case = make_case(image=1.0, n_train=60)
    blank = Sites(case.measured.sites.xy_um, np.ones((60, 4), np.float32), np.ones((60, 9, 4), np.float32))
    n = len(case.hidden)
    hidden = Sites(case.hidden.xy_um, np.ones((n, 4), np.float32), np.ones((n, 9, 4), np.float32))
    found = baselines.ridge(Measured(blank, case.measured.expression, case.measured.depth), hidden, PITCH_UM, 0)
    np.testing.assert_allclose(found, np.tile(case.measured.expression.mean(axis=0), (n, 1)), atol=1e-5)


def _with_depth(case: Case, log_depth: np.ndarray, n_genes: int = 30) -> Measured:
    """Return the measured spots with this log depth, of which every gene is a noiseless line."""
    rng = np.random.default_rng(4)
    expression = rng.normal(size=n_genes) + np.log(np.maximum(np.exp(log_depth), 50))[:, None] * rng.normal(
        size=n_genes
    )
    return Measured(case.measured.sites, expression.astype(np.float32), np.exp(log_depth))


def _depth_of(case: Case, measured: Measured, *predict: Callable) -> np.ndarray:
    """Return the mean of the predictions of log depth (site, 1) by these baselines."""
    log_depth = np.log(np.maximum(measured.depth, 50)).astype(np.float32)[:, None]
    depths = Measured(measured.sites, log_depth, measured.depth)
    return np.mean([one(depths, case.hidden, PITCH_UM, 0) for one in predict], axis=0)


def _smooth_depth(case: Case) -> np.ndarray:
    return 7 + np.sin(case.measured.sites.xy_um[:, 0] / 700) + 2 * (case.measured.sites.target[:, 0] > 0)


def test_each_gene_is_a_line_on_the_predicted_log_depth(make_case: Callable) -> None:
    case = make_case()
    measured = _with_depth(case, _smooth_depth(case))
    found = baselines.depth_only(measured, case.hidden, PITCH_UM, 0)
    log_depth = _depth_of(case, measured, baselines.kriging, baselines.ridge)
    for gene in range(3):
        slope, offset = np.polyfit(np.log(measured.depth), measured.expression[:, gene].astype(float), 1)
        np.testing.assert_allclose(found[:, gene], offset + slope * log_depth[:, 0], atol=1e-4)
    assert np.linalg.matrix_rank(found - found.mean(axis=0), tol=1e-2) == 1


def test_depths_below_50_are_taken_as_50(make_case: Callable) -> None:
    case = make_case()
    log_depth = _smooth_depth(case) - 3.5
    measured = _with_depth(case, log_depth)
    assert 5 < (measured.depth < 50).sum() < 85
    floored = replace(measured, depth=np.maximum(measured.depth, 50))
    found = [baselines.depth_only(each, case.hidden, PITCH_UM, 0) for each in (measured, floored)]
    np.testing.assert_array_equal(*found)


def test_equal_depths_give_the_gene_mean(make_case: Callable) -> None:
    case = make_case(place=1.0)
    found = baselines.depth_only(case.measured, case.hidden, PITCH_UM, 0)
    np.testing.assert_array_equal(found, baselines.gene_mean(case.measured, case.hidden, PITCH_UM, 0))


def test_depth_of_another_section_is_predicted_without_positions(make_case: Callable) -> None:
    case = make_case()
    measured = _with_depth(case, _smooth_depth(case))
    found = predict_all(measured, case.hidden, PITCH_UM, 0, able(DEFAULT, new_section=True), positions=False)
    assert list(found) == ["gene_mean", "ridge", "depth_only"]
    log_depth = _depth_of(case, measured, baselines.ridge)[:, 0]
    slope, offset = np.polyfit(np.log(measured.depth), measured.expression[:, 0].astype(float), 1)
    np.testing.assert_allclose(found["depth_only"][:, 0], offset + slope * log_depth, atol=1e-4)


def _measured(rank: int) -> Measured:
    rng = np.random.default_rng(0)
    expression = (1.0 + rng.normal(size=(50, rank)) @ rng.normal(size=(rank, 20))).astype(np.float32)
    sites = Sites(rng.normal(size=(50, 2)), np.zeros((50, 1), np.float32), np.zeros((50, 9, 1), np.float32))
    return Measured(sites, expression, np.ones(50))


def _projected(measured: Measured, regressed: np.ndarray) -> np.ndarray:
    """Return the combined baseline where kriging found the expression itself, and ridge `regressed`."""
    known = (measured.expression, regressed)
    return baselines.kriging_ridge_programs(measured, measured.sites, PITCH_UM, 0, *known)


def test_expression_of_few_programs_passes_unchanged() -> None:
    measured = _measured(rank=3)
    np.testing.assert_allclose(_projected(measured, measured.expression), measured.expression, atol=1e-4)


def test_the_result_has_five_programs() -> None:
    measured = _measured(rank=12)
    found = _projected(measured, measured.expression)
    centred = found - found.mean(axis=0)
    assert np.linalg.matrix_rank(centred, tol=1e-3) == 5


def test_both_halves_count_alike() -> None:
    measured = _measured(rank=3)
    mean = np.tile(measured.expression.mean(axis=0), (50, 1))
    found = _projected(measured, mean)
    np.testing.assert_allclose(found, (measured.expression + mean) / 2, atol=1e-4)


def test_kriging_from_the_nearest_spots_is_close_to_that_from_all(
    make_case: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(place=1.0)
    exact = baselines.kriging(case.measured, case.hidden, PITCH_UM, 0)
    monkeypatch.setattr(baselines, "_MAX_EXACT_SPOTS", 1)
    near = baselines.kriging(case.measured, case.hidden, PITCH_UM, 0)
    monkeypatch.setattr(baselines, "_N_NEAREST", len(case.measured))
    np.testing.assert_allclose(baselines.kriging(case.measured, case.hidden, PITCH_UM, 0), exact, atol=1e-4)
    assert not np.array_equal(near, exact)
    assert np.square(near - exact).mean() < 2e-3 * exact.var(axis=0).mean()


def test_components_of_images_may_be_those_of_a_part_of_the_spots(
    make_case: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = make_case(image=1.0)
    whole = baselines.ridge(case.measured, case.hidden, PITCH_UM, 0)
    monkeypatch.setattr(baselines, "IN_MEMORY", len(case.measured) // 2)
    part = baselines.ridge(case.measured, case.hidden, PITCH_UM, 0)
    assert not np.array_equal(part, whole)
    assert np.square(part - case.truth).mean() < 1.1 * np.square(whole - case.truth).mean()
