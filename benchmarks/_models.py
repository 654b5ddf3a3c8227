"""What the benchmarks fit and score: ours, the replica, and mean per-gene Pearson on hidden spots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from spamcaf.model.data import TrainingSection
from spamcaf.model.fit import fit_spamcaf
from spamcaf.model.fitted import ModeParameters, SpamcafModel
from spamcaf.model.predict import Predicted
from spamcaf.names import Model
from spamcaf.parameters import ComputeSettings, FitSettings, NetworkSettings, PanelSettings, ReleasedSettings
from spamcaf.peers.models import predict
from spamcaf.peers.released import fit_released
from spamcaf.scoring.metrics import correlate, interval_coverage
from spamcaf.sections.sites import Measured, Sites

SEED = 1234

Expression = NDArray[np.float32]


@dataclass(frozen=True)
class Options:
    """Settings of every fit of a benchmark."""

    fit: FitSettings = field(default_factory=FitSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    released: ReleasedSettings = field(default_factory=ReleasedSettings)
    panel: PanelSettings = field(default_factory=PanelSettings)
    references: tuple[Path, ...] = ()  # files of counts that gene programs are learned from too
    compute: ComputeSettings = field(default_factory=lambda: ComputeSettings(threads=1))


def mean_pcc(truth: NDArray[np.floating], prediction: NDArray[np.floating]) -> float:
    """Return the mean over genes of Pearson's correlation, both (site, gene); one that is undefined counts as 0."""
    return float(np.nan_to_num(correlate(truth, prediction)).mean())


def fit_ours(
    target_section: TrainingSection | None, others: Sequence[TrainingSection], pitch_um: float, options: Options
) -> SpamcafModel:
    """Return `spamcaf`, fitted as the pipeline does."""
    return fit_spamcaf(target_section, others, pitch_um, options.fit, options.network, options.compute, SEED).model


def predict_ours(model: SpamcafModel, context: Measured | None, sites: Sites, options: Options) -> Predicted:
    """Return what `spamcaf` predicts; always with the process alone beside it."""
    return predict(model, context, sites, options.compute)


def by_name(predicted: Predicted) -> dict[str, Expression]:
    """Return the mix and the process alone under their names."""
    assert predicted.gp is not None
    return {str(Model.SPAMCAF): predicted.mean, str(Model.PROGRAM_GP): predicted.gp}


def fit_predict_released(target_section: TrainingSection, sites: Sites, options: Options) -> Expression:
    """Return what the replica of the released network predicts."""
    model = fit_released(target_section, options.released, options.compute, SEED).model
    return predict(model, None, sites, options.compute).mean


def coverage_90(truth: Expression, predicted: Predicted) -> float:
    """Return the share of measurements inside the stated 90 % interval."""
    assert predicted.sd is not None
    return interval_coverage(truth, predicted.mean, predicted.sd)


def network_alone(model: SpamcafModel) -> SpamcafModel:
    """Return the model with the network's share set to 1."""

    def only(mode: ModeParameters) -> ModeParameters:
        return replace(mode, stacking=replace(mode.stacking, network_weight=np.ones_like(mode.stacking.network_weight)))

    return replace(model, within_section=only(model.within_section), new_section=only(model.new_section))
