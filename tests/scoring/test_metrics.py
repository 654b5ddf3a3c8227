"""Metrics against scipy, Moran's I against its definition, coverage and noise ceiling against known truths."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from spamcaf.scoring.limits import noise_ceiling, reachable_limit, summarise_ceiling, summarise_limit
from spamcaf.scoring.metrics import (
    correlate,
    correlate_spots,
    gene_structure,
    interval_coverage,
    lattice_windows,
    moran_ratio,
    morans_i,
    score_draws,
    score_genes,
    structural_similarity,
    summarise,
)

N_GENES = 300  # more than one block


@pytest.fixture
def pair() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    truth = np.log1p(rng.poisson(1.5, size=(80, N_GENES))).astype(np.float32)  # with ties, as counts have
    prediction = (0.5 * truth + rng.normal(size=truth.shape)).astype(np.float32)
    return truth, prediction


def _genes(n: int = N_GENES) -> list[str]:
    return [f"g{i}" for i in range(n)]


def test_agrees_with_scipy(pair) -> None:
    truth, prediction = pair
    scores = score_genes(truth, prediction, _genes())
    for i in (0, 100, 255, 256, 299):
        row = scores.iloc[i]
        assert row["gene"] == f"g{i}"
        assert row["pearson"] == pytest.approx(stats.pearsonr(truth[:, i], prediction[:, i]).statistic, abs=1e-6)
        assert row["spearman"] == pytest.approx(stats.spearmanr(truth[:, i], prediction[:, i]).statistic, abs=1e-6)
        error = prediction[:, i].astype(float) - truth[:, i]
        assert row["mse"] == pytest.approx(np.mean(error**2))
        assert row["mae"] == pytest.approx(np.mean(np.abs(error)))
        assert row["rmse"] == pytest.approx(np.sqrt(np.mean(error**2)))
        assert row["variance_ratio"] == pytest.approx(prediction[:, i].var() / truth[:, i].var(), rel=1e-4)


def test_undefined_correlations_are_counted_and_scored_zero(pair) -> None:
    truth, prediction = pair
    truth[:, 0] = 0.0
    prediction[:, 1] = 0.7
    prediction[:, 2] = 0.7 + 5e-9 * np.arange(80)  # float32 rounding, not a pattern
    scores = score_genes(truth, prediction, _genes())
    assert scores["undefined"].tolist() == [True] * 3 + [False] * (N_GENES - 3)
    assert (scores.loc[:2, ["pearson", "spearman"]] == 0).all(axis=None)
    assert np.isnan(scores.loc[0, "variance_ratio"])
    assert scores.loc[1, "variance_ratio"] == pytest.approx(0.0, abs=1e-9)
    found = summarise(scores)
    assert found["n_undefined"] == 3
    assert found["pcc_mean"] == pytest.approx(scores["pearson"].sum() / N_GENES)


def test_summary_has_the_agreed_keys_in_order(pair) -> None:
    found = summarise(score_genes(*pair, _genes()))
    assert list(found) == [
        "pcc_mean",
        "pcc_median",
        "pcc_top50",
        "spearman_mean",
        "pcc_depth_removed",
        "ssim",
        "mse",
        "mae",
        "rmse",
        "share_above_0.3",
        "n_undefined",
        "variance_ratio",
    ]
    assert found["pcc_top50"] > found["pcc_mean"]


def test_top50_of_a_small_panel_is_its_mean(pair) -> None:
    truth, prediction = pair
    found = summarise(score_genes(truth[:, :20], prediction[:, :20], _genes(20)))
    assert found["pcc_top50"] == pytest.approx(found["pcc_mean"])


def test_nothing_varies(pair) -> None:
    flat = np.zeros_like(pair[0])
    found = summarise(score_genes(flat, flat, _genes()))
    assert found["n_undefined"] == N_GENES
    assert found["variance_ratio"] is None
    assert found["pcc_mean"] == 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_name_the_model_and_the_number(pair, bad: float) -> None:
    truth, prediction = pair
    prediction[3:5, 7] = bad
    with pytest.raises(ValueError, match=r"kriging: found 2 of 24000 values"):
        score_genes(truth, prediction, _genes(), "kriging")
    with pytest.raises(ValueError, match=r"truth: found 2 of 24000 values"):
        score_genes(prediction, truth, _genes(), "kriging")


def test_shapes_must_agree(pair) -> None:
    truth, prediction = pair
    with pytest.raises(ValueError, match=r"ridge: expected .* found \(80, 300\) and \(79, 300\)"):
        score_genes(truth, prediction[:-1], _genes(), "ridge")
    with pytest.raises(ValueError, match="299 genes"):
        score_genes(truth, prediction, _genes(299))
    with pytest.raises(ValueError, match="2 sites and 300 genes"):
        score_genes(truth[:2], prediction[:2], _genes())


def _square(side: int) -> np.ndarray:
    return 100.0 * np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)


def _by_definition(values: np.ndarray, xy_um: np.ndarray, n_neighbours: int) -> float:
    distance = np.linalg.norm(xy_um[:, None] - xy_um[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    weight = np.zeros_like(distance)
    for i, row in enumerate(distance):
        weight[i, np.argsort(row)[:n_neighbours]] = 1
    z = values - values.mean()
    return float(len(z) / weight.sum() * (z @ weight @ z) / (z @ z))


def test_morans_i_agrees_with_the_definition() -> None:
    rng = np.random.default_rng(0)
    xy_um, values = rng.uniform(size=(60, 2)) * 1000, rng.normal(size=(60, 5))  # no ties among neighbours
    found = morans_i(values, xy_um, 6)
    np.testing.assert_allclose(found, [_by_definition(values[:, j], xy_um, 6) for j in range(5)])


def test_morans_i_of_known_patterns() -> None:
    xy_um = _square(20)
    column, row = (xy_um / 100).astype(int).T
    patterns = np.stack([column, (column + row) % 2, np.full(400, 3.0)], axis=1).astype(np.float32)
    gradient, chessboard, constant = morans_i(patterns, xy_um, 4)
    assert gradient > 0.95
    assert chessboard < -0.85
    assert np.isnan(constant)


def test_sites_at_one_place_are_each_others_neighbours() -> None:
    xy_um = np.repeat(_square(5), 2, axis=0)
    values = np.repeat(np.random.default_rng(0).normal(size=(25, 1)), 2, axis=0)
    assert morans_i(values, xy_um, 1)[0] == pytest.approx(1.0)


def test_moran_ratio_tells_a_smooth_prediction_from_a_noisy_truth() -> None:
    rng = np.random.default_rng(0)
    xy_um = _square(20)
    smooth = np.sin(xy_um[:, :1] / 400) * np.ones((1, 8))
    noisy = smooth + rng.normal(size=smooth.shape)
    assert moran_ratio(noisy, smooth, xy_um, 4) > 1.5
    assert moran_ratio(noisy, noisy, xy_um, 4) == pytest.approx(1.0)
    assert moran_ratio(noisy, np.zeros_like(noisy), xy_um, 4) is None


def test_morans_i_needs_more_sites_than_neighbours() -> None:
    with pytest.raises(ValueError, match="more than 6 sites, found 4"):
        morans_i(np.zeros((4, 1)), _square(2), 6)


@pytest.mark.parametrize(("stated", "expected"), [(1.0, 0.9), (0.5, 0.589), (2.0, 0.999)])
def test_coverage_of_intervals_with_normal_errors(stated: float, expected: float) -> None:
    truth = np.random.default_rng(0).normal(size=(500, 100))
    flat = np.zeros_like(truth)
    assert interval_coverage(truth, flat, np.full_like(truth, stated)) == pytest.approx(expected, abs=0.01)


N_SPOTS, N_PANEL = 400, 25


def _counts(depth: float, spread: float = 0.5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return counts of a panel, total depths, and the true share of each gene."""
    rng = np.random.default_rng(1)
    share = 0.002 * np.exp(spread * rng.normal(size=(N_SPOTS, N_PANEL)))
    counts = rng.poisson(share * depth)
    rest = rng.poisson((1 - share.sum(axis=1)) * depth)
    return counts, counts.sum(axis=1) + rest, share


def test_deep_counts_have_a_noise_ceiling_near_one_and_shallow_ones_a_lower() -> None:
    means = []
    for depth in (1e6, 1e4, 1e3):
        counts, total, _ = _counts(depth)
        means.append(summarise_ceiling(noise_ceiling(counts, total, _genes(N_PANEL), 0))["pcc_mean"])
    assert means[0] > 0.98
    assert means[0] > means[1] + 0.05 > means[2] + 0.1


@pytest.mark.parametrize("depth", [2e3, 1e4])
def test_ceiling_is_what_the_true_expression_reaches(depth: float) -> None:
    counts, total, share = _counts(depth)
    measured = np.log1p(counts / total[:, None] * 1e4)
    reached = [np.corrcoef(np.log1p(1e4 * share[:, j]), measured[:, j])[0, 1] for j in range(N_PANEL)]
    found = noise_ceiling(counts, total, _genes(N_PANEL), 0)["ceiling"]
    assert found.mean() == pytest.approx(np.mean(reached), abs=0.05)


def test_pure_noise_has_a_ceiling_near_zero() -> None:
    counts, total, _ = _counts(1e4, spread=0.0)
    assert noise_ceiling(counts, total, _genes(N_PANEL), 0)["reliability"].mean() < 0.1


def test_noise_of_the_other_genes_does_not_raise_the_ceiling() -> None:
    """Few counts of other genes make most of the noise here; halves that shared them would seem to agree."""
    rng = np.random.default_rng(0)
    counts = rng.poisson(200, size=(N_SPOTS, 1))
    depth = counts.sum(axis=1) + rng.poisson(5, size=N_SPOTS)
    assert noise_ceiling(counts, depth, ["g0"], 0)["reliability"].mean() < 0.1


def test_ceiling_repeats_by_seed_and_marks_constant_genes() -> None:
    counts, total, _ = _counts(1e4)
    counts[:, 0] = 0
    first, second = (noise_ceiling(counts, total, _genes(N_PANEL), 3) for _ in range(2))
    np.testing.assert_array_equal(first["ceiling"], second["ceiling"])
    assert np.isnan(first.loc[0, "ceiling"])
    assert summarise_ceiling(first)["n_undefined"] == 1


def test_ceiling_refuses_normalised_values_and_a_depth_of_the_panel_alone() -> None:
    counts, total, _ = _counts(1e4)
    with pytest.raises(ValueError, match="raw counts"):
        noise_ceiling(np.log1p(counts), total, _genes(N_PANEL), 0)
    for value in (-1.0, np.nan, np.inf, 0.5):
        spoiled = counts.astype(float)
        spoiled[3, 4] = value
        with pytest.raises(ValueError, match="found 1 other values"):
            noise_ceiling(spoiled, total, _genes(N_PANEL), 0)
    with pytest.raises(ValueError, match="depth to be at least"):
        noise_ceiling(counts, counts.sum(axis=1) - 1, _genes(N_PANEL), 0)


def test_the_limit_is_what_the_other_half_of_the_genes_tells() -> None:
    rng = np.random.default_rng(0)
    programs, loadings = rng.normal(size=(300, 2)), rng.normal(size=(2, 60))
    signal = programs @ loadings
    noisy = signal + rng.normal(size=signal.shape)
    noisy[:, 0] = 1.0
    noisy[:, 1] = rng.normal(size=300)
    genes = [f"g{i}" for i in range(60)]
    found = reachable_limit(noisy[:200], noisy[200:], genes, 0).set_index("gene")["limit"]
    assert found.index.tolist() == genes
    assert np.isnan(found["g0"])
    assert abs(found["g1"]) < 0.3
    perfect = correlate(noisy[200:, 2:], signal[200:, 2:])
    np.testing.assert_allclose(found[2:], perfect, atol=0.1)
    assert np.mean(found[2:] - perfect) == pytest.approx(0, abs=0.02)
    assert summarise_limit(found.reset_index())["pcc_mean"] == pytest.approx(found.fillna(0).mean())


def test_the_limit_follows_from_the_seed() -> None:
    values = np.random.default_rng(0).normal(size=(60, 8))
    genes = list("abcdefgh")
    first, again, other = (reachable_limit(values[:40], values[40:], genes, s) for s in (1, 1, 2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(other)


@pytest.mark.parametrize(("n_visible", "n_genes", "is_known"), [(20, 4, True), (19, 4, False), (20, 3, False)])
def test_no_limit_of_few_spots_or_genes(n_visible: int, n_genes: int, is_known: bool) -> None:
    values = np.random.default_rng(0).normal(size=(40, n_genes))
    found = reachable_limit(values[:n_visible], values[n_visible:], list("abcd"[:n_genes]), 0)
    assert (found is not None) == is_known


def test_depth_is_removed_from_truth_and_prediction(pair) -> None:
    truth, prediction = pair
    rng = np.random.default_rng(1)
    depth = rng.lognormal(7, 1, len(truth)).round()
    depth[:3] = 10, 50, 49  # all count as 50
    x = np.log(np.maximum(depth, 50))
    truth, prediction = (
        truth + np.outer(x, rng.normal(size=N_GENES)),
        prediction + np.outer(x, rng.normal(size=N_GENES)),
    )
    design = np.column_stack([np.ones_like(x), x])
    residuals = [values - design @ np.linalg.lstsq(design, values, rcond=None)[0] for values in (truth, prediction)]
    expected = [stats.pearsonr(*columns)[0] for columns in zip(*(each.T for each in residuals), strict=True)]
    found = score_genes(truth, prediction, _genes(), depth=depth)
    np.testing.assert_allclose(found["pearson_depth_removed"], expected, atol=1e-9)
    # the formula of the first-order partial correlation, from three plain ones
    for gene in range(5):
        r = np.corrcoef([truth[:, gene], prediction[:, gene], x])
        partial = (r[0, 1] - r[0, 2] * r[1, 2]) / np.sqrt((1 - r[0, 2] ** 2) * (1 - r[1, 2] ** 2))
        assert found["pearson_depth_removed"][gene] == pytest.approx(partial, abs=1e-9)
    assert summarise(found)["pcc_depth_removed"] == pytest.approx(np.mean(expected), abs=1e-9)
    assert abs(np.mean(expected) - found["pearson"].mean()) > 0.02  # the depth counted


@pytest.mark.parametrize("spread", [1.0, 0.01])  # of the log depth, which may vary little
def test_what_is_a_line_on_the_depth_counts_as_0_without_it(pair, spread: float) -> None:
    truth, prediction = pair
    depth = np.random.default_rng(1).lognormal(7, spread, len(truth))
    prediction[:, 0] = 3 - 0.7 * np.log(depth)  # rounded to float32
    prediction[:, 1] = 2.0
    truth[:, 2] = 2 + 0.1 * np.log(depth)
    found = score_genes(truth, prediction, _genes(), depth=depth)["pearson_depth_removed"]
    assert found[:3].tolist() == [0.0, 0.0, 0.0]
    assert (found[3:] != 0).all() and found[3:].mean() > 0.2


def test_equal_depths_remove_nothing_and_unknown_ones_give_no_score(pair) -> None:
    found = score_genes(*pair, _genes(), depth=np.full(len(pair[0]), 1e4))
    np.testing.assert_allclose(found["pearson_depth_removed"], found["pearson"], atol=1e-9)
    found = score_genes(*pair, _genes())
    assert "pearson_depth_removed" not in found
    assert summarise(found)["pcc_depth_removed"] is None


def _maps(rows: int = 18, columns: int = 15, n_genes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return index (site, 2), true and predicted maps (row, column, gene) float32 of a full rectangle."""
    rng = np.random.default_rng(0)
    index = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1).reshape(-1, 2)
    truth = np.log1p(rng.poisson(rng.gamma(2, 2, n_genes), (rows, columns, n_genes))).astype(np.float32)
    return index, truth, (0.6 * truth + 0.3 * rng.random(truth.shape)).astype(np.float32)


@pytest.mark.parametrize("lattice", ["square", "hexagonal"])
def test_similarity_agrees_with_scikit_image(lattice: str) -> None:
    from skimage.metrics import structural_similarity as reference

    index, truth, prediction = _maps()
    if lattice == "hexagonal":  # columns count in half pitches, and every other row begins with an odd one
        index = np.column_stack([2 * index[:, 0] + index[:, 1] % 2, index[:, 1]])
    n_genes = truth.shape[2]
    order = np.random.default_rng(1).permutation(len(index))  # sites in any order
    windows = lattice_windows(index[order], lattice)
    found = structural_similarity(truth.reshape(-1, n_genes)[order], prediction.reshape(-1, n_genes)[order], windows)
    expected = [
        reference(
            *(each[..., j].astype(float) for each in (truth, prediction)), data_range=float(np.ptp(truth[..., j]))
        )
        for j in range(n_genes)
    ]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (found > 0.2).all() and (found < 0.95).all()


def test_only_sites_of_a_window_count() -> None:
    """Half of the points are no sites: each window compares the others, by the formula of the SSIM."""
    index, truth, prediction = _maps(n_genes=1)
    kept = np.random.default_rng(2).random(len(index)) < 0.5
    kept[[0, -1]] = True  # the extent stays
    index, a, b = index[kept], truth.reshape(-1)[kept].astype(float), prediction.reshape(-1)[kept].astype(float)
    c1, c2 = (0.01 * np.ptp(a)) ** 2, (0.03 * np.ptp(a)) ** 2
    expected = []
    for column, row in index:
        if not (3 <= column < 12 and 3 <= row < 15):
            continue
        near = (np.abs(index - [column, row]) <= 3).all(axis=1)
        (va, vab), (_, vb) = np.cov(a[near], b[near])
        ma, mb = a[near].mean(), b[near].mean()
        expected.append((2 * ma * mb + c1) * (2 * vab + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2)))
    assert len(expected) > 30
    windows = lattice_windows(index, "square")
    assert windows.shape == (len(expected), len(index))
    assert structural_similarity(a[:, None], b[:, None], windows)[0] == pytest.approx(np.mean(expected), abs=1e-9)


def test_similarity_of_equal_constant_and_small_maps() -> None:
    index, truth, prediction = (each.reshape(-1, each.shape[-1]) for each in _maps())
    truth[:, 0] = 2.0
    windows = lattice_windows(index, "square")
    same = structural_similarity(truth, truth, windows)
    assert np.isnan(same[0])
    np.testing.assert_allclose(same[1:], 1)
    scores = score_genes(truth, prediction, _genes(5), windows=windows)
    np.testing.assert_array_equal(scores["ssim"], structural_similarity(truth, prediction, windows))
    assert summarise(scores)["ssim"] == pytest.approx(scores["ssim"][1:].mean())  # an undefined one does not count
    assert lattice_windows(index[index[:, 0] < 6], "square") is None  # narrower than a window
    assert summarise(score_genes(truth, prediction, _genes(5)))["ssim"] is None


def test_profiles_of_spots_agree_with_scipy(pair) -> None:
    truth, prediction = pair
    expected = [stats.pearsonr(a, b).statistic for a, b in zip(truth, prediction, strict=True)]
    assert correlate_spots(truth, prediction) == pytest.approx(np.mean(expected), abs=1e-6)
    truth[0] = 1.0
    assert correlate_spots(truth, prediction) == pytest.approx(np.sum(expected[1:]) / len(truth), abs=1e-6)


def test_gene_structure_agrees_with_scipy(pair) -> None:
    truth, prediction = (each[:, :12] for each in pair)
    prediction = prediction + truth[:, [3]]  # structure of its own
    pairs = [(i, j) for i in range(12) for j in range(i)]
    both = [[stats.pearsonr(v[:, i], v[:, j]).statistic for i, j in pairs] for v in (truth, prediction)]
    assert gene_structure(truth, prediction) == pytest.approx(stats.pearsonr(*both).statistic, abs=1e-6)


def test_morans_i_agrees_with_squidpy() -> None:
    sq = pytest.importorskip("squidpy")
    from anndata import AnnData

    rng = np.random.default_rng(0)
    xy_um, values = rng.uniform(size=(60, 2)) * 1000, rng.normal(size=(60, 5)) + np.arange(60)[:, None] / 30
    section = AnnData(values, obsm={"spatial": xy_um})
    sq.gr.spatial_neighbors_knn(section, n_neighs=6)
    sq.gr.spatial_autocorr(section, mode="moran", n_perms=None, transformation=True)
    expected = section.uns["moranI"].loc[section.var_names, "I"]
    np.testing.assert_allclose(morans_i(values, xy_um, 6), expected, atol=1e-6)


def test_draws_are_scored_one_by_one_and_their_structure_together(pair) -> None:
    truth, prediction = pair
    side = int(np.ceil(np.sqrt(len(truth))))
    xy = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2)[: len(truth)].astype(float)
    truth += xy[:, :1]
    truth[:, 0] = 1.0  # a gene that does not vary has no ratio
    noise = np.random.default_rng(5).normal(size=truth.shape)
    draws = np.stack([truth * 2, prediction + xy[:, 1:] + noise, np.ones_like(truth)])
    found = score_draws(truth, draws, xy, 4)
    assert found["n_draws"] == 3
    ratios = [np.median(drawn[:, 1:].var(axis=0) / truth[:, 1:].var(axis=0)) for drawn in draws]
    assert ratios[0] == pytest.approx(4) and ratios[2] == 0
    assert found["variance_ratio"] == pytest.approx(np.mean(ratios))
    of_moran = [moran_ratio(truth, drawn, xy, 4) for drawn in draws[:2]]  # that of the constant draw is unknown
    assert moran_ratio(truth, draws[2], xy, 4) is None and of_moran[0] == pytest.approx(1)
    assert found["moran_ratio"] == pytest.approx(np.mean(of_moran))
    assert found["gene_structure"] == pytest.approx(gene_structure(truth, np.concatenate(list(draws))))
    assert score_draws(truth, draws[2:], xy, 4)["moran_ratio"] is None
