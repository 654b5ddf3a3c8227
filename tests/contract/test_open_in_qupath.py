"""QuPath itself is not run: its importer's rules (objectType, name, measurements by name) are checked instead."""

from __future__ import annotations

from pathlib import Path

import geopandas
import numpy as np
import shapely
from anndata import AnnData
from shapely.geometry import shape

from spamcaf.datasets.stored import AtomicDataset
from spamcaf.reporting.exports import to_geojson


def test_every_feature_is_a_sound_detection(prediction: AnnData, tmp_path: Path) -> None:
    dataset = AtomicDataset(filepath=str(tmp_path / "sites.geojson"), dataset={"type": "json.JSONDataset"})
    dataset.save(to_geojson(prediction, ["Plp1"]))
    collection = dataset.load()
    assert collection["type"] == "FeatureCollection"
    assert [f["properties"]["name"] for f in collection["features"]] == prediction.obs_names.tolist()
    assert {f["properties"]["objectType"] for f in collection["features"]} == {"detection"}
    rings = [shape(f["geometry"]) for f in collection["features"]]
    assert all(ring.is_valid and ring.exterior.is_ccw for ring in rings)
    centres = shapely.get_coordinates(shapely.centroid(rings))
    assert np.allclose(centres, prediction.obsm["spatial"], atol=0.02)
    widths = shapely.bounds(rings)
    assert np.allclose(widths[:, 2] - widths[:, 0], 27.5, atol=0.05)


def test_geopandas_reads_it(prediction: AnnData, tmp_path: Path) -> None:
    dataset = AtomicDataset(filepath=str(tmp_path / "sites.geojson"), dataset={"type": "json.JSONDataset"})
    dataset.save(to_geojson(prediction, ["Plp1", "Snap25"]))
    frame = geopandas.read_file(tmp_path / "sites.geojson")
    assert len(frame) == prediction.n_obs
