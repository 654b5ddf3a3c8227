"""Every setting of a run: typed, closed and ranged, so that a wrong one fails before any work starts."""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

Micrometres = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulationSettings(_Settings):
    """The simulated section that `conf/base` runs on."""

    seed: int = Field(7, ge=0, description="fixes tissue, picture and counts")
    width_um: Micrometres = Field(1900.0, description="width of the picture, micrometres")
    height_um: Micrometres = Field(1900.0, description="height of the picture, micrometres")
    mpp: Annotated[float, Field(ge=0.2, le=2)] = Field(0.6, description="micrometres per pixel of the picture")
    n_genes: int = Field(2000, ge=20, description="genes simulated")
    median_umi: float = Field(6000.0, gt=0, description="median UMI count of a spot")


class SectionSettings(_Settings):
    """What a section must satisfy before anything is computed."""

    max_mpp_disagreement: Share = Field(
        0.03, description="largest difference of um per pixel by lattice and by another source"
    )
    max_unmatched: Share = Field(0.01, description="largest share of barcodes without a position")
    max_outside: Share = Field(0.4, description="largest share of spots outside the image")
    max_lattice_residual: Share = Field(0.25, description="largest RMS distance from the lattice, in pitches")
    min_spots: int = Field(20, ge=6, description="fewest spots worth learning from")
    allow_mirrored: bool = Field(False, description="true where the image was mirrored against the array on purpose")
    trust_image: bool = Field(
        False, description="true where you know that image and spots belong together: what speaks against it only warns"
    )
    pitch_um: Micrometres | None = Field(
        None, description="distance of neighbouring spots, where the source does not say or is wrong"
    )


class SplitSettings(_Settings):
    """Which spots are hidden, and how the visible ones are folded."""

    protocol: Literal["random", "block", "section"] = Field(
        "random", description="random: spots hidden uniformly; block: a block of tissue; section: all spots"
    )
    hidden_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="share of spots hidden by random")
    n_blocks: Literal[2, 4] = Field(4, description="blocks that block chooses from: halves or quadrants")
    n_folds: int = Field(5, ge=2, le=20, description="folds of the visible spots, each validation once")
    mask: int = Field(0, ge=0, description="which random mask, or which block; the headline figure averages five")


def _as_names(genes: object) -> object:
    if isinstance(genes, int) and not isinstance(genes, bool):
        genes = str(genes)
    if isinstance(genes, str) and genes.strip():
        return re.split(r"[\s,;]+", genes.strip(" \t\r\n,;"))
    if isinstance(genes, list | tuple):
        return [str(gene) if isinstance(gene, int) and not isinstance(gene, bool) else gene for gene in genes]
    return genes


GeneNames = Annotated[list[str], BeforeValidator(_as_names)]
"""A list of names, or a text of them as pasted from a table: `genes: |` and a line for each in an environment's
parameters.yml, or --params "panel.genes=ERBB2 COL1A1"."""


class PanelSettings(_Settings):
    """Which genes are predicted."""

    method: Literal["seurat_v3", "moran"] = Field(
        "seurat_v3", description="seurat_v3: highly variable genes; moran: spatially variable ones"
    )
    n_genes: int = Field(1000, ge=2, description="most genes chosen by method, on training spots only")
    genes: GeneNames = Field(
        default_factory=list,
        description="exactly these, by symbol or Ensembl id; method, n_genes and include then have no say",
    )
    include: GeneNames = Field(
        default_factory=list,
        description="genes beside those chosen by method, where min_spots training spots have them",
    )
    min_spots: int = Field(10, ge=1, description="fewest training spots that express a gene chosen by method")

    @model_validator(mode="after")
    def _more_than_one_gene(self) -> Self:
        if len(self.genes) == 1:
            raise ValueError("genes should be at least 2, found 1; for a single gene use include")
        return self


class TissueSettings(_Settings):
    """How tissue is told from glass."""

    um_per_px: Micrometres = Field(8.0, description="resolution of the mask")
    min_area_um2: Micrometres = Field(40_000.0, description="smaller pieces and holes are dropped")
    inside_frame: bool = Field(
        True, description="leave out what lies under and beyond the fiducial frame of a Visium array, where one is seen"
    )


class GridSettings(_Settings):
    """Where expression is predicted between the spots."""

    subdivide: int = Field(2, ge=1, le=8, description="k: the lattice divided k times gives k x k sites per spot")


class TileSettings(_Settings):
    """What the backbone looks at."""

    unit: Literal["um", "pixels"] = Field("um", description="pixels reproduces the released code's windows")
    tile_um: Micrometres = Field(112.0, description="width of a tile: 224 px at 0.5 um/px, what UNI was trained on")
    stain: Literal["none", "macenko"] = Field(
        "none", description="macenko brings the stains of every slide to common ones, before the backbone looks"
    )
    dense: bool = Field(
        False, description="compute the slide once on a raster and pool its maps per tile: for fine grids, approximate"
    )
    batch: int = Field(64, ge=1, description="tiles per forward pass on a GPU; halved by itself when memory runs out")


class ComputeSettings(_Settings):
    """Where and how precisely to compute."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto: bf16 on CUDA, for the backbone also on CPUs that have it; else float32"
    )
    compile: bool = Field(
        False, description="torch.compile for the backbone: slow to start, then faster; needs a C++ compiler"
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0 leaves torch's choice, and trains with one")


class NetworkSettings(_Settings):
    """Size of the SpaMCAF network and its parts."""

    width: int = Field(64, ge=8, description="width of every token")
    heads: int = Field(4, ge=1, description="heads of encoder and cross-attention")
    depth: int = Field(1, ge=1, description="blocks of each encoder")
    dropout: Share = Field(0.4, description="dropout inside the blocks")
    n_summary: int = Field(8, ge=1, description="learned summary tokens that stand for the whole section")
    image_components: int = Field(64, ge=2, description="principal components kept of the backbone's features")
    n_context: int = Field(12, ge=0, description="nearest visible measured spots given as context; 0: none, to compare")
    one_token: bool = Field(
        False, description="true: one pooled key per branch, as the figure is drawn; to compare, its query is ignored"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width should be a multiple of heads ({self.heads}), found {self.width}")
        return self


class FitSettings(_Settings):
    """How the model is trained; the rest of the group is of spamcaf alone."""

    model: Literal["spamcaf", "released"] = Field(
        "spamcaf", description="released: the network of the released code, trained as there, to compare with"
    )
    use_network: bool = Field(True, description="false: the Gaussian process alone, no network is trained; to compare")
    n_programs: int = Field(16, ge=1, description="gene programs at most; those within the noise are dropped")
    epochs: int = Field(40, ge=1, description="passes over the visible spots, per fold")
    batch: int = Field(128, ge=2, description="spots per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the warm-up and cosine schedule of AdamW")
    weight_decay: float = Field(0.05, ge=0, description="of AdamW")
    warmup_share: Share = Field(0.1, description="share of the steps spent warming up")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm")
    pearson_weight: float = Field(0.5, ge=0, description="weight of 1 - Pearson beside the squared error")
    branch_weights: tuple[float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 1.0), description="weights of L1 target, L2 neighbour, L3 global, L4 fusion; our choice"
    )
    context_dropout: Share = Field(0.5, description="share of context spots hidden at random in a training step")
    transfer_step_share: Share = Field(0.15, description="share of training steps without any context or position")
    section_sample: int = Field(512, ge=2, description="spots of the section that the global branch sees in a step")
    checkpoint_epochs: int = Field(10, ge=1, description="epochs after which a killed training need not begin again")
    max_exact_spots: int = Field(5000, ge=1, description="more spots than these: space through the nearest ones only")
    max_hyper_spots: int = Field(800, ge=20, description="spots on which kernel weights are learned")


class ReleasedSettings(_Settings):
    """How `released` is trained: the schedule of the released code."""

    epochs: int = Field(1000, ge=1, description="passes over the visible spots; that many, since nothing stops early")
    chunk: int = Field(50, ge=3, description="spots per step, in file order, never shuffled: they fill one batch norm")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the schedule of Adam, its usual rate")
    checkpoint_epochs: int = Field(100, ge=1, description="epochs after which a killed training need not begin again")
    warmup_epochs: int = Field(5, ge=0, description="epochs of linear warm-up, before the cosine takes the rate to 0")


class TransferSettings(_Settings):
    """A section of which there is only the image."""

    mpp: Annotated[float, Field(gt=0, le=5)] | None = Field(
        None, description="micrometres per pixel, where the image does not say"
    )
    pitch_um: Micrometres = Field(100.0, description="distance of the sites predicted")


class ReportSettings(_Settings):
    """Which genes are drawn, and written for QuPath."""

    genes: GeneNames = Field(default_factory=list, description="symbols that come first, where the panel has them")
    n_genes: Annotated[int, Field(ge=1, le=20)] = Field(
        6, description="genes in all; then those predicted best, or that vary most"
    )


class RunSettings(_Settings):
    """All of `parameters.yml`: one group of settings per step."""

    seed: int = Field(1234, ge=0, description="the only source of randomness")
    section_checks: SectionSettings = SectionSettings()
    split: SplitSettings = SplitSettings()
    panel: PanelSettings = PanelSettings()
    tissue: TissueSettings = TissueSettings()
    grid: GridSettings = GridSettings()
    tiles: TileSettings = TileSettings()
    compute: ComputeSettings = ComputeSettings()
    network: NetworkSettings = NetworkSettings()
    fit: FitSettings = FitSettings()
    released: ReleasedSettings = ReleasedSettings()
    transfer: TransferSettings = TransferSettings()
    report: ReportSettings = ReportSettings()


RUN_CHOICES = ("section", "raw_root", "image", "bin_um", "backbone", "backbone_source", "other_sections", "model")
"""What a command line may choose beside the settings: these go into paths and names, not into a node."""
GENE_LISTS = ("panel.genes", "panel.include", "report.genes")
"""Settings that are names of genes."""
