"""Unpacking of an archive into its own folder: plain files inside the folder only, and nothing there is replaced."""

from __future__ import annotations

import logging
import os
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.progress import bytes_in_words

logger = logging.getLogger(__name__)


def unpack(archive: Path, kind: str) -> None:
    """Unpack an archive into its own folder.

    The content is written to a temporary folder first, so that a kill leaves no half-written file under a final name.

    Parameters
    ----------
    archive
        The archive's path. Files beside it that have the name of a member are kept.
    kind
        "tar" (compressed or not) or "zip".

    Raises
    ------
    InputError
        If the archive is damaged, or the disk has no room, or any member is a link, a device, or a path that leads out
        of the folder; nothing is unpacked then.
    """
    temporary = archive.with_name(f".{archive.name}.unpacking")
    shutil.rmtree(temporary, ignore_errors=True)  # of a killed run
    try:
        with tarfile.open(archive) if kind == "tar" else zipfile.ZipFile(archive) as packed:
            _require_harmless(packed, archive)
            if isinstance(packed, tarfile.TarFile):
                packed.extractall(temporary, filter="data")
            else:
                packed.extractall(temporary)  # noqa: S202  members are checked above
        _move_new(temporary, archive.parent)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # there is no end to the types that libraries raise at broken content
        if is_fault_of_ours(error):
            raise
        raise InputError(
            f"{archive} cannot be unpacked ({error}).", f"a whole {kind} archive.", "Move it away and run again."
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def require_room(folder: Path, n_bytes: int) -> None:
    """Raise InputError unless the disk of `folder` (which need not exist yet) has `n_bytes` free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < n_bytes:
        raise InputError(
            f"{bytes_in_words(free)} free on the disk of {folder}.",
            f"room for {bytes_in_words(n_bytes)}.",
            "Free some space, or choose another place: --params raw_root=<folder>.",
        )


def _require_harmless(packed: tarfile.TarFile | zipfile.ZipFile, archive: Path) -> None:
    # stricter than tarfile's own filter, which accepts links within the folder and makes absolute paths relative
    if isinstance(packed, tarfile.TarFile):
        members = [(member.name, member.size, member.isfile() or member.isdir()) for member in packed.getmembers()]
    else:
        members = [(member.filename, member.file_size, True) for member in packed.infolist()]
    for name, _, is_plain in members:
        if not is_plain or name.startswith("/") or ".." in PurePosixPath(name).parts or "\\" in name or ":" in name:
            raise InputError(
                f"{archive} holds '{name}', which is a link or leads out of its folder.",
                "an archive of plain files.",
                "Do not unpack it; fetch it from its publisher again.",
            )
    require_room(archive.parent, sum(size for _, size, _ in members))


def _move_new(temporary: Path, folder: Path) -> None:
    for file in sorted(path for path in temporary.rglob("*") if path.is_file()):
        target = folder / file.relative_to(temporary)
        if target.exists():
            logger.info("%s is there already and is kept", target)
            continue
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(file, target)
