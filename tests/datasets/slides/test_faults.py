"""A call to what the installed library does not have is a fault of the program, and never said to be damage."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray

from spamcaf.slides import tiff
from spamcaf.slides.open import open_slide

Picture = NDArray[np.uint8]
COMPRESSED = {"photometric": "rgb", "tile": (64, 64), "compression": "zlib"}


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (tifffile.TiffPageSeries, "axes"),
        (tifffile.TiffPageSeries, "dataoffset"),
        (tifffile.TiffPage, "init_decode"),
        (tifffile.TiffPage, "get_resolution"),
    ],
)
def test_what_tifffile_no_longer_has_is_a_traceback(
    tmp_path: Path, image: Picture, owner: type, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **COMPRESSED)
    monkeypatch.delattr(owner, name)
    with pytest.raises(AttributeError, match=name):
        open_slide(tmp_path / "a.tif")


@pytest.mark.parametrize("codec", ["png", "jpeg"])
def test_a_decoder_that_takes_other_arguments_is_a_traceback(
    tmp_path: Path, image: Picture, codec: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(getattr(imagecodecs, f"{codec}_encode")(image))
    monkeypatch.setattr(imagecodecs, f"{codec}_decode", lambda data: image)
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        open_slide(tmp_path / "a")


def test_a_page_whose_decoder_takes_other_arguments_is_a_traceback(
    tmp_path: Path, image: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **COMPRESSED)
    monkeypatch.setattr(tifffile.TiffPage, "decode", property(lambda page: lambda data: data))
    with pytest.raises(TypeError, match="positional argument"):
        open_slide(tmp_path / "a.tif")


def test_the_question_whose_file_it_is_hides_no_fault(
    tmp_path: Path, image: Picture, monkeypatch: pytest.MonkeyPatch
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", image, **COMPRESSED)
    assert not tiff.is_of_scanner(tmp_path / "a.tif")
    monkeypatch.setattr(tifffile, "TiffFile", lambda path, is_ndpi: nullcontext(object()))
    with pytest.raises(AttributeError, match="pages"):
        tiff.is_of_scanner(tmp_path / "a.tif")
    with pytest.raises(AttributeError, match="pages"):
        tiff.require_first_page(tmp_path / "a.tif", is_ndpi=False)


def test_damage_that_tifffile_meets_is_not_taken_for_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(b"II*\0" + b"\xff" * 40)
    assert not tiff.is_of_scanner(tmp_path / "a.tif")
    tiff.require_first_page(tmp_path / "a.tif", is_ndpi=False)
