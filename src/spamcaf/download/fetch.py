"""Fetching the published files of a section: mirrors in turn, resumed where cut off, checked before they are named."""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import urljoin

from spamcaf.download import archive, spec
from spamcaf.download.spec import HEADERS, RemoteFile, host_of, in_words, require_safe
from spamcaf.errors import InputError

if TYPE_CHECKING:
    from requests import Response

logger = logging.getLogger(__name__)

LARGE = 20_000_000
"""Bytes; smaller files get no lines between their first and their last."""


class Progress:
    """What pooch's downloader calls for every piece: `total`, `update`, `reset` and `close` are its names."""

    def __init__(self, name: str) -> None:
        self._name, self._n, self._whole = name, 0, 0
        self._bar: Any = None
        self.total = 0  # set by pooch to the length of the answer, which is the rest only

    def start(self, at: int, whole: int | None) -> None:
        """Show a file of `whole` bytes (None: unknown) of which `at` are there."""
        from tqdm.auto import tqdm

        self._n, self._whole = at, whole or 0
        if sys.stderr.isatty():
            self._bar = tqdm(
                total=whole, initial=at, desc=self._name, unit="B", unit_scale=True, unit_divisor=1000, leave=False
            )

    def update(self, n: int) -> None:
        """Count `n` bytes more."""
        before, self._n = self._tenth, self._n + n
        if self._bar is not None:
            self._bar.update(n)
        elif self._whole >= LARGE and before < self._tenth < 10:  # noqa: PLR2004  the last tenth has its own line
            logger.info("%s: %d0 %% of %s", self._name, self._tenth, in_words(self._whole))

    def reset(self) -> None:
        """Do nothing: pooch counts whole pieces and corrects itself at the end, which a finished bar needs not."""

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    @property
    def _tenth(self) -> int:
        return 10 * self._n // self._whole if self._whole else 0


@dataclass(frozen=True)
class Origin:
    """Where the bytes of a partial file come from: URL, the server's mark of the version, and its whole size."""

    url: str
    mark: str | None  # a strong ETag, or Last-Modified
    total: int | None  # bytes of the whole file, where the server says


class PartialFile:
    """`<file>.part` beside the target, and `<file>.part.json` which says what it is a part of.

    `begin` opens it, once there is an answer worth keeping; `write` and `flush` are what a downloader calls.
    """

    def __init__(self, target: Path) -> None:
        self.target = target
        self.path = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")
        self._handle: BinaryIO | None = None

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def origin(self) -> Origin | None:
        """What the bytes are a part of; None where nothing sure is known."""
        try:
            return Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def can_go_on(self, url: str) -> bool:
        """Tell whether the rest alone can be asked for: same URL, and a mark that shows a change."""
        origin = self.origin
        return self.size > 0 and origin is not None and origin.url == url and origin.mark is not None

    def is_complete(self, url: str) -> bool:
        """Tell whether the bytes are all there, as after a kill between the last byte and the check."""
        origin = self.origin
        return self.can_go_on(url) and origin is not None and origin.total == self.size

    def begin(self, origin: Origin, *, anew: bool) -> None:
        """Open for the bytes that follow, at the end or `anew`, and write down what they are of."""
        self.target.parent.mkdir(parents=True, exist_ok=True)
        self._handle = self.path.open("wb" if anew else "ab")
        self._note.write_text(json.dumps(asdict(origin)), encoding="utf-8")

    def write(self, piece: bytes) -> int:
        """Add a piece."""
        if self._handle is None:
            raise ValueError("nothing has begun")
        return self._handle.write(piece)

    def flush(self) -> None:
        """Hand what was written to the system."""
        if self._handle is not None:
            self._handle.flush()

    def close(self) -> None:
        """Close, leaving the bytes for the next try."""
        if self._handle is not None:
            self._handle.close()
            self._handle = None

    def finish(self) -> None:
        """Move the whole, checked file to its place; what already lies there is never replaced."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        if self.target.exists():
            raise InputError(
                f"{self.target} appeared while it was downloaded.",
                "nobody else to write it.",
                f"Keep it and delete {self.path.name}, or move it away and run again.",
            )
        os.replace(self.path, self.target)
        self._note.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete what is there."""
        self.close()
        self.path.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


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


TIMEOUT_S = (10, 60)
"""Seconds to connect, and between two pieces."""
PIECE = 1 << 17
"""Bytes written at a time; what a broken connection loses at most."""
TOO_MANY, SERVER_ERROR = 429, 500
REFUSALS = {
    401: "refused (401), it asks for a login",
    403: "refused (403), access is not open to everyone or nothing is there",
    404: "not there (404)",
    410: "no longer there (410)",
}


def transfer(file: RemoteFile, url: str, part: PartialFile, progress: Progress) -> None:
    """Bring `file` from `url`, or what `part` lacks of it, into `part`; raise TransferError.

    The rest is asked for with If-Range, so a file that changed on the server starts again, as it does with servers
    that know no ranges. Bytes that arrived before an error stay for the next try.
    """
    import pooch

    if part.is_complete(url):
        return
    headers = dict(HEADERS)
    origin = part.origin
    if part.can_go_on(url) and origin is not None:
        headers |= {"Range": f"bytes={part.size}-", "If-Range": str(origin.mark)}
    look = partial(begin, file=file, url=url, part=part, progress=progress)
    download = pooch.HTTPDownloader(
        progressbar=progress, chunk_size=PIECE, headers=headers, timeout=TIMEOUT_S, hooks={"response": look}
    )
    try:
        _download(download, url, part)
    finally:
        progress.close()
        part.close()
    _require_whole(part)


def _download(download: Any, url: str, part: PartialFile) -> None:  # noqa: ANN401  pooch has no types
    """Run the download; say in a few words what went wrong."""
    import requests

    try:
        download(url, part, None)
    except requests.HTTPError as error:
        code = 0 if error.response is None else error.response.status_code
        reason = REFUSALS.get(code, f"the server answers {code}")
        raise TransferError(reason, again=code in {RANGE_NOT_SATISFIABLE, TOO_MANY} or code >= SERVER_ERROR) from error
    except requests.exceptions.SSLError as error:
        raise TransferError("its provenance_record cannot be verified") from error
    except requests.exceptions.ConnectTimeout as error:
        raise TransferError("no connection in time", again=True, unreachable=True) from error
    except requests.Timeout as error:
        raise TransferError("it stopped answering", again=True) from error
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError) as error:
        raise TransferError("the connection broke", again=True) from error
    except requests.ConnectionError as error:
        # requests reports a connection that breaks while data arrive in the same way
        timed_out = "timed out" in str(error)
        reason = "it stopped answering" if timed_out else "cannot be reached"
        raise TransferError(reason, again=True, unreachable=not timed_out) from error
    except requests.RequestException as error:
        raise TransferError(f"cannot be fetched ({type(error).__name__})") from error


def _require_whole(part: PartialFile) -> None:
    origin = part.origin
    if origin is not None and origin.total is not None and part.size != origin.total:
        if part.size > origin.total:
            part.discard()
        raise TransferError("the connection broke", again=True)
    if part.size == 0:
        raise TransferError("it is empty")


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


class Status(StrEnum):
    """What became of a file."""

    PRESENT = "present"
    FETCHED = "fetched"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one file. `source` is the URL, or where a person finds it; `reason` says why it failed."""

    file: str
    status: Status
    bytes: int | None = None
    sha256: str | None = None
    source: str = ""
    reason: str = ""


@dataclass(frozen=True)
class RemoteFiles:
    """Knows which files of `section` are missing under `root`, how large they are, and fetches one."""

    root: Path
    section: str
    files: tuple[RemoteFile, ...]
    _out_of_reach: set[str] = field(default_factory=set, repr=False, compare=False)

    def is_present(self, file: RemoteFile) -> bool:
        """Tell whether `file` (of an archive: all that it yields) is there; raise InputError if it is another one."""
        place = self._place(file)
        if place is not None:
            _require_same(file, place)
        return self._is_unpacked(file) if file.unpack else place is not None

    def missing(self) -> tuple[RemoteFile, ...]:
        """Return the files that are not there yet."""
        return tuple(file for file in self.files if not self.is_present(file))

    def sizes(self, files: tuple[RemoteFile, ...]) -> list[int | None]:
        """Return the bytes of each file: as pinned, else as its server says, else None."""
        asked = [file.urls[0] for file in files if file.bytes is None and file.urls]
        said = dict(zip(asked, spec.sizes_of(asked), strict=True))
        return [file.bytes or (said[file.urls[0]] if file.urls else None) for file in files]

    def require_room(self, files: tuple[RemoteFile, ...], file_sizes: list[int | None]) -> None:
        """Raise InputError unless the disk has room for what is known to come."""
        there = sum(PartialFile(self.root / file.path).size for file in files)
        spec.require_room(self.root, sum(size or 0 for size in file_sizes) - there)

    def fetch(self, file: RemoteFile) -> Outcome:
        """Fetch `file` unless it is there, and unpack it; a file that cannot be had is an outcome, not an error.

        Raises InputError where what lies there is another file, or an archive cannot be unpacked.
        """
        if self.is_present(file):
            return self._there(file, Status.PRESENT)
        try:
            source = self._bring(file)
        except TransferError as error:
            return Outcome(file.path, Status.FAILED, source=file.urls[0], reason=str(error))
        except OSError as error:
            raise InputError(
                f"{self.root / file.path} cannot be written ({error}).",
                "a folder that may be written, on a disk with room.",
                "Run again when it is: it goes on where it stopped. Or choose another: --params raw_root=<folder>.",
            ) from error
        if source is None:
            return Outcome(file.path, Status.FAILED, source=file.by_hand, reason="has to be put there by hand")
        if file.unpack:
            self._unpack(file)
        return self._there(file, Status.FETCHED, source)

    def _bring(self, file: RemoteFile) -> str | None:
        """Return the URL that gave the file; an archive that is there but not unpacked needs none."""
        if not file.urls:
            return None
        if file.unpack and self._place(file) is not None:
            return file.urls[0]
        return fetch_from_mirrors(file, self.root / file.path, self._out_of_reach)

    def _unpack(self, file: RemoteFile) -> None:
        packed = self.root / file.path
        archive.unpack(packed, str(file.unpack))
        if not self._is_unpacked(file):
            raise InputError(
                f"{packed} without some of {', '.join(file.yields)}.",
                "an archive that holds them.",
                "Move it away and run again, or correct `downloads` in globals.yml.",
            )

    def _there(self, file: RemoteFile, status: Status, url: str = "") -> Outcome:
        place = self._place(file)
        if place is None:  # an archive that was unpacked and thrown away
            return Outcome(file.path, status)
        return Outcome(file.path, status, place.stat().st_size, sha256_of(place), url)

    def _is_unpacked(self, file: RemoteFile) -> bool:
        folder = (self.root / file.path).parent
        return all((folder / path).is_file() for path in file.yields)

    def _place(self, file: RemoteFile) -> Path | None:
        """Return where the file lies; a pattern of a file put there by hand stands for its first match."""
        if "*" in file.path:
            return next((path for path in sorted(self.root.glob(file.path)) if path.is_file()), None)
        path = self.root / file.path
        return path if path.exists() else None


def _require_same(file: RemoteFile, path: Path) -> None:
    wrong = ("no file", "a file") if not path.is_file() else misfit(file, path)
    if wrong:
        raise InputError(
            f"{path} with {wrong[0]}.",
            f"{wrong[1]}, as published; a file that is there is never replaced.",
            "Move it away and run again, or choose another folder with --params raw_root=<folder>.",
        )
