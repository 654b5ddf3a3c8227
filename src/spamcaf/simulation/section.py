"""The simulated section: spots, counts, image and truth of one tissue."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SPATIAL, Position, ScaleFactor, SectionField
from spamcaf.parameters import SimulationSettings
from spamcaf.sections.scale import FIDUCIAL_UM, PITCH_UM, SPOT_UM, STATED_SPOT_UM
from spamcaf.simulation.counts import Expression, simulated_genes
from spamcaf.simulation.image import BLOCK, TissueImage, shrunk
from spamcaf.simulation.tissue_map import BARCODES, DOMAINS, TissueMap, generator

if TYPE_CHECKING:
    from anndata import AnnData

_TURN_DEGREES = 1.0  # rotation of the lattice against the image
_LIBRARY = "simulated"
_ON_GLASS = -1
_HIRES_PX, _LOWRES_PX = 2000, 600


def visium_spots(settings: SimulationSettings) -> tuple[pd.DataFrame, NDArray[np.float64]]:
    """Return the spots that lie whole in the image, row by row, and their (x, y) in micrometres.

    Indexed by barcode, with `array_row` and `array_col`: their sum is even, neighbours in a row are two columns apart.
    """
    reach = int(np.hypot(settings.width_um, settings.height_um) / PITCH_UM) + 2
    row, col = (index.ravel() for index in np.mgrid[-reach : reach + 1, -2 * reach : 2 * reach + 1])
    row, col = (index[(row + col) % 2 == 0] for index in (row, col))
    u, v = col * PITCH_UM / 2, row * PITCH_UM * np.sqrt(3) / 2
    cos, sin = np.cos(np.deg2rad(_TURN_DEGREES)), np.sin(np.deg2rad(_TURN_DEGREES))
    size = np.array([settings.width_um, settings.height_um])
    xy_um = np.stack([u * cos - v * sin, u * sin + v * cos], axis=1) + size / 2
    is_whole = ((xy_um >= SPOT_UM / 2) & (xy_um <= size - SPOT_UM / 2)).all(axis=1)
    row, col, xy_um = row[is_whole], col[is_whole], xy_um[is_whole]
    if not len(row):
        raise InputError(
            f"a simulated image of {size[0]:g} x {size[1]:g} um.",
            f"room for a spot of {SPOT_UM:g} um at its centre.",
            "Raise width_um and height_um of the simulation.",
        )
    first_col = col.min() - (row.min() + col.min()) % 2
    indices = {Position.ARRAY_ROW.value: row - row.min(), Position.ARRAY_COL.value: col - first_col}
    return pd.DataFrame(indices, index=pd.Index(_barcodes(len(row), settings), name=Position.BARCODE.value)), xy_um


def _barcodes(n: int, settings: SimulationSettings) -> list[str]:
    """Return unique barcodes of 16 letters, in no order."""
    rng = generator(settings, BARCODES)
    codes = np.zeros(0, dtype=np.int64)
    while len(codes) < n:
        codes = np.unique(np.append(codes, rng.integers(0, 4**16, n)))
    codes = rng.permutation(codes)[:n]
    letters = np.array(list("ACGT"))[(codes[:, None] >> (2 * np.arange(16))) & 3]
    return ["".join(word) + "-1" for word in letters]


class SimulatedTissue:
    """A section known everywhere: its image, its counts, and the truth behind them. Nothing touches a file.

    Coordinates are (x, y) in micrometres from the image's top left corner; pixel = micrometres / mpp.
    """

    shown_genes = ("ERBB2", "COL1A1", "CD3E")
    """Markers of tumour, stroma and lymphocytes, which maps show first."""

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self._genes, self._tissue = simulated_genes(settings.n_genes), TissueMap(settings)
        self._image = TissueImage(settings, self._tissue)
        self._expression = Expression(settings, self._tissue, self._genes)

    @property
    def genes(self) -> pd.DataFrame:
        """One row per gene, indexed by symbol: `gene_ids` and `driver` (visible, hidden, both, flat or silent)."""
        return self._genes.table.copy()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(rows, columns, 3) of the full-resolution image."""
        return self._image.height, self._image.width, 3

    def render(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a window, (row, column, RGB), a crop of the whole; raise InputError where it leaves the image."""
        return self._image.render(x0, y0, width, height)

    @cached_property
    def image(self) -> NDArray[np.uint8]:
        """The whole image, (row, column, RGB), rendered once and kept."""
        height, width, _ = self.image_shape
        return self.render(0, 0, width, height)

    def strips(self, rows: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the whole image from the top, in strips of `rows` rows, the last one shorter."""
        height, width, _ = self.image_shape
        for top in range(0, height, rows):
            kept = self.__dict__.get("image")  # an image that is asked for in strips alone need not fit into memory
            bottom = min(top + rows, height)
            yield self.render(0, top, width, bottom - top) if kept is None else kept[top:bottom]

    def true_expression(self, xy_um: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (site, gene) log1p of expected counts per 10 000, averaged over a spot's disc at each site (site, 2).

        On glass it is what the tissue would express if it went on there.
        """
        return self._expression.truth(xy_um)

    def domain(self, xy_um: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return (site,) the index into `DOMAINS` of the tissue at each site (site, 2), -1 on glass."""
        x, y = np.asarray(xy_um, dtype=np.float64).T
        strongest = np.argmax(self._tissue.membership(x, y), axis=0)
        return np.where(self._tissue.depth_um(x, y) > 0, strongest, _ON_GLASS)

    @cached_property
    def positions(self) -> pd.DataFrame:
        """Every spot of the slide, indexed by barcode, with the columns of a Space Ranger position file."""
        spots, xy_um = visium_spots(self.settings)
        spots.insert(0, Position.IN_TISSUE.value, (self.domain(xy_um) != _ON_GLASS).astype(np.int64))
        spots[Position.PXL_ROW.value] = xy_um[:, 1] / self.settings.mpp
        spots[Position.PXL_COL.value] = xy_um[:, 0] / self.settings.mpp
        return spots

    def section(self) -> AnnData:
        """Measure the spots under tissue, sorted by barcode.

        X is CSR int32 counts, `obs["domain"]` the true domain, `var["driver"]` what drives each gene; coordinates,
        thumbnails and metadata are as readers return them.
        """
        from anndata import AnnData

        spots = self.positions[self.positions[Position.IN_TISSUE] == 1].sort_index()
        xy_px = spots[[Position.PXL_COL, Position.PXL_ROW]].to_numpy(np.float64)
        xy_um = xy_px * self.settings.mpp
        obs = spots[[Position.IN_TISSUE, Position.ARRAY_ROW, Position.ARRAY_COL]].copy()
        obs["domain"] = pd.Categorical.from_codes(self.domain(xy_um), [domain.name for domain in DOMAINS])
        section = AnnData(self._expression.counts(xy_um), obs=obs, var=self.genes, obsm={SPATIAL: xy_px})
        section.obs_names.name = None
        section.uns[SECTION_METADATA] = {
            SectionField.NAME.value: _LIBRARY,
            SectionField.LATTICE.value: "hexagonal",
            SectionField.PITCH_UM.value: PITCH_UM,
            SectionField.SPOT_UM.value: SPOT_UM,
            SectionField.MPP.value: self.settings.mpp,
        }
        section.uns[SPATIAL] = {_LIBRARY: self._library()}
        return section

    def _library(self) -> dict[str, Any]:
        rows, columns, _ = self.image_shape
        hires = shrunk(self.strips(BLOCK), (rows, columns), _HIRES_PX)
        lowres = shrunk([hires], hires.shape[:2], _LOWRES_PX)
        return {
            "images": {"hires": hires, "lowres": lowres},
            "scalefactors": {
                ScaleFactor.SPOT.value: STATED_SPOT_UM[0] / self.settings.mpp,
                ScaleFactor.FIDUCIAL.value: FIDUCIAL_UM / self.settings.mpp,
                ScaleFactor.HIRES.value: max(hires.shape) / max(rows, columns),
                ScaleFactor.LOWRES.value: max(lowres.shape) / max(rows, columns),
            },
            "metadata": {"chemistry_description": "simulated", "software_version": "spamcaf"},
        }
