"""Intervals, paired comparisons and wins of a benchmark, on made-up scores of known truth."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import wilcoxon

from spamcaf.scoring.benchmark import compare_models, false_discovery, format_markdown, signed_rank_p
from spamcaf.scoring.metrics import score_genes

N_GENES, N_MASKS, N_SPOTS = 100, 5, 100


def planted(rho: float, rng: np.random.Generator, section: str = "A", leak: float = 0.0) -> pd.DataFrame:
    """Return scores of a predictor of correlation `rho` with each gene, and of two baselines below it."""
    parts = []
    for mask in range(N_MASKS):
        truth = rng.normal(size=(N_SPOTS, N_GENES))
        genes = [f"g{i}" for i in range(N_GENES)]
        for model, correlation in {"spamcaf": rho, "ridge": rho / 2, "idw": 0.0}.items():
            noise = rng.normal(size=truth.shape)
            values = correlation * truth + np.sqrt(1 - correlation**2) * noise + leak * truth * (model == "spamcaf")
            scores = score_genes(truth, values, genes, model)
            parts.append(scores.assign(model=model, mask=mask, section=section, protocol="random"))
    return pd.concat(parts, ignore_index=True)


def row(table: pd.DataFrame, model: str, section: str = "A") -> pd.Series:
    return table[(table["model"] == model) & (table["section"] == section)].iloc[0]


@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_a_planted_predictor_lies_within_its_interval(rho: float) -> None:
    covered = []
    for seed in range(10):
        found = row(compare_models(planted(rho, np.random.default_rng(seed)), 300, seed), "spamcaf")
        covered.append(found["low"] <= rho <= found["high"])
        assert found["high"] - found["low"] < 0.06
    assert sum(covered) >= 9, "an interval of 95 %"


def test_a_leaking_predictor_is_outside_of_it() -> None:
    found = row(compare_models(planted(0.3, np.random.default_rng(0), leak=0.2), 300, 0), "spamcaf")
    assert found["low"] > 0.3


def test_models_are_paired_with_the_best_baseline() -> None:
    rng = np.random.default_rng(1)
    table = compare_models(pd.concat([planted(0.4, rng, "A"), planted(0.2, rng, "B")]), 400, 1)
    assert list(dict.fromkeys(table["section"])) == ["A", "B", "all"]
    for section, rho in (("A", 0.4), ("B", 0.2), ("all", 0.3)):
        found = row(table, "spamcaf", section)
        assert found["best_baseline"] == "ridge" and pd.isna(row(table, "ridge", section)["best_baseline"])
        assert found["difference"] == pytest.approx(found["pcc_mean"] - row(table, "ridge", section)["pcc_mean"])
        assert found["difference_low"] < rho / 2 < found["difference_high"]
        assert found["difference_high"] - found["difference_low"] < 0.06
        assert found["genes_won"] + found["genes_lost"] == N_GENES and found["genes_won"] > 80
        lost = row(table, "idw", section)
        assert lost["genes_lost"] > 80 and lost["difference_high"] < 0
    assert row(table, "spamcaf", "A")["genes_tested"] == 0, "5 pairs cannot be significant"
    assert row(table, "spamcaf", "all")["genes_tested"] == N_GENES
    assert row(table, "spamcaf", "all")["significantly_won"] > 60
    assert row(table, "idw", "all")["significantly_lost"] > 30
    assert row(table, "spamcaf", "all")["pcc_mean"] == pytest.approx(
        np.mean([row(table, "spamcaf", section)["pcc_mean"] for section in "AB"])
    )


def test_equal_models_win_nothing_significantly() -> None:
    rng = np.random.default_rng(2)
    scores = pd.concat([planted(0.0, rng, section) for section in "ABC"])
    found = row(compare_models(scores, 200, 0), "spamcaf", "all")
    assert found["significantly_won"] + found["significantly_lost"] <= 2
    assert found["difference_low"] < 0 < found["difference_high"]


def test_a_gene_that_is_level_is_neither_won_nor_lost() -> None:
    scores = planted(0.5, np.random.default_rng(2))
    level = scores["gene"].isin(["g1", "g2"])
    scores.loc[level, "pearson"] = 0.25
    found = row(compare_models(scores, 100, 0), "spamcaf")
    assert found["genes_won"] + found["genes_lost"] == N_GENES - 2


def test_a_gene_that_some_panels_lack_counts_where_it_is() -> None:
    scores = planted(0.5, np.random.default_rng(3))
    there = (scores["mask"] != 2) | (scores["gene"] != "g7")
    mean = scores.loc[there & (scores["model"] == "spamcaf"), "pearson"].mean()
    table = compare_models(scores[there].sample(frac=1, random_state=0), 100, 0)
    assert row(table, "spamcaf")["pcc_mean"] == pytest.approx(mean)
    assert np.isfinite(table[["low", "high"]].to_numpy()).all()


def test_the_order_of_rows_does_not_matter_to_a_mean_and_a_seed_fixes_the_rest() -> None:
    scores = planted(0.5, np.random.default_rng(4))
    pd.testing.assert_frame_equal(compare_models(scores, 100, 5), compare_models(scores, 100, 5))
    assert not compare_models(scores, 100, 5).equals(compare_models(scores, 100, 6))


def test_p_values_are_scipys_gene_by_gene() -> None:
    rng = np.random.default_rng(6)
    differences = rng.normal(0.05, 0.1, (40, 9))
    differences[0], differences[1, 3], differences[2, 4:], differences[3, 1] = 0, 0, np.nan, 1
    found = signed_rank_p(differences)
    for gene, values in enumerate(differences):
        pairs = values[np.isfinite(values) & (values != 0)]
        assert found[gene] == pytest.approx(wilcoxon(pairs).pvalue if len(pairs) else 1.0)


def test_false_discoveries_are_as_benjamini_and_hochberg_adjust_them() -> None:
    p = np.array([0.01, 0.04, 0.03, 0.5])
    np.testing.assert_allclose(false_discovery(p), [0.04, 0.16 / 3, 0.16 / 3, 0.5])


def test_the_table_in_markdown() -> None:
    rng = np.random.default_rng(7)
    parts = [planted(0.4, rng, name) for name in "BA"]
    scores = pd.concat(parts)
    text = format_markdown(compare_models(scores, 100, 0))
    lines = text.splitlines()
    assert lines[0] == "| random, mean PCC [95 %] | B | A | all | genes won : lost (significantly) |"
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "SpaMCAF",
        "Ridge on image features",
        "Inverse distance",
    ]
    assert lines[2].endswith(f" of {N_GENES}) |") and "too few pairs" not in text
    assert "(too few pairs)" in format_markdown(compare_models(scores[scores["section"] == "A"], 100, 0))
    assert lines[3].endswith("| best baseline |")
    assert all(line.count("|") == 6 for line in lines)
