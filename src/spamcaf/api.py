"""SpaMCAF without Kedro: embed a section, fit, predict between its spots, and score, on objects in memory.

Each function calls the nodes of the pipelines in their order, so the results are those of `kedro run` with the same
settings. Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from kedro.io import DatasetError

from spamcaf.config_loader import PACKED
from spamcaf.datasets.inputs import BackboneDataset, OtherSections, References
from spamcaf.errors import InputError
from spamcaf.histology.features import Features, join_blocks
from spamcaf.histology.slide import Slide
from spamcaf.hooks import check_settings
from spamcaf.names import SECTION_METADATA, SectionField
from spamcaf.parameters import RunSettings
from spamcaf.pipelines.evaluation import nodes as evaluation
from spamcaf.pipelines.feature_extraction import nodes as feature_extraction
from spamcaf.pipelines.inference import nodes as inference
from spamcaf.pipelines.ingestion import nodes as ingestion
from spamcaf.pipelines.training import nodes as training
from spamcaf.provenance import as_plain
from spamcaf.readers.anndata_parts import table_of
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


@dataclass(frozen=True)
class SectionFeatures:
    """A section that was checked against its image, and what the backbone sees at its spots; `embed` makes it."""

    section: AnnData  # raw counts of the spots that are used, with lattice and scale
    slide: Slide
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


def embed(
    slide: str | Path | Slide,
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
    slide : path or Slide
        The full-resolution H&E image.
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
    network = _load_backbone(backbone, backbone_source)  # before anything that takes long
    slide = slide if isinstance(slide, Slide) else open_slide(Path(slide).expanduser())
    section, _ = ingestion.check_section(_raw(adata, name), slide, chosen.section_checks, chosen.tissue)
    tissue = ingestion.find_tissue(section, slide, chosen.tissue)
    seen, how = (section, slide, tissue, network), (chosen.tiles, chosen.compute, chosen.fit.model, chosen.fit.finetune)
    slide_map = join_blocks(list(feature_extraction.embed_slide(*seen, [], *how)))
    spots = join_blocks(list(feature_extraction.embed_spots(*seen, slide_map, [], *how)))
    return SectionFeatures(section, slide, tissue, network, slide_map, spots, chosen)


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
    if slide is not None and not isinstance(slide, Slide):
        slide = open_slide(Path(slide).expanduser())
    if slide is not None and slide.fingerprint != features.slide.fingerprint:
        raise InputError(
            f"another image ({slide.name}) than features were computed of ({features.slide.name}).",
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
    for name, value in (changed or {}).items():
        *parents, last = name.split(".")
        group = groups
        for parent in parents:
            group = group.setdefault(parent, {})
        group[last] = value
    return check_settings(groups)


def _load_backbone(name: str, source: str | None) -> Backbone:
    entries = yaml.safe_load((PACKED / "base" / "globals.yml").read_text())["backbones"]
    try:
        return BackboneDataset(name=name, backbones=entries, source=source).load()
    except DatasetError as error:  # Kedro's wrapping of what a data set raises
        raise InputError.within(error) or error from error


def _raw(adata: AnnData, name: str) -> AnnData:
    section = section_of(table_of(adata, "the AnnData"), name)
    section.uns[SECTION_METADATA][SectionField.LAYOUT.value] = H5adReader.kind
    return section


def _require_spots(adata: AnnData, features: SectionFeatures) -> None:
    missing = features.section.obs_names.difference(adata.obs_names)
    if len(missing):
        raise InputError(
            f"an AnnData without {len(missing)} of the {features.section.n_obs} embedded spots, such as {missing[0]}.",
            "the section that was embedded.",
            "Pass the same spots, or embed again.",
        )


def _prepare(adata: AnnData, features: SectionFeatures, settings: RunSettings) -> tuple[AnnData, pd.DataFrame]:
    """Return normalised expression of the panel, and the split of the spots; counts are those that `adata` holds."""
    _require_spots(adata, features)
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
