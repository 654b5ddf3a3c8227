"""The node of the benchmark pipeline."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from typing import Any, Protocol

from spamcaf.parameters import BenchmarkSettings, SplitSettings
from spamcaf.pipelines.types import DataFrame

logger = logging.getLogger(__name__)


class Runs(Protocol):
    """What makes results of other sections and settings; `section` and `run` are the names of this run."""

    section: str
    run: str

    def make(self, name: str, choices: dict[str, Any]) -> tuple[Any, int]:
        """Return a stored result, and how many nodes were run to make it."""


def run_benchmark(
    runs: Runs, settings: BenchmarkSettings, split: SplitSettings, seed: int
) -> tuple[DataFrame, dict[str, Any], str]:
    """Score every model on every section, protocol and mask, and compare them.

    Sections are checked and embedded once. What follows is stored for each mask as the run
    `<run>-<protocol>-<mask>` of its section: what is there and fits the settings is not made again.

    Returns
    -------
    table : DataFrame
        See `spamcaf.scoring.benchmark.compare_models`.
    record : dict
        Sections, protocols with their masks, and the table's rows.
    report : str
        A page of the first mask of each section and protocol: verdicts, scores with intervals, wins.
    """
    import pandas as pd

    from spamcaf.reporting.report import render_cohort_report
    from spamcaf.scoring.benchmark import compare_models, format_markdown, tables_of

    sections = settings.sections or [runs.section]
    masks = {str(protocol): distinct_masks(protocol, settings.masks, split) for protocol in settings.protocols}
    for section in sections:
        runs.make("spot_features", {"section": section})  # also where it is only one of the others
    scored, records = [], []
    for section, protocol, mask in _all(sections, masks):
        start = time.perf_counter()
        choices: dict[str, Any] = {"section": section, "run": f"{runs.run}-{protocol}-{mask}"}
        choices["split"] = {"protocol": protocol, "mask": mask}
        if protocol == "section" and len(sections) > 1:  # otherwise those of the run
            choices["other_sections"] = [other for other in sections if other != section]
        scores, n_nodes = runs.make("gene_scores", choices)
        how = f"{time.perf_counter() - start:.0f} s" if n_nodes else "stored"
        logger.info("benchmark: section %s, %s, mask %d: %s", section, protocol, mask, how)
        if mask == masks[protocol][0]:
            name = f"{section}, {protocol}, mask {mask}"
            records.append((name, runs.make("hidden_scores", choices)[0]))
        scored.append(scores.assign(section=section, protocol=protocol, mask=mask))
    table = compare_models(pd.concat(scored, ignore_index=True), settings.n_bootstrap, seed)
    logger.info("benchmark of %s\n%s", ", ".join(sections), format_markdown(table))
    rows = table.astype(object).where(table.notna(), None).to_dict(orient="records")
    report = render_cohort_report(records, tables=tables_of(table))
    return table, {"sections": sections, "masks": masks, "rows": rows}, report


def distinct_masks(protocol: str, masks: list[int], split: SplitSettings) -> list[int]:
    """Return those of `masks` that hide different spots; there are as many as blocks, sublattices, or sections."""
    n_ways = {"block": split.n_blocks, "lattice": split.every**2, "section": 1}.get(protocol, max(masks) + 1)
    kept = list(dict.fromkeys(mask % n_ways for mask in masks))
    if len(kept) < len(masks):
        logger.info("benchmark: %s hides spots in %d ways; masks %s", protocol, n_ways, ", ".join(map(str, kept)))
    return kept


def _all(sections: list[str], masks: dict[str, list[int]]) -> Iterator[tuple[str, str, int]]:
    for section in sections:
        for protocol, numbers in masks.items():
            for mask in numbers:
                yield section, protocol, mask
