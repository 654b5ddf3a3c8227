"""Nodes of the download pipeline."""

from __future__ import annotations

import logging
from dataclasses import asdict
from typing import Any

from spamcaf.errors import InputError
from spamcaf.pipelines.types import RemoteFiles
from spamcaf.progress import bytes_in_words

logger = logging.getLogger(__name__)

FAILED = "failed"


def fetch_raw_files(remote_files: RemoteFiles) -> dict[str, Any]:
    """Fetch the missing files of a section; what is there is never replaced.

    Returns the download report: `section`, `folder` (raw_root), and `files` with path, status, bytes, sha256, source
    and reason of each. Raises InputError if the disk has no room, or another file lies in the place of a published one.
    """
    from spamcaf.provenance import without_home

    missing = tuple(file for file in remote_files.missing() if file.urls)
    known = remote_files.sizes(missing)
    remote_files.require_room(missing, known)
    unknown = f"{known.count(None)} of unknown size" if None in known else ""
    total = bytes_in_words(sum(size or 0 for size in known)) if any(known) or not unknown else ""
    logger.info(
        "section %s: %d of %d files to fetch, %s, to %s",
        remote_files.section, len(missing), len(remote_files.files),
        " and ".join(filter(None, [total, unknown])), remote_files.root,
    )  # fmt: skip
    outcomes = [asdict(remote_files.fetch(file)) for file in remote_files.files]
    report = {"section": remote_files.section, "folder": str(remote_files.root), "files": outcomes}
    return without_home(report)  # type: ignore[no-any-return]


def require_all_files(download_report: dict[str, Any]) -> None:
    """Raise InputError that lists every file that could not be fetched, with its source and its place."""
    files = download_report["files"]
    failed = [file for file in files if file["status"] == FAILED]
    folder, section = download_report["folder"], download_report["section"]
    if not failed:
        logger.info("section %s: all %d files are in %s", section, len(files), folder)
        return
    by_hand = f"Run again with a connection, which goes on where it stopped, or put them into {folder} by hand:"
    lines = [f"  {file['file']}  <-  {file['source']}  ({file['reason']})" for file in failed]
    raise InputError(
        f"{len(failed)} of the {len(files)} files of section {section} are missing and could not be fetched.",
        f"all of them in {folder}.",
        "\n".join([by_hand, *lines]),
    )
