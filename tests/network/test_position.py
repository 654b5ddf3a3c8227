from __future__ import annotations

import torch

from spamcaf.model.network import PositionEncoding


def test_positions_between_spots_are_encoded_between_them() -> None:
    torch.manual_seed(0)
    encode = PositionEncoding(8, shortest_um=200.0)
    line_um = torch.stack([torch.linspace(0, 100, 101), torch.zeros(101)], dim=-1)
    codes = encode(line_um)
    steps = codes.diff(dim=0).norm(dim=-1)
    assert steps.max() < 0.1 * (codes[-1] - codes[0]).norm()
    assert steps.min() > 0


def test_x_and_y_are_told_apart() -> None:
    torch.manual_seed(0)
    encode = PositionEncoding(8, shortest_um=200.0)
    here, mirrored = encode(torch.tensor([[30.0, 70.0], [70.0, 30.0]]))
    assert (here - mirrored).abs().max() > 1e-3


def test_an_unknown_position_has_a_learned_code_and_finite_gradients() -> None:
    encode = PositionEncoding(8, shortest_um=200.0)
    codes = encode(torch.tensor([[torch.nan, 5.0], [1.0, 5.0]]))
    torch.testing.assert_close(codes[0], encode.unknown)
    codes.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encode.parameters())
