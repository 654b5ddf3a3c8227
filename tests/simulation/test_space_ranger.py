"""Other tools read the written folder back, and a failed write leaves nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile

from spamcaf.errors import InputError
from spamcaf.parameters import SimulationSettings
from spamcaf.simulation.section import SimulatedTissue
from spamcaf.simulation.space_ranger import IMAGE, write_space_ranger


@pytest.fixture(scope="module")
def tissue() -> SimulatedTissue:
    return SimulatedTissue(SimulationSettings(width_um=800, height_um=620, mpp=0.8, n_genes=60))


@pytest.fixture(scope="module")
def outs(tissue: SimulatedTissue, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sample") / "outs"
    write_space_ranger(tissue, folder)
    return folder


def test_scanpy_reads_the_counts_back(tissue: SimulatedTissue, outs: Path) -> None:
    import scanpy

    section, read = tissue.section(), scanpy.read_10x_h5(outs / "filtered_feature_bc_matrix.h5")
    assert list(read.obs_names) == list(section.obs_names) and list(read.var_names) == list(section.var_names)
    assert list(read.var["gene_ids"]) == list(section.var["gene_ids"])
    assert (read.X != section.X).nnz == 0


def test_squidpy_reads_the_section_back(tissue: SimulatedTissue, outs: Path) -> None:
    squidpy = pytest.importorskip("squidpy")
    section, read = tissue.section(), squidpy.read.visium(outs)
    read = read[section.obs_names]
    np.testing.assert_allclose(read.obsm["spatial"], section.obsm["spatial"], rtol=1e-12)
    assert (read.X != section.X).nnz == 0
    np.testing.assert_array_equal(read.obs["array_col"], section.obs["array_col"])
    for key in ("hires", "lowres"):
        images = [data.uns["spatial"]["simulated"]["images"][key] for data in (read, section)]
        np.testing.assert_array_equal(np.rint(images[0] * 255) if images[0].dtype != np.uint8 else images[0], images[1])
    assert read.uns["spatial"]["simulated"]["scalefactors"] == section.uns["spatial"]["simulated"]["scalefactors"]


def test_positions_hold_the_spots_off_tissue_too(tissue: SimulatedTissue, outs: Path) -> None:
    table = pd.read_csv(outs / "spatial" / "tissue_positions.csv")
    columns = ["barcode", "in_tissue", "array_row", "array_col", "pxl_row_in_fullres", "pxl_col_in_fullres"]
    assert list(table.columns) == columns
    assert len(table) == len(tissue.positions) > table["in_tissue"].sum() == tissue.section().n_obs


def test_the_image_is_a_tiled_tiff_without_pyramid(tissue: SimulatedTissue, outs: Path) -> None:
    height, width, _ = tissue.image_shape
    with tifffile.TiffFile(outs / IMAGE) as tiff:
        assert len(tiff.pages) == 1 and tiff.pages[0].is_tiled and tiff.series[0].axes == "YXS"
        np.testing.assert_array_equal(tiff.asarray(), tissue.render(0, 0, width, height))


def test_an_existing_folder_is_left_alone(tissue: SimulatedTissue, tmp_path: Path) -> None:
    (tmp_path / "outs").mkdir()
    with pytest.raises(InputError, match="Next step"):
        write_space_ranger(tissue, tmp_path / "outs")
    assert [p.name for p in tmp_path.iterdir()] == ["outs"] and not list((tmp_path / "outs").iterdir())


def test_a_failed_write_leaves_nothing(
    tissue: SimulatedTissue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(tifffile, "imwrite", full)
    with pytest.raises(OSError, match="no space"):
        write_space_ranger(tissue, tmp_path / "outs")
    assert not list(tmp_path.iterdir())
