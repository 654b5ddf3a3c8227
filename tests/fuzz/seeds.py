"""One small valid input of every kind that is read, and how each is read to the end."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tests.fuzz.trained import read_model, read_weights, write_models, write_weights

ROOT = Path(__file__).parents[2]
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


def _write_leica(folder: Path) -> None:
    rows, columns = IMAGE.shape[:2]
    size = f'sizeX="{columns}" sizeY="{rows}"'
    whole, seen = (f'sizeX="{n * 500 * columns}" sizeY="{n * 500 * rows}"' for n in (2, 1))
    light = "<numericalAperture>0.4</numericalAperture><illuminationSource>brightfield</illuminationSource>"
    text = (
        '<?xml version="1.0"?><scn xmlns="http://www.leica-microsystems.com/scn/2010/10/01">'
        f'<collection name="a" {whole}><image name="main"><device model="Leica SCN400"/>'
        f'<pixels {size}><dimension {size} r="0" ifd="0"/></pixels><view {seen} offsetX="0" offsetY="0"/>'
        f"<scanSettings><objectiveSettings><objective>20</objective></objectiveSettings>"
        f"<illuminationSettings>{light}</illuminationSettings></scanSettings></image></collection></scn>"
    )
    _write_tiff(folder / "slide.scn", bigtiff=True, description=text, **SCANNED)


def _write_ventana(folder: Path) -> None:
    import tifffile

    rows, columns = (-(-n // 64) for n in IMAGE.shape[:2])
    joints = ""
    for row, column in np.ndindex(rows, columns):  # tiles are numbered from the lower left, there and back
        here, right, above = (
            1 + r * columns + (c if r % 2 == 0 else columns - 1 - c)
            for r, c in ((row, column), (row, column + 1), (row + 1, column))
        )
        for direction, other in (("RIGHT", right),) * (column + 1 < columns) + (("UP", above),) * (row + 1 < rows):
            joints += f'<TileJointInfo FlagJoined="1" Confidence="100" Direction="{direction}" Tile1="{here}"'
            joints += f' Tile2="{other}" OverlapX="0" OverlapY="0"/>'
    scan = (
        '<Metadata><iScan Magnification="20" ScanRes="0.465" UnitNumber="1"><AOI0 AOIScanned="1"/></iScan></Metadata>'
    )
    area = (
        f'AOIScanned="1" AOIIndex="0" Pos-X="0" Pos-Y="0" Width="64" Height="64" NumRows="{rows}" NumCols="{columns}"'
    )
    stitched = f"<SlideStitchInfo><ImageInfo {area}>{joints}</ImageInfo></SlideStitchInfo>"
    origin = '<AoiOrigin><AOI0 OriginX="0" OriginY="0"/></AoiOrigin>'
    encoded = f'<EncodeInfo Ver="2"><SlideInfo/>{stitched}{origin}</EncodeInfo>'
    tags = [[(700, "B", len(text), text.encode(), True)] for text in (scan, encoded)]
    with tifffile.TiffWriter(folder / "slide.bif", bigtiff=True) as tiff:
        tiff.write(IMAGE[:40, :40], photometric="rgb", metadata=None, description="Label_Image", extratags=tags[0])
        whole: dict[str, Any] = {**SCANNED, "description": "level=0 mag=20 quality=90", "extratags": tags[1]}
        tiff.write(IMAGE, photometric="rgb", **whole)


def _write_ndpi(folder: Path) -> None:
    import imagecodecs
    import tifffile

    tags = [(65420, "I", 1, 1, True), (65421, "f", 1, 20.0, True)]
    tags += [(code, "i", 1, 0, True) for code in (65422, 65423, 65424)]
    how: dict[str, Any] = {"rowsperstrip": len(IMAGE), "compression": "jpeg", "photometric": "ycbcr"}
    how |= {"subsampling": (1, 1), "resolution": (2e4, 2e4), "resolutionunit": 3, "extratags": tags, "metadata": None}
    encoded = imagecodecs.jpeg_encode(IMAGE, level=90)
    tifffile.imwrite(folder / "slide.ndpi", iter([encoded]), shape=IMAGE.shape, dtype=np.uint8, **how)


def _write_vms(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(IMAGE).save(folder / "a.jpg", quality=90, restart_marker_rows=1)
    Image.fromarray(IMAGE[::4, ::4]).save(folder / "map.jpg", restart_marker_rows=1)
    sizes = "PhysicalWidth=100000\nPhysicalHeight=115000\nPhysicalMacroWidth=1\nPhysicalMacroHeight=1\n"
    parts = "NoLayers=1\nNoJpegColumns=1\nNoJpegRows=1\nImageFile=a.jpg\nMapFile=map.jpg\nSourceLens=20\n"
    (folder / "slide.vms").write_text(f"[Virtual Microscope Specimen]\n{parts}{sizes}")


SCANNED: dict[str, Any] = {"tile": (64, 64), "compression": "jpeg", "metadata": None}
APERIO = "Aperio Image Library v12.0.15 \n200x230 [0,0 200x230] (64x64) JPEG/RGB Q=90|AppMag = 20|MPP = 0.5"
SPACING = '<Attribute Name="DICOM_PIXEL_SPACING">&quot;0.0005&quot; &quot;0.0005&quot;</Attribute>'
PHILIPS = (
    '<?xml version="1.0" encoding="UTF-8" ?><DataObject ObjectType="DPUfsImport">'
    '<Attribute Name="PIM_DP_SCANNED_IMAGES"><Array>'
    '<DataObject ObjectType="DPScannedImage"><Attribute Name="PIM_DP_IMAGE_TYPE">WSI</Attribute>'
    '<Attribute Name="PIIM_PIXEL_DATA_REPRESENTATION_SEQUENCE"><Array>'
    f'<DataObject ObjectType="PixelDataRepresentation">{SPACING}</DataObject></Array></Attribute>'
    "</DataObject></Array></Attribute></DataObject>"
)
SCANNERS: dict[str, Callable[[Path], None]] = {
    "aperio": lambda folder: _write_tiff(folder / "slide.svs", description=APERIO, **SCANNED),
    "trestle": lambda folder: _write_tiff(
        folder / "slide.tif", software="MedScan", description="Objective Power=20;OverlapsXY=0 0", **SCANNED
    ),
    "philips": lambda folder: _write_tiff(
        folder / "slide.tiff", software="Philips DP v1.0", description=PHILIPS, **SCANNED
    ),
    "leica": _write_leica,
    "ventana": _write_ventana,
    "hamamatsu": _write_ndpi,
    "hamamatsu of several files": _write_vms,
}


def write_scanners(folder: Path) -> None:
    """Slides that OpenSlide reads, each recognised as of its scanner."""
    import openslide

    for name, write in SCANNERS.items():
        (folder / name).mkdir()
        write(folder / name)
        vendor = openslide.OpenSlide.detect_format(*(folder / name).glob("slide.*"))
        assert vendor == name.split()[0], (vendor, name)


PARAMETERS = """\
panel: {n_genes: 300, include: "ERBB2 CD74"}
split: {protocol: random, n_folds: 3}
fit:
  epochs: 2
  learning_rate: 1e-3
evaluation:
  gene_sets:
    b_cells: "CD79A MS4A1"
    mine: genes.txt
report:
  n_genes: 3
"""


COHORT = """\
section,run,split.mask,raw_root,other_sections,panel.include,seed
C2,a,,data/01_raw/her2st,,,3
1e3,default,1,,C2,ERBB2 CD74,
C2,b,2,data/01_raw/her2st,,ERBB2,4
"""


def write_cohort(folder: Path) -> None:
    """A table of sections."""
    (folder / "cohort.csv").write_text(COHORT)


def _read_cohort(folder: Path) -> None:
    """Plan the runs of a table."""
    from kedro.framework.session import KedroSession
    from kedro.framework.startup import bootstrap_project

    from spamcaf.cohort.plan import plan_jobs

    bootstrap_project(ROOT)
    params = {"sections": str(folder / "cohort.csv"), "masks": "0"}
    # each time: globals are those of the last loader of the process, which may be that of other settings
    plan_jobs(KedroSession.create(ROOT, runtime_params=params).load_context())


def write_settings(folder: Path) -> None:
    """Settings of a run, and what a command line adds."""
    (folder / "conf/base").mkdir(parents=True)
    (folder / "conf/local").mkdir()
    (folder / "conf/base/parameters.yml").write_text(PARAMETERS)
    (folder / "conf/base/globals.yml").write_text("section: A1\nraw_root: data/01_raw\nbackbone: uni\n")
    (folder / "genes.txt").write_text("# of a publication\nERBB2, CD74\nENSG00000141736\tGRB7\n")
    (folder / "options.yml").write_text("run:\n  tags: a\n  params:\n    section: '1e3'\n    seed: 3\n")
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


def _read_scanned(folder: Path) -> None:
    from spamcaf.slides.open import open_slide

    for path in folder.rglob("slide.*"):
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
        if (options := folder / "options.yml").exists():
            given = run.make_context("run", ["--config", str(options)]).params["params"] | given
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
    "scanner": (write_scanners, _read_scanned),
    "weights": (write_weights, read_weights),
    "model": (write_models, read_model),
    "cohort": (write_cohort, _read_cohort),
}
