"""Every predictor that stands beside the model, baselines and published peers, under one interface and in one table.

A predictor is a function of the measured spots, the sites to predict, the distance of neighbouring spots in micrometres
and a seed; it returns expression (site, gene) float32 as log1p of counts per 10 000. It is given nothing else: no
count of a spot that is hidden. Peers take the settings of device and threads, too.

The peers are written anew from their publications and use the frozen features of the run's backbone, also where the
original trains an encoder of its own: their rows compare ideas on equal inputs, not the published software.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pkgutil import resolve_name

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from spamcaf.errors import InputError
from spamcaf.names import PEERS, Model
from spamcaf.parameters import ComputeSettings, EvaluationSettings
from spamcaf.sections.sites import Measured, SiteSource

logger = logging.getLogger(__name__)

Expression = NDArray[np.float32]
DEFAULT = tuple(EvaluationSettings().models)
MIN_SPOTS = 3
_SAME_PITCHES = 1e-6
_IMAGE = "image features of spot and sites"
_PLACE = "positions"
_BOTH = f"{_IMAGE}, {_PLACE}"
_ALL_SPOTS = "image features and positions of all spots at once, hidden ones too"
_CLOSED = "none: closed form"


@dataclass(frozen=True)
class Predictor:
    """What a table has to say of a predictor, and where its function is.

    `sees` is what it is allowed to see beside the measured spots' expression. `between_spots` and `new_section` tell
    whether it can predict sites off the array's lattice, and a section of which no spot was measured.
    """

    function: str  # module:name, imported when it is used
    description: str
    training: str
    sees: str
    between_spots: bool = True
    new_section: bool = False
    needs_colours: bool = False


def _baseline(name: str, description: str, sees: str, training: str = _CLOSED, **can: bool) -> Predictor:
    return Predictor(f"spamcaf.scoring.baselines:{name}", description, training, sees, **can)


def _peer(name: str, description: str, training: str, sees: str, **can: bool) -> Predictor:
    return Predictor(f"spamcaf.peers.{name}:predict", description, training, sees, **can)


PREDICTORS: dict[str, Predictor] = {
    Model.GENE_MEAN: _baseline(
        "gene_mean", "each gene's mean over the measured spots, everywhere", "nothing", new_section=True
    ),
    Model.GENE_MEDIAN: _baseline(
        "gene_median", "each gene's median, everywhere: the least MAE", "nothing", new_section=True
    ),
    Model.NEAREST_SPOT: _baseline("nearest_spot", "expression of the nearest measured spot", _PLACE),
    Model.IDW: _baseline("idw", "mean of 8 spots weighted by distance ** -2", _PLACE),
    Model.KRIGING: _baseline(
        "kriging", "Gaussian process over position", _PLACE, "3 kernel parameters by marginal likelihood"
    ),
    Model.RIDGE: _baseline(
        "ridge",
        "ridge on 64 components of the features of tile and 3 x 3 tiles",
        _IMAGE,
        "penalty by leave-one-out cross-validation",
        new_section=True,
    ),
    Model.RGB_RIDGE: _baseline(
        "rgb_ridge",
        "ridge on mean and deviation of R, G and B of the 3 x 3 tiles, no network",
        "colours of the tiles",
        "penalty by leave-one-out cross-validation",
        between_spots=False,
        needs_colours=True,
    ),
    Model.RIDGE_KRIGING: _baseline(
        "ridge_kriging",
        "kriging of what ridge leaves",
        _BOTH,
        "as ridge and kriging",
    ),
    Model.KRIGING_RIDGE_PROGRAMS: _baseline(
        "kriging_ridge_programs",
        "mean of kriging and ridge on the 5 leading gene programs",
        _BOTH,
        "as ridge and kriging",
    ),
    Model.BOOSTED_PROGRAMS: _baseline(
        "boosted_programs",
        "gradient boosting of 8 gene programs on the components that ridge uses",
        _IMAGE,
        "100 trees of depth 3 per program",
        new_section=True,
    ),
    Model.DEPTH_ONLY: _baseline(
        "depth_only",
        "a line per gene on log depth, which kriging and ridge predict",
        _BOTH,
        "as ridge and kriging",
        new_section=True,
    ),
    Model.HEST_PROBE: _peer(
        "hest_probe",
        "ridge without intercept on 256 components of standardised features, fixed penalty; compare correlations only",
        _CLOSED,
        _IMAGE,
        new_section=True,
    ),
    Model.BLEEP: _peer(
        "bleep",
        "contrastive embedding of image and expression, mean of the 50 nearest spots",
        "at most 60 epochs, the best on a fifth of the measured spots",
        _IMAGE,
        new_section=True,
    ),
    Model.STAGE: _peer(
        "stage",
        "autoencoder whose latent numbers are the coordinates, decoded at the sites; no image",
        "600 epochs (original: 2000 to 10 000)",
        _PLACE,
    ),
    Model.ST_NET: _peer(
        "st_net",
        "linear layer on the features, gradient descent that stops early; 8 views of a tile with tiles.views=8",
        "at most 50 epochs, chosen by 4-fold cross-validation",
        _IMAGE,
        new_section=True,
    ),
    Model.HISTOGENE: _peer(
        "histogene",
        "transformer over all spots of the section, 4 blocks of width 256 (original: 8 of 1024, from pixels)",
        "200 epochs at 1e-4 (original: 100 over 31 sections at 1e-5)",
        _ALL_SPOTS,
        between_spots=False,
    ),
    Model.TRIPLEX: _peer(
        "triplex",
        "target, 3 x 3 neighbourhood and section, fused by cross-attention; width 128 (original: 512, 5 x 5)",
        "at most 150 epochs, the best on a fifth of the measured spots",
        _ALL_SPOTS,
        between_spots=False,
    ),
}
"""By name. HisToGene and TRIPLEX were made for new sections; here the section that they see is the one predicted.
Colours are measured at the spots of the section only."""


def able(
    names: Iterable[str], *, between_spots: bool = False, new_section: bool = False, blind: bool = False
) -> list[str]:
    """Return those of `names` that can predict such sites, `blind` without an image; log the others."""
    left = list(names)
    needs = {
        "sites between the spots": [n for n in left if between_spots and not PREDICTORS[n].between_spots],
        "a section without measured spots": [n for n in left if new_section and not PREDICTORS[n].new_section],
        "a section without an image": [n for n in left if blind and PREDICTORS[n].sees not in ("nothing", _PLACE)],
    }
    for where, left_out in needs.items():
        if left_out:
            logger.info("not scored at %s, which they cannot predict: %s", where, ", ".join(map(str, left_out)))
    return [name for name in left if all(name not in left_out for left_out in needs.values())]


def predict_all(
    measured: Measured,
    sites: SiteSource,
    pitch_um: float,
    seed: int,
    names: Sequence[str] = DEFAULT,
    *,
    positions: bool = True,
    compute: ComputeSettings | None = None,
) -> dict[str, Expression]:
    """Predict expression by each named predictor; kriging and ridge are fitted once, however many need them.

    Parameters
    ----------
    measured : Measured
        Spots to learn from, at least 3; none may be among the sites.
    sites : SiteSource
    pitch_um : float
        Distance of neighbouring spots.
    seed : int
    names : sequence of str
        Keys of `PREDICTORS`; ValueError for any other.
    positions : bool
        False where the measured spots are of other sections, whose positions say nothing of the sites.
    compute : ComputeSettings, optional
        Device and threads of the peers.

    Returns
    -------
    dict of (site, gene) float32
        log1p of counts per 10 000, in the order of `names`.
    """
    if len(measured) < MIN_SPOTS:
        expected = f"at least {MIN_SPOTS} for the baselines."
        raise InputError(f"{len(measured)} visible spots.", expected, "Hide fewer spots.")
    if unknown := [name for name in names if name not in PREDICTORS]:
        raise ValueError(f"Unknown predictor '{unknown[0]}'. Choose from: {', '.join(PREDICTORS)}.")
    if positions:
        _require_unmeasured(measured, sites, pitch_um)
    parts = (Model.KRIGING, Model.RIDGE) if Model.KRIGING_RIDGE_PROGRAMS in names else ()
    done: dict[str, Expression] = {}
    for name in dict.fromkeys((*parts, *names)):
        known = [done[part] for part in parts] if name == Model.KRIGING_RIDGE_PROGRAMS else []
        options: dict[str, object] = {"positions": positions} if name == Model.DEPTH_ONLY else {}
        if name in PEERS:
            options["compute"] = compute or ComputeSettings()
        done[name] = resolve_name(PREDICTORS[name].function)(measured, sites, pitch_um, seed, *known, **options)
    return {str(name): done[name] for name in names}


def _require_unmeasured(measured: Measured, sites: SiteSource, pitch_um: float) -> None:
    """Raise ValueError where a site to predict is a measured spot: the predictors would be given the answer."""
    distance_um, _ = cKDTree(measured.sites.xy_um).query(sites.xy_um, distance_upper_bound=_SAME_PITCHES * pitch_um)
    if n_same := int(np.isfinite(distance_um).sum()):
        raise ValueError(f"{n_same} of {len(sites)} sites to predict are measured spots, which predictors learn from.")
