"""SpaMCAF: super-resolved spatial gene expression from an H&E image and spatial transcriptomics.

Without Kedro: `embed`, `fit`, `super_resolve` and `evaluate` of `spamcaf.api`, which are names of this package, too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spamcaf.api import FittedSection, SectionFeatures, embed, evaluate, fit, super_resolve

__version__ = "0.2.0"
__all__ = ["FittedSection", "SectionFeatures", "__version__", "embed", "evaluate", "fit", "super_resolve"]


def __getattr__(name: str) -> Any:  # noqa: ANN401  functions and classes; loaded when used, since they need torch
    if name not in __all__:
        raise AttributeError(f"module 'spamcaf' has no attribute '{name}'")
    from spamcaf import api

    return getattr(api, name)
