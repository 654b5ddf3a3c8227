from __future__ import annotations

from pathlib import Path

from spamcaf.datasets.stored import HTMLDataset

PAGE = "<!doctype html>\n<p>13 µm, ok</p>\n"


def test_a_page_is_stored_as_utf8_with_its_own_line_ends(tmp_path: Path) -> None:
    dataset = HTMLDataset(filepath=str(tmp_path / "deep" / "report.html"))
    dataset.save(PAGE)
    assert (tmp_path / "deep" / "report.html").read_bytes() == PAGE.encode("utf-8")
    assert dataset.load() == dataset.preview() == PAGE
