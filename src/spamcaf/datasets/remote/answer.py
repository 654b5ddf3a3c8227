"""Looking at the head of a server's answer before its bytes are written."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

from spamcaf.datasets.remote.partial import Origin
from spamcaf.datasets.remote.urls import require_safe

if TYPE_CHECKING:
    from requests import Response

    from spamcaf.datasets.remote.partial import PartialFile
    from spamcaf.datasets.remote.progress import Progress
    from spamcaf.datasets.remote.spec import RemoteFile

OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE = 200, 206, 416


class TransferError(Exception):
    """A URL did not give the file: the reason in a few words, and whether another try may help."""

    def __init__(self, reason: str, *, again: bool = False, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.again, self.unreachable = again, unreachable


def begin(
    response: Response, *_: object, file: RemoteFile, url: str, part: PartialFile, progress: Progress, **__: object
) -> None:  # fmt: skip
    """Look at the head of an answer before its bytes are written: whole or rest, of which version, of what kind."""
    if response.is_redirect:
        _require_safe_redirect(response, file.allow_http)
        return
    if response.status_code == RANGE_NOT_SATISFIABLE:
        part.discard()
    if not response.ok:
        return  # pooch raises
    _require_file(response)
    total = _total(response, part.size)
    if response.status_code == PARTIAL_CONTENT:
        _require_same_version(response, part, total)
    _require_measured(file, response, total)
    part.begin(Origin(url, _mark(response), total), anew=response.status_code == OK)
    progress.start(part.size, total)


def _require_safe_redirect(response: Response, allow_http: bool) -> None:
    place = urljoin(response.url, response.headers["location"])
    try:
        require_safe(place, allow_http)
    except ValueError as error:
        raise TransferError(f"it leads to {place}, which is not https") from error


def _require_file(response: Response) -> None:
    kind = response.headers.get("content-type", "").lower()
    if response.status_code not in {OK, PARTIAL_CONTENT}:
        raise TransferError(f"the server answers {response.status_code}")
    if kind.startswith("text/html"):
        raise TransferError("it gives a web page in place of the file")
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise TransferError("it compresses the file on the way, so that its size cannot be checked")


def _total(response: Response, size: int) -> int | None:
    """Return the size of the whole file; raise TransferError for a rest that is not the one asked for."""
    if response.status_code == PARTIAL_CONTENT:
        asked = response.request.headers.get("range") == f"bytes={size}-"
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("content-range", ""))
        if not asked or not found or int(found[1]) != size or int(found[2]) + 1 != int(found[3]):
            raise TransferError("it gives another part of the file than asked for")
        return int(found[3])
    length = response.headers.get("content-length", "")
    return int(length) if length.isdigit() else None


def _require_same_version(response: Response, part: PartialFile, total: int | None) -> None:
    """Drop the part and raise TransferError where a server that knows no If-Range gives the rest of another version."""
    origin, mark = part.origin, _mark(response)
    if origin is None or total != origin.total or (mark is not None and mark != origin.mark):
        part.discard()
        raise TransferError("the file changed on the server", again=True)


def _require_measured(file: RemoteFile, response: Response, total: int | None) -> None:
    """Raise TransferError for a size that is wrong from the start, or that nothing could show to be whole."""
    if total is not None and file.bytes is not None and total != file.bytes:
        raise TransferError(f"it gives {total} bytes in place of {file.bytes} bytes")
    chunked = "chunked" in response.headers.get("transfer-encoding", "").lower()
    if total is None and not chunked and file.bytes is None and file.sha256 is None:
        raise TransferError("it does not say how long the file is, so that a part could pass for the whole")


def _mark(response: Response) -> str | None:
    """Return what identifies the version: a strong ETag, else Last-Modified."""
    etag = response.headers.get("etag", "")
    return etag if etag.startswith('"') else response.headers.get("last-modified")
