"""One small valid input of every kind that is read, and how each is read to the end."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SECTION = "A1"
ROWS, COLUMNS, N_GENES = 6, 4, 12
N_SPOTS = ROWS * COLUMNS
ROW, STEP = np.divmod(np.arange(N_SPOTS), COLUMNS)
COLUMN = 2 * STEP + ROW % 2
XY = np.column_stack([30.0 + 20 * COLUMN, 15.0 + 34.64 * ROW])
COUNTS = np.random.default_rng(0).poisson(1.5, (N_SPOTS, N_GENES)).astype(np.int32)
COUNTS[:, 0] += 1
BARCODES = [f"{'ACGT'[i % 4]}{'ACGT'[i // 4 % 4]}{'ACGT'[i // 16]}TTGA-1" for i in range(N_SPOTS)]
GENES, IDS = [f"Gene{i}" for i in range(N_GENES)], [f"ENSG{i:011d}" for i in range(N_GENES)]
IMAGE = np.random.default_rng(1).integers(120, 256, (230, 200, 3), dtype=np.uint8)
FACTORS = {
    "spot_diameter_fullres": 26.0,
    "tissue_hires_scalef": 0.1,
    "tissue_lowres_scalef": 0.05,
    "fiducial_diameter_fullres": 40.0,
}


def _positions(barcodes: list[str]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "barcode": barcodes,
            "in_tissue": 1,
            "array_row": ROW,
            "array_col": COLUMN,
            "pxl_row_in_fullres": XY[:, 1],
            "pxl_col_in_fullres": XY[:, 0],
        }
    )


def _write_h5(path: Path, barcodes: list[str]) -> None:
    import h5py
    from scipy.sparse import csr_matrix

    counts = csr_matrix(COUNTS)
    with h5py.File(path, "w") as file:
        matrix = file.create_group("matrix")
        matrix["barcodes"], matrix["shape"] = np.array(barcodes, "S"), np.array([N_GENES, N_SPOTS], np.int32)
        for name in ("data", "indices", "indptr"):
            matrix.create_dataset(name, data=getattr(counts, name), compression="gzip", chunks=(16,))
        texts = {"id": IDS, "name": GENES, "feature_type": ["Gene Expression"] * N_GENES}
        for name, values in texts.items():
            matrix[f"features/{name}"] = np.array(values, "S")


def _write_spatial(outs: Path, more: dict[str, float] | None = None) -> None:
    from PIL import Image

    (outs / "spatial").mkdir(parents=True)
    (outs / "spatial/scalefactors_json.json").write_text(json.dumps(FACTORS | (more or {})))
    for name, step in (("hires", 10), ("lowres", 20)):
        Image.fromarray(IMAGE[::step, ::step]).save(outs / f"spatial/tissue_{name}_image.png")


def _write_tiff(path: Path, **how: Any) -> None:
    import tifffile

    tifffile.imwrite(path, IMAGE, photometric="rgb", **how)


def write_visium(folder: Path) -> None:
    """Space Ranger 2: matrix as h5, positions as text, thumbnails, tiled image."""
    outs = folder / SECTION / "outs"
    _write_spatial(outs)
    _write_h5(outs / "filtered_feature_bc_matrix.h5", BARCODES)
    _positions(BARCODES).to_csv(outs / "spatial/tissue_positions.csv", index=False)
    _write_tiff(outs / "A1_full_image.tif", tile=(64, 64), compression="adobe_deflate")


def write_mtx(folder: Path) -> None:
    """Space Ranger 3's folder of a Matrix Market file, gzipped, with positions of version 1."""
    from scipy.io import mmwrite
    from scipy.sparse import csr_matrix

    outs = folder / SECTION / "outs"
    _write_spatial(outs)
    matrix = outs / "filtered_feature_bc_matrix"
    matrix.mkdir()
    mmwrite(matrix / "matrix.mtx", csr_matrix(COUNTS.T), field="integer")
    rows = zip(IDS, GENES, ["Gene Expression"] * N_GENES, strict=True)
    (matrix / "features.tsv").write_text("".join("\t".join(row) + "\n" for row in rows))
    (matrix / "barcodes.tsv").write_text("".join(f"{name}\n" for name in BARCODES))
    for path in list(matrix.iterdir()):
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    _positions(BARCODES).to_csv(outs / "spatial/tissue_positions_list.csv", index=False, header=False)
    _write_tiff(outs / "A1_full_image.tif")


def write_hd(folder: Path) -> None:
    """Bins of Visium HD, positions as parquet."""
    bins = folder / SECTION / "binned_outputs/square_016um"
    _write_spatial(bins, {"bin_size_um": 16.0, "microns_per_pixel": 0.5})
    barcodes = [f"s_016um_{row:05d}_{column:05d}-1" for row, column in zip(ROW, STEP, strict=True)]
    _write_h5(bins / "filtered_feature_bc_matrix.h5", barcodes)
    _positions(barcodes).to_parquet(bins / "spatial/tissue_positions.parquet")
    _write_tiff(folder / SECTION / "A1_full_image.tif", rowsperstrip=16, compression="lzw")


def _anndata() -> Any:
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    data = AnnData(csr_matrix(COUNTS.astype(np.float32)))
    data.obs_names, data.var_names, data.var["gene_ids"] = BARCODES, GENES, IDS
    data.obs["in_tissue"], data.obs["array_row"], data.obs["array_col"] = 1, ROW, COLUMN
    return data


def write_h5ad(folder: Path) -> None:
    """An h5ad as scanpy leaves it: counts in a layer, normalised values in X and in raw."""
    from PIL import Image
    from scipy.sparse import csr_matrix

    data = _anndata()
    data.layers["counts"] = data.X.copy()
    data.X = csr_matrix(np.log1p(COUNTS / COUNTS.sum(axis=1, keepdims=True) * 1e4).astype(np.float32))
    data.raw = data
    data.obsm["spatial"] = XY.copy()
    data.uns["log1p"] = {"base": None}
    library = {"images": {"hires": IMAGE[::10, ::10]}, "scalefactors": dict(FACTORS), "metadata": {}}
    data.uns["spatial"] = {"lib": library}
    data.write_h5ad(folder / f"{SECTION}.h5ad", compression="gzip")
    Image.fromarray(IMAGE).save(folder / f"{SECTION}.png")


def write_spatialdata(folder: Path) -> None:
    """A SpatialData store with table, circles and image."""
    from spatialdata import SpatialData
    from spatialdata.models import Image2DModel, ShapesModel, TableModel
    from spatialdata.transformations import Identity

    systems = {"global": Identity()}
    data = _anndata()
    data.obs["region"], data.obs["spot_id"] = pd.Categorical([SECTION] * N_SPOTS), np.arange(N_SPOTS)
    table = TableModel.parse(data, region=SECTION, region_key="region", instance_key="spot_id")
    shapes = ShapesModel.parse(XY, geometry=0, radius=13.0, index=np.arange(N_SPOTS), transformations=systems)
    pixels = np.moveaxis(IMAGE, 2, 0)
    image = Image2DModel.parse(pixels, dims=("c", "y", "x"), transformations=systems, chunks=(3, 128, 128))
    store = SpatialData(images={"A1_full_image": image}, shapes={SECTION: shapes}, tables={"table": table})
    store.write(folder / f"{SECTION}.zarr")


def write_legacy(folder: Path) -> None:
    """The layout of her2st."""
    import imagecodecs

    for name in ("ST-cnts", "ST-spotfiles", f"ST-imgs/A/{SECTION}"):
        (folder / name).mkdir(parents=True)
    ids = [f"{x}x{y}" for x, y in zip(STEP, ROW, strict=True)]
    pd.DataFrame(COUNTS, index=ids, columns=GENES).to_csv(folder / f"ST-cnts/{SECTION}.tsv.gz", sep="\t")
    places = {"x": STEP, "y": ROW, "pixel_x": XY[:, 0], "pixel_y": XY[:, 1], "selected": 1}
    pd.DataFrame(places).to_csv(folder / f"ST-spotfiles/{SECTION}_selection.tsv", sep="\t", index=False)
    imagecodecs.imwrite(str(folder / f"ST-imgs/A/{SECTION}/HE.jpg"), IMAGE)


def write_labels(folder: Path) -> None:
    """A table of layers."""
    rows = "".join(f"{name},{SECTION},L{i % 3}\n" for i, name in enumerate(BARCODES))
    (folder / "labels.csv").write_text("barcode,section,label\n" + rows)


def write_references(folder: Path) -> None:
    """Counts without an image, of every kind."""
    _anndata().write_h5ad(folder / "atlas.h5ad")
    _write_h5(folder / "atlas.h5", BARCODES)
    table = pd.DataFrame(COUNTS, index=BARCODES, columns=GENES)
    table.to_csv(folder / "atlas.csv")
    table.to_csv(folder / "atlas.tsv.gz", sep="\t")


def write_slides(folder: Path) -> None:
    """Images of every kind."""
    import imagecodecs
    from PIL import Image

    tiled: dict[str, Any] = {"tile": (64, 64), "compression": "jpeg", "resolution": (2e4, 2e4)}
    _write_tiff(folder / "tiled.tif", resolutionunit="CENTIMETER", **tiled)
    _write_tiff(folder / "big.tif", bigtiff=True, planarconfig="contig", compression="zstd", rowsperstrip=50)
    _write_tiff(folder / "a.ome.tif", ome=True, tile=(64, 64), metadata={"axes": "YXS", "PhysicalSizeX": 0.5})
    Image.fromarray(IMAGE).save(folder / "a.jpg", quality=90)
    imagecodecs.imwrite(str(folder / "a.png"), IMAGE)


PARAMETERS = """\
panel: {n_genes: 300, include: "ERBB2 CD74"}
split: {protocol: random, n_folds: 3}
fit:
  epochs: 2
  learning_rate: 1e-3
evaluation:
  gene_sets:
    b_cells: "CD79A MS4A1"
report:
  n_genes: 3
"""


def write_settings(folder: Path) -> None:
    """Settings of a run, and what a command line adds."""
    (folder / "conf/base").mkdir(parents=True)
    (folder / "conf/local").mkdir()
    (folder / "conf/base/parameters.yml").write_text(PARAMETERS)
    (folder / "conf/base/globals.yml").write_text("section: A1\nraw_root: data/01_raw\nbackbone: uni\n")
    (folder / "params.txt").write_text("section=A1,panel.n_genes=200,panel.method=moran,fit.epochs=3")


def _read_section(folder: Path) -> None:
    from spamcaf.readers.files import SectionQuery
    from spamcaf.readers.find import find_reader

    reader = find_reader(SectionQuery(folder, SECTION))
    reader.read()
    _read_slide(reader.open_slide())


def _read_slide(slide: Any) -> None:
    rows, columns = slide.shape
    height, width = min(rows, 300), min(columns, 300)
    for x, y in ((0, 0), (columns - width, rows - height)):
        slide.read(x, y, width, height)


def _read_labels(folder: Path) -> None:
    from spamcaf.readers.labels import add_labels

    add_labels(_anndata(), folder / "labels.csv", SECTION)


def _read_file(folder: Path) -> None:
    """Read the reference or slide that is left in the folder."""
    from spamcaf.readers.reference import read_reference
    from spamcaf.slides.open import open_slide

    for path in folder.iterdir():
        if path.name.startswith("atlas"):
            read_reference(path)
        else:
            _read_slide(open_slide(path))


def _read_settings(folder: Path) -> None:
    """Take --params and the files of settings as a run does."""
    import click
    from kedro.config import MissingConfigException

    from spamcaf.cli import run
    from spamcaf.config_loader import ProjectConfigLoader
    from spamcaf.errors import InputError
    from spamcaf.hooks import check_settings

    typed = folder / "params.txt"
    text = typed.read_text(encoding="utf-8", errors="surrogateescape") if typed.is_file() else ""
    try:
        given = run.make_context("run", ["--params", text]).params["params"]
    except click.ClickException as error:  # the command line shows its message
        raise InputError(error.message, "options.", "Correct them.") from error
    how = {"base_env": "base", "default_run_env": "local", "merge_strategy": {"parameters": "soft"}}
    try:
        parameters = dict(ProjectConfigLoader(folder / "conf", runtime_params=given, **how)["parameters"])
    except MissingConfigException as error:  # the command line shows its message
        raise InputError(str(error), "files of settings.", "Check --env.") from error
    check_settings(parameters)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "visium": (write_visium, _read_section),
    "mtx": (write_mtx, _read_section),
    "visium_hd": (write_hd, _read_section),
    "h5ad": (write_h5ad, _read_section),
    "spatialdata": (write_spatialdata, _read_section),
    "legacy": (write_legacy, _read_section),
    "labels": (write_labels, _read_labels),
    "reference": (write_references, _read_file),
    "slide": (write_slides, _read_file),
    "settings": (write_settings, _read_settings),
}
