"""Fetching one file: several mirrors in order, each tried again a few times, the result checked before it is named."""

from __future__ import annotations

import logging
import time
from pathlib import Path

from spamcaf.datasets.remote.answer import TransferError
from spamcaf.datasets.remote.partial import PartialFile
from spamcaf.datasets.remote.progress import Progress
from spamcaf.datasets.remote.sizes import in_words
from spamcaf.datasets.remote.spec import RemoteFile
from spamcaf.datasets.remote.transfer import transfer
from spamcaf.datasets.remote.urls import host_of

logger = logging.getLogger(__name__)

TRIES = 3
BACKOFF_S = 1.0
"""Seconds before the second try; twice as long before each further one."""


def fetch_from_mirrors(file: RemoteFile, target: Path, out_of_reach: set[str]) -> str:
    """Bring `file` to `target` and return the URL that gave it; raise TransferError with every mirror's reason.

    `out_of_reach` holds the hosts that did not answer before: they are not asked again, and new ones are added.
    """
    part = PartialFile(target)
    reasons = []
    for url in file.urls:
        host = host_of(url)
        try:
            if host in out_of_reach:
                raise TransferError("cannot be reached")
            _try_again(file, url, part)
        except TransferError as error:
            if error.unreachable:
                out_of_reach.add(host)
            if part.size == 0:
                part.discard()
            reasons.append(f"{host}: {error}")
            logger.warning("%s: %s: %s", file.path, host, error)
            continue
        part.finish()
        logger.info("%s: fetched from %s, %s", file.path, host, in_words(target.stat().st_size))
        return url
    raise TransferError("; ".join(reasons))


def _try_again(file: RemoteFile, url: str, part: PartialFile) -> None:
    """Transfer and check; a try that brought the file further than any before does not count."""
    left, furthest = TRIES, part.size
    while True:
        resumed = part.can_go_on(url)
        if resumed:
            logger.info("%s: going on at %s", file.path, in_words(part.size))
        try:
            transfer(file, url, part, Progress(file.path))
            _check(file, part, resumed)
        except TransferError as error:
            left = TRIES if part.size > furthest else left - 1
            furthest = max(furthest, part.size)
            if not error.again or left <= 0:
                raise
            time.sleep(BACKOFF_S * 2 ** (TRIES - left - 1))
        else:
            return


def _check(file: RemoteFile, part: PartialFile, resumed: bool) -> None:
    """Raise TransferError, leaving nothing, unless size and sha256 are those pinned."""
    wrong = misfit(file, part.path)
    if wrong:
        part.discard()
        # two versions may have been put together, if the server's marks do not tell them apart
        raise TransferError(f"it gives {wrong[0]} in place of {wrong[1]}", again=resumed)


def misfit(file: RemoteFile, path: Path) -> tuple[str, str] | None:
    """Return what `path` has and what `file` pins, where they differ."""
    size = path.stat().st_size
    if file.bytes is not None and size != file.bytes:
        return f"{size} bytes", f"{file.bytes} bytes"
    if file.sha256 is not None and (found := sha256_of(path)) != file.sha256:
        return f"sha256 {found}", f"sha256 {file.sha256}"
    return None


def sha256_of(path: Path) -> str:
    """Return the sha256 of a file's content."""
    import pooch

    return str(pooch.file_hash(str(path), alg="sha256"))
