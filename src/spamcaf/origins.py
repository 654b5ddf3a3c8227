"""What made a result: a record beside it, of all settings and inputs that it depends on, and whether it fits a run.

A record holds every setting of every node on the way to the result, by name, and a hash of every input that was read.
Two results fit each other, and a run, if no name in their records has two values.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError
from kedro.pipeline import Pipeline

from spamcaf.atomic import replacing
from spamcaf.datasets.stored import PathDataset, ReadOnlyDataset, read_record, record_path
from spamcaf.errors import InputError
from spamcaf.names import CHAIN
from spamcaf.parameters import RUN_CHOICES, RunSettings, flat_settings
from spamcaf.provenance import plain, provenance_record, without_home
from spamcaf.readers.files import named

if TYPE_CHECKING:
    from kedro.io import CatalogProtocol
    from kedro.pipeline.node import Node

MADE_WITH, PIPELINE, VERSION = "made_with", "pipeline", "package_version"
PARAMETERS, ONE = "parameters", "params:"
ROOTS = {
    "counts": "raw_section",
    "image": "slide",
    "backbone": "backbone",
    "backbone_weights": "backbone",
    "other_sections": "other_sections",
    "reference": "references",
}
"""Datasets by the names that their `origin` gives."""
NO_RECORD = "without a record of what made it, as an earlier version or an interrupted run leaves it"
MAX_NAMED = 4  # differences in a message
MAX_SHOWN = 60  # characters of a value in a message
UNKNOWN = object()


@dataclass(frozen=True)
class Misfit:
    """One value of a stored result that is not the one asked for; no `name` where the result has no record."""

    result: str
    pipeline: str
    name: str = ""
    stored: Any = None
    asked: Any = None


class Origins:
    """The records of a catalog's results, and the settings and inputs of the run that the catalog was made for."""

    def __init__(self, catalog: CatalogProtocol) -> None:
        self.catalog = catalog
        parameters = catalog.load(PARAMETERS) if PARAMETERS in catalog else {}
        self._asked: dict[str, Any] = settings_in(parameters)
        self._asked[VERSION] = provenance_record()[VERSION]
        self._looked_up: set[str] = set()

    def of_node(self, node: Node) -> dict[str, Any]:
        """Return the record of what a node makes of its inputs; raise InputError where two of them do not fit."""
        self.require(node.inputs)
        made_with: dict[str, Any] = {}
        for name in node.inputs:
            made_with |= self._setting(name) if name.startswith(ONE) else self._of(name)
        return provenance_record(pipeline=str(node.namespace or node.name), made_with=made_with)

    def require(self, names: Iterable[str]) -> None:
        """Raise InputError unless the stored results among `names` fit the run and each other."""
        if misfits := self.misfits(names):
            raise _error(misfits)

    def misfits(self, names: Iterable[str]) -> list[Misfit]:
        """Return what does not fit among the stored results `names`; one that is not there is none of them.

        Of inputs whose files are no longer there, only results are compared with each other.
        """
        found: list[Misfit] = []
        seen: dict[str, Any] = {}
        for result in names:
            dataset = self._dataset(result)
            if dataset is None or not dataset.is_result or not dataset.path.exists():
                continue
            record = read_record(dataset.path)
            if record is None or MADE_WITH not in record:
                found.append(Misfit(result, _writer_of(result)))
                continue
            for name, stored in {VERSION: record.get(VERSION), **record[MADE_WITH]}.items():
                asked = self._value(name)
                expected = seen.setdefault(name, stored) if asked is UNKNOWN else asked
                if stored != expected:
                    found.append(Misfit(result, str(record.get(PIPELINE)), name, stored, expected))
        return found

    def is_stored(self, name: str) -> bool:
        """Tell whether a result goes to the disk."""
        dataset = self._dataset(name)
        return dataset is not None and dataset.is_result

    def is_made(self, name: str) -> bool:
        """Tell whether a result is stored and fits the run."""
        dataset = self._dataset(name)
        return dataset is not None and dataset.is_result and dataset._exists() and not self.misfits([name])

    def names_of(self, names: Iterable[str]) -> set[str]:
        """Return the names of all settings and inputs that the datasets `names` depend on."""
        return set().union(*(self._if_there(name) for name in names))

    def _of(self, name: str) -> dict[str, Any]:
        dataset = self._dataset(name)
        if isinstance(dataset, ReadOnlyDataset):
            with _unlogged("spamcaf.readers"):  # nothing is read yet
                return plain(dataset.origin())  # type: ignore[no-any-return]
        record = read_record(dataset.path) if dataset is not None and dataset.is_result else None
        return record.get(MADE_WITH, {}) if record else {}

    def _if_there(self, name: str) -> dict[str, Any]:
        with suppress(InputError, DatasetError, OSError):  # raw data may have been removed since
            return self._of(name)
        return {}

    def _setting(self, name: str) -> dict[str, Any]:
        return _stated({name.removeprefix(ONE): self.catalog.load(name)})

    def _value(self, name: str) -> Any:  # noqa: ANN401  plain data of any kind
        root = ROOTS.get(name)
        if root is not None and root not in self._looked_up:
            self._looked_up.add(root)
            self._asked |= self._if_there(root)
        return self._asked.get(name, UNKNOWN)

    def _dataset(self, name: str) -> PathDataset[Any, Any] | None:
        dataset = self.catalog.get(name) if name in self.catalog else None
        return dataset if isinstance(dataset, PathDataset) else None


def write_record(dataset: PathDataset[Any, Any], record: Mapping[str, Any]) -> None:
    """Store the record beside a result that was just stored."""
    with replacing(record_path(dataset.path)) as temporary:
        temporary.write_text(json.dumps(plain(record), indent=1, sort_keys=True) + "\n", encoding="utf-8")


@contextmanager
def _unlogged(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def settings_in(parameters: Mapping[str, Any], *, with_neutral: bool = False) -> dict[str, Any]:
    """Return all settings by dotted name; those that Kedro's parameters lack have their defaults."""
    known = {name: value for name, value in parameters.items() if name not in RUN_CHOICES}
    return _stated(dict(RunSettings.model_validate(known)), with_neutral=with_neutral)


def _stated(settings: dict[str, Any], *, with_neutral: bool = False) -> dict[str, Any]:
    return without_home(flat_settings(settings, with_neutral=with_neutral))  # type: ignore[no-any-return]


def _writer_of(result: str) -> str:
    from kedro.framework.project import pipelines

    return next((name for name in CHAIN if result in pipelines.get(name, Pipeline([])).all_outputs()), "")


def _error(misfits: list[Misfit]) -> InputError:
    results: dict[str, list[str]] = {}  # by what differs
    for m in misfits:
        differs = f"{m.name}={_shown(m.stored)}, {_shown(m.asked)} in this run" if m.name else NO_RECORD
        results.setdefault(differs, []).append(m.result)
    found = [f"{named(names)} ({differs})" for differs, names in results.items()]
    more = f" and {len(found) - MAX_NAMED} more differences" if len(found) > MAX_NAMED else ""
    pipelines = [name for name in CHAIN if any(m.pipeline == name for m in misfits)]
    which = f"kedro run --pipelines {','.join(pipelines)}" if pipelines else "kedro run"
    can_keep = all(m.name and (m.name == "backbone" or m.name not in {VERSION, *ROOTS}) for m in misfits)
    can_keep = can_keep and all(_can_be_typed(m.stored) for m in misfits)
    kept = ",".join(dict.fromkeys(f"{m.name}={_shown(m.stored)}" for m in misfits))
    return InputError(
        f"stored results that do not fit this run: {'; '.join(found[:MAX_NAMED])}{more}.",
        "results of the settings, inputs and version of this run.",
        f"Make them again, with the options of this run: {which}"
        + (f"; or keep them: --params {kept}." if can_keep else "."),
    )


def _can_be_typed(value: Any) -> bool:  # noqa: ANN401  plain data of any kind
    """Tell whether a command line takes the value as `_shown` shows it: no list, no mapping, and not cut."""
    return not isinstance(value, list | dict) and not _shown(value).endswith("...")


def _shown(value: Any) -> str:  # noqa: ANN401  plain data of any kind
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
