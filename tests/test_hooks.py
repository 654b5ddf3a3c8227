"""Wrong names and settings stop a run before it works."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from spamcaf.errors import InputError
from spamcaf.hooks import SettingsGuard, check_settings


def context(chosen: dict[str, Any], **parameters: object) -> Any:
    class Loader(dict[str, Any]):
        pass

    return SimpleNamespace(
        config_loader=Loader(globals={"section": "S1", **chosen}, parameters=parameters), project_path=Path("/project")
    )


@pytest.mark.parametrize("name", ["section", "model"])
@pytest.mark.parametrize("value", ["../up", "...", "*", "%41", "", "A+B", "x" * 300, "a/b", "1:30"])
def test_a_name_that_cannot_name_results_is_refused_wherever_it_stands(name: str, value: str) -> None:
    for found in (context({name: value}), context({}, **{name: value})):
        with pytest.raises(InputError, match=f"the {name} name") as caught:
            SettingsGuard().after_context_created(found)
        assert len(str(caught.value)) < 500


@pytest.mark.parametrize("value", ["S1", "1_1", "007", "1.10", "x" * 200])
def test_names_that_look_like_numbers_are_names(value: str) -> None:
    SettingsGuard().after_context_created(context({"section": value}, model=value))


def test_an_unknown_setting_comes_before_a_wrong_name() -> None:
    with pytest.raises(InputError, match="Did you mean 'split'"):
        SettingsGuard().after_context_created(context({}, section="..", splt={"mask": 1}))


def test_views_with_dense_features_are_refused_with_both_names() -> None:
    with pytest.raises(InputError, match=r"tiles\.views=1, or tiles\.dense=false"):
        SettingsGuard().after_context_created(context({}, tiles={"dense": True, "views": 4}))
    assert check_settings({"tiles": {"dense": True, "views": 1}}).tiles.dense


@pytest.mark.parametrize("views", [0, 3, 16, "8 or so"])
def test_a_number_of_views_that_is_none_of_five_is_refused(views: object) -> None:
    with pytest.raises(InputError, match=r"tiles\.views = .*1, 2, 4, 8 or 12"):
        check_settings({"tiles": {"views": views}})


def test_settings_that_exclude_each_other_stop_a_run_before_any_work() -> None:
    with pytest.raises(InputError, match=r"settings of several groups\. .* fit\.finetune should be 0"):
        check_settings({"fit": {"finetune": 1}, "tiles": {"dense": True}})
