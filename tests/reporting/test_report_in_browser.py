"""The report in a real browser: the table sorts, filters and searches by clicks, genes are picked, values are read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from spamcaf.reporting.gene_table import tabulate_genes
from spamcaf.reporting.interactive_maps import choose_map_genes, map_data
from spamcaf.reporting.report import render_cohort_report, render_report
from tests.browser import CHROMIUM, NO_BROWSER, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)

N_GENES, HOSTILE = 60, "<img src=x onerror=document.title='broken'>"
ROWS = "[...document.querySelectorAll('#gene-table tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
PHONE, A4_PX = 390, 718


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with Browser() as opened:
        yield opened


def _sections() -> tuple[ad.AnnData, ad.AnnData, ad.AnnData]:
    """Return measured, recovered and super-resolved sections on a lattice; gene 0 rises with x, 1 with y."""
    xy = 100.0 * np.stack(np.meshgrid(np.arange(1, 13), np.arange(1, 9)), axis=-1).reshape(-1, 2)
    names = [HOSTILE, *[f"GENE{i}" for i in range(1, N_GENES)]]
    made = []
    for every, factor in ((1, 1.0), (2, 0.5), (1, 0.25)):
        values = np.random.default_rng(0).random((len(xy), N_GENES))
        values[:, 0], values[:, 1] = xy[:, 0] / 100, xy[:, 1] / 100
        image = np.tile(np.linspace(120, 255, 140).astype(np.uint8)[None, :, None], (100, 1, 3))
        entry = {"images": {"hires": image}, "scalefactors": {"tissue_hires_scalef": 0.1, "spot_diameter_fullres": 55}}
        section = ad.AnnData((factor * values).astype(np.float32), var=pd.DataFrame(index=names))
        section.obsm["spatial"], section.uns["spatial"] = xy, {"lib": entry}
        made.append(section[::every].copy())
    made[2].layers["sd"] = np.full(made[2].shape, 0.5, np.float32)
    return made[0], made[1], made[2]


@pytest.fixture
def write(scores: dict[str, Any], tmp_path: Path) -> Callable[[], str]:
    """Return a maker of the report's address."""

    def make() -> str:
        measured, recovered, finer = _sections()
        rng = np.random.default_rng(1)
        tables = []
        for model in ("spamcaf", "kriging_ridge_programs"):
            pearson = np.linspace(0.8, -0.1, N_GENES) + (0 if model == "spamcaf" else rng.normal(0, 0.1, N_GENES))
            rows = pd.DataFrame({"model": model, "gene": measured.var_names, "pearson": pearson})
            tables.append(rows.assign(spearman=rng.random(N_GENES), rmse=rng.random(N_GENES)))
        tables[0].loc[3, "spearman"] = np.nan
        genes = tabulate_genes(pd.concat(tables), "spamcaf", "kriging_ridge_programs", measured)
        maps = map_data(measured, recovered, finer, choose_map_genes(genes, ["GENE1"], 12), 0.5)
        png = tmp_path / "maps.png"
        Image.new("RGB", (900, 300), "green").save(png)
        calibrated = {**scores, "calibration": [[0.1, 0.2], [0.5, 0.6], [0.9, 0.9]]}
        page = render_report(calibrated, {"n_spots": 96}, {"maps": png.read_bytes()}, {"Run": {}}, genes, maps)
        (tmp_path / "report.html").write_text(page, encoding="utf-8")
        return (tmp_path / "report.html").as_uri()

    return make


def _column(browser: Browser, number: int) -> list[str]:
    return [row[number] for row in browser.run(ROWS)]


def _choose(browser: Browser, selector: str, value: str) -> None:
    kind = "input" if "outcome" in selector else "change"
    browser.run(
        f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('{kind}', {{bubbles: true}})); }})"
        f"(document.querySelector('{selector}'))"
    )


def test_loads_without_an_error_or_a_request(browser: Browser, write: Callable[[], str]) -> None:
    url = write()
    browser.open(url)
    assert browser.errors == []
    assert {request for request in browser.requests if not request.startswith("data:")} == {url}
    assert browser.run("document.title") == "SpaMCAF report: 151673"


def test_sorts_by_a_click_and_again_the_other_way(browser: Browser, write: Callable[[], str]) -> None:
    browser.open(write())
    assert len(browser.run(ROWS)) == N_GENES
    spearman = "#gene-table th:nth-child(6)"
    for direction, sign in (("descending", -1), ("ascending", 1)):
        browser.click(f"{spearman} button")
        assert browser.run(f"document.querySelector('{spearman}').getAttribute('aria-sort')") == direction
        *known, missing = _column(browser, 5)
        assert missing == "n/a"
        assert known == sorted(known, key=lambda text: sign * float(text))
    assert browser.run("document.querySelectorAll('[aria-sort]').length") == 1


def test_sorts_by_the_keyboard(browser: Browser, write: Callable[[], str]) -> None:
    browser.open(write())
    browser.run("document.querySelector('#gene-table th:nth-child(1) button').focus()")
    browser.press("Enter", 13)
    names = _column(browser, 0)
    assert names[:4] == [HOSTILE, "GENE1", "GENE2", "GENE3"] and names[-1] == "GENE59"
    browser.press("Tab", 9)
    assert browser.run("document.activeElement.textContent") == "PCC"


def test_searches_and_filters(browser: Browser, write: Callable[[], str]) -> None:
    browser.open(write())
    browser.click("#gene-search")
    browser.write("gene1")
    assert set(_column(browser, 0)) == {"GENE1", *[f"GENE1{i}" for i in range(10)]}
    assert browser.run("document.querySelector('#gene-count').value") == "11 of 60 genes"
    browser.run("document.querySelector('#gene-search').value = ''")
    _choose(browser, "#gene-outcome", "loss")
    assert set(_column(browser, 4)) == {"worse"}
    _choose(browser, "#gene-outcome", "mapped")
    assert len(browser.run(ROWS)) == 12
    _choose(browser, "#gene-outcome", "")
    browser.click("#gene-least")
    browser.write("0.5")
    assert min(map(float, _column(browser, 1))) >= 0.5 and 0 < len(browser.run(ROWS)) < N_GENES


PICTURES = "[...document.querySelectorAll('#gene-maps canvas')].map(c => c.toDataURL())"


def test_picks_a_gene_in_the_list_in_the_table_and_in_a_chart(browser: Browser, write: Callable[[], str]) -> None:
    browser.open(write())
    said, picked = "document.querySelector('#picked').value", "document.querySelector('#gene-picker').value"
    groups = "[...document.querySelectorAll('#gene-picker optgroup')].map(g => g.label)"
    assert browser.run(groups)[:2] == ["Asked for, or a known marker", "Predicted best"]
    assert browser.run(picked) == "GENE1"
    first = browser.run(PICTURES)
    assert len(first) == 4 and len(set(first)) == 4
    _choose(browser, "#gene-picker", "GENE2")
    assert browser.run(said).startswith("GENE2: PCC 0.76")
    second = browser.run(PICTURES)
    assert [a != b for a, b in zip(first, second, strict=True)] == [True, True, True, False]  # the deviation is even
    browser.click("#gene-table tbody tr:nth-child(2) .pick")
    assert browser.run(picked) == "GENE1" and browser.run(PICTURES) == first
    browser.click("svg [data-gene='GENE59']")
    assert browser.run(picked) == "GENE59" and _column(browser, 0) == ["GENE59"]
    assert browser.run("document.querySelectorAll('svg .picked').length") == 2
    browser.run("document.querySelector('#gene-picker').focus()")
    browser.press("Home", 36)
    assert browser.run(picked) == "GENE1"


def test_values_are_read_at_the_pointer_in_every_map(browser: Browser, write: Callable[[], str]) -> None:
    """GENE1 is the row of the lattice, 1 to 8, which is 1.5 rows away from the frame's edge."""
    browser.open(write())
    values = "[...document.querySelectorAll('#gene-maps .value')].map(v => v.textContent)"
    assert browser.run(values) == [""] * 5
    for row in (2, 7):
        browser.move("#gene-maps figure:nth-child(2) .map", 1.5 / 14, (0.5 + row) / 10)
        image, measured, recovered, finer, sd = browser.run(values)
        assert image == "" and sd == "0.50"
        assert float(measured) == pytest.approx(row, abs=0.03)
        assert float(finer) == pytest.approx(row / 4, abs=0.02)
        assert float(recovered) == pytest.approx(row / 2, abs=0.03)
    assert browser.run("[...document.querySelectorAll('.ring')].every(ring => !ring.hidden)")
    browser.move("h1")
    assert browser.run(values) == [""] * 5


def test_colours_follow_the_values(browser: Browser, write: Callable[[], str]) -> None:
    browser.open(write())
    colour = (
        "((x, y) => {{ const c = document.querySelectorAll('#gene-maps canvas')[0]; const p = c.getContext('2d');"
        "return [...p.getImageData(x * c.width, y * c.height, 1, 1).data]; }})({0}, {1})"
    )
    low, high = (browser.run(colour.format(1.5 / 14, down / 10)) for down in (1.5, 8.5))
    np.testing.assert_allclose(low, [68, 1, 84, 255], atol=8)  # both ends of viridis
    np.testing.assert_allclose(high, [253, 231, 37, 255], atol=8)
    assert browser.run(colour.format(0.01, 0.01))[3] == 0
    browser.click("#on-image")
    assert browser.run(colour.format(0.01, 0.01))[3] == 255


def test_a_hostile_gene_name_stays_text(browser: Browser, write: Callable[[], str]) -> None:
    browser.open(write())
    _choose(browser, "#gene-picker", HOSTILE)
    assert browser.run("document.querySelector('#picked').value").startswith(HOSTILE)
    assert browser.run("document.title") == "SpaMCAF report: 151673"
    assert browser.run("document.querySelectorAll('img[src=x]').length") == 0


@pytest.mark.parametrize("width", [1280, PHONE])
def test_no_page_is_wider_than_the_window(
    browser: Browser, write: Callable[[], str], scores: dict[str, Any], tmp_path: Path, width: int
) -> None:
    cohort = tmp_path / "cohort.html"
    runs = [(f"a section with a long name {i}", scores) for i in range(6)]
    cohort.write_text(render_cohort_report(runs), encoding="utf-8")
    for url in (write(), cohort.as_uri()):
        browser.open(url, width)
        browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        too_wide = "[...document.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > innerWidth)"
        outside = browser.run(f"{too_wide}.filter(e => !e.closest('.scroll, svg')).map(e => e.outerHTML.slice(0, 90))")
        assert (browser.run("document.documentElement.scrollWidth"), outside) == (width, [])
        assert browser.run(
            "[...document.querySelectorAll('main > section')].every(s => s.scrollWidth <= s.clientWidth)"
        )
        assert browser.errors == []


def test_without_javascript_the_best_genes_and_static_maps_are_there(
    browser: Browser, write: Callable[[], str], tmp_path: Path
) -> None:
    url = write()
    browser.open(url, script=False)
    browser.picture(tmp_path / "page.png")
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"), int)
    assert (np.abs(pixels - [0, 128, 0]).max(axis=-1) < 5).sum() == pytest.approx(900 * 300, rel=0.05)
    rows = browser.run(ROWS)
    assert browser.run("document.querySelectorAll('form:not([hidden])').length") == 0
    assert [row[0] for row in rows[:2]] == [HOSTILE, "GENE1"] and len(rows) == 17


def test_a_printed_page_fits_its_paper_and_names_the_gene(browser: Browser, write: Callable[[], str]) -> None:
    browser.set_media("print")
    try:
        browser.open(write(), A4_PX)
        assert browser.run("document.documentElement.scrollWidth") <= A4_PX
        assert browser.run("[...document.querySelectorAll('.scroll')].every(e => e.scrollHeight <= e.clientHeight + 1)")
        assert "GENE1: PCC" in browser.run("document.querySelector('#map-controls').innerText")
    finally:
        browser.set_media("screen")
