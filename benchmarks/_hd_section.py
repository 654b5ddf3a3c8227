"""A made-up Visium HD section in files as Space Ranger writes them, and stand-ins for the features of its bins."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spamcaf.histology.features import BLOCK, FeatureKey, Features

BIN_UM, MPP = 16.0, 1.0
MARGIN_UM = 400.0
"""Glass around the bins."""
N_FIELDS, N_SHOWN, WAVES = 8, 5, 12
"""Smooth fields that genes follow; the image shows the first ones."""
LENGTHS_UM = np.array([60.0, 90.0, 120.0, 200.0, 300.0, 90.0, 200.0, 400.0])
MEDIAN_UMI, DEPTH_SD, EFFECT = 300.0, 0.35, 0.35
CHUNK = 8192
SEED = 11

Floats = NDArray[np.float64]


class HdTissue:
    """Bins on a square lattice inside an irregular outline; fields, counts and features as functions of place."""

    def __init__(self, n_bins: int, n_genes: int, n_features: int) -> None:
        rng = np.random.default_rng(SEED)
        self.n_genes = n_genes
        self._waves = rng.normal(size=(N_FIELDS, WAVES, 2)) / LENGTHS_UM[:, None, None]
        self._phase = rng.uniform(0, 2 * np.pi, (N_FIELDS, WAVES))
        self._loadings = EFFECT * rng.normal(size=(N_FIELDS, n_genes)) * (rng.random((N_FIELDS, n_genes)) < 0.4)  # noqa: PLR2004
        abundance = np.exp(1.5 * rng.normal(size=n_genes))
        self._abundance = abundance / abundance.sum()
        self._look = rng.normal(size=(N_SHOWN, n_features)) / np.sqrt(N_SHOWN)
        self.side = int(np.ceil(np.sqrt(n_bins) * 1.45))
        row, column = np.indices((self.side, self.side)).reshape(2, -1)
        self.index = np.column_stack([column, row])
        self.is_tissue = np.zeros(len(self.index), bool)
        self.is_tissue[np.argsort(_outline((self.index + 0.5) / self.side), kind="stable")[:n_bins]] = True

    @property
    def xy_um(self) -> Floats:
        """Centres of all bins (bin, 2), those off the tissue too."""
        return np.asarray((self.index + 0.5) * BIN_UM + MARGIN_UM, np.float64)

    @property
    def side_px(self) -> int:
        """Height and width of the image."""
        return int((self.side * BIN_UM + 2 * MARGIN_UM) / MPP)

    def fields(self, xy_um: Floats) -> Floats:
        """Return the fields (..., field) at places (..., 2), of unit variance."""
        angle = np.tensordot(xy_um, self._waves, axes=(-1, -1)) + self._phase
        fields: Floats = np.sin(angle).sum(axis=-1) / np.sqrt(WAVES / 2)
        return fields

    def barcodes(self) -> NDArray[np.str_]:
        """Return the names of all bins as Space Ranger gives them."""
        return np.array([f"s_{BIN_UM:03.0f}um_{row:05d}_{column:05d}-1" for column, row in self.index])

    def counts(self) -> Any:  # noqa: ANN401  a sparse array
        """Return UMI counts (bin under tissue, gene), sparse."""
        from scipy.sparse import csr_matrix, vstack

        rng, xy_um, parts = np.random.default_rng(SEED + 1), self.xy_um[self.is_tissue], []
        for start in range(0, len(xy_um), CHUNK):
            rates = self._abundance * np.exp(self.fields(xy_um[start : start + CHUNK]) @ self._loadings)
            depth = MEDIAN_UMI * rng.lognormal(0, DEPTH_SD, len(rates))
            parts.append(csr_matrix(rng.poisson(rates * depth[:, None]).astype(np.int32)))
        return vstack(parts, format="csr")

    def features(self, xy_um: Floats, rng: np.random.Generator) -> NDArray[np.float32]:
        """Return features (..., feature) of tiles at places (..., 2)."""
        shown = (self.fields(xy_um)[..., :N_SHOWN] @ self._look).astype(np.float32)
        return shown + rng.standard_normal(shown.shape, np.float32)


def _outline(at: Floats) -> Floats:
    """Return how far out of the middle a place (bin, 2) of the unit square lies: an outline without symmetry."""
    x, y = (at - 0.5).T
    angle = np.arctan2(y, x)
    reach = 1 + 0.14 * np.cos(2 * angle + 0.4) + 0.11 * np.cos(3 * angle + 1) + 0.05 * np.cos(5 * angle)
    out: Floats = np.hypot(x, y) / reach
    return out


def write_outs(tissue: HdTissue, folder: Path) -> None:
    """Write counts, positions, scale factors and the full-resolution image of a section into its new folder."""
    import pandas as pd

    bins = folder / f"outs/binned_outputs/square_{BIN_UM:03.0f}um"
    (bins / "spatial").mkdir(parents=True)
    _write_matrix(tissue, bins / "filtered_feature_bc_matrix.h5")
    column, row = tissue.index.T
    x_px, y_px = (tissue.xy_um / MPP).T
    where = {"array_row": row, "array_col": column, "pxl_row_in_fullres": y_px, "pxl_col_in_fullres": x_px}
    positions = pd.DataFrame({"barcode": tissue.barcodes(), "in_tissue": tissue.is_tissue.astype(int), **where})
    positions.to_parquet(bins / "spatial/tissue_positions.parquet")
    factors = {"spot_diameter_fullres": BIN_UM / MPP, "bin_size_um": BIN_UM, "microns_per_pixel": MPP}
    (bins / "spatial/scalefactors_json.json").write_text(json.dumps(factors))
    _write_image(tissue, folder / "outs/Visium_HD_tissue_image.tif")


def _write_matrix(tissue: HdTissue, path: Path) -> None:
    import h5py

    counts, n = tissue.counts(), tissue.n_genes
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"] = tissue.barcodes()[tissue.is_tissue].astype("S")
        matrix["data"], matrix["indices"], matrix["indptr"] = counts.data, counts.indices, counts.indptr
        matrix["shape"] = np.array([n, counts.shape[0]])
        for name, start in (("id", "ENSG"), ("name", "G")):
            matrix[f"features/{name}"] = np.array([f"{start}{i:05d}" for i in range(n)], "S")
        matrix["features/feature_type"] = np.array(["Gene Expression"] * n, "S")


def _write_image(tissue: HdTissue, path: Path) -> None:
    import tifffile

    rng, side = np.random.default_rng(SEED + 2), tissue.side_px
    mask = np.zeros((tissue.side, tissue.side), bool)
    mask[tissue.index[:, 1], tissue.index[:, 0]] = tissue.is_tissue
    place = np.clip(((np.arange(side) + 0.5) * MPP - MARGIN_UM) // BIN_UM, -1, tissue.side).astype(int)
    on_tissue = np.pad(mask, 1)[np.ix_(place + 1, place + 1)]
    image = np.clip(rng.normal((240, 238, 242), 2, (side, side, 3)).astype(np.float32), 0, 255).astype(np.uint8)
    image[on_tissue] = np.clip(rng.normal((190, 110, 165), 25, (int(on_tissue.sum()), 3)), 0, 255).astype(np.uint8)
    how: dict[str, Any] = {"photometric": "rgb", "tile": (512, 512), "compression": "adobe_deflate"}
    tifffile.imwrite(path, image, **how)


def iter_features(tissue: HdTissue, ids: list[str], xy_px: Floats, slide: str, n_features: int) -> Iterator[Features]:
    """Yield made-up features of sites, block by block, as the feature extraction does."""
    rng = np.random.default_rng([SEED, len(ids)])
    steps = np.stack(np.meshgrid([-1, 0, 1], [-1, 0, 1]), axis=-1).reshape(-1, 2) * 112.0
    from spamcaf.histology.backbone import BackboneIdentity

    identity = BackboneIdentity("made up", "made up", "0" * 64, "made up", n_features, "none")
    key = FeatureKey.of(slide, identity, {"made": "up"}, round(336 / MPP), ids, xy_px)
    for start in range(0, max(len(ids), 1), BLOCK):
        part = slice(start, start + BLOCK)
        windows = tissue.features((xy_px[part] * MPP)[:, None] + steps, rng)
        yield Features(tuple(ids[part]), windows, np.zeros(len(windows), np.int64), key, len(ids), start)
