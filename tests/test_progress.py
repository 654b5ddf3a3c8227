"""Progress: a bar on a terminal, a line per tenth in a log; sizes and times in words."""

from __future__ import annotations

import io
import logging
import re
import sys

import pytest

from spamcaf.progress import QUIET_BYTES, Progress, bytes_in_words, seconds_in_words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.INFO)
    return caplog


def fetch(total: int | None, start: int = 0, n_pieces: int = 40) -> None:
    with Progress(total, "bytes", "S1/it.bin", is_bytes=True, start=start) as progress:
        for _ in range(n_pieces):
            progress.advance(((total or 400) - start) // n_pieces)


def test_a_log_gets_a_line_per_tenth(logged: pytest.LogCaptureFixture) -> None:
    with Progress(1000, "sites", "S1", start=200) as progress:
        for _ in range(100):
            progress.advance(8)
    lines = logged.messages
    assert [int(line.split()[1]) for line in lines] == [304, 400, 504, 600, 704, 800, 904, 1000]
    assert all(re.search(r"^S1: \d+ of 1000 sites, \d+\.\d per second, about \d+ s left$", line) for line in lines[:-1])
    assert lines[-1].endswith("per second")


def test_what_was_done_before_does_not_count_for_the_speed(
    logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 110.0])
    monkeypatch.setattr("spamcaf.progress.time.perf_counter", lambda: next(clock))
    with Progress(1000, "sites", "S1", start=490) as progress:
        progress.advance(50)
    assert logged.messages == ["S1: 540 of 1000 sites, 5.0 per second, about 92 s left"]


def test_bytes_are_written_as_sizes_and_their_end_is_the_callers(logged: pytest.LogCaptureFixture) -> None:
    fetch(QUIET_BYTES, start=QUIET_BYTES // 2)
    assert [line.split(",")[0] for line in logged.messages] == [
        f"S1/it.bin: {n}.0 MB of 20.0 MB" for n in (12, 14, 16, 18)
    ]
    assert all(re.search(r"\d B per second, about \d+ s left$", re.sub("[kMG]B", "B", m)) for m in logged.messages)


@pytest.mark.parametrize("total", [1000, None])
def test_small_files_and_unknown_sizes_get_no_lines(logged: pytest.LogCaptureFixture, total: int | None) -> None:
    fetch(total)
    assert logged.messages == []


def test_a_terminal_gets_a_bar_and_no_lines(logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress(10, "sites", "S1") as progress:
        progress.advance(10)
    assert "10/10" in terminal.getvalue() and "S1" in terminal.getvalue()
    fetch(QUIET_BYTES)
    assert "S1/it.bin" in terminal.getvalue() and "20.0M" in terminal.getvalue()
    assert logged.messages == []


@pytest.mark.parametrize(("n", "words"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (2_345_678_901, "2.3 GB")])
def test_sizes_in_words(n: int, words: str) -> None:
    assert bytes_in_words(n) == words


@pytest.mark.parametrize(("seconds", "words"), [(7.2, "7 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_times_in_words(seconds: float, words: str) -> None:
    assert seconds_in_words(seconds) == words
