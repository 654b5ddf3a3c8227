"""Fetching of the published files of a section: mirrors in turn, resumed where cut off, checked before they are named.

A file grows as `<file>.part` beside `<file>.part.json`, which keeps the URL, version and size of what it is a part of.
A later try, or a later run, requests the rest alone with If-Range: a server whose file changed sends the whole again.
An archive is unpacked into its own folder: plain files inside the folder only, and nothing there is replaced.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tarfile
import time
import zipfile
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO
from urllib.parse import urljoin, urlsplit

from spamcaf.download.spec import RemoteFile, is_safe
from spamcaf.errors import InputError, is_fault_of_ours
from spamcaf.progress import Progress, bytes_in_words

if TYPE_CHECKING:
    from requests import Response, Session

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
        for file in sorted(path for path in temporary.rglob("*") if path.is_file()):
            target = archive.parent / file.relative_to(temporary)
            if target.exists():
                logger.info("%s is there already and is kept", target)
                continue
            with file.open("rb") as handle:
                os.fsync(handle.fileno())
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(file, target)
    except (InputError, MemoryError):
        raise
    except Exception as error:  # there is no end to the types that libraries raise at broken content
        if is_fault_of_ours(error):
            raise
        found = f"{archive} cannot be unpacked ({error})."
        raise InputError(found, f"a whole {kind} archive.", "Move it away and run again.") from error
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


HEADERS = {"User-Agent": "spamcaf", "Accept-Encoding": "identity"}  # some hosts refuse the name of requests
TIMEOUT_S = (10, 60)  # to connect, and between two pieces
PIECE = 1 << 17  # bytes written at a time; what a broken connection loses at most
MAX_BYTES = 500 * 10**9  # of a file whose size nobody states
SLACK = 1 << 20  # bytes beyond the stated size, after which nothing more is taken
MIN_FREE = 10**8  # bytes of the disk that a download leaves free
TRIES = 3  # of one URL, in a row that brings the file no further
BACKOFF_S = 1.0  # before the second try; doubled before each further one
OK, PARTIAL_CONTENT, RANGE_NOT_SATISFIABLE, TOO_MANY, SERVER_ERROR = 200, 206, 416, 429, 500
REFUSALS = {
    401: "refused (401), a login is required",
    403: "refused (403), access is not open to everyone or nothing is there",
    404: "not there (404)",
    410: "no longer there (410)",
}


class Status(StrEnum):
    """What became of a file."""

    PRESENT = "present"
    FETCHED = "fetched"
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    file: str
    status: Status
    bytes: int | None = None
    sha256: str | None = None
    source: str = ""  # the URL, or where a person finds it
    reason: str = ""  # of a failure: what each mirror gave


@dataclass(frozen=True)
class RemoteFiles:
    """The published files of `section`: which are missing under `root`, how large they are, and how to fetch one."""

    root: Path
    section: str
    files: tuple[RemoteFile, ...]
    _out_of_reach: set[str] = field(default_factory=set, repr=False, compare=False)  # hosts

    def is_present(self, file: RemoteFile) -> bool:
        """Tell whether `file` (of an archive: all that it yields) is there; raise InputError if it is another one."""
        path = self._find(file)
        wrong = path and (_mismatch(file, path) if path.is_file() else ("no file", "a file"))
        if wrong:
            raise InputError(
                f"{path} with {wrong[0]}.",
                f"{wrong[1]}, as published; a file that is there is never replaced.",
                "Move it away and run again, or choose another folder with --params raw_root=<folder>.",
            )
        return self._is_unpacked(file) if file.unpack else path is not None

    def missing(self) -> tuple[RemoteFile, ...]:
        """Return the files that are not there yet."""
        return tuple(file for file in self.files if not self.is_present(file))

    def sizes(self, files: tuple[RemoteFile, ...]) -> list[int | None]:
        """Return the bytes of each file: as pinned, else as its server gives them, else None."""
        silent: set[str] = set()
        return [file.bytes or _size_on_server(file, silent) for file in files]

    def require_room(self, files: tuple[RemoteFile, ...], file_sizes: list[int | None]) -> None:
        """Raise InputError unless the disk has room for `files`, of `file_sizes` bytes where known."""
        present = sum(_Download(file, self.root / file.path).size for file in files)
        require_room(self.root, sum(size or 0 for size in file_sizes) - present)

    def fetch(self, file: RemoteFile) -> Outcome:
        """Fetch one of `files` unless it is there, and unpack it.

        Returns
        -------
        Outcome
            Also where the file cannot be had: then its status is FAILED, and `reason` tells what each mirror gave.

        Raises
        ------
        InputError
            If another file lies in its place, the folder cannot be written, or an archive cannot be unpacked.
        """
        if self.is_present(file):
            return self._outcome(file, Status.PRESENT)
        if not file.urls:
            return Outcome(file.path, Status.FAILED, source=file.by_hand, reason="has to be put there by hand")
        path, url = self.root / file.path, file.urls[0]
        try:
            if not (file.unpack and path.exists()):  # an archive that is there needs unpacking only
                url = _Download(file, path).run(self._out_of_reach)
        except _TransferError as error:
            return Outcome(file.path, Status.FAILED, source=url, reason=str(error))
        except OSError as error:
            raise InputError(
                f"{path} cannot be written ({error}).",
                "a folder that may be written, on a disk with room.",
                "Run again when it is: it goes on where it stopped. Or choose another: --params raw_root=<folder>.",
            ) from error
        if file.unpack:
            unpack(path, file.unpack)
        if not self._is_unpacked(file):
            raise InputError(
                f"{path} without some of {', '.join(file.yields)}.",
                "an archive that holds them.",
                "Move it away and run again, or correct `downloads` in globals.yml.",
            )
        return self._outcome(file, Status.FETCHED, url)

    def _is_unpacked(self, file: RemoteFile) -> bool:
        return all(((self.root / file.path).parent / path).is_file() for path in file.yields)

    def _outcome(self, file: RemoteFile, status: Status, url: str = "") -> Outcome:
        path = self._find(file)
        if path is None:  # an archive that was unpacked and deleted
            return Outcome(file.path, status)
        return Outcome(file.path, status, path.stat().st_size, _sha256_of(path), url)

    def _find(self, file: RemoteFile) -> Path | None:
        if "*" in file.path:  # of a file put there by hand: the first match stands for it
            return next((path for path in sorted(self.root.glob(file.path)) if path.is_file()), None)
        path = self.root / file.path
        return path if path.exists() else None


class _TransferError(Exception):
    """A URL did not give the file: the reason in a few words, and whether another try may help."""

    def __init__(self, reason: str, *, again: bool = False, unreachable: bool = False) -> None:
        super().__init__(reason)
        self.again, self.unreachable = again, unreachable


@dataclass(frozen=True)
class _Origin:
    """What the bytes of a partial file are a part of."""

    url: str
    mark: str | None  # of the version: a strong ETag, or Last-Modified
    total: int | None  # bytes of the whole file, where the server gives them


class _Download:
    """The way of one file to `target`."""

    def __init__(self, file: RemoteFile, target: Path) -> None:
        self._file, self._target = file, target
        self._part = target.with_name(f"{target.name}.part")
        self._note = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._part.stat().st_size if self._part.is_file() else 0

    def run(self, out_of_reach: set[str]) -> str:
        """Return the mirror that gave the file; raise _TransferError with the reason of each if none did.

        Hosts in `out_of_reach` get no request; those that cannot be reached are added.
        """
        reasons = []
        for url in self._file.urls:
            host = _host_of(url)
            try:
                if host in out_of_reach:
                    raise _TransferError("cannot be reached")
                self._try(url)
            except _TransferError as error:
                if error.unreachable:
                    out_of_reach.add(host)
                if self.size == 0:
                    self._discard()
                reasons.append(f"{host}: {error}")
                logger.warning("%s: %s: %s", self._file.path, host, error)
                continue
            self._finish()
            size = bytes_in_words(self._target.stat().st_size)
            logger.info("%s: fetched from %s, %s", self._file.path, host, size)
            return url
        raise _TransferError("; ".join(reasons))

    def _try(self, url: str) -> None:
        """Transfer and check, a few times; a try that brought the file further than any before does not count."""
        failures, furthest = 0, self.size
        while True:
            origin = self._origin(url)
            if origin:
                logger.info("%s: going on at %s", self._file.path, bytes_in_words(self.size))
            try:
                self._transfer(url, origin)
                if wrong := _mismatch(self._file, self._part):
                    self._discard()
                    # two versions may have been put together, if the server's marks do not tell them apart
                    raise _TransferError(f"it gives {wrong[0]} in place of {wrong[1]}", again=origin is not None)
                return
            except _TransferError as error:
                failures = 0 if self.size > furthest else failures + 1
                furthest = max(furthest, self.size)
                if not error.again or failures >= TRIES:
                    raise
                time.sleep(BACKOFF_S * 2 ** (failures - 1))

    def _origin(self, url: str) -> _Origin | None:
        """Return what the bytes so far are a part of, where `url` can give the rest and a mark shows a changed file."""
        try:
            origin = _Origin(**json.loads(self._note.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return origin if self.size and origin.url == url and origin.mark else None

    def _transfer(self, url: str, origin: _Origin | None) -> None:
        """Bring what is lacking; bytes that arrive before an error stay for the next try."""
        import requests

        if origin and origin.total == self.size:  # after a kill between the last byte and the check
            return
        rest = {"Range": f"bytes={self.size}-", "If-Range": str(origin.mark)} if origin else {}
        try:
            with _session(self._file) as session:
                response = session.get(url, headers=rest, stream=True, timeout=TIMEOUT_S)
                found = self._origin_of(response, url, origin)
                self._write(response, found)
        except requests.RequestException as error:
            raise _in_words(error) from error
        if found.total is not None and self.size != found.total:
            if self.size > found.total:
                self._discard()
            raise _TransferError("the connection broke", again=True)
        if self.size == 0:
            raise _TransferError("it is empty")

    def _origin_of(self, response: Response, url: str, origin: _Origin | None) -> _Origin:
        """Return what the answer is (a part) of; raise _TransferError, before a byte is written, if it is of no use."""
        code, headers = response.status_code, response.headers
        if code == RANGE_NOT_SATISFIABLE:
            self._discard()
        if code not in {OK, PARTIAL_CONTENT}:
            again = code in {RANGE_NOT_SATISFIABLE, TOO_MANY} or code >= SERVER_ERROR
            raise _TransferError(REFUSALS.get(code, f"the server answers {code}"), again=again)
        if headers.get("content-type", "").lower().startswith("text/html"):
            raise _TransferError("it gives a web page in place of the file")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _TransferError("it compresses the file on the way, so that its size cannot be checked")
        etag, length = headers.get("etag", ""), headers.get("content-length", "")
        mark = etag if etag.startswith('"') else headers.get("last-modified")  # a weak ETag allows other bytes
        if code == PARTIAL_CONTENT:
            span = f"bytes {self.size}-{origin.total - 1}/{origin.total}" if origin and origin.total else ""
            # not every server heeds If-Range
            if not origin or headers.get("content-range") != span or mark not in {None, origin.mark}:
                self._discard()
                raise _TransferError("it gives the rest of another version, or another part", again=True)
            return origin
        found = _Origin(url, mark, int(length) if length.isdigit() else None)
        if found.total is not None and self._file.bytes not in {None, found.total}:
            raise _TransferError(f"it gives {length} bytes in place of {self._file.bytes} bytes")
        shows_end = found.total is not None or "chunked" in headers.get("transfer-encoding", "").lower()
        if not shows_end and self._file.bytes is None and self._file.sha256 is None:
            raise _TransferError("it does not tell how long the file is, so that a part could pass for the whole")
        return found

    def _write(self, response: Response, origin: _Origin) -> None:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        with self._part.open("ab" if response.status_code == PARTIAL_CONTENT else "wb") as part:
            # only now that bytes of another origin are gone, so that the note never stands beside them
            self._note.write_text(json.dumps(asdict(origin)), encoding="utf-8")
            with Progress(origin.total, "bytes", self._file.path, is_bytes=True, start=self.size) as progress:
                for piece in response.iter_content(PIECE):
                    part.write(piece)
                    progress.advance(len(piece))
                    self._require_end(part, origin.total)

    def _require_end(self, part: BinaryIO, total: int | None) -> None:
        """Raise _TransferError, and keep nothing, once a body is longer than the file is, or than any file is."""
        n_bytes, expected = part.tell(), self._file.bytes or total
        is_longer = n_bytes > (expected + SLACK if expected else MAX_BYTES)
        if not is_longer and shutil.disk_usage(self._part.parent).free >= MIN_FREE:
            return
        part.truncate(0)
        if is_longer:
            in_words = f"{expected} bytes" if expected else f"at most {bytes_in_words(MAX_BYTES)}"
            raise _TransferError(f"it gives {n_bytes} bytes and more in place of {in_words}")
        raise _TransferError(f"it fills the disk: less than {bytes_in_words(MIN_FREE)} are free")

    def _finish(self) -> None:
        with self._part.open("rb") as part:
            os.fsync(part.fileno())
        if self._target.exists():
            next_step = f"Keep it and delete {self._part.name}, or move it away and run again."
            raise InputError(f"{self._target} appeared while it was downloaded.", "nobody else to write it.", next_step)
        os.replace(self._part, self._target)
        self._note.unlink(missing_ok=True)

    def _discard(self) -> None:
        self._part.unlink(missing_ok=True)
        self._note.unlink(missing_ok=True)


def _session(file: RemoteFile) -> Session:
    """Return a session that follows redirects to safe URLs only, and raises _TransferError at others."""
    import requests

    def require_safe_redirect(response: Response, *_: object, **__: object) -> None:
        if response.is_redirect:
            place = urljoin(response.url, response.headers["location"])
            if not is_safe(place, file.allow_http):
                raise _TransferError(f"it leads to {place}, which is not https")

    session = requests.Session()
    session.headers.update(HEADERS)
    session.hooks["response"].append(require_safe_redirect)
    return session


def _in_words(error: Exception) -> _TransferError:
    from requests import exceptions as kinds

    if isinstance(error, kinds.SSLError):
        return _TransferError("its certificate cannot be verified")
    if isinstance(error, kinds.ConnectTimeout):
        return _TransferError("no connection in time", again=True, unreachable=True)
    # a silence while data arrive is a ConnectionError of requests
    if isinstance(error, kinds.Timeout) or (isinstance(error, kinds.ConnectionError) and "timed out" in str(error)):
        return _TransferError("it stopped answering", again=True)
    if isinstance(error, kinds.ChunkedEncodingError | kinds.ContentDecodingError):
        return _TransferError("the connection broke", again=True)
    if isinstance(error, kinds.ConnectionError):
        return _TransferError("cannot be reached", again=True, unreachable=True)
    return _TransferError(f"cannot be fetched ({type(error).__name__})")


def _size_on_server(file: RemoteFile, silent: set[str]) -> int | None:
    """Return the bytes that the first URL's server gives; hosts that are `silent` are skipped, new ones are added."""
    import requests

    if not file.urls or _host_of(file.urls[0]) in silent:
        return None
    try:
        with _session(file) as session:
            response = session.head(file.urls[0], timeout=TIMEOUT_S[0], allow_redirects=True)
    except _TransferError:
        return None
    except requests.RequestException:
        silent.add(_host_of(file.urls[0]))
        return None
    length = response.headers.get("content-length", "")
    return (int(length) or None) if response.ok and length.isdigit() else None


def _host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


def _mismatch(file: RemoteFile, path: Path) -> tuple[str, str] | None:
    """Return what `path` has and what `file` pins, where they differ."""
    size = path.stat().st_size
    if file.bytes not in {None, size}:
        return f"{size} bytes", f"{file.bytes} bytes"
    if file.sha256 is not None and (found := _sha256_of(path)) != file.sha256:
        return f"sha256 {found}", f"sha256 {file.sha256}"
    return None


def _sha256_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
