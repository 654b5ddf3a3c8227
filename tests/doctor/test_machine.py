"""Device, memory, disk and software are compared with what the run needs; the numbers are in the text."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from spamcaf.backbones.load import BackboneSpec
from spamcaf.doctor import machine
from spamcaf.doctor.machine import (
    Inputs,
    check_device,
    check_disk,
    check_memory,
    check_software,
    estimate_resources,
)
from spamcaf.errors import InputError
from spamcaf.limits import available_bytes
from spamcaf.parameters import ComputeSettings, RunSettings, TileSettings
from spamcaf.progress import bytes_in_words

SETTINGS = RunSettings.model_validate({"grid": {"subdivide": 3}, "panel": {"n_genes": 100}})
INPUTS = Inputs(n_spots=1000, image_px=(2000, 3000), is_held_whole=True, mpp=0.5)
WIDTH = 500
FEATURES = 1000 * 9 * 9 * WIDTH * 4
PROGRAM = 600_000_000
TRAINING = 1000 * 9 * WIDTH * 4 * 3
PREDICTION = 9000 * 100 * 4 * 3
IMAGE = 2000 * 3000 * 3
VIT = BackboneSpec(source="x", architecture="vit_large_patch16_224", width=1024)
SMALL = BackboneSpec(source="x", architecture="tf_efficientnet_lite0", width=1280)


@pytest.fixture
def no_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_what_is_needed_follows_from_spots_subdivision_and_width() -> None:
    resources = estimate_resources(SETTINGS, INPUTS, WIDTH)
    assert (resources.n_sites, resources.n_tiles) == (9000, 81_000)
    assert resources.memory_bytes == PROGRAM + TRAINING + PREDICTION + IMAGE
    assert resources.output_bytes == PREDICTION * 2 + IMAGE * 4 // 3
    assert resources.disk_bytes == FEATURES + resources.output_bytes
    assert (
        estimate_resources(SETTINGS, replace(INPUTS, is_held_whole=False), WIDTH).memory_bytes
        == PROGRAM + TRAINING + PREDICTION
    )


def test_dense_tiles_are_those_of_the_image_however_fine_the_grid() -> None:
    dense = SETTINGS.model_copy(update={"tiles": TileSettings(dense=True)})
    rows, columns = 2 * (9 + 3), 2 * (14 + 3)  # of 224 px, half overlapping, and as far as windows reach
    assert estimate_resources(dense, INPUTS, WIDTH).n_tiles == rows * columns
    assert estimate_resources(dense, INPUTS, WIDTH, 8).n_tiles == rows * columns
    on_disk = estimate_resources(dense, INPUTS, WIDTH).feature_bytes
    assert on_disk == FEATURES + rows * columns // 4 * 16**2 * WIDTH * 2


def test_views_are_passes_of_every_site_and_no_more_features() -> None:
    viewed = SETTINGS.model_copy(update={"tiles": TileSettings(views=12)})
    resources, plain = estimate_resources(viewed, INPUTS, WIDTH), estimate_resources(SETTINGS, INPUTS, WIDTH)
    assert resources == replace(plain, n_tiles=9000 * 20)


def test_genes_named_by_the_user_count_instead_of_n_genes() -> None:
    named = RunSettings.model_validate({"grid": {"subdivide": 3}, "panel": {"genes": ["a", "b"]}})
    assert estimate_resources(named, INPUTS, WIDTH).output_bytes == 9000 * 2 * 4 * 3 * 2 + IMAGE * 4 // 3


def test_enough_memory_passes() -> None:
    finding = check_memory(PROGRAM + TRAINING + 2 * PREDICTION + IMAGE, SETTINGS, INPUTS, WIDTH)
    assert not finding.fix
    assert all(bytes_in_words(part) in finding.text for part in (PROGRAM, TRAINING, PREDICTION, IMAGE))


def test_memory_for_one_copy_only_warns_with_the_subdivision_that_fits() -> None:
    finding = check_memory(PROGRAM + TRAINING + PREDICTION + IMAGE + 1, SETTINGS, INPUTS, WIDTH)
    assert finding.fix
    assert "grid.subdivide=2" in finding.fix


def test_too_little_memory_fails_with_both_numbers() -> None:
    windowed = replace(INPUTS, is_held_whole=False)
    with pytest.raises(InputError, match=r"660.0 MB available.*at least 664.8 MB.*grid\.subdivide=1"):
        check_memory(660_000_000, SETTINGS, windowed, WIDTH)
    with pytest.raises(InputError, match="more memory"):
        check_memory(1000, SETTINGS, INPUTS, WIDTH)


def test_too_many_bins_are_named_with_the_bin_size_that_fits() -> None:
    settings = RunSettings.model_validate({"grid": {"subdivide": 1}})
    bins = Inputs(n_spots=480_000, image_px=(20_000, 20_000), is_held_whole=False, mpp=0.25, bin_um=8.0)
    needed = estimate_resources(settings, bins, 1280).memory_bytes
    assert 16e9 < needed < 60e9
    with pytest.raises(InputError, match=r"at least .* GB.*bin_um=16,grid\.subdivide=1"):
        check_memory(16_000_000_000, settings, bins, 1280)
    with pytest.raises(InputError) as raised:  # spots have no other size
        check_memory(16_000_000_000, settings, replace(bins, bin_um=None), 1280)
    assert "bin_um" not in str(raised.value)


def test_memory_of_many_spots_grows_with_features_and_genes_but_not_with_all_tiles() -> None:
    def needed(n_spots: int, width: int, n_genes: int) -> int:
        settings = RunSettings.model_validate({"grid": {"subdivide": 1}, "panel": {"n_genes": n_genes}})
        return estimate_resources(settings, replace(INPUTS, n_spots=n_spots), width).spot_bytes

    # beside the program, the largest step on 30 000 and 100 000 bins took 1.9 (their prediction) and 5.1 GB (scores)
    assert needed(30_000, 1280, 1000) == pytest.approx(1.7e9, rel=0.15)
    assert needed(100_000, 1280, 1000) == pytest.approx(5.1e9, rel=0.05)
    assert needed(100_000, 1280, 2000) > needed(100_000, 1280, 1000)
    assert needed(100_000, 1280, 100) > needed(100_000, 640, 100)


def test_memory_without_inputs_is_what_is_available() -> None:
    assert "5.0 GB available" in check_memory(5_000_000_000, SETTINGS, None, None).text
    assert check_memory(None, SETTINGS, INPUTS, WIDTH).fix


def meminfo(folder: Path, kib: int) -> Path:
    path = folder / "meminfo"
    path.write_text(f"MemTotal:  99999 kB\nMemAvailable:  {kib} kB\n")
    return path


def test_available_memory_is_the_systems_or_the_containers(tmp_path: Path) -> None:
    system = meminfo(tmp_path, 1000)
    assert available_bytes(system, tmp_path / "none") == 1_024_000
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("100\n")
    assert available_bytes(system, tmp_path) == 1_024_000
    (tmp_path / "memory.max").write_text("5100\n")
    assert available_bytes(system, tmp_path) == 5000


def test_without_meminfo_the_memory_built_in_counts(tmp_path: Path) -> None:
    assert available_bytes(tmp_path / "none", tmp_path) == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def free(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    usage: Any = shutil.disk_usage("/")._replace(free=n_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def test_disk_passes_warns_and_fails_by_what_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resources = estimate_resources(SETTINGS, INPUTS, WIDTH)
    free(monkeypatch, 2 * resources.disk_bytes)
    assert not check_disk(tmp_path, resources).fix
    free(monkeypatch, resources.disk_bytes)
    assert check_disk(tmp_path, resources).fix
    free(monkeypatch, resources.disk_bytes - 1)
    with pytest.raises(InputError, match="Make room"):
        check_disk(tmp_path, resources)
    assert not check_disk(tmp_path, None).fix


def test_a_data_folder_that_does_not_exist_is_not_made(tmp_path: Path) -> None:
    assert not check_disk(tmp_path / "a" / "data", None).fix
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_to_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(InputError, match="cannot be written to"):
        check_disk(tmp_path, None)


def test_a_file_in_the_place_of_the_data_folder_fails(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        check_disk(tmp_path / "data", None)


@pytest.mark.usefixtures("no_cuda")
def test_cuda_required_and_missing_fails() -> None:
    with pytest.raises(InputError, match="no CUDA device"):
        check_device(ComputeSettings(device="cuda"), VIT, None)


@pytest.mark.usefixtures("no_cuda")
def test_a_large_vit_on_a_cpu_warns_with_the_number_of_tiles() -> None:
    finding = check_device(ComputeSettings(), VIT, estimate_resources(SETTINGS, INPUTS, 1024))
    assert finding.fix
    assert "81000 tiles (9000 sites)" in finding.text
    assert check_device(ComputeSettings(), VIT, None).fix


@pytest.mark.usefixtures("no_cuda")
@pytest.mark.parametrize("spec", [SMALL, None, VIT.model_copy(update={"width": 384})])
def test_a_small_network_on_a_cpu_passes(spec: BackboneSpec | None) -> None:
    finding = check_device(ComputeSettings(threads=3, precision="float32"), spec, None)
    assert not finding.fix
    assert finding.text == "CPU, 3 threads, backbone in float32"


def test_a_cuda_device_is_named_with_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10_000_000_000, 80_000_000_000))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    finding = check_device(ComputeSettings(), VIT, None)
    assert not finding.fix
    assert finding.text == "Some GPU, 10.0 GB of 80.0 GB free, backbone in bfloat16"


def test_versions_are_listed() -> None:
    finding = check_software()
    assert not finding.fix
    assert f"torch {torch.__version__.partition('+')[0]}" in finding.text
    assert all(name in finding.text for name in ("python", *machine.PACKAGES))


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PACKAGES", ("kedro", "no-such-package"))
    with pytest.raises(InputError, match="no-such-package not installed"):
        check_software()


def test_a_torchvision_that_does_not_fit_torch_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # its import raises ImportError
    with pytest.raises(InputError, match="do not work together"):
        check_software()


def test_a_raster_that_does_not_fit_names_a_wider_one() -> None:
    fine = RunSettings.model_validate({"grid": {"pitch_um": 8}, "panel": {"n_genes": 100}})
    n_sites = estimate_resources(fine, INPUTS, WIDTH).n_sites
    assert n_sites == 156_250  # (100 / 8) ** 2 per spot
    coarse = RunSettings.model_validate({"grid": {"subdivide": 4}, "panel": {"n_genes": 100}})
    resources = estimate_resources(coarse, INPUTS, WIDTH)
    with pytest.raises(InputError, match=r"grid\.pitch_um=25"):
        check_memory(resources.memory_bytes + resources.prediction_bytes, fine, INPUTS, WIDTH)
