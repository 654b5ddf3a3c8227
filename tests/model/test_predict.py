from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.model import predict as prediction
from spamcaf.model.fit import Fitted
from spamcaf.model.fitted import SpamcafModel
from spamcaf.model.mixing import Stacking
from spamcaf.model.training import mean_gene_pearson
from spamcaf.parameters import ComputeSettings
from spamcaf.peers.models import predict
from spamcaf.sections.sites import Measured, Sites


@pytest.fixture(scope="module")
def half_network(fitted: Fitted) -> SpamcafModel:
    """The model with both parts speaking, so that a fault of either shows."""

    def halved(stacking: Stacking) -> Stacking:
        return replace(stacking, network_weight=np.full_like(stacking.network_weight, 0.5))

    model = fitted.model
    within_section = replace(model.within_section, stacking=halved(model.within_section.stacking))
    return replace(
        model,
        within_section=within_section,
        new_section=replace(model.new_section, stacking=halved(model.new_section.stacking)),
    )


def test_hidden_spots_are_predicted(
    fitted: Fitted, section: Measured, visible: Measured, is_hidden: np.ndarray, cpu: ComputeSettings
) -> None:
    hidden = section.at(is_hidden)
    found = predict(fitted.model, visible, hidden.sites, cpu)
    assert found.mean.dtype == found.sd.dtype == found.gp.dtype == np.float32
    assert found.mean.shape == found.sd.shape == found.gp.shape == hidden.expression.shape
    assert mean_gene_pearson(hidden.expression, found.mean) > 0.2
    assert min(found.mean.min(), found.gp.min(), found.sd.min()) >= 0
    inside = np.abs(hidden.expression - found.mean) < 1.645 * found.sd
    assert 0.82 < inside.mean() < 0.97


def test_each_network_alone_learned_something(
    fitted: Fitted, section: Measured, visible: Measured, is_hidden: np.ndarray, cpu: ComputeSettings
) -> None:
    stacking = replace(fitted.model.within_section.stacking, network_weight=np.ones(1 + len(fitted.model.programs)))
    only = replace(fitted.model, within_section=replace(fitted.model.within_section, stacking=stacking))
    hidden = section.at(is_hidden)
    assert mean_gene_pearson(hidden.expression, predict(only, visible, hidden.sites, cpu).mean) > 0.15


def test_an_unmeasured_section_is_predicted_from_its_picture(
    fitted: Fitted, section: Measured, is_hidden: np.ndarray, cpu: ComputeSettings
) -> None:
    hidden = section.at(is_hidden)
    found = predict(fitted.model, None, hidden.sites, cpu)
    assert mean_gene_pearson(hidden.expression, found.mean) > 0.08


def test_without_measurements_positions_mean_nothing(
    half_network: SpamcafModel, section: Measured, cpu: ComputeSettings
) -> None:
    sites = section.sites
    moved = Sites(sites.xy_um[::-1] * 3 + 1e5, sites.target, sites.neighbours)
    np.testing.assert_array_equal(
        predict(half_network, None, sites, cpu).mean, predict(half_network, None, moved, cpu).mean
    )


@pytest.mark.parametrize("is_measured", [True, False])
def test_blocks_leave_no_trace(
    half_network: SpamcafModel,
    section: Measured,
    visible: Measured,
    cpu: ComputeSettings,
    monkeypatch: pytest.MonkeyPatch,
    is_measured: bool,
) -> None:
    context = visible if is_measured else None
    whole = predict(half_network, context, section.sites, cpu)
    monkeypatch.setattr(prediction, "CHUNK", 7)
    pieces = predict(half_network, context, section.sites, cpu)
    np.testing.assert_allclose(pieces.mean, whole.mean, atol=1e-4)
    np.testing.assert_allclose(pieces.sd, whole.sd, atol=1e-4)


def test_the_order_of_measured_spots_means_nothing(
    half_network: SpamcafModel, section: Measured, visible: Measured, cpu: ComputeSettings
) -> None:
    # Spots off the lattice, so that no two neighbours are equally far.
    jitter = np.random.default_rng(0).normal(size=(len(visible), 2))
    sites = replace(visible.sites, xy_um=visible.sites.xy_um + jitter)
    spots = replace(visible, sites=sites)
    shuffled = spots.at(np.random.default_rng(1).permutation(len(spots)))
    one, other = (predict(half_network, context, section.sites, cpu).mean for context in (spots, shuffled))
    np.testing.assert_allclose(one, other, atol=1e-4)


def test_what_is_measured_around_a_site_counts(
    half_network: SpamcafModel, section: Measured, visible: Measured, cpu: ComputeSettings
) -> None:
    shuffled = visible.expression[np.random.default_rng(0).permutation(len(visible))]
    one, other = (
        predict(half_network, context, section.sites, cpu).mean
        for context in (visible, replace(visible, expression=shuffled))
    )
    assert np.abs(one - other).max() > 0.1


def test_a_grid_between_the_spots_is_smooth(
    half_network: SpamcafModel, visible: Measured, cpu: ComputeSettings
) -> None:
    spot = visible.sites.at(slice(0, 1))
    steps = np.stack([np.linspace(0, 10, 11), np.zeros(11)], axis=1)
    target, neighbours = (np.repeat(a, 11, axis=0) for a in (spot.target, spot.neighbours))
    path = predict(half_network, visible, Sites(spot.xy_um + steps, target, neighbours), cpu).mean
    assert np.abs(np.diff(path, axis=0)).max() < 0.05


def test_another_backbone_is_refused(fitted: Fitted, visible: Measured, cpu: ComputeSettings) -> None:
    sites = visible.sites
    fewer = Sites(sites.xy_um, sites.target[:, 1:], sites.neighbours[..., 1:])
    with pytest.raises(InputError, match="11 features per tile"):
        predict(fitted.model, visible, fewer, cpu)


def test_another_gene_panel_is_refused(fitted: Fitted, visible: Measured, cpu: ComputeSettings) -> None:
    fewer = replace(visible, expression=visible.expression[:, 1:])
    with pytest.raises(InputError, match="39 genes"):
        predict(fitted.model, fewer, visible.sites, cpu)
