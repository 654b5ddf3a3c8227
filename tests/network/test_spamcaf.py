from __future__ import annotations

import pytest
import torch

from spamcaf.network.spamcaf import SpamcafInput, SpamcafNetwork, SpamcafShape

SHAPE = SpamcafShape(n_components=6, n_programs=3, width=16, heads=4, depth=1, dropout=0.1, n_summary=4)
N_SITES, N_SPOTS, N_NEAR = 5, 11, 4


@pytest.fixture
def network() -> SpamcafNetwork:
    torch.manual_seed(0)
    return SpamcafNetwork(SHAPE).eval()


@pytest.fixture
def given() -> SpamcafInput:
    torch.manual_seed(1)
    return SpamcafInput(
        target=torch.randn(N_SITES, 6),
        neighbours=torch.randn(N_SITES, 9, 6),
        xy_um=1000 * torch.randn(N_SITES, 2),
        section_target=torch.randn(N_SPOTS, 6),
        section_xy_um=1000 * torch.randn(N_SPOTS, 2),
        context_scores=torch.randn(N_SITES, N_NEAR, 3),
        context_target=torch.randn(N_SITES, N_NEAR, 6),
        context_offset_um=200 * torch.randn(N_SITES, N_NEAR, 2),
        context_seen=torch.tensor([[True, True, True, False]] * N_SITES),
    )


def test_each_head_gives_program_scores(network: SpamcafNetwork, given: SpamcafInput) -> None:
    assert [tuple(head.shape) for head in network(given)] == [(N_SITES, 3)] * 4


def test_every_parameter_learns(network: SpamcafNetwork, given: SpamcafInput) -> None:
    unknown = torch.full_like(given.xy_um[:1], torch.nan)
    offset = given.context_offset_um.clone()
    offset[0, 0] = torch.nan
    some = given._replace(xy_um=torch.cat([unknown, given.xy_um[1:]]), context_offset_um=offset)
    torch.stack([head.square().sum() for head in network.train()(some)]).sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or p.grad.abs().sum() < 1e-12]
    assert idle == []


@pytest.mark.parametrize(
    ("field", "heads"),
    [
        ("target", (0, 2, 3)),
        ("neighbours", (1, 3)),
        ("xy_um", (2,)),
        ("section_target", (2, 3)),
        ("section_xy_um", (2, 3)),
        ("context_scores", (3,)),
        ("context_target", (3,)),
        ("context_offset_um", (3,)),
    ],
)
def test_each_input_speaks_through_its_heads_only(
    network: SpamcafNetwork, given: SpamcafInput, field: str, heads: tuple[int, ...]
) -> None:
    before = network(given)
    after = network(given._replace(**{field: getattr(given, field) * 1.5 + 0.1}))
    moved = tuple(i for i in range(4) if (before[i] - after[i]).abs().max() > 1e-6)
    assert moved == heads


def test_unseen_context_changes_nothing(network: SpamcafNetwork, given: SpamcafInput) -> None:
    scores = given.context_scores.clone()
    scores[:, 3] = 99.0
    torch.testing.assert_close(network(given._replace(context_scores=scores)).fusion, network(given).fusion)


def test_order_of_context_and_section_means_nothing(network: SpamcafNetwork, given: SpamcafInput) -> None:
    near, spots = torch.tensor([2, 0, 3, 1]), torch.randperm(N_SPOTS)
    context = {f: getattr(given, f)[:, near] for f in given._fields if f.startswith("context_")}
    section = {f: getattr(given, f)[spots] for f in given._fields if f.startswith("section_")}
    shuffled = network(given._replace(**context, **section))
    for a, b in zip(shuffled, network(given), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_order_of_tiles_matters(network: SpamcafNetwork, given: SpamcafInput) -> None:
    turned = network(given._replace(neighbours=given.neighbours.flip(1)))
    assert (turned.neighbour - network(given).neighbour).abs().max() > 1e-4


def test_a_site_is_predicted_alike_alone_and_in_company(network: SpamcafNetwork, given: SpamcafInput) -> None:
    per_site = {f: getattr(given, f)[2:3] for f in given._fields if not f.startswith("section_")}
    torch.testing.assert_close(network(given._replace(**per_site)).fusion, network(given).fusion[2:3])
