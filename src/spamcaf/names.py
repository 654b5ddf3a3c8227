"""Every external name, once: files and columns of other tools, and the AnnData keys that we share with them."""

from __future__ import annotations

from enum import StrEnum

CHAIN = ("ingestion", "feature_extraction", "training", "inference", "evaluation")
"""The pipelines of a plain `kedro run`, in the order of the data."""


NO_IMAGE = "none"
"""The `image` of a section that is predicted from coordinates and expression alone, also in keys and records."""


def is_no_image(image: object) -> bool:
    """Tell whether a chosen image is `none`, in small or capital letters; None is no choice."""
    return isinstance(image, str) and image.lower() == NO_IMAGE


class SpaceRanger(StrEnum):
    """Files of a Space Ranger `outs/` folder."""

    MATRIX_H5 = "filtered_feature_bc_matrix.h5"
    MATRIX_FOLDER = "filtered_feature_bc_matrix"
    RAW_FOLDER = "raw_feature_bc_matrix"  # all barcodes, and the stem of its h5 file
    SPATIAL = "spatial"
    POSITIONS = "tissue_positions.csv"
    POSITIONS_V1 = "tissue_positions_list.csv"
    POSITIONS_STEM = "tissue_positions"
    OUTS = "outs"
    BINNED = "binned_outputs"  # Visium HD only, as the next two
    SEGMENTED = "segmented_outputs"
    FEATURE_SLICE = "feature_slice.h5"
    SCALEFACTORS = "scalefactors_json.json"
    HIRES = "tissue_hires_image.png"
    LOWRES = "tissue_lowres_image.png"


class Position(StrEnum):
    """Columns of a Space Ranger position file, in its order."""

    BARCODE = "barcode"
    IN_TISSUE = "in_tissue"
    ARRAY_ROW = "array_row"
    ARRAY_COL = "array_col"
    PXL_ROW = "pxl_row_in_fullres"
    PXL_COL = "pxl_col_in_fullres"


class ScaleFactor(StrEnum):
    """Keys of `scalefactors_json.json`, and of `uns["spatial"][library]["scalefactors"]`."""

    SPOT = "spot_diameter_fullres"
    FIDUCIAL = "fiducial_diameter_fullres"
    HIRES = "tissue_hires_scalef"
    LOWRES = "tissue_lowres_scalef"
    BIN = "bin_size_um"  # Visium HD only, as the next
    MPP = "microns_per_pixel"


class LegacyST(StrEnum):
    """Folders and columns of the legacy spatial-transcriptomics layout (her2st)."""

    COUNTS = "ST-cnts"
    SPOTS = "ST-spotfiles"
    IMAGES = "ST-imgs"
    X = "x"
    Y = "y"
    PIXEL_X = "pixel_x"
    PIXEL_Y = "pixel_y"
    SELECTED = "selected"


class LabelTable(StrEnum):
    """Columns of a table of spot labels."""

    BARCODE = "barcode"
    SECTION = "section"
    LABEL = "label"


SPATIAL = "spatial"  # `obsm` key of the (x, y) coordinates and `uns` key of the images, as squidpy and scanpy expect
PROVENANCE = "spamcaf"  # `uns` key of our own record, plain nested values
GENE_IDS = "gene_ids"  # `var` column of the Ensembl ids (or the symbols, where a source has no ids)
SECTION_METADATA = "section"  # `uns` key of a section's facts, see `SectionField`


class Obs(StrEnum):
    """`obs` columns of the output contract."""

    PARENT = "parent_barcode"
    SUB_INDEX = "sub_index"
    IN_TISSUE = "in_tissue"
    ARRAY_ROW = "array_row"
    ARRAY_COL = "array_col"
    LIBRARY = "library_id"
    ORIGIN = "origin"
    PADDED = "n_px_padded"
    LABEL = "label"  # an annotation, such as the cortical layer; of a site between the spots, its nearest spot's


class Part(StrEnum):
    """Values of the split's `part` column."""

    TRAIN = "train"
    HIDDEN = "hidden"
    BUFFER = "buffer"  # neither learned from nor scored: of a hidden block, but too near to a visible spot


class SectionField(StrEnum):
    """Keys of `uns["section"]`: what the source states of a section, and what the checks found."""

    NAME = "name"
    LATTICE = "lattice"  # "hexagonal" | "square" | "scattered"
    PITCH_UM = "pitch_um"  # nominal distance of neighbouring spots
    SPOT_UM = "spot_diameter_um"
    MPP = "mpp"  # micrometres per full-resolution pixel; of a raw section, what its file states outright
    SPOT_PX = "spot_diameter_px"  # Visium's spot_diameter_fullres and the next, where Space Ranger wrote them
    FIDUCIAL_PX = "fiducial_diameter_px"
    OFF_TISSUE = "off_tissue_px"  # (x, y) of the spots off the tissue by the source, full-resolution pixels
    LAYOUT = "layout"  # which tool wrote the files
    UNMATCHED = "n_unmatched"  # barcodes of the matrix without a position, dropped by the reader
    COUNTS = "counts_from"  # where the raw counts were, or how they were recovered; only where it was a choice


class Model(StrEnum):
    """Models in a score table: the fitted ones, of which `program_gp` is a part of `spamcaf`, baselines, and peers."""

    SPAMCAF = "spamcaf"
    PROGRAM_GP = "program_gp"
    RELEASED = "released"
    GENE_MEAN = "gene_mean"
    IDW = "idw"
    KRIGING = "kriging"
    RIDGE = "ridge"
    KRIGING_RIDGE_PROGRAMS = "kriging_ridge_programs"
    DEPTH_ONLY = "depth_only"
    NEAREST_SPOT = "nearest_spot"
    GENE_MEDIAN = "gene_median"
    RGB_RIDGE = "rgb_ridge"
    RIDGE_KRIGING = "ridge_kriging"
    BOOSTED_PROGRAMS = "boosted_programs"
    HEST_PROBE = "hest_probe"
    BLEEP = "bleep"
    STAGE = "stage"
    ST_NET = "st_net"
    HISTOGENE = "histogene"
    TRIPLEX = "triplex"


FITTED_MODELS = (Model.SPAMCAF, Model.PROGRAM_GP, Model.RELEASED)
PEERS = (Model.HEST_PROBE, Model.BLEEP, Model.STAGE, Model.ST_NET, Model.HISTOGENE, Model.TRIPLEX)
COMPARED_MODELS = tuple(model for model in Model if model not in FITTED_MODELS)
"""Baselines and peers, which `evaluation.models` chooses from: they stand beside the fitted model."""


DISPLAY_NAMES: dict[str, str] = {
    Model.SPAMCAF: "SpaMCAF",
    Model.PROGRAM_GP: "Gaussian process alone",
    Model.RELEASED: "Released network (replica)",
    Model.GENE_MEAN: "Gene mean",
    Model.IDW: "Inverse distance",
    Model.KRIGING: "Kriging",
    Model.RIDGE: "Ridge on image features",
    Model.KRIGING_RIDGE_PROGRAMS: "Kriging + ridge on programs",
    Model.DEPTH_ONLY: "Sequencing depth alone",
    Model.NEAREST_SPOT: "Nearest spot",
    Model.GENE_MEDIAN: "Gene median",
    Model.RGB_RIDGE: "Ridge on colours",
    Model.RIDGE_KRIGING: "Ridge + kriging of its residual",
    Model.BOOSTED_PROGRAMS: "Boosted trees on 8 programs",
    Model.HEST_PROBE: "HEST probe",
    Model.BLEEP: "BLEEP (frozen features)",
    Model.STAGE: "STAGE",
    Model.ST_NET: "ST-Net (frozen features)",
    Model.HISTOGENE: "HisToGene (frozen features)",
    Model.TRIPLEX: "TRIPLEX (frozen features)",
}
"""Names of the models for people, in the printed table and in reports; files and settings use those of `Model`."""


def display_name(model: str) -> str:
    """Return the model's name for people, or the name itself where there is no other."""
    return DISPLAY_NAMES.get(model, model)


class Metric(StrEnum):
    """Keys of one model's scores in `scores.json`, in the order in which they are printed."""

    PCC_MEAN = "pcc_mean"
    PCC_MEDIAN = "pcc_median"
    PCC_TOP50 = "pcc_top50"
    SPEARMAN_MEAN = "spearman_mean"
    PCC_DEPTH_REMOVED = "pcc_depth_removed"
    SSIM = "ssim"
    PCC_SPOTS = "pcc_spots"
    GENE_STRUCTURE = "gene_structure"
    MSE = "mse"
    MAE = "mae"
    RMSE = "rmse"
    SHARE_ABOVE = "share_above_0.3"
    UNDEFINED = "n_undefined"
    VARIANCE_RATIO = "variance_ratio"
    MORAN_RATIO = "moran_ratio"


GENE_SETS: dict[str, int] = {"variable_50": 50, "variable_200": 200, "expressed_50": 50, "spatial_50": 50}
"""Gene sets that are always scored, and their sizes: see `scoring.gene_sets`."""

HIGHER_IS_BETTER = (
    Metric.PCC_MEAN,
    Metric.PCC_MEDIAN,
    Metric.PCC_TOP50,
    Metric.SPEARMAN_MEAN,
    Metric.PCC_DEPTH_REMOVED,
    Metric.SSIM,
    Metric.PCC_SPOTS,
    Metric.GENE_STRUCTURE,
    Metric.SHARE_ABOVE,
)
LOWER_IS_BETTER = (Metric.MSE, Metric.MAE, Metric.RMSE)
