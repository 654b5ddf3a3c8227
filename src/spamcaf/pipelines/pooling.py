"""Other sections of the same tissue, brought into the shape of the section that is predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from spamcaf.errors import InputError
from spamcaf.pipelines.joining import measured_spots, pitch_um_of
from spamcaf.sections.gene_names import own_names
from spamcaf.sections.panel import GENE, normalise_expression
from spamcaf.sections.split import FOLD, MAP_FOLDS

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.datasets.other_sections import OtherSections
    from spamcaf.histology.features import FeatureKey, Features
    from spamcaf.sections.sites import Measured

MAX_PITCH_DIFFERENCE = 0.03


def measured_elsewhere(others: OtherSections, expression: AnnData, key: FeatureKey) -> list[Measured]:
    """Return all measured spots of each other section, with the genes of `expression`.

    Raises InputError when their features are of another backbone or other tiles than `key`, when a gene is missing, or
    when their spots are another distance apart.
    """
    found = zip(others.names, others.sections(), others.features(), strict=True)
    return [_measured(name, section, features, expression, key) for name, section, features in found]


def _measured(name: str, section: AnnData, features: Features, expression: AnnData, key: FeatureKey) -> Measured:
    import pandas as pd

    _require_same_view(name, features.key, key)
    ours, theirs = pitch_um_of(expression), pitch_um_of(section)
    if abs(theirs / ours - 1) > MAX_PITCH_DIFFERENCE:
        raise InputError(
            f"spots {theirs:g} um apart in section '{name}', {ours:g} um in this one.",
            "sections of one technology.",
            "Leave it out of other_sections.",
        )
    normalised = normalise_expression(section, pd.DataFrame({GENE: own_names(section, expression.var)}))
    return measured_spots(normalised, features, section.obs_names.tolist())


def _require_same_view(name: str, theirs: FeatureKey, ours: FeatureKey) -> None:
    for what, a, b in (("backbone", theirs.backbone, ours.backbone), ("tiles", theirs.view, ours.view)):
        if a != b:
            raise InputError(
                f"features of another {what} in section '{name}' ({a}) than in this one ({b}).",
                "the same.",
                f"kedro run --pipelines feature_extraction --params section={name}, with the settings of this run.",
            )


def fold_others(spots: pd.DataFrame, others: list[Measured]) -> list[NDArray[np.int64]]:
    """Return a fold per spot of each other section.

    Beside a measured section (`spots` has its folds) they are dealt over the same folds. Without one, what matters is
    how well a section is predicted by the others: each is a fold of its own, where there are several.
    """
    if len(spots) or len(others) == 1:
        n_folds = int(spots[FOLD].max()) + 1 if len(spots) else MAP_FOLDS
        return [np.random.default_rng(i).permutation(len(other)) % n_folds for i, other in enumerate(others)]
    return [np.full(len(other), i) for i, other in enumerate(others)]
