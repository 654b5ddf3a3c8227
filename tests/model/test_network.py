from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from spamcaf.model.network import (
    CrossAttention,
    Dropout,
    Encoder,
    Fusion,
    PositionEncoding,
    SpamcafInput,
    SpamcafNetwork,
    SpamcafShape,
)

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
    some = given._replace(xy_um=torch.cat([unknown, given.xy_um[1:]]))
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
    before, turned = network(given), network(given._replace(neighbours=given.neighbours.flip(1)))
    moved = [(a - b).abs().amax(1).min() for a, b in zip(before, turned, strict=True)]
    assert moved[1] > 1e-4 and moved[3] > 1e-5
    assert moved[0] == moved[2] == 0


@pytest.mark.parametrize(
    ("shuffled", "heads"),
    [
        # where a spot lies and what it looks like belong together; so do a measured neighbour's place and expression
        ("section_xy_um", (2, 3)),
        ("section_target", (2, 3)),
        ("xy_um", (2,)),
        ("target", (0, 2, 3)),
        ("neighbours", (1, 3)),
    ],
)
def test_swapping_sites_or_spots_matters(
    network: SpamcafNetwork, given: SpamcafInput, shuffled: str, heads: tuple[int, ...]
) -> None:
    before, after = network(given), network(given._replace(**{shuffled: getattr(given, shuffled).roll(1, 0)}))
    moved = tuple(i for i in range(4) if (before[i] - after[i]).abs().max() > 1e-6)
    assert moved == heads


@pytest.mark.parametrize("shuffled", ["context_scores", "context_target", "context_offset_um"])
def test_a_measured_neighbours_parts_belong_together(
    network: SpamcafNetwork, given: SpamcafInput, shuffled: str
) -> None:
    near = torch.tensor([1, 2, 0, 3])
    mixed_up = network(given._replace(**{shuffled: getattr(given, shuffled)[:, near]}))
    assert (mixed_up.fusion - network(given).fusion).abs().amax(1).min() > 1e-5


def test_a_site_that_moves_along_with_its_section_is_still_told_where_it_is(
    network: SpamcafNetwork, given: SpamcafInput
) -> None:
    moved = given._replace(xy_um=given.xy_um + 500, section_xy_um=given.section_xy_um + 500)
    assert (network(moved).section - network(given).section).abs().amax(1).min() > 1e-5


def test_with_one_token_tiles_and_spots_are_told_apart_by_their_mean_only(given: SpamcafInput) -> None:
    torch.manual_seed(0)
    drawn = SpamcafNetwork(replace(SHAPE, one_token=True)).eval()
    asked = []
    for part in (drawn.fusion.to_neighbours, drawn.fusion.to_section):
        part.register_forward_pre_hook(lambda _, given: asked.append(given[1].shape[1]))
    out = drawn(given)
    assert asked == [1, 1]
    assert [tuple(head.shape) for head in out] == [(N_SITES, 3)] * 4
    # over one key the query is ignored: its projection learns nothing, which is why it is not the default
    torch.stack([head.square().sum() for head in out]).sum().backward()
    for part in (drawn.fusion.to_neighbours, drawn.fusion.to_section):
        weight = part.attention.in_proj_weight.grad
        assert weight is not None
        assert weight[: 2 * SHAPE.width].abs().max() < 1e-6 < weight[2 * SHAPE.width :].abs().max()


def test_with_one_token_every_input_still_matters(given: SpamcafInput) -> None:
    torch.manual_seed(0)
    drawn = SpamcafNetwork(replace(SHAPE, one_token=True)).eval()
    before = drawn(given).fusion
    for field in ("target", "neighbours", "section_target", "section_xy_um", "context_scores"):
        after = drawn(given._replace(**{field: getattr(given, field) * 1.5 + 0.1})).fusion
        assert (after - before).abs().max() > 1e-6, field


def test_a_site_is_predicted_alike_alone_and_in_company(network: SpamcafNetwork, given: SpamcafInput) -> None:
    per_site = {f: getattr(given, f)[2:3] for f in given._fields if not f.startswith(("section_", "maps", "origin"))}
    torch.testing.assert_close(network(given._replace(**per_site)).fusion, network(given).fusion[2:3])


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


def test_the_query_decides_what_is_read() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(16, 4, dropout=0.0).eval()
    tokens = torch.randn(1, 9, 16).expand(2, -1, -1)
    read = attention(3 * torch.randn(2, 16), tokens)
    assert (read[0] - read[1]).abs().max() > 1e-3


def test_hidden_tokens_are_never_read() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(16, 4, dropout=0.0).eval()
    query, tokens = torch.randn(2, 16), torch.randn(2, 5, 16)
    is_hidden = torch.tensor([[False, True, False, False, True]] * 2)
    changed = tokens.clone()
    changed[:, [1, 4]] += 5
    torch.testing.assert_close(attention(query, tokens, is_hidden), attention(query, changed, is_hidden))


def test_no_context_at_all_falls_back_on_the_empty_token() -> None:
    torch.manual_seed(0)
    fusion = Fusion(16, 4, dropout=0.0).eval()
    target, near, far, context = torch.randn(3, 16), torch.randn(3, 9, 16), torch.randn(4, 16), torch.randn(3, 6, 16)
    nothing = torch.zeros(3, 5, dtype=torch.bool)
    masked = fusion(target, near, far, context, nothing)
    absent = fusion(target, near, far, context[:, :1], nothing[:, :0])
    assert masked.isfinite().all()
    torch.testing.assert_close(masked, absent)


def test_over_one_key_the_query_is_ignored() -> None:
    torch.manual_seed(0)
    attention = CrossAttention(16, 4, dropout=0.0).eval()
    token = torch.randn(1, 1, 16).expand(2, -1, -1)
    read = attention(3 * torch.randn(2, 16), token)
    torch.testing.assert_close(read[0], read[1])


def test_each_source_reaches_the_fusion_token() -> None:
    torch.manual_seed(0)
    fusion = Fusion(16, 4, dropout=0.0).eval()
    sources = [torch.randn(3, 16), torch.randn(3, 9, 16), torch.randn(4, 16), torch.randn(3, 6, 16)]
    seen = torch.ones(3, 5, dtype=torch.bool)
    before = fusion(*sources, seen)
    for i, source in enumerate(sources):
        changed = [*sources[:i], source + torch.randn_like(source), *sources[i + 1 :]]
        assert (fusion(*changed, seen) - before).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("share", [0.25, 0.5, 0.9])
def test_dropout_keeps_its_share_and_the_mean(share: float) -> None:
    torch.manual_seed(0)
    dropped = Dropout(share).train()(torch.ones(100, 1003))
    kept = dropped > 0
    assert kept.float().mean().item() == pytest.approx(1 - share, abs=0.01)
    assert dropped.mean().item() == pytest.approx(1, abs=0.03)
    assert dropped[kept].unique().numel() == 1
    # each of the eight bytes of a random word decides alone
    by_byte = kept.flatten()[: 8 * 12_000].view(-1, 8).float()
    assert by_byte.mean(dim=0).sub(1 - share).abs().max() < 0.02
    assert torch.corrcoef(by_byte.T).fill_diagonal_(0).abs().max() < 0.05


def test_dropout_is_off_in_evaluation() -> None:
    given = torch.randn(7, 5)
    torch.testing.assert_close(Dropout(0.5).eval()(given), given)
