"""Unpacking an archive beside itself: regular files inside the folder only, and nothing that exists is replaced."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from spamcaf.download.spec import require_room
from spamcaf.errors import InputError

logger = logging.getLogger(__name__)

Packed = tarfile.TarFile | zipfile.ZipFile


class Member(NamedTuple):
    """One entry of an archive."""

    name: str
    size: int
    is_file: bool
    is_folder: bool
    info: tarfile.TarInfo | zipfile.ZipInfo


def unpack(archive: Path, kind: str) -> None:
    """Unpack `archive` ("tar", compressed or not, or "zip") into its own folder; raise InputError.

    An archive that holds links, devices or paths that lead elsewhere is refused as a whole. Everything is unpacked
    elsewhere first, so a kill leaves no half file under a true name.
    """
    aside = archive.with_name(f".{archive.name}.unpacking")
    shutil.rmtree(aside, ignore_errors=True)  # of a killed run
    try:
        with _opened(archive, kind) as packed:
            members = _members(packed)
            _require_harmless(archive, members)
            require_room(archive.parent, sum(m.size for m in members))
            for member in members:
                if member.is_file:
                    _write(packed, member, aside / member.name)
        _move_new(aside, archive.parent)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise InputError(
            f"{archive} cannot be unpacked ({error}).", f"a whole {kind} archive.", "Move it away and run again."
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def _opened(archive: Path, kind: str) -> Iterator[Packed]:
    with tarfile.open(archive) if kind == "tar" else zipfile.ZipFile(archive) as packed:
        yield packed


def _members(packed: Packed) -> list[Member]:
    if isinstance(packed, tarfile.TarFile):
        return [Member(m.name, m.size, m.isfile(), m.isdir(), m) for m in packed.getmembers()]
    return [Member(m.filename, m.file_size, not m.is_dir(), m.is_dir(), m) for m in packed.infolist()]


def _require_harmless(archive: Path, members: list[Member]) -> None:
    for member in members:
        parts = PurePosixPath(member.name).parts
        leads_out = member.name.startswith("/") or ".." in parts or "\\" in member.name or ":" in member.name
        if leads_out or not (member.is_file or member.is_folder):
            raise InputError(
                f"{archive} holds '{member.name}', which is a link or leads out of its folder.",
                "an archive of plain files.",
                "Do not unpack it; fetch it from its publisher again.",
            )


def _write(packed: Packed, member: Member, place: Path) -> None:
    # copied by hand: tarfile's own filter of members came to Python 3.11 in a patch release
    place.parent.mkdir(parents=True, exist_ok=True)
    with _content(packed, member) as source, place.open("wb") as target:
        shutil.copyfileobj(source, target)
        target.flush()
        os.fsync(target.fileno())


def _content(packed: Packed, member: Member) -> IO[bytes]:
    if isinstance(packed, zipfile.ZipFile):
        return packed.open(member.name)
    source = packed.extractfile(member.name)
    if source is None:
        raise tarfile.ReadError(f"no content of {member.name}")
    return source


def _move_new(aside: Path, folder: Path) -> None:
    for file in sorted(p for p in aside.rglob("*") if p.is_file()):
        place = folder / file.relative_to(aside)
        if place.exists():
            logger.info("%s is there already and is kept", place)
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, place)
