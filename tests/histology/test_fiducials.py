"""The fiducial frame of a Visium array is found wherever and however it lies, and nothing else is taken for one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.ndimage import rotate

from spamcaf.histology.fiducials import ARRAY_UM, COLUMNS_UM, DOT_UM, ROWS_UM, find_frames, inside_frames
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tissue import find_tissue
from spamcaf.parameters import TissueSettings

UM_PER_PX = 12.0
ORIGIN_UM = (1500.0, 1300.0)
SHAPE = (800, 790)


def frame(origin_um: tuple[float, float] = ORIGIN_UM, shape: tuple[int, int] = SHAPE) -> NDArray[np.uint8]:
    """Glass with the rings of a frame; the array's first spot lies at `origin_um` (x, y)."""
    rng = np.random.default_rng(0)
    image = rng.normal(174, 1, (*shape, 3))
    y, x = (np.indices(shape) + 0.5) * UM_PER_PX
    dots = [(first + step * i, row) for row, first, step, n in ROWS_UM for i in range(n)]
    dots += [(column, first + step * i) for column, first, step, n in COLUMNS_UM for i in range(n)]
    for dot_x, dot_y in dots:
        distance = np.hypot(x - dot_x - origin_um[0], y - dot_y - origin_um[1])
        image[(distance < DOT_UM / 2) & (distance > DOT_UM / 2 - 20)] -= 25
    return image.clip(0, 255).astype(np.uint8)


def block(image: NDArray[np.uint8], x_um: tuple[int, int], y_um: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    rows, columns = (slice(round(a / UM_PER_PX), round(b / UM_PER_PX)) for a, b in (y_um, x_um))
    part = image[rows, columns] * (0.85, 0.6, 0.85)
    part[rng.random(part.shape[:2]) < 0.2] *= (0.6, 0.5, 0.8)
    image[rows, columns] = part


def corners_um(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    corners = find_frames(image, UM_PER_PX)
    assert corners is not None and len(corners) == 1
    return corners[0] * UM_PER_PX


def test_the_inside_of_the_frame_is_the_array() -> None:
    corners = corners_um(frame())
    np.testing.assert_allclose(corners.min(axis=0), np.array(ORIGIN_UM) - 75, atol=60)
    np.testing.assert_allclose(corners.max(axis=0), np.array(ORIGIN_UM) + ARRAY_UM + 75, atol=60)


TURNED: dict[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    "quarter": np.rot90,
    "half": lambda image: image[::-1, ::-1],
    "mirrored": lambda image: image[:, ::-1],
    "2 degrees": lambda image: rotate(image, 2, reshape=False, order=1, cval=174),
    "a third cut off": lambda image: image[: 2 * len(image) // 3],
}


@pytest.mark.parametrize("turn", TURNED.values(), ids=TURNED)
def test_a_turned_or_cut_frame_is_found(turn: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]) -> None:
    image = turn(frame())
    corners = find_frames(image, UM_PER_PX)
    assert corners is not None
    known = np.zeros(SHAPE, np.uint8)
    (x, y), (width, height) = (np.array(v) / UM_PER_PX for v in (ORIGIN_UM, ARRAY_UM))
    known[round(y) : round(y + height), round(x) : round(x + width)] = 1
    expected = turn(np.repeat(known[..., None], 3, axis=2))[..., 0] == 1
    mask = inside_frames(corners, image.shape[:2])
    assert mask[expected].mean() > 0.99
    assert mask.sum() < 1.1 * expected.sum()


def test_two_frames_of_a_slide_are_both_found() -> None:
    image = np.hstack([frame(), frame()])
    corners = find_frames(image, UM_PER_PX)
    assert corners is not None and len(corners) == 2


def test_noise_tissue_and_plain_glass_are_no_frame() -> None:
    rng = np.random.default_rng(2)
    assert find_frames(rng.integers(0, 255, (*SHAPE, 3), np.uint8), UM_PER_PX) is None
    glass = np.full((*SHAPE, 3), 230, np.uint8)
    assert find_frames(glass, UM_PER_PX) is None
    block(glass, (1000, 7000), (1000, 7000))
    assert find_frames(glass, UM_PER_PX) is None
    assert find_frames(np.full((3, 3, 3), 200, np.uint8), 100.0) is None


def test_tissue_beyond_the_frame_is_left_out_unless_asked_for() -> None:
    image = frame()
    block(image, (2000, 6000), (2000, 6000))
    block(image, (100, 700), (2000, 6000))
    slide = Slide(ArrayPixels(image, "f"), "s")
    points = np.array([(4000.0, 4000.0), (400.0, 4000.0)]) / UM_PER_PX
    assert find_tissue(slide, UM_PER_PX, TissueSettings()).holds(points).tolist() == [True, False]
    assert find_tissue(slide, UM_PER_PX, TissueSettings(inside_frame=False)).holds(points).tolist() == [True, True]
