"""A slide says how its rows lie, and can be opened again in another process."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import tifffile

from spamcaf.slides.open import open_slide

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 200, 3), np.uint8)


@pytest.mark.parametrize(
    ("how", "is_striped"),
    [
        ({"tile": (32, 32), "compression": "zlib"}, False),
        ({"rowsperstrip": 8, "compression": "zlib"}, True),
        ({}, False),
    ],
    ids=["tiled", "striped", "mapped"],
)
def test_a_slide_survives_pickling(tmp_path: Path, how: dict[str, object], is_striped: bool) -> None:
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, IMAGE, photometric="rgb", **how)
    slide = open_slide(path)
    again = pickle.loads(pickle.dumps(slide))
    assert slide.is_portable and again.is_portable
    assert slide.is_striped == again.is_striped == is_striped
    assert again.fingerprint == slide.fingerprint
    np.testing.assert_array_equal(again.read(7, 5, 60, 40)[0], IMAGE[5:45, 7:67])
