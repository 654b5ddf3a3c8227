"""The runs of a cohort: sections by name, or the rows of a CSV, each with every mask asked for."""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.config_loader import as_typed
from spamcaf.errors import InputError, first_line
from spamcaf.hooks import ONE, check_names, check_settings, places
from spamcaf.limits import MAX_JSON_BYTES, read_bytes
from spamcaf.names import CHAIN
from spamcaf.parameters import RUN_CHOICES, RunSettings, flat_settings
from spamcaf.pipelines.benchmark.nodes import distinct_masks
from spamcaf.sessions import merged

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext

SCORES = ("gene_scores", "hidden_scores")
"""What is made of a mask, as the pipeline benchmark does."""
OF_A_RUN = ("section", "run", "model", "other_sections", "reference")
"""Choices in which the runs of a section may differ; the others go into results that all of them share."""
MAX_ROWS = 10_000  # of a table: each is a run
MAX_NAMED = 4  # differences in a message


@dataclass(frozen=True)
class Job:
    """One run of a cohort.

    `choices` are like `--params`; `wanted` names the results to make, none of them meaning all of the chain;
    `is_shared` stands for those of them that all runs of the section share, which are made first; `needs` names the
    sections of which these must be there. `protocol` and `mask` are those of `split`, None where no mask was asked for.
    """

    section: str
    run: str
    choices: Mapping[str, Any]
    wanted: tuple[str, ...] = ()
    is_shared: bool = False
    needs: tuple[str, ...] = ()
    protocol: str | None = None
    mask: int | None = None

    @property
    def name(self) -> str:
        """Of the run, or of what is shared by all runs of the section."""
        return self.section if self.is_shared else f"{self.section}/{self.run}"


def plan_jobs(context: KedroContext) -> list[Job]:
    """Return the runs of a cohort, those first that make what others need.

    Raises
    ------
    InputError
        Without a section, for a table that cannot be read, a name or a setting that is wrong in one of the runs, two
        runs of one name, or runs of a section that differ in what all of them share.
    """
    loader: Any = context.config_loader
    chosen, parameters = loader["globals"], dict(loader["parameters"])
    given = (loader.runtime_params or {}).get("benchmark", {})
    settings = check_settings(parameters)
    source = str(given.get("sections", ""))
    is_table = source.lower().endswith(".csv")
    rows = _read_rows(Path(context.project_path) / Path(source).expanduser()) if is_table else []
    rows = rows or [{"section": name} for name in settings.benchmark.sections]
    if not rows:
        raise InputError("no sections.", "their names, or a CSV of them.", "Name them: --params sections=C2+C3.")
    jobs: list[Job] = []
    sections = [str(row["section"]) for row in rows]
    _require_unique(f"{row['section']}/{row.get('run', chosen['run'])}" for row in rows)
    for number, row in enumerate(rows, start=2):
        try:
            jobs += _jobs_of({**chosen, **parameters}, row, given, sections)
        except InputError as error:
            found, _, rest = str(error).removeprefix("Found: ").partition(" Expected: ")
            if not is_table:
                raise
            raise InputError(f"{found} (line {number} of {source})", *rest.split(" Next step: ", 1)) from error
    _check(jobs, context)
    return _with_shared(jobs)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the choices of each row; empty cells are none."""
    import pandas as pd

    text: dict[str, Any] = {"dtype": str, "keep_default_na": False, "skipinitialspace": True, "encoding": "utf-8-sig"}
    try:
        table = pd.read_csv(io.BytesIO(read_bytes(path, MAX_JSON_BYTES)), **text)
    except InputError:
        raise
    except (OSError, ValueError) as error:
        found = f"{path}, which cannot be read ({first_line(error)})."
        raise InputError(found, "a CSV with a row per section.", "Correct --params sections=<file>.csv.") from error
    if "section" not in table or not len(table) or not table["section"].all():
        found = f"{path} with the columns {', '.join(table.columns)} and {len(table)} rows."
        raise InputError(found, "a column `section`, with a name in each row.", "Correct the file.")
    if len(table) > MAX_ROWS:
        raise InputError(f"{path} with {len(table)} rows.", f"at most {MAX_ROWS}.", "Make several cohorts of it.")
    rows = enumerate(table.to_dict("records"), start=2)
    return [_choices({str(key): value for key, value in row.items() if value}, n, path) for n, row in rows]


def _choices(cells: Mapping[str, str], number: int, path: Path) -> dict[str, Any]:
    """Return the choices of a row of the table, by what its columns are called."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError

    try:
        typed = OmegaConf.from_dotlist([as_typed(f"{key}={value}") for key, value in cells.items()])
        return OmegaConf.to_container(typed)  # type: ignore[return-value]
    except (YAMLError, OmegaConfBaseException) as error:
        raise InputError(
            f"line {number} of {path}, which cannot be read ({first_line(error)}).",
            "values as --params takes them.",
            "Quote values with other characters than letters and digits.",
        ) from error


def _jobs_of(chosen: Mapping[str, Any], row: Mapping[str, Any], grid: Mapping[str, Any], all_: list[str]) -> list[Job]:
    """Return a run for each mask of a row, or one where no masks are asked for."""
    of_row = merged(chosen, row)
    section, run = str(of_row["section"]), str(of_row.get("run", "default"))
    check_names(of_row)
    settings = check_settings({k: v for k, v in of_row.items() if k in RunSettings.model_fields or k in row})
    sees = [*_names(of_row.get("other_sections")), *_names(of_row.get("reference"))]
    choices = {**row, "section": section, "run": run}
    if not {"masks", "protocols"} & grid.keys():
        return [Job(section, run, choices, needs=tuple(sees))]
    jobs = []
    others = [name for name in dict.fromkeys(all_) if name != section]
    for protocol in settings.benchmark.protocols:
        more = {"other_sections": others} if protocol == "section" and others else {}
        for mask in distinct_masks(protocol, settings.benchmark.masks, settings.split):
            name = f"{run}-{protocol}-{mask}"
            of_mask = merged(choices, {"run": name, "split": {"protocol": protocol, "mask": mask}, **more})
            needs = (*sees, *more.get("other_sections", []))
            jobs.append(Job(section, name, of_mask, SCORES, needs=needs, protocol=protocol, mask=mask))
    return jobs


def _names(value: object) -> list[str]:
    if isinstance(value, str):
        return [name for name in re.split(r"[+\s]+", value) if name]
    return [str(name) for name in value] if isinstance(value, list | tuple) else []


def _require_unique(names: Iterable[str]) -> None:
    if twice := sorted(name for name, n in Counter(names).items() if n > 1):
        expected = "each run of a section under a name of its own."
        raise InputError(f"{', '.join(twice[:MAX_NAMED])} twice.", expected, "Give each row another `run`.")


def _check(jobs: list[Job], context: KedroContext) -> None:
    """Raise InputError for two runs of one name, and for runs of one section that differ in what they share."""
    _require_unique(job.name for job in jobs)
    shared = tuple(_shared_settings(context))
    first: dict[str, dict[str, Any]] = {}
    for job in jobs:
        groups = merged(context.config_loader["parameters"], job.choices)
        values = {n: v for n, v in flat_settings(groups).items() if any(f"{n}.".startswith(f"{s}.") for s in shared)}
        before = first.setdefault(job.section, values)
        differs = sorted(n for n in before.keys() | values.keys() if before.get(n) != values.get(n))
        if differs:
            raise InputError(
                f"runs of section {job.section} that differ in {', '.join(differs[:MAX_NAMED])}.",
                "the same image, checks, tissue, grid, tiles and backbone: all runs of a section share them.",
                "Make a cohort of each choice, or give the section a second folder under another name.",
            )


def _shared_settings(context: KedroContext) -> Iterator[str]:
    """Yield the settings that results depend on which all runs of a section share, and choices of files."""
    from kedro.framework.project import pipelines

    pipelines.set_requested(list(CHAIN))
    chain = sum((pipelines[each] for each in CHAIN), pipelines[CHAIN[0]])
    names = shared_results(chain.all_outputs(), context.catalog, Path(context.project_path) / "data")
    yield from (n.removeprefix(ONE) for n in chain.to_outputs(*names).inputs() if n.startswith(ONE))
    yield from (name for name in RUN_CHOICES if name not in OF_A_RUN)


def shared_results(names: set[str], catalog: Any, data: Path) -> list[str]:  # noqa: ANN401  Kedro's
    """Return those of the datasets `names` that all runs of a section share."""
    return sorted(name for name in names if any(len(place) == 1 for place in places([name], catalog, data)))


def _with_shared(jobs: list[Job]) -> list[Job]:
    """Return the jobs behind those that make what several runs of a section share, or what another section needs."""
    sections = [job.section for job in jobs]
    needed = {name for job in jobs for name in job.needs if name in sections}
    first = {n: next(job for job in jobs if job.section == n) for n in dict.fromkeys(sections)}
    several = {n: job for n, job in first.items() if n in needed or sections.count(n) > 1}
    shared = [Job(job.section, job.run, job.choices, job.wanted, is_shared=True) for job in several.values()]
    needs = [tuple(n for n in dict.fromkeys([job.section, *job.needs]) if n in several) for job in jobs]
    return [*shared, *(replace(job, needs=names) for job, names in zip(jobs, needs, strict=True))]
