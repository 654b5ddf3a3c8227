"""Sites take features by their id, from spots and from the grid; sections are pooled only where they are alike."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.histology.backbone import BackboneIdentity
from spamcaf.histology.features import FeatureKey, Features
from spamcaf.pipelines.joins import EVERY, grid_sites, measured_other_sections, sites_of
from spamcaf.pipelines.references import reference_counts
from spamcaf.sections.panel import normalise_expression
from spamcaf.sections.sites import Index

IDENTITY = BackboneIdentity("tiny", "package:tiny/x", "a" * 64, "c", 2, "MIT")
GRID = pd.DataFrame(
    {
        "site_id": ["b_s0", "b_s1", "a_s0", "a_s1"],
        "parent_barcode": ["b", "b", "a", "a"],
        "sub_index": [0, 1, 0, 1],
        "x_px": [10.0, 15.0, 20.0, 25.0],
        "y_px": [1.0, 2.0, 3.0, 4.0],
    }
)


def _features(ids: list[str], xy_px: np.ndarray, first: int) -> Features:
    windows = np.repeat(np.arange(first, first + len(ids), dtype=np.float32), 18).reshape(-1, 9, 2)
    key = FeatureKey.of("slide", IDENTITY, {}, 672, ids, xy_px)
    padded = np.arange(first, first + len(ids))
    return Features(tuple(ids), windows, padded, key, len(ids), whole=windows[:, 0] + 100)


SPOTS = _features(["a", "b"], np.array([[20.0, 3.0], [10.0, 1.0]]), 1)
BETWEEN = _features(["b_s1", "a_s1"], np.array([[15.0, 2.0], [25.0, 4.0]]), 5)


def test_every_site_has_its_own_features() -> None:
    stored = grid_sites(GRID, SPOTS, BETWEEN, mpp=0.5)
    sites = stored.at(EVERY)
    assert sites.target[:, 0].tolist() == [2, 5, 1, 6]
    assert sites.neighbours[:, 8, 1].tolist() == [2, 5, 1, 6]
    assert sites.whole is not None and sites.whole[:, 0].tolist() == [102, 105, 101, 106]
    assert stored.n_px_padded.tolist() == [2, 5, 1, 6]
    np.testing.assert_array_equal(sites.xy_um, GRID[["x_px", "y_px"]].to_numpy() / 2)


def test_a_grid_of_spots_alone_needs_no_other_features() -> None:
    sites = grid_sites(GRID[GRID["sub_index"] == 0], SPOTS, replace(BETWEEN, ids=()), mpp=1.0)
    assert sites.at(EVERY).target[:, 0].tolist() == [2, 1]


@pytest.mark.parametrize("index", [slice(1, 3), np.array([3, 0, 3]), np.array([False, True, True, False])])
def test_a_part_reads_only_its_own_rows(index: Index) -> None:
    rows_read: list[int] = []

    class Rows(np.ndarray):
        def __getitem__(self, rows: np.ndarray) -> np.ndarray:
            rows_read.extend(np.asarray(rows).tolist())
            return np.asarray(self)[rows]

    spots, between = (replace(part, windows=part.windows.view(Rows)) for part in (SPOTS, BETWEEN))
    sites = grid_sites(GRID, spots, between, mpp=1.0)
    assert not rows_read
    part = sites.at(index)
    assert part.target[:, 0].tolist() == np.array([2, 5, 1, 6])[index].tolist()
    assert len(rows_read) == len(part) == len(part.xy_um)


@pytest.mark.parametrize("lacking", [0, 1])
def test_without_all_shrunk_windows_there_are_none(lacking: int) -> None:
    parts = [SPOTS, BETWEEN]
    parts[lacking] = replace(parts[lacking], whole=None)
    assert grid_sites(GRID, *parts, mpp=1.0).at(EVERY).whole is None


def test_features_of_other_coordinates_are_refused() -> None:
    with pytest.raises(InputError, match="other places"):
        grid_sites(GRID.assign(x_px=GRID["x_px"] + 1), SPOTS, BETWEEN, mpp=1.0)


@pytest.mark.parametrize("change", [{"slide": "other"}, {"view": "{}x"}, {"window_px": 3}, {"backbone": "other"}])
def test_spots_and_grid_of_two_slides_or_views_are_refused(change: dict[str, Any]) -> None:
    other = replace(BETWEEN, key=replace(BETWEEN.key, **change))
    with pytest.raises(InputError, match="one slide, embedded in one way"):
        grid_sites(GRID, SPOTS, other, mpp=1.0)


def test_sites_are_found_by_id() -> None:
    sites = sites_of(["b", "a"], np.zeros((2, 2)), SPOTS).at(EVERY)
    assert sites.whole is not None
    assert (sites.target[:, 0].tolist(), sites.whole[:, 0].tolist()) == ([2, 1], [102, 101])
    assert sites_of(["b"], np.zeros((1, 2)), replace(SPOTS, whole=None)).at(EVERY).whole is None


SPOT_IDS = ["s0", "s1", "s2"]
SPOT_XY = np.array([[0.0, 0.0], [200.0, 0.0], [0.0, 200.0]])


def _section(genes: list[str], pitch_um: float = 100.0) -> AnnData:
    section = AnnData(csr_matrix(np.arange(1, 10).reshape(3, 3)), obs=pd.DataFrame(index=SPOT_IDS))
    section.var_names, section.var["gene_ids"] = genes, [f"E{gene}" for gene in genes]
    section.obsm["spatial"] = SPOT_XY
    section.uns["section"] = {"name": "S", "mpp": 0.5, "pitch_um": pitch_um}
    return section


OURS = normalise_expression(_section(["A", "B", "C"]), pd.DataFrame({"gene": ["A", "C"]}))
THEIR_FEATURES = _features(SPOT_IDS, SPOT_XY, 1)


def _pooled(section: AnnData, features: Features) -> Any:
    """What the other section 'S2', with these features, adds to ours."""
    others = SimpleNamespace(names=("S2",), sections=lambda: [section], features=lambda: [features])
    return measured_other_sections(others, OURS, THEIR_FEATURES.key)


def test_another_section_is_pooled_with_its_own_features_and_our_genes() -> None:
    (measured,) = _pooled(_section(["B", "C", "A"]), THEIR_FEATURES)
    np.testing.assert_array_equal(measured.sites.xy_um, SPOT_XY / 2)
    assert measured.sites.target[:, 0].tolist() == [1, 2, 3]
    np.testing.assert_allclose(measured.expression[0], np.log1p(np.array([3, 2]) / 6 * 1e4), rtol=1e-6)
    assert measured.depth.tolist() == [6, 15, 24]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone": "other"}, "features of another backbone in section 'S2'"),
        ({"view": '{"tile_um": 224}'}, "features of another tiles in section 'S2'"),
    ],
)
def test_features_of_another_backbone_or_other_tiles_are_not_pooled(change: dict[str, str], message: str) -> None:
    features = replace(THEIR_FEATURES, key=replace(THEIR_FEATURES.key, **change))
    with pytest.raises(InputError, match=f"{message}.*feature_extraction --params section=S2"):
        _pooled(_section(["A", "B", "C"]), features)


@pytest.mark.parametrize("change", [{"slide": "other"}, {"window_px": 500}])
def test_another_slide_of_another_scale_is_pooled(change: dict[str, Any]) -> None:
    features = replace(THEIR_FEATURES, key=replace(THEIR_FEATURES.key, **change))
    assert len(_pooled(_section(["A", "B", "C"]), features)[0]) == 3


@pytest.mark.parametrize("pitch_um", [200.0, 55.0, 103.5, 96.5])
def test_spots_of_another_pitch_are_not_pooled(pitch_um: float) -> None:
    message = f"spots {pitch_um:g} um apart in section 'S2', 100 um in this one.*one technology.*other_sections"
    with pytest.raises(InputError, match=message):
        _pooled(_section(["A", "B", "C"], pitch_um), THEIR_FEATURES)


@pytest.mark.parametrize("pitch_um", [102.5, 97.5])
def test_pitches_within_rounding_are_pooled(pitch_um: float) -> None:
    assert len(_pooled(_section(["A", "B", "C"], pitch_um), THEIR_FEATURES)[0]) == 3


def _counted(n_spots: int, genes: list[str], seed: int) -> AnnData:
    counts = np.random.default_rng(seed).poisson(5, (n_spots, len(genes))).astype(np.int32)
    var = pd.DataFrame({"gene_ids": [f"ENSG{gene[1:]:0>11}" for gene in genes]}, index=genes)
    return AnnData(csr_matrix(counts), pd.DataFrame(index=[f"s{i}" for i in range(n_spots)]), var)


@pytest.fixture
def expression() -> AnnData:
    section = _counted(30, [f"g{i}" for i in range(12)], 0)
    section.obsm["spatial"] = np.zeros((30, 2))
    return normalise_expression(
        section, pd.DataFrame({"gene": [f"g{i}" for i in range(8)]}), pd.DataFrame({"gene": ["g9", "g11"]})
    )


def _loaded(*references: tuple[str, AnnData]) -> Any:
    return SimpleNamespace(load=lambda: iter(references))


def test_references_are_joined_by_gene_and_lack_what_they_do_not_have(expression: AnnData) -> None:
    other = _counted(40, ["g11", "g3", "g0", "g7", "g20", "g5"], 1)
    for named in (other, other.copy()):
        if named is not other:  # symbols alone
            named.var["gene_ids"] = named.var_names
        (found,) = reference_counts(_loaded(("other", named)), expression, 0)
        depth = np.asarray(other.X.sum(axis=1)).ravel()
        expected = np.zeros((40, 10))
        for column, gene in {0: "g0", 3: "g3", 5: "g5", 7: "g7"}.items():
            expected[:, column] = np.log1p(1e4 * other[:, gene].X.toarray().ravel() / depth)
        if named is other:
            expected[:, 9] = np.log1p(1e4 * other[:, "g11"].X.toarray().ravel() / depth)
        np.testing.assert_allclose(found.expression, expected, rtol=1e-6)
        np.testing.assert_array_equal(found.depth, depth)


def test_a_reference_never_shows_spots_of_the_section_itself(expression: AnnData) -> None:
    own = _counted(30, [f"g{i}" for i in range(12)], 0)
    own.obs_names = [f"renamed-{i}" for i in range(30)]
    other = _counted(20, [f"g{i}" for i in range(12)], 1)
    import anndata

    both = anndata.concat([other, own[::-1]])
    both.var = own.var
    (found,) = reference_counts(_loaded(("both", both)), expression, 0)
    assert len(found.depth) == 20
    np.testing.assert_array_equal(found.depth, np.asarray(other.X.sum(axis=1)).ravel())


def test_a_reference_of_other_genes_is_refused(expression: AnnData) -> None:
    with pytest.raises(InputError, match="0 of 10 genes .* in the reference 'mouse'.*same species"):
        reference_counts(_loaded(("mouse", _counted(5, ["g90", "g91"], 1))), expression, 0)


def test_a_large_reference_is_sampled(expression: AnnData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spamcaf.pipelines.references.MAX_REFERENCE_ROWS", 15)
    genes = [f"g{i}" for i in range(12)]
    (found,) = reference_counts(_loaded(("atlas", _counted(400, genes, 1))), expression, 0)
    assert len(found.depth) == 15
