"""Opening the full-resolution image of a section as a lazy slide."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io import AbstractDataset, DatasetError

from spamcaf.datasets.legacy_st import section_file
from spamcaf.errors import InputError
from spamcaf.histology.slide import GLASS, ArrayPixels, Slide
from spamcaf.names import LegacyST

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_RGB, N_RGBA = 3, 4
TIFF_SUFFIXES = {".tif", ".tiff", ".btf"}
JPEG_SUFFIXES = {".jpg", ".jpeg"}
PLAIN_SUFFIXES = JPEG_SUFFIXES | {".png"}
JPEG_END, JPEG_TAIL = b"\xff\xd9", 1024


class SlideDataset(AbstractDataset[Slide, Slide]):
    """Open an H&E image; read-only and lazy where the format allows it.

    TIFF (striped, tiled, BigTIFF, with or without pyramid) is read window by window; JPEG and PNG, which have no
    windows, are decoded once. Grayscale, 16-bit and fluorescence images are refused: H&E in 8-bit RGB is needed.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def load(self) -> Slide:
        return open_slide(self._filepath)

    def save(self, data: Slide) -> None:
        raise DatasetError("Slides are read-only.")

    def _exists(self) -> bool:
        return self._filepath.is_file()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._filepath)}


class LegacySTSlideDataset(SlideDataset):
    """Open the image of one section of a legacy ST folder: `ST-imgs/<patient>/<section>/*`."""

    def __init__(self, *, filepath: str, section: str | int, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._section = str(section)

    def load(self) -> Slide:
        return open_slide(section_file(self._filepath, self._section, LegacyST.IMAGES))

    def _exists(self) -> bool:
        return (self._filepath / LegacyST.IMAGES).is_dir()

    def _describe(self) -> dict[str, Any]:
        return {**super()._describe(), "section": self._section}


def open_slide(path: Path) -> Slide:
    """Open the image at `path`; raise InputError when it is missing, damaged or not 8-bit RGB."""
    if not path.is_file():
        raise InputError(f"no image {path}.", "the full-resolution H&E image.", "Check raw_root and the image's name.")
    if path.suffix.lower() in TIFF_SUFFIXES:
        return Slide(TiffPixels(path), path.name)
    if path.suffix.lower() in PLAIN_SUFFIXES:
        return Slide(ArrayPixels(_decode(path), _fingerprint(path)), path.name)
    raise InputError(
        f"{path.name} of a kind that is not read.",
        f"one of {', '.join(sorted(TIFF_SUFFIXES | PLAIN_SUFFIXES))}.",
        "Convert the image, for example to a tiled TIFF.",
    )


@dataclass(frozen=True)
class TiffPixels:
    """Pixels of the first level of a TIFF, read window by window."""

    path: Path

    @cached_property
    def _array(self) -> Any:  # noqa: ANN401  a zarr array, whose type depends on the zarr version
        import tifffile
        import zarr

        try:
            with tifffile.TiffFile(self.path) as tiff:
                series = tiff.series[0]
                _refuse_unless_rgb(self.path, series.shape, series.dtype, series.axes)
            store = tifffile.imread(self.path, aszarr=True, level=0, series=0)
            return zarr.open_array(store, mode="r")
        except (tifffile.TiffFileError, IndexError, KeyError, OSError) as error:
            raise _damaged(self.path, error) from error

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return int(self._array.shape[0]), int(self._array.shape[1])

    @cached_property
    def fingerprint(self) -> str:
        """See `Pixels`."""
        return _fingerprint(self.path)

    def crop(self, x0: int, y0: int, width: int, height: int) -> NDArray[np.uint8]:
        """Decode the window; raise InputError naming the place when the file is damaged there."""
        try:
            return np.asarray(self._array[y0 : y0 + height, x0 : x0 + width])[..., :N_RGB]
        except (ValueError, RuntimeError, OSError, IndexError) as error:
            raise InputError(
                f"{self.path.name} is damaged near pixel ({x0}, {y0}): {error}",
                "an image that can be decoded everywhere.",
                "Fetch or export the image again.",
            ) from error


def _decode(path: Path) -> NDArray[np.uint8]:
    import imagecodecs

    try:
        _require_jpeg_end(path)
        image = np.asarray(imagecodecs.imread(str(path)))
    except (ValueError, RuntimeError, OSError) as error:
        raise _damaged(path, error) from error
    _refuse_unless_rgb(path, image.shape, image.dtype, "YXS"[: image.ndim])
    return image if image.shape[2] == N_RGB else _over_white(image)


def _require_jpeg_end(path: Path) -> None:
    """Raise ValueError for a truncated JPEG: the decoder fills what is missing with gray and says nothing."""
    if path.suffix.lower() not in JPEG_SUFFIXES:
        return
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - JPEG_TAIL, 0))
        if JPEG_END not in file.read():
            raise ValueError("it is truncated")


def _over_white(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Composite RGBA over glass, as a viewer shows it."""
    alpha = image[..., 3:].astype(np.float32) / GLASS
    return np.rint(image[..., :N_RGB] * alpha + GLASS * (1 - alpha)).astype(np.uint8)


def _refuse_unless_rgb(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], axes: str) -> None:
    is_tiff = path.suffix.lower() in TIFF_SUFFIXES
    channels = {N_RGB} if is_tiff else {N_RGB, N_RGBA}
    if len(shape) != len("YXS") or axes[:2] != "YX" or shape[2] not in channels or dtype != np.uint8:
        raise InputError(
            f"{path.name} with axes {axes or '?'}, shape {tuple(shape)}, {dtype}.",
            "an H&E image: rows, columns and three channels of 8 bits.",
            "Export the image as 8-bit RGB; fluorescence cannot be used.",
        )


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"{path} cannot be read ({error}).", "a whole image file.", "Fetch or export it again.")


def _fingerprint(path: Path) -> str:
    """Hash size, first and last megabyte: a slide of gigabytes is not read whole to tell it from another."""
    import hashlib

    size, block = path.stat().st_size, 1 << 20
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(block))
        file.seek(max(size - block, 0))
        digest.update(file.read(block))
    return digest.hexdigest()[:16]
