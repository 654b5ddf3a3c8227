"""The two pictures of a site that the released network looks at."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.sections.sites import Sites


def pictures_of(sites: Sites) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the features (site, feature) of the tiles and of the shrunk windows.

    Raises InputError where the latter were not computed or are not finite.
    """
    if sites.whole is None:
        raise InputError(
            "features without the whole window shrunk to one tile.",
            "that one too: the model `released` looks at it.",
            "Run the pipeline feature_extraction with fit.model=released.",
        )
    if not np.isfinite(sites.whole).all():
        raise InputError("NaN or Inf in the shrunk windows' features.", "finite numbers.", "Embed those sites again.")
    return sites.target, sites.whole
