"""Every setting of a run, described once: types and ranges are checked before any work, unknown names refused.

`python -m spamcaf.parameters` prints conf/base/parameters.yml from the defaults and descriptions here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from spamcaf.errors import InputError
from spamcaf.names import COMPARED_MODELS, GENE_SETS, PEERS, Model

logger = logging.getLogger(__name__)

Micrometres = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Protocol = Literal["random", "lattice", "block", "section"]

RUN_CHOICES = (
    "section", "run", "raw_root", "image", "bin_um", "backbone", "backbone_source", "other_sections", "reference",
    "model",
)  # fmt: skip
"""What a command line may choose beside the settings: these go into paths and names, not into a node."""
SHORT_NAMES = {name: ("benchmark", name) for name in ("sections", "masks", "protocols")}
"""Settings by the names without a group that a command line may use."""
NEUTRAL_SETTINGS = ("compute.device", "compute.threads", "tiles.batch")
"""How fast and where something is computed: results that differ in these alone are of the same settings."""
MAX_MASKS = 1000  # of a benchmark
GENE_LISTS = ("panel.genes", "panel.include", "report.genes")  # settings that are names of genes
DEPRECATED_SETTINGS: dict[str, dict[str, str | None]] = {
    "fit": {"hide_share": "context_dropout", "blind_share": "transfer_step_share", "checkpoint_epochs": None}
}
"""By group, names of the previous version and their present ones (None: without effect); accepted for one version."""


def rename_deprecated(group: str, values: Mapping[str, Any], reported: set[str]) -> dict[str, Any]:
    """Return the settings of `group` by their present names; log one warning for each old name not in `reported`.

    Each source (a file, a command line) has to be renamed before sources are merged: then an old name in a later source
    replaces the new name in an earlier one. Raises InputError when both names in one source have different values.
    """
    current = dict(values)
    for old, new in DEPRECATED_SETTINGS.get(group, {}).items():
        if old not in current:
            continue
        value, name = current.pop(old), f"{group}.{old}"
        if new and current.setdefault(new, value) != value:
            raise InputError(
                f"{name} = {value} and {group}.{new} = {current[new]}, the old and the new name of one setting.",
                "one of them, or equal values.",
                f"Remove {name}.",
            )
        if name not in reported:
            use = f"is now called {group}.{new}" if new else "has no effect, since a fold is stored when it is finished"
            logger.warning("%s %s; the next version refuses the old setting.", name, use)
            reported.add(name)
    return current


class _Settings(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SimulationSettings(_Settings):
    """The simulated section that `conf/base` runs on."""

    seed: int = Field(7, ge=0, description="fixes tissue, image and counts")
    width_um: Micrometres = Field(1900.0, description="width of the image, micrometres")
    height_um: Micrometres = Field(1900.0, description="height of the image, micrometres")
    mpp: Annotated[float, Field(ge=0.2, le=2)] = Field(0.6, description="micrometres per pixel of the image")
    n_genes: int = Field(2000, ge=20, description="genes simulated")
    median_umi: float = Field(6000.0, gt=0, description="median UMI count of a spot")


class SectionSettings(_Settings):
    """Checks of the section, before anything is computed."""

    max_mpp_disagreement: Share = Field(0.03, description="largest relative difference of two sources of um per pixel")
    max_unmatched: Share = Field(0.01, description="largest share of barcodes without a position")
    max_outside: Share = Field(0.4, description="largest share of spots outside the image")
    max_lattice_residual: Share = Field(0.25, description="largest RMS distance of spots to the lattice, in pitches")
    min_spots: int = Field(20, ge=6, description="fewest spots under tissue")
    allow_mirrored: bool = Field(False, description="true where the image was mirrored against the array on purpose")
    trust_image: bool = Field(
        False, description="true where you know that image and spots belong together: contrary evidence only warns"
    )
    pitch_um: Micrometres | None = Field(None, description="spot distance, where the files hold none or a wrong one")
    scattered: bool = Field(False, description="true where spots are on no lattice, as beads of Slide-seq")
    mpp: Micrometres | None = Field(
        None, description="um per unit of the coordinates of scattered spots, where nothing states it"
    )


class SplitSettings(_Settings):
    """Which spots are hidden for the scores, and the folds of the visible ones."""

    protocol: Protocol = Field(
        "random",
        description="random: single spots; lattice: between every k-th row and column; block: of tissue; section: all",
    )
    hidden_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="share of spots that random hides")
    every: int = Field(2, ge=2, description="k of lattice: every k-th row and column is visible, one spot in k x k")
    n_blocks: Literal[2, 4] = Field(4, description="blocks that block chooses from: halves or quadrants")
    n_folds: int = Field(5, ge=2, le=20, description="folds of the cross-validation on visible spots")
    mask: int = Field(
        0,
        ge=0,
        description="number of the random mask, block or visible sublattice; report means of five",
    )


def _as_names(genes: object) -> object:
    if isinstance(genes, list | tuple):
        return [str(gene) if type(gene) is int else gene for gene in genes]
    if type(genes) is int or (isinstance(genes, str) and genes.strip()):
        return re.split(r"[\s,;]+", str(genes).strip(" \t\r\n,;"))
    return genes


GeneNames = Annotated[list[str], BeforeValidator(_as_names)]
"""A list of names, or a text of them as pasted from a table: `genes: |` and a line for each in an environment's
parameters.yml, or --params "panel.genes=ERBB2 COL1A1"."""


class PanelSettings(_Settings):
    """Which genes are predicted."""

    method: Literal["seurat_v3", "moran"] = Field(
        "seurat_v3", description="seurat_v3: highly variable genes; moran: spatially variable genes (Moran's I)"
    )
    n_genes: int = Field(1000, ge=2, description="most genes that method selects, on training spots only")
    genes: GeneNames = Field(
        [], description="exactly these symbols or Ensembl ids; method, n_genes and include are then ignored"
    )
    include: GeneNames = Field([], description="genes to add to those of method, if min_spots training spots have them")
    n_program_genes: int = Field(
        500, ge=0, description="genes beside the panel that gene programs are learned from too"
    )
    min_spots: int = Field(10, ge=1, description="fewest training spots that express a selected gene")

    @model_validator(mode="after")
    def _more_than_one_gene(self) -> Self:
        if len(self.genes) == 1:
            raise ValueError("genes should be at least 2, found 1; for a single gene use include")
        return self


class TissueSettings(_Settings):
    """Segmentation of tissue and glass."""

    um_per_px: Micrometres = Field(8.0, description="resolution of the mask")
    min_area_um2: Micrometres = Field(40_000.0, description="smaller pieces of tissue and holes are dropped")
    inside_frame: bool = Field(
        True, description="leave out what lies under and outside the fiducial frame of a Visium array, if one is found"
    )


class GridSettings(_Settings):
    """Sites between the spots, at which expression is predicted."""

    subdivide: int = Field(2, ge=1, le=8, description="k: the lattice divided k times gives k x k sites per spot")
    pitch_um: Micrometres | None = Field(
        None, description="instead of subdivide: distance of sites on a square raster, such as 8 as bins of Visium HD"
    )


class TileSettings(_Settings):
    """Image tiles for the backbone."""

    unit: Literal["um", "pixels"] = Field("um", description="pixels reproduces the windows of the released code")
    tile_um: Micrometres = Field(112.0, description="width of a tile: 224 px at 0.5 um/px, as in the training of UNI")
    stain: Literal["none", "macenko"] = Field("none", description="macenko: normalise the stains of every slide first")
    dense: Literal["auto"] | bool = Field(
        "auto",
        description="true: one pass over the slide, its map averaged per tile; auto: if that is known to lose nothing",
    )
    views: Literal[1, 2, 4, 8, 12] = Field(
        1, description="views of a site's own tile to average over; 12: 11 more passes per site, shared by no other"
    )
    batch: int = Field(64, ge=1, description="tiles per forward pass on a GPU; halved when its memory is exhausted")

    @model_validator(mode="after")
    def _dense_has_no_views(self) -> Self:
        if self.dense is True and self.views > 1:
            raise ValueError(
                "tiles.views should be 1 with tiles.dense=true, whose features are cut from one map of the slide; "
                f"found {self.views}: set tiles.views=1, or tiles.dense=false"
            )
        return self


class ComputeSettings(_Settings):
    """Device and precision."""

    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    precision: Literal["auto", "float32", "bf16"] = Field(
        "auto", description="auto: bf16 on CUDA, for the backbone also on CPUs that have it; else float32"
    )
    compile: bool = Field(
        False, description="torch.compile of the backbone: slow start, then faster; needs a C++ compiler"
    )
    threads: int = Field(0, ge=0, description="CPU threads; 0: OMP_NUM_THREADS, else all cores; one for training")


class NetworkSettings(_Settings):
    """Size of the SpaMCAF network and its parts."""

    width: int = Field(64, ge=8, description="width of every token")
    heads: int = Field(4, ge=1, description="attention heads of encoders and cross-attention")
    depth: int = Field(1, ge=1, description="transformer blocks of each encoder")
    dropout: Share = Field(0.4, description="dropout inside the blocks")
    n_summary: int = Field(8, ge=1, description="learned summary tokens of the whole section (global branch)")
    image_components: int = Field(64, ge=2, description="principal components kept of the backbone's features")
    n_context: int = Field(12, ge=0, description="nearest visible spots given as context; 0: none, an ablation")
    one_token: bool = Field(
        False, description="true: one pooled key per branch, as published (the query then has no effect); an ablation"
    )

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width should be a multiple of heads ({self.heads}), found {self.width}")
        return self


class FitSettings(_Settings):
    """Training; all but `model` are of spamcaf only."""

    model: Literal["spamcaf", "released"] = Field(
        "spamcaf", description="released: network and schedule of the released code, for comparison"
    )
    use_network: bool = Field(True, description="false: the Gaussian process alone, an ablation")
    n_programs: int = Field(16, ge=1, description="most gene programs; those within the noise are dropped")
    n_gene_processes: int = Field(200, ge=0, description="most variable genes with a process of their own beside")
    epochs: int = Field(40, ge=1, description="passes over the visible spots, per fold")
    batch: int = Field(128, ge=2, description="spots per step")
    learning_rate: float = Field(2e-3, gt=0, description="peak of AdamW's schedule: linear warm-up, then cosine")
    finetune: int = Field(0, ge=0, description="last blocks of the backbone that are trained with the network")
    finetune_epochs: int = Field(10, ge=1, description="last epochs, in which they are trained")
    finetune_rate: Share = Field(0.5, description="their learning rate, a share of the network's")
    weight_decay: float = Field(0.05, ge=0, description="weight decay of AdamW")
    warmup_share: Share = Field(0.1, description="share of the steps in the warm-up")
    clip_norm: float = Field(1.0, gt=0, description="largest gradient norm; larger ones are clipped")
    pearson_weight: float = Field(0.5, ge=0, description="loss weight of 1 - Pearson; the squared error has 1")
    branch_weights: tuple[float, float, float, float] = Field(
        (1.0, 1.0, 1.0, 1.0), description="loss weights of target, neighbour, global branch and fusion (not published)"
    )
    context_dropout: Share = Field(0.5, description="share of context spots dropped at random in a training step")
    transfer_step_share: Share = Field(0.15, description="share of training steps without context and positions")
    section_sample: int = Field(512, ge=2, description="spots of the section in the global branch, per step")
    max_exact_spots: int = Field(5000, ge=1, description="above: Vecchia approximation of the spatial kernels")
    max_hyper_spots: int = Field(800, ge=20, description="most spots on which kernel weights are fitted")

    @model_validator(mode="before")
    @classmethod
    def _take_old_names(cls, values: Any) -> Any:  # noqa: ANN401  whatever pydantic is given
        return rename_deprecated("fit", values, set()) if isinstance(values, Mapping) else values

    @model_validator(mode="after")
    def _need_network(self) -> Self:
        if self.finetune and not (self.use_network and self.model == "spamcaf"):
            raise ValueError("finetune trains blocks with the network of spamcaf: use_network=true, or finetune=0")
        return self


class ReleasedSettings(_Settings):
    """Training of `released`: the schedule of the released code."""

    epochs: int = Field(1000, ge=1, description="passes over the visible spots, without early stopping")
    chunk: int = Field(50, ge=3, description="spots per step, in file order, never shuffled: they share a batch norm")
    learning_rate: float = Field(1e-3, gt=0, description="peak of Adam's schedule")
    checkpoint_epochs: int = Field(100, ge=1, description="epochs between checkpoints, from which a fit resumes")
    warmup_epochs: int = Field(5, ge=0, description="epochs of linear warm-up, before the cosine down to 0")


class TransferSettings(_Settings):
    """A section of which there is only the image."""

    mpp: Annotated[float, Field(gt=0, le=5)] | None = Field(None, description="um per pixel, where the image has none")
    pitch_um: Micrometres = Field(100.0, description="distance of the predicted sites")


class InferenceSettings(_Settings):
    """Draws from the posterior, written as layers beside the prediction."""

    n_draws: int = Field(0, ge=0, le=1000, description="maps that vary as measurements do; each is as large as the map")
    draw_noise: Literal["none", "gene", "counts"] = Field(
        "counts",
        description="counts: as measured; gene: normal noise of each gene; none: without a measurement's noise",
    )


MODEL_GROUPS = {"all": COMPARED_MODELS, "peers": PEERS}
"""What may stand for several names in `evaluation.models`."""


def _as_models(value: object) -> object:
    """Return names of models as a list without repeats; ValueError for an unknown one, with the nearest name."""
    given = re.split(r"[\s,;+]+", value.strip(" ,;+")) if isinstance(value, str) else value
    if not isinstance(given, list | tuple):
        return given
    names: list[str] = []
    for name in map(str, filter(None, given)):
        if name not in (*MODEL_GROUPS, *COMPARED_MODELS):
            near = get_close_matches(name.lower().replace("-", "_"), [*MODEL_GROUPS, *COMPARED_MODELS], 1)
            hint = f" Did you mean {near[0]}?" if near else ""
            raise ValueError(
                f"models should be of {', '.join([*COMPARED_MODELS, *MODEL_GROUPS])}; found '{name}'.{hint}"
            )
        names += MODEL_GROUPS.get(name, (name,))
    return list(dict.fromkeys(map(str, names)))


class EvaluationSettings(_Settings):
    """What stands beside the model in the score table, and what is scored beside the panel as a whole."""

    models: Annotated[list[str], BeforeValidator(_as_models), Field(min_length=1)] = Field(
        [
            *map(str, (Model.GENE_MEAN, Model.IDW, Model.KRIGING, Model.RIDGE, Model.KRIGING_RIDGE_PROGRAMS)),
            str(Model.DEPTH_ONLY),
        ],
        description="baselines and peers that stand beside the model, joined by + on a command line; or peers, or all",
    )

    gene_sets: dict[str, GeneNames] = Field(
        {}, description="your own, by name: symbols or Ensembl ids, or the path of a .txt, .csv or .tsv file of them"
    )
    domains: bool = Field(True, description="compare clusters of the spots with their labels, where there are labels")
    domain_seeds: int = Field(20, ge=2, description="seeds of each clustering, reported as mean and spread")

    @model_validator(mode="after")
    def _own_names(self) -> Self:
        if taken := sorted(self.gene_sets.keys() & GENE_SETS.keys()):
            raise ValueError(f"gene_sets should have other names than {', '.join(GENE_SETS)}, found {taken[0]}")
        return self


def _as_list(names: object) -> object:
    return [part for part in re.split(r"[+\s]+", names) if part] if isinstance(names, str) else names


def _as_numbers(masks: object) -> object:
    """Return the numbers of a text such as 0-4 or 0-2+7."""
    if not isinstance(masks, str):
        return [masks] if isinstance(masks, int) else masks
    ranges = [re.fullmatch(r"(\d+)(?:-(\d+))?", part) for part in re.split(r"[+\s]+", masks.strip())]
    if not all(ranges):
        raise ValueError("masks should be numbers such as 0-4 or 0+2+5")
    bounds = [(int(part[1]), int(part[2] or part[1])) for part in ranges if part]
    if any(last - first >= MAX_MASKS for first, last in bounds):
        raise ValueError(f"masks should be at most {MAX_MASKS}")
    return [n for first, last in bounds for n in range(first, last + 1)]


class BenchmarkSettings(_Settings):
    """The pipeline benchmark; on a command line: --params sections=C2+C3,masks=0-4,protocols=random+block."""

    sections: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        [], description="names of sections; none: the section of the run"
    )
    masks: Annotated[list[Annotated[int, Field(ge=0)]], BeforeValidator(_as_numbers), Field(min_length=1)] = Field(
        [0, 1, 2, 3, 4], description="numbers of split.mask: a list, or a text such as 0-4 or 0+2+5"
    )
    protocols: Annotated[list[Protocol], BeforeValidator(_as_list), Field(min_length=1)] = Field(
        ["random"], description="values of split.protocol"
    )
    n_bootstrap: int = Field(2000, ge=100, description="resamples of genes and masks, from which intervals are taken")

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named: dict[str, list[Any]] = {"sections": self.sections, "masks": self.masks, "protocols": self.protocols}
        for name, values in named.items():
            if len(set(values)) < len(values):
                raise ValueError(f"{name} should be named once each, found {values}")
        return self


class ReportSettings(_Settings):
    """Genes in figures and in the export for QuPath."""

    genes: GeneNames = Field([], description="symbols or Ensembl ids that come first, where the panel has them")
    n_genes: int = Field(6, ge=1, le=20, description="genes in all; then the best or most variable ones")
    max_polygons: int = Field(50_000, ge=0, description="most sites in the export for QuPath; of more, it holds none")


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
    inference: InferenceSettings = InferenceSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    report: ReportSettings = ReportSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()

    @model_validator(mode="after")
    def _finetune_tile_by_tile(self) -> Self:
        if self.fit.finetune and (self.tiles.dense is True or self.compute.compile):
            raise ValueError("fit.finetune should be 0 with tiles.dense=true or compute.compile")
        return self


def flat_settings(settings: Mapping[str, Any], *, with_neutral: bool = False) -> dict[str, Any]:
    """Return groups of settings, models or mappings, as plain values by dotted name; neutral ones where asked for."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        group = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        is_group = isinstance(group, Mapping)
        flat |= {f"{name}.{key}": item for key, item in group.items()} if is_group else {name: group}
    return {name: value for name, value in flat.items() if with_neutral or name not in NEUTRAL_SETTINGS}


_LONG = 60  # characters of a setting whose description stands in a line above


def settings_as_yaml() -> str:
    """Return conf/base/parameters.yml: every setting with its default, and its description as a comment."""
    lines = [
        "# Every setting of a run, with its default. An environment's parameters.yml overrides single ones,",
        "# and so does the command line: kedro run --params fit.epochs=20,panel.n_genes=500",
        "# Written by `python -m spamcaf.parameters` from src/spamcaf/parameters.py.",
        "",
    ]
    for name, value in RunSettings():
        if not isinstance(value, BaseModel):
            lines.append(f"{name}: {value}  # {RunSettings.model_fields[name].description}")
            continue
        shown = {key: f"  {key}: " + json.dumps(default).replace('"', "") for key, default in value}
        width = max(len(text) for text in shown.values() if len(text) <= _LONG)
        lines += ["", f"# {value.__doc__}", f"{name}:"]
        for key, text in shown.items():
            description = f"# {type(value).model_fields[key].description}"
            lines += [f"  {description}", text] if len(text) > _LONG else [f"{text:<{width}}  {description}"]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(settings_as_yaml(), end="")  # noqa: T201
