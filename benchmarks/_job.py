"""One measured fit and prediction on a made-up section, in a process of its own."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from _memory import Watch
from _synthetic import PITCH_UM, make_measured
from numpy.typing import NDArray

from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, ReleasedSettings
from spamcaf.peers.models import FittedModel, predict
from spamcaf.peers.released import fit_released
from spamcaf.scoring.metrics import correlate
from spamcaf.sections.sites import Measured

SPAMCAF, RELEASED = "spamcaf", "released"
SEED = 1234
N_WARM_UP = 40


@dataclass(frozen=True)
class Job:
    """What to fit (`spamcaf` or `released`), to how much, on what.

    `n_held` spots of the same tissue, drawn at random among the others, are predicted and scored.
    """

    model: str
    n_spots: int
    n_held: int
    n_genes: int = 1000
    n_features: int = 1024
    threads: int = 1
    device: str = "cpu"
    epochs: int | None = None


@dataclass(frozen=True)
class Outcome:
    """Seconds and MiB (peak over what was there before) of fit and prediction, and the mean PCC at held-out spots.

    `_cpu_s` is processor time, which other programs on the machine change less than wall time. `network_cpu_s` is the
    part of the fit that trains the networks; `process` the score of the Gaussian process alone. Both are NaN for
    `released`.
    """

    fit_s: float
    fit_cpu_s: float
    network_cpu_s: float
    fit_mib: float
    predict_s: float
    predict_cpu_s: float
    predict_mib: float
    score: float
    process: float


def run(job: Job) -> Outcome:
    """Do `job` in a fresh process with its number of threads."""
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
    command = [sys.executable, str(Path(__file__)), json.dumps(asdict(job))]
    done = subprocess.run(command, env={**os.environ, **threads}, stdout=subprocess.PIPE, text=True, check=True)
    return Outcome(**json.loads(done.stdout.splitlines()[-1]))


def measure(job: Job) -> Outcome:
    """Do `job` here."""
    everything = make_measured(
        job.n_spots + job.n_held, job.n_features, job.n_genes, seed=0, with_whole=job.model == RELEASED
    )
    target_section, held = everything.at(slice(0, job.n_spots)), everything.at(slice(job.n_spots, None))
    compute = ComputeSettings(device=job.device, threads=job.threads)  # type: ignore[arg-type]
    context = None if job.model == RELEASED else target_section
    # lazy imports, and a GPU's start, are no part of a fit
    predict(
        _fit(replace(job, epochs=1), target_section.at(slice(0, N_WARM_UP)), compute, []),
        context,
        held.sites.at(slice(0, N_WARM_UP)),
        compute,
    )
    lines: list[tuple[float, str]] = []
    with Watch() as fitting:
        model = _fit(job, target_section, compute, lines)
    with Watch() as predicting:
        predicted = predict(model, context, held.sites, compute)
    process = float("nan") if predicted.gp is None else _mean_pcc(held.expression, predicted.gp)
    score = _mean_pcc(held.expression, predicted.mean)
    took = (fitting.seconds, fitting.cpu_seconds, _network_s(lines), fitting.mib)
    return Outcome(*took, predicting.seconds, predicting.cpu_seconds, predicting.mib, score, process)


def _mean_pcc(truth: NDArray[np.float32], prediction: NDArray[np.float32]) -> float:
    """Return the mean over genes of Pearson's correlation, both (site, gene); one that is undefined counts as 0."""
    return float(np.nan_to_num(correlate(truth, prediction)).mean())


def _fit(job: Job, measured: Measured, compute: ComputeSettings, lines: list[tuple[float, str]]) -> FittedModel:
    """Fit the job's model; `lines` takes the lines of its log, with the processor time of each."""
    target_section = TrainingSection(measured, np.arange(len(measured)) % 5)
    epochs = {} if job.epochs is None else {"epochs": job.epochs}
    if job.model == RELEASED:
        return fit_released(target_section, ReleasedSettings(**epochs), compute, SEED).model

    handler, log = logging.Handler(), logging.getLogger("spamcaf.model")
    handler.emit = lambda record: lines.append((time.process_time(), record.getMessage()))  # type: ignore[method-assign]
    level = log.level
    log.setLevel(logging.INFO)
    log.addHandler(handler)
    try:
        fit, network = FitSettings(**epochs), NetworkSettings()
        return fit_spamcaf(target_section, [], PITCH_UM, fit, network, compute, SEED).model
    finally:
        log.removeHandler(handler)
        log.setLevel(level)


def _network_s(lines: list[tuple[float, str]]) -> float:
    """Return the processor time between the line before the first fold's and the last fold's, by the log of the fit."""
    folds = [number for number, (_, line) in enumerate(lines) if line.startswith("fold")]
    return lines[folds[-1]][0] - lines[folds[0] - 1][0] if folds and folds[0] > 0 else float("nan")


if __name__ == "__main__":
    print(json.dumps(asdict(measure(Job(**json.loads(sys.argv[1]))))))
