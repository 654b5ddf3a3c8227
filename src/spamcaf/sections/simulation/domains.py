"""The kinds of tissue, and how each looks and lives: our choice, in the range of breast histology."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Domain:
    """One kind of tissue.

    `share` of the tissue; optical density of `eosin` and `haematoxylin` between nuclei; strength of collagen `fibres`
    and of `grain`; nuclei: `is_crowded` (lymphocyte-like spacing) or not, `density` as the share of their places that
    is taken, semi-axes in micrometres, darkness, `is_aligned` with the fibres; `rna`, relative content per area.
    """

    name: str
    share: float
    eosin: float
    haematoxylin: float
    fibres: float
    grain: float
    is_crowded: bool
    density: float
    long_um: float
    short_um: float
    darkness: float
    is_aligned: bool
    rna: float


TUMOUR, STROMA, ADIPOSE, LYMPHOID, GLAND = range(5)

DOMAINS = (
    Domain("tumour", 0.30, 0.34, 0.20, 0.05, 0.22, False, 0.72, 4.7, 3.7, 0.85, False, 1.15),
    Domain("stroma", 0.32, 0.50, 0.03, 0.42, 0.08, False, 0.26, 6.2, 1.5, 1.00, True, 0.80),
    Domain("adipose", 0.12, 0.26, 0.02, 0.10, 0.05, False, 0.10, 4.0, 1.4, 1.00, False, 0.60),
    Domain("lymphoid", 0.11, 0.20, 0.26, 0.05, 0.15, True, 0.85, 3.0, 2.8, 1.30, False, 1.30),
    Domain("gland", 0.15, 0.40, 0.05, 0.25, 0.10, False, 0.24, 5.0, 1.7, 0.95, True, 1.00),
)


def domain_values(field: str) -> NDArray[np.float64]:
    """Return one number per domain, (domain,): the field of that name."""
    return np.array([float(getattr(domain, field)) for domain in DOMAINS])
