"""A server on this machine that misbehaves on demand, and the files of a section that lie on it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from spamcaf.datasets.remote_files import RemoteFilesDataset
from spamcaf.download import fetch
from spamcaf.download.fetch import RemoteFiles
from tests.servers import Quiet, serving


@dataclass
class Page:
    """One path of the server, and how it behaves."""

    content: bytes
    status: int = 200
    ranges: bool = True
    heeds_if_range: bool = True
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"v1"', "Content-Type": "application/x-tar"})
    n_sent: int = 0
    cuts: list[int] = field(default_factory=list)  # the nth GET ends after so many bytes
    gives_length: bool = True
    pause_s: float = 0.0
    before: Callable[[], object] = lambda: None  # runs before the bytes of a GET are sent
    repeats: int = 1  # the body of a GET is sent so many times
    shift: int = 0  # a part begins so many bytes too late


@dataclass
class Site:
    """What the server has, and the requests that it got."""

    address: str = ""
    pages: dict[str, Page] = field(default_factory=dict)
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)

    def url(self, name: str) -> str:
        return f"{self.address}/{name}"

    def put(self, name: str, content: bytes, **how: Any) -> str:
        self.pages[f"/{name}"] = Page(content, **how)
        return self.url(name)

    @property
    def gets(self) -> list[tuple[str, str | None]]:
        return [(path, span) for method, path, span in self.requests if method == "GET"]


class Handler(Quiet):
    site: Site

    def do_HEAD(self) -> None:
        self.answer("HEAD")

    def do_GET(self) -> None:
        self.answer("GET")

    def answer(self, method: str) -> None:
        span = self.headers.get("Range")
        self.site.requests.append((method, self.path, span))
        page = self.site.pages.get(self.path, Page(b"", status=404))
        if (self.headers["User-Agent"], self.headers["Accept-Encoding"]) != ("spamcaf", "identity"):
            page = Page(b"", status=400)
        body, status, extra = page.content, page.status, {}
        if method == "GET" and status == 200 and span and page.ranges and self.same_version(page):
            start = int(span.removeprefix("bytes=").rstrip("-")) + page.shift
            whole = len(page.content)
            status, body = (206, body[start:]) if start < whole else (416, b"")
            extra["Content-Range"] = f"bytes {start}-{whole - 1}/{whole}" if status == 206 else f"bytes */{whole}"
        self.send_response(status)
        for name, value in {**page.headers, **extra}.items():
            self.send_header(name, value)
        if page.gives_length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if method == "GET":
            page.before()
            time.sleep(page.pause_s)
            with suppress(ConnectionError):  # the client may have had enough
                for _ in range(page.repeats):
                    self.wfile.write(body[: page.cuts.pop(0)] if page.cuts else body)
                    page.n_sent += len(body)

    def same_version(self, page: Page) -> bool:
        mark = self.headers.get("If-Range")
        known = (page.headers.get("ETag"), page.headers.get("Last-Modified"))
        return not page.heeds_if_range or mark is None or mark in known


@pytest.fixture
def site() -> Iterator[Site]:
    """Return an empty server on loopback."""
    site = Site()
    with serving(type("Bound", (Handler,), {"site": site})) as server:
        site.address = f"http://127.0.0.1:{server.server_port}"
        yield site


@pytest.fixture(autouse=True)
def _quick_and_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "BACKOFF_S", 0.0)
    monkeypatch.setattr(fetch, "PIECE", 500)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def dataset(tmp_path: Path) -> Callable[..., RemoteFiles]:
    """Return a function that makes the handle of entries, in the folder `raw`."""

    def make(*entries: dict[str, Any], section: str = "S1") -> RemoteFiles:
        return RemoteFilesDataset(filepath=str(tmp_path / "raw"), section=section, files=list(entries)).load()

    return make
