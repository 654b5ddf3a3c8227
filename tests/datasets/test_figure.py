from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from spamcaf.datasets.stored import FigureDataset


def red_figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.imshow([[[255, 0, 0]]], aspect="auto")
    return figure


def test_load_gives_the_picture_that_was_drawn(tmp_path: Path) -> None:
    dataset = FigureDataset(filepath=str(tmp_path / "red.png"), save_args={"dpi": 50})
    dataset.save(red_figure())
    pixels = np.asarray(Image.open(io.BytesIO(dataset.load())).convert("RGB"))
    assert pixels.shape == (50, 100, 3)
    assert pixels[25, 50].tolist() == [255, 0, 0]


def test_the_same_figure_gives_the_same_bytes(tmp_path: Path) -> None:
    first, second = (FigureDataset(filepath=str(tmp_path / name)) for name in ("a.png", "b.png"))
    first.save(red_figure())
    second.save(red_figure())
    assert first.load() == second.load()
