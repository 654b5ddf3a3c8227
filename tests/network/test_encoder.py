from __future__ import annotations

import pytest
import torch

from spamcaf.model.network import Encoder


@pytest.fixture
def encoder() -> Encoder:
    torch.manual_seed(0)
    return Encoder(width=16, heads=4, depth=2, dropout=0.1).eval()


def test_permuting_tokens_permutes_the_result(encoder: Encoder) -> None:
    tokens = torch.randn(3, 7, 16)
    order = torch.tensor([4, 0, 6, 1, 3, 2, 5])
    torch.testing.assert_close(encoder(tokens[:, order]), encoder(tokens)[:, order])


def test_each_token_hears_of_all_others(encoder: Encoder) -> None:
    tokens = torch.randn(1, 7, 16)
    changed = tokens.clone()
    changed[0, 6] = torch.randn(16)
    assert (encoder(changed) - encoder(tokens)).abs().amax(-1).min() > 1e-4


def test_a_site_beside_a_section_is_independent_of_other_sites(encoder: Encoder) -> None:
    sites, section = torch.randn(5, 16), torch.randn(9, 16)
    together, _ = encoder.beside(sites, section)
    alone, _ = encoder.beside(sites[:1], section)
    torch.testing.assert_close(together[:1], alone)


def test_a_spot_of_the_section_is_encoded_as_by_the_section_itself(encoder: Encoder) -> None:
    section = torch.randn(9, 16)
    sites, encoded = encoder.beside(section[2:4], section)
    torch.testing.assert_close(sites, encoded[2:4])
    torch.testing.assert_close(encoded, encoder(section))


def test_cost_is_linear_in_tokens(encoder: Encoder) -> None:
    from torch.utils.flop_counter import FlopCounterMode

    def flops(n: int) -> int:
        with FlopCounterMode(display=False) as counter:
            encoder(torch.randn(1, n, 16))
        return counter.get_total_flops()

    assert flops(800) == 8 * flops(100)
