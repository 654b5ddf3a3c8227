"""Genes that several sections share, matched by their ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray


def is_shared(section: AnnData, others: Sequence[AnnData]) -> NDArray[np.bool_]:
    """Tell which genes of `section` every one of `others` has; raise InputError where there are none."""
    ids = section.var[GENE_IDS].astype(str)
    shared = np.ones(section.n_vars, bool)
    for other in others:
        shared &= ids.isin(other.var[GENE_IDS].astype(str)).to_numpy()
    if not shared.any():
        raise InputError(
            f"no gene in common; the first of this section is {ids.iloc[0]}, of another "
            f"{others[0].var[GENE_IDS].iloc[0]}.",
            "sections of one species, with gene ids of one kind (Ensembl ids, or symbols).",
            "Leave the other sections out, or convert their gene ids.",
        )
    return shared


def take_genes(other: AnnData, var: pd.DataFrame) -> AnnData:
    """Return the spots of `other` with the genes of `var`, in its order and under its names.

    Raises InputError where a gene is missing.
    """
    taken = other[:, own_names(other, var)].copy()
    taken.var = var[[GENE_IDS]].copy()
    return taken


def own_names(other: AnnData, var: pd.DataFrame) -> list[str]:
    """Return what `other` calls the genes of `var`; raise InputError where it lacks one."""
    by_id = dict(zip(other.var[GENE_IDS].astype(str), other.var_names, strict=True))
    ids = var[GENE_IDS].astype(str)
    missing = [gene for gene, number in zip(var.index, ids, strict=True) if number not in by_id]
    if missing:
        raise InputError(
            f"{len(missing)} genes of the panel missing in another section, {missing[0]} first.",
            "a panel that all sections have.",
            "Run ingestion again with the same other_sections.",
        )
    return [by_id[number] for number in ids]


def stack_spots(sections: Sequence[AnnData]) -> AnnData:
    """Return the spots of sections with the same genes, one after the other."""
    import anndata

    stacked = anndata.concat(list(sections), index_unique="-", keys=[str(i) for i in range(len(sections))])
    stacked.var = sections[0].var[[GENE_IDS]].copy()
    return stacked
