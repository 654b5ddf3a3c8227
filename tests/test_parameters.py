"""Settings are described once, old names are accepted, and lists of genes are read as they are pasted."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel, ValidationError

from spamcaf.parameters import (
    DEPRECATED_SETTINGS,
    BenchmarkSettings,
    ComputeSettings,
    EvaluationSettings,
    FitSettings,
    PanelSettings,
    ReportSettings,
    RunSettings,
    SimulationSettings,
    flat_settings,
    settings_as_yaml,
)

CONF = Path(__file__).parent.parent / "conf/base"


def test_the_configuration_shows_every_setting_with_its_default() -> None:
    shown = yaml.safe_load((CONF / "parameters.yml").read_text())
    assert RunSettings.model_validate(shown) == RunSettings()
    assert json.loads(json.dumps(shown)) == RunSettings().model_dump(mode="json")


def test_the_configuration_is_written_from_the_settings() -> None:
    """After a change of a setting: `python -m spamcaf.parameters > conf/base/parameters.yml`."""
    assert (CONF / "parameters.yml").read_text() == settings_as_yaml()


def test_every_setting_has_a_description_of_one_line() -> None:
    groups = [type(value) for _, value in RunSettings() if isinstance(value, BaseModel)]
    fields = [field for group in [*groups, SimulationSettings] for field in group.model_fields.values()]
    assert len(fields) > 60
    assert all(field.description and "\n" not in field.description for field in fields)
    assert max(map(len, settings_as_yaml().splitlines())) <= 120


def test_the_simulation_shows_every_setting_with_its_default() -> None:
    shown = yaml.safe_load((CONF / "globals.yml").read_text())["simulation"]
    assert shown == SimulationSettings().model_dump(mode="json")


@pytest.mark.parametrize(
    ("group", "old"), [(group, old) for group, names in DEPRECATED_SETTINGS.items() for old in names]
)
def test_a_table_of_old_names_leads_to_present_ones(group: str, old: str) -> None:
    present = type(getattr(RunSettings(), group)).model_fields
    assert old not in present
    assert DEPRECATED_SETTINGS[group][old] in {None, *present}


@pytest.mark.parametrize(("old", "new"), [("hide_share", "context_dropout"), ("blind_share", "transfer_step_share")])
def test_an_old_name_is_accepted_with_one_warning(old: str, new: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        fit = FitSettings.model_validate({old: 0.25, "epochs": 3})
    assert fit == FitSettings.model_validate({new: 0.25, "epochs": 3})
    assert [record.getMessage() for record in caplog.records] == [
        f"fit.{old} is now called fit.{new}; the next version refuses the old setting."
    ]


def test_a_setting_without_effect_is_accepted_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert FitSettings.model_validate({"checkpoint_epochs": 2}) == FitSettings()
    (record,) = caplog.records
    assert "fit.checkpoint_epochs has no effect, since a fold is stored when it is finished" in record.getMessage()


def test_both_names_may_be_given_with_equal_values_only() -> None:
    assert FitSettings.model_validate({"hide_share": 0.25, "context_dropout": 0.25}).context_dropout == 0.25
    with pytest.raises(
        ValidationError, match=r"fit\.hide_share = 0\.25 and fit\.context_dropout = 0\.5.*Remove fit\.hide_share"
    ):
        FitSettings.model_validate({"hide_share": 0.25, "context_dropout": 0.5})


def test_settings_under_present_names_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    given: dict[str, Any] = {"context_dropout": 0.25}
    assert FitSettings.model_validate(FitSettings.model_validate(given)).context_dropout == 0.25
    assert given == {"context_dropout": 0.25}
    assert not caplog.records


@pytest.mark.parametrize("kind", [PanelSettings, ReportSettings])
@pytest.mark.parametrize("genes", ["ERBB2 CD74", "ERBB2, CD74", "ERBB2\nCD74\n", ["ERBB2", "CD74"]])
def test_all_lists_of_genes_are_of_one_type(kind: type[PanelSettings | ReportSettings], genes: str | list[str]) -> None:
    assert kind.model_validate({"genes": genes}).genes == ["ERBB2", "CD74"]
    assert kind.model_validate({"genes": [1, "CD74"]}).genes == ["1", "CD74"]


def test_gene_sets_are_lists_however_they_are_written() -> None:
    sets = EvaluationSettings.model_validate({"gene_sets": {"a": "CD3E, CD79A", "b": ["MS4A1"], "c": 7}}).gene_sets
    assert sets == {"a": ["CD3E", "CD79A"], "b": ["MS4A1"], "c": ["7"]}
    with pytest.raises(ValidationError):
        EvaluationSettings.model_validate({"domain_seeds": 1})
    with pytest.raises(ValidationError, match="other names than variable_50, .* found spatial_50"):
        EvaluationSettings.model_validate({"gene_sets": {"spatial_50": ["A"]}})


@pytest.mark.parametrize("models", ["ridge+idw", "ridge idw", "ridge, idw", ["ridge", "idw", "ridge"]])
def test_models_to_compare_with_are_a_list_or_a_text(models: str | list[str]) -> None:
    assert EvaluationSettings.model_validate({"models": models}).models == ["ridge", "idw"]


def test_groups_of_models_have_names() -> None:
    everything = EvaluationSettings.model_validate({"models": "all"}).models
    assert {"gene_median", "kriging", "triplex"} < set(everything)
    assert not {"spamcaf", "program_gp", "released"} & set(everything)
    with_peers = EvaluationSettings.model_validate({"models": "ridge+peers"}).models
    assert with_peers[0] == "ridge" and set(with_peers[1:]) < set(everything)


@pytest.mark.parametrize(
    ("given", "hint"), [("kridging", "kriging"), ("ST-Net", "st_net"), ("HEST-probe", "hest_probe"), ("bleap", "bleep")]
)
def test_an_unknown_model_gets_the_nearest_name(given: str, hint: str) -> None:
    with pytest.raises(ValidationError, match=rf"found '{given}'\. Did you mean {hint}\?"):
        EvaluationSettings.model_validate({"models": f"ridge+{given}"})


@pytest.mark.parametrize("models", ["spamcaf", "", [], 3])
def test_what_names_no_model_to_compare_with_is_refused(models: object) -> None:
    with pytest.raises(ValidationError, match="models"):
        EvaluationSettings.model_validate({"models": models})


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-4", [0, 1, 2, 3, 4]), ("3", [3]), (3, [3]), ("0+2-3", [0, 2, 3]), ([1, 5], [1, 5])]
)
def test_masks_are_numbers_or_ranges(text: Any, numbers: list[int]) -> None:
    assert BenchmarkSettings(masks=text).masks == numbers


@pytest.mark.parametrize(
    "wrong",
    [
        *({"masks": masks} for masks in ("4-", "4-2", [], "1+1", -1, "0-99999999999")),
        {"protocols": "rows"},
    ],
)
def test_masks_and_protocols_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        BenchmarkSettings.model_validate(wrong)


@pytest.mark.parametrize("other", [{"tiles": {"dense": True}}, {"compute": {"compile": True}}])
def test_blocks_are_not_trained_from_what_has_no_maps_of_tiles(other: dict[str, Any]) -> None:
    RunSettings.model_validate(other)
    with pytest.raises(ValidationError, match=r"fit\.finetune should be 0"):
        RunSettings.model_validate({"fit": {"finetune": 1}, **other})


def test_settings_by_dotted_name_leave_out_what_changes_no_result() -> None:
    flat = flat_settings({"seed": 3, "compute": ComputeSettings(threads=2), "split": {"mask": 1}, "fit.model": "x"})
    assert flat == {"seed": 3, "compute.precision": "auto", "compute.compile": False, "split.mask": 1, "fit.model": "x"}
