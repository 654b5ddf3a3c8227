"""Orientation tags: an image that is stored turned or mirrored is read upright, window by window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import is_fault_of_ours
from spamcaf.histology.slide import Pixels

ORIENTATION, AS_STORED = 274, 1
"""The tag of TIFF and of EXIF, and its value for an image that is stored upright."""
EXIF_BEGIN = b"Exif\0\0"


@dataclass(frozen=True)
class Turn:
    """How an image becomes upright: rows and columns change places where `transposes`, then their orders reverse."""

    tag: int
    transposes: bool
    reverses_rows: bool
    reverses_columns: bool

    @property
    def note(self) -> str:
        """The turn in words."""
        is_mirrored = (self.transposes + self.reverses_rows + self.reverses_columns) % 2 == 1
        return f"turned by its orientation tag {self.tag}{', which mirrors it' if is_mirrored else ''}"


_STEPS = {2: (0, 0, 1), 3: (0, 1, 1), 4: (0, 1, 0), 5: (1, 0, 0), 6: (1, 0, 1), 7: (1, 1, 1), 8: (1, 1, 0)}
TURNS = {tag: Turn(tag, *map(bool, steps)) for tag, steps in _STEPS.items()}


@dataclass(frozen=True)
class TurnedPixels:
    """An image seen upright: each window is read where it is stored, then turned."""

    stored: Pixels
    turn: Turn

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns) of the upright image."""
        rows, columns = self.stored.shape
        return (columns, rows) if self.turn.transposes else (rows, columns)

    @property
    def fingerprint(self) -> str:
        """The file's, and the turn: other pixels than those of a program that does not apply the tag."""
        return f"{self.stored.fingerprint}-turn{self.turn.tag}"

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Return a copy of the window of the upright image."""
        turn, (rows, columns) = self.turn, self.shape
        x = columns - x0 - width if turn.reverses_columns else x0
        y = rows - y0 - height if turn.reverses_rows else y0
        if turn.transposes:
            window = self.stored.crop(y, x, height, width).swapaxes(0, 1)
        else:
            window = self.stored.crop(x, y, width, height)
        # a copy: PyTorch takes no arrays whose order is reversed
        return window[:: -1 if turn.reverses_rows else 1, :: -1 if turn.reverses_columns else 1].copy()


def turn_of(tag: object) -> Turn | None:
    """Return the turn for the value of an orientation tag; None for an upright image and for a senseless value."""
    return TURNS.get(tag) if isinstance(tag, int) else None


def upright(pixels: Pixels, tag: object) -> tuple[Pixels, list[str]]:
    """Return an image upright, by the value of its orientation tag (None without one), and notes of what was done."""
    turn = turn_of(tag)
    if turn is not None:
        return TurnedPixels(pixels, turn), [turn.note]
    if tag is None or tag == AS_STORED:
        return pixels, []
    return pixels, [f"its orientation tag, {tag!s:.20}, is none of 1 to 8 and is ignored"]


def exif_orientation(exif: bytes) -> object:
    """Return the value of the orientation tag in an EXIF block, None where there is none or the block is broken."""
    from PIL import Image

    record = Image.Exif()
    try:
        record.load(exif)
        return record.get(ORIENTATION)
    except Exception as error:  # Pillow may fail in any way on a broken block
        if is_fault_of_ours(error):
            raise
        return None
