"""Scale factors are numbers above 0; diameters may be missing; what is odd is named with its file."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from spamcaf.errors import InputError
from spamcaf.readers.visium import read_scalefactors
from spamcaf.readers.visium_files import Sample

FACTORS = {"spot_diameter_fullres": 89.5, "fiducial_diameter_fullres": 144.5, "tissue_hires_scalef": 0.17}
DIAMETERS = ["spot_diameter_fullres", "fiducial_diameter_fullres"]


def read(folder: Path, content: str | bytes, name: str = "scalefactors_json.json") -> dict[str, float]:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return read_scalefactors(Sample(folder, "", "S1"))


@pytest.mark.parametrize(
    "content",
    [
        json.dumps(FACTORS),
        json.dumps({name: str(value) for name, value in FACTORS.items()}),
        json.dumps(FACTORS | {"regist_target_img_scalef": "of no interest"}),
        "\ufeff" + json.dumps(FACTORS),
        gzip.compress(json.dumps(FACTORS).encode()),
    ],
    ids=["as written", "numbers as text", "another key", "byte order mark", "gzipped"],
)
def test_numbers_are_read(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == FACTORS


@pytest.mark.parametrize("value", [None, 0, 0.0])
@pytest.mark.parametrize("name", DIAMETERS)
def test_a_diameter_that_is_not_known_is_left_out(tmp_path: Path, name: str, value: object) -> None:
    assert name not in read(tmp_path, json.dumps(FACTORS | {name: value}))


def test_a_file_without_diameters_is_read(tmp_path: Path) -> None:
    assert read(tmp_path, '{"tissue_lowres_scalef": 0.05}') == {"tissue_lowres_scalef": 0.05}
    assert read(tmp_path, "{}") == {}


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), "wide", [1], True, 10**400])
@pytest.mark.parametrize("name", [*DIAMETERS, "tissue_hires_scalef", "bin_size_um", "microns_per_pixel"])
def test_an_odd_number_is_named_with_its_file(tmp_path: Path, name: str, value: object) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, json.dumps(FACTORS | {name: value}))
    assert f"Found: {name} = {value!r} in {tmp_path / 'scalefactors_json.json'}." in str(caught.value)


def test_a_scale_of_0_is_odd(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tissue_hires_scalef = 0 in "):
        read(tmp_path, json.dumps(FACTORS | {"tissue_hires_scalef": 0}))


@pytest.mark.parametrize("content", ["{", "", "[1]", "3", '"spot_diameter_fullres"', b"\xff\xfe\0"])
def test_what_is_no_record_cannot_be_read(tmp_path: Path, content: str | bytes) -> None:
    with pytest.raises(InputError, match=r"scalefactors_json\.json cannot be read"):
        read(tmp_path, content)


def test_a_fault_of_ours_is_no_damage_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json, "loads", lambda: None)
    with pytest.raises(TypeError, match="argument"):
        read(tmp_path, "{}")
