"""Runs of other sections and settings inside a run: each makes what is missing or out of date of a result."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from spamcaf.datasets.stored import ReadOnlyDataset
from spamcaf.names import CHAIN
from spamcaf.origins import Origins

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext
    from kedro.io import CatalogProtocol
    from kedro.pipeline import Pipeline


@dataclass(frozen=True)
class Sessions:
    """The project and the options of a run, from which others of it are made that differ in a few.

    `section` and `run` are their names in this run, `params` what its command line gave.
    """

    project: Path
    env: str | None
    conf_source: str
    params: Mapping[str, Any]
    section: str
    run: str

    @classmethod
    def of(cls, context: KedroContext, chosen: Mapping[str, Any]) -> Self:
        """Return those of a context; `chosen` are its globals, replaced by its parameters."""
        loader: Any = context.config_loader
        params = {name: value for name, value in (loader.runtime_params or {}).items() if name != "benchmark"}
        names = str(chosen["section"]), str(chosen["run"])
        return cls(Path(context.project_path), context.env, str(loader.conf_source), params, *names)

    @contextmanager
    def opened(self, choices: Mapping[str, Any]) -> Iterator[Chain]:
        """Give the chain of a run with `choices`, which are like `--params` and replace those of this run."""
        from kedro.framework.project import pipelines
        from kedro.framework.session import KedroSession

        params = merged(self.params, choices)
        pipelines.set_requested(list(CHAIN))
        session: Any = KedroSession.create(
            self.project, env=self.env, conf_source=self.conf_source, runtime_params=params
        )
        with session:
            catalog = session.load_context().catalog
            yield Chain(session, catalog, sum((pipelines[each] for each in CHAIN), pipelines[CHAIN[0]]))

    def make(self, name: str, choices: Mapping[str, Any]) -> tuple[Any, int]:
        """Return a result of the chain, and how many nodes were run for it: those whose results are missing or unfit.

        Parameters
        ----------
        name
            Of the dataset.
        choices
            Like `--params`: they replace those of this run.
        """
        with self.opened(choices) as chain:
            return chain.make(name), chain.n_nodes


@dataclass
class Chain:
    """All pipelines of a run in one, in a session that may run once; `n_nodes` were run."""

    session: Any
    catalog: CatalogProtocol
    pipeline: Pipeline
    n_nodes: int = 0

    def run(self, results: Iterable[str]) -> None:
        """Run the nodes of those of `results` that are missing or do not fit the run."""
        if nodes := nodes_to_run(self.pipeline, results, Origins(self.catalog)):
            self.session.run(pipeline_names=list(CHAIN), node_names=nodes)
        self.n_nodes = len(nodes)

    def make(self, name: str) -> Any:  # noqa: ANN401  whatever the dataset holds
        """Return a result, made where it is missing or unfit."""
        self.run([name])
        return self.catalog.load(name)


def merged(params: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return `params` with `choices` in their place; of a group of settings only those named are replaced."""
    both = dict(params)
    for key, value in choices.items():
        both[key] = {**both.get(key, {}), **value} if isinstance(value, Mapping) else value
    return both


class SessionsDataset(ReadOnlyDataset):
    """Hand a node the means to make other runs; what it makes depends on all settings."""

    instead = "Sessions are read-only."
    shown = ()

    def __init__(self, sessions: Sessions, settings: dict[str, Any]) -> None:
        super().__init__(filepath="")
        self._sessions, self._settings = sessions, settings

    def load(self) -> Sessions:
        """Return the means."""
        return self._sessions

    def origin(self) -> dict[str, Any]:
        """Return all settings."""
        return self._settings


def nodes_to_run(pipeline: Pipeline, results: Iterable[str], origins: Origins) -> list[str]:
    """Return the names of the nodes that must run so that `results` are stored and fit the run."""
    writers = {name: node for node in pipeline.nodes for name in node.outputs}
    needed, wanted = [], list(results)
    while wanted:
        name = wanted.pop()
        node = writers.get(name)
        if node is None or node.name in needed:
            continue
        # a kill between two outputs of a node leaves the second as another run made it
        of_node = [name, *(other for other in node.outputs if origins.is_stored(other))]
        if not all(map(origins.is_made, of_node)):
            needed.append(node.name)
            wanted += node.inputs
    return needed
