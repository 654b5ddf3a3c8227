"""SpaMCAF without Kedro: embed a section, fit, predict between its spots, and score, on objects in memory.

Each function calls the nodes of the pipelines in their order, so the results are those of `kedro run` with the same
settings. Nothing is stored.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
import yaml
from kedro.io import DatasetError

from spamcaf.config_loader import PACKED
from spamcaf.datasets.inputs import BackboneDataset, OtherSections, References
from spamcaf.errors import InputError, is_section_name
from spamcaf.histology.features import Features, join_blocks
from spamcaf.histology.slide import Slide
from spamcaf.hooks import check_settings
from spamcaf.names import NO_IMAGE, SECTION_METADATA, SPATIAL, SectionField
from spamcaf.parameters import RUN_CHOICES, RunSettings
from spamcaf.pipelines.evaluation import nodes as evaluation
from spamcaf.pipelines.feature_extraction import nodes as feature_extraction
from spamcaf.pipelines.inference import nodes as inference
from spamcaf.pipelines.ingestion import nodes as ingestion
from spamcaf.pipelines.training import nodes as training
from spamcaf.provenance import as_plain
from spamcaf.readers.anndata_parts import Table, choose_library, stated_coordinates, table_of
from spamcaf.readers.h5ad import H5adReader, section_of
from spamcaf.slides.open import open_slide

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from spamcaf.histology.backbone import Backbone
    from spamcaf.histology.tissue import Tissue
    from spamcaf.model.training import Checkpoint
    from spamcaf.peers.models import TrainedModel

__all__ = ["FittedSection", "SectionFeatures", "embed", "evaluate", "fit", "super_resolve"]

NO_SECTIONS, NO_REFERENCES = OtherSections((), Path(), Path()), References({})
OPTION = r"\w+(?:\.\w+)?=(?:<[^>]*>|[\w.-]*\w)"
PARAMS = re.compile(rf"--params ({OPTION}(?:,{OPTION})*)")
ARGUMENTS = {"image": "slide", "section": "name"}
"""Of `embed`, by the choices of a command line that are called otherwise there."""
MAX_MOVED_PX = 0.5  # of a spot, between two calls: coordinates may have been rounded

Given = ParamSpec("Given")
Returned = TypeVar("Returned")


def _with_own_words(function: Callable[Given, Returned]) -> Callable[Given, Returned]:
    """Return `function` with errors that name its arguments and settings instead of a command line's `--params`."""

    @functools.wraps(function)
    def wrapped(*args: Given.args, **kwargs: Given.kwargs) -> Returned:
        try:
            return function(*args, **kwargs)
        except InputError as error:
            message = str(error).replace("parameters.yml or in --params", "`settings`")
            message = message.replace(f", {', '.join(RUN_CHOICES)}", "")
            error.args = (PARAMS.sub(_as_argument, message),)
            raise

    return wrapped


def _as_argument(options: re.Match[str]) -> str:
    chosen = [option.partition("=") for option in re.findall(OPTION, options[1])]
    values = {name: {"true": "True", "false": "False"}.get(value, value) for name, _, value in chosen}
    settings = ", ".join(f'"{name}": {value}' for name, value in values.items() if "." in name)
    words = [f"{ARGUMENTS.get(name, name)}={value}" for name, value in values.items() if "." not in name]
    return ", ".join(words + [f"settings={{{settings}}}"] * bool(settings))


@dataclass(frozen=True)
class SectionFeatures:
    """A section that was checked against its image, and what the backbone sees at its spots; `embed` makes it."""

    section: AnnData  # raw counts of the spots that are used, with lattice and scale
    slide: Slide | None  # None without an image
    tissue: Tissue
    backbone: Backbone
    slide_map: Features  # of the whole slide, from which sites between the spots are averaged; empty if tile by tile
    spots: Features
    settings: RunSettings


@dataclass(frozen=True)
class FittedSection:
    """A model that was fitted to all spots of a section, with the data that it predicts from; `fit` makes it."""

    model: TrainedModel
    features: SectionFeatures
    expression: AnnData  # log1p of counts per 10 000 of the predicted genes, all spots
    settings: RunSettings


@_with_own_words
def embed(
    slide: str | Path | Slide | None,
    adata: AnnData,
    backbone: str = "efficientnet_lite0",
    *,
    backbone_source: str | None = None,
    name: str = "section",
    settings: Mapping[str, Any] | None = None,
) -> SectionFeatures:
    """Check that spots and image belong together, and compute image features at every spot.

    Parameters
    ----------
    slide : path, Slide or None
        The full-resolution H&E image; None to predict from coordinates and counts alone, without a backbone.
    adata : AnnData
        Raw counts (spot, gene) in X, `layers["counts"]` or `raw`, and `obsm["spatial"]` with x and y in pixels of the
        image. `array_row` and `array_col` of obs, and `uns["spatial"]` as scanpy reads it from Space Ranger, are used.
    backbone : str
        A name of `backbones` in conf/base/globals.yml, such as uni; or of a pretrained timm model.
    backbone_source : str, optional
        Folder or file of its weights, where they are not to be fetched.
    name : str
        Of the section, for results; of a library, where `adata` holds several.
    settings : mapping, optional
        Settings of conf/base/parameters.yml by dotted name, such as {"tiles.tile_um": 112, "compute.device": "cpu"}.
        Functions that are given the result use them, too.

    Raises
    ------
    InputError
        Where image and spots do not belong together, a setting is wrong, or the backbone cannot be had.
    """
    chosen = _settings(RunSettings(), settings)
    if not is_section_name(name):
        expected = "letters, digits, '_', '-' and '.', since results are called so."
        raise InputError(f"the section name '{name}'.", expected, "Choose another: name=<name>.")
    slide = _open(slide)
    network = _load_backbone(backbone, backbone_source, slide)  # before anything that takes long
    section, _ = ingestion.check_section(_raw(adata, name), slide, chosen.section_checks, chosen.tissue)
    tissue = ingestion.find_tissue(section, slide, chosen.tissue)
    seen, how = (section, slide, tissue, network), (chosen.tiles, chosen.compute, chosen.fit.model, chosen.fit.finetune)
    slide_map = join_blocks(list(feature_extraction.embed_slide(*seen, [], *how)))
    spots = join_blocks(list(feature_extraction.embed_spots(*seen, slide_map, [], *how)))
    return SectionFeatures(section, slide, tissue, network, slide_map, spots, chosen)


@_with_own_words
def fit(adata: AnnData, features: SectionFeatures, *, settings: Mapping[str, Any] | None = None) -> FittedSection:
    """Fit SpaMCAF to all spots of a section, for a map between them.

    Parameters
    ----------
    adata : AnnData
        The section, with the spots that `embed` was given.
    features : SectionFeatures
    settings : mapping, optional
        As for `embed`, for instance {"panel.genes": ["ERBB2", "CD74"], "fit.epochs": 20}; those of image and tiles are
        taken from `features`.

    Raises
    ------
    InputError
        Where `adata` lacks spots of `features`, or a setting is wrong.
    """
    chosen = _settings(features.settings, settings)
    expression, split = _prepare(adata, features, chosen)
    model = training.fit_on_all_spots(expression, split, *_training(features, chosen))
    return FittedSection(model, features, expression, chosen)


@_with_own_words
def super_resolve(
    model: FittedSection,
    adata: AnnData,
    slide: str | Path | Slide | None = None,
    *,
    subdivide: int | None = None,
    settings: Mapping[str, Any] | None = None,
) -> AnnData:
    """Predict expression at sites between the spots.

    Parameters
    ----------
    model : FittedSection
    adata : AnnData
        The section that the model was fitted to: its spots are the context of every site.
    slide : path or Slide, optional
        Its image; by default the one that `embed` opened.
    subdivide : int, optional
        k: the lattice of the spots divided k times gives k x k sites per spot. By default `grid.subdivide`.
    settings : mapping, optional
        As for `embed`, for instance {"grid.pitch_um": 8}.

    Returns
    -------
    AnnData
        A row per site, the spots among them (`obs["sub_index"]` 0): X log1p of counts per 10 000, `layers["sd"]` the
        standard deviation of a measurement there, `obsm["spatial"]` in pixels, `uns["spatial"]` with the image.

    Raises
    ------
    InputError
        Where section or image are not those of the model.
    """
    own = dict(settings or {}) | ({} if subdivide is None else {"grid.subdivide": subdivide})
    chosen, features = _settings(model.settings, own), model.features
    slide, own_slide = _open(slide), features.slide
    if slide is not None and (own_slide is None or slide.fingerprint != own_slide.fingerprint):
        raise InputError(
            f"another image ({slide.name}) than features were computed of ({own_slide.name if own_slide else 'none'}).",
            "the image of the fitted section.",
            "Embed and fit the section of this image first.",
        )
    _require_spots(adata, features)
    grid = ingestion.lay_grid(features.section, features.tissue, chosen.grid)
    seen = (grid, features.section, features.slide, features.tissue, features.backbone, features.slide_map)
    how = (chosen.tiles, chosen.compute, chosen.fit.model, chosen.fit.finetune)
    sites = join_blocks(list(feature_extraction.embed_grid(*seen, [], *how)))
    data = (model.expression, features.spots, sites, grid, features.section, features.tissue)
    return inference.predict_grid(model.model, *data, chosen.grid, *_inference(features, chosen))


@_with_own_words
def evaluate(adata: AnnData, features: SectionFeatures, *, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Hide a part of the spots, predict them with SpaMCAF and with baselines, and score all on the same hidden spots.

    Parameters
    ----------
    adata, features
        As for `fit`.
    settings : mapping, optional
        As for `embed`, for instance {"split.protocol": "block", "evaluation.models": ["kriging", "bleep"]}.

    Returns
    -------
    dict
        The content of scores.json: under `models` the scores of each model by name, such as `pcc_mean`.
    """
    chosen = _settings(features.settings, settings)
    expression, split = _prepare(adata, features, chosen)
    model, _, _ = training.fit_spamcaf(expression, split, *_training(features, chosen))
    spots = (expression, split, features.spots)
    recovered = inference.predict_hidden_spots(
        model, *spots, features.section, features.tissue, *_inference(features, chosen)
    )
    evaluated = (chosen.evaluation, chosen.compute, chosen.seed)
    baselines = evaluation.fit_baselines(*spots, NO_SECTIONS, lambda: features.slide, chosen.tiles, *evaluated)
    scored = (recovered, baselines, expression, split, chosen.split, chosen.seed, chosen.evaluation)
    _, scores = evaluation.score_predictions(*scored)
    return scores


def _settings(base: RunSettings, changed: Mapping[str, Any] | None) -> RunSettings:
    """Return `base` with settings changed by dotted name; raise InputError for one that is unknown or wrong."""
    groups = as_plain(dict(base))
    if not isinstance(changed, Mapping | None) or any(not isinstance(name, str) for name in changed or {}):
        expected = "a mapping of settings by name."
        raise InputError(f"settings={changed!r}.", expected, 'Pass them as {"fit.epochs": 20}.')
    for name, value in (changed or {}).items():
        if name in RUN_CHOICES:
            found, expected = f"'{name}' among the settings.", "settings of conf/base/parameters.yml."
            raise InputError(found, expected, "Pass it as an argument, where `spamcaf.embed` has it.")
        *parents, last = name.split(".")
        nested = {last: value}
        for parent in reversed(parents):
            nested = {parent: nested}
        groups = _merged(groups, nested)
    return check_settings(groups)


def _merged(groups: Mapping[str, Any], changed: Mapping[str, Any]) -> dict[str, Any]:
    both = {k: _merged(groups[k], v) for k, v in changed.items() if _are_groups(groups.get(k), v)}
    return {**groups, **changed, **both}


def _are_groups(*values: object) -> bool:
    return all(isinstance(value, Mapping) for value in values)


def _open(slide: object) -> Slide | None:
    """Return an image that is given as a path, opened; raise InputError where it is no image."""
    if isinstance(slide, str | Path):
        return open_slide(Path(slide).expanduser())
    if slide is None or isinstance(slide, Slide):
        return slide
    found, expected = f"a {type(slide).__name__} in place of the image.", "the path of the full-resolution H&E image."
    raise InputError(found, expected, 'Store an array as a TIFF, and pass its path: spamcaf.embed("image.tif", adata).')


def _load_backbone(name: str, source: str | None, slide: Slide | None) -> Backbone:
    entries = yaml.safe_load((PACKED / "base" / "globals.yml").read_text())["backbones"]
    image = NO_IMAGE if slide is None else None
    try:
        return BackboneDataset(name=name, backbones=entries, source=source, image=image).load()
    except DatasetError as error:  # Kedro's wrapping of what a data set raises
        raise InputError.within(error) or error from error


def _raw(adata: AnnData, name: str) -> AnnData:
    section = section_of(_table(adata), name)
    section.uns[SECTION_METADATA][SectionField.LAYOUT.value] = H5adReader.kind
    return section


def _table(adata: object) -> Table:
    from anndata import AnnData

    if not isinstance(adata, AnnData):
        expected = "an AnnData with raw counts and obsm['spatial']."
        raise InputError(f"a {type(adata).__name__} in place of the section.", expected, "Read it: anndata.read_h5ad.")
    return table_of(adata, "the AnnData")


def _require_spots(adata: AnnData, features: SectionFeatures) -> None:
    """Raise InputError unless the spots of `features` are in `adata`, where they were: barcodes are not unique."""
    table, section = _table(adata), features.section
    name = str(section.uns[SECTION_METADATA][SectionField.NAME])
    of_section, _ = choose_library(table.obs, table.uns, name, table.source)
    obs = table.obs[of_section]
    next_step = "Pass the same spots, or embed again."
    missing = section.obs_names.difference(obs.index)
    if len(missing):
        found = f"an AnnData without {len(missing)} of the {section.n_obs} embedded spots, such as {missing[0]}."
        raise InputError(found, "the section that was embedded.", next_step)
    xy = stated_coordinates(obs, {key: value[of_section] for key, value in table.obsm.items()}, table.source)
    rows = obs.index.get_indexer_for(section.obs_names)
    moved = len(rows) != section.n_obs or np.abs(xy[rows] - np.asarray(section.obsm[SPATIAL])).max() > MAX_MOVED_PX
    if moved:
        found = "an AnnData whose spots have the names of the embedded ones, and other coordinates."
        raise InputError(found, "the section that was embedded.", next_step)


def _prepare(adata: AnnData, features: SectionFeatures, settings: RunSettings) -> tuple[AnnData, pd.DataFrame]:
    """Return normalised expression of the panel, and the split of the spots; counts are those that `adata` holds."""
    _require_spots(adata, features)
    if settings.split.protocol == "section":
        raise InputError(
            "split.protocol=section, which leaves no spot of this section to learn from.",
            "random, lattice or block.",
            "Choose one of them; `kedro run` learns from other sections.",
        )
    checked = features.section
    section = _raw(adata, str(checked.uns[SECTION_METADATA][SectionField.NAME]))[checked.obs_names].copy()
    section.obs, section.obsm, section.uns = checked.obs, checked.obsm, checked.uns
    split = ingestion.split_spots(section, settings.split, settings.tiles, settings.seed)
    panel, program_genes = ingestion.choose_gene_panel(section, split, NO_SECTIONS, settings.panel)
    return ingestion.normalise_expression(section, panel, program_genes), split


def _training(features: SectionFeatures, settings: RunSettings) -> tuple[Any, ...]:
    """Return the inputs of a training node behind expression and split."""
    data = (features.spots, NO_SECTIONS, NO_REFERENCES, _NoCheckpoints())
    learned = (settings.fit, settings.network, settings.released)
    return (*data, *learned, settings.compute, settings.seed, lambda: features.backbone)


def _inference(features: SectionFeatures, settings: RunSettings) -> tuple[Any, ...]:
    """Return the last inputs of a node that predicts."""
    return settings.compute, settings.inference, settings.seed, lambda: features.backbone


class _NoCheckpoints:
    """A store that keeps nothing."""

    def load(self, name: str, key: str) -> Checkpoint | None:
        return None

    def save(self, name: str, key: str, checkpoint: Checkpoint) -> None:
        pass

    def clear(self) -> None:
        pass
