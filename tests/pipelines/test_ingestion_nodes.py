"""The node that checks a section: the right image passes with a table in the log, turned coordinates do not."""

from __future__ import annotations

import logging
from functools import cache

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.parameters import SectionSettings, SimulationSettings, TissueSettings
from spamcaf.pipelines.ingestion.nodes import check_section
from spamcaf.simulation.section import SimulatedTissue

SIZE_PX = 1500


@cache
def simulated() -> tuple[AnnData, NDArray[np.uint8]]:
    tissue = SimulatedTissue(SimulationSettings(seed=3, width_um=1500, height_um=1500, mpp=1.0, n_genes=100))
    return tissue.section(), tissue.render(0, 0, SIZE_PX, SIZE_PX)


def checked(raw: AnnData, image: NDArray[np.uint8], mpp: float | None = 1.0) -> tuple[AnnData, dict[str, object]]:
    slide = Slide(ArrayPixels(image, "key"), "he.tif", mpp=mpp, reader="tifffile", notes=("alpha composited",))
    return check_section(raw, slide, SectionSettings(), TissueSettings())


def bare(raw: AnnData) -> AnnData:
    raw = raw.copy()
    raw.obs = raw.obs[["in_tissue"]]
    raw.uns["section"] = {"name": "simulated"}
    return raw


def test_the_right_image_passes_and_the_log_holds_the_table(caplog: pytest.LogCaptureFixture) -> None:
    raw, image = simulated()
    with caplog.at_level(logging.INFO):
        _, report = checked(raw, image)
    assert report["share_of_spots_on_tissue"] > 0.85
    assert report["slide_notes"] == ["alpha composited"]
    assert report["mpp_by"]["image"] == 1.0
    (table,) = [record.getMessage() for record in caplog.records if "um per px" in record.getMessage()]
    assert "1500 x 1500 px, by tifffile (alpha composited)" in table
    assert all(len(line) < 120 for line in table.splitlines())


def test_a_source_without_metadata_gives_the_same_section() -> None:
    raw, image = simulated()
    section, report = checked(raw, image)
    found, found_report = checked(bare(raw), image)
    assert found_report["mpp"] == report["mpp"]
    steps = [s.obs[["array_row", "array_col"]].to_numpy() for s in (section, found)]
    assert len(np.unique(steps[0] - steps[1], axis=0)) == 1


@pytest.mark.parametrize("is_bare", [False, True])
def test_x_and_y_swapped_are_refused(is_bare: bool) -> None:
    raw, image = simulated()
    raw = bare(raw) if is_bare else raw.copy()
    raw.obsm["spatial"] = raw.obsm["spatial"][:, ::-1]
    with pytest.raises(InputError, match="x and y (seem )?swapped"):
        checked(raw, image)


def test_image_and_coordinates_mirrored_together_pass_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    raw, image = simulated()
    raw = raw.copy()
    raw.obsm["spatial"] = raw.obsm["spatial"] * (-1, 1) + (SIZE_PX, 0)
    _, report = checked(raw, image[:, ::-1])
    assert report["mirrored"] is True
    assert "the image shows the array mirrored" in caplog.text
    with pytest.raises(InputError, match="spots lie on tissue"):
        checked(raw, image)
