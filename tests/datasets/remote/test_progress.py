"""Progress: a bar on a terminal, a line per tenth of a large file in a log."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from spamcaf.download.fetch import LARGE, Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def finish(progress: Progress, at: int, whole: int | None, n_pieces: int = 40) -> None:
    progress.start(at, whole)
    for _ in range(n_pieces):
        progress.update(((whole or 400) - at) // n_pieces)
    progress.reset()
    progress.update((whole or 400) - at)  # as pooch does at the end
    progress.close()


def test_a_terminal_sees_a_bar_and_no_lines(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    caplog.set_level(logging.INFO)
    finish(Progress("S1/it.bin"), 0, LARGE)
    assert "S1/it.bin" in terminal.getvalue() and "20.0M" in terminal.getvalue()
    assert caplog.messages == []


def test_a_log_has_a_line_per_tenth(caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.INFO)
    finish(Progress("it"), LARGE // 2, LARGE)
    assert caplog.messages == [f"it: {n}0 % of 20.0 MB" for n in (6, 7, 8, 9)]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("whole", [1000, None])
def test_small_files_and_unknown_sizes_have_none(caplog: pytest.LogCaptureFixture, whole: int | None) -> None:
    caplog.set_level(logging.INFO)
    finish(Progress("it"), 0, whole)
    assert caplog.messages == []
