"""The H&E image of a simulated tissue, rendered in windows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, sparse

from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.cells import Cavities, CavityMap, Nuclei, NucleusMap, ramp
from spamcaf.simulation.tissue_map import TEXTURE, Floats, TissueMap, domain_values, generator

BLOCK = 256
"""Pixels are computed in whole blocks of a fixed lattice, so that any window equals the crop of the whole, exactly."""
_CACHED_BLOCKS = 256  # 50 MB; neighbouring tiles share blocks
_NOISE_SIZE = 256
_REACH_UM = 13.0  # no nucleus is longer than this from its centre; longer ones are cut
_GLASS = 244.0
# optical densities of red, green and blue: the reference stains of Macenko et al. 2009
_HAEMATOXYLIN = np.array([0.563, 0.720, 0.406], dtype=np.float32)
_EOSIN = np.array([0.216, 0.801, 0.558], dtype=np.float32)


class _Texture:
    """Smooth noise of zero mean and unit variance, about two units from one extreme to the next, and pixel noise."""

    def __init__(self, rng: np.random.Generator) -> None:
        table = ndimage.gaussian_filter(rng.normal(size=(_NOISE_SIZE, _NOISE_SIZE)), 1.0, mode="wrap")
        self._table = ((table - table.mean()) / table.std()).astype(np.float32)
        self._pixels = rng.normal(size=(509, 521)).astype(np.float32)  # primes: repeats do not line up with tiles

    def at(self, u: Floats, v: Floats) -> Floats:
        """Return the noise at coordinates `u`, `v` of equal shape, in units."""
        return ndimage.map_coordinates(self._table, [v, u], order=1, mode="grid-wrap", output=np.float32)

    def on_grid(self, u: Floats, v: Floats) -> Floats:
        """Return the noise on the open grid `u` (1, column), `v` (row, 1), in units."""
        return self._mixed(self._mixed(self._table, v[:, 0]).T, u[0]).T

    @staticmethod
    def _mixed(table: Floats, position: Floats) -> Floats:
        below = np.floor(position).astype(np.int64)
        part = (position - below).astype(np.float32)[:, None]
        return table[below % _NOISE_SIZE] * (1 - part) + table[(below + 1) % _NOISE_SIZE] * part

    def pixel_noise(self, columns: range, rows: range) -> Floats:
        """Return (row, column) independent noise of pixels, by their row and column in the whole image."""
        return self._pixels[np.ix_(np.asarray(rows) % 509, np.asarray(columns) % 521)]


def area_weights(n_from: int, n_to: int) -> sparse.csr_matrix:
    """Return (n_to, n_from) weights: the share of each source pixel in each target pixel, rows summing to 1."""
    edges = np.union1d(np.arange(n_from + 1), np.arange(n_to + 1) * n_from / n_to)
    middle, length = (edges[1:] + edges[:-1]) / 2, np.diff(edges)
    source = np.minimum(middle.astype(np.int64), n_from - 1)
    target = np.minimum((middle * n_to / n_from).astype(np.int64), n_to - 1)
    return sparse.csr_matrix((length * n_to / n_from, (target, source)), shape=(n_to, n_from))


def shrunk(strips: Iterable[NDArray[np.uint8]], size: tuple[int, int], longest: int) -> NDArray[np.uint8]:
    """Return the image of `size` (rows, columns) with its longer side at most `longest` px, never enlarged.

    `strips` are its (row, column, RGB) rows from the top, in pieces of any height; only one is held at a time.
    """
    scale = min(1.0, longest / max(size))
    rows, columns = (area_weights(n, max(1, round(n * scale))) for n in size)
    total = np.zeros((rows.shape[0], columns.shape[0] * 3))
    down, top = rows.tocsc(), 0
    for strip in strips:
        tall = strip.astype(np.float32).transpose(1, 0, 2).reshape(size[1], -1)  # (column, row x RGB)
        narrow = (columns @ tall).reshape(columns.shape[0], len(strip), 3).transpose(1, 0, 2)
        total += down[:, top : top + len(strip)] @ narrow.reshape(len(strip), -1)
        top += len(strip)
    return np.rint(total).astype(np.uint8).reshape(rows.shape[0], columns.shape[0], 3)


def _painted(nuclei: Nuclei, columns: range, rows: range, mpp: float) -> Floats:
    """Return the density of nuclei, (row, column): ellipses with a dark rim, fading over a pixel; the darkest wins."""
    margin = int(np.ceil(_REACH_UM / mpp)) + 1
    canvas = np.zeros((len(rows) + 2 * margin, len(columns) + 2 * margin), dtype=np.float32)
    px, py = nuclei.x / mpp - columns.start + margin, nuclei.y / mpp - rows.start + margin
    half = np.ceil(np.minimum(nuclei.long_um, _REACH_UM) / mpp).astype(int)
    fits = (px > half) & (py > half) & (px < canvas.shape[1] - half - 1) & (py < canvas.shape[0] - half - 1)
    for reach in np.unique(half[fits]):
        chosen = (fits & (half == reach)).nonzero()[0]
        around = np.arange(-reach, reach + 1)
        column = (np.floor(px[chosen]).astype(np.int64)[:, None] + around)[:, None, :]
        row = (np.floor(py[chosen]).astype(np.int64)[:, None] + around)[:, :, None]
        dx, dy = ((p + 0.5 - c[chosen, None, None]) * mpp for p, c in ((column, px), (row, py)))
        density = _density(nuclei, chosen, dx.astype(np.float32), dy.astype(np.float32), max(mpp, 0.5))
        np.maximum.at(canvas.reshape(-1), (row * canvas.shape[1] + column).ravel(), density.ravel())
    return canvas[margin : margin + len(rows), margin : margin + len(columns)]


def _density(nuclei: Nuclei, chosen: NDArray[np.intp], dx: Floats, dy: Floats, edge_um: float) -> Floats:
    """Return (nucleus, row, column) optical density at offsets `dx`, `dy` in micrometres from the centres."""
    long, short, angle, darkness = (
        values[chosen, None, None].astype(np.float32)
        for values in (nuclei.long_um, nuclei.short_um, nuclei.angle, nuclei.darkness)
    )
    cos, sin = np.cos(angle), np.sin(angle)
    radius = np.sqrt(np.square((dx * cos + dy * sin) / long) + np.square((dy * cos - dx * sin) / short))
    cover = np.clip((1 - radius) * short / edge_um + 0.5, 0, 1)
    rim = np.clip(1 - np.abs(radius - 0.82) / 0.25, 0, 1)
    return cover * (0.80 + 0.28 * rim) * darkness


class TissueImage:
    """The image as a function of pixel windows: uint8 RGB, pixel (0, 0) at the top left."""

    def __init__(self, settings: SimulationSettings, tissue: TissueMap) -> None:
        self._tissue, self._mpp = tissue, settings.mpp
        self._block = lru_cache(_CACHED_BLOCKS)(self._computed)
        self.height, self.width = (max(1, round(s / settings.mpp)) for s in (settings.height_um, settings.width_um))
        rng = generator(settings, TEXTURE)
        self._texture = _Texture(rng)
        cavity_key, loose_key, crowded_key = (int(key) for key in rng.integers(1, 2**40, 3))
        self._cavities = CavityMap(cavity_key)
        self._nuclei = [
            NucleusMap(tissue, self._cavities, loose_key, is_crowded=False),
            NucleusMap(tissue, self._cavities, crowded_key, is_crowded=True),
        ]

    def render(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return the window (row, column, RGB) from pixel (x0, y0) on; raise InputError where it leaves the image."""
        if min(x0, y0) < 0 or min(width, height) < 1 or x0 + width > self.width or y0 + height > self.height:
            raise InputError(
                f"a window of {width} x {height} px at ({x0}, {y0}).",
                f"one inside the image of {self.width} x {self.height} px.",
                "Crop the window to the image, and pad outside.",
            )
        window = np.empty((height, width, 3), dtype=np.uint8)
        for top in range(y0 - y0 % BLOCK, y0 + height, BLOCK):
            for left in range(x0 - x0 % BLOCK, x0 + width, BLOCK):
                block = self._block(left, top)[max(y0 - top, 0) :, max(x0 - left, 0) :]
                part = window[max(top - y0, 0) : top + BLOCK - y0, max(left - x0, 0) : left + BLOCK - x0]
                part[:] = block[: part.shape[0], : part.shape[1]]
        return window

    def _computed(self, left: int, top: int) -> NDArray[np.uint8]:
        columns, rows = range(left, left + BLOCK), range(top, top + BLOCK)
        x, y = (np.asarray(columns) + 0.5)[None] * self._mpp, (np.asarray(rows) + 0.5)[:, None] * self._mpp
        depth = self._tissue.depth_um(x, y)
        density = np.zeros((*depth.shape, 3), np.float32)
        if depth.max() >= 0:
            visible = self._tissue.visible(x, y)
            cavities = self._cavities.at(x, y, visible.membership, max(1.2, self._mpp))
            eosin, haematoxylin = self._between_nuclei(x, y, visible.membership, cavities)
            chromatin = 1 + 0.13 * self._texture.on_grid(x / 1.1 + 40, y / 1.1 + 80)
            nuclei = self._painted_nuclei(columns, rows) * chromatin
            haematoxylin = np.maximum(haematoxylin, nuclei) + 0.15 * haematoxylin
            eosin = eosin * (1 - 0.45 * np.minimum(nuclei, 1))
            present = ramp(depth.astype(np.float32), 4.0)
            fading = visible.gradient.astype(np.float32)
            density = (eosin * present * (1 + 0.10 * fading))[..., None] * _EOSIN
            density += (haematoxylin * present * (1 - 0.07 * fading))[..., None] * _HAEMATOXYLIN
        # Beer-Lambert: light falls off exponentially with the density of stain
        light = np.float32(_GLASS) * np.exp(-density) + 1.3 * self._texture.pixel_noise(columns, rows)[..., None]
        return np.clip(np.rint(light), 0, 255).astype(np.uint8)

    def _between_nuclei(self, x: Floats, y: Floats, share: Floats, cavities: Cavities) -> tuple[Floats, Floats]:
        """Return the optical densities of eosin and hematoxylin, given the domains' `share` (domain, ...)."""
        values = (domain_values(field).astype(np.float32) for field in ("eosin", "haematoxylin", "fibres", "grain"))
        weights = share.astype(np.float32)
        eosin, haematoxylin, fibres, grain = (np.einsum("d,drc->rc", value, weights) for value in values)
        solid, wall = 1 - cavities.clear, cavities.wall
        fibres = fibres * (1 - wall)
        eosin = eosin * (1 - wall) + 0.36 * wall
        haematoxylin = haematoxylin * (1 - wall) + 0.17 * wall
        coarse, fine = self._texture.on_grid(x / 14, y / 14), self._texture.on_grid(x / 2.2, y / 2.2)
        across, along = self._tissue.fibre_coordinates(x, y)
        thick = self._texture.at(across / 5.5, along / 60)
        thin = self._texture.at(across / 2.0 + 91.3, along / 34 + 17.7)
        eosin = eosin * np.maximum(
            1 + fibres * (0.75 * thick + 0.55 * thin) + grain * (0.6 * coarse + 0.5 * fine), 0.12
        )
        haematoxylin = haematoxylin * np.maximum(1 + 0.35 * coarse + 0.25 * fine, 0)
        return eosin * solid, haematoxylin * solid

    def _painted_nuclei(self, columns: range, rows: range) -> Floats:
        left, top = (pixels.start * self._mpp - _REACH_UM for pixels in (columns, rows))
        right, bottom = (pixels.stop * self._mpp + _REACH_UM for pixels in (columns, rows))
        around = (nuclei.within(left, top, right, bottom) for nuclei in self._nuclei)
        return np.maximum(*(_painted(nuclei, columns, rows, self._mpp) for nuclei in around))
