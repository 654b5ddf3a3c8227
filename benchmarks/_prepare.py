"""Reading sections and embedding their spots through the pipelines' own nodes, once: results are kept in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import yaml
from _rgb import rgb_statistics
from _section import Grid, Section, Seen
from numpy.typing import NDArray

from spamcaf import __version__
from spamcaf.datasets.inputs import BackboneDataset
from spamcaf.datasets.section import SectionDataset, SectionSlideDataset, TruthDataset
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.features import Features, join_blocks
from spamcaf.histology.slide import Slide
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.tissue import Tissue
from spamcaf.names import SPATIAL, Model
from spamcaf.parameters import (
    ComputeSettings,
    GridSettings,
    SectionSettings,
    SimulationSettings,
    TileSettings,
    TissueSettings,
)
from spamcaf.pipelines.feature_extraction import nodes as extraction
from spamcaf.pipelines.ingestion import nodes as ingestion
from spamcaf.pipelines.joins import mpp_of
from spamcaf.sections.sites import SITE_ID, SUB_INDEX, X_PX, Y_PX

if TYPE_CHECKING:
    from anndata import AnnData

BACKBONE = "efficientnet_lite0"
GLOBALS = Path(__file__).parents[1] / "conf" / "base" / "globals.yml"
SUBDIVISIONS = (2, 4)
SITES_PER_GRID = 1500
SAMPLE_SEED = 0


def load_backbone() -> Backbone:
    """Return the packaged backbone, as `conf/base` describes it."""
    return BackboneDataset(name=BACKBONE, backbones=yaml.safe_load(GLOBALS.read_text())["backbones"]).load()


def read_section(folder: Path, name: str, backbone: Backbone, cache: Path, views: Literal[1, 12] = 1) -> Section:
    """Return a section of a folder in any layout that the project reads; `views` of each target tile are averaged."""
    tiles = TileSettings(views=views)
    slide = SectionSlideDataset(filepath=str(folder), section=name).load()

    def prepare() -> Section:
        raw = SectionDataset(filepath=str(folder), section=name).load()
        checked, _ = ingestion.check_section(raw, slide, SectionSettings(), TissueSettings())
        tissue = ingestion.find_tissue(checked, slide, TissueSettings())
        return Section(name, checked, _embed(checked, slide, tissue, backbone, tiles, Model.RELEASED))

    what = {"slide": slide.fingerprint, "backbone": backbone.identity.key, "tiles": tiles.model_dump()}
    return replace(_kept(cache, name if views == 1 else f"{name}_{views}_views", what, prepare), name=name)


def simulate_section(
    settings: SimulationSettings, backbone: Backbone, cache: Path, *, is_dense: bool = False
) -> Section:
    """Return the simulated section, and samples of its 4 x and 16 x grid with the truth there."""
    tiles = TileSettings(dense=is_dense)
    simulation = settings.model_dump()

    def prepare() -> Section:
        slide = SectionSlideDataset(source="simulated", simulation=simulation).load()
        raw = SectionDataset(source="simulated", simulation=simulation).load()
        checked, _ = ingestion.check_section(raw, slide, SectionSettings(), TissueSettings())
        tissue = ingestion.find_tissue(checked, slide, TissueSettings())
        seen = _embed(checked, slide, tissue, backbone, tiles, Model.SPAMCAF)
        grids = [_grid(checked, slide, tissue, backbone, tiles, settings, k) for k in SUBDIVISIONS]
        return Section("simulated", checked, seen, tuple(grids))

    what = {
        "simulation": simulation,
        "backbone": backbone.identity.key,
        "tiles": tiles.model_dump(),
        "sites": SITES_PER_GRID,
    }
    file = f"simulated_{settings.width_um:.0f}um{'_dense' if is_dense else ''}"
    return replace(_kept(cache, file, what, prepare), name="simulated")


def _embed(
    section: AnnData, slide: Slide, tissue: Tissue, backbone: Backbone, tiles: TileSettings, model: Model
) -> Seen:
    blocks = extraction.embed_spots(section, slide, tissue, backbone, [], tiles, ComputeSettings(), model)
    xy_px = np.asarray(section.obsm[SPATIAL], np.float64)
    return _seen(list(blocks), section.obs_names.tolist(), xy_px, slide, WindowGeometry.of(tiles, mpp_of(section)))


def _seen(
    blocks: list[Features], ids: list[str], xy_px: NDArray[np.float64], slide: Slide, geometry: WindowGeometry
) -> Seen:
    """Return what was seen at `ids`, in their order: features come in the order in which they were read."""
    features = join_blocks(blocks)
    rows = features.rows(ids)
    whole = None if features.whole is None else features.whole[rows]
    return Seen(features.windows[rows], rgb_statistics(slide, xy_px, geometry), whole)


def _grid(
    section: AnnData,
    slide: Slide,
    tissue: Tissue,
    backbone: Backbone,
    tiles: TileSettings,
    settings: SimulationSettings,
    subdivide: int,
) -> Grid:
    sites = ingestion.lay_grid(section, tissue, GridSettings(subdivide=subdivide))
    between = sites[sites[SUB_INDEX] > 0]
    chosen = between.sample(min(SITES_PER_GRID, len(between)), random_state=SAMPLE_SEED)
    blocks = extraction.embed_grid(
        chosen, section, slide, tissue, backbone, [], tiles, ComputeSettings(), Model.SPAMCAF
    )
    xy_px = chosen[[X_PX, Y_PX]].to_numpy(np.float64)
    xy_um = xy_px * mpp_of(section)
    truth = TruthDataset(source="simulated", simulation=settings.model_dump()).load()
    assert truth is not None
    known = truth.true_expression(xy_um)[:, truth.genes.index.get_indexer(section.var_names)]
    geometry = WindowGeometry.of(tiles, mpp_of(section))
    seen = _seen(list(blocks), chosen[SITE_ID].tolist(), xy_px, slide, geometry)
    return Grid(subdivide**2, len(sites), xy_um, seen, known)


def _kept(cache: Path, name: str, what: dict[str, Any], prepare: Callable[[], Section]) -> Section:
    key = json.dumps({**what, "version": __version__}, sort_keys=True)
    arrays, counts = cache / f"{name}.npz", cache / f"{name}.h5ad"
    if arrays.is_file() and counts.is_file():
        with np.load(arrays) as stored:
            if str(stored["key"]) == key:
                return _unpacked(name, counts, dict(stored))
    section = prepare()
    cache.mkdir(parents=True, exist_ok=True)
    section.data.uns.pop(SPATIAL, None)  # thumbnails
    section.data.write_h5ad(counts)
    np.savez(arrays, key=key, **_packed(section))
    return section


def _packed(section: Section) -> dict[str, Any]:
    arrays: dict[str, Any] = {f"spots_{what}": values for what, values in _fields(section.seen)}
    for grid in section.grids:
        named = [("n_sites", grid.n_sites), ("xy_um", grid.xy_um), ("truth", grid.truth), *_fields(grid.seen)]
        arrays |= {f"grid{grid.factor}_{what}": values for what, values in named}
    return arrays


def _fields(seen: Seen) -> list[tuple[str, Any]]:
    return [(what, values) for what, values in vars(seen).items() if values is not None]


def _unpacked(name: str, counts: Path, stored: dict[str, Any]) -> Section:
    import anndata

    def seen(of: str) -> Seen:
        return Seen(stored[f"{of}_windows"], stored[f"{of}_rgb"], stored.get(f"{of}_whole"))

    factors = sorted(int(key[4:-6]) for key in stored if key.startswith("grid") and key.endswith("_xy_um"))
    grids = [
        Grid(f, int(stored[f"grid{f}_n_sites"]), stored[f"grid{f}_xy_um"], seen(f"grid{f}"), stored[f"grid{f}_truth"])
        for f in factors
    ]
    return Section(name, anndata.read_h5ad(counts), seen("spots"), tuple(grids))
