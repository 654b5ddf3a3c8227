"""A sound section passes with the right report; every defect stops with found, expected and next step."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from spamcaf.errors import InputError
from spamcaf.parameters import SectionSettings
from spamcaf.sections.array_indices import lattice_of
from spamcaf.sections.checks import as_table, check_section

PITCH_PX, MPP = 140.0, 100 / 140
IMAGE = (1400, 2100)
SETTINGS = SectionSettings()


@pytest.fixture
def raw(make_section: Callable[..., AnnData]) -> AnnData:
    return make_section()


def test_sound_section_is_kept_and_reported(raw: AnnData) -> None:
    section, report = check_section(raw, IMAGE, SETTINGS)
    assert section.obs_names.tolist() == raw.obs_names.tolist()
    assert section.uns["section"]["mpp"] == pytest.approx(MPP)
    assert report["n_spots"] == 80
    assert report["n_genes"] == 30
    assert report["pitch_px"] == pytest.approx(PITCH_PX)
    assert report["mpp"] == pytest.approx(MPP, abs=1e-5)
    assert report["lattice_residual_pitches"] == 0
    assert report["image_px"] == {"width": 2100, "height": 1400}
    assert report["median_umi_per_spot"] == np.median(raw.X.toarray().sum(axis=1))
    assert set(report["n_spots_outside_image"].values()) == {0}


def test_off_tissue_and_empty_spots_are_dropped_and_counted(raw: AnnData) -> None:
    raw.obs.iloc[:3, raw.obs.columns.get_loc("in_tissue")] = 0
    dense = raw.X.toarray()
    dense[5:7] = 0
    raw.X = csr_matrix(dense)
    raw.uns["section"]["n_unmatched"] = 0
    section, report = check_section(raw, IMAGE, SETTINGS)
    assert section.obs_names.tolist() == raw.obs_names[[3, 4, *range(7, 80)]].tolist()
    assert report["n_spots_dropped"] == {"empty": 2, "off_tissue": 3, "unmatched": 0}
    np.testing.assert_array_equal(section.uns["section"]["off_tissue_px"], raw.obsm["spatial"][:3])


def test_spots_off_the_tissue_that_a_reader_knows_of_are_kept_with_those_of_the_table(raw: AnnData) -> None:
    raw.uns["section"]["off_tissue_px"] = np.array([[1.0, 2.0], [3.0, 4.0]])
    raw.obs.iloc[:1, raw.obs.columns.get_loc("in_tissue")] = 0
    section, _ = check_section(raw, IMAGE, SETTINGS)
    np.testing.assert_array_equal(section.uns["section"]["off_tissue_px"][:, 0], [1, 3, raw.obsm["spatial"][0, 0]])


def test_scale_comes_from_the_lattice_where_the_source_states_none(raw: AnnData) -> None:
    del raw.uns["section"]["mpp"]
    section, _ = check_section(raw, IMAGE, SETTINGS)
    assert section.uns["section"]["mpp"] == pytest.approx(MPP)


def test_the_input_stays_as_it_was(raw: AnnData) -> None:
    raw.uns["section"]["mpp"] = MPP * 1.01
    check_section(raw, IMAGE, SETTINGS)
    assert raw.uns["section"]["mpp"] == MPP * 1.01


def bare(raw: AnnData) -> AnnData:
    """Take away what a generic h5ad lacks: indices, lattice and scale."""
    raw.obs = raw.obs[["in_tissue"]]
    raw.uns["section"] = {"name": "S1"}
    return raw


def test_what_the_source_does_not_state_is_found(raw: AnnData) -> None:
    index = raw.obs[["array_row", "array_col"]].copy()
    section, report = check_section(bare(raw), IMAGE, SETTINGS)
    assert (section.obs[["array_row", "array_col"]].to_numpy() == index.to_numpy()).all()
    found = section.uns["section"]
    assert found.pop("off_tissue_px").shape == (0, 2)
    assert found == {
        "name": "S1", "lattice": "hexagonal", "pitch_um": 100.0, "spot_diameter_um": pytest.approx(55.0),
        "mpp": pytest.approx(MPP),
    }  # fmt: skip
    assert report["lattice_from"] == "coordinates"
    assert lattice_of(section).residual < 1e-9


def test_a_square_array_needs_its_pitch(raw: AnnData) -> None:
    square(bare(raw))
    with pytest.raises(InputError, match="--params section_checks.pitch_um=<um>"):
        check_section(raw, IMAGE, SETTINGS)
    section, report = check_section(raw, IMAGE, SectionSettings(pitch_um=200))
    assert (report["lattice"], report["mpp"]) == ("square", pytest.approx(200 / PITCH_PX, abs=1e-5))
    assert section.uns["section"]["spot_diameter_um"] == pytest.approx(110)


def test_constant_genes_and_sources_of_the_scale_are_reported(raw: AnnData) -> None:
    dense = raw.X.toarray()
    dense[:, 1] = 0
    raw.X = csr_matrix(dense)
    raw.uns["section"] |= {"layout": "Space Ranger", "counts_from": "layers['counts']"}
    _, report = check_section(raw, IMAGE, SETTINGS, image_mpp=0.25)
    assert report["n_genes_constant"] == 2
    assert report["mpp_by"] == {
        "lattice": round(MPP, 5), "file": round(MPP, 5), "fiducials": None, "spot diameter": None, "image": 0.25
    }  # fmt: skip
    assert (report["layout"], report["counts_from"]) == ("Space Ranger", "layers['counts']")
    assert json.loads(json.dumps(report)) == report


def test_a_mirrored_array_is_reported(raw: AnnData) -> None:
    assert check_section(raw, IMAGE, SETTINGS)[1]["mirrored"] is False
    raw.obsm["spatial"][:, 0] = 2100 - raw.obsm["spatial"][:, 0]
    assert check_section(raw, IMAGE, SETTINGS)[1]["mirrored"] is True


def test_spots_outside_are_counted_by_side(raw: AnnData) -> None:
    raw.obsm["spatial"] -= (600.0, 300.0)
    x, y = raw.obsm["spatial"].T
    _, report = check_section(raw, (900, 1200), SETTINGS)
    sides = {"left": (x < 0).sum(), "right": (x >= 1200).sum(), "top": (y < 0).sum(), "bottom": (y >= 900).sum()}
    assert report["n_spots_outside_image"] == sides
    assert all(sides[side] > 0 for side in ("left", "right", "top"))
    raw.obsm["spatial"] = np.floor(raw.obsm["spatial"] + (600.0, 300.0))
    x, y = raw.obsm["spatial"].max(axis=0)
    _, report = check_section(raw, (int(y), int(x)), SETTINGS)
    assert report["n_spots_outside_image"]["right"] == (raw.obsm["spatial"][:, 0] == x).sum() > 0
    assert report["n_spots_outside_image"]["bottom"] == (raw.obsm["spatial"][:, 1] == y).sum() > 0


def test_a_spot_on_the_far_edge_is_outside(raw: AnnData) -> None:
    x, y = raw.obsm["spatial"].max(axis=0)
    edge = SectionSettings(max_outside=0)
    for shape in ((int(np.ceil(y)) + 1, int(x)), (int(y), int(np.ceil(x)) + 1)):
        raw.obsm["spatial"] = np.floor(raw.obsm["spatial"])
        with pytest.raises(InputError, match="spots inside the image"):
            check_section(raw, shape, edge)
    check_section(raw, (int(y) + 1, int(x) + 1), edge)


def test_barcodes_without_a_position_are_reported_up_to_the_limit(raw: AnnData) -> None:
    raw.uns["section"]["n_unmatched"] = 20
    limits = [SectionSettings(max_unmatched=share) for share in (0.2, 0.19)]
    _, report = check_section(raw, IMAGE, limits[0])
    assert report["n_spots_dropped"]["unmatched"] == 20
    with pytest.raises(InputError, match="20 of 100 barcodes"):
        check_section(raw, IMAGE, limits[1])


def test_coordinates_of_a_thumbnail_are_named_by_its_scale(raw: AnnData) -> None:
    thumbnail(raw, 140, 210)
    raw.uns["spatial"]["S1"]["scalefactors"]["tissue_lowres_scalef"] = 0.03
    raw.obsm["spatial"] *= 0.03
    with pytest.raises(InputError, match="of the lowres image.*tissue_lowres_scalef = 0.03"):
        check_section(raw, None, SETTINGS)


def thumbnail(raw: AnnData, rows: int, columns: int) -> None:
    record = {"images": {"hires": np.zeros((rows, columns, 3), np.uint8)}, "scalefactors": {"tissue_hires_scalef": 0.1}}
    raw.uns["spatial"] = {"S1": record}


@pytest.mark.parametrize(("rows", "columns"), [(140, 210), (139, 211)])
def test_thumbnail_of_the_image_passes(raw: AnnData, rows: int, columns: int) -> None:
    thumbnail(raw, rows, columns)
    check_section(raw, IMAGE, SETTINGS)


def metadata(**changes: Any) -> Callable[[AnnData], None]:
    return lambda raw: raw.uns["section"].update(changes)


def swap_axes(raw: AnnData) -> None:
    raw.obs[["array_row", "array_col"]] = raw.obs[["array_col", "array_row"]].to_numpy()


def shuffle(raw: AnnData) -> None:
    raw.obsm["spatial"] = np.random.default_rng(0).permutation(raw.obsm["spatial"])


def square(raw: AnnData) -> None:
    row, column = np.divmod(np.arange(raw.n_obs), 10)
    raw.obsm["spatial"] = np.column_stack([column, row]) * PITCH_PX + 100.0


def move(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[AnnData], None]:
    return lambda raw: raw.obsm.__setitem__("spatial", change(raw.obsm["spatial"]))


def move_half(by: float) -> Callable[[AnnData], None]:
    """Move the lower rows along the lattice, by pitches."""
    return move(lambda xy: xy + np.where(xy[:, 1:] > xy[:, 1].mean(), PITCH_PX * by * np.array([1.0, 0.0]), 0.0))


def index(column: str, change: Callable[[Any], Any]) -> Callable[[AnnData], None]:
    def edit(raw: AnnData) -> None:
        raw.obs[column] = change(raw.obs[column])

    return edit


def put(value: float) -> Callable[[AnnData], None]:
    def edit(raw: AnnData) -> None:
        raw.X = raw.X.astype(np.float64)
        raw.X.data[3] = value

    return edit


def lose_coordinate(raw: AnnData) -> None:
    raw.obsm["spatial"][2, 1] = np.nan


def name_twice(axis: str) -> Callable[[AnnData], None]:
    def edit(raw: AnnData) -> None:
        names = getattr(raw, axis).tolist()
        setattr(raw, axis, [names[1], *names[1:]])

    return edit


def as_microfluidic(raw: AnnData) -> None:
    """Make it a square array with indices by column, dressed as a Visium section."""
    square(raw)
    row, column = np.divmod(np.arange(raw.n_obs), 10)
    raw.obs["array_row"], raw.obs["array_col"] = column, row


DEFECTS: dict[str, tuple[Callable[[AnnData], None], str]] = {
    "negative": (put(-1.0), "negative"),
    "missing": (put(np.nan), "missing"),
    "infinite": (put(np.inf), "raw UMI counts"),
    "fractional": (put(1.5), "fractional"),
    "empty matrix": (lambda raw: setattr(raw, "X", csr_matrix(raw.shape)), "empty"),
    "barcode twice": (name_twice("obs_names"), "barcode spot1-1 twice"),
    "gene twice": (name_twice("var_names"), "gene gene1 twice"),
    "no coordinate": (lose_coordinate, "1 spots without coordinates"),
    "no gene ids": (lambda raw: raw.var.drop(columns="gene_ids", inplace=True), "gene_ids"),
    "too few spots": (lambda raw: raw.obs.__setitem__("in_tissue", [1] * 5 + [0] * 75), "5 spots .*at least 20"),
    "unmatched": (metadata(n_unmatched=5), "5 of 85 barcodes .*-1"),
    "rows and columns swapped": (swap_axes, "Check array_row, array_col"),
    "coordinates shuffled": (shuffle, "pitches off a hexagonal lattice"),
    "indices shuffled": (index("array_col", lambda c: c.sample(frac=1, random_state=0).to_numpy()), "3 spots with"),
    "index is text": (index("array_row", lambda row: row.astype(str) + "a"), "array_row '0a' of spot0-1"),
    "index is missing": (index("array_row", lambda row: row.where(row > 0)), "array_row 'nan' of spot0-1"),
    "index twice": (index("array_row", lambda row: row.replace(2, 0)), "2 spots with array_row 0 and array_col 0"),
    "no tissue flag": (lambda raw: raw.obs.drop(columns="in_tissue", inplace=True), "no column in_tissue"),
    "tissue flag of 2": (index("in_tissue", lambda flag: flag + 1), "in_tissue of 2"),
    "no coordinates at all": (lambda raw: raw.obsm.__delitem__("spatial"), "no coordinates"),
    "three coordinates": (move(lambda xy: np.column_stack([xy, xy[:, 0]])), r"shape \(80, 3\)"),
    "coordinates are text": (move(lambda xy: xy.astype(str).astype(object) + "px"), "no numbers"),
    "one point": (move(lambda xy: xy * 0 + 700), "80 of 80 spots at the position of another"),
    "one line": (move(lambda xy: np.column_stack([xy[:, 0] + xy[:, 1] * 0.37, xy[:, 0] * 0 + 9])), "on one line"),
    "coordinates doubled": (
        move(lambda xy: np.vstack([xy[:40], xy[:40]])),
        "80 of 80 spots at the position of another",
    ),
    "one spot twice": (move(lambda xy: np.vstack([xy[:1], xy[:-1]])), "2 of 80 spots at the position of another"),
    "half moved by a pitch": (move_half(1), "stretched by 20%"),
    "half moved by half a pitch": (move_half(0.5), "Check .*array_row"),
    "half moved far": (move_half(9), "pitches off a hexagonal lattice"),
    "stretched": (move(lambda xy: xy * (1.2, 1.0)), "stretched by 17%"),
    "negative coordinates": (move(lambda xy: -xy), "x from -18.. to -500 .*do not belong together"),
    "hires coordinates": (move(lambda xy: xy / 10), "7.1429 um per pixel by the lattice .*, but 0.7143 by the file"),
    "micrometres": (move(lambda xy: xy * MPP), "exactly as many pixels as micrometres apart"),
    "scaled by 2": (move(lambda xy: xy * 2), "0.3571 um per pixel by the lattice .*, but 0.7143 by the file"),
    "stated lattice is another": (metadata(lattice="square"), "off a square lattice, stretched"),
    "stated scale is another": (metadata(mpp=MPP * 1.05), "0.7500 by the file"),
    "thumbnail of another image": (lambda raw: thumbnail(raw, 200, 200), "thumbnail of one of 2000 x 2000"),
    "array indices": (
        lambda raw: raw.obsm.__setitem__("spatial", raw.obs[["array_col", "array_row"]].to_numpy(float)),
        "array rows and columns",
    ),
    "array indices, swapped": (
        lambda raw: raw.obsm.__setitem__("spatial", raw.obs[["array_row", "array_col"]].to_numpy(float)),
        "array rows and columns",
    ),
    "a square array as Visium": (
        as_microfluidic,
        r"square lattice, 140.0 px apart.*--params section_checks.pitch_um=<um>",
    ),
    "thumbnail turned": (lambda raw: thumbnail(raw, 210, 140), "thumbnail of one of 1400 x 2100"),
}


@pytest.mark.filterwarnings("ignore:.* names are not unique")
@pytest.mark.parametrize(("edit", "message"), DEFECTS.values(), ids=DEFECTS)
def test_every_defect_stops(raw: AnnData, edit: Callable[[AnnData], None], message: str) -> None:
    edit(raw)
    with pytest.raises(InputError, match=f"^Found: .*{message}") as caught:
        check_section(raw, IMAGE, SETTINGS)
    assert " Expected: " in str(caught.value)
    assert " Next step: " in str(caught.value)


def moved(change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Callable[[AnnData], None]:
    """Change the coordinates of a section without indices and scale."""
    return lambda raw: move(change)(bare(raw))


WITHOUT_METADATA: dict[str, tuple[Callable[[AnnData], None], str]] = {
    "one point": (moved(lambda xy: xy * 0), "at the position of another"),
    "disorder": (moved(lambda xy: np.random.default_rng(1).random(xy.shape) * 1400), "spots"),
    "one spot twice": (moved(lambda xy: np.vstack([xy[:1], xy[:-1]])), "2 of 80 spots at the position of another"),
    "half moved by half a pitch": (lambda raw: move_half(0.5)(bare(raw)), "lattice"),
    "hires coordinates": (moved(lambda xy: xy / 10), "7.143 um per pixel"),
    "micrometres": (moved(lambda xy: xy * MPP), "seem to be in micrometres"),
    "scaled by 2": (moved(lambda xy: xy * 2), "do not belong together"),
    "negative": (moved(lambda xy: -xy), "do not belong together"),
    "stretched": (moved(lambda xy: xy * (1.2, 1.0)), "stretched by 17%"),
    "stated lattice is another": (
        lambda raw: bare(raw).uns["section"].update(lattice="square"), "spots on a hexagonal lattice",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "message"), WITHOUT_METADATA.values(), ids=WITHOUT_METADATA)
def test_every_defect_stops_without_metadata_too(raw: AnnData, edit: Callable[[AnnData], None], message: str) -> None:
    edit(raw)
    with pytest.raises(InputError, match=f"^Found: .*{message}"):
        check_section(raw, IMAGE, SETTINGS, image_mpp=MPP)


@pytest.mark.parametrize("shape", [(140, 210), (500, 700)])
def test_thumbnail_given_as_the_image_stops(raw: AnnData, shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="do not belong together"):
        check_section(raw, shape, SETTINGS)


def test_a_thumbnail_of_another_image_only_warns_where_the_user_trusts_it(
    raw: AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    thumbnail(raw, 200, 200)
    check_section(raw, IMAGE, SectionSettings(trust_image=True), image="he.tif")
    assert "he.tif of 2100 x 1400 px, and a thumbnail of one of 2000 x 2000" in caplog.text


def test_all_spots_off_the_tissue_stop(raw: AnnData) -> None:
    raw.obs["in_tissue"] = 0
    with pytest.raises(InputError, match="0 spots"):
        check_section(raw, IMAGE, SETTINGS)


def test_one_row_of_spots_stops(raw: AnnData) -> None:
    settings = SectionSettings(min_spots=6)
    with pytest.raises(InputError, match="Next step"):
        check_section(raw[raw.obs["array_row"] == 0].copy(), IMAGE, settings)


def test_a_dense_matrix_is_checked_too(raw: AnnData) -> None:
    raw.X = raw.X.toarray()
    section, _ = check_section(raw, IMAGE, SETTINGS)
    np.testing.assert_array_equal(section.X.toarray(), raw.X)
    raw.X[3, 3] = -1
    with pytest.raises(InputError, match="negative"):
        check_section(raw, IMAGE, SETTINGS)


@pytest.fixture
def report(make_section: Callable[..., AnnData]) -> dict[str, Any]:
    raw = make_section()
    raw.obs.iloc[:3, raw.obs.columns.get_loc("in_tissue")] = 0
    return check_section(raw, (1400, 1700), SectionSettings())[1]


def rows_of(table: str) -> dict[str, str]:
    first, *lines = table.splitlines()
    assert first == "section S1"
    column = len(lines[0]) - len(lines[0].split("  ", 2)[-1].lstrip())
    return {line[:column].strip(): line[column:] for line in lines}


def test_rows_are_aligned_and_hold_the_figures(report: dict[str, Any]) -> None:
    rows = rows_of(as_table(report))
    assert rows["spots"] == "77, dropped: 3 off tissue"
    assert rows["genes"] == "30, 1 of them constant"
    assert rows["lattice"] == "hexagonal by array indices, spots within 0.000 pitches"
    assert rows["pitch"] == "100 um = 140 px"
    assert rows["um per px"] == "0.7143 (lattice 0.7143, file 0.7143)"
    assert rows["image"] == "1700 x 1400 px"
    assert rows["outside"] == "8 spots: 8 right"
    assert rows["mirrored"] == "no"
    assert "on tissue" not in rows and "layout" not in rows


def test_what_later_steps_add_is_shown(report: dict[str, Any]) -> None:
    report |= {"layout": "Visium HD", "share_of_spots_on_tissue": 0.0, "slide_reader": "tifffile"}
    report |= {"slide_notes": ["alpha composited", "16-bit rescaled"]}
    rows = rows_of(as_table(report))
    assert rows["layout"] == "Visium HD"
    assert rows["on tissue"] == "0.0% of the spots"
    assert rows["image"] == "1700 x 1400 px, by tifffile (alpha composited; 16-bit rescaled)"
