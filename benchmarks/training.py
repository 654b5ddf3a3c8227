"""How long `spamcaf` takes to train and predict, beside the released schedule, and how that grows with the spots.

python benchmarks/training.py
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from _job import RELEASED, SPAMCAF, Job, Outcome, measure, run

RELEASED_EPOCHS = 1000
Place = tuple[str, dict[str, Any]]
"""Where a job runs, in words and as what it changes."""
Do = Callable[[Job], Outcome]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the tables."""
    asked = _parser().parse_args(arguments)
    ours = Job(SPAMCAF, n_spots=2000, n_held=1000)
    sizes = [*asked.sizes, *([64_000] if asked.large else [])]
    if asked.quick:
        ours = Job(SPAMCAF, n_spots=60, n_held=20, n_genes=20, n_features=12, epochs=1)
        sizes = [50, 100]
    do = measure if asked.quick else run
    wanted = asked.only.split(",")
    if "time" in wanted:
        print(time_table(ours, asked.score_epochs, _places(asked.threads), do), flush=True)
    if "growth" in wanted:
        print(growth_table(ours, sizes, do), flush=True)


def time_table(ours: Job, score_epochs: int, places: Sequence[Place], do: Do) -> str:
    """Default training, against the released network and schedule of which a few epochs are run."""
    lines = [
        f"### Training on {ours.n_spots} spots x {ours.n_genes} genes x {ours.n_features} features",
        "",
        f"| | fit, s | CPU s | whole schedule, s | CPU s | mean PCC, {ours.n_held} held out | program_gp alone |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    notes, factor = [], RELEASED_EPOCHS / score_epochs
    for place, change in places:
        mine = do(replace(ours, **change))
        theirs = do(replace(ours, model=RELEASED, epochs=score_epochs, **change))
        lines.append(_time_row(f"spamcaf, default training, {place}", mine, 1))
        lines.append(_time_row(f"released, {score_epochs} epochs, {place}", theirs, factor))
        notes.append(
            f"- {place}: released / spamcaf = {theirs.fit_s * factor / mine.fit_s:.1f} x the time, "
            f"{theirs.fit_cpu_s * factor / mine.fit_cpu_s:.1f} x the CPU time ({RELEASED_EPOCHS} epochs, extrapolated "
            f"from {score_epochs}); held-out score {theirs.score:.4f} against {mine.score:.4f}."
        )
    return "\n".join([*lines, "", *notes, ""])


def _time_row(name: str, outcome: Outcome, factor: float) -> str:
    took = " | ".join(f"{s * by:.1f}" for by in (1, factor) for s in (outcome.fit_s, outcome.fit_cpu_s))
    process = "" if math.isnan(outcome.process) else f"{outcome.process:.4f}"
    return f"| {name} | {took} | {outcome.score:.4f} | {process} |"


def _places(threads: Sequence[int]) -> list[Place]:
    import torch

    places: list[Place] = [(f"{n} thread{'s' * (n > 1)}", {"threads": n}) for n in threads]
    if torch.cuda.is_available():
        places.append((torch.cuda.get_device_name(), {"device": "cuda", "threads": 1}))
    return places


def growth_table(ours: Job, sizes: Sequence[int], do: Do) -> str:
    """Fit to n spots and predict n other sites, n growing."""
    outcomes = [(n, do(replace(ours, n_spots=n, n_held=n))) for n in sizes]
    columns = {
        "fit, s": "fit_s",
        "fit, CPU s": "fit_cpu_s",
        "of it networks": "network_cpu_s",
        "fit, MiB": "fit_mib",
        "predict, s": "predict_s",
        "predict, CPU s": "predict_cpu_s",
        "predict, MiB": "predict_mib",
    }
    lines = [
        "### Growth with the spots n, as many sites predicted (1 thread; memory over what data and interpreter take)",
        "",
        f"| n | {' | '.join(columns)} | mean PCC | program_gp alone |",
        f"| {' | '.join(['---'] * (len(columns) + 3))} |",
    ]
    for n, outcome in outcomes:
        values = " | ".join(f"{getattr(outcome, name):.1f}" for name in columns.values())
        lines.append(f"| {n} | {values} | {outcome.score:.4f} | {outcome.process:.4f} |")
    for (n_a, a), (n_b, b) in pairwise(outcomes):
        found = " | ".join(_exponent(n_a, n_b, a, b, name) for name in columns.values())
        lines.append(f"| exponent {n_a} to {n_b} | {found} | | |")
    return "\n".join([*lines, "", "- An exponent of 1 is linear growth.", ""])


def _exponent(n_a: int, n_b: int, a: Outcome, b: Outcome, name: str) -> str:
    first, second = getattr(a, name), getattr(b, name)
    return f"{math.log(second / first) / math.log(n_b / n_a):.2f}" if first > 0 and second > 0 else "-"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="time,growth", help="tables, separated by commas: time,growth")
    parser.add_argument("--score-epochs", type=int, default=30, help="epochs of the released schedule that are run")
    parser.add_argument("--threads", nargs="+", type=int, default=[1, 2], help="CPU threads to time training with")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1000, 4000, 16_000], help="spots of the table growth")
    parser.add_argument("--large", action="store_true", help="64 000 spots too: about 16 GB of memory")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: does it run at all?")
    return parser


if __name__ == "__main__":
    main()
