"""The lattice is found under any rotation, mirror and scale, with jitter and holes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from spamcaf.sections.lattice import INDEX_STEPS, fit_lattice

KINDS = ("hexagonal", "square")


def ideal(kind: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """(array_col, array_row) and (x, y) in pitches."""
    row, column = (a.ravel() for a in np.mgrid[:9, :7])
    if kind == "square":
        return np.column_stack([column, row]), np.column_stack([column, row]).astype(float)
    column = 2 * column + row % 2
    return np.column_stack([column, row]), np.column_stack([column / 2, row * np.sqrt(3) / 2])


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
def test_pitch_basis_and_residual_survive_any_placement(
    kind: str, angle: float, mirror: bool, pitch_px: float, jitter: float, share_missing: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    index, places = ideal(kind)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]]) * (1, -1 if mirror else 1)
    moved = (places + rng.normal(0, jitter, places.shape)) @ turn * pitch_px + (3000, -200)
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
    index, places = ideal(kind)
    xy = places * 140 + (500, 200)
    lattice = fit_lattice(xy, index, kind)
    steps = np.linalg.solve(INDEX_STEPS[kind].T.astype(float), index.T.astype(float)).T
    np.testing.assert_allclose(steps @ lattice.basis_px + lattice.origin_px, xy, atol=1e-8)
    assert lattice.residual < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_nonsense_coordinates_leave_a_large_residual(kind: str) -> None:
    index, places = ideal(kind)
    shuffled = np.random.default_rng(0).permutation(places) * 140
    assert fit_lattice(shuffled, index, kind).residual > 1


def test_stretched_lattice_is_skewed() -> None:
    index, places = ideal("square")
    assert fit_lattice(places * (100, 150), index, "square").skew == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_angle_and_swapped_indices_are_skewed(kind: str) -> None:
    index, places = ideal(kind)
    leaning = places @ np.array([[1.0, 0.0], [np.tan(np.deg2rad(10)), 1.0]])
    assert fit_lattice(leaning, index, kind).skew > 0.15
    swapped = fit_lattice(places, index[:, ::-1], kind)
    assert swapped.mirrored
    assert swapped.skew == pytest.approx(2 / 3 if kind == "hexagonal" else 0)


@pytest.mark.parametrize("kind", KINDS)
def test_spots_on_one_line_are_refused(kind: str) -> None:
    index, places = ideal(kind)
    row = index[:, 1] == 0
    with pytest.raises(ValueError, match="one line"):
        fit_lattice(places[row], index[row], kind)
