"""Runs of other sections and settings inside a run: each makes what is missing or out of date of a result."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.stored import ReadOnlyDataset
from spamcaf.names import CHAIN
from spamcaf.origins import Origins, settings_in

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.pipeline import Pipeline


class Sessions:
    """The project and the options of a run, from which others of it are made that differ in a few.

    Attributes
    ----------
    section, run
        Their names in this run.
    """

    def __init__(self, context: KedroContext) -> None:
        loader: Any = context.config_loader
        self._project, self._env, self._conf_source = Path(context.project_path), context.env, loader.conf_source
        self._params = {name: value for name, value in (loader.runtime_params or {}).items() if name != "benchmark"}
        chosen = {**loader["globals"], **loader["parameters"]}
        self.section, self.run = str(chosen["section"]), str(chosen["run"])

    def make(self, name: str, choices: Mapping[str, Any]) -> tuple[Any, int]:
        """Return a result of the chain, and how many nodes were run for it: those whose results are missing or unfit.

        Parameters
        ----------
        name
            Of the dataset.
        choices
            Like `--params`: they replace those of this run.
        """
        from kedro.framework.project import pipelines
        from kedro.framework.session import KedroSession

        params = dict(self._params)
        for key, value in choices.items():
            params[key] = {**params.get(key, {}), **value} if isinstance(value, Mapping) else value
        pipelines.set_requested(list(CHAIN))
        session: Any = KedroSession.create(
            self._project, env=self._env, conf_source=self._conf_source, runtime_params=params
        )
        with session:
            catalog = session.load_context().catalog
            chain = sum((pipelines[each] for each in CHAIN), pipelines[CHAIN[0]])
            nodes = nodes_to_run(chain, [name], Origins(catalog))
            if nodes:
                session.run(pipeline_names=list(CHAIN), node_names=nodes)
            return catalog.load(name), len(nodes)


class SessionsDataset(ReadOnlyDataset):
    """Hand a node the means to make other runs; what it makes depends on all settings."""

    instead = "Sessions are read-only."
    shown = ()

    def __init__(self, context: KedroContext) -> None:
        super().__init__(filepath="")
        self._context = context

    def load(self) -> Sessions:
        """Return the means."""
        return Sessions(self._context)

    def origin(self) -> dict[str, Any]:
        """Return all settings."""
        return settings_in(self._context.config_loader["parameters"])


def nodes_to_run(pipeline: Pipeline, results: Iterable[str], origins: Origins) -> list[str]:
    """Return the names of the nodes that must run so that `results` are stored and fit the run."""
    writers = {name: node for node in pipeline.nodes for name in node.outputs}
    needed, wanted = [], list(results)
    while wanted:
        name = wanted.pop()
        node = writers.get(name)
        if node is not None and node.name not in needed and not origins.is_made(name):
            needed.append(node.name)
            wanted += node.inputs
    return needed
