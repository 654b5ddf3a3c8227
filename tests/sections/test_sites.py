"""Sites are selected whole; a grid holds exactly k x k sites per spot; sites without counts cover an image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from anndata import AnnData
from scipy.spatial import cKDTree

from spamcaf.errors import InputError
from spamcaf.sections import sites
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.lattice import UNIT_BASIS, fit_lattice
from spamcaf.sections.sites import (
    CELL_REACH,
    Measured,
    Sites,
    as_section,
    iter_chunks,
    lay_grid,
    lay_raster,
    lay_sites,
    resolve_mpp,
    stack,
)

N_SITES = 5
WINDOWS = np.arange(N_SITES * 18, dtype=np.float32).reshape(N_SITES, 9, 2)
SITES_XY = np.arange(N_SITES * 2, dtype=float).reshape(N_SITES, 2)


@pytest.mark.parametrize("index", [np.array([3, 1]), np.arange(N_SITES) > 2, slice(1, 3)])
def test_every_part_follows_the_index(index) -> None:
    found = Sites(SITES_XY, WINDOWS[:, 4], WINDOWS, WINDOWS[:, 0]).at(index)
    np.testing.assert_array_equal(found.xy_um, SITES_XY[index])
    np.testing.assert_array_equal(found.target, WINDOWS[index, 4])
    np.testing.assert_array_equal(found.neighbours, WINDOWS[index])
    np.testing.assert_array_equal(found.whole, WINDOWS[index, 0])
    assert Sites(SITES_XY, WINDOWS[:, 4], WINDOWS).at(index).whole is None


@pytest.mark.parametrize(("n", "lengths"), [(7, [3, 3, 1]), (6, [3, 3]), (2, [2]), (0, [0])])
def test_chunks_are_all_sites_in_their_order(n: int, lengths: list[int]) -> None:
    xy = np.arange(2.0 * n).reshape(n, 2)
    sites = Sites(xy, np.zeros((n, 4), np.float32), np.zeros((n, 9, 4), np.float32))
    chunks = list(iter_chunks(sites, 3))
    assert [len(chunk) for chunk in chunks] == lengths
    np.testing.assert_array_equal(np.concatenate([chunk.xy_um for chunk in chunks]), xy)


def test_sections_are_stacked_one_after_the_other() -> None:
    def measured(n: int, others: np.ndarray | None) -> Measured:
        features = np.full((n, 4), n, np.float32), np.full((n, 9, 4), n, np.float32)
        sites = Sites(np.full((n, 2), float(n)), *features)
        return Measured(sites, np.full((n, 5), n, np.float32), np.full(n, float(n)), others)

    a, b = measured(2, np.ones((2, 6), np.float32)), measured(3, np.zeros((3, 6), np.float32))
    both = stack([a, b])
    for found in (both.sites.xy_um[:, 0], both.expression[:, 0], both.depth):
        np.testing.assert_array_equal(found, [2, 2, 3, 3, 3])
    assert both.others is not None and both.others[:, 0].tolist() == [1, 1, 0, 0, 0]
    assert stack([a, measured(3, None)]).others is None and stack([a]) is a


def test_parts_of_other_lengths_are_refused() -> None:
    for parts in ((WINDOWS[1:, 4], WINDOWS), (WINDOWS[:, 4], WINDOWS[1:]), (WINDOWS[:, 4], WINDOWS, WINDOWS[1:, 0])):
        with pytest.raises(ValueError, match="the same site ids"):
            Sites(SITES_XY, *parts)


PITCH_PX = 140.0


def square(section: AnnData) -> AnnData:
    """The same spots on a square lattice."""
    section.obs["array_col"] //= 2
    section.obsm["spatial"] = section.obs[["array_col", "array_row"]].to_numpy(float) * PITCH_PX + (500, 200)
    section.uns["section"]["lattice"] = "square"
    return section


@pytest.fixture(params=["hexagonal", "square"])
def section(make_section: Callable[..., AnnData], request: pytest.FixtureRequest) -> AnnData:
    return make_section() if request.param == "hexagonal" else square(make_section())


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_sites_are_unique_and_k_x_k_per_spot_inside(section: AnnData, k: int) -> None:
    grid = lay_grid(section, lattice_of(section), k)
    assert grid["site_id"].is_unique
    assert not grid[["array_row", "array_col"]].duplicated().any()
    xy, spots = grid[["x_px", "y_px"]].to_numpy(), section.obsm["spatial"]
    nearest = cKDTree(xy).query(xy, k=2)[0][:, 1]
    np.testing.assert_allclose(nearest, PITCH_PX / k, rtol=1e-9)
    tree = cKDTree(spots)
    n_around = {"hexagonal": 19, "square": 13}[section.uns["section"]["lattice"]]
    inner = [i for i, near in enumerate(tree.query_ball_point(spots, 2.1 * PITCH_PX)) if len(near) == n_around]
    assert inner  # all of their neighbours, and those of these, are there
    shares = np.zeros(len(spots))
    for at in xy:  # a site between spots counts for each of them in equal parts
        closest = tree.query(at)[0]
        owners = tree.query_ball_point(at, closest + 1e-6)
        shares[owners] += 1 / len(owners)
    np.testing.assert_allclose(shares[inner], k * k)
    if k == 1:
        assert len(grid) == section.n_obs


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_the_map_reaches_as_far_on_all_sides(section: AnnData, k: int) -> None:
    """Turned by half a turn, lattice and sites fall on themselves."""
    spots = section.obsm["spatial"]
    centre = spots[np.argmin(np.linalg.norm(spots - spots.mean(axis=0), axis=1))]
    chosen = section[np.linalg.norm(spots - centre, axis=1) < 3.1 * PITCH_PX].copy()
    xy = lay_grid(chosen, lattice_of(chosen), k)[["x_px", "y_px"]].to_numpy()
    np.testing.assert_allclose(cKDTree(xy).query(2 * centre - xy)[0], 0, atol=1e-6)


@pytest.mark.parametrize("k", [2, 3, 4, 7])
def test_no_site_lies_beyond_the_cells_of_the_spots(section: AnnData, k: int) -> None:
    spots = section.obsm["spatial"]
    distance = cKDTree(spots).query(lay_grid(section, lattice_of(section), k)[["x_px", "y_px"]].to_numpy())[0]
    kind = section.uns["section"]["lattice"]
    assert distance.max() <= CELL_REACH[kind] * PITCH_PX * (1 + 1e-9)
    assert distance.max() >= (CELL_REACH[kind] - 1 / k) * PITCH_PX
    # a spot all alone keeps every site that is nearest to it, also those that are as near to neighbours
    alone = lay_grid(section[:1].copy(), lattice_of(section), k)
    steps = np.array([(i, j) for i in range(-k, k + 1) for j in range(-k, k + 1)]) / k @ UNIT_BASIS[kind]
    around = np.array([(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)]) @ UNIT_BASIS[kind]
    to_spots = np.linalg.norm(steps[:, None] - around, axis=2)
    assert len(alone) >= (to_spots[:, 4] <= to_spots.min(axis=1) + 1e-9).sum()


@pytest.mark.parametrize("pitch_um", [8.0, 30.0, 250.0])
def test_a_raster_has_its_pitch_and_reaches_as_far_on_all_sides(section: AnnData, pitch_um: float) -> None:
    grid = lay_raster(section, lattice_of(section), pitch_um)
    assert grid["site_id"].is_unique and (grid["sub_index"] > 0).all()
    xy, spots = grid[["x_px", "y_px"]].to_numpy(), section.obsm["spatial"]
    pitch_px = pitch_um / section.uns["section"]["mpp"]
    index = grid[["array_col", "array_row"]].to_numpy()
    np.testing.assert_allclose(xy - index * pitch_px, np.tile(xy[0] - index[0] * pitch_px, (len(xy), 1)), atol=1e-6)
    distance, nearest = cKDTree(spots).query(xy)
    assert section.obs_names[nearest].tolist() == grid["parent_barcode"].tolist() or pitch_um > 30
    reach = {"hexagonal": 3**-0.5, "square": 2**-0.5}[section.uns["section"]["lattice"]] * PITCH_PX
    assert distance.max() <= reach * 1.001
    if pitch_um == 8.0:
        assert distance.max() > 0.97 * reach
        before, beyond = spots.min(axis=0) - xy.min(axis=0), xy.max(axis=0) - spots.max(axis=0)
        np.testing.assert_allclose(before, beyond, atol=1e-6)
        assert (before > reach - 2 * pitch_px).all()


def test_a_raster_that_memory_cannot_hold_is_refused_before_it_is_made(section: AnnData, monkeypatch) -> None:
    monkeypatch.setattr(sites, "available_bytes", lambda: 10**6)
    with pytest.raises(InputError, match=r"grid.pitch_um=0.5: up to .* million sites.*--params grid.pitch_um=5"):
        lay_raster(section, lattice_of(section), 0.5)
    assert len(lay_raster(section, lattice_of(section), 100.0))
    # its estimate: the discs around spots, or the whole extent, whichever holds fewer sites
    for pitch_um in (3.0, 60.0):
        monkeypatch.setattr(sites, "available_bytes", lambda: None)
        n_sites = len(lay_raster(section, lattice_of(section), pitch_um))
        monkeypatch.setattr(sites, "available_bytes", lambda n=n_sites: n * sites.SITE_BYTES * 0.99)
        with pytest.raises(InputError, match="memory"):
            lay_raster(section, lattice_of(section), pitch_um)
        monkeypatch.setattr(sites, "available_bytes", lambda n=n_sites: n * sites.SITE_BYTES * 1.7)
        assert len(lay_raster(section, lattice_of(section), pitch_um)) == n_sites


@pytest.mark.parametrize("k", [1, 2, 3])
def test_site_0_is_the_spot(section: AnnData, k: int) -> None:
    grid = lay_grid(section, lattice_of(section), k)
    spots = grid[grid["sub_index"] == 0]
    assert spots["site_id"].tolist() == [f"{name}_s0" for name in section.obs_names]
    assert spots["parent_barcode"].tolist() == section.obs_names.tolist()
    np.testing.assert_array_equal(spots[["x_px", "y_px"]], section.obsm["spatial"])
    np.testing.assert_array_equal(spots[["array_row", "array_col"]], section.obs[["array_row", "array_col"]] * k)


def test_k_2_lays_the_midpoints_of_neighbours(section: AnnData) -> None:
    grid = lay_grid(section, lattice_of(section), 2)
    xy = section.obsm["spatial"]
    neighbours = np.array(sorted(cKDTree(xy).query_pairs(PITCH_PX * 1.01)))
    sites = cKDTree(grid[["x_px", "y_px"]].to_numpy())
    distance = sites.query((xy[neighbours[:, 0]] + xy[neighbours[:, 1]]) / 2)[0]
    assert len(distance) > 50
    np.testing.assert_allclose(distance, 0, atol=1e-8)


def test_array_indices_lie_on_the_same_lattice_k_times_finer(section: AnnData) -> None:
    lattice, k = lattice_of(section), 3
    grid = lay_grid(section, lattice, k)
    refitted = fit_lattice(grid[["x_px", "y_px"]].to_numpy(), grid[["array_col", "array_row"]].to_numpy(), lattice.kind)
    assert refitted.residual < 1e-9
    np.testing.assert_allclose(refitted.basis_px, lattice.basis_px / k, atol=1e-9)


def test_sites_follow_a_spot_that_wobbles(section: AnnData) -> None:
    section.obsm["spatial"][7] += (9.0, -4.0)
    grid = lay_grid(section, lattice_of(section), 2).set_index("site_id")
    spot = section.obs_names[7]
    np.testing.assert_array_equal(grid.loc[f"{spot}_s0", ["x_px", "y_px"]].to_numpy(float), section.obsm["spatial"][7])


def test_the_users_scale_comes_before_the_images() -> None:
    assert resolve_mpp(0.5, 0.25) == 0.5
    assert resolve_mpp(None, 0.25) == 0.25
    with pytest.raises(InputError, match=r"transfer\.mpp"):
        resolve_mpp(None, None)


def test_sites_cover_the_image_at_the_pitch_requested() -> None:
    sites = lay_sites((1000, 3000), mpp=0.5, pitch_um=100.0)
    assert len(sites) == 5 * 15
    assert sites["site_id"].is_unique
    xy = sites[["x_px", "y_px"]].to_numpy()
    assert (xy > 0).all() and (xy < (3000, 1000)).all()
    assert np.unique(np.diff(np.unique(xy[:, 0]))).tolist() == [200.0]


def test_an_image_smaller_than_the_pitch_has_one_site() -> None:
    assert lay_sites((150, 90), mpp=0.5, pitch_um=100.0)[["x_px", "y_px"]].to_numpy().tolist() == [[100.0, 100.0]]


def test_the_section_has_coordinates_and_metadata_and_no_genes() -> None:
    section = as_section(lay_sites((1000, 3000), 0.5, 100.0), "S", 0.5, 100.0)
    assert section.shape == (75, 0)
    assert section.uns["section"]["mpp"] == 0.5
    assert section.obs["in_tissue"].eq(1).all()
    with pytest.raises(InputError, match="3 sites on tissue"):
        as_section(lay_sites((1000, 3000), 0.5, 100.0).iloc[:3], "S", 0.5, 100.0)
