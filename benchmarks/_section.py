"""A section as the benchmarks use it: counts, what the backbone saw, and grids with a known truth where there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.tiles import CENTRE
from spamcaf.names import SECTION_METADATA, SPATIAL, SectionField
from spamcaf.sections.panel import COUNTS, DEPTH, normalise_expression
from spamcaf.sections.sites import Measured, Sites

if TYPE_CHECKING:
    from anndata import AnnData

Rows = NDArray[np.intp] | NDArray[np.bool_] | slice
ALL = slice(None)


@dataclass(frozen=True)
class Seen:
    """Features of sites: `windows` (site, 9, feature), `rgb` (site, 54), and `whole` (site, feature) for `released`."""

    windows: NDArray[np.float32]
    rgb: NDArray[np.float32]
    whole: NDArray[np.float32] | None = None

    def sites(self, xy_um: NDArray[np.float64], rows: Rows = ALL) -> Sites:
        """Return the sites `rows` as every predictor takes them."""
        windows = self.windows[rows]
        return Sites(xy_um[rows], windows[:, CENTRE], windows, None if self.whole is None else self.whole[rows])


@dataclass(frozen=True)
class Grid:
    """A random sample of the sites between the spots, `truth` (site, gene) of all the section's genes."""

    factor: int
    n_sites: int
    xy_um: NDArray[np.float64]
    seen: Seen
    truth: NDArray[np.float32]


@dataclass(frozen=True)
class Section:
    """A checked section, its raw counts in `data`."""

    name: str
    data: AnnData
    seen: Seen
    grids: tuple[Grid, ...] = ()

    def __len__(self) -> int:
        return int(self.data.n_obs)

    @property
    def pitch_um(self) -> float:
        """Distance of neighbouring spots."""
        return float(self.data.uns[SECTION_METADATA][SectionField.PITCH_UM])

    @property
    def xy_um(self) -> NDArray[np.float64]:
        """Positions of the spots (spot, 2)."""
        return np.asarray(self.data.obsm[SPATIAL], np.float64) * float(
            self.data.uns[SECTION_METADATA][SectionField.MPP]
        )

    def measured(self, genes: list[str], rows: Rows = ALL, more: list[str] | None = None) -> Measured:
        """Return the spots `rows`; a gene that the section lacks is a column of zeros.

        `more` are genes that gene programs are learned from beside.
        """
        expression, depth = self._expression([*genes, *(more or [])], rows)
        ours, others = np.split(expression, [len(genes)], axis=1)
        return Measured(self.seen.sites(self.xy_um, rows), ours, depth, others if more else None)

    def _expression(self, genes: list[str], rows: Rows) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
        import pandas as pd

        where = self.data.var_names.get_indexer(genes)
        has = where >= 0
        known = normalise_expression(self.data[rows], pd.DataFrame({"gene": self.data.var_names[where[has]]}))
        expression = np.zeros((known.n_obs, len(genes)), np.float32)
        expression[:, has] = known.X
        return expression, known.obs[DEPTH].to_numpy(np.float64)

    def counts(self, genes: list[str], rows: Rows) -> NDArray[np.number]:
        """Return raw counts (spot, gene)."""
        import pandas as pd

        known = normalise_expression(self.data[rows], pd.DataFrame({"gene": genes}))
        counts: NDArray[np.number] = known.layers[COUNTS].toarray()
        return counts
