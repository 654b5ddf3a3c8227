"""A log gets a line per tenth with speed and time left; a terminal gets a bar."""

from __future__ import annotations

import logging
import re
import sys

import pytest

from spamcaf.histology.workers import SiteProgress, in_words


def test_a_log_gets_a_line_per_tenth(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO), SiteProgress("sites", 1000, 200) as progress:
        for _ in range(100):
            progress.update(8)
    lines = [record.getMessage() for record in caplog.records]
    assert [int(line.split()[0]) for line in lines] == [304, 400, 504, 600, 704, 800, 904, 1000]
    assert all(re.search(r"of 1000 sites, \d+\.\d per second, about \d+ s left$", line) for line in lines[:-1])
    assert lines[-1].endswith("per second")


def test_a_terminal_gets_a_bar(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with caplog.at_level(logging.INFO), SiteProgress("sites", 10, 0) as progress:
        progress.update(10)
    assert not caplog.records
    assert "10/10" in capsys.readouterr().err


@pytest.mark.parametrize(("seconds", "words"), [(7.2, "7 s"), (119, "119 s"), (600, "10 min"), (9000, "2.5 h")])
def test_time_left_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
