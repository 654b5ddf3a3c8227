"""The H&E-looking picture of a simulated tissue, rendered in windows."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.sections.simulation.domains import ADIPOSE, GLAND, domain_values
from spamcaf.sections.simulation.fields import Floats
from spamcaf.sections.simulation.hollows import HollowField, Hollows, ramp
from spamcaf.sections.simulation.landscape import Landscape, Stream, Visible, generator
from spamcaf.sections.simulation.nuclei import NucleusField
from spamcaf.sections.simulation.paint import REACH_UM, painted
from spamcaf.sections.simulation.texture import Texture

BLOCK = 256
"""Pixels are computed in whole blocks of a fixed lattice, so that any window equals the crop of the whole, exactly."""

KEPT_BLOCKS = 256
"""Blocks remembered (50 MB), since neighbouring tiles share them."""

HAEMATOXYLIN = np.array([0.563, 0.720, 0.406], dtype=np.float32)
EOSIN = np.array([0.216, 0.801, 0.558], dtype=np.float32)
"""Optical densities of red, green and blue: the reference stains of Macenko et al. 2009."""

GLASS = 244.0


@dataclass(frozen=True)
class _Ground:
    """A block's places, micrometres, as an open grid, and what is there."""

    x: Floats
    y: Floats
    visible: Visible
    hollows: Hollows


class Picture:
    """The picture as a function of pixel windows: uint8 RGB, pixel (0, 0) at the top left."""

    def __init__(self, settings: SimulationSettings, landscape: Landscape) -> None:
        self._landscape, self._mpp = landscape, settings.mpp
        self._block = lru_cache(KEPT_BLOCKS)(self._computed)
        self.height, self.width = (max(1, round(s / settings.mpp)) for s in (settings.height_um, settings.width_um))
        rng = generator(settings, Stream.TEXTURE)
        self._texture = Texture(rng)
        keys = [int(key) for key in rng.integers(1, 2**40, 3)]
        self._hollows = HollowField(keys[0])
        self._nuclei = [
            NucleusField(landscape, self._hollows, key, is_crowded=flag)
            for key, flag in zip(keys[1:], (False, True), strict=True)
        ]

    def render(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the window (row, column, RGB) whose top left pixel is (x0, y0); it must lie inside the picture."""
        if min(x0, y0) < 0 or min(width, height) < 1 or x0 + width > self.width or y0 + height > self.height:
            raise InputError(
                f"a window of {width} x {height} px at ({x0}, {y0}).",
                f"one inside the picture of {self.width} x {self.height} px.",
                "Crop the window to the picture, and pad outside.",
            )
        window = np.empty((height, width, 3), dtype=np.uint8)
        for top in range(y0 - y0 % BLOCK, y0 + height, BLOCK):
            for left in range(x0 - x0 % BLOCK, x0 + width, BLOCK):
                y1, y2, x1, x2 = (
                    max(top, y0),
                    min(top + BLOCK, y0 + height),
                    max(left, x0),
                    min(left + BLOCK, x0 + width),
                )
                block = self._block(left, top)
                window[y1 - y0 : y2 - y0, x1 - x0 : x2 - x0] = block[y1 - top : y2 - top, x1 - left : x2 - left]
        return window

    def _computed(self, left: int, top: int) -> NDArray[np.uint8]:
        columns, rows = range(left, left + BLOCK), range(top, top + BLOCK)
        x, y = (np.asarray(columns) + 0.5)[None] * self._mpp, (np.asarray(rows) + 0.5)[:, None] * self._mpp
        depth = self._landscape.depth_um(x, y)
        noise = 1.3 * self._texture.pixel_noise(columns, rows)[..., None]
        if depth.max() < 0:
            return self._developed(np.zeros((*depth.shape, 3), np.float32), noise)
        visible = self._landscape.visible(x, y)
        hollows = self._hollows.at(x, y, visible.membership[ADIPOSE], visible.membership[GLAND], max(1.2, self._mpp))
        eosin, haematoxylin = self._between_nuclei(_Ground(x, y, visible, hollows))
        nuclei = self._painted_nuclei(columns, rows) * self._chromatin(x, y)
        haematoxylin = np.maximum(haematoxylin, nuclei) + 0.15 * haematoxylin
        eosin = eosin * (1 - 0.45 * np.minimum(nuclei, 1))
        present = ramp(depth.astype(np.float32), 4.0)
        fading = visible.gradient.astype(np.float32)
        density = (eosin * present * (1 + 0.10 * fading))[..., None] * EOSIN
        density += (haematoxylin * present * (1 - 0.07 * fading))[..., None] * HAEMATOXYLIN
        return self._developed(density, noise)

    def _between_nuclei(self, ground: _Ground) -> tuple[Floats, Floats]:
        weights = ground.visible.membership.astype(np.float32)
        eosin, haematoxylin, fibres, grain = (
            np.einsum("d,drc->rc", domain_values(field).astype(np.float32), weights)
            for field in ("eosin", "haematoxylin", "fibres", "grain")
        )
        solid, wall = 1 - ground.hollows.clear, ground.hollows.wall
        fibres = fibres * (1 - wall)
        eosin = eosin * (1 - wall) + 0.36 * wall
        haematoxylin = haematoxylin * (1 - wall) + 0.17 * wall
        coarse = self._texture.on_grid(ground.x / 14, ground.y / 14)
        fine = self._texture.on_grid(ground.x / 2.2, ground.y / 2.2)
        eosin = eosin * np.maximum(1 + fibres * self._streaks(ground) + grain * (0.6 * coarse + 0.5 * fine), 0.12)
        haematoxylin = haematoxylin * np.maximum(1 + 0.35 * coarse + 0.25 * fine, 0)
        return eosin * solid, haematoxylin * solid

    def _streaks(self, ground: _Ground) -> Floats:
        across, along = self._landscape.fibre_coordinates(ground.x, ground.y)
        thick = self._texture.at(across / 5.5, along / 60)
        thin = self._texture.at(across / 2.0 + 91.3, along / 34 + 17.7)
        return 0.75 * thick + 0.55 * thin

    def _painted_nuclei(self, columns: range, rows: range) -> Floats:
        left, right = (c * self._mpp + s for c, s in ((columns.start, -REACH_UM), (columns.stop, REACH_UM)))
        top, bottom = (r * self._mpp + s for r, s in ((rows.start, -REACH_UM), (rows.stop, REACH_UM)))
        layers = [painted(field.within(left, top, right, bottom), columns, rows, self._mpp) for field in self._nuclei]
        return np.maximum(*layers)

    def _chromatin(self, x: Floats, y: Floats) -> Floats:
        return 1 + 0.13 * self._texture.on_grid(x / 1.1 + 40, y / 1.1 + 80)

    @staticmethod
    def _developed(density: Floats, noise: Floats) -> NDArray[np.uint8]:
        light = np.float32(GLASS) * np.exp(-density) + noise
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)
