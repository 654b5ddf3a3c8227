"""The `outs` folder of Space Ranger 1 to 4."""

from spamcaf.datasets.layouts.space_ranger.section import find

__all__ = ["find"]
