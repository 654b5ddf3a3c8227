"""Joins by id between datasets: features, places and expression of spots and sites, of one section and of others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.errors import InputError
from spamcaf.histology.features import Features
from spamcaf.histology.tiles import CENTRE
from spamcaf.names import GENE_IDS, SECTION_METADATA, SPATIAL, Model, Obs, SectionField
from spamcaf.parameters import GridSettings
from spamcaf.reporting.prediction import DRAW, PROGRAMS, build_prediction
from spamcaf.sections.gene_names import own_names
from spamcaf.sections.panel import DEPTH, GENE, PROGRAM_GENES, normalise_expression
from spamcaf.sections.sites import (
    CHUNK,
    IN_MEMORY,
    SITE_ID,
    SUB_INDEX,
    X_PX,
    Y_PX,
    Index,
    Measured,
    Sites,
    iter_chunks,
)
from spamcaf.sections.split import FOLD, MAP_FOLDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.datasets.inputs import OtherSections
    from spamcaf.histology.backbone import Backbone, LastBlocks
    from spamcaf.histology.features import FeatureKey
    from spamcaf.histology.tissue import Tissue
    from spamcaf.model.predict import Predicted
    from spamcaf.peers.models import TrainedModel

EVERY = slice(None)


def mpp_of(section: AnnData) -> float:
    """Return micrometres per full-resolution pixel of a checked section."""
    return float(section.uns[SECTION_METADATA][SectionField.MPP])


def pitch_um_of(section: AnnData) -> float:
    """Return the distance of neighbouring spots in micrometres."""
    return float(section.uns[SECTION_METADATA][SectionField.PITCH_UM])


@dataclass(frozen=True)
class StoredSites:
    """Sites whose features stay in their stores until `at` reads a part of them."""

    xy_um: NDArray[np.float64]  # (site, 2)
    stores: tuple[Features, ...]
    store: NDArray[np.intp]  # (site,) which of `stores` holds a site's features
    row: NDArray[np.intp]  # (site,) and in which row
    colours: NDArray[np.float32] | None = None  # (site, 54), in memory, where they were measured

    def __len__(self) -> int:
        return len(self.xy_um)

    def at(self, index: Index) -> Sites:
        """Return the sites at `index` with their features, in memory."""
        windows = self._taken([features.windows for features in self.stores], index)
        parts: list[list[Any]] = [[store.whole for store in self.stores], [store.maps for store in self.stores]]
        whole, maps = (None if any(p is None for p in part) else self._taken(part, index) for part in parts)
        colours = None if self.colours is None else self.colours[index]
        return Sites(self.xy_um[index], windows[:, CENTRE], windows, whole, maps, colours)

    @property
    def target(self) -> NDArray[np.float32]:
        """Features (site, feature) of the tile at each site, in memory."""
        return np.concatenate([np.ascontiguousarray(part.target) for part in iter_chunks(self, CHUNK)])

    @property
    def neighbours(self) -> NDArray[np.float32]:
        """Features (site, 9, feature) of the 3 x 3 tiles, in memory."""
        return np.concatenate([part.neighbours for part in iter_chunks(self, CHUNK)])

    @property
    def n_px_padded(self) -> NDArray[np.int64]:
        """Pixels of each site's window outside the image, (site,)."""
        return self._taken([features.n_px_padded for features in self.stores], EVERY)

    def _taken(self, arrays: Sequence[Any], index: Index) -> NDArray[Any]:
        store, row = self.store[index], self.row[index]
        taken = np.empty((len(row), *arrays[0].shape[1:]), arrays[0].dtype)
        for number in np.unique(store):
            here = store == number
            taken[here] = arrays[number][row[here]]
        return taken


def sites_of(
    ids: list[str], xy_um: NDArray[np.float64], features: Features, colours: pd.DataFrame | None = None
) -> StoredSites:
    """Return the sites `ids` at `xy_um`, whose features are those of one store; `colours` has a row per site id."""
    of_each = None if colours is None else colours.loc[ids].to_numpy(np.float32)
    return StoredSites(xy_um, (features,), np.zeros(len(ids), np.intp), features.rows(ids), of_each)


def grid_sites(grid: pd.DataFrame, spot_features: Features, grid_features: Features, mpp: float) -> StoredSites:
    """Return the sites of a grid; a site that is a spot has the spot's features.

    Raises InputError where the features are of other places, or of another slide or view than the spots'.
    """
    is_spot = (grid[SUB_INDEX] == 0).to_numpy()
    between = grid.loc[~is_spot]
    if len(between):
        spot_features.key.require_same_source(grid_features.key)
        grid_features.require_sites(between[SITE_ID].tolist(), between[[X_PX, Y_PX]].to_numpy(np.float64))
    row = np.empty(len(grid), np.intp)
    row[is_spot] = spot_features.rows(grid.loc[is_spot, Obs.PARENT].tolist())
    row[~is_spot] = grid_features.rows(between[SITE_ID].tolist())
    xy_um = grid[[X_PX, Y_PX]].to_numpy(np.float64) * mpp
    return StoredSites(xy_um, (spot_features, grid_features), (~is_spot).astype(np.intp), row)


def measured_spots(
    expression: AnnData, features: Features, barcodes: list[str], colours: pd.DataFrame | None = None
) -> Measured:
    """Return the spots `barcodes` with features, expression and depth, in that order.

    Features of more than `IN_MEMORY` spots stay in their store.
    """
    features.require_sites(expression.obs_names.tolist(), np.asarray(expression.obsm[SPATIAL], np.float64))
    spots = expression[barcodes]
    xy_um = np.asarray(spots.obsm[SPATIAL], np.float64) * mpp_of(expression)
    stored = sites_of(barcodes, xy_um, features, colours)
    sites = stored.at(EVERY) if len(stored) <= IN_MEMORY else stored
    others = np.asarray(spots.obsm[PROGRAM_GENES], np.float32) if PROGRAM_GENES in spots.obsm else None
    return Measured(sites, np.asarray(spots.X), spots.obs[DEPTH].to_numpy(np.float64), others)


def last_blocks_of(load_backbone: Callable[[], Backbone], n: int, key: FeatureKey) -> LastBlocks | None:
    """Return the last `n` blocks of the backbone, None where `n` is 0; InputError where features are of another."""
    if not n:
        return None
    from spamcaf.histology.backbone import LastBlocks

    backbone = load_backbone()
    if backbone.identity.key != key.backbone:
        raise InputError(
            f"the backbone {backbone.identity.key}, and features of {key.backbone}.",
            "the same, to train its last blocks.",
            "Name the same backbone (--params backbone=<name>), or run feature_extraction again.",
        )
    return LastBlocks(backbone.network, n)


def all_gene_ids(expression: AnnData) -> list[str]:
    """Return the ids of the panel, then of the genes that programs are learned from beside it."""
    return [*expression.var[GENE_IDS].astype(str), *map(str, expression.uns.get(PROGRAM_GENES, ()))]


MAX_PITCH_DIFFERENCE = 0.03


def measured_other_sections(others: OtherSections, expression: AnnData, key: FeatureKey) -> list[Measured]:
    """Return all measured spots of each other section, with the genes of `expression`.

    Raises InputError when their features are of another backbone or other tiles than `key`, when a gene is missing, or
    when their spots are another distance apart.
    """
    found = zip(others.names, others.sections(), others.features(), strict=True)
    return [_measured(name, section, features, expression, key) for name, section, features in found]


def _measured(name: str, section: AnnData, features: Features, expression: AnnData, key: FeatureKey) -> Measured:
    import pandas as pd

    for what, a, b in (("backbone", features.key.backbone, key.backbone), ("tiles", features.key.view, key.view)):
        if a != b:
            raise InputError(
                f"features of another {what} in section '{name}' ({a}) than in this one ({b}).",
                "the same.",
                f"kedro run --pipelines feature_extraction --params section={name}, with the settings of this run.",
            )
    ours, theirs = pitch_um_of(expression), pitch_um_of(section)
    if abs(theirs / ours - 1) > MAX_PITCH_DIFFERENCE:
        found = f"spots {theirs:g} um apart in section '{name}', {ours:g} um in this one."
        raise InputError(found, "sections of one technology.", "Leave it out of other_sections.")
    ids = all_gene_ids(expression)
    names = own_names(section, pd.DataFrame({GENE_IDS: ids}, index=ids))
    panel, more = (pd.DataFrame({GENE: part}) for part in np.split(np.array(names, object), [expression.n_vars]))
    normalised = normalise_expression(section, panel, more)
    return measured_spots(normalised, features, section.obs_names.tolist())


def fold_others(spots: pd.DataFrame, others: list[Measured]) -> list[NDArray[np.int64]]:
    """Return a fold per spot of each other section.

    Beside a measured section (`spots` has its folds) they are spread over the same folds. Without one, the error that
    matters is that of a whole section predicted by the others: each is a fold of its own, where there are several.
    """
    if len(spots) or len(others) == 1:
        n_folds = int(spots[FOLD].max()) + 1 if len(spots) else MAP_FOLDS
        return [np.random.default_rng(i).permutation(len(other)) % n_folds for i, other in enumerate(others)]
    return [np.full(len(other), i) for i, other in enumerate(others)]


def as_prediction(
    predicted: Predicted,
    model: TrainedModel,
    genes: pd.DataFrame,
    sites: pd.DataFrame,
    n_px_padded: NDArray,
    section: AnnData,
    tissue: Tissue,
    grid: GridSettings,
) -> AnnData:
    """Return `build_prediction` with the model's record.

    Its Gaussian process alone, and draws, if any, are layers; log depth and program scores are `obsm["programs"]`.
    """
    image = tissue.thumbnail, tissue.px_per_mask_px
    prediction = build_prediction(
        predicted.mean, predicted.sd, genes, sites, n_px_padded, section, *image, grid, model.record
    )
    if predicted.gp is not None:
        prediction.layers[Model.PROGRAM_GP] = predicted.gp
    if predicted.scores is not None:
        prediction.obsm[PROGRAMS] = predicted.scores
    for number, drawn in enumerate(predicted.draws if predicted.draws is not None else ()):
        prediction.layers[f"{DRAW}{number}"] = drawn
    return prediction
