from __future__ import annotations

from collections.abc import Callable

import anndata as ad
import numpy as np
import pytest

from spamcaf.reporting.exports import to_geojson


def test_measurements_are_the_values_of_the_genes_asked_for(make_section: Callable[..., ad.AnnData]) -> None:
    section = make_section()
    collection = to_geojson(section, ["B", "A"])
    assert collection["features"][3]["properties"]["measurements"] == {"B": 1.0, "A": 4.0}


def test_a_value_that_is_not_finite_is_left_out(make_section: Callable[..., ad.AnnData]) -> None:
    section = make_section()
    section.X[0, 0] = np.nan
    first, second = (f["properties"]["measurements"] for f in to_geojson(section, ["A", "B"])["features"][:2])
    assert set(first) == {"B"}
    assert set(second) == {"A", "B"}


def test_an_unknown_gene_is_refused_by_name(make_section: Callable[..., ad.AnnData]) -> None:
    with pytest.raises(ValueError, match="NOPE"):
        to_geojson(make_section(), ["A", "NOPE"])


def test_of_too_many_sites_there_is_a_note_and_no_polygon(
    make_section: Callable[..., ad.AnnData], caplog: pytest.LogCaptureFixture
) -> None:
    section = make_section()
    assert to_geojson(section, ["A"], most=section.n_obs) == to_geojson(section, ["A"])
    found = to_geojson(section, ["A"], most=section.n_obs - 1)
    assert found["features"] == []
    assert "report.max_polygons" in found["note"] and "super_resolved.h5ad" in found["note"]
    assert found["note"] in caplog.text


def test_detections_are_coloured_and_end_at_the_image(make_section: Callable[..., ad.AnnData]) -> None:
    section = make_section()
    section.layers["sd"] = np.full(section.shape, 0.5, np.float32)
    xy = section.obsm["spatial"]
    width, height = np.sort(xy[:, 0])[-2], xy[:, 1].max() + 1
    features = to_geojson(section, ["A"], image_px=(width, height))["features"]
    assert len(features) == ((xy[:, 0] < width) & (xy[:, 1] < height)).sum() < section.n_obs
    corners = np.array([ring for f in features for ring in f["geometry"]["coordinates"][0]])
    assert (corners >= 0).all() and (corners <= (width, height)).all()
    properties = [f["properties"] for f in features]
    assert all(p["measurements"]["A sd"] == 0.5 for p in properties)
    order = np.argsort([p["measurements"]["A"] for p in properties])
    assert properties[order[0]]["color"] != properties[order[-1]]["color"]
    assert all(0 <= channel <= 255 for p in properties for channel in p["color"])
