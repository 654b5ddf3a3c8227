"""Every external name, once: files and columns of other tools, and the AnnData keys that we share with them."""

from __future__ import annotations

from enum import StrEnum

CHAIN = ("ingestion", "feature_extraction", "training", "inference", "evaluation")
"""The pipelines of a plain `kedro run`, in the order of the data."""


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
PROVENANCE = "spamcaf"  # `uns` key of our own record: one JSON text
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
    LABEL = "label"  # an annotation, such as the cortical layer


class Part(StrEnum):
    """Values of the split's `part` column."""

    TRAIN = "train"
    HIDDEN = "hidden"
    BUFFER = "buffer"  # neither learned from nor scored: of a hidden block, but too near to a visible spot


class SectionField(StrEnum):
    """Keys of `uns["section"]`: what the source states of a section, and what the checks found."""

    NAME = "name"
    LATTICE = "lattice"  # "hexagonal" | "square"
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
    """Models in a score table: the fitted ones, of which `program_gp` is a part of `spamcaf`, then the baselines."""

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


class Metric(StrEnum):
    """Keys of one model's scores in `scores.json`, in the order in which they are printed."""

    PCC_MEAN = "pcc_mean"
    PCC_MEDIAN = "pcc_median"
    PCC_TOP50 = "pcc_top50"
    SPEARMAN_MEAN = "spearman_mean"
    PCC_DEPTH_REMOVED = "pcc_depth_removed"
    MSE = "mse"
    MAE = "mae"
    RMSE = "rmse"
    SHARE_ABOVE = "share_above_0.3"
    UNDEFINED = "n_undefined"
    VARIANCE_RATIO = "variance_ratio"
    MORAN_RATIO = "moran_ratio"


HIGHER_IS_BETTER = (
    Metric.PCC_MEAN,
    Metric.PCC_MEDIAN,
    Metric.PCC_TOP50,
    Metric.SPEARMAN_MEAN,
    Metric.PCC_DEPTH_REMOVED,
    Metric.SHARE_ABOVE,
)
LOWER_IS_BETTER = (Metric.MSE, Metric.MAE, Metric.RMSE)
