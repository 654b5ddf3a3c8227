"""Orientation tags: an image that is stored turned or mirrored is read upright, window by window."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.histology.slide import Pixels

if TYPE_CHECKING:
    from numpy.typing import NDArray

ORIENTATION, AS_STORED = 274, 1
"""The tag of TIFF and of EXIF, and its value for an image that is stored upright."""
EXIF_BEGIN = b"Exif\0\0"
INTEGERS = {3: "H", 4: "I"}
"""The types of TIFF that a tag of one whole number may have, and how they are unpacked."""


@dataclass(frozen=True)
class Turn:
    """How an image becomes upright: rows and columns change places where `transposes`, then their orders reverse."""

    tag: int
    transposes: bool
    reverses_rows: bool
    reverses_columns: bool

    @property
    def note(self) -> str:
        """What to say of it."""
        is_mirrored = (self.transposes + self.reverses_rows + self.reverses_columns) % 2 == 1
        return f"turned by its orientation tag {self.tag}{', which mirrors it' if is_mirrored else ''}"


TURNS = {
    turn.tag: turn
    for turn in (
        Turn(2, transposes=False, reverses_rows=False, reverses_columns=True),
        Turn(3, transposes=False, reverses_rows=True, reverses_columns=True),
        Turn(4, transposes=False, reverses_rows=True, reverses_columns=False),
        Turn(5, transposes=True, reverses_rows=False, reverses_columns=False),
        Turn(6, transposes=True, reverses_rows=False, reverses_columns=True),
        Turn(7, transposes=True, reverses_rows=True, reverses_columns=True),
        Turn(8, transposes=True, reverses_rows=True, reverses_columns=False),
    )
}


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
    """Return what the value of an orientation tag asks for; None for an upright image and for a senseless value."""
    return TURNS.get(tag) if isinstance(tag, int) else None


def upright(pixels: Pixels, tag: object) -> tuple[Pixels, list[str]]:
    """Return an image as its orientation tag wants it to be seen, and what to say of it.

    Parameters
    ----------
    pixels
        The image as it is stored.
    tag
        The value of its orientation tag, None where it has none.

    Returns
    -------
    pixels
        The upright image, read lazily from the stored one.
    notes
        What was done; a value other than 1 to 8 is ignored.
    """
    turn = turn_of(tag)
    if turn is not None:
        return TurnedPixels(pixels, turn), [turn.note]
    is_silent = tag is None or tag == AS_STORED
    return pixels, [] if is_silent else [f"its orientation tag, {tag!s:.20}, is none of 1 to 8 and is ignored"]


def exif_orientation(exif: bytes) -> int | None:
    """Return the value of the orientation tag in an EXIF block, None where there is none or the block is broken."""
    tiff = exif.removeprefix(EXIF_BEGIN)
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (directory,) = struct.unpack_from(f"{order}I", tiff, 4)
        (n_tags,) = struct.unpack_from(f"{order}H", tiff, directory)
        for at in range(directory + 2, directory + 2 + 12 * n_tags, 12):
            tag, kind = struct.unpack_from(f"{order}HH", tiff, at)
            if tag == ORIENTATION and kind in INTEGERS:
                (value,) = struct.unpack_from(order + INTEGERS[kind], tiff, at + 8)
                return int(value)
    except struct.error:
        return None
    return None
