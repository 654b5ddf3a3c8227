"""A large TIFF without pyramid is read in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile

pytest.importorskip("resource", reason="peak memory is asked of the operating system, which Windows does not offer")

SIDE, TILE, WINDOW = 30_000, 512, 1000
READ = """
import resource, sys
from pathlib import Path
import numpy, tifffile, imagecodecs, openslide, PIL.Image
from spamcaf.slides.open import open_slide

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

before = peak()
slide = open_slide(Path(sys.argv[1]))
window = int(sys.argv[2])
rng = numpy.random.default_rng(0)
for x0, y0 in rng.integers(0, slide.shape[0] - window, (200, 2)):
    slide.read(int(x0), int(y0), window, window)
corner, _ = slide.read(slide.shape[1] - 3, slide.shape[0] - 3, 3, 3)
print(slide.shape[0], (peak() - before) >> 20, *corner.reshape(-1, 3).mean(axis=0).astype(int))
"""


def encoded_tiles() -> Iterator[bytes]:
    """One tile in a hundred is a ramp of its own; the others are one pattern, encoded once."""
    across = -(-SIDE // TILE)
    ramp = np.arange(TILE, dtype=np.uint8)
    plain = np.empty((TILE, TILE, 3), np.uint8)
    plain[:] = (200, 120, 180)
    common = imagecodecs.zlib_encode(plain.tobytes())
    for index in range(across**2):
        if index % 100:
            yield common
        else:
            yield imagecodecs.zlib_encode((plain + ramp[:, None] + np.uint8(index % 256)).tobytes(), level=1)


def test_200_windows_of_a_30_000_px_tiff_take_less_than_500_mb(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    how = {"photometric": "rgb", "tile": (TILE, TILE), "compression": "zlib", "bigtiff": True}
    tifffile.imwrite(path, encoded_tiles(), shape=(SIDE, SIDE, 3), dtype=np.uint8, **how)
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path), str(WINDOW)], capture_output=True, text=True, timeout=120, check=True
    )
    rows, peak_mb, *corner = map(int, done.stdout.split())
    assert rows == SIDE
    assert corner == [200, 120, 180]
    assert peak_mb < 500
