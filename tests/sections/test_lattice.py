"""The lattice is fitted and found under any rotation, mirror and scale, with jitter and holes; disorder is refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.sections.lattice import (
    FEWEST_SPOTS,
    INDEX_STEPS,
    find_lattice,
    fit_lattice,
    lattice_steps,
    scattered_lattice,
    search_lattice,
)

KINDS = ("hexagonal", "square")


def ideal(kind: str, n_rows: int = 22, n_columns: int = 20) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(array_col, array_row) and (x, y) in pitches."""
    row, column = (a.ravel() for a in np.mgrid[:n_rows, :n_columns])
    if kind == "square":
        return np.column_stack([column, row]), np.column_stack([column, row]).astype(float)
    column = 2 * column + row % 2
    return np.column_stack([column, row]), np.column_stack([column / 2, row * np.sqrt(3) / 2])


def turned(angle: float, mirror: bool = False) -> NDArray[np.float64]:
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return turn * (1, -1 if mirror else 1)


def are_equivalent(found: NDArray[np.int64], true: NDArray[np.int64], kind: str) -> bool:
    """Tell whether the steps differ by a shift and a symmetry that maps the lattice onto itself."""
    to_steps = np.linalg.inv(INDEX_STEPS[kind])
    design = np.column_stack([found @ to_steps, np.ones(len(found))])
    coefficients = np.linalg.lstsq(design, true @ to_steps, rcond=None)[0]
    turn = coefficients[:2]
    whole = np.allclose(turn, np.rint(turn), atol=1e-6) and np.isclose(abs(np.linalg.det(turn)), 1)
    return bool(whole and np.allclose(design @ coefficients, true @ to_steps, atol=1e-6))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    angle=st.floats(0, 2 * np.pi),
    mirror=st.booleans(),
    pitch_px=st.floats(5, 1000),
    jitter=st.floats(0, 0.1),
    share_missing=st.floats(0, 0.6),
    seed=st.integers(0, 2**16),
)
def test_pitch_basis_and_residual_survive_any_transformation(
    kind: str, angle: float, mirror: bool, pitch_px: float, jitter: float, share_missing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    index, points = ideal(kind, 9, 7)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * (1, -1 if mirror else 1)
    moved = (points + rng.normal(0, jitter, points.shape)) @ turn * pitch_px + (3000, -200)
    kept = rng.permutation(len(index))[: max(round(len(index) * (1 - share_missing)), 12)]
    lattice = fit_lattice(moved[kept], index[kept], kind)

    tolerance = 0.15 * jitter + 1e-9
    assert lattice.pitch_px == pytest.approx(pitch_px, rel=tolerance + 0.3 * jitter)
    assert lattice.residual <= jitter * np.sqrt(2) * 1.5 + 1e-9
    assert lattice.skew <= 2 * jitter + 1e-9
    assert lattice.mirrored == mirror
    first = np.array([1.0, 0.0]) @ turn * pitch_px
    np.testing.assert_allclose(lattice.basis_px[0], first, atol=pitch_px * (0.3 * jitter + 1e-9))


@pytest.mark.parametrize("kind", KINDS)
def test_origin_and_steps_rebuild_every_spot(kind: str) -> None:
    index, points = ideal(kind, 9, 7)
    xy = points * 140 + (500, 200)
    lattice = fit_lattice(xy, index, kind)
    steps = np.linalg.solve(INDEX_STEPS[kind].T.astype(float), index.T.astype(float)).T
    np.testing.assert_allclose(steps @ lattice.basis_px + lattice.origin_px, xy, atol=1e-8)
    assert lattice.residual < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_coordinates_leave_a_large_residual(kind: str) -> None:
    index, points = ideal(kind, 9, 7)
    shuffled = np.random.default_rng(0).permutation(points) * 140
    assert fit_lattice(shuffled, index, kind).residual > 1


def test_stretched_lattice_is_skewed() -> None:
    index, points = ideal("square", 9, 7)
    assert fit_lattice(points * (100, 150), index, "square").skew == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_angle_and_swapped_indices_are_skewed(kind: str) -> None:
    index, points = ideal(kind, 9, 7)
    leaning = points @ np.array([[1.0, 0.0], [np.tan(np.deg2rad(10)), 1.0]])
    assert fit_lattice(leaning, index, kind).skew > 0.15
    swapped = fit_lattice(points, index[:, ::-1], kind)
    assert swapped.mirrored
    assert swapped.skew == pytest.approx(2 / 3 if kind == "hexagonal" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_spots_on_one_line_are_refused(kind: str) -> None:
    index, points = ideal(kind, 9, 7)
    row = index[:, 1] == 0
    with pytest.raises(ValueError, match="one line"):
        fit_lattice(points[row], index[row], kind)


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    angle=st.floats(0, 2 * np.pi),
    mirror=st.booleans(),
    pitch_px=st.floats(3, 1000),
    jitter=st.floats(0, 0.1),
    share_missing=st.floats(0, 0.5),
    seed=st.integers(0, 2**16),
)
def test_everything_is_found_under_any_transformation(
    kind: str, angle: float, mirror: bool, pitch_px: float, jitter: float, share_missing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    index, points = ideal(kind)
    kept = rng.permutation(len(index))[: round(len(index) * (1 - share_missing))]
    index, points = index[kept], points[kept]
    xy = (points + rng.normal(0, jitter, points.shape)) @ turned(angle, mirror) * pitch_px + (3000, -200)
    found = find_lattice(xy)

    assert found.lattice.kind == kind
    assert found.lattice.pitch_px == pytest.approx(pitch_px, rel=0.01)
    assert found.lattice.residual <= 1.2 * jitter * np.sqrt(2) + 1e-9
    assert found.lattice.skew <= 0.02
    assert are_equivalent(found.index, index, kind)


@settings(max_examples=40, deadline=None)
@given(kind=st.sampled_from(KINDS), angle=st.floats(0, 2 * np.pi), mirror=st.booleans(), seed=st.integers(0, 2**16))
def test_indices_advance_along_x_and_y(kind: str, angle: float, mirror: bool, seed: int) -> None:
    index, points = ideal(kind, 9, 7)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(index))
    found = find_lattice((points @ turned(angle, mirror) * 100)[order])
    column, row = np.linalg.solve(INDEX_STEPS[kind].astype(float), found.lattice.basis_px)
    widest = np.pi / (6 if kind == "hexagonal" else 4) + 1e-6
    assert abs(np.arctan2(column[1], column[0])) <= widest
    assert row @ column == pytest.approx(0, abs=1e-6)
    assert row[1] > 0
    assert not found.lattice.mirrored
    assert found.index[:, 1].min() == 0
    assert 0 <= found.index[:, 0].min() <= 1
    assert kind == "square" or (found.index.sum(axis=1) % 2 == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_pieces_apart_are_numbered_together(kind: str) -> None:
    index, points = ideal(kind, 40, 40)
    rng = np.random.default_rng(1)
    kept = np.min([np.linalg.norm(points - centre, axis=1) for centre in ((6, 6), (30, 9), (15, 27))], axis=0) < 5
    xy = (points + rng.normal(0, 0.08, points.shape))[kept] @ turned(0.3) * 50
    found = find_lattice(xy)
    assert len(np.unique(found.piece)) == 3
    assert are_equivalent(found.index, index[kept], kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_bent_section_is_numbered_right(kind: str) -> None:
    index, points = ideal(kind, 30, 30)
    bent = points + np.column_stack([0.004 * (points[:, 1] - 13) ** 2, np.zeros(len(points))])
    found = find_lattice(bent * 100)
    assert are_equivalent(found.index, index, kind)
    assert found.lattice.residual > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_a_stray_spot_shows_in_the_residual(kind: str) -> None:
    index, points = ideal(kind)
    found = find_lattice(np.vstack([points, [[-5.3, -4.3]]]) * 100)
    assert are_equivalent(found.index[:-1], index, kind)
    assert 0.005 < found.lattice.residual < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_a_spot_between_others_is_refused(kind: str) -> None:
    _, points = ideal(kind)
    between = points[45:46] + np.array([0.4, 0.1])
    with pytest.raises(InputError, match="2 spots that share a point"):
        find_lattice(np.vstack([points, between]) * 100)
    assert search_lattice(np.vstack([points, between]) * 100).n_doubled == 2


def test_the_order_of_spots_does_not_matter() -> None:
    _, points = ideal("hexagonal")
    order = np.random.default_rng(0).permutation(len(points))
    np.testing.assert_array_equal(find_lattice(points[order]).index, find_lattice(points).index[order])


def test_a_visium_hd_section_is_found() -> None:
    index, points = ideal("square", 250, 250)
    kept = np.random.default_rng(0).random(len(index)) > 0.3
    found = find_lattice(points[kept] @ turned(0.01) * 29.2)
    np.testing.assert_array_equal(found.index, index[kept] - index[kept].min(axis=0))


REFUSED = {
    "one point": np.zeros((30, 2)),
    "line": np.column_stack([np.arange(30.0), np.arange(30.0)]),
    "two far columns": np.column_stack([np.arange(30) % 2 * 50.0, np.arange(30) // 2]),
    "disorder": np.random.default_rng(1).random((400, 2)),
    "circle": np.column_stack([np.cos(np.arange(50) / 8), np.sin(np.arange(50) / 8)]),
    "few": np.random.default_rng(1).random((5, 2)),
    "not a number": np.full((30, 2), np.nan),
    "infinite": np.full((30, 2), np.inf),
}


@pytest.mark.parametrize("xy", REFUSED.values(), ids=REFUSED)
def test_coordinates_without_a_lattice_are_refused(xy: NDArray[np.float64]) -> None:
    with pytest.raises(InputError, match="Next step: "):
        find_lattice(xy)


def test_steps_lead_back_to_the_array_indices() -> None:
    steps = np.stack(np.meshgrid(np.arange(-7, 30), np.arange(-5, 20)), axis=-1).reshape(-1, 2)
    for kind in ("square", "hexagonal"):
        np.testing.assert_array_equal(lattice_steps(steps @ INDEX_STEPS[kind], kind), steps)
    # an array that begins at an odd column is the same one, shifted
    np.testing.assert_array_equal(lattice_steps(steps @ INDEX_STEPS["hexagonal"] + [1, 0], "hexagonal"), steps)


def test_scattered_spots_have_the_pitch_of_a_square_lattice_of_their_density() -> None:
    xy = np.random.default_rng(0).uniform(100, 1100, (2500, 2))
    found = scattered_lattice(xy)
    assert found.kind == "scattered" and found.residual == 0
    assert found.pitch_px == pytest.approx(20, rel=0.1)
    np.testing.assert_array_equal(found.origin_px, xy.min(axis=0))
    np.testing.assert_allclose(found.basis_px, found.pitch_px * np.eye(2))


def test_scattered_spots_are_enough_and_apart() -> None:
    with pytest.raises(InputError, match=f"{FEWEST_SPOTS - 1} spots"):
        scattered_lattice(np.random.default_rng(0).uniform(size=(FEWEST_SPOTS - 1, 2)))
    scattered_lattice(np.random.default_rng(0).uniform(size=(FEWEST_SPOTS, 2)))
    with pytest.raises(InputError, match="at the position of others"):
        scattered_lattice(np.zeros((30, 2)))
