"""Blocks are cut at the median along the tissue's own axes, and folds are pieces of tissue."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from spamcaf.sections.split import cut_blocks, fold_by_block, is_within_reach


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
