"""Baselines and peers in one table: complete, deterministic, able to learn, and blind to what is hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.histology.backbone import BackboneIdentity
from spamcaf.histology.features import FeatureKey, Features
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.names import COMPARED_MODELS, PEERS, Model, display_name
from spamcaf.parameters import ComputeSettings, EvaluationSettings, TileSettings
from spamcaf.pipelines.evaluation import nodes
from spamcaf.reporting.prediction import named_layers
from spamcaf.scoring import baselines, predictors
from spamcaf.scoring.metrics import score_genes
from spamcaf.scoring.predictors import DEFAULT, PREDICTORS, able, predict_all
from spamcaf.sections.panel import normalise_expression

PITCH_UM = 200.0
COMPUTE = ComputeSettings(device="cpu")
SHORT = {"stage": 60, "histogene": 20, "triplex": 30}
LEARNS_FROM = {
    Model.HEST_PROBE: {"image": 2.0},
    Model.BLEEP: {"image": 2.0},
    Model.STAGE: {"place": 3.0},
    Model.ST_NET: {"image": 2.0},
    Model.HISTOGENE: {"image": 2.0},
    Model.TRIPLEX: {"image": 2.0},
}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train the slow peers for few epochs."""
    for name, epochs in SHORT.items():
        monkeypatch.setattr(f"spamcaf.peers.{name}.EPOCHS", epochs)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train every peer for two epochs: enough where it need not have learned."""
    for name in ("bleep", "st_net", *SHORT):
        monkeypatch.setattr(f"spamcaf.peers.{name}.EPOCHS", 2)


def correlation(truth: np.ndarray, found: np.ndarray) -> float:
    return float(score_genes(truth, found, [f"g{i}" for i in range(truth.shape[1])])["pearson"].mean())


def test_every_name_has_a_predictor_and_every_predictor_a_name() -> None:
    assert set(PREDICTORS) == set(COMPARED_MODELS)
    assert all(callable(resolve_name(predictor.function)) for predictor in PREDICTORS.values())
    assert len({display_name(name) for name in PREDICTORS}) == len(PREDICTORS)
    assert {name for name, p in PREDICTORS.items() if p.function.startswith("spamcaf.peers.")} == set(PEERS)
    assert all(p.description and p.training and p.sees for p in PREDICTORS.values())


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", PEERS)
def test_a_peer_learns_a_planted_relation_and_repeats_itself(name: Model, make_case: Callable) -> None:
    case = make_case(**LEARNS_FROM[name], base=8.0)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    first, second = (
        predict_all(case.measured, case.hidden, PITCH_UM, 3, [name], compute=COMPUTE)[name] for _ in range(2)
    )
    assert first.shape == case.truth.shape and first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    assert correlation(case.truth, first) > 0.35
    if name != Model.HEST_PROBE:  # it has no intercept
        mean = case.measured.expression.mean(axis=0)
        assert np.mean((first - case.truth) ** 2) < 0.85 * np.mean((mean - case.truth) ** 2)
    torch.testing.assert_close(torch.get_rng_state(), state, rtol=0, atol=0)
    assert torch.get_num_threads() == threads


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("n_train", [3, 5])
def test_tiny_sections_stay_finite(n_train: int, make_case: Callable) -> None:
    case = make_case(image=1.0, n_train=n_train, side=4)
    case.measured.expression[:, :3] = 0.0
    for name, values in predict_all(case.measured, case.hidden, PITCH_UM, 0, COMPARED_MODELS).items():
        assert values.shape == case.truth.shape, name
        assert np.isfinite(values).all(), name


def test_one_gene_and_features_that_do_not_vary(make_case: Callable, quick: None) -> None:
    case = make_case(place=1.0, n_genes=1, n_train=30, side=8)
    blank = [replace(part, target=0 * part.target, neighbours=0 * part.neighbours, colours=0 * part.colours)
             for part in (case.measured.sites, case.hidden)]  # fmt: skip
    found = predict_all(replace(case.measured, sites=blank[0]), blank[1], PITCH_UM, 0, COMPARED_MODELS)
    assert all(values.shape == case.truth.shape and np.isfinite(values).all() for values in found.values())


def test_the_median_has_the_least_absolute_error_of_all_constants(make_case: Callable) -> None:
    case = make_case()
    skewed = replace(case.measured, expression=np.maximum(case.measured.expression - 2.5, 0))
    found = predict_all(skewed, case.hidden, PITCH_UM, 0, [Model.GENE_MEDIAN, Model.GENE_MEAN])
    error = {name: np.abs(skewed.expression - values[0]).mean() for name, values in found.items()}
    assert error["gene_median"] < 0.9 * error["gene_mean"]
    assert (np.ptp(found["gene_median"], axis=0) == 0).all()


def test_ridge_kriging_adds_kriging_of_what_ridge_leaves(make_case: Callable) -> None:
    case = make_case(place=1.5, image=1.0)
    both = baselines.ridge_kriging(case.measured, case.hidden, PITCH_UM, 0)
    alone = [predict(case.measured, case.hidden, PITCH_UM, 0) for predict in (baselines.ridge, baselines.kriging)]
    errors = [np.mean((values - case.truth) ** 2) for values in (both, *alone)]
    assert errors[0] < 0.9 * min(errors[1:])


def test_boosted_trees_stay_within_their_programs(make_case: Callable) -> None:
    case = make_case(image=2.0)
    found = baselines.boosted_programs(case.measured, case.hidden, PITCH_UM, 0)
    mean = case.measured.expression.mean(axis=0)
    assert np.linalg.matrix_rank(found - mean, tol=1e-3) == 8


def test_ridge_on_colours_needs_colours(make_case: Callable) -> None:
    case = make_case(image=2.0)
    with pytest.raises(ValueError, match=r"without the colours.*evaluation\.models"):
        baselines.rgb_ridge(case.measured, replace(case.hidden, colours=None), PITCH_UM, 0)


def test_only_what_can_work_is_asked() -> None:
    everything = list(map(str, COMPARED_MODELS))
    assert not {"histogene", "triplex", "rgb_ridge"} & set(able(everything, between_spots=True))
    assert able(DEFAULT, between_spots=True) == list(DEFAULT)
    assert able(DEFAULT, new_section=True) == ["gene_mean", "ridge", "depth_only"]
    assert able(everything) == everything


def test_a_site_that_is_measured_is_refused(make_case: Callable) -> None:
    case = make_case()
    with pytest.raises(ValueError, match="1 of 1 sites to predict are measured spots"):
        predict_all(case.measured, case.measured.sites.at(slice(3, 4)), PITCH_UM, 0)
    of_another_section = able(DEFAULT, new_section=True)
    predict_all(case.measured, case.measured.sites, PITCH_UM, 0, of_another_section, positions=False)


N_SPOTS, N_GENES = 64, 12
SPOTS = [f"s{i}" for i in range(N_SPOTS)]
HIDDEN = SPOTS[1::3]
IDENTITY = BackboneIdentity("tiny", "package:tiny/x", "a" * 64, "c", 2, "MIT")


def section(seed: int = 0, hidden_seed: int = 0) -> AnnData:
    """Return a section; `hidden_seed` changes nothing but the counts of hidden spots, at equal depth."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(6, (N_SPOTS, N_GENES))
    for row in np.flatnonzero(np.isin(SPOTS, HIDDEN)):
        counts[row] = np.random.default_rng([hidden_seed, int(row)]).permutation(counts[row])
    made = AnnData(csr_matrix(counts), obs=pd.DataFrame(index=SPOTS))
    made.var_names = [f"g{i}" for i in range(N_GENES)]
    made.var["gene_ids"] = made.var_names
    made.obsm["spatial"] = np.column_stack(np.divmod(np.arange(N_SPOTS), 8)) * 200.0
    made.uns["section"] = {"name": "S", "lattice": "square", "mpp": 0.5, "pitch_um": 100.0}
    return normalise_expression(made, pd.DataFrame({"gene": made.var_names}))


def predictions(expression: AnnData) -> dict[str, np.ndarray]:
    """Return what the node predicts for the hidden spots with every predictor."""
    split, features = inputs_of(expression)
    image = np.random.default_rng(6).integers(0, 256, (1800, 1800, 3), np.uint8)
    inputs: Any = (None, lambda: Slide(ArrayPixels(image, "noise"), "noise"), TileSettings())
    settings = (EvaluationSettings.model_validate({"models": "all"}), COMPUTE, 0)
    predicted = nodes.fit_baselines(expression, split, features, *inputs, *settings)
    return {name: np.asarray(layer) for name, layer in named_layers(predicted).items()}


def inputs_of(expression: AnnData) -> tuple[pd.DataFrame, Features]:
    """Return split and made-up features of the section."""
    rng = np.random.default_rng(5)
    windows = rng.normal(size=(N_SPOTS, 9, 6)).astype(np.float32)
    xy_px = np.asarray(expression.obsm["spatial"], np.float64)
    key = FeatureKey.of("slide", IDENTITY, {}, 672, SPOTS, xy_px)
    features = Features(tuple(SPOTS), windows, np.zeros(N_SPOTS, np.int64), key, N_SPOTS)
    split = pd.DataFrame({"barcode": SPOTS, "part": np.where(np.isin(SPOTS, HIDDEN), "hidden", "train"), "fold": 0})
    return split, features


def changed(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> set[str]:
    return {name for name in first if not np.array_equal(first[name], second[name])}


def test_no_predictor_sees_the_hidden_expression(monkeypatch: pytest.MonkeyPatch, quick: None) -> None:
    one, other, more = section(), section(hidden_seed=1), section(seed=1)
    assert (one[HIDDEN].X != other[HIDDEN].X).any()
    truth = {"now": one}

    def leaking(*given: object, **options: object) -> np.ndarray:
        return np.asarray(truth["now"][HIDDEN].X)

    monkeypatch.setattr(baselines, "idw", leaking)
    found = []
    for truth["now"] in (one, other, more):
        found.append(predictions(truth["now"]))
    assert set(found[0]) == set(COMPARED_MODELS)
    assert changed(found[0], found[1]) == {"idw"}, "only the predictor that was made to leak depends on hidden counts"
    assert changed(found[0], found[2]) == set(COMPARED_MODELS), "all depend on visible counts"


def test_the_slide_is_opened_only_for_predictors_that_need_its_colours() -> None:
    expression = section()
    split, features = inputs_of(expression)

    def refuse() -> Slide:
        raise AssertionError("the slide was opened")

    def predict(models: str) -> AnnData:
        inputs: Any = (None, refuse, TileSettings())
        chosen = EvaluationSettings.model_validate({"models": models})
        return nodes.fit_baselines(expression, split, features, *inputs, chosen, COMPUTE, 0)

    assert set(named_layers(predict("idw+ridge"))) == {"idw", "ridge"}
    with pytest.raises(AssertionError, match="was opened"):
        predict("idw+rgb_ridge")


def test_default_is_that_of_the_settings() -> None:
    assert tuple(EvaluationSettings().models) == predictors.DEFAULT
