"""The report is complete, self-contained, escaped and accessible; its notes state the limits of the results."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from spamcaf.errors import InputError
from spamcaf.names import Metric
from spamcaf.reporting.report import METRICS, MODELS, notes, render_report

VOID = {"meta", "img", "br", "link", "input", "hr"}


class _Page(HTMLParser):
    """Collects elements and checks that they nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def parts(scores, gene_scores) -> dict[str, Any]:
    return {
        "scores": scores,
        "section_report": {"n_spots": 181, "mpp": {"lattice": 0.7253}, "warnings": ["a <b> c", "d"], "note": None},
        "figures": {"maps": PNG, "overlay": PNG, "training_curves": PNG, "my_extra": PNG},
        "provenance": {"configuration_hash": "abc123", "seed": 0, "backbone": "x & y"},
        "gene_scores": gene_scores,
    }


def test_holds_every_model_metric_and_fact(parts) -> None:
    html = render_report(**parts)
    for model in parts["scores"]["models"]:
        assert MODELS[model] in html
    for metric in Metric:
        assert METRICS[metric].label.replace(">", "&gt;") in html
    for text in (
        "151673",
        "abc123",
        "0.7253",
        "n spots",
        "364 sites",
        "91 were hidden",
        "beats the best baseline &amp;",
    ):
        assert text in html


def test_the_best_is_marked_in_text_too(parts) -> None:
    html = render_report(**parts)
    table = html.split('id="scores"')[1].split("</table>")[0]
    rows = table.split("<tr")[2:]
    assert "SpaMCAF" in rows[0]
    assert [row.count(" best</span>") for row in rows] == [6, 0, 0, 0, 0, 0, 3, 0]  # idw has the lower errors


def test_fetches_nothing(parts) -> None:
    page = _Page(render_report(**parts))
    assert {tag for tag, _ in page.elements}.isdisjoint({"script", "link", "iframe", "object", "embed"})
    sources = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert len(sources) == 4
    assert all(value.startswith("data:image/png;base64,") for value in sources)
    html = re.sub(r"base64,[A-Za-z0-9+/=]+", "", render_report(**parts))
    assert "http" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_escapes_hostile_names_everywhere(parts) -> None:
    hostile = "<script>alert(1)</script>"
    parts["scores"]["section"] = hostile
    parts["scores"]["models"][hostile] = parts["scores"]["models"]["idw"]
    parts["section_report"][hostile] = hostile
    parts["provenance"][hostile] = '"><img src=x onerror=alert(1)>'
    parts["figures"]['"><script>'] = PNG
    html = render_report(**parts)
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert(1)") >= 5
    assert "<img src=x" not in html


def test_is_well_formed_and_accessible(parts) -> None:
    page = _Page(render_report(**parts))
    assert not page.open
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert all(len(image["alt"] or "") > 10 for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = [section["aria-labelledby"] for section in page.all("section")]
    assert set(labelled) <= set(ids)


def test_genes_are_listed_best_first_with_the_best_baseline(parts) -> None:
    html = render_report(**parts).split('id="genes"')[1].split("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in html.split("<tr>")[2:]]
    assert [row[:2] for row in rows[:2]] == [["B", "0.700"], ["A", "0.500"]]
    assert rows[1][-1] == "0.900"
    assert rows[0][-1] == "n/a"


def test_is_whole_without_figures_and_super_resolution(parts) -> None:
    del parts["scores"]["super_resolution"]
    html = render_report(**{**parts, "figures": {}})
    page = _Page(html)
    assert not page.all("img")
    assert "Scores between the spots" not in html
    assert 'id="maps"' not in html


def test_a_record_of_version_0_1_ends_in_one_sentence(parts) -> None:
    del parts["scores"]["model"]
    with pytest.raises(InputError, match=r"Found: a scores\.json .*Expected: .*Next step: Run the pipeline evaluation"):
        render_report(**parts)


def test_is_the_same_every_time(parts) -> None:
    assert render_report(**parts) == render_report(**parts)


def test_where_released_was_fitted_alone_the_report_is_about_it(parts) -> None:
    for record in (parts["scores"], parts["scores"]["super_resolution"]):
        record["models"]["released"] = record["models"].pop("spamcaf")
        record["models"].pop("program_gp", None)
    parts["scores"]["model"] = "released"
    parts["scores"]["coverage_90"] = None
    parts["gene_scores"] = parts["gene_scores"].replace({"model": {"spamcaf": "released"}})
    html = render_report(**parts)
    assert "Predicted best by Released network (replica)" in html
    assert "Released network (replica), mean PCC" in html
    assert "Another model beats released" in html
    assert "Program Gaussian process" not in html


def _all(scores) -> str:
    return "\n".join(notes(scores))


def test_losses_are_named_with_figures(scores) -> None:
    text = _all(scores)
    assert "Another model beats spamcaf at hidden spots in 3 of the scores" in text
    assert "Inverse distance, 8 neighbours: MSE 0.450 against 0.500; MAE 0.450 against 0.500" in text
    assert "Another model beats spamcaf between the spots in 8 of the scores" in text


def test_no_loss_is_text_too(scores) -> None:
    scores["models"] = {name: scores["models"][name] for name in ("spamcaf", "gene_mean")}
    assert "No other model of the table beats spamcaf at hidden spots" in _all(scores)


def test_smooth_predictions_and_bad_intervals(scores) -> None:
    text = _all(scores)
    assert "25% of the measured" in text
    assert "80.0% of the hidden values: they are too narrow" in text
    scores["models"]["spamcaf"]["variance_ratio"] = 1.0
    scores["coverage_90"] = None
    assert "vary less" not in _all(scores)
    assert "intervals" not in _all(scores)


def test_reach_is_stated_and_may_be_missing_from_a_stored_record(scores, parts) -> None:
    assert "Reachable limit of the mean PCC 0.500" in _all(scores)
    assert "spamcaf reaches 80% of it" in _all(scores)
    assert "explains 70% of the score" in _all(scores)
    del scores["reachable_limit"], scores["models"]["depth_only"]
    for values in (*scores["models"].values(), *scores["super_resolution"]["models"].values()):
        del values["pcc_depth_removed"]
    assert "Reachable limit" not in _all(scores)
    assert "Reachable limit" not in render_report(**{**parts, "scores": scores})


def test_protocol_and_undefined_genes(scores) -> None:
    assert "Hidden spots lie among visible ones" in _all(scores)
    scores["protocol"] = "lattice"
    assert "what prediction between the spots reaches" in _all(scores)
    scores["protocol"] = "block"
    scores["models"]["spamcaf"]["n_undefined"] = 2
    assert "Hidden spots lie among visible ones" not in _all(scores)
    assert "how well the model extrapolates" in _all(scores)
    assert "For 2 of 3 genes the correlation is undefined" in _all(scores)
