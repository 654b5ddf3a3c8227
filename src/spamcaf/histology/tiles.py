"""Cutting the windows around sites: 3 x 3 tiles, in micrometres, brought to the backbone's size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.histology.backbone import TILE_PX

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from spamcaf.histology.slide import Slide
    from spamcaf.parameters import TileSettings

TILES_ACROSS = 3
N_TILES = TILES_ACROSS**2
CENTRE = N_TILES // 2
"""Index of the target tile among the nine, row by row."""


@dataclass(frozen=True)
class WindowGeometry:
    """Width of a window of 3 x 3 tiles: in full-resolution pixels, and in the unit that it was asked for in."""

    window_px: int
    asked: str

    @classmethod
    def of(cls, tiles: TileSettings, mpp: float) -> WindowGeometry:
        """Return the geometry at `mpp` micrometres per pixel; `pixels` takes the backbone's 224 as they are."""
        tile_px = TILE_PX if tiles.unit == "pixels" else tiles.tile_um / mpp
        asked = f"{TILE_PX} px" if tiles.unit == "pixels" else f"{tiles.tile_um:g} um"
        return cls(max(round(TILES_ACROSS * tile_px), TILES_ACROSS), asked)

    def view(self) -> dict[str, object]:
        """Return what a tile shows, the same for every section: features of one view can be compared."""
        return {"tile": self.asked, "tile_px": TILE_PX, "tiles_across": TILES_ACROSS}

    def corner(self, xy_px: NDArray[np.float64]) -> tuple[int, int]:
        """Return the window's upper left pixel for a site at (x, y)."""
        half = self.window_px / 2
        return round(float(xy_px[0]) - half), round(float(xy_px[1]) - half)


def read_window(slide: Slide, xy_px: NDArray[np.float64], geometry: WindowGeometry) -> tuple[Tensor, int]:
    """Return the window around a site as (3, 672, 672) float32 in 0..255, and how many of its pixels are padding."""
    import torch
    from torch.nn.functional import interpolate

    x0, y0 = geometry.corner(xy_px)
    window, n_padded = slide.read(x0, y0, geometry.window_px, geometry.window_px)
    pixels = torch.from_numpy(np.ascontiguousarray(window)).permute(2, 0, 1)[None].float()
    side = TILES_ACROSS * TILE_PX
    if geometry.window_px != side:
        # antialias: a slide of finer pixels than the backbone's must not alias into texture that is not there
        pixels = interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return pixels[0], n_padded


def shrink_windows(windows: Tensor) -> Tensor:
    """Shrink (site, 3, 672, 672) to one tile each, (site, 3, 224, 224)."""
    from torch.nn.functional import interpolate

    size = (TILE_PX, TILE_PX)
    return interpolate(windows, size=size, mode="bilinear", antialias=True, align_corners=False)


def cut_tiles(windows: Tensor) -> Tensor:
    """Cut (site, 3, 672, 672) into (site, 9, 3, 224, 224), row by row."""
    n = windows.shape[0]
    grid = windows.reshape(n, 3, TILES_ACROSS, TILE_PX, TILES_ACROSS, TILE_PX)
    return grid.permute(0, 2, 4, 1, 3, 5).reshape(n, N_TILES, 3, TILE_PX, TILE_PX)
