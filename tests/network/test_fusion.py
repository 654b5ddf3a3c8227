from __future__ import annotations

import torch

from spamcaf.model.network import CrossAttention, Fusion


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
