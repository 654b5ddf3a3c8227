"""Gene maps as compact data that the report draws: places once, values of each gene as one byte per site."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from spamcaf.histology.slide import GLASS
from spamcaf.names import SPATIAL, ScaleFactor
from spamcaf.reporting.figures import CELL_REACH, SPOT_SHARE, colour_limits, nearest_px
from spamcaf.reporting.prediction import SD, as_uint8, library_of, values_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

N_GENES = 30
_MAX_BYTES = 5_000_000  # of all values, before base64 makes them a third longer
_MAX_SITES = 60_000  # per map; of more sites, evenly spaced ones are drawn
_IMAGE_PX = 1100
_JPEG_QUALITY = 82
_MARGIN_PITCHES = 1.5
_STEPS = 255
_PLACES = 65535
PALETTES = ("viridis", "cividis")
_GROUPS = {"best": "Predicted best", "median": "Around the median", "worst": "Predicted worst"}
_SHARES = {"best": 8, "median": 4, "worst": 4}  # of 30 genes


def choose_map_genes(genes: pd.DataFrame, requested: Sequence[str], n: int = N_GENES) -> dict[str, str]:
    """Return up to `n` genes with the reason for each: requested, predicted best, median or worst, most variable.

    `genes` has a row per gene, best predicted first: gene, and the `variance` of its measured expression.
    """
    names, middle = genes["gene"].tolist(), len(genes) // 2
    k = {group: max(1, round(n * share / N_GENES)) for group, share in _SHARES.items()}
    groups = {
        "best": names[: k["best"]],
        "worst": names[::-1][: k["worst"]],
        "median": names[max(middle - k["median"] // 2, 0) :][: k["median"]],
    }
    variable = genes.sort_values("variance", ascending=False, kind="stable")["gene"]
    found = {gene: "Asked for, or a known marker" for gene in requested if gene in set(names)}
    for group, members in groups.items():
        found |= {gene: _GROUPS[group] for gene in members if gene not in found}
    found |= {gene: "Most variable" for gene in variable if gene not in found}
    return dict(list(found.items())[:n])


def map_data(
    measured: AnnData,
    recovered: AnnData,
    super_resolved: AnnData,
    genes: dict[str, str],
    mpp: float,
    truth: AnnData | None = None,
) -> dict[str, Any]:
    """Return image, places and values of the maps as plain data with base64 texts.

    Values are scaled to 0-255 between the lowest and the highest of the map, which `range` holds; `limits` are those
    of the colours, the 1st to 99th percentile, common to both predictions. Coordinates are 16-bit, little-endian, in
    units of `frame` / 65535.

    Parameters
    ----------
    measured, recovered, super_resolved : AnnData
        X is log1p CP10k, `obsm["spatial"]` in full-resolution pixels; `super_resolved` has the image. Its standard
        deviation is a map of its own, where it has one.
    genes : dict of str
        Reason by gene. Fewer are kept where all would make the report too large.
    mpp : float
        Micrometres per pixel.
    truth : AnnData, optional
        True expression at the sites of `super_resolved`, where it is known: a map of its own.
    """
    shown = [_thinned(measured), _thinned(recovered), _thinned(super_resolved)]
    with_sd = SD in super_resolved.layers
    further: list[tuple[AnnData, str | None]] = [] if truth is None else [(_thinned(truth), None)]
    further += [(shown[2], SD)] if with_sd else []
    n_bytes = sum(map(len, shown)) + len(further) * len(shown[2])
    kept = list(genes)[: max(_MAX_BYTES // n_bytes, 1)]
    every = np.concatenate([np.asarray(section.obsm[SPATIAL], float) for section in shown])
    margin = _MARGIN_PITCHES * nearest_px(np.asarray(shown[0].obsm[SPATIAL], float))
    low, high = every.min(axis=0) - margin, every.max(axis=0) + margin
    names = ["Measured", "Predicted at hidden spots", "Super-resolved"]
    panels = [{"name": name, "sites": i, "palette": 0, "unit": "log1p CP10k"} for i, name in enumerate(names)]
    if truth is not None:
        panels.append({"name": "True expression", "sites": 2, "palette": 0, "unit": "log1p CP10k"})
    if with_sd:
        panels.append({"name": "Standard deviation", "sites": 2, "palette": 1, "unit": "log1p CP10k"})
    return {
        "image": _image(super_resolved, low, high),
        "frame": (high - low).round(1).tolist(),
        "mpp": mpp,
        "palettes": [_palette(name) for name in PALETTES],
        "sites": [_sites(s, low, float((high - low).max()), is_surface=s is shown[2]) for s in shown],
        "n_left_out": [len(a) - len(b) for a, b in zip((measured, recovered, super_resolved), shown, strict=True)],
        "panels": panels,
        "genes": [{"name": gene, "group": genes[gene], "maps": _maps(gene, shown, further)} for gene in kept],
    }


def _thinned(section: AnnData) -> AnnData:
    every = -(-section.n_obs // _MAX_SITES)
    return section if every == 1 else section[::every]


def _maps(gene: str, shown: list[AnnData], further: list[tuple[AnnData, str | None]]) -> list[dict[str, Any]]:
    values = [values_of(section, gene) for section in shown]
    limits = [colour_limits(values[0]), *[colour_limits(np.concatenate(values[1:]))] * 2]
    for sites, layer in further:
        values.append(values_of(sites, gene, layer))
        limits.append(colour_limits(values[-1]))
    return [_quantised(v, limit) for v, limit in zip(values, limits, strict=True)]


def _quantised(values: NDArray[np.float64], limits: tuple[float, float]) -> dict[str, Any]:
    low, high = float(values.min()), float(values.max())
    steps = np.rint((values - low) / ((high - low) or 1.0) * _STEPS).astype(np.uint8)
    return {"range": [round(low, 4), round(high, 4)], "limits": [round(v, 4) for v in limits], "values": _text(steps)}


def _sites(section: AnnData, low: NDArray[np.float64], longest: float, *, is_surface: bool) -> dict[str, Any]:
    """Return places, and the radius of discs: the sites' own, of a closed surface one that covers their cells."""
    xy_px = np.asarray(section.obsm[SPATIAL], float)
    diameter = library_of(section)[1]["scalefactors"].get(ScaleFactor.SPOT) or SPOT_SHARE * nearest_px(xy_px)
    if is_surface:
        diameter = max(float(diameter), 2 * CELL_REACH * nearest_px(xy_px))
    x, y = np.rint((xy_px - low) / longest * _PLACES).astype("<u2").T
    return {"x": _text(x), "y": _text(y), "radius": round(float(diameter) / 2 / longest, 6)}


def _image(section: AnnData, low: NDArray[np.float64], high: NDArray[np.float64]) -> str:
    """Return the part of the hires image from `low` to `high` (x, y) as a data URL; empty where there is no image."""
    from PIL import Image

    _, entry = library_of(section)
    image, scale = entry["images"].get("hires"), entry["scalefactors"].get(ScaleFactor.HIRES)
    if image is None or scale is None or as_uint8(np.asarray(image)).min() == GLASS:  # the ground where there is none
        return ""
    size = high - low
    shape = np.maximum(np.rint(size * min(float(scale), _IMAGE_PX / size.max())), 1).astype(int)
    ratio = size * float(scale) / shape
    affine = (ratio[0], 0, low[0] * float(scale), 0, ratio[1], low[1] * float(scale))
    whole = Image.fromarray(as_uint8(np.asarray(image)))
    shrunk = whole.reduce(max(int(ratio.min()), 1))
    step = max(int(ratio.min()), 1)
    part = shrunk.transform(
        tuple(shape.tolist()),
        Image.Transform.AFFINE,
        tuple(value / step for value in affine),
        Image.Resampling.BILINEAR,
        fillcolor="white",
    )
    file = io.BytesIO()
    part.save(file, "JPEG", quality=_JPEG_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")


def _palette(name: str) -> str:
    from matplotlib import colormaps

    return _text((colormaps[name](np.arange(_STEPS + 1))[:, :3] * _STEPS).round().astype(np.uint8))


def _text(array: NDArray[Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")
