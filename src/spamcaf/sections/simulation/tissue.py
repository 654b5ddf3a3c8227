"""The simulated section as the rest of the project sees it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from spamcaf.names import FACTS, SPATIAL, Fact, Position, ScaleFactor
from spamcaf.parameters import SimulationSettings
from spamcaf.sections.scale import FIDUCIAL_UM, PITCH_UM, SPOT_UM, STATED_SPOT_UM
from spamcaf.sections.simulation.domains import DOMAINS
from spamcaf.sections.simulation.expression import Expression
from spamcaf.sections.simulation.genes import simulated_genes
from spamcaf.sections.simulation.landscape import Landscape
from spamcaf.sections.simulation.lattice import visium_spots
from spamcaf.sections.simulation.picture import BLOCK, Picture
from spamcaf.sections.simulation.shrink import shrunk

if TYPE_CHECKING:
    from anndata import AnnData

LIBRARY = "simulated"
DOMAIN = "domain"
"""`obs` column of the true domain, for scoring clusters."""

GLASS = -1
HIRES_PX, LOWRES_PX = 2000, 600


class SimulatedTissue:
    """A section known everywhere: its picture, its counts, and the truth behind them. Nothing touches a file.

    Places are (x, y) in micrometres from the picture's top left corner; pixel = micrometres / mpp.
    """

    def __init__(self, settings: SimulationSettings) -> None:
        self.settings = settings
        self._genes = simulated_genes(settings.n_genes)
        self._landscape = Landscape(settings)
        self._picture = Picture(settings, self._landscape)
        self._expression = Expression(settings, self._landscape, self._genes, SPOT_UM)

    @property
    def genes(self) -> pd.DataFrame:
        """One row per gene, indexed by symbol: `gene_ids` and `driver` (visible, hidden, both, flat or silent)."""
        return self._genes.table.copy()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(rows, columns, 3) of the full-resolution picture."""
        return self._picture.height, self._picture.width, 3

    def render(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a window of the picture, (row, column, RGB), equal to that crop of the whole.

        Raises InputError where the window leaves the picture.
        """
        return self._picture.render(x0, y0, width, height)

    def strips(self, rows: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the whole picture from the top, in strips of `rows` rows, the last one shorter."""
        height, width, _ = self.image_shape
        for top in range(0, height, rows):
            yield self.render(0, top, width, min(rows, height - top))

    def true_expression(self, xy_um: NDArray[np.floating]) -> NDArray[np.float32]:
        """Return (site, gene) log1p of expected counts per 10 000, averaged over a spot's disc at each place.

        On glass it is what the tissue would express if it went on there.
        """
        return self._expression.truth(xy_um)

    def domain(self, xy_um: NDArray[np.floating]) -> NDArray[np.int64]:
        """Return (site,) the index into `DOMAINS` of the tissue at each place, -1 on glass."""
        x, y = np.asarray(xy_um, dtype=np.float64).T
        strongest = np.argmax(self._landscape.membership(x, y), axis=0)
        return np.where(self._landscape.depth_um(x, y) > 0, strongest, GLASS)

    @cached_property
    def positions(self) -> pd.DataFrame:
        """Every spot of the slide, indexed by barcode, with the columns of a Space Ranger position file."""
        spots, xy_um = visium_spots(self.settings)
        spots.insert(0, Position.IN_TISSUE.value, (self.domain(xy_um) != GLASS).astype(np.int64))
        spots[Position.PXL_ROW.value] = xy_um[:, 1] / self.settings.mpp
        spots[Position.PXL_COL.value] = xy_um[:, 0] / self.settings.mpp
        return spots

    def section(self) -> AnnData:
        """Return the measured section: the spots under tissue, sorted by barcode, with counts, picture and truth.

        X is CSR int32 counts; `obs["domain"]` the true domain; `var["driver"]` what drives each gene.
        """
        from anndata import AnnData

        spots = self.positions
        spots = spots[spots[Position.IN_TISSUE] == 1].sort_index()
        xy_px = spots[[Position.PXL_COL, Position.PXL_ROW]].to_numpy(np.float64)
        obs = spots[[Position.IN_TISSUE, Position.ARRAY_ROW, Position.ARRAY_COL]].copy()
        xy_um = xy_px * self.settings.mpp
        names = [domain.name for domain in DOMAINS]
        obs[DOMAIN] = pd.Categorical.from_codes(self.domain(xy_um), names)
        section = AnnData(self._expression.counts(xy_um), obs=obs, var=self.genes, obsm={SPATIAL: xy_px})
        section.obs_names.name = None
        section.uns[FACTS] = {
            Fact.NAME.value: LIBRARY,
            Fact.LATTICE.value: "hexagonal",
            Fact.PITCH_UM.value: PITCH_UM,
            Fact.SPOT_UM.value: SPOT_UM,
            Fact.MPP.value: self.settings.mpp,
        }
        section.uns[SPATIAL] = {LIBRARY: self._library()}
        return section

    def _library(self) -> dict[str, Any]:
        rows, columns, _ = self.image_shape
        hires = shrunk(self.strips(BLOCK), (rows, columns), HIRES_PX)
        lowres = shrunk([hires], hires.shape[:2], LOWRES_PX)
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
