"""Places are read once, in an order that suits files, ahead of the network and never far ahead."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.histology.tiles import distinct, prefetch_tiles, reading_order


@given(arrays(np.int64, st.tuples(st.integers(1, 30), st.just(3)), elements=st.integers(0, 3)))
def test_distinct_places_give_all_places_back(places: np.ndarray) -> None:
    once, which = distinct(places)
    np.testing.assert_array_equal(once[which], places)
    assert len({tuple(place) for place in once.tolist()}) == len(once)
    assert (np.diff([which.tolist().index(i) for i in range(len(once))]) > 0).all()


def test_sites_are_read_in_bands_from_left_to_right() -> None:
    xy = np.array([[500.0, 90], [10, 120], [20, 10], [300, 20], [10, 110]])
    assert reading_order(xy, 100).tolist() == [2, 3, 0, 4, 1]


def test_reading_order_decodes_little_twice() -> None:
    """Windows of 3 tiles over chunks of 100 px with room for three rows of chunks."""
    rng = np.random.default_rng(0)
    xy = rng.uniform(150, 1850, (400, 2))

    def decoded(order: np.ndarray) -> int:
        kept: list[tuple[int, int]] = []
        n = 0
        for x, y in xy[order]:
            for row in range(int(y - 150) // 100, int(y + 150) // 100 + 1):
                for column in range(int(x - 150) // 100, int(x + 150) // 100 + 1):
                    if (row, column) in kept:
                        kept.remove((row, column))
                    else:
                        n += 1
                    kept = [*kept, (row, column)][-80:]
        return n

    assert decoded(reading_order(xy, 300)) < 2.5 * 400
    assert decoded(np.arange(400)) > 3000


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_come_in_order_whatever_reads_them(slide: Slide, threads: int) -> None:
    batches = [np.array([[x, y, 40] for y in (-10, 100)]) for x in range(0, 500, 50)]
    ready = list(prefetch_tiles(slide, batches, None, threads))
    assert len(ready) == len(batches)
    for places, prepared in zip(batches, ready, strict=True):
        (expected,) = prefetch_tiles(slide, [places], None, 0)
        np.testing.assert_array_equal(prepared.tiles, expected.tiles)
        np.testing.assert_array_equal(prepared.n_padded, [400, 0])


def test_what_waits_is_bounded() -> None:
    read = []

    class Counting(ArrayPixels):
        def crop(self, x0: int, y0: int, width: int, height: int) -> np.ndarray:
            read.append(x0)
            return super().crop(x0, y0, width, height)

    slide = Slide(Counting(np.zeros((300, 1000, 3), np.uint8), "f"), "s")
    batches = ([np.array([[x, 0, 224]])][0] for x in range(500))
    ahead = prefetch_tiles(slide, batches, None, 2)
    next(ahead)
    time.sleep(0.05)
    assert 1 <= len(read) <= 6
    ahead.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("tiles")]


def test_a_reader_that_fails_is_heard(slide: Slide) -> None:
    def broken(tile: np.ndarray) -> np.ndarray:
        raise ValueError("torn")

    with pytest.raises(ValueError, match="torn"):
        list(prefetch_tiles(slide, [np.array([[0, 0, 40]])], broken, 1))
