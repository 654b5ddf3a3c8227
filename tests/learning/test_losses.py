from __future__ import annotations

import pytest
import torch

from spamcaf.model.network import SpamcafOutput
from spamcaf.model.training import program_loss, spamcaf_losses


def test_squared_error_and_correlation_are_added() -> None:
    truth = torch.tensor([[1.0], [2.0], [3.0]])
    shifted = program_loss(truth + 2, truth, torch.ones(1), pearson_weight=0.5)
    turned = program_loss(-truth, truth, torch.ones(1), pearson_weight=0.5)
    assert shifted.item() == pytest.approx(4.0, abs=1e-5)
    assert turned.item() == pytest.approx(4 * 14 / 3 + 0.5 * 2, abs=1e-5)


def test_programs_count_by_importance() -> None:
    truth, predicted = torch.zeros(4, 2), torch.tensor([[1.0, 3.0]] * 4)
    loss = program_loss(predicted, truth, torch.tensor([0.75, 0.25]), pearson_weight=0.0)
    assert loss.item() == pytest.approx(0.75 * 1 + 0.25 * 9)


def test_a_constant_prediction_has_finite_gradients() -> None:
    predicted = torch.zeros(5, 2, requires_grad=True)
    program_loss(predicted, torch.randn(5, 2), torch.tensor([0.5, 0.5]), pearson_weight=1.0).backward()
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


def test_each_head_has_its_loss_and_weight() -> None:
    truth = torch.zeros(3, 1)
    out = SpamcafOutput(*(torch.full((3, 1), float(k)) for k in (1, 2, 3, 4)))
    losses = spamcaf_losses(out, truth, torch.ones(1), 0.0, (1.0, 0.0, 2.0, 0.5))
    assert [part.item() for part in losses.parts] == [1, 4, 9, 16]
    assert losses.total.item() == pytest.approx(1 + 18 + 8)
