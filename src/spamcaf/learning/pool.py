"""The visible spots of one section or of several, side by side, each section centred by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.learning.pictures import HOME, Basis, Pictures, learn_basis
from spamcaf.sections.sites import Measured, Sites, stack


@dataclass(frozen=True)
class Visible:
    """The visible spots of one section, and the fold (spot,) in which each is validation."""

    measured: Measured
    folds: NDArray[np.integer]

    def __post_init__(self) -> None:
        if len(self.folds) != len(self.measured):
            raise InputError(
                f"{len(self.folds)} folds and {len(self.measured)} spots.",
                "a fold per spot.",
                "Join folds and spots by id.",
            )
        named = (("expression", self.measured.expression), ("target features", self.measured.sites.target))
        for name, values in named:
            if not np.isfinite(values).all():
                raise InputError(f"NaN or Inf in {name}.", "finite numbers.", "Drop those spots before the fit.")


@dataclass(frozen=True)
class Centre:
    """The means of a section's spots: expression (gene,), and pictures, whose two parts are (feature,).

    What distinguishes whole sections (stain, scanner, depth) is in these means; patterns within a section are not.
    """

    expression: NDArray[np.float64]
    pictures: Pictures

    @classmethod
    def of(cls, measured: Measured) -> Centre:
        """Return the means of `measured`."""
        return cls(measured.expression.mean(axis=0, dtype=np.float64), Pictures.of(measured.sites).centre())


@dataclass(frozen=True)
class Pool:
    """Spots of several sections, row by row, home first.

    `section` (spot,) numbers them, 0 for home; `expression` (spot, gene) and `pictures`, components of `basis`, are
    centred by section; `sites` are as they are. `gene_mean` (gene,) is the mean of the sections' means.
    """

    section: NDArray[np.int64]
    sites: Sites
    expression: NDArray[np.float32]
    pictures: Pictures
    basis: Basis
    depth: NDArray[np.float64]
    folds: NDArray[np.integer]
    gene_mean: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.section)

    @classmethod
    def of(cls, home: Visible | None, others: Sequence[Visible] = ()) -> Pool:
        """Return the pool of `home`, where it was measured at all, and of other sections with the same genes.

        Raises InputError when there are no spots, or all are of one fold.
        """
        lots = ([] if home is None else [home]) + list(others)
        first = HOME if home is not None else HOME + 1
        if not lots:
            raise InputError("no measured section.", "at least one.", "Name other_sections, or hide fewer spots.")
        centres = [Centre.of(lot.measured) for lot in lots]
        pictures = Pictures.stack(
            [Pictures.of(lot.measured.sites).minus(c.pictures) for lot, c in zip(lots, centres, strict=True)]
        )
        basis = learn_basis(pictures)
        residuals = [
            (lot.measured.expression - c.expression).astype(np.float32) for lot, c in zip(lots, centres, strict=True)
        ]
        folds = np.concatenate([lot.folds for lot in lots])
        if len(np.unique(folds)) < 2:  # noqa: PLR2004
            raise InputError(
                f"folds {np.unique(folds).tolist()}.", "at least 2 folds.", "Set split.n_folds to 2 or more."
            )
        measured = stack([lot.measured for lot in lots])
        return cls(
            section=np.repeat(np.arange(first, first + len(lots)), [len(lot.measured) for lot in lots]),
            sites=measured.sites,
            expression=np.concatenate(residuals),
            pictures=basis(pictures),
            basis=basis,
            depth=measured.depth,
            folds=folds,
            gene_mean=np.mean([centre.expression for centre in centres], axis=0),
        )
