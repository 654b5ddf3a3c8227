"""What every layout of files offers: the section, and the full-resolution image that belongs to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.slide import Slide


@dataclass(frozen=True)
class Wanted:
    """Which section is wanted, and what only a person can know of it.

    `root` is a folder with one section or with several, or a file; `section` names the section. `image` is the
    full-resolution image where it lies elsewhere. `bin_um` chooses the bins of Visium HD, in micrometres.
    """

    root: Path
    section: str
    image: Path | None = None
    bin_um: int | None = None

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folders in which the section may lie, the most specific first."""
        return (self.root / self.section, self.root)


class Layout(Protocol):
    """One section in files of a known layout, found but not read yet."""

    @property
    def kind(self) -> str:
        """The name of the layout, for the log and the section report."""

    def read(self) -> AnnData:
        """Return the raw section.

        X holds raw counts (spot, gene), CSR int32; `obs` has in_tissue, array_row and array_col (the last two only
        where the files say them); `var["gene_ids"]` an id per gene; `obsm["spatial"]` (x, y) full-resolution pixels,
        float64; `uns["section"]` the facts, see `spamcaf.names.Fact`. Raises InputError.
        """

    def open_slide(self) -> Slide:
        """Return the full-resolution image, lazily; raise InputError where there is none, or several."""
