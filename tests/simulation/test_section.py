"""Spots lie on Visium's lattice; counts, image and truth fit together; hidden fields show in spots alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy.spatial import cKDTree
from scipy.spatial.distance import cdist
from sklearn.linear_model import Ridge

from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue, visium_spots
from spamcaf.simulation.tissue_map import DOMAINS

if TYPE_CHECKING:
    from anndata import AnnData


@pytest.mark.parametrize("size", [(1900, 1900), (700, 1300), (60, 60)])
def test_spots_are_a_turned_hexagonal_lattice_with_visium_indices(size: tuple[float, float]) -> None:
    spots, xy = visium_spots(SimulationSettings(width_um=size[0], height_um=size[1]))
    row, col = spots["array_row"].to_numpy(), spots["array_col"].to_numpy()
    assert ((row + col) % 2 == 0).all() and row.min() == 0 and col.min() in {0, 1}
    assert ((xy >= 27.5) & (xy <= np.array(size) - 27.5)).all()
    turned = (xy - xy[0]) @ np.array([np.exp(-1j * np.pi / 180), 1j * np.exp(-1j * np.pi / 180)])
    lattice = 50.0 * (col - col[0]) + 1j * 50 * np.sqrt(3) * (row - row[0])
    np.testing.assert_allclose(turned, lattice, atol=1e-6)


def test_neighbours_are_exactly_a_pitch_apart() -> None:
    _, xy = visium_spots(SimulationSettings())
    distance, _ = cKDTree(xy).query(xy, k=7)
    inner = ((xy > 150) & (xy < 1750)).all(axis=1)
    np.testing.assert_allclose(distance[inner, 1:], 100.0, atol=1e-9)


def test_barcodes_are_unique_and_look_like_10x() -> None:
    spots, _ = visium_spots(SimulationSettings(width_um=6500, height_um=6500))
    assert spots.index.is_unique
    assert all(re.fullmatch("[ACGT]{16}-1", barcode) for barcode in spots.index)


def test_a_image_smaller_than_a_spot_is_refused() -> None:
    with pytest.raises(InputError, match="width_um"):
        visium_spots(SimulationSettings(width_um=40, height_um=40))


def _normalised(section: AnnData) -> np.ndarray:
    counts = section.X.toarray().astype(float)
    return np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))


def _per_gene_pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0) + 1e-12)


def _image_statistics(tissue: SimulatedTissue, xy_px: np.ndarray) -> np.ndarray:
    """Return mean, spread, darkest and whitest share of the pixels around each spot."""
    height, width, _ = tissue.image_shape
    rows = []
    for x, y in xy_px.astype(int):
        left, top = max(x - 30, 0), max(y - 30, 0)
        tile = tissue.render(left, top, min(60, width - left), min(60, height - top)).reshape(-1, 3)
        rows.append([*tile.mean(axis=0), *tile.std(axis=0), (tile[:, 0] < 140).mean(), (tile.min(axis=1) > 220).mean()])
    features = np.array(rows, dtype=float)
    return (features - features.mean(axis=0)) / features.std(axis=0)


def test_two_tissues_of_one_seed_are_equal_and_of_two_seeds_are_not(tissue: SimulatedTissue, section: AnnData) -> None:
    again = SimulatedTissue(tissue.settings).section()
    assert (again.X != section.X).nnz == 0
    assert again.obs.equals(section.obs) and again.var.equals(section.var)
    np.testing.assert_array_equal(again.obsm["spatial"], section.obsm["spatial"])
    for key, image in section.uns["spatial"]["simulated"]["images"].items():
        np.testing.assert_array_equal(again.uns["spatial"]["simulated"]["images"][key], image)
    other = SimulatedTissue(tissue.settings.model_copy(update={"seed": 8}))
    assert set(other.positions.index).isdisjoint(section.obs_names)
    assert not np.array_equal(other.render(900, 900, 64, 64), tissue.render(900, 900, 64, 64))
    assert other.genes.equals(tissue.genes)


def test_section_keeps_the_contract(tissue: SimulatedTissue, section: AnnData) -> None:
    assert section.X.format == "csr" and section.X.dtype == np.int32
    assert section.obs_names.is_unique and section.var_names.is_unique
    assert section.obsm["spatial"].dtype == np.float64
    assert section.uns["section"] == {
        "name": "simulated", "lattice": "hexagonal", "pitch_um": 100.0, "spot_diameter_um": 55.0, "mpp": 1.0,
    }  # fmt: skip
    library = section.uns["spatial"]["simulated"]
    assert library["scalefactors"]["spot_diameter_fullres"] == 65.0
    assert library["scalefactors"]["tissue_hires_scalef"] == 1.0
    assert library["images"]["lowres"].shape == (600, 600, 3)
    positions = tissue.positions.loc[section.obs_names]
    np.testing.assert_array_equal(positions[["pxl_col_in_fullres", "pxl_row_in_fullres"]], section.obsm["spatial"])
    assert set(tissue.positions.index[tissue.positions["in_tissue"] == 1]) == set(section.obs_names)


def test_counts_look_like_visium(section: AnnData) -> None:
    assert 280 < section.n_obs < 360
    assert 0.70 < 1 - section.X.nnz / np.prod(section.shape) < 0.90
    depth = np.asarray(section.X.sum(axis=1)).ravel()
    assert 0.9 < np.median(depth) / 6000 < 1.1
    assert 1.3 < np.quantile(depth, 0.9) / np.median(depth) < 3
    is_never_seen = np.asarray(section.X.sum(axis=0)).ravel() == 0
    assert 0 < is_never_seen.mean() < 0.15
    assert is_never_seen[section.var["driver"] == "silent"].all()


def test_every_domain_has_spots_and_its_markers(section: AnnData) -> None:
    assert (section.obs["domain"].value_counts() >= 15).all() and len(section.obs["domain"].cat.categories) >= 4
    expression = _normalised(section)
    markers = {"tumour": "ERBB2", "stroma": "COL1A1", "adipose": "PLIN1", "lymphoid": "PTPRC"}
    for domain, symbol in markers.items():
        gene = expression[:, section.var_names.get_loc(symbol)]
        means = {name: gene[section.obs["domain"] == name].mean() for name in (d.name for d in DOMAINS)}
        assert max(means, key=means.__getitem__) == domain


def test_counts_are_noisy_samples_of_the_truth(tissue: SimulatedTissue, section: AnnData) -> None:
    truth = tissue.true_expression(section.obsm["spatial"])
    assert truth.dtype == np.float32 and truth.shape == section.shape
    np.testing.assert_allclose(np.expm1(truth.astype(float)).sum(axis=1), 1e4, rtol=1e-3)
    share = np.asarray(section.X.sum(axis=0)).ravel() / section.X.sum()
    expected = np.expm1(truth).mean(axis=0) / 1e4
    assert np.corrcoef(np.log(share[share > 1e-4]), np.log(expected[share > 1e-4]))[0, 1] > 0.95
    found = _per_gene_pearson(truth, _normalised(section))
    driver = section.var["driver"].to_numpy()
    assert 0.15 < found[np.isin(driver, ["visible", "hidden", "both"])].mean() < 0.5
    assert abs(found[driver == "flat"].mean()) < 0.06


def test_smoothed_counts_come_closer_to_the_truth(tissue: SimulatedTissue, section: AnnData) -> None:
    xy = section.obsm["spatial"]
    truth, expression = tissue.true_expression(xy), _normalised(section)
    near = (cdist(xy, xy) < 205).astype(float)
    smoothed = near @ expression / near.sum(axis=1, keepdims=True)
    hidden = section.var["driver"].to_numpy() == "hidden"
    raw, smooth = _per_gene_pearson(truth, expression)[hidden], _per_gene_pearson(truth, smoothed)[hidden]
    assert smooth.mean() > raw.mean() + 0.1


@pytest.fixture(scope="module")
def predicted(tissue: SimulatedTissue, section: AnnData) -> dict[tuple[str, str], float]:
    """Mean Pearson on held-out spots, per predictor and driver, over genes that are counted at all."""
    xy, expression = section.obsm["spatial"], _normalised(section)
    order = np.random.default_rng(0).permutation(section.n_obs)
    train, held = order[: section.n_obs // 2], order[section.n_obs // 2 :]
    features = _image_statistics(tissue, xy)
    weight = 1 / cdist(xy[held], xy[train]) ** 2
    predictions = {
        "image": Ridge(30).fit(features[train], expression[train]).predict(features[held]),
        "neighbours": weight @ expression[train] / weight.sum(axis=1, keepdims=True),
    }
    is_counted = np.asarray(section.X.mean(axis=0)).ravel() > 0.3
    driver = section.var["driver"].to_numpy()
    return {
        (name, kind): float(_per_gene_pearson(p, expression[held])[is_counted & (driver == kind)].mean())
        for name, p in predictions.items()
        for kind in ("visible", "hidden", "flat")
    }


def test_visible_genes_need_the_image_and_hidden_genes_the_neighbours(
    predicted: dict[tuple[str, str], float],
) -> None:
    assert predicted["image", "visible"] > 0.12
    assert predicted["image", "visible"] > predicted["neighbours", "visible"] + 0.05
    assert predicted["neighbours", "hidden"] > 0.15
    assert abs(predicted["image", "hidden"]) < 0.06


def test_flat_genes_cannot_be_predicted(predicted: dict[tuple[str, str], float]) -> None:
    assert abs(predicted["image", "flat"]) < 0.04 and abs(predicted["neighbours", "flat"]) < 0.04


def test_truth_does_not_depend_on_the_other_sites(tissue: SimulatedTissue) -> None:
    xy = np.random.default_rng(2).uniform(300, 1600, (300, 2))
    np.testing.assert_allclose(tissue.true_expression(xy)[270:], tissue.true_expression(xy[270:]), atol=1e-5)
