"""Splits depend on spots, seed and mask alone; a hidden block is far from visible spots; folds are pieces of tissue."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from spamcaf.errors import InputError
from spamcaf.names import Part
from spamcaf.parameters import SplitSettings, TileSettings
from spamcaf.pipelines.ingestion import nodes
from spamcaf.scoring.metrics import NEIGHBOURS
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.lattice import lattice_steps
from spamcaf.sections.split import (
    BARCODE,
    FOLD,
    NO_FOLD,
    PART,
    barcodes_of,
    cut_blocks,
    fold_all,
    fold_by_block,
    is_within_reach,
    split_spots,
)

few = settings(max_examples=30, deadline=None)
sections = st.integers(25, 200).map(lambda n: [f"spot{i}" for i in range(n)])
seeds = st.integers(0, 2**31)
REACH_UM = 195.5


def at_random(names: list[str], settings_: SplitSettings, seed: int) -> pd.DataFrame:
    return split_spots(names, np.zeros((len(names), 2)), REACH_UM, settings_, seed)


def visium(n_rows: int, n_columns: int, degrees: float = 0.0) -> np.ndarray:
    row, column = (a.ravel() for a in np.mgrid[:n_rows, :n_columns])
    xy = np.column_stack([column * 100 + row % 2 * 50, row * 100 * np.sqrt(3) / 2]).astype(float)
    turn = np.deg2rad(degrees)
    return xy @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]]) + [500, 900]


def names_for(xy: np.ndarray) -> list[str]:
    return [f"spot{i}" for i in range(len(xy))]


def block(n_blocks: int = 4, mask: int = 0, **others: int) -> SplitSettings:
    return SplitSettings.model_validate({"protocol": "block", "n_blocks": n_blocks, "mask": mask, **others})


@st.composite
def tissues(draw: st.DrawFn) -> np.ndarray:
    """Draw a turned lattice with missing spots, large enough for quadrants to have an inside."""
    xy = visium(draw(st.integers(18, 30)), draw(st.integers(16, 28)), draw(st.floats(0, 360)))
    missing = np.random.default_rng(draw(seeds)).random(len(xy)) < draw(st.floats(0, 0.2))
    return xy[~missing]


@few
@given(sections, seeds, st.integers(0, 9), st.data())
def test_order_of_the_spots_does_not_matter(names: list[str], seed: int, mask: int, data: st.DataObject) -> None:
    settings_ = SplitSettings(mask=mask)
    shuffled = data.draw(st.permutations(names))
    ours, theirs = at_random(names, settings_, seed), at_random(shuffled, settings_, seed)
    assert theirs[BARCODE].tolist() == shuffled
    pd.testing.assert_frame_equal(
        ours.sort_values(BARCODE, ignore_index=True), theirs.sort_values(BARCODE, ignore_index=True)
    )


@few
@given(sections, seeds, st.floats(0.05, 0.95), st.integers(2, 5))
def test_sizes_and_folds(names: list[str], seed: int, hidden_share: float, n_folds: int) -> None:
    n_hidden = min(max(round(len(names) * hidden_share), 1), len(names) - n_folds)
    assume(n_hidden >= 3)
    split = at_random(names, SplitSettings(hidden_share=hidden_share, n_folds=n_folds), seed)
    hidden, train = barcodes_of(split, Part.HIDDEN), barcodes_of(split, Part.TRAIN)
    assert sorted(hidden + train) == sorted(names)
    assert len(hidden) == n_hidden
    assert (split.loc[split[PART] == Part.HIDDEN, FOLD] == NO_FOLD).all()
    sizes = split.loc[split[PART] == Part.TRAIN, FOLD].value_counts()
    assert sorted(sizes.index) == list(range(n_folds))
    assert sizes.max() - sizes.min() <= 1


@few
@given(sections, seeds)
def test_masks_and_seeds_and_sections_hide_different_spots(names: list[str], seed: int) -> None:
    hidden = {tuple(barcodes_of(at_random(names, SplitSettings(mask=mask), seed), Part.HIDDEN)) for mask in range(5)}
    hidden.add(tuple(barcodes_of(at_random(names, SplitSettings(), seed + 1), Part.HIDDEN)))
    assert len(hidden) == 6
    others = [f"other_{name}" for name in names]
    elsewhere = barcodes_of(at_random(others, SplitSettings(), seed), Part.HIDDEN)
    assert [name.removeprefix("other_") for name in elsewhere] != barcodes_of(
        at_random(names, SplitSettings(), seed), Part.HIDDEN
    )


def test_every_spot_is_hidden_by_some_mask() -> None:
    names = [f"spot{i}" for i in range(100)]
    hidden = [set(barcodes_of(at_random(names, SplitSettings(mask=mask), 1), Part.HIDDEN)) for mask in range(20)]
    assert set.union(*hidden) == set(names)
    assert not set.intersection(*hidden)


@pytest.mark.parametrize(
    ("n", "share", "n_folds", "mask", "seed", "digest"),
    [
        (25, 0.5, 5, 0, 1234, "7a436a19207fa0a3"),
        (120, 0.5, 5, 0, 1234, "b975dd9064134251"),
        (120, 0.5, 5, 3, 1234, "fba50ddef64669f1"),
        (77, 0.3, 4, 1, 7, "b2b60fcc8ebdfcb7"),
        (200, 0.9, 10, 2, 99, "4dcf3cd216d0fd68"),
    ],
)
def test_random_splits_stay_what_they_were(
    n: int, share: float, n_folds: int, mask: int, seed: int, digest: str
) -> None:
    """Published figures name a mask: it must hide the same spots for ever."""
    split = at_random([f"s{i}" for i in range(n)], SplitSettings(hidden_share=share, n_folds=n_folds, mask=mask), seed)
    assert hashlib.sha256(split.to_csv(index=False, lineterminator="\n").encode()).hexdigest()[:16] == digest


@few
@given(tissues(), st.sampled_from([2, 4]), st.integers(0, 9), seeds)
def test_no_hidden_spot_of_a_block_has_a_visible_one_in_its_window(
    xy: np.ndarray, n_blocks: int, mask: int, seed: int
) -> None:
    split = split_spots(names_for(xy), xy, REACH_UM, block(n_blocks, mask), seed)
    part = split[PART].to_numpy()
    visible = xy[part == Part.TRAIN]
    sees = (np.abs(xy[:, None] - visible[None]) <= REACH_UM).all(axis=2).any(axis=1)
    assert not sees[part == Part.HIDDEN].any()
    assert sees[part == Part.BUFFER].all()
    assert {Part.TRAIN, Part.HIDDEN, Part.BUFFER} == set(part)
    assert ((split[FOLD] == NO_FOLD) == (part != Part.TRAIN)).all()
    assert set(split[FOLD]) == {NO_FOLD, 0, 1, 2, 3, 4}


@few
@given(tissues(), st.sampled_from([2, 4]), st.integers(0, 3), seeds, seeds)
def test_blocks_depend_neither_on_order_nor_on_seed(
    xy: np.ndarray, n_blocks: int, mask: int, seed: int, shuffle: int
) -> None:
    names = names_for(xy)
    order = np.random.default_rng(shuffle).permutation(len(xy))
    ours = split_spots(names, xy, REACH_UM, block(n_blocks, mask), 1)
    theirs = split_spots([names[i] for i in order], xy[order], REACH_UM, block(n_blocks, mask), seed)
    pd.testing.assert_frame_equal(ours.iloc[order].reset_index(drop=True), theirs)


@few
@given(tissues(), st.sampled_from([2, 4]))
def test_each_spot_lies_in_the_hidden_block_of_exactly_one_mask(xy: np.ndarray, n_blocks: int) -> None:
    parts = [
        split_spots(names_for(xy), xy, REACH_UM, block(n_blocks, mask), 1)[PART].to_numpy() for mask in range(n_blocks)
    ]
    assert (sum((part != Part.TRAIN).astype(int) for part in parts) == 1).all()
    again = split_spots(names_for(xy), xy, REACH_UM, block(n_blocks, mask=n_blocks + 1), 1)[PART].to_numpy()
    assert (again == parts[1]).all()


def test_a_wider_window_needs_a_wider_buffer() -> None:
    xy = visium(24, 24)
    n_buffer = [
        len(barcodes_of(split_spots(names_for(xy), xy, reach, block(), 1), Part.BUFFER)) for reach in (120, 195.5, 400)
    ]
    assert n_buffer == sorted(n_buffer)
    assert len(set(n_buffer)) == 3


def test_a_piece_of_tissue_far_from_the_rest_needs_no_buffer() -> None:
    piece = visium(8, 8)
    xy = np.concatenate([piece, piece + np.array([5000, 0])])
    split = split_spots(names_for(xy), xy, REACH_UM, block(n_blocks=2), 1)
    assert set(split[PART]) == {Part.TRAIN, Part.HIDDEN}
    assert (split.loc[:63, PART] == Part.HIDDEN).all()


def array(kind: str, n_rows: int, n_columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (array_col, array_row) and positions in pitches of an array; hexagonal columns count half pitches."""
    row, column = (a.ravel() for a in np.mgrid[:n_rows, :n_columns])
    if kind == "square":
        return np.column_stack([column, row]), np.column_stack([column, row]).astype(float)
    column = 2 * column + row % 2
    return np.column_stack([column, row]), np.column_stack([column / 2, row * np.sqrt(3) / 2])


def by_lattice(kind: str, every: int, mask: int, shape: tuple[int, int] = (24, 20)) -> tuple[pd.DataFrame, np.ndarray]:
    index, xy = array(kind, *shape)
    settings_ = SplitSettings(protocol="lattice", every=every, mask=mask)
    return split_spots(names_for(xy), xy, REACH_UM, settings_, 1, lattice_steps(index, kind)), xy


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_visible_spots_are_a_lattice_of_k_times_the_pitch(kind: str, every: int) -> None:
    for mask in range(every**2):
        split, xy = by_lattice(kind, every, mask)
        visible = xy[(split[PART] == Part.TRAIN).to_numpy()]
        neighbours = NEIGHBOURS[kind]
        distance = cKDTree(visible).query(visible, k=neighbours + 1)[0][:, 1:]
        np.testing.assert_allclose(distance[:, 0], every)
        inside = (np.abs(visible - xy.mean(axis=0)) < np.ptp(xy, axis=0) / 2 - every).all(axis=1)
        assert inside.sum() > 6
        np.testing.assert_allclose(distance[inside], every)  # all neighbours: no row or column is left out
        assert set(split[PART]) == {Part.TRAIN, Part.HIDDEN}


def test_a_square_phase_is_row_and_column() -> None:
    index, _ = array("square", 24, 20)
    for mask, (row, column) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (0, 0)]):
        split, _ = by_lattice("square", 2, mask)
        expected = (index[:, 1] % 2 == row) & (index[:, 0] % 2 == column)
        np.testing.assert_array_equal(split[PART] == Part.TRAIN, expected)


@pytest.mark.parametrize("every", [2, 3])
@pytest.mark.parametrize("kind", ["square", "hexagonal"])
def test_each_spot_is_visible_in_exactly_one_phase(kind: str, every: int) -> None:
    visible = [(by_lattice(kind, every, mask)[0][PART] == Part.TRAIN).to_numpy() for mask in range(every**2)]
    assert (np.sum(visible, axis=0) == 1).all()
    again = by_lattice(kind, every, every**2 + 1)[0]
    np.testing.assert_array_equal(again[PART] == Part.TRAIN, visible[1])


def test_folds_of_a_lattice_are_dealt_at_random_in_any_order_of_spots() -> None:
    split, xy = by_lattice("hexagonal", 2, 0)
    train = (split[PART] == Part.TRAIN).to_numpy()
    assert sorted(split.loc[train, FOLD].value_counts()) == [24] * 5
    assert (split.loc[~train, FOLD] == NO_FOLD).all()
    spread = [xy[(split[FOLD] == fold).to_numpy()].std(axis=0) for fold in range(5)]
    np.testing.assert_allclose(spread, np.tile(xy.std(axis=0), (5, 1)), rtol=0.4)
    order = np.random.default_rng(0).permutation(len(xy))
    steps = lattice_steps(array("hexagonal", 24, 20)[0], "hexagonal")[order]
    names = [f"spot{i}" for i in order]
    theirs = split_spots(names, xy[order], REACH_UM, SplitSettings(protocol="lattice"), 1, steps)
    pd.testing.assert_frame_equal(split.iloc[order].reset_index(drop=True), theirs)


def test_the_node_hides_between_the_rows_of_a_section(make_section: Callable[..., AnnData]) -> None:
    section = make_section(12, 12)
    section.uns["section"]["spot_diameter_um"] = 55.0
    split = nodes.split_spots(section, SplitSettings(protocol="lattice"), TileSettings(), 1)
    visible = (split[PART] == Part.TRAIN).to_numpy()
    assert visible.sum() == 36
    pitch_px = lattice_of(section).pitch_px
    xy = section.obsm["spatial"][visible]
    np.testing.assert_allclose(cKDTree(xy).query(xy, k=2)[0][:, 1], 2 * pitch_px, rtol=0.01)


@pytest.mark.parametrize(("every", "shape"), [(2, (4, 4)), (9, (14, 14))])
def test_too_few_visible_spots_of_a_lattice_name_the_setting(every: int, shape: tuple[int, int]) -> None:
    message = rf"Found: 4 spots to learn from, .* at least 5 to learn from .*split\.every={every} shows one spot in"
    with pytest.raises(InputError, match=message):
        by_lattice("square", every, 0, shape)


def test_a_lattice_split_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="needs the steps"):
        at_random(names_for(np.zeros((30, 2))), SplitSettings(protocol="lattice"), 1)


def test_section_hides_every_spot() -> None:
    xy = visium(5, 5)
    split = split_spots(names_for(xy), xy, REACH_UM, SplitSettings(protocol="section"), 1)
    assert (split[PART] == Part.HIDDEN).all()
    assert (split[FOLD] == NO_FOLD).all()
    assert split[BARCODE].tolist() == names_for(xy)


@pytest.mark.parametrize(
    ("n_rows", "settings_", "message"),
    [
        (1, SplitSettings(), "Found: 4 spots to learn from, 0 to score .* at least 5 to learn from .* and 3 to score"),
        (9, SplitSettings(hidden_share=0.02), "Found: 35 spots to learn from, 1 to score .*split.hidden_share"),
        (9, block(), "Found: 27 spots to learn from, 1 to score and 8 too near .*Hide halves: split.n_blocks=2"),
        (2, block(2), "Found: 4 spots to learn from, 1 to score and 3 too near .*Next step: Use smaller tiles"),
        (0, SplitSettings(protocol="section"), "Found: 0 spots to learn from, 0 to score"),
    ],
)
def test_too_few_spots_are_counted(n_rows: int, settings_: SplitSettings, message: str) -> None:
    xy = visium(n_rows, 4)
    with pytest.raises(InputError, match=message):
        split_spots(names_for(xy), xy, REACH_UM, settings_, 1)


def test_the_map_of_a_random_split_keeps_its_folds() -> None:
    split = at_random([f"spot{i}" for i in range(53)], SplitSettings(), 1)
    folded = fold_all(split)
    train = (split[PART] == Part.TRAIN).to_numpy()
    assert (folded.loc[train, FOLD] == split.loc[train, FOLD]).all()
    assert folded.loc[~train, FOLD].tolist() == [i % 5 for i in range((~train).sum())]


@pytest.mark.parametrize("settings_", [block(), SplitSettings(protocol="section")], ids=["block", "section"])
def test_the_map_is_folded_at_random_where_the_split_is_not(settings_: SplitSettings) -> None:
    xy = visium(20, 20)
    folded = fold_all(split_spots(names_for(xy), xy, REACH_UM, settings_, 1))
    assert folded[BARCODE].tolist() == names_for(xy)
    assert sorted(folded[FOLD].value_counts()) == [80] * 5
    spread = [xy[(folded[FOLD] == fold).to_numpy()].std(axis=0) for fold in range(5)]
    np.testing.assert_allclose(spread, np.tile(xy.std(axis=0), (5, 1)), rtol=0.25)


@pytest.mark.parametrize(("tiles", "window_px"), [({"tile_um": 112.0}, 470), ({"unit": "pixels"}, 672)])
def test_the_node_takes_the_window_that_tiles_are_cut_from(
    make_section: Callable[..., AnnData], tiles: dict[str, object], window_px: int
) -> None:
    section = make_section(30, 26)
    section.uns["section"]["spot_diameter_um"] = 55.0
    split = nodes.split_spots(section, block(), TileSettings.model_validate(tiles), 1)
    xy, part = section.obsm["spatial"], split[PART].to_numpy()
    reach_px = window_px / 2 + 55 * 1.4 / 2
    visible = xy[part == Part.TRAIN]
    sees = (np.abs(xy[:, None] - visible[None]) <= reach_px).all(axis=2).any(axis=1)
    np.testing.assert_array_equal(sees[part != Part.TRAIN], part[part != Part.TRAIN] == Part.BUFFER)
    assert split[BARCODE].tolist() == section.obs_names.tolist()


def square(n_rows: int, n_columns: int, degrees: float = 0.0) -> np.ndarray:
    row, column = (a.ravel() for a in np.mgrid[:n_rows, :n_columns])
    turn = np.deg2rad(degrees)
    return np.column_stack([column, row]) @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])


def largest_piece(xy: np.ndarray, reach: float) -> float:
    row, column = cKDTree(xy).query_pairs(reach, output_type="ndarray").T
    graph = csr_array((np.ones(len(row)), (row, column)), shape=(len(xy), len(xy)))
    return np.bincount(connected_components(graph, directed=False)[1]).max() / len(xy)


def test_halves_cut_the_long_side() -> None:
    xy = square(10, 30)
    np.testing.assert_array_equal(cut_blocks(xy, 2), xy[:, 0] > 14.5)
    np.testing.assert_array_equal(cut_blocks(xy[:, ::-1], 2), xy[:, 0] > 14.5)


def test_quadrants_cut_each_half_across() -> None:
    xy = square(10, 30)
    np.testing.assert_array_equal(cut_blocks(xy, 4), 2 * (xy[:, 0] > 14.5) + (xy[:, 1] > 4.5))


def test_a_square_is_cut_along_the_image_axes() -> None:
    xy = square(12, 12) * 137.3 + [1e5, -3e3]
    centred = xy - xy.mean(axis=0)
    blocks = cut_blocks(xy, 4)
    quadrants = {(tuple(np.sign(c).astype(int)), int(b)) for c, b in zip(centred, blocks, strict=True)}
    assert len(quadrants) == 4


@pytest.mark.parametrize("degrees", [17, 60, 133])
def test_blocks_turn_with_the_tissue(degrees: float) -> None:
    straight, turned = cut_blocks(square(10, 30), 4), cut_blocks(square(10, 30, degrees), 4)
    assert len(set(zip(straight.tolist(), turned.tolist(), strict=True))) == 4


@pytest.mark.parametrize("n", [7, 40, 101])
@pytest.mark.parametrize("n_blocks", [2, 4])
def test_blocks_are_of_one_size(n: int, n_blocks: int) -> None:
    sizes = np.bincount(cut_blocks(np.random.default_rng(n).normal(size=(n, 2)), n_blocks), minlength=n_blocks)
    assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("degrees", [0, 13, 45])
@pytest.mark.parametrize("n_folds", [2, 5, 7])
@pytest.mark.parametrize("shape", [(12, 12), (9, 31), "corner", "disc"])
def test_folds_are_pieces_of_tissue_of_one_size(shape: tuple[int, int] | str, n_folds: int, degrees: float) -> None:
    xy = square(*(shape if isinstance(shape, tuple) else (20, 20)), degrees)
    centred = xy - xy.mean(axis=0)
    if shape == "corner":
        xy = xy[cut_blocks(xy, 4) != 1]
    if shape == "disc":
        xy = xy[np.hypot(*centred.T) <= 9.6]
    fold = fold_by_block(xy, n_folds)
    sizes = np.bincount(fold, minlength=n_folds)
    assert sizes.max() - sizes.min() <= 2
    assert min(largest_piece(xy[fold == f], 1.1) for f in range(n_folds)) > 0.85


def test_reach_is_a_square_along_the_image_axes_and_closed() -> None:
    visible = np.array([[0.0, 0.0]])
    xy = np.array([[2.0, 2.0], [-2.0, 1.0], [2.1, 0.0], [0.0, -2.1], [0.0, 0.0]])
    assert is_within_reach(xy, visible, 2.0).tolist() == [True, True, False, False, True]
