"""Several processes give what one gives; their errors are raised; a complete store only gets the key in use."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone
from spamcaf.histology.embedding import EmbeddingJob
from spamcaf.histology.features import FeatureKey, Features, join_blocks
from spamcaf.histology.slide import Pixels, Slide
from spamcaf.histology.tiles import WindowGeometry
from spamcaf.histology.workers import Workers, _sendable, embed_sites
from spamcaf.parameters import TileSettings
from spamcaf.slides.open import open_slide

CPU = torch.device("cpu")
ONE, TWO = Workers((CPU,), torch.float32, 18, 1), Workers((CPU, CPU), torch.float32, 18, 1)
IDS = [f"site{i}" for i in range(9)]
XY = np.random.default_rng(1).uniform((50, 50), (550, 250), (9, 2))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    image = np.random.default_rng(0).integers(0, 255, (300, 600, 3), np.uint8)
    path = tmp_path / "s.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), compression="zlib")
    return path


@pytest.fixture
def job(path: Path) -> EmbeddingJob:
    geometry = WindowGeometry.of(TileSettings(), 4.0)
    return EmbeddingJob(open_slide(path), geometry, IDS, XY, FeatureKey("s", "b", "v", "i", 84, block=2))


def test_two_processes_give_what_one_gives(job: EmbeddingJob, convolution: Backbone) -> None:
    torch.set_num_threads(1)
    alone, shared = (list(embed_sites(job, convolution, workers, {4})) for workers in (ONE, TWO))
    assert sorted(block.start for block in shared) == [block.start for block in alone] == [0, 2, 6, 8]
    expected, found = join_blocks(alone), join_blocks(shared)
    assert found.ids == expected.ids
    np.testing.assert_array_equal(found.windows, expected.windows)
    np.testing.assert_array_equal(found.n_px_padded, expected.n_px_padded)


def test_an_error_in_a_process_is_raised_here(job: EmbeddingJob, convolution: Backbone, path: Path) -> None:
    with tifffile.TiffFile(path) as tiff:
        offset, count = tiff.pages[0].dataoffsets[-1], tiff.pages[0].databytecounts[-1]
    content = bytearray(path.read_bytes())
    content[offset : offset + count] = bytes(count)
    path.write_bytes(content)
    corner = replace(job, slide=open_slide(path), xy_px=np.full((9, 2), (590.0, 290.0)))
    with pytest.raises(InputError, match=r"s\.tif is damaged in tile"):
        list(embed_sites(corner, convolution, TWO, set()))


def test_a_process_that_dies_is_an_error_of_one_sentence(job: EmbeddingJob, convolution: Backbone) -> None:
    # who opens this slide ends, as the system ends a process when memory runs out
    deadly = replace(job.slide, reopen=partial(os._exit, 9))
    with pytest.raises(InputError, match=r"ended before its work was done.*9.*goes on where it stopped"):
        list(embed_sites(replace(job, slide=deadly), convolution, TWO, set()))


def test_an_error_that_cannot_be_sent_arrives_as_its_text() -> None:
    class Local(Exception):
        pass

    assert str(_sendable(Local("what happened"))) == "Local: what happened"
    assert isinstance(_sendable(InputError("a.", "b.", "c.")), InputError)


def test_a_slide_that_cannot_be_sent_is_read_by_one_process(job: EmbeddingJob, convolution: Backbone) -> None:
    slide = Slide(Unsendable(job.slide.pixels), "s")
    assert not slide.is_portable
    blocks = list(embed_sites(replace(job, slide=slide), convolution, TWO, set()))
    expected = list(embed_sites(job, convolution, ONE, set()))
    np.testing.assert_array_equal(join_blocks(blocks).windows, join_blocks(expected).windows)


class Unsendable:
    """Pixels from somewhere else than an array or a file."""

    def __init__(self, pixels: Pixels) -> None:
        self.shape, self.fingerprint, self.crop = pixels.shape, "u", pixels.crop


def test_what_is_done_is_not_computed_again(job: EmbeddingJob, mean_colour: Backbone) -> None:
    (block,) = embed_sites(job, mean_colour, ONE, {0, 2, 4, 8})
    assert block.start == 6
    assert mean_colour.network.sizes == [18]


@pytest.mark.parametrize("with_whole", [False, True])
def test_where_nothing_is_missing_a_block_without_sites_names_the_key(
    job: EmbeddingJob, mean_colour: Backbone, with_whole: bool
) -> None:
    job = replace(job, with_whole=with_whole)
    (block,) = embed_sites(job, mean_colour, ONE, set(range(0, 10, 2)))
    assert (block.ids, block.n_total, block.key) == ((), 9, job.key)
    assert block.windows.shape == (0, 9, 3)
    assert (block.whole is not None) == with_whole
    assert mean_colour.network.sizes == []


def test_no_site_at_all_is_one_empty_block(job: EmbeddingJob, mean_colour: Backbone) -> None:
    (block,) = embed_sites(replace(job, ids=[], xy_px=np.empty((0, 2))), mean_colour, ONE, set())
    assert (block.ids, block.n_total, block.start) == ((), 0, 0)
    assert isinstance(block, Features)


def test_the_cpu_is_one_worker() -> None:
    assert Workers.of(CPU, torch.float32, 64).devices == (CPU,)
