"""The figure of the method in how_it_works.md; `python docs/figures/method.py <file>.svg` draws it alone."""

from __future__ import annotations

import sys

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Ellipse, FancyBboxPatch, Rectangle

TISSUE, NUCLEUS, EDGE, GREY, GREEN = "#f3c6d3", "#7b5ea7", "#30343b", "#5b6470", "#2a9d55"
INPUT, LEARNED, OUTPUT = "#eef3fa", "#fdf4e3", "#e9f5ec"
WIDTH, TOP, BOTTOM = 13.0, 7.3, 0.35


def draw_method() -> Figure:
    """Return the figure: inputs on the left, two predictors in the middle, predictions on the right."""
    figure = Figure(figsize=(0.87 * WIDTH, 0.87 * (TOP - BOTTOM)))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(BOTTOM, TOP), aspect="equal")
    axes.set_axis_off()
    for x, title in ((1.45, "measured"), (4.75, "described"), (8.25, "predicted twice"), (11.55, "combined")):
        axes.text(x, 7.0, title, ha="center", va="center", fontsize=13, color=GREY)
    _box(axes, (0.15, 3.85), (2.6, 2.75), "H&E image, spots on it", INPUT)
    _tissue(axes, 1.45, 5.05)
    _box(axes, (0.15, 0.55), (2.6, 2.75), "counts of the visible spots", INPUT)
    _counts(axes, 0.65, 0.95)
    _box(axes, (3.45, 3.85), (2.6, 2.75), "image features", INPUT)
    _window(axes, 3.75, 4.75)
    axes.text(5.5, 5.45, "frozen\nbackbone", ha="center", va="center", fontsize=10)
    _note(axes, 4.75, 4.3, "a tile of 112 µm,\nand the 3 x 3 tiles around it")
    _box(axes, (3.45, 0.55), (2.6, 2.75), "depth and gene programs", LEARNED)
    _patterns(axes, 3.7, 1.55)
    _note(axes, 4.75, 1.05, "depth taken out, then\npatterns that genes share")
    _box(axes, (6.75, 3.85), (3.0, 2.75), "SpaMCAF network", LEARNED)
    _branches(axes, 6.95, 4.2)
    _box(axes, (6.75, 0.55), (3.0, 2.75), "Gaussian process per program", LEARNED)
    _kernels(axes, 7.0, 0.85)
    _box(axes, (10.45, 5.05), (2.2, 1.55), "stacking", LEARNED)
    _note(axes, 11.55, 5.62, "a weight per program,\nby cross-validation;\nprograms back to genes")
    outputs = ("hidden spots: the scores", "between the spots: the map", "sections with an image alone")
    for y, title in zip((3.55, 2.05, 0.55), outputs, strict=True):
        _box(axes, (10.45, y), (2.2, 1.25), title, OUTPUT, fontsize=8.5)
    _sites(axes, 11.55, 4.03, n_visible=2)
    _sites(axes, 11.55, 2.53, n_visible=4, between=True)
    _sites(axes, 11.55, 1.03, n_visible=0)
    for start, end in (
        ((2.75, 5.2), (3.45, 5.2)), ((2.75, 1.9), (3.45, 1.9)),
        ((6.05, 5.2), (6.75, 5.2)), ((6.05, 1.9), (6.75, 1.9)), ((6.05, 4.5), (6.75, 2.7)), ((6.05, 2.6), (6.75, 4.4)),
        ((9.75, 5.8), (10.45, 5.8)), ((9.75, 2.9), (10.45, 5.3)),
    ):  # fmt: skip
        _arrow(axes, start, end)
    axes.plot([12.65, 12.86, 12.86], [5.8, 5.8, 1.15], color=EDGE, linewidth=1.3)
    for y in (4.15, 2.65, 1.15):
        _arrow(axes, (12.86, y), (12.65, y))
    return figure


def _box(
    axes: Axes, at: tuple[float, float], size: tuple[float, float], title: str, fill: str, fontsize: float = 11
) -> None:
    shape = FancyBboxPatch(at, *size, boxstyle="round,pad=0,rounding_size=0.12", facecolor=fill, edgecolor=EDGE)
    axes.add_patch(shape)
    axes.text(
        at[0] + size[0] / 2, at[1] + size[1] - 0.22, title, ha="center", va="center", color=EDGE, fontsize=fontsize
    )


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    line = {"arrowstyle": "-|>", "color": EDGE, "linewidth": 1.3, "shrinkA": 0, "shrinkB": 0}
    axes.annotate("", end, start, arrowprops=line)


def _note(axes: Axes, x: float, y: float, text: str) -> None:
    axes.text(x, y, text, ha="center", va="center", fontsize=9, color=GREY)


def _tissue(axes: Axes, x: float, y: float) -> None:
    axes.add_patch(Ellipse((x, y), 2.2, 1.9, angle=15, facecolor=TISSUE, edgecolor="none"))
    random = np.random.default_rng(4)
    angle, reach = random.uniform(0, 2 * np.pi, 90), np.sqrt(random.uniform(0, 0.85, 90))
    axes.scatter(x + 1.05 * reach * np.cos(angle), y + 0.88 * reach * np.sin(angle), s=4, color=NUCLEUS, linewidths=0)
    for row in range(-3, 4):
        for column in range(-4, 5):
            dx, dy = 0.34 * column + 0.17 * (row % 2), 0.295 * row
            if np.hypot(dx / 1.02, dy / 0.88) < 1:
                axes.add_patch(Circle((x + dx, y + dy), 0.095, facecolor="none", edgecolor="#0a7d33", linewidth=1.1))


def _counts(axes: Axes, x: float, y: float) -> None:
    counts = np.random.default_rng(1).poisson(1.2, (10, 13))
    axes.imshow(counts, cmap="Greys", extent=(x, x + 1.75, y, y + 1.5), vmax=6, zorder=2)
    _note(axes, x + 0.87, y - 0.15, "genes")
    axes.text(x - 0.13, y + 0.75, "spots", rotation=90, ha="center", va="center", fontsize=9, color=GREY)


def _window(axes: Axes, x: float, y: float) -> None:
    random, side = np.random.default_rng(2), 0.36
    for row in range(3):
        for column in range(3):
            corner = (x + column * side, y + row * side)
            is_target = row == column == 1
            axes.add_patch(Rectangle(corner, side, side, facecolor=TISSUE, edgecolor="white"))
            places = random.uniform(0.06, side - 0.06, (6, 2)) + corner
            axes.scatter(places[:, 0], places[:, 1], s=5, color=NUCLEUS, linewidths=0)
            if is_target:
                axes.add_patch(Rectangle(corner, side, side, fill=False, edgecolor="#0a7d33", linewidth=2, zorder=3))


def _patterns(axes: Axes, x: float, y: float) -> None:
    row, column = np.mgrid[0:1:40j, 0:1:40j]
    patterns = (np.sin(3 * column + 2 * row), np.exp(-8 * ((row - 0.6) ** 2 + (column - 0.3) ** 2)), column - row**2)
    for number, pattern in enumerate(patterns):
        left = x + 0.74 * number
        axes.imshow(pattern, cmap="viridis", extent=(left, left + 0.64, y, y + 0.64), origin="lower", zorder=2)
        _note(axes, left + 0.32, y + 0.86, ("depth", "program 1", "2 ...")[number])


def _branches(axes: Axes, x: float, y: float) -> None:
    names = ("tile", "3 x 3 tiles", "whole section", "measured neighbours")
    for number, name in enumerate(names):
        low = y + 0.47 * number
        axes.add_patch(Rectangle((x, low), 1.55, 0.37, facecolor="white", edgecolor=GREY))
        axes.text(x + 0.775, low + 0.185, name, ha="center", va="center", fontsize=8)
        _arrow(axes, (x + 1.55, low + 0.185), (x + 1.85, y + 0.9))
    axes.text(x + 2.22, y + 0.9, "cross-\nattention", ha="center", va="center", fontsize=9.5)


def _kernels(axes: Axes, x: float, y: float) -> None:
    distance = np.linspace(0, 1, 60)
    for pitches, colour in ((2, "#0072b2"), (5, "#e69f00")):
        scaled = np.sqrt(3) * 10 * distance / pitches
        axes.plot(x + 1.05 * distance, y + 0.3 + 0.9 * (1 + scaled) * np.exp(-scaled), color=colour, linewidth=1.6)
    axes.plot([x, x, x + 1.1], [y + 1.3, y + 0.27, y + 0.27], color=GREY, linewidth=1)
    _note(axes, x + 0.55, y + 0.1, "distance")
    _note(axes, x + 0.62, y + 1.72, "kernels of space")
    _note(axes, x + 2.0, y + 1.72, "of the image")
    features = np.random.default_rng(5).normal(size=(12, 3))
    axes.imshow(features @ features.T, cmap="Blues", extent=(x + 1.55, x + 2.45, y + 0.3, y + 1.2), zorder=2)
    axes.text(x + 1.32, y + 0.75, "+", ha="center", va="center", fontsize=13)
    _note(axes, x + 2.0, y + 0.1, "sites x sites")


def _sites(axes: Axes, x: float, y: float, n_visible: int, *, between: bool = False) -> None:
    """Draw spots, of four each `n_visible` measured ones in grey, and predicted places in green."""
    for row in range(3):
        for column in range(7):
            place = (x - 0.88 + 0.27 * column + 0.135 * (row % 2), y - 0.24 + 0.24 * row)
            is_visible = (3 * row + 5 * column + 2) % 4 < n_visible
            axes.add_patch(Circle(place, 0.085, facecolor=GREY if is_visible else GREEN, edgecolor="none"))
            if between:
                axes.add_patch(Circle((place[0] + 0.135, place[1]), 0.045, facecolor=GREEN, edgecolor="none"))


if __name__ == "__main__":
    draw_method().savefig(sys.argv[1])
