"""The table of a section's report: every fact in a row of its own, aligned, nothing invented."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from anndata import AnnData

from spamcaf.parameters import SectionSettings
from spamcaf.sections.checks import as_table, check_section


@pytest.fixture
def report(make_section: Callable[..., AnnData]) -> dict[str, Any]:
    raw = make_section()
    raw.obs.iloc[:3, raw.obs.columns.get_loc("in_tissue")] = 0
    return check_section(raw, (1400, 1700), SectionSettings())[1]


def rows_of(table: str) -> dict[str, str]:
    first, *lines = table.splitlines()
    assert first == "section S1"
    column = len(lines[0]) - len(lines[0].split("  ", 2)[-1].lstrip())
    return {line[:column].strip(): line[column:] for line in lines}


def test_rows_are_aligned_and_hold_the_figures(report: dict[str, Any]) -> None:
    rows = rows_of(as_table(report))
    assert rows["spots"] == "77, dropped: 3 off tissue"
    assert rows["genes"] == "30, 1 of them constant"
    assert rows["lattice"] == "hexagonal by array indices, spots within 0.000 pitches"
    assert rows["pitch"] == "100 um = 140 px"
    assert rows["um per px"] == "0.7143 (lattice 0.7143, file 0.7143)"
    assert rows["image"] == "1700 x 1400 px"
    assert rows["outside"] == "8 spots: 8 right"
    assert rows["mirrored"] == "no"
    assert "on tissue" not in rows and "layout" not in rows


def test_what_later_steps_add_is_shown(report: dict[str, Any]) -> None:
    report |= {"layout": "Visium HD", "share_of_spots_on_tissue": 0.0, "slide_reader": "tifffile"}
    report |= {"slide_notes": ["alpha composited", "16-bit rescaled"]}
    rows = rows_of(as_table(report))
    assert rows["layout"] == "Visium HD"
    assert rows["on tissue"] == "0.0% of the spots"
    assert rows["image"] == "1700 x 1400 px, by tifffile (alpha composited; 16-bit rescaled)"
