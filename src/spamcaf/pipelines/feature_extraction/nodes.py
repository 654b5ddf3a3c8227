"""Nodes of the feature extraction pipeline."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.compute import choose_precision, computing
from spamcaf.histology.features import FeatureKey, Features, StoredBlock
from spamcaf.histology.macenko import Macenko
from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import TILE_PX, WindowGeometry
from spamcaf.histology.tissue import Tissue
from spamcaf.names import SPATIAL, Model
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


def embed_spots(
    section: AnnData,
    slide: Slide,
    tissue: Tissue,
    backbone: Backbone,
    stored: list[StoredBlock],
    tiles: TileSettings,
    compute: ComputeSettings,
    model: str,
    finetune: int = 0,
) -> Iterator[Features]:
    """Yield those blocks of the spots' features that are not stored yet.

    `model` is the one to be fitted: only `released` needs the whole window shrunk to one tile. With `finetune`, the
    maps before that many last blocks of the backbone are stored too.
    """
    ids, xy_px = section.obs_names.tolist(), np.asarray(section.obsm[SPATIAL], np.float64)
    how = (stored, tiles, compute, mpp_of(section), model, finetune)
    yield from _embed("spots", ids, xy_px, slide, tissue, backbone, *how)


def embed_grid(
    grid: DataFrame,
    section: AnnData,
    slide: Slide,
    tissue: Tissue,
    backbone: Backbone,
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
    yield from _embed("sites", ids, xy_px, slide, tissue, backbone, *how)


def _embed(
    what: str,
    ids: list[str],
    xy_px: NDArray[np.float64],
    slide: Slide,
    tissue: Tissue,
    backbone: Backbone,
    stored: list[StoredBlock],
    tiles: TileSettings,
    compute: ComputeSettings,
    mpp: float,
    model: str,
    finetune: int,
) -> Iterator[Features]:
    from spamcaf.histology.dense import DenseEmbeddingJob
    from spamcaf.histology.embedding import EmbeddingJob
    from spamcaf.histology.workers import Workers, embed_sites

    if finetune:
        backbone = backbone.with_maps(finetune)
    with computing(compute) as machine:
        dtype = choose_precision(compute, machine.device)
        geometry = WindowGeometry.of(tiles, mpp)
        with_whole = model == Model.RELEASED
        stain = Macenko.of_slide(slide, tissue) if tiles.stain == "macenko" else None
        pixels = slide.fingerprint if stain is None else f"{slide.fingerprint}, stains {stain.fingerprint}"
        view = _view(geometry, dtype, tiles, with_whole=with_whole, is_compiled=compute.compile, finetune=finetune)
        key = FeatureKey.of(pixels, backbone.identity, view, geometry.window_px, ids, xy_px)
        done = {block.start for block in stored if block.key == key}
        _warn_of_scale(backbone, tiles)
        workers = Workers.of(machine.device, dtype, tiles.batch, is_compiled=compute.compile)
        mode = ", dense mode" if tiles.dense else ""
        logger.info("%d %s through %s%s; %d blocks are stored", len(ids), what, backbone.identity.name, mode, len(done))
        job = (DenseEmbeddingJob if tiles.dense else EmbeddingJob)(slide, geometry, ids, xy_px, key, with_whole, stain)
        yield from embed_sites(job, backbone, workers, done)


def _view(
    geometry: WindowGeometry,
    dtype: torch.dtype,
    tiles: TileSettings,
    *,
    with_whole: bool,
    is_compiled: bool,
    finetune: int,
) -> dict[str, object]:
    """Return all that features depend on, but for slide, backbone and sites."""
    from spamcaf.histology.dense import VIEW as DENSE_VIEW

    view = {**geometry.view(), "precision": str(dtype).removeprefix("torch."), "stain": tiles.stain}
    if with_whole:
        view["whole"] = f"window in {TILE_PX} px"
    if tiles.dense:
        view |= DENSE_VIEW
    if finetune:
        view["maps"] = f"before the last {finetune} blocks"
    if is_compiled:  # rounds otherwise
        view["compiled"] = True
    return view


def _warn_of_scale(backbone: Backbone, tiles: TileSettings) -> None:
    trained, mpp = backbone.identity.mpp, tiles.tile_um / TILE_PX
    if trained and tiles.unit == "um" and abs(mpp / trained - 1) > MAX_SCALE_DIFFERENCE:
        message = "%s was trained at %g um/px and gets %g: tiles.tile_um=%g would match"
        logger.warning(message, backbone.identity.name, trained, mpp, trained * TILE_PX)
