"""The report is complete, self-contained, escaped and accessible; its notes state the limits of the results."""

from __future__ import annotations

import copy
import io
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from PIL import Image

from spamcaf.errors import InputError
from spamcaf.names import DISPLAY_NAMES, Metric, Model
from spamcaf.reporting.gene_table import count_outcomes, tabulate_genes
from spamcaf.reporting.notes import METRICS, notes
from spamcaf.reporting.report import preview_of, render_cohort_report, render_report

VOID = {"meta", "img", "br", "link", "input", "hr"}
SVG_VOID = {"line", "polyline", "rect", "circle"}


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

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in SVG_VOID
        self.elements.append((tag, dict(attrs)))

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def _png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3)).save(file, "PNG")
    return file.getvalue()


PNG = _png()


@pytest.fixture
def parts(scores, genes) -> dict[str, Any]:
    return {
        "scores": scores,
        "section_report": {"n_spots": 181, "mpp": {"lattice": 0.7253}, "warnings": ["a <b> c", "d"], "note": None},
        "figures": {"maps": PNG, "overlay": PNG, "training_curves": PNG, "my_extra": PNG},
        "provenance": {"This run": {"seed": 0}, "Model": {"configuration_hash": "abc123", "backbone": "x & y"}},
        "genes": genes,
    }


def test_holds_every_model_metric_and_fact(parts) -> None:
    html = render_report(**parts)
    for model in parts["scores"]["models"]:
        assert DISPLAY_NAMES[model] in html
        assert f">{model}<" not in html
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


def _score_rows(html: str) -> list[str]:
    table = html.split('id="scores"', maxsplit=1)[1].split("</table>", maxsplit=1)[0]
    return table.split("<tr")[2:]


def test_the_best_is_marked_in_text_too(parts) -> None:
    rows = _score_rows(render_report(**parts))
    assert "SpaMCAF" in rows[0]
    assert [row.count(" best</span>") for row in rows] == [6, 0, 0, 0, 0, 0, 3, 0]  # idw has the lower errors


def test_a_difference_inside_the_interval_gets_no_star_and_is_no_loss(parts) -> None:
    scores = parts["scores"]
    scores["comparison"] = {
        "pcc_mean": {"best": "spamcaf", "level": ["kriging"]},
        "mse": {"best": "idw", "level": ["spamcaf"]},
        "mae": {"best": "idw", "level": []},
    }
    scores["intervals"] = {"spamcaf": {"pcc_mean": [-0.05, 10.04]}}
    html = render_report(**parts)
    rows = {re.search(r'row">([^<]*)', row)[1]: row for row in _score_rows(html)}
    assert "★" not in rows["SpaMCAF"] and rows["Inverse distance"].count("★") == 1
    assert rows["SpaMCAF"].count('class="level"') == 2 and rows["Kriging"].count('class="level"') == 1
    assert "-.050–10.040" in rows["SpaMCAF"]  # noqa: RUF001
    assert "MAE 0.450 against 0.500" in html and " MSE 0.450" not in html


def test_fetches_nothing(parts) -> None:
    page = _Page(render_report(**parts))
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "iframe", "object", "embed"})
    sources = [value for _, attributes in page.elements for key, value in attributes.items() if key in ("src", "href")]
    assert len(sources) == 4
    assert all(re.match(r"data:image/(png|jpeg);base64,", value) for value in sources)
    policy = next(meta["content"] for meta in page.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'; img-src data:;")
    html = re.sub(r"base64,[A-Za-z0-9+/=]+", "", render_report(**parts))
    assert "://" not in html
    assert "url(" not in html
    assert "@import" not in html


def test_escapes_hostile_names_everywhere(parts) -> None:
    hostile = "<script>alert(1)</script>"
    parts["scores"]["section"] = hostile
    parts["scores"]["models"][hostile] = parts["scores"]["models"]["idw"]
    parts["section_report"][hostile] = hostile
    parts["provenance"]["Model"][hostile] = '"><img src=x onerror=alert(1)>'
    parts["figures"]['"><script>'] = PNG
    html = render_report(**parts)
    assert html.count("<script") == 2  # the data and ours
    assert html.count("&lt;script&gt;alert(1)") >= 5
    assert "<img src=x" not in html


def test_is_well_formed_and_accessible(parts) -> None:
    page = _Page(render_report(**parts))
    assert not page.open
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("h1")) == 1
    assert len(page.all("label")) == 3  # search, outcome, least PCC
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in page.all("svg"))
    assert all(len(image["alt"] or "") > 10 for image in page.all("img"))
    assert all(header.get("scope") in ("col", "row") for header in page.all("th"))
    assert len(page.all("caption")) == len(page.all("table"))
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = [section["aria-labelledby"] for section in page.all("section")]
    assert set(labelled) <= set(ids)


def test_genes_are_listed_best_first_with_the_best_baseline(parts) -> None:
    html = render_report(**parts).split('id="gene-table"')[1].split("</table>")[0]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in html.split("<tr>")[2:]]
    assert [row[:5] for row in rows[:2]] == [
        ["B", "0.700", "n/a", "n/a", "level"],
        ["A", "0.500", "0.900", "-0.400", "worse"],
    ]
    assert rows[1][-1] == "1.000"  # mean expression


def test_wins_need_an_interval_that_excludes_zero(gene_scores) -> None:
    ours = gene_scores["model"] == "spamcaf"
    low, high = {"A": 0.1, "B": -0.1}, {"A": 0.3, "B": 0.3}
    idw = gene_scores[ours].assign(model="idw", pearson=0.05)
    table = gene_scores[ours].assign(
        difference_low=gene_scores["gene"].map(low), difference_high=gene_scores["gene"].map(high)
    )
    expression = AnnData(np.zeros((2, 3), np.float32), var=pd.DataFrame(index=gene_scores["gene"][ours]))
    genes = tabulate_genes(pd.concat([table, idw]), "spamcaf", "idw", expression).set_index("gene")
    assert genes.loc[["A", "B"], "outcome"].tolist() == ["win", "level"]
    assert count_outcomes(genes) == {"higher": 3, "lower": 0, "win": 2, "loss": 0}  # without an interval by the sign


def test_other_models_that_saw_more_are_marked(parts) -> None:
    assert "Not every model saw the same" not in render_report(**parts)
    parts["scores"]["other_sections"] = ["C3", "C4"]
    html = render_report(**parts)
    assert "SpaMCAF, Gaussian process alone also learned from all spots of C3, C4; the others from this section" in html
    rows = _score_rows(html)
    assert [" †" in row for row in rows] == [True, True, *[False] * 6]
    parts["scores"]["n_train"] = 0
    assert all(" †" in row for row in _score_rows(render_report(**parts)))


def test_the_preview_is_the_top_of_the_report_without_a_script(parts) -> None:
    preview = preview_of(render_report(**parts))
    page = _Page(preview)
    assert not page.open and not page.all("script") and not page.all("style")
    assert "SpaMCAF beats the best baseline &amp; more" in preview
    assert all(DISPLAY_NAMES[model] in preview for model in parts["scores"]["models"])
    assert preview_of("<p>another page</p>") == "<p>another page</p>"


def test_every_model_has_a_name_for_people() -> None:
    assert set(DISPLAY_NAMES) == set(Model)
    assert not any("_" in name for name in DISPLAY_NAMES.values())


def test_a_cohort_has_a_column_per_run_and_counts_wins(scores) -> None:
    other = copy.deepcopy(scores) | {"section": "B", "difference": [-0.1, 0.1]}
    other["models"]["spamcaf"]["pcc_mean"] = 0.2
    html = render_cohort_report([("A & 1", scores), ("B", other)], {"B": "../B/report.html"})
    page = _Page(html)
    assert not page.open
    assert "is ahead on 1 of 2, level on 1 and behind on 0" in html
    assert "its mean PCC over runs is 0.300, that of the best baseline, Kriging + ridge on programs, 0.300" in html
    assert [link["href"] for link in page.all("a")] == ["../B/report.html"]
    rows = [re.sub(r"<[^>]+>", " ", row).split() for row in _score_rows(html)]
    ours = next(row for row in rows if "SpaMCAF" in row)
    assert ours[-1] == "0.300" and "0.400" in ours and "0.200" in ours
    assert "A &amp; 1" in html


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
    html = render_report(**parts)
    assert "scores of each gene at hidden spots by Released network (replica)" in html
    assert "Released network (replica), mean PCC" in html
    assert "Another model beats Released network (replica)" in html
    assert "Gaussian process alone" not in html


def _all(scores) -> str:
    return "\n".join(notes(scores))


def test_losses_are_named_with_figures(scores) -> None:
    text = _all(scores)
    assert "Another model beats SpaMCAF at hidden spots in 3 of the scores" in text
    assert "Inverse distance: MSE 0.450 against 0.500; MAE 0.450 against 0.500" in text
    assert "Another model beats SpaMCAF between the spots in 8 of the scores" in text


def test_the_model_does_not_lose_to_a_part_of_itself(scores) -> None:
    scores["models"]["program_gp"] = {**scores["models"]["spamcaf"], "pcc_mean": 0.9, "mse": 0.1, "spearman_mean": 0.9}
    assert "Gaussian process" not in _all(scores)


def test_no_loss_is_text_too(scores) -> None:
    scores["models"] = {name: scores["models"][name] for name in ("spamcaf", "gene_mean")}
    assert "No other model of the table beats SpaMCAF at hidden spots" in _all(scores)


def test_smooth_predictions_and_bad_intervals(scores) -> None:
    text = _all(scores)
    assert "25% of the measured" in text
    assert "80.0% of the hidden values: they are too narrow" in text
    scores["models"]["spamcaf"]["variance_ratio"] = 1.0
    scores["coverage_90"] = None
    assert "vary less" not in _all(scores)
    assert "intervals" not in _all(scores)


def test_reach_is_stated_and_may_be_missing_from_a_stored_record(scores, parts) -> None:
    html = render_report(**parts)
    assert "Reachable limit of the mean PCC 0.500" in html
    assert "SpaMCAF reaches 80% of it" in html
    assert "explains 70% of the score" in html
    del scores["reachable_limit"], scores["models"]["depth_only"]
    for values in (*scores["models"].values(), *scores["super_resolution"]["models"].values()):
        del values["pcc_depth_removed"]
    assert "Reachable limit" not in render_report(**parts).split('id="notes"')[0]


def test_protocol_and_undefined_genes(scores) -> None:
    assert "Hidden spots lie among visible ones" in _all(scores)
    scores["protocol"] = "lattice"
    assert "what prediction between the spots reaches" in _all(scores)
    scores["protocol"] = "block"
    scores["models"]["spamcaf"]["n_undefined"] = 2
    assert "Hidden spots lie among visible ones" not in _all(scores)
    assert "how well the model extrapolates" in _all(scores)
    assert "For 2 of 3 genes the correlation is undefined" in _all(scores)


def test_remarks_stand_among_the_notes(parts) -> None:
    sentence = "The GeoJSON for QuPath holds no polygons."
    assert sentence not in render_report(**parts)
    assert sentence in render_report(**parts, remarks=[sentence])
