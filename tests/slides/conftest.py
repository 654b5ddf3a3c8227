"""An image in which an exchange of channels, rows or columns, or a mirror, shows."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray


@pytest.fixture(scope="session")
def image() -> NDArray[np.uint8]:
    """Return a smooth, asymmetric image, wider than high, with a different gradient in each channel."""
    y, x = np.mgrid[:200, :320]
    pixels = np.stack([x * 0.7, 255 - y, np.full_like(x, 40)], axis=-1).astype(np.uint8)
    pixels.flags.writeable = False
    return pixels
