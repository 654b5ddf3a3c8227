"""What a run will need is looked for before its first node: files, stored results, models, backbone, named genes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from kedro.framework.hooks import hook_impl
from kedro.io import DatasetError

from spamcaf.datasets.stored import PathDataset, not_stored
from spamcaf.errors import InputError, options_of
from spamcaf.names import CHAIN
from spamcaf.readers.files import named

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline

    from spamcaf.datasets.section import SectionDataset, SectionSlideDataset

RAW_SECTION, BACKBONE, OTHERS, SPOT_FEATURES = "raw_section", "backbone", "other_sections", "spot_features"
PLACES = ("section", "raw_root")  # choices that name where raw data lie


class InputGuard:
    """Looks for all inputs of a run before it works for hours; what cannot be had stops it."""

    def __init__(self) -> None:
        self._genes: list[str] = []
        self._options = self._fetch = ""
        self._is_tracked = False

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Keep the options of the run."""
        loader: Any = context.config_loader
        self._genes = (loader["parameters"].get("panel") or {}).get("genes") or []
        self._options = options_of(context.env, loader.runtime_params)
        places = options_of(context.env, loader.runtime_params, PLACES)
        self._is_tracked = bool(loader["globals"].get("mlflow"))
        can_fetch = bool(loader["globals"].get("downloads"))
        self._fetch = f" Or fetch it: `kedro run --pipelines download{places}`." if can_fetch else ""

    @hook_impl(tryfirst=True)
    def before_pipeline_run(self, run_params: dict[str, Any], pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Look for them, those first that take no time; raise InputError for the first that cannot be had."""
        from spamcaf.datasets.inputs import BackboneDataset, OtherSectionsDataset, ReferencesDataset
        from spamcaf.datasets.model import AppliedModelDataset
        from spamcaf.datasets.section import SimulatedOutsDataset

        if self._is_tracked and not find_spec("mlflow"):
            raise InputError(
                "`mlflow` in globals.yml, but no package mlflow.",
                "MLflow, which tracks the runs of this environment.",
                "pip install 'spamcaf[mlflow]' (in the source tree: pip install -e '.[mlflow]'), or remove the entry.",
            )
        inputs = {name: catalog.get(name) for name in pipeline.inputs() if name in catalog}
        is_partial = bool(run_params.get("only_missing_outputs"))
        for name in pipeline.all_outputs():
            if isinstance(outs := catalog.get(name) if name in catalog else None, SimulatedOutsDataset):
                outs.require_free()
        # what looks into raw folders comes last
        for name, dataset in sorted(inputs.items(), key=lambda item: isinstance(item[1], _raw_types())):
            if isinstance(dataset, AppliedModelDataset):
                dataset.require()
            elif isinstance(dataset, ReferencesDataset):
                dataset.find()
            elif isinstance(dataset, OtherSectionsDataset):
                users = [node for node in pipeline.nodes if name in node.inputs]
                dataset.load().require(with_features=any(SPOT_FEATURES in node.inputs for node in users))
            elif isinstance(dataset, _raw_types()) and not is_partial:
                with self._or_fetched():
                    dataset.require()
        if not is_partial:
            self._require_stored(pipeline, catalog)
        features = [name for node in pipeline.nodes if BACKBONE in node.inputs for name in node.outputs]
        backbone, is_embedded = inputs.get(BACKBONE), is_partial and all(_exists(catalog, name) for name in features)
        if isinstance(backbone, BackboneDataset) and not (is_embedded or backbone.is_blind):
            from spamcaf.backbones.weights import TIMEOUT_S

            backbone.probe(TIMEOUT_S)
        self._require_genes(inputs.get(RAW_SECTION), pipeline)

    @contextmanager
    def _or_fetched(self) -> Iterator[None]:
        try:
            yield
        except InputError as error:
            error.args = (f"{error}{self._fetch}",)
            raise

    def _require_stored(self, pipeline: Pipeline, catalog: CatalogProtocol) -> None:
        """Raise InputError where results of earlier pipelines are missing, with the command that makes them."""
        datasets = {name: catalog.get(name) for name in sorted(pipeline.inputs()) if name in catalog}
        missing = {
            name: dataset.path
            for name, dataset in datasets.items()
            if isinstance(dataset, PathDataset) and dataset.is_result and not dataset.path.exists()
        }
        if not missing:
            return
        writers = [name for name in CHAIN if missing.keys() & _outputs_of(name)]
        first = next(iter(missing.values()))
        if not writers or (first.parents[1] / first.name).exists():  # of an earlier version
            raise not_stored(first)
        raise InputError(
            f"no stored {named(missing)} (such as {first}).",
            f"results of {' and '.join(writers)}, with the same settings.",
            f"Make them first: kedro run --pipelines {','.join(writers)}{self._options}.",
        )

    def _require_genes(self, raw: object, pipeline: Pipeline) -> None:
        """Raise InputError for genes of the panel that the section does not have: its counts are read only for that."""
        if not self._genes or "gene_panel" not in pipeline.all_outputs():
            return
        from spamcaf.datasets.section import SectionDataset
        from spamcaf.sections.panel import require_genes

        if isinstance(raw, SectionDataset):
            require_genes(raw.load().var, self._genes)


def _raw_types() -> tuple[type[SectionDataset], type[SectionSlideDataset]]:
    from spamcaf.datasets.section import SectionDataset, SectionSlideDataset

    return SectionDataset, SectionSlideDataset


def _outputs_of(name: str) -> set[str]:
    pipeline: Pipeline = import_module(f"spamcaf.pipelines.{name}").create_pipeline()
    return set(pipeline.all_outputs())


def _exists(catalog: CatalogProtocol, name: str) -> bool:
    try:
        return bool(catalog.exists(name))  # type: ignore[attr-defined]
    except DatasetError:
        return False
