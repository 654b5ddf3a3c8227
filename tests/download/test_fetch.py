"""Fetching: whole and verified or not at all, going on where it stopped, several mirrors, nothing ever replaced."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from spamcaf.download import fetch
from spamcaf.download.fetch import Outcome, RemoteFiles, Status
from spamcaf.errors import InputError

Make = Callable[..., RemoteFiles]
CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def fetch_first(handle: RemoteFiles) -> Outcome:
    return handle.fetch(handle.files[0])


def entry(*urls: str, **more: Any) -> dict[str, Any]:
    return {"path": "{section}/it.bin", "urls": list(urls), **more}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return tmp_path / "raw" / "S1" / "it.bin"


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    urls: list[str] = []
    send = requests.Session.send
    monkeypatch.setattr(requests.Session, "send", lambda s, r, **how: (urls.append(r.url), send(s, r, **how))[1])
    return urls


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.parent.iterdir()) if place.parent.is_dir() else []


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_a_missing_file_is_fetched_and_recorded(site: Any, dataset: Make, place: Path) -> None:
    url = site.put("a.bin", CONTENT)
    handle = dataset(entry(url, sha256=SHA256, bytes=len(CONTENT)))
    assert handle.missing() == handle.files
    assert fetch_first(handle) == Outcome("S1/it.bin", Status.FETCHED, len(CONTENT), SHA256, url)
    assert place.read_bytes() == CONTENT
    assert names(place) == ["it.bin"]
    assert handle.missing() == ()


def test_what_is_there_is_not_requested(site: Any, dataset: Make, place: Path) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(b"of my own")
    outcome = fetch_first(dataset(entry(site.put("a.bin", CONTENT))))
    assert (outcome.status, outcome.bytes, outcome.source) == (Status.PRESENT, 9, "")
    assert place.read_bytes() == b"of my own"
    assert site.requests == []


@pytest.mark.parametrize("pinned", [{"sha256": SHA256}, {"bytes": len(CONTENT)}])
def test_another_file_is_named_and_never_replaced(site: Any, dataset: Make, place: Path, pinned: Any) -> None:
    place.parent.mkdir(parents=True)
    place.write_bytes(b"of my own")
    with pytest.raises(InputError) as caught:
        fetch_first(dataset(entry(site.put("a.bin", CONTENT), **pinned)))
    message = str(caught.value)
    assert str(place) in message and "Move it away" in message
    assert str(next(iter(pinned.values()))) in message
    assert ("9 bytes" if "bytes" in pinned else hashlib.sha256(b"of my own").hexdigest()) in message
    assert place.read_bytes() == b"of my own"


def test_a_folder_in_its_place_is_refused(site: Any, dataset: Make, place: Path) -> None:
    place.mkdir(parents=True)
    with pytest.raises(InputError, match="with no file"):
        fetch_first(dataset(entry(site.put("a.bin", CONTENT))))


def test_a_file_that_appears_meanwhile_is_kept(site: Any, dataset: Make, place: Path) -> None:
    url = site.put(
        "a.bin",
        CONTENT,
        before=lambda: (place.parent.mkdir(parents=True, exist_ok=True), place.write_bytes(b"quicker")),
    )
    with pytest.raises(InputError, match="appeared while"):
        fetch_first(dataset(entry(url)))
    assert place.read_bytes() == b"quicker"


@pytest.mark.parametrize("mark", [{"ETag": '"v1"'}, {"Last-Modified": "Mon, 01 Jun 2020 10:00:00 GMT"}])
def test_a_new_run_requests_the_rest_only(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch, mark: dict[str, str]
) -> None:
    monkeypatch.setattr(fetch, "TRIES", 1)
    url = site.put("a.bin", CONTENT, cuts=[1000, 0], headers=mark)
    first = fetch_first(dataset(entry(url)))
    assert first.status == Status.FAILED and "the connection broke" in first.reason
    assert names(place) == ["it.bin.part", "it.bin.part.json"]
    assert place.with_name("it.bin.part").read_bytes() == CONTENT[:1000]
    site.pages["/a.bin"].cuts = []
    assert fetch_first(dataset(entry(url, sha256=SHA256))).status == Status.FETCHED
    assert site.gets[-1] == ("/a.bin", "bytes=1000-")
    assert place.read_bytes() == CONTENT
    assert names(place) == ["it.bin"]


def test_progress_renews_the_tries(site: Any, dataset: Make, place: Path) -> None:
    url = site.put("a.bin", CONTENT, cuts=[1000] * 8)
    assert fetch_first(dataset(entry(url))).status == Status.FETCHED
    assert [span for _, span in site.gets] == [None, *(f"bytes={n}000-" for n in range(1, 9))]
    assert place.read_bytes() == CONTENT


RESTARTS = [({"ranges": False}, "bytes=1000-"), ({"headers": {}}, None), ({"headers": {"ETag": 'W/"v1"'}}, None)]


@pytest.mark.parametrize(("how", "second"), RESTARTS)
def test_without_ranges_or_a_sure_mark_it_starts_again(
    site: Any, dataset: Make, place: Path, how: Any, second: str | None
) -> None:
    url = site.put("a.bin", CONTENT, cuts=[1000], **how)
    assert fetch_first(dataset(entry(url))).status == Status.FETCHED
    assert site.gets == [("/a.bin", None), ("/a.bin", second)]
    assert place.read_bytes() == CONTENT


def test_bytes_of_two_mirrors_are_never_put_together(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "TRIES", 0)
    first, second = site.put("a.bin", CONTENT, cuts=[1000]), site.put("b.bin", CONTENT[::-1])
    assert fetch_first(dataset(entry(first, second))).source == second
    assert site.gets[-1] == ("/b.bin", None)
    assert place.read_bytes() == CONTENT[::-1]


@pytest.mark.parametrize(
    ("given", "left"), [(CONTENT[:1000], ["it.bin.part", "it.bin.part.json"]), (CONTENT + b"x", [])]
)
def test_a_library_that_does_not_count_the_bytes(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch, given: bytes, left: list[str]
) -> None:
    monkeypatch.setattr(fetch, "TRIES", 0)
    monkeypatch.setattr(requests.Response, "iter_content", lambda *_: iter([given]))
    assert "the connection broke" in fetch_first(dataset(entry(site.put("a.bin", CONTENT)))).reason
    assert names(place) == left


def test_a_server_that_always_breaks_ends(site: Any, dataset: Make) -> None:
    url = site.put("a.bin", CONTENT, cuts=[1000, 500] * 25, ranges=False)
    assert fetch_first(dataset(entry(url))).status == Status.FAILED
    assert len(site.gets) <= 1 + fetch.TRIES


@pytest.mark.parametrize("heeds", [True, False])
@pytest.mark.parametrize("length", [len(CONTENT), len(CONTENT) - 5000, 500])
def test_a_file_that_changed_on_the_server_starts_again(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch, heeds: bool, length: int
) -> None:
    url = site.put("a.bin", CONTENT, cuts=[1000])
    with monkeypatch.context() as once:
        once.setattr(fetch, "TRIES", 0)
        fetch_first(dataset(entry(url)))
    other = bytes(reversed(CONTENT))[:length]
    site.put("a.bin", other, headers={"ETag": '"v2"'}, heeds_if_range=heeds)
    assert fetch_first(dataset(entry(url))).status == Status.FETCHED
    assert place.read_bytes() == other
    assert len(site.gets) == (2 if heeds else 3)


@pytest.mark.parametrize("note", [None, "", "[]", '{"url": "', '{"url": "{url}", "mark": "v1"}'])
def test_a_part_of_unknown_origin_is_not_trusted(site: Any, dataset: Make, place: Path, note: str | None) -> None:
    url = site.put("a.bin", CONTENT)
    place.parent.mkdir(parents=True)
    place.with_name("it.bin.part").write_bytes(b"whatever this is")
    if note is not None:
        place.with_name("it.bin.part.json").write_text(note.replace("{url}", url))
    assert fetch_first(dataset(entry(url))).status == Status.FETCHED
    assert place.read_bytes() == CONTENT
    assert site.gets == [("/a.bin", None)]


def test_a_kill_before_the_check_needs_no_second_download(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    handle = dataset(entry(site.put("a.bin", CONTENT), sha256=SHA256))
    with monkeypatch.context() as once:
        once.setattr(hashlib, "file_digest", killed)
        with pytest.raises(KeyboardInterrupt):
            fetch_first(handle)
    assert names(place) == ["it.bin.part", "it.bin.part.json"]
    assert fetch_first(handle).status == Status.FETCHED
    assert len(site.gets) == 1
    assert place.read_bytes() == CONTENT


def test_another_part_than_requested_is_dropped(site: Any, dataset: Make, place: Path) -> None:
    url = site.put("a.bin", CONTENT, cuts=[1000], shift=7)
    assert fetch_first(dataset(entry(url))).status == Status.FETCHED
    assert [span for _, span in site.gets] == [None, "bytes=1000-", None]
    assert place.read_bytes() == CONTENT


def test_the_log_tells_how_far_it_is(
    site: Any, dataset: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("spamcaf.progress.QUIET_BYTES", 1)
    caplog.set_level(logging.INFO)
    fetch_first(dataset(entry(site.put("a.bin", CONTENT, cuts=[128_500]))))
    lines = [line.split(",")[0] for line in caplog.messages]
    tenths = [f"S1/it.bin: {n} kB of 256.0 kB" for n in ("26.0", "51.5", "77.0", "102.5", "128.0", "154.0")]
    assert [line for line in lines if line.startswith("S1/it.bin: ")][:7] == [
        *tenths[:5], "S1/it.bin: going on at 128.5 kB", tenths[5]
    ]  # fmt: skip


def test_mirrors_are_tried_in_order_each_failure_in_a_line(
    site: Any, dataset: Make, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    closed = site.put("closed", b"", status=403)
    good = site.put("a.bin", CONTENT)
    outcome = fetch_first(dataset(entry(closed, site.url("nowhere"), good, site.url("never requested"))))
    assert outcome.status == Status.FETCHED and outcome.source == good
    assert [path for path, _ in site.gets] == ["/closed", "/nowhere", "/a.bin"]
    lines = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert len(lines) == 2
    assert "(403)" in lines[0] and "(404)" in lines[1]
    assert place.read_bytes() == CONTENT


BAD = {
    "gated": ({"status": 401}, "login"),
    "server error": ({"status": 503}, "answers 503"),
    "web page": ({"headers": {"Content-Type": "text/html; charset=utf-8"}}, "web page"),
    "no content": ({"status": 204}, "answers 204"),
    "unknown length": ({"gives_length": False}, "does not tell how long"),
    "compressed": ({"headers": {"Content-Encoding": "gzip"}}, "compresses"),
    "leads to http": ({"status": 302, "headers": {"Location": "http://example.invalid/a"}}, "not https"),
    "leads to a file": ({"status": 302, "headers": {"Location": "file:///etc/hostname"}}, "not https"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_the_file_leaves_nothing(site: Any, dataset: Make, place: Path, case: str) -> None:
    how, reason = BAD[case]
    outcome = fetch_first(dataset(entry(site.put("a.bin", CONTENT if how.get("status", 200) == 200 else b"", **how))))
    assert outcome.status == Status.FAILED and reason in outcome.reason
    assert not place.parent.exists()


def test_an_empty_file_is_refused(site: Any, dataset: Make, place: Path) -> None:
    assert "empty" in fetch_first(dataset(entry(site.put("a.bin", b"")))).reason
    assert names(place) == []


@pytest.mark.parametrize("pinned", [{"sha256": "0" * 64}, {"bytes": 7}])
def test_wrong_content_leaves_nothing_and_the_next_mirror_is_tried(
    site: Any, dataset: Make, place: Path, pinned: Any
) -> None:
    wrong = site.put("wrong", CONTENT)
    outcome = fetch_first(dataset(entry(wrong, **pinned)))
    assert outcome.status == Status.FAILED and str(next(iter(pinned.values()))) in outcome.reason
    assert names(place) == []
    assert place.parent.exists() == ("bytes" not in pinned)  # a wrong size is noticed before a byte is written
    assert len(site.gets) == 1
    changed = site.put("changed", CONTENT[::-1])
    assert fetch_first(dataset(entry(changed, wrong, sha256=SHA256))).source == wrong


def test_two_versions_put_together_are_fetched_anew(site: Any, dataset: Make, place: Path) -> None:
    """A server that marks two versions alike: only the pinned hash tells, and the second try is a clean one."""
    url = site.put("a.bin", CONTENT)
    place.parent.mkdir(parents=True)
    place.with_name("it.bin.part").write_bytes(b"x" * 1000)
    origin = {"url": url, "mark": '"v1"', "total": len(CONTENT)}
    place.with_name("it.bin.part.json").write_text(json.dumps(origin))
    assert fetch_first(dataset(entry(url, sha256=SHA256))).status == Status.FETCHED
    assert [span for _, span in site.gets] == ["bytes=1000-", None]
    assert place.read_bytes() == CONTENT


def test_unknown_length_is_accepted_where_a_hash_is_pinned(site: Any, dataset: Make, place: Path) -> None:
    url = site.put("a.bin", CONTENT, gives_length=False)
    assert fetch_first(dataset(entry(url, sha256=SHA256))).status == Status.FETCHED


def test_a_chunked_answer_shows_its_end(site: Any, dataset: Make, place: Path) -> None:
    how: dict[str, Any] = {"gives_length": False, "headers": {"Transfer-Encoding": "chunked"}}
    cut, whole = site.put("cut", b"3\r\nabc\r\n", **how), site.put("a.bin", b"3\r\nabc\r\n0\r\n\r\n", **how)
    assert "the connection broke" in fetch_first(dataset(entry(cut))).reason
    assert fetch_first(dataset(entry(whole))).status == Status.FETCHED
    assert place.read_bytes() == b"abc"


def test_redirects_are_followed(site: Any, dataset: Make, place: Path) -> None:
    site.put("a.bin", CONTENT)
    url = site.put("old", b"", status=302, headers={"Location": "/a.bin"})
    assert fetch_first(dataset(entry(url))).status == Status.FETCHED
    assert place.read_bytes() == CONTENT


def test_a_server_that_falls_silent_is_left(site: Any, dataset: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT_S", (5, 0.05))
    monkeypatch.setattr(fetch, "TRIES", 2)
    outcome = fetch_first(dataset(entry(site.put("slow", CONTENT, pause_s=0.5), site.put("a.bin", CONTENT))))
    assert outcome.source == site.url("a.bin")
    assert [path for path, _ in site.gets] == ["/slow", "/slow", "/a.bin"]


def test_a_host_out_of_reach_gets_requests_for_one_file_only(dataset: Make, sent: list[str]) -> None:
    address = f"http://127.0.0.1:{closed_port()}"
    handle = dataset(*({"path": f"{n}.bin", "urls": f"{address}/{n}"} for n in range(3)))
    outcomes = [handle.fetch(file) for file in handle.files]
    assert all(o.status == Status.FAILED and "cannot be reached" in o.reason for o in outcomes)
    assert sent == [f"{address}/0"] * fetch.TRIES


def test_a_folder_that_may_not_be_written_is_an_input_error(site: Any, dataset: Make, tmp_path: Path) -> None:
    (tmp_path / "raw").write_text("a file where the folder should be")
    with pytest.raises(InputError, match="cannot be written"):
        fetch_first(dataset(entry(site.put("a.bin", CONTENT))))


def test_sizes_come_from_the_entry_then_from_the_server(site: Any, dataset: Make, sent: list[str]) -> None:
    silent = f"http://127.0.0.1:{closed_port()}"
    handle = dataset(
        entry(site.put("a.bin", CONTENT)),
        entry(site.put("b.bin", CONTENT), bytes=12),
        entry(site.put("gone", b"it is gone", status=404)),
        entry(f"{silent}/c"),
        entry(f"{silent}/d"),
        {"path": "*.jpg", "by_hand": "somewhere"},
        entry(site.put("away", b"", status=302, headers={"Location": "file:///etc/hostname"})),
        entry(site.put("here", b"", status=302, headers={"Location": "/a.bin"})),
    )
    assert handle.sizes(handle.files) == [len(CONTENT), 12, None, None, None, None, None, len(CONTENT)]
    assert [url for url in sent if url.startswith(silent)] == [f"{silent}/c"]
    assert site.gets == []


def test_a_full_disk_is_an_error_before_anything_is_fetched(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle = dataset(entry(site.put("a.bin", CONTENT)))
    known = handle.sizes(handle.files)
    handle.require_room(handle.files, known)
    usage = type("Usage", (), {"free": len(CONTENT) - 1})
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(InputError, match=r"256\.0 kB free.*raw_root="):
        handle.require_room(handle.files, known)
    place.parent.mkdir(parents=True)
    place.with_name("it.bin.part").write_bytes(b"x")
    handle.require_room(handle.files, known)


@pytest.mark.parametrize("pinned", [{"bytes": len(CONTENT)}, {"sha256": SHA256}], ids=["size", "hash"])
def test_a_body_without_end_is_stopped(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch, pinned: dict[str, Any]
) -> None:
    """At the pinned size at once; where only a hash is pinned, at the size that no file has."""
    monkeypatch.setattr(fetch, "MAX_BYTES", 2 * len(CONTENT))
    url = site.put("a.bin", CONTENT, gives_length=False, repeats=1000)
    outcome = fetch_first(dataset(entry(url, **pinned)))
    assert outcome.status is Status.FAILED and "bytes and more in place of" in outcome.reason
    assert names(place) == []
    assert site.pages["/a.bin"].n_sent < 100 * len(CONTENT)


def test_a_body_without_end_leaves_room_on_the_disk(
    site: Any, dataset: Make, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetch, "MIN_FREE", shutil.disk_usage("/").total * 1000)
    url = site.put("a.bin", CONTENT, gives_length=False)
    outcome = fetch_first(dataset(entry(url, sha256=SHA256)))
    assert outcome.status is Status.FAILED and "it fills the disk" in outcome.reason
    assert names(place) == []
