"""Spots on another section's tissue are refused; spots on their own are not, even where tissue is torn."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.placement import (
    like_orientation,
    orientations,
    require_handedness,
    require_on_tissue,
    warn_of_other_image,
)
from spamcaf.histology.tissue import Tissue
from spamcaf.sections.lattice import Lattice, fit_lattice

PITCH_PX, MASK_PX = 100.0, 10
SIZE = 30


def tissue(shape: NDArray[np.bool_]) -> Tissue:
    """Tissue where `shape`, one cell per lattice place, is true."""
    mask = np.kron(shape, np.ones((MASK_PX, MASK_PX), bool))
    return Tissue(mask, np.zeros((*mask.shape, 3), np.uint8), PITCH_PX / MASK_PX)


def corner() -> NDArray[np.bool_]:
    """An L in the upper left, unlike any of its mirrors."""
    shape = np.zeros((SIZE, SIZE), bool)
    shape[5:21, 6:11] = True
    shape[16:21, 6:20] = True
    return shape


def index_of(shape: NDArray[np.bool_]) -> NDArray[np.int64]:
    return np.argwhere(shape)[:, ::-1]


def spots(shape: NDArray[np.bool_]) -> tuple[NDArray[np.float64], Lattice]:
    xy = (index_of(shape) + 0.5) * PITCH_PX
    return xy, fit_lattice(xy, index_of(shape), "square")


def mirror(lattice: Lattice) -> Lattice:
    origin = lattice.origin_px * (-1, 1) + (SIZE * PITCH_PX, 0)
    return Lattice(lattice.kind, origin, lattice.basis_px * (-1, 1), lattice.residual)


def test_spots_on_their_own_tissue_pass() -> None:
    assert require_on_tissue(tissue(corner()), *spots(corner())) == 1


def test_spots_on_part_of_the_tissue_pass() -> None:
    shape = corner()
    shape[:12] = False
    assert require_on_tissue(tissue(corner()), *spots(shape)) == 1


def test_torn_tissue_passes_with_its_share() -> None:
    torn = corner()
    torn[5:8] = False
    share = require_on_tissue(tissue(torn), *spots(corner()))
    assert share == pytest.approx(torn.sum() / corner().sum())
    assert 0.5 < share < 0.9


@pytest.mark.parametrize(
    ("other", "name"),
    [
        (lambda shape: shape.T, "x and y swapped"),
        (lambda shape: shape[::-1], "top and bottom exchanged"),
        (lambda shape: shape[:, ::-1], "left and right exchanged"),
        (lambda shape: shape[::-1, ::-1], "a turn by 180 degrees"),
        (np.rot90, "a turn by (90|270) degrees"),
        (lambda shape: np.rot90(shape, 3), "a turn by (90|270) degrees"),
        (lambda shape: shape[::-1, ::-1].T, "x and y swapped, and a turn by 180 degrees"),
        (lambda shape: np.roll(shape[:, ::-1], -4, axis=1), "left and right exchanged about the middle of the spots"),
    ],
)
def test_another_orientation_is_refused_by_name(
    other: Callable[[NDArray[np.bool_]], NDArray[np.bool_]], name: str
) -> None:
    with pytest.raises(InputError, match=rf"of the spots lie on tissue, but 100% with {name};.*one orientation"):
        require_on_tissue(tissue(other(corner())), *spots(corner()))


@pytest.mark.parametrize(
    "other",
    [lambda shape: np.roll(shape, 2, axis=1), lambda shape: np.roll(shape, (2, -1), axis=(0, 1)), np.zeros_like],
    ids=["2 right", "1 left, 2 down", "no tissue"],
)
def test_tissue_elsewhere_is_refused(other: Callable[[NDArray[np.bool_]], NDArray[np.bool_]]) -> None:
    with pytest.raises(InputError, match=r"of the spots lie on tissue.*another section"):
        require_on_tissue(tissue(other(corner())), *spots(corner()))


def test_mirrored_coordinates_are_refused_only_where_exchanging_x_and_y_fits_better() -> None:
    shape = corner() | corner().T
    shape[5:8, 20:24] = True
    xy, lattice = spots(shape)
    swapped, mirrored = fit_lattice(xy[:, ::-1], index_of(shape), "square"), mirror(lattice)
    assert swapped.mirrored and mirrored.mirrored
    with pytest.raises(InputError, match=r"mirrored.*0\.\d\d, and 1\.00 .*allow_mirrored=true"):
        require_handedness(tissue(shape), xy[:, ::-1], swapped)
    require_handedness(tissue(shape[:, ::-1]), xy * (-1, 1) + (SIZE * PITCH_PX, 0), mirrored)


def test_orientations_return_after_their_inverse() -> None:
    xy = np.random.default_rng(0).uniform(0, 300, (20, 2))
    found = orientations(xy, (500.0, 300.0))
    assert len(found) == 14
    moved_to = {name: xy @ turn + shift for name, (turn, shift) in found.items()}
    for name, moved in moved_to.items():
        assert abs(np.linalg.det(found[name][0])) == 1
        assert not np.allclose(moved, xy)
        if name.endswith("middle of the spots"):
            np.testing.assert_allclose(np.ptp(np.sort(moved, axis=0), axis=0).sum(), np.ptp(xy, axis=0).sum())
    np.testing.assert_allclose(moved_to["left and right exchanged"], np.column_stack([500 - xy[:, 0], xy[:, 1]]))
    np.testing.assert_allclose(moved_to["x and y swapped"], xy[:, ::-1])


def off(shape: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the spots that the position file calls off the tissue: the others of an array around it."""
    array = np.zeros_like(shape)
    array[3:23, 4:22] = True
    return (index_of(array & ~shape) + 0.5) * PITCH_PX


@pytest.mark.parametrize(("scale", "factor"), [(1 / 1.38, "1.3[78]"), (0.15, "6.6"), (2.0, "0.5")])
def test_coordinates_of_another_scale_are_refused_with_the_factor(scale: float, factor: str) -> None:
    xy, lattice = spots(corner())
    scaled = Lattice(lattice.kind, lattice.origin_px * scale, lattice.basis_px * scale, 0.0)
    with pytest.raises(InputError, match=rf"multiplied by about {factor}.*micrometres.*trust_image=true"):
        require_on_tissue(tissue(corner()), xy * scale, scaled, off(corner()) * scale)


def test_the_best_of_several_orientations_is_named() -> None:
    """A tissue that other orientations fit well, too: the first that passes is not the best."""
    shape = np.zeros((SIZE, SIZE), bool)
    shape[4:26, 4:26] = True
    shape[4:9, 4:12] = False
    xy, lattice = spots(shape)
    with pytest.raises(InputError, match="100% with a turn by (90|270) degrees;"):
        require_on_tissue(tissue(np.rot90(shape)), xy, lattice)


def test_tissue_that_covers_the_array_is_told_by_the_spots_off_the_tissue() -> None:
    """Nine tenths of another section's spots lie on tissue: only where they should not tells."""
    shape, other = corner(), np.zeros((SIZE, SIZE), bool)
    other[3:23, 4:20] = True
    xy, lattice = spots(shape)
    assert tissue(other).holds(xy).mean() > 0.9
    with pytest.raises(InputError, match=r"lie on tissue of he.tif.*another section.*image=<file>.*trust_image=true"):
        require_on_tissue(tissue(other), xy, lattice, off(shape), "he.tif")


def test_a_person_who_knows_better_is_only_warned(caplog: pytest.LogCaptureFixture) -> None:
    assert require_on_tissue(tissue(np.roll(corner(), 2, axis=1)), *spots(corner()), trust=True) < 1
    assert "trusted all the same (section_checks.trust_image)" in caplog.text


def test_an_image_without_glass_tells_nothing_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    assert require_on_tissue(tissue(np.ones((SIZE, SIZE), bool)), *spots(corner()), None, "he.tif") == 1
    assert "he.tif shows no glass" in caplog.text


def test_spots_off_the_tissue_that_lie_on_tissue_all_of_them_tell_nothing() -> None:
    """As on a section that fills the array, with a few spots left out by hand."""
    shape = np.zeros((SIZE, SIZE), bool)
    shape[5:25, 5:25] = True
    whole = np.zeros((SIZE, SIZE), bool)
    whole[2:28, 2:28] = True
    left_out = np.zeros_like(shape)
    left_out[5:7, 5:25] = True
    xy, lattice = spots(shape & ~left_out)
    assert require_on_tissue(tissue(whole), xy, lattice, (index_of(left_out) + 0.5) * PITCH_PX) == 1


def test_an_image_cut_by_a_step_is_refused_with_the_shift() -> None:
    xy, lattice = spots(corner())
    with pytest.raises(InputError, match=r"moved by x -200, y \+0 px"):
        require_on_tissue(tissue(np.roll(corner(), -2, axis=1)), xy, lattice, off(corner()))


def test_a_part_cut_out_of_a_section_passes() -> None:
    shape = np.zeros((SIZE, SIZE), bool)
    shape[8:18, 8:18] = True
    whole = np.zeros((SIZE, SIZE), bool)
    whole[2:28, 2:24] = True
    assert require_on_tissue(tissue(whole), *spots(shape)) == 1


def test_small_images_of_another_section_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    def drawn(shape: NDArray[np.bool_], cell: int) -> NDArray[np.uint8]:
        image = np.kron(np.where(shape, 120, 230), np.ones((cell, cell))).astype(np.uint8)
        return np.repeat(image[..., None], 3, axis=2)

    warn_of_other_image(drawn(corner(), 8), {"hires": drawn(corner(), 20), "lowres": drawn(corner(), 3) // 2})
    warn_of_other_image(drawn(corner(), 8), {"hires": np.full((9, 12, 3), 200, np.uint8)})
    assert not caplog.records, "the same image, darker, or a placeholder"
    warn_of_other_image(drawn(corner(), 8), {"lowres": drawn(corner()[:, ::-1], 8)}, "he.tif")
    assert "he.tif does not look like the section's lowres image" in caplog.text


def test_few_spots_off_the_tissue_do_not_judge_an_image() -> None:
    """As on a section that fills the array: the agreement with a handful of spots is chance."""
    shape = np.zeros((SIZE, SIZE), bool)
    shape[2:28, 2:28] = True
    torn = shape.copy()
    torn[10:15, 10:16] = False
    array = np.zeros_like(shape)
    array[2:28, 1] = True
    xy, lattice = spots(shape)
    share = require_on_tissue(tissue(torn), xy, lattice, (index_of(array)[:25] + 0.5) * PITCH_PX)
    assert share == pytest.approx(1 - 30 / 26**2)


def test_hundreds_of_thousands_of_bins_and_few_off_the_tissue_are_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("spamcaf.histology.placement.MAX_POINTS", 50)
    assert require_on_tissue(tissue(corner()), *spots(corner()), off(corner())) == 1
    with pytest.raises(InputError, match="lie on tissue"):
        require_on_tissue(tissue(np.roll(corner(), 3, axis=1)), *spots(corner()), off(corner()))


def test_an_orientation_is_told_by_the_outline_of_the_tissue() -> None:
    xy_px, lattice = spots(corner())
    assert like_orientation(tissue(corner()), xy_px, lattice) is None
    full = np.pad(np.ones((30, 30), bool), 5)
    xy_px, lattice = spots(full)
    assert like_orientation(tissue(full), xy_px, lattice) in orientations(xy_px, (1.0, 1.0))


def test_a_small_image_that_is_like_the_slide_is_known() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)
    assert warn_of_other_image(image, {"lowres": image})
    assert not warn_of_other_image(image, {"lowres": image[::-1]})
    assert not warn_of_other_image(image, {})
