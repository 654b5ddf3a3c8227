"""Hiding spots of a section as the pipeline does, and joining what is visible and what is scored."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from _models import SEED, Expression
from _section import Section
from numpy.typing import NDArray

from spamcaf.model.data import TrainingSection
from spamcaf.names import Part
from spamcaf.parameters import PanelSettings, SplitSettings, TileSettings
from spamcaf.pipelines.ingestion import nodes as ingestion
from spamcaf.scoring.limits import noise_ceiling, summarise_ceiling
from spamcaf.sections.panel import choose_gene_panel, choose_program_genes
from spamcaf.sections.sites import Measured, Sites
from spamcaf.sections.split import FOLD, PART


@dataclass(frozen=True)
class Hiding:
    """A section with some spots hidden: rows learned from and their folds, rows scored, and the gene panel.

    The panel is chosen on the rows learned from.
    """

    section: Section
    train: NDArray[np.intp]
    folds: NDArray[np.integer]
    hidden: NDArray[np.intp]
    genes: list[str]
    more: list[str]  # genes that gene programs are learned from beside

    @classmethod
    def of(cls, section: Section, split: SplitSettings, panel: PanelSettings) -> Hiding:
        """Hide spots of `section` as the pipeline's node does, and choose the panel."""
        table = ingestion.split_spots(section.data, split, TileSettings(), SEED)
        train, hidden = (np.flatnonzero(table[PART] == part.value) for part in (Part.TRAIN, Part.HIDDEN))
        chosen = choose_gene_panel(section.data[train], panel)
        more = choose_program_genes(section.data[train], chosen, panel.n_program_genes)["gene"].tolist()
        return cls(section, train, table[FOLD].to_numpy()[train], hidden, chosen["gene"].tolist(), more)

    def visible(self, of: Hiding | None = None) -> TrainingSection:
        """Return what is learned from, with the genes of another hiding where one is given."""
        of = of or self
        return TrainingSection(self.section.measured(of.genes, self.train, of.more), self.folds)

    def held_out(self) -> Measured:
        """Return what is scored."""
        return self.section.measured(self.genes, self.hidden)

    def ceiling(self) -> float:
        """Return the mean noise ceiling of the panel on the hidden spots."""
        counts, depth = self.section.counts(self.genes, self.hidden), self.held_out().depth
        mean = summarise_ceiling(noise_ceiling(counts, depth, self.genes, SEED))["pcc_mean"]
        return float("nan") if mean is None else float(mean)


def centred(measured: Measured) -> Measured:
    """Return the spots with expression and pictures counted from their section's means."""
    mean = measured.sites.neighbours.mean(axis=(0, 1))
    sites = Sites(measured.sites.xy_um, measured.sites.target - mean, measured.sites.neighbours - mean)
    expression: Expression = measured.expression - measured.expression.mean(axis=0)
    return Measured(sites, expression, measured.depth)
