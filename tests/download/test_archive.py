"""Archives: plain files only, inside the folder only, nothing replaced."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spamcaf.download import fetch
from spamcaf.download.fetch import RemoteFiles, Status
from spamcaf.errors import InputError

Make = Callable[..., RemoteFiles]
GOOD = {"spatial/positions.csv": b"a,b\n", "spatial/scale.json": b"{}"}
ENTRY: dict[str, Any] = {"path": "{section}/spatial.tar.gz", "unpack": "tar", "yields": sorted(GOOD)}


def tar(files: dict[str, bytes], *special: tarfile.TarInfo) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for info in special:
            packed.addfile(info)
    return stream.getvalue()


def zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return stream.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "S1"


def everything(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(("kind", "pack"), [("tar", tar), ("zip", zipped)])
def test_an_archive_is_fetched_and_unpacked(site: Any, dataset: Make, folder: Path, kind: str, pack: Any) -> None:
    packed = pack(GOOD)
    handle = dataset({**ENTRY, "urls": site.put("a", packed), "unpack": kind})
    assert handle.fetch(handle.files[0]).status == Status.FETCHED
    assert everything(folder) == {**GOOD, "spatial.tar.gz": packed}
    assert handle.fetch(handle.files[0]).status == Status.PRESENT


def test_what_was_unpacked_by_hand_needs_no_archive(site: Any, dataset: Make, folder: Path) -> None:
    for name, content in GOOD.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    handle = dataset({**ENTRY, "urls": site.url("a")})
    assert handle.fetch(handle.files[0]).status == Status.PRESENT
    assert site.requests == []


def test_an_archive_put_there_by_hand_is_unpacked(site: Any, dataset: Make, folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "spatial.tar.gz").write_bytes(tar(GOOD))
    handle = dataset({**ENTRY, "urls": site.url("a")})
    assert handle.fetch(handle.files[0]).status == Status.FETCHED
    assert site.requests == []
    assert GOOD.items() <= everything(folder).items()


def test_files_that_exist_are_kept(site: Any, dataset: Make, folder: Path) -> None:
    (folder / "spatial").mkdir(parents=True)
    (folder / "spatial/scale.json").write_bytes(b"mine")
    handle = dataset({**ENTRY, "urls": site.put("a", tar(GOOD))})
    handle.fetch(handle.files[0])
    assert everything(folder)["spatial/scale.json"] == b"mine"
    assert everything(folder)["spatial/positions.csv"] == GOOD["spatial/positions.csv"]


HOSTILE = {
    "parent folder": ("tar", tar({**GOOD, "../../evil": b"x"})),
    "absolute path": ("tar", tar({**GOOD, "/tmp/evil": b"x"})),
    "symbolic link": ("tar", tar(GOOD, link("spatial/out", "/etc"))),
    "hard link": ("tar", tar(GOOD, link("spatial/out", "../../secret", tarfile.LNKTYPE))),
    "device": ("tar", tar(GOOD, link("spatial/null", "", tarfile.CHRTYPE))),
    "zip, parent folder": ("zip", zipped({**GOOD, "../../evil": b"x"})),
    "zip, path of a drive": ("zip", zipped({**GOOD, "C:evil": b"x"})),
    "zip, backslash": ("zip", zipped({**GOOD, "..\\evil": b"x"})),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_archive_is_refused_as_a_whole(site: Any, dataset: Make, folder: Path, case: str) -> None:
    kind, packed = HOSTILE[case]
    handle = dataset({**ENTRY, "urls": site.put("a", packed), "unpack": kind})
    with pytest.raises(InputError, match="a link or leads out of its folder"):
        handle.fetch(handle.files[0])
    assert list(everything(folder.parent)) == ["S1/spatial.tar.gz"]
    assert not list(folder.parent.parent.rglob("*evil*"))


def test_permissions_of_an_archive_are_not_taken_over(tmp_path: Path) -> None:
    info = tarfile.TarInfo("tool")
    info.mode = 0o4777
    (tmp_path / "a").write_bytes(tar({}, info))
    fetch.unpack(tmp_path / "a", "tar")
    assert (tmp_path / "tool").stat().st_mode & 0o7022 == 0


def odd(**headers: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as packed:
        info = tarfile.TarInfo("a.csv")
        info.pax_headers = headers
        packed.addfile(info)
    return stream.getvalue()


BROKEN = {
    "cut": tar({"spatial/big": bytes(range(256)) * 500})[:300],
    "not an archive": b"what is this",
    "flipped": tar(GOOD)[:40] + b"\x00\xff\x00\xff" + tar(GOOD)[44:],
    "a time beyond all clocks": odd(mtime="1e30"),
    "a name with a zero byte": odd(path="a\0.csv"),
}


@pytest.mark.parametrize("case", BROKEN)
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_a_broken_archive_is_an_input_error(tmp_path: Path, case: str, kind: str) -> None:
    (tmp_path / "a").write_bytes(BROKEN[case])
    with pytest.raises(InputError, match="cannot be unpacked"):
        fetch.unpack(tmp_path / "a", kind)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_archive_without_the_files_is_an_input_error(site: Any, dataset: Make) -> None:
    handle = dataset({**ENTRY, "urls": site.put("a", tar({"other.txt": b"x"}))})
    with pytest.raises(InputError, match="without some of spatial/positions.csv"):
        handle.fetch(handle.files[0])


def test_what_a_killed_run_left_is_cleaned_up(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(tar(GOOD))
    (tmp_path / ".a.unpacking").mkdir()
    (tmp_path / ".a.unpacking" / "half").write_bytes(b"x")
    fetch.unpack(tmp_path / "a", "tar")
    assert everything(tmp_path).keys() == {"a", *GOOD}
