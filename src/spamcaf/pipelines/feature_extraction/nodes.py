"""Nodes of the feature extraction pipeline."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.compute import choose_precision, computing
from spamcaf.errors import InputError
from spamcaf.histology.features import BLOCK, FeatureKey, Features, StoredBlock, blind_blocks, sites_hash
from spamcaf.histology.macenko import Macenko
from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import N_TILES, TILE_PX, WindowGeometry
from spamcaf.histology.tissue import Tissue
from spamcaf.names import NO_IMAGE, SPATIAL, Model
from spamcaf.parameters import ComputeSettings, TileSettings
from spamcaf.pipelines.joins import mpp_of
from spamcaf.pipelines.types import AnnData, Backbone, DataFrame
from spamcaf.sections.sites import SITE_ID, SUB_INDEX, X_PX, Y_PX

if TYPE_CHECKING:
    import torch
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)

MAX_SCALE_DIFFERENCE = 0.1
"""Share by which pixels may differ in size from those that a backbone was trained on, without a warning."""


def embed_slide(
    section: AnnData,
    slide: Slide | None,
    tissue: Tissue,
    backbone: Backbone,
    stored: list[StoredBlock],
    tiles: TileSettings,
    compute: ComputeSettings,
    model: str,
    finetune: int = 0,
) -> Iterator[Features]:
    """Yield those blocks of the slide's feature map that are not stored yet: one pass for spots and sites between them.

    Where features are computed tile by tile instead (`tiles.dense`), the map has no places, and its key alone tells how
    the slide is seen. `model` is the one to be fitted: only `released` needs the whole window shrunk to one tile. With
    `finetune`, the maps before that many last blocks of the backbone are stored with the features of sites. Without an
    image (`slide` None) there is nothing to see; see `blind_blocks`.
    """
    if slide is None:
        _require_spamcaf(model, finetune)
        logger.info("no image: predictions are made of coordinates and expression alone")
        yield from blind_blocks([], _blind_key([], np.empty((0, 2)), backbone), set(), N_TILES)
        return
    from spamcaf.histology import dense
    from spamcaf.histology.embedding import EmbeddingJob
    from spamcaf.histology.workers import Workers, embed_sites

    _warn_of_scale(backbone, tiles)
    with computing(compute) as machine:
        dtype = choose_precision(compute, machine.device)
        geometry, stain, pixels, view = _seen(slide, tissue, tiles, compute, mpp_of(section), model, finetune, dtype)
        identity = backbone.identity
        if not dense.is_dense(tiles, model, finetune, loses_nothing=identity.dense):
            key = FeatureKey.of(pixels, identity, view, geometry.window_px, [], np.empty((0, 2)))
            yield EmbeddingJob(slide, geometry, [], np.empty((0, 2)), key).mark(backbone.width)
            return
        side = dense.map_side(backbone)
        around = dense.reachable_px(tissue, np.asarray(section.obsm[SPATIAL], np.float64))
        source = (identity, pixels, {**view, **dense.dense_view(side)}, stain)
        job = dense.SlideMapJob.of(slide, geometry, side, around, *source)
        done = {block.start for block in stored if block.key == job.key}
        logger.info("feature map of the slide through %s%s", identity.name, _stored(done))
        workers = Workers.of(machine.device, dtype, tiles.batch, is_compiled=compute.compile)
        yield from embed_sites(job, backbone, workers, done)


def embed_spots(
    section: AnnData,
    slide: Slide | None,
    tissue: Tissue,
    backbone: Backbone,
    slide_features: Features,
    stored: list[StoredBlock],
    tiles: TileSettings,
    compute: ComputeSettings,
    model: str,
    finetune: int = 0,
) -> Iterator[Features]:
    """Yield those blocks of the spots' features that are not stored yet: of the slide's map, or tile by tile."""
    ids, xy_px = section.obs_names.tolist(), np.asarray(section.obsm[SPATIAL], np.float64)
    how = (stored, tiles, compute, mpp_of(section), model, finetune)
    yield from _embed("spots", ids, xy_px, slide, tissue, backbone, slide_features, *how)


def embed_grid(
    grid: DataFrame,
    section: AnnData,
    slide: Slide | None,
    tissue: Tissue,
    backbone: Backbone,
    slide_features: Features,
    stored: list[StoredBlock],
    tiles: TileSettings,
    compute: ComputeSettings,
    model: str,
    finetune: int = 0,
) -> Iterator[Features]:
    """Yield those blocks of the features of sites between the spots that are not stored yet, as `embed_spots`."""
    between = grid[grid[SUB_INDEX] > 0]
    ids, xy_px = between[SITE_ID].tolist(), between[[X_PX, Y_PX]].to_numpy(np.float64)
    how = (stored, tiles, compute, mpp_of(section), model, finetune)
    yield from _embed("sites", ids, xy_px, slide, tissue, backbone, slide_features, *how)


def _embed(
    what: str,
    ids: list[str],
    xy_px: NDArray[np.float64],
    slide: Slide | None,
    tissue: Tissue,
    backbone: Backbone,
    slide_features: Features,
    stored: list[StoredBlock],
    tiles: TileSettings,
    compute: ComputeSettings,
    mpp: float,
    model: str,
    finetune: int,
) -> Iterator[Features]:
    if slide is None:
        key = _blind_key(ids, xy_px, backbone)
        yield from blind_blocks(ids, key, {block.start for block in stored if block.key == key}, N_TILES)
        return
    from spamcaf.histology.dense import PoolingJob, pool_windows
    from spamcaf.histology.embedding import EmbeddingJob
    from spamcaf.histology.workers import Workers, embed_sites

    if slide_features.n_total:
        key = replace(slide_features.key, sites=sites_hash(ids, xy_px), block=BLOCK)
        done = {block.start for block in stored if block.key == key}
        logger.info("%d %s from the feature map of the slide%s", len(ids), what, _stored(done))
        windows = PoolingJob(slide, WindowGeometry.of(tiles, mpp), ids, xy_px, key)
        yield from pool_windows(slide_features, windows, done)
        return
    with computing(compute) as machine:
        dtype = choose_precision(compute, machine.device)
        geometry, stain, pixels, view = _seen(slide, tissue, tiles, compute, mpp, model, finetune, dtype)
        key = FeatureKey.of(pixels, backbone.identity, view, geometry.window_px, ids, xy_px)
        done = {block.start for block in stored if block.key == key}
        workers = Workers.of(machine.device, dtype, tiles.batch, is_compiled=compute.compile)
        logger.info("%d %s through %s%s", len(ids), what, backbone.identity.name, _stored(done))
        job = EmbeddingJob(slide, geometry, ids, xy_px, key, model == Model.RELEASED, stain)
        yield from embed_sites(job, backbone.with_maps(finetune) if finetune else backbone, workers, done)


def _seen(
    slide: Slide,
    tissue: Tissue,
    tiles: TileSettings,
    compute: ComputeSettings,
    mpp: float,
    model: str,
    finetune: int,
    dtype: torch.dtype,
) -> tuple[WindowGeometry, Macenko | None, str, dict[str, object]]:
    """Return windows, stains, the name of slide and stains, and all else that features tile by tile depend on."""
    geometry = WindowGeometry.of(tiles, mpp)
    stain = Macenko.of_slide(slide, tissue) if tiles.stain == "macenko" else None
    pixels = slide.fingerprint if stain is None else f"{slide.fingerprint}, stains {stain.fingerprint}"
    view = {**geometry.view(), "precision": str(dtype).removeprefix("torch."), "stain": tiles.stain}
    if model == Model.RELEASED:
        view["whole"] = f"window in {TILE_PX} px"
    if finetune:
        view["maps"] = f"before the last {finetune} blocks"
    if compute.compile:  # rounds otherwise
        view["compiled"] = True
    return geometry, stain, pixels, view


def _blind_key(ids: list[str], xy_px: NDArray[np.float64], backbone: Backbone) -> FeatureKey:
    return FeatureKey.of(NO_IMAGE, backbone.identity, {"image": NO_IMAGE}, 0, ids, xy_px)


def _require_spamcaf(model: str, finetune: int) -> None:
    if model == Model.RELEASED or finetune:
        what = "fit.model=released" if model == Model.RELEASED else "fit.finetune"
        raise InputError(
            f"{what} without an image (image={NO_IMAGE}).",
            "fit.model=spamcaf without fine-tuning, which can do without one.",
            "Leave that setting out, or give the section's image.",
        )


def _warn_of_scale(backbone: Backbone, tiles: TileSettings) -> None:
    trained, mpp = backbone.identity.mpp, tiles.tile_um / TILE_PX
    if trained and tiles.unit == "um" and abs(mpp / trained - 1) > MAX_SCALE_DIFFERENCE:
        message = "%s was trained at %g um/px and gets %g: tiles.tile_um=%g would match"
        logger.warning(message, backbone.identity.name, trained, mpp, trained * TILE_PX)


def _stored(done: Collection[int]) -> str:
    return f"; {len(done)} blocks are stored" if done else ""
