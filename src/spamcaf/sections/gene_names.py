"""Genes by symbol or Ensembl id, found in one section and matched between several."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.names import GENE_IDS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

logger = logging.getLogger(__name__)

_N_CLOSE, _LIKE_ENOUGH = 3, 0.7
"""How many names are offered in place of an unknown one, and their lowest similarity to it."""


def find_genes(requested: Iterable[str], var: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Return the names in `var` (index: unique symbols; gene_ids) of the requested genes, and those not in `var`.

    The order is kept and repeats are dropped. Of several genes that share a symbol the plain symbol means the first,
    which alone bears it: the others are named `<symbol>_<gene id>`.
    """
    ids = var[GENE_IDS].astype(str)
    by_id = dict(zip(reversed(ids.tolist()), reversed(var.index.tolist()), strict=True))
    genes = list(dict.fromkeys(requested))
    names = [gene if gene in var.index else by_id.get(gene) for gene in genes]
    found = list(dict.fromkeys(name for name in names if name is not None))
    n_repeats = sum(name is not None for name in names) - len(found)
    if n_repeats:
        logger.info("%d genes are requested twice, by symbol and by id: each is taken once", n_repeats)
    for name, gene_id in zip(var.index, ids, strict=True):
        symbol = name.removesuffix(f"_{gene_id}")
        if symbol != name and symbol in genes and symbol in var.index:
            first = var.loc[symbol, GENE_IDS]
            logger.info("%s is the symbol of several genes: %s is taken, not %s", symbol, first, gene_id)
    return found, [gene for gene, name in zip(genes, names, strict=True) if name is None]


def closest(gene: str, var: pd.DataFrame) -> list[str]:
    """Return up to three symbols and ids that look like `gene`, the most alike first; case does not count."""
    from difflib import get_close_matches

    known = {name.upper(): name for name in [*var[GENE_IDS].astype(str), *var.index]}
    return [known[match] for match in get_close_matches(gene.upper(), known, _N_CLOSE, _LIKE_ENOUGH)]


def named(genes: Sequence[str], most: int = 10) -> str:
    """Return the first genes as text, and how many more there are."""
    more = len(genes) - most
    return ", ".join(genes[:most]) + (f" and {more} more" if more > 0 else "")


def is_shared(section: AnnData, others: Sequence[AnnData]) -> NDArray[np.bool_]:
    """Tell which genes (gene,) of `section` every one of `others` has; raise InputError where there are none."""
    ids = section.var[GENE_IDS].astype(str)
    in_each = [ids.isin(other.var[GENE_IDS].astype(str)) for other in others]
    shared = np.logical_and.reduce([np.ones(section.n_vars, bool), *in_each])
    if not shared.any():
        raise InputError(
            f"no gene in common; the first of this section is {ids.iloc[0]}, of another "
            f"{others[0].var[GENE_IDS].iloc[0]}.",
            "sections of one species, with gene ids of one kind (Ensembl ids, or symbols).",
            "Leave the other sections out, or convert their gene ids.",
        )
    return shared


def own_names(other: AnnData, var: pd.DataFrame) -> list[str]:
    """Return the names in `other` of the genes of `var`, matched by id; raise InputError where one is missing."""
    by_id = dict(zip(other.var[GENE_IDS].astype(str), other.var_names, strict=True))
    ids = var[GENE_IDS].astype(str)
    missing = [gene for gene, gene_id in zip(var.index, ids, strict=True) if gene_id not in by_id]
    if missing:
        raise InputError(
            f"{len(missing)} genes of the panel missing in another section, {missing[0]} first.",
            "a panel that all sections have.",
            "Run ingestion again with the same other_sections.",
        )
    return [by_id[gene_id] for gene_id in ids]


def match_genes(var: pd.DataFrame, ids: Sequence[str], symbols: Sequence[str]) -> NDArray[np.intp]:
    """Return the row of `var` (index: symbols; gene_ids) of each of `ids`, -1 where there is none.

    `symbols` are those of the first ids. They are matched by id, without its version, or by symbol: by whichever finds
    more.
    """
    plain = var[GENE_IDS].astype(str).str.replace(r"^(ENS[A-Z]*G\d+)\.\d+$", r"\1", regex=True)
    by_id = dict(zip(reversed(plain.tolist()), reversed(range(len(plain))), strict=True))
    by_symbol = {str(name): row for row, name in enumerate(var.index)}
    found_by_id = np.array([by_id.get(str(i).split(".")[0] if str(i).startswith("ENS") else str(i), -1) for i in ids])
    # of genes beside the panel the id alone is known, which is the symbol where there are no ids
    names = [*symbols, *ids[len(symbols) :]]
    found_by_symbol = np.array([by_symbol.get(name, -1) for name in names])
    is_id_better = (found_by_id >= 0).sum() >= (found_by_symbol >= 0).sum()
    return (found_by_id if is_id_better else found_by_symbol).astype(np.intp)


def take_genes(other: AnnData, var: pd.DataFrame) -> AnnData:
    """Return `other` with the genes of `var`, in its order and under its names; InputError where one is missing."""
    taken = other[:, own_names(other, var)].copy()
    taken.var = var[[GENE_IDS]].copy()
    return taken


def stack_spots(sections: Sequence[AnnData]) -> AnnData:
    """Return the spots of sections with the same genes, one after the other."""
    import anndata

    stacked = anndata.concat(list(sections), index_unique="-", keys=[str(i) for i in range(len(sections))])
    stacked.var = sections[0].var[[GENE_IDS]].copy()
    return stacked
