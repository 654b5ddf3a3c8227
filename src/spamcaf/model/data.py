"""What the model learns from: spots of one section or several, each centred by itself, and tensors of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from spamcaf.errors import InputError
from spamcaf.model.network import SpamcafInput
from spamcaf.sections.sites import Measured, Sites, stack

N_COMPONENTS = 256
"""Directions kept of a backbone's features; fewer spots than half of it span them all."""
MAX_ROWS = 8192
"""Rows that the directions are learned from."""

TARGET = 0
"""The number of the section whose sites are predicted; others, if any, are numbered from 1."""

Array = NDArray[np.float32]


@dataclass(frozen=True)
class ImageFeatures:
    """What the image kernels see of places: the tile there, and the mean of the 3 x 3 tiles, both (site, feature).

    `residual_norm2` (site, 2) is the squared length of what a basis left out of the two, 0 for whole features.
    """

    target: Array
    neighbourhood: Array
    residual_norm2: Array

    @classmethod
    def of(cls, sites: Sites) -> ImageFeatures:
        """Return the pictures of `sites`."""
        target, neighbourhood = np.asarray(sites.target, np.float32), sites.neighbours.mean(axis=1, dtype=np.float32)
        return cls(target, neighbourhood, np.zeros((len(sites), 2), np.float32))

    @classmethod
    def stack(cls, parts: list[ImageFeatures]) -> ImageFeatures:
        """Return all places of `parts`, one after the other."""
        return cls(
            *(
                np.concatenate([getattr(p, name) for p in parts])
                for name in ("target", "neighbourhood", "residual_norm2")
            )
        )

    def centre(self) -> ImageFeatures:
        """Return the means over places: target and surround (feature,)."""
        return ImageFeatures(self.target.mean(axis=0), self.neighbourhood.mean(axis=0), np.zeros(2, np.float32))

    def minus(self, centre: ImageFeatures) -> ImageFeatures:
        """Return the pictures counted from `centre`."""
        return ImageFeatures(
            self.target - centre.target, self.neighbourhood - centre.neighbourhood, self.residual_norm2
        )

    def at(self, rows: NDArray[np.intp] | NDArray[np.bool_] | slice) -> ImageFeatures:
        """Return the pictures of some places."""
        return ImageFeatures(self.target[rows], self.neighbourhood[rows], self.residual_norm2[rows])


@dataclass(frozen=True)
class Basis:
    """The main directions of centred pictures: `axes` (component, feature), orthonormal."""

    axes: Array

    def __call__(self, image_features: ImageFeatures) -> ImageFeatures:
        """Return the components of centred pictures of whole features."""
        target, neighbourhood = image_features.target @ self.axes.T, image_features.neighbourhood @ self.axes.T
        residual_norm2 = np.stack(
            [_lost(image_features.target, target), _lost(image_features.neighbourhood, neighbourhood)],
            axis=1,
        )
        return ImageFeatures(target, neighbourhood, residual_norm2)


def _lost(whole: Array, kept: Array) -> Array:
    return np.maximum(np.square(whole).sum(axis=1) - np.square(kept).sum(axis=1), 0)


def fit_kernel_basis(image_features: ImageFeatures) -> Basis:
    """Learn the main directions of centred pictures, tiles and surroundings together.

    A linear kernel sees no more of a place than what it shares with the spots, so nothing is lost where the spots span
    fewer directions.
    """
    from sklearn.decomposition import PCA

    both = np.concatenate([image_features.target, image_features.neighbourhood])
    rows = np.random.default_rng(len(both)).permutation(len(both))[:MAX_ROWS]
    n_kept = min(N_COMPONENTS, len(rows), both.shape[1])
    pca = PCA(n_kept, svd_solver="covariance_eigh").fit(both[rows].astype(np.float64))
    return Basis(pca.components_.astype(np.float32))


@dataclass(frozen=True)
class Projection:
    """Principal components: `mean` (feature,), `axes` (component, feature) orthonormal, and ONE scale for all.

    One number, because scaling each feature or component by its own spread lets nearly dead channels explode.
    """

    mean: Array
    axes: Array
    scale: float

    def __call__(self, features: Array) -> Array:
        """Return components (..., component) of features (..., feature), of mean variance 1 where it was learned."""
        return ((features - self.mean) @ self.axes.T / np.float32(self.scale)).astype(np.float32)


def fit_projection(features: Array, n_components: int) -> Projection:
    """Learn at most `n_components` principal components of `features` (row, feature)."""
    from sklearn.decomposition import PCA

    n_kept = min(n_components, *features.shape)
    pca = PCA(n_kept, svd_solver="covariance_eigh").fit(np.asarray(features, np.float64))
    scale = float(np.sqrt(pca.explained_variance_.mean()))
    return Projection(pca.mean_.astype(np.float32), pca.components_.astype(np.float32), scale or 1.0)


@dataclass(frozen=True)
class ReferenceSpots:
    """What the process knows of spots: pictures and scores, counted from their section's mean.

    All of them speak where nothing was measured, those of other sections also where something was.
    """

    image_features: ImageFeatures
    scores: NDArray[np.float64]  # (spot, program)
    depth: NDArray[np.float64]  # (spot,)
    section: NDArray[np.int64]  # (spot,), 0 for the section that was to be predicted
    xy_um: NDArray[np.float64]  # (spot, 2), in each section's own coordinates

    def __len__(self) -> int:
        return len(self.depth)

    def at(self, rows: NDArray[np.bool_] | NDArray[np.intp]) -> ReferenceSpots:
        """Return what is known of some spots."""
        return ReferenceSpots(
            self.image_features.at(rows), self.scores[rows], self.depth[rows], self.section[rows], self.xy_um[rows]
        )

    def others(self) -> ReferenceSpots:
        """Return what is recalled of other sections."""
        return self.at(self.section != TARGET)


@dataclass(frozen=True)
class TrainingSection:
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
class SectionMeans:
    """The means of a section's spots: expression (gene,), and pictures, whose two parts are (feature,).

    What distinguishes whole sections (stain, scanner, depth) is in these means; patterns within a section are not.
    """

    expression: NDArray[np.float64]
    image_features: ImageFeatures

    @classmethod
    def of(cls, measured: Measured) -> SectionMeans:
        """Return the means of `measured`."""
        return cls(measured.expression.mean(axis=0, dtype=np.float64), ImageFeatures.of(measured.sites).centre())


@dataclass(frozen=True)
class PooledSections:
    """Spots of several sections, row by row, home first.

    `section` (spot,) numbers them, 0 for the target section; `expression` (spot, gene) and `image_features`, components
    of `basis`, are centred by section; `sites` are as they are. `gene_mean` (gene,) is the mean of the sections' means.
    """

    section: NDArray[np.int64]
    sites: Sites
    expression: NDArray[np.float32]
    image_features: ImageFeatures
    basis: Basis
    depth: NDArray[np.float64]
    folds: NDArray[np.integer]
    gene_mean: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.section)

    @classmethod
    def of(cls, target_section: TrainingSection | None, others: Sequence[TrainingSection] = ()) -> PooledSections:
        """Return the pool of `target_section`, where it was measured at all, and of other sections with the same genes.

        Raises InputError when there are no spots, or all are of one fold.
        """
        sections = ([] if target_section is None else [target_section]) + list(others)
        first = TARGET if target_section is not None else TARGET + 1
        if not sections:
            raise InputError("no measured section.", "at least one.", "Name other_sections, or hide fewer spots.")
        centres = [SectionMeans.of(lot.measured) for lot in sections]
        image_features = ImageFeatures.stack(
            [
                ImageFeatures.of(lot.measured.sites).minus(c.image_features)
                for lot, c in zip(sections, centres, strict=True)
            ]
        )
        basis = fit_kernel_basis(image_features)
        residuals = [
            (lot.measured.expression - c.expression).astype(np.float32)
            for lot, c in zip(sections, centres, strict=True)
        ]
        folds = np.concatenate([lot.folds for lot in sections])
        if len(np.unique(folds)) < 2:  # noqa: PLR2004
            raise InputError(
                f"folds {np.unique(folds).tolist()}.", "at least 2 folds.", "Set split.n_folds to 2 or more."
            )
        measured = stack([lot.measured for lot in sections])
        return cls(
            section=np.repeat(np.arange(first, first + len(sections)), [len(lot.measured) for lot in sections]),
            sites=measured.sites,
            expression=np.concatenate(residuals),
            image_features=basis(image_features),
            basis=basis,
            depth=measured.depth,
            folds=folds,
            gene_mean=np.mean([centre.expression for centre in centres], axis=0),
        )


def nearest(xy_um: NDArray[np.float64], context_um: NDArray[np.float64], n: int) -> NDArray[np.intp]:
    """Return the indices (site, n) of the nearest of `context_um` (spot, 2) to each of `xy_um` (site, 2), in order."""
    if n == 0:
        return np.empty((len(xy_um), 0), np.intp)
    _, index = cKDTree(context_um).query(xy_um, k=np.arange(1, min(n, len(context_um)) + 1))
    return index


def neighbours_leave_one_out(xy_um: NDArray[np.float64], allowed: NDArray[np.intp], n: int) -> NDArray[np.intp]:
    """Return for each spot (spot, 2) the indices (spot, n) of the nearest `allowed` spots, never the spot itself."""
    n = min(n, len(allowed) - 1)
    index = allowed[nearest(xy_um, xy_um[allowed], n + 1)]
    is_self = index == np.arange(len(xy_um))[:, None]
    # A spot that is not allowed, or shares its place with others, is not found: then the farthest one goes.
    is_self[~is_self.any(axis=1), -1] = True
    return index[~is_self].reshape(len(xy_um), n)


def neighbours_same_section(
    xy_um: NDArray[np.float64], section: NDArray[np.int64], allowed: NDArray[np.intp], n: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return `neighbours_leave_one_out` (spot, n) in each spot's own `section` (spot,), and which of them are of it.

    Where a section has fewer than `n` allowed spots, spots of others fill the rows, marked as such.
    """
    # far beyond any section, yet small enough for positions to keep their digits
    apart = xy_um + (section * 1e8)[:, None]
    index = neighbours_leave_one_out(apart, allowed, n)
    return index, section[index] == section[:, None]


def select_visible(candidates: Tensor, seen: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Choose the first `n` candidates of each site that are seen.

    `candidates` (site, candidate) are spot indices by distance, `seen` (site, candidate) bool. Returns indices (site,
    n) and whether each is seen; where fewer are, the rest is not.
    """
    order = torch.argsort((~seen).to(torch.uint8), dim=1, stable=True)[:, :n]
    return candidates.gather(1, order), seen.gather(1, order)


@dataclass(frozen=True)
class SiteTensors:
    """Projected pictures and positions of sites: (site, component), (site, 9, component), (site, 2)."""

    target: Tensor
    neighbours: Tensor
    xy_um: Tensor

    @classmethod
    def of(
        cls,
        sites: Sites,
        centre: NDArray[np.float32],
        origin_um: NDArray[np.float64],
        projection: Projection,
        device: torch.device,
    ) -> SiteTensors:
        """Return the view of `sites`, pictures counted from `centre` and positions from `origin_um`.

        `centre` (feature,) or (site, feature) is the mean tile of the sites' section, `origin_um` (2,) or (site, 2) a
        place of it.
        """
        tile_centre = centre if centre.ndim == 1 else centre[:, None]
        return cls(
            torch.from_numpy(projection(sites.target - centre)).to(device),
            torch.from_numpy(projection(sites.neighbours - tile_centre)).to(device),
            torch.from_numpy((sites.xy_um - origin_um).astype(np.float32)).to(device),
        )

    @classmethod
    def stack(cls, views: list[SiteTensors]) -> SiteTensors:
        """Return all sites of `views`, one after the other."""
        return cls(*(torch.cat([getattr(view, name) for view in views]) for name in ("target", "neighbours", "xy_um")))

    def without_positions(self) -> SiteTensors:
        """Return the same pictures at unknown positions."""
        return SiteTensors(self.target, self.neighbours, torch.full_like(self.xy_um, torch.nan))


@dataclass(frozen=True)
class SpotTensors:
    """The spots of a section: pictures, positions and program scores (spot, program)."""

    sites: SiteTensors
    scores: Tensor

    def network_input(
        self,
        sites: SiteTensors,
        rows: Tensor | slice,
        index: Tensor,
        seen: Tensor,
        section: Tensor | slice = slice(None),
    ) -> SpamcafInput:
        """Return the input for `rows` of `sites`, with this section's spots `index` (site, neighbour) as context.

        The global branch is shown the spots `section`. Scores that are not `seen` (site, neighbour) are blanked, so
        nothing depends on the attention's mask alone.
        """
        xy_um = sites.xy_um[rows]
        return SpamcafInput(
            target=sites.target[rows],
            neighbours=sites.neighbours[rows],
            xy_um=xy_um,
            section_target=self.sites.target[section],
            section_xy_um=self.sites.xy_um[section],
            context_scores=self.scores[index] * seen[..., None],
            context_target=self.sites.target[index],
            context_offset_um=self.sites.xy_um[index] - xy_um[:, None],
            context_seen=seen,
        )

    def drop_context(self) -> SpotTensors:
        """Return the spots with positions unknown, as on a section that was never measured."""
        return SpotTensors(self.sites.without_positions(), self.scores)
