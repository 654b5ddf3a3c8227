"""Parts of the peers against hand-made arithmetic or torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from spamcaf.peers import bleep, hest_probe, st_net, stage, triplex
from spamcaf.peers.attention import Attention
from spamcaf.peers.frozen import Scaling, array_positions, hold_out
from spamcaf.sections.sites import Measured, Sites


def _spots(n: int, seed: int = 0, n_genes: int = 6) -> Measured:
    rng = np.random.default_rng(seed)
    windows = rng.normal(size=(n, 9, 12)).astype(np.float32)
    xy_um = 100.0 * np.column_stack(np.divmod(np.arange(n), 8))
    expression = (3 + windows[:, 4, :3] @ rng.normal(size=(3, n_genes))).astype(np.float32)
    return Measured(Sites(xy_um, windows[:, 4], windows), expression, np.full(n, 1e4))


def test_features_get_one_scale() -> None:
    features = np.array([[0.0, 100.0], [2.0, 100.0]], np.float32)
    np.testing.assert_allclose(Scaling.of(features).apply(features), [[-np.sqrt(2), 0], [np.sqrt(2), 0]], rtol=1e-6)
    assert np.isfinite(Scaling.of(features[:1]).apply(features)).all()


def test_spots_set_aside_are_a_fifth_and_no_others() -> None:
    learn, validate = hold_out(50, 0)
    assert len(validate) == 10
    assert sorted([*learn, *validate]) == list(range(50))
    assert min(map(len, hold_out(2, 0))) == 1


def test_positions_count_pitches_from_the_corner() -> None:
    xy_um = np.array([[1000.0, 501.0], [1201.0, 499.0], [1399.0, 901.0]])
    assert array_positions(xy_um, 200.0).tolist() == [[0, 0], [1, 0], [2, 2]]


def test_attention_is_that_of_torch() -> None:
    torch.manual_seed(0)
    ours, theirs = Attention(16, 4, 0.0), nn.MultiheadAttention(16, 4, bias=False, batch_first=True)
    queries, keys, bias = torch.randn(2, 3, 16), torch.randn(2, 5, 16), torch.randn(4, 3, 5)
    linear = ours.out[0]
    assert isinstance(linear, nn.Linear)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([ours.query.weight, ours.key.weight, ours.value.weight]))
        theirs.out_proj.weight.copy_(linear.weight)
    q, k = ours.norm_query(queries), ours.norm_key(keys)
    expected, _ = theirs(q, k, k, attn_mask=bias.repeat(2, 1, 1))
    torch.testing.assert_close(ours(queries, keys, bias), expected + linear.bias)


def test_hest_probe_has_no_intercept() -> None:
    measured, hidden = _spots(200), _spots(40, seed=1)
    found = hest_probe.predict(measured, hidden.sites, 100.0, 0)
    assert abs(found.mean()) < 0.2 * measured.expression.mean()


def test_bleep_answers_with_measured_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, hidden = _spots(30), _spots(10, seed=1)
    monkeypatch.setattr(bleep, "EPOCHS", 3)
    everything = bleep.predict(measured, hidden.sites, 100.0, 0)  # all 30 are among the 50 nearest
    np.testing.assert_allclose(everything, np.tile(measured.expression.mean(axis=0), (10, 1)), rtol=1e-4)
    monkeypatch.setattr(bleep, "N_NEAREST", 1)
    nearest = bleep.predict(measured, hidden.sites, 100.0, 0)
    assert all(np.isclose(measured.expression, row).all(axis=1).any() for row in nearest)


def test_bleep_loss_is_least_where_modalities_agree() -> None:
    model = bleep.Embedding(4, 4)
    model.expression.load_state_dict(model.image.state_dict())
    model.eval()
    spots = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    assert model(spots, spots) < model(spots, spots[torch.arange(19, -1, -1)])


def test_sliced_wasserstein_sees_sets_and_shifts() -> None:
    torch.manual_seed(0)
    points = torch.rand(50, 2)
    assert stage.sliced_wasserstein(points, points.flip(0)).item() == pytest.approx(0, abs=1e-12)
    shifted = stage.sliced_wasserstein(points, points + torch.tensor([3.0, 4.0]))
    assert shifted.item() == pytest.approx(25 / 2, rel=0.1)  # mean of (shift . direction) ** 2 in the plane


def test_stage_layers_end_as_published() -> None:
    kinds = [type(layer).__name__ for layer in stage.layers((5, 4, 2))]
    assert kinds == ["Linear", "BatchNorm1d", "ReLU", "Linear", "ReLU"]


def test_st_net_steps_are_those_of_torch() -> None:
    torch.manual_seed(1)
    features, residual = torch.randn(20, 5) / 5**0.5, torch.randn(20, 3)
    layer = nn.Linear(5, 3, bias=False)
    nn.init.zeros_(layer.weight)
    optimizer = torch.optim.SGD(layer.parameters(), st_net.LEARNING_RATE * 3, st_net.MOMENTUM)
    for _ in range(4):
        loss = (layer(features) - residual).square().sum() / 3
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    *_, weights = st_net.fit(features, residual, 4)
    torch.testing.assert_close(weights, layer.weight.detach().T)


def test_st_net_stops_at_once_on_noise() -> None:
    torch.manual_seed(0)
    features, signal = torch.randn(80, 30) / 30**0.5, torch.randn(30, 200)
    assert st_net.choose_epochs(features, torch.randn(80, 200)) == 0
    assert st_net.choose_epochs(features, features @ signal) > 10


def test_triplex_labels_are_means_over_the_spots_around() -> None:
    xy_um = 100.0 * np.array([[0, 0], [1, 0], [1, 1], [3, 0]])
    found = triplex.smoothed(np.array([[0.0], [3.0], [6.0], [9.0]], np.float32), xy_um, 100.0)
    assert found[:, 0].tolist() == [3.0, 3.0, 3.0, 9.0]


def test_triplex_offsets_are_equal_for_equal_steps() -> None:
    table = triplex.Triplex(4, 2).get_buffer("offsets").numpy()
    steps = np.stack(np.divmod(np.arange(9), 3), axis=1)
    by_step: dict[tuple[int, ...], set[int]] = {}
    for i, j in np.ndindex(9, 9):
        by_step.setdefault(tuple(steps[i] - steps[j]), set()).add(int(table[i, j]))
    assert all(len(numbers) == 1 for numbers in by_step.values())
    assert len({min(numbers) for numbers in by_step.values()}) == 25
    assert table.min() == 0 and table.max() == 24


def test_triplex_loss_is_the_published_sum() -> None:
    labels, fused, branch = torch.zeros(2, 3), torch.full((2, 3), 2.0), torch.ones(2, 3)
    assert triplex.triplex_loss([branch, branch, branch, fused], labels).item() == pytest.approx(4 + 3 * (0.7 + 0.3))


def test_triplex_position_is_a_convolution_over_the_grid() -> None:
    layer = triplex.GridConvolution()
    tokens = torch.randn(3, triplex.WIDTH)
    spots = triplex.Spots(torch.empty(0), torch.tensor([0, 1, 5]), (2, 3))
    grid = torch.zeros(1, triplex.WIDTH, 2, 3)
    grid[0, :, [0, 0, 1], [0, 1, 2]] = tokens.T
    expected = tokens + layer.convolution(grid)[0, :, [0, 0, 1], [0, 1, 2]].T
    torch.testing.assert_close(layer(tokens, spots), expected)


def test_correlation_is_that_of_numpy() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 20, 4))
    b[:, 3] = 1.0
    found = triplex.mean_correlation(torch.from_numpy(a), torch.from_numpy(b))
    assert found == pytest.approx(sum(np.corrcoef(a[:, i], b[:, i])[0, 1] for i in range(3)) / 4)
