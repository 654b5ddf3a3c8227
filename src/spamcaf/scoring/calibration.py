"""Whether predictive standard deviations mean what they say."""

from __future__ import annotations

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray


def interval_coverage(
    truth: NDArray[np.floating], prediction: NDArray[np.floating], sd: NDArray[np.floating], level: float = 0.9
) -> float:
    """Return the share of true values inside the central normal interval of probability `level`.

    All three are (site, gene). Right is a value near `level`; below it the model is too sure of itself. `sd` must
    include the noise of a measurement, for it is measurements that are counted.
    """
    width = NormalDist().inv_cdf(0.5 + level / 2)
    return float((np.abs(truth - prediction) <= width * sd).mean())
