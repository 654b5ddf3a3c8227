"""What the model is fitted to: spots of one section or of several, first as arrays, then as the network's tensors.

TrainingSection (one section) -> PooledSections (all spots row by row, each section centred by itself)
-> SpotTensors (on the device) -> SpamcafInput (a batch of sites with their context). Everything is in the order of the
pooled rows; the target section comes first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from spamcaf.errors import InputError
from spamcaf.model.depth import ExpressionMeans
from spamcaf.model.network import SpamcafInput
from spamcaf.model.programs import Programs, row_weights
from spamcaf.sections.sites import CHUNK, ROWS, Measured, Sites, SiteSource, iter_chunks, row_chunks, stack

N_KERNEL_COMPONENTS = 256
"""Principal components kept for the image kernels; fewer spots than half of it span them all."""
MAX_PCA_ROWS = 8192
"""Rows that the components of the image kernels are fitted to."""
MAX_PCA_SPOTS = 4096
"""Spots whose tiles the components of the networks are fitted to: 380 MB at 1280 features."""
TARGET = 0
"""The number of the section whose sites are predicted; others, if any, are numbered from 1."""
SECTION_OFFSET_UM = 1e8
"""Sections are laid this far apart where neighbours are searched: beyond any, yet positions keep their digits."""

Float32 = NDArray[np.float32]
Rows = NDArray[np.intp] | NDArray[np.bool_] | slice


@dataclass(frozen=True)
class FeaturePCA:
    """Principal components of backbone features.

    There is ONE divisor for all components: dividing each by its own standard deviation would let nearly dead channels
    of the backbone grow to unit variance.
    """

    mean: Float32  # (feature,)
    axes: Float32  # (component, feature) orthonormal rows
    scale: float

    def __call__(self, features: Float32) -> Float32:
        """Return components (..., component) of features (..., feature)."""
        return ((features - self.mean) @ self.axes.T / np.float32(self.scale)).astype(np.float32)

    @classmethod
    def fit(cls, features: NDArray[np.floating], n_components: int, *, is_centred: bool = False) -> FeaturePCA:
        """Fit at most `n_components` components.

        Parameters
        ----------
        features : (row, feature)
        n_components : int
        is_centred : bool
            The rows are differences from section means already: `mean` is then 0 and `scale` 1. Otherwise `scale` gives
            the components a mean variance of 1 over `features`.
        """
        from sklearn.decomposition import PCA

        n_kept = min(n_components, *features.shape)
        if not features.any():  # no image: nothing varies
            return cls(
                np.zeros(features.shape[1], np.float32), np.eye(n_kept, features.shape[1], dtype=np.float32), 1.0
            )
        pca = PCA(n_kept, svd_solver="covariance_eigh").fit(np.asarray(features, np.float64))
        axes = pca.components_.astype(np.float32)
        if is_centred:
            return cls(np.zeros(features.shape[1], np.float32), axes, 1.0)
        return cls(pca.mean_.astype(np.float32), axes, float(np.sqrt(pca.explained_variance_.mean())) or 1.0)


@dataclass(frozen=True)
class ImageFeatures:
    """Inputs of the image kernels: backbone features of sites, or components of them."""

    target: Float32  # (site, feature) of the tile at the site
    neighbourhood: Float32  # (site, feature) mean over its 3 x 3 tiles
    residual_norm2: Float32  # (site, 2) squared length of what a projection left out of the two; 0 for whole features

    @classmethod
    def from_sites(cls, sites: SiteSource) -> ImageFeatures:
        """Return the whole features of `sites`, which are read in chunks."""
        targets, means = [], []
        for part in iter_chunks(sites, CHUNK):
            targets.append(np.ascontiguousarray(part.target, np.float32))  # a view would keep its windows in memory
            means.append(part.neighbours.mean(axis=1, dtype=np.float32))
        return cls(_joined(targets), _joined(means), np.zeros((len(sites), 2), np.float32))

    @classmethod
    def stack(cls, parts: Sequence[ImageFeatures]) -> ImageFeatures:
        """Return the rows of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(*(np.concatenate([getattr(p, name) for p in parts]) for name in cls.__dataclass_fields__))

    def mean(self) -> ImageFeatures:
        """Return the means over rows, (feature,) each."""
        return ImageFeatures(self.target.mean(axis=0), self.neighbourhood.mean(axis=0), np.zeros(2, np.float32))

    def minus(self, mean: ImageFeatures) -> ImageFeatures:
        """Return the differences from a section's mean."""
        return ImageFeatures(self.target - mean.target, self.neighbourhood - mean.neighbourhood, self.residual_norm2)

    def at(self, rows: Rows) -> ImageFeatures:
        """Return some rows."""
        return ImageFeatures(self.target[rows], self.neighbourhood[rows], self.residual_norm2[rows])

    def project(self, pca: FeaturePCA) -> ImageFeatures:
        """Return the components of whole features, with the squared length of the rest."""
        if len(self.target) > ROWS:
            return ImageFeatures.stack([self.at(rows).project(pca) for rows in row_chunks(len(self.target))])
        target, neighbourhood = pca(self.target), pca(self.neighbourhood)
        lost = [_lost(self.target, target), _lost(self.neighbourhood, neighbourhood)]
        return ImageFeatures(target, neighbourhood, np.stack(lost, axis=1))


def _joined(parts: list[Float32]) -> Float32:
    """Return the rows of all parts, which are emptied: two copies of a large section are held no longer than needed."""
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts)
    parts.clear()
    return joined


def _lost(whole: Float32, kept: Float32) -> Float32:
    return np.maximum(np.square(whole).sum(axis=1) - np.square(kept).sum(axis=1), 0)


def fit_kernel_pca(image_features: ImageFeatures) -> FeaturePCA:
    """Fit the components of the image kernels to centred features, tiles and neighbourhoods together.

    A linear kernel between a site and the spots depends only on the part of the site's features within the span of the
    spots' features, so nothing is lost where the spots span fewer directions than are kept.
    """
    target, neighbourhood, n = image_features.target, image_features.neighbourhood, len(image_features.target)
    rows = np.random.default_rng(2 * n).permutation(2 * n)[:MAX_PCA_ROWS]
    chosen = np.where((rows < n)[:, None], target[rows % n], neighbourhood[rows % n])
    return FeaturePCA.fit(chosen, N_KERNEL_COMPONENTS, is_centred=True)


def spots_of_pca(n_spots: int) -> Rows:
    """Return the spots whose tiles the components of the networks are fitted to: all of them, or a random part."""
    if n_spots <= MAX_PCA_SPOTS:
        return slice(None)
    return np.sort(np.random.default_rng(n_spots).permutation(n_spots)[:MAX_PCA_SPOTS])


@dataclass(frozen=True)
class TrainingSection:
    """The visible spots of one section, and the fold (spot,) in which each is a validation spot.

    Raises InputError where folds and spots differ in number, or expression or features are not finite.
    """

    measured: Measured
    folds: NDArray[np.integer]

    def __post_init__(self) -> None:
        if len(self.folds) != len(self.measured):
            raise InputError(
                f"{len(self.folds)} folds and {len(self.measured)} spots.",
                "a fold per spot.",
                "Join folds and spots by id.",
            )
        named = (("expression", self.measured.all_expression), ("target features", self.measured.sites.target))
        for name, values in named:
            if not np.isfinite(values).all():
                raise InputError(f"NaN or Inf in {name}.", "finite numbers.", "Drop those spots before the fit.")


@dataclass(frozen=True)
class SectionMeans:
    """The means of a section's spots: of expression and depth, and of image features, (feature,) each.

    They hold the batch effects between sections (stain, scanner, sequencing depth), so all learning is on differences
    from them.
    """

    expression: ExpressionMeans
    image_features: ImageFeatures

    @classmethod
    def from_spots(cls, measured: Measured, image_features: ImageFeatures | None = None) -> SectionMeans:
        """Return the means of `measured`, whose whole `image_features` are read where they are not given."""
        mean = (image_features or ImageFeatures.from_sites(measured.sites)).mean()
        return cls(ExpressionMeans.from_spots(measured.all_expression, measured.depth), mean)


@dataclass(frozen=True)
class ReferenceCounts:
    """Spots or cells without an image, that gene programs are learned from too; a gene that is not there is 0."""

    name: str
    expression: Float32  # (spot, gene) log1p of counts per 10 000, of all genes of the pooled sections
    depth: NDArray[np.float64]  # (spot,) total UMI counts

    def weighted_residuals(self) -> NDArray[np.float64]:
        """Return the rows (spot, gene) for `learn_programs`."""
        means = ExpressionMeans.from_spots(self.expression, self.depth)
        return means.residuals(self.expression, self.depth) * row_weights(self.depth)


@dataclass(frozen=True)
class PooledSections:
    """Visible spots of several sections, row by row, the target section first."""

    section: NDArray[np.int64]  # (spot,) number of each spot's section, `TARGET` for the target section
    sites: SiteSource  # positions and whole features, not centred
    expression: Float32  # (spot, gene) log1p of counts per 10 000, of all genes
    image_features: ImageFeatures  # centred by section, components of `kernel_pca`
    kernel_pca: FeaturePCA
    depth: NDArray[np.float64]  # (spot,) total UMI counts
    folds: NDArray[np.integer]  # (spot,)
    means: dict[int, ExpressionMeans]  # by number of the section
    mean_tiles: dict[int, Float32]  # the mean (feature,) of all tiles of a section, by its number
    n_genes: int  # genes that are predicted, the first ones

    def __len__(self) -> int:
        return len(self.section)

    @classmethod
    def from_sections(
        cls, target_section: TrainingSection | None, others: Sequence[TrainingSection] = ()
    ) -> PooledSections:
        """Stack the target section, None where it was never measured, and others of the same genes.

        Raises InputError where there are no spots, or all are of one fold.
        """
        sections = ([] if target_section is None else [target_section]) + list(others)
        first = TARGET if target_section is not None else TARGET + 1
        if not sections:
            raise InputError("no measured section.", "at least one.", "Name other_sections, or hide fewer spots.")
        means, parts = [], []
        for section in sections:
            features = ImageFeatures.from_sites(section.measured.sites)
            means.append(SectionMeans.from_spots(section.measured, features))
            parts.append(features.minus(means[-1].image_features))
            del features
        centred = ImageFeatures.stack(parts)
        pca = fit_kernel_pca(centred)
        folds = np.concatenate([section.folds for section in sections])
        if len(np.unique(folds)) < 2:  # noqa: PLR2004
            found = f"folds {np.unique(folds).tolist()}."
            raise InputError(found, "at least 2 folds.", "Set split.n_folds to 2 or more.")
        measured = stack([section.measured for section in sections])
        return cls(
            section=np.repeat(np.arange(first, first + len(sections)), [len(s.measured) for s in sections]),
            sites=measured.sites,
            expression=measured.all_expression,
            image_features=centred.project(pca),
            kernel_pca=pca,
            depth=measured.depth,
            folds=folds,
            n_genes=measured.expression.shape[1],
            means={number: mean.expression for number, mean in enumerate(means, start=first)},
            mean_tiles={number: mean.image_features.neighbourhood for number, mean in enumerate(means, start=first)},
        )

    def without_sites(self, rows: NDArray[np.bool_]) -> PooledSections:
        """Return some spots, without their whole features."""
        n = int(rows.sum())
        nowhere = Sites(self.sites.xy_um[rows], np.empty((n, 0), np.float32), np.empty((n, 9, 0), np.float32))
        names = ("section", "expression", "depth", "folds")
        some = {name: getattr(self, name)[rows] for name in names}
        return replace(self, sites=nowhere, image_features=self.image_features.at(rows), **some)

    def rows_of(self, number: int) -> NDArray[np.intp]:
        """Return the rows of a section's spots."""
        return np.flatnonzero(self.section == number)

    def weighted_residuals(self, number: int) -> NDArray[np.float64]:
        """Return a section's rows (spot, gene) for `learn_programs`."""
        rows = self.rows_of(number)
        residuals = self.means[number].residuals(self.expression[rows], self.depth[rows])
        residuals *= row_weights(self.depth[rows])
        return residuals

    def scores(self, programs: Programs) -> NDArray[np.float64]:
        """Return scores (spot, 1 + program): log depth, then programs, each from its section's mean."""
        scores = np.empty((len(self), 1 + len(programs)))
        for number, means in self.means.items():
            rows = self.rows_of(number)
            scores[rows] = means.scores(programs, self.expression[rows], self.depth[rows])
        return scores

    def centred(self) -> NDArray[np.float64]:
        """Return the expression (spot, predicted gene) from its section's mean."""
        centred = self.expression[:, : self.n_genes].astype(np.float64)
        for number, means in self.means.items():
            centred[self.section == number] -= means.expression[: self.n_genes]
        return centred

    def decode(self, programs: Programs, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the expression (spot, predicted gene) of `scores` (spot, 1 + program), from its section's mean."""
        decoded = np.empty((len(self), programs.n_predicted))
        for number, means in self.means.items():
            for rows in self._parts_of(number):
                decoded[rows] = means.decode(programs, scores[rows]) - means.expression[: programs.n_predicted]
        return decoded

    def decode_variance(
        self, programs: Programs, scores: NDArray[np.float64], variance: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """Return the variance (spot, predicted gene) of `decode` for independent scores of `variance`."""
        decoded = np.empty((len(self), programs.n_predicted))
        for number, means in self.means.items():
            for rows in self._parts_of(number):
                decoded[rows] = means.decode_variance(programs, scores[rows], variance[rows])
        return decoded

    def reference_spots(self, columns: NDArray[np.float64]) -> ReferenceSpots:
        """Return the spots with their `columns` (spot, column), as the Gaussian process is conditioned on them."""
        return ReferenceSpots(self.image_features, columns, self.depth, self.section, self.sites.xy_um)

    def _parts_of(self, number: int) -> Iterator[NDArray[np.intp]]:
        rows = self.rows_of(number)
        return (rows[part] for part in row_chunks(len(rows)))

    def mean_tile(self, rows: Rows = slice(None)) -> Float32:
        """Return the mean of all tiles of each spot's section, (spot, feature)."""
        return np.stack(list(self.mean_tiles.values()))[np.searchsorted(list(self.mean_tiles), self.section[rows])]

    def section_mean(self, values: NDArray[Any]) -> NDArray[Any]:
        """Return the mean of `values` (spot, ...) over each spot's section, repeated per spot."""
        means = np.empty_like(values)
        for number in np.unique(self.section):
            rows = self.section == number
            means[rows] = values[rows].mean(axis=0)
        return means


@dataclass(frozen=True)
class ReferenceSpots:
    """The spots that the Gaussian process is conditioned on, as differences from their section's mean.

    A fitted model stores those that it was fitted to: all of them serve sections that were never measured, those of
    other sections also the target section.
    """

    image_features: ImageFeatures  # components of the kernels' PCA
    scores: NDArray[np.float64]  # (spot, column) log depth, program scores, then genes with a process of their own
    depth: NDArray[np.float64]  # (spot,) total UMI counts
    section: NDArray[np.int64]  # (spot,) `TARGET` for the target section
    xy_um: NDArray[np.float64]  # (spot, 2) in each section's own coordinates

    def __len__(self) -> int:
        return len(self.depth)

    def at(self, rows: Rows) -> ReferenceSpots:
        """Return some spots."""
        features = self.image_features.at(rows)
        return ReferenceSpots(features, self.scores[rows], self.depth[rows], self.section[rows], self.xy_um[rows])

    def first_columns(self, n: int) -> ReferenceSpots:
        """Return the spots with the first `n` columns of their scores."""
        return replace(self, scores=self.scores[:, :n])

    def of_other_sections(self) -> ReferenceSpots:
        """Return the spots that are not of the target section."""
        return self.at(self.section != TARGET)


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
    # A spot that is not allowed, or has the same position as others, is not among its neighbours: drop the farthest.
    is_self[~is_self.any(axis=1), -1] = True
    return index[~is_self].reshape(len(xy_um), n)


def neighbours_same_section(
    xy_um: NDArray[np.float64], section: NDArray[np.int64], allowed: NDArray[np.intp], n: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return `neighbours_leave_one_out` (spot, n) in each spot's own `section` (spot,), and which of them are of it.

    Where a section has fewer than `n` allowed spots, spots of others fill the rows, marked False.
    """
    apart = xy_um + (section * SECTION_OFFSET_UM)[:, None]
    index = neighbours_leave_one_out(apart, allowed, n)
    return index, section[index] == section[:, None]


def select_visible(candidates: Tensor, seen: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """Select the first `n` candidates of each site that are visible.

    Parameters
    ----------
    candidates : (site, candidate) int
        Spot indices by distance.
    seen : (site, candidate) bool

    Returns
    -------
    (site, n) int, (site, n) bool
        Spot indices, and whether each is visible; where fewer are, the rest is False.
    """
    order = torch.argsort((~seen).to(torch.uint8), dim=1, stable=True)[:, :n]
    return candidates.gather(1, order), seen.gather(1, order)


@dataclass(frozen=True)
class SiteTensors:
    """Projected features and positions: (site, component), (site, 9, component), (site, 2) in micrometres."""

    target: Tensor
    neighbours: Tensor
    xy_um: Tensor
    maps: Tensor | None = None  # (site, view, ...), where the backbone's last blocks are trained
    origin: Tensor | None = None  # (site, feature), the features from which those of the maps are counted

    @classmethod
    def from_sites(
        cls,
        sites: SiteSource,
        mean: Float32,
        origin_um: NDArray[np.float64],
        pca: FeaturePCA,
        device: torch.device,
        *,
        with_maps: bool = False,
    ) -> SiteTensors:
        """Project and move to the device.

        Parameters
        ----------
        sites : Sites
        mean : (feature,) or (site, feature) float32
            Mean tile of the sites' section; features are counted from it.
        origin_um : (2,) or (site, 2)
            A position in the section; positions are counted from it.
        pca : FeaturePCA
        device : torch.device
        with_maps : bool
            Take the maps of the target tiles, too.
        """
        if len(sites) > ROWS:
            many_means, many_origins = mean.ndim > 1, origin_um.ndim > 1
            parts = [
                cls.from_sites(
                    sites.at(rows),
                    mean[rows] if many_means else mean,
                    origin_um[rows] if many_origins else origin_um,
                    pca,
                    device,
                    with_maps=with_maps,
                )
                for rows in row_chunks(len(sites))
            ]
            return cls.stack(parts)
        sites = sites.at(slice(None))
        tile_mean = mean if mean.ndim == 1 else mean[:, None]
        maps = origin = None
        if with_maps:
            assert sites.maps is not None
            maps = torch.from_numpy(sites.maps).to(device)
            origin = torch.from_numpy(np.broadcast_to(mean + pca.mean, sites.target.shape).copy()).to(device)
        return cls(
            torch.from_numpy(pca(sites.target - mean)).to(device),
            torch.from_numpy(pca(sites.neighbours - tile_mean)).to(device),
            torch.from_numpy((sites.xy_um - origin_um).astype(np.float32)).to(device),
            maps,
            origin,
        )

    @classmethod
    def stack(cls, parts: Sequence[SiteTensors]) -> SiteTensors:
        """Return the sites of all parts, one after the other."""
        of_each: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in cls.__dataclass_fields__}
        return cls(**{name: torch.cat(tensors) for name, tensors in of_each.items() if tensors[0] is not None})

    def without_positions(self) -> SiteTensors:
        """Return the same features at unknown positions."""
        return replace(self, xy_um=torch.full_like(self.xy_um, torch.nan))


@dataclass(frozen=True)
class SpotTensors:
    """The spots of a section: features, positions and program scores (spot, program) in units of the networks."""

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
        """Return a batch: sites with these spots as their context.

        Parameters
        ----------
        sites : SiteTensors
        rows : (batch,) int or slice
            Which of `sites`.
        index : (batch, neighbour) int
            Spots that are each site's context.
        seen : (batch, neighbour) bool
            Scores of spots that are not are set to 0, so that no value leaks past the attention's mask.
        section : (spot,) int or slice
            Spots that the global branch summarises.
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
            maps=None if sites.maps is None else sites.maps[rows],
            origin=None if sites.origin is None else sites.origin[rows],
        )

    def drop_context(self) -> SpotTensors:
        """Return the spots at unknown positions, as on a section that was never measured."""
        return SpotTensors(self.sites.without_positions(), self.scores)
