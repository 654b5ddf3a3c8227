"""Other sections are named, and read only when they are asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spamcaf.datasets.inputs import OtherSectionsDataset
from spamcaf.errors import InputError


def named(names: list[str] | str | None, root: Path = Path()) -> OtherSectionsDataset:
    return OtherSectionsDataset(filepath=str(root / "02"), features=str(root / "04"), names=names, section="C2")


@pytest.mark.parametrize("names", ["C3+C4", ["C3", "C4"], "C3 C4"])
def test_names_are_a_list_or_a_text(names: list[str] | str) -> None:
    assert named(names).load().names == ("C3", "C4")


@pytest.mark.parametrize("names", ["151674", 151674, ["151674"], [151674]])
def test_a_name_may_be_a_number(names: Any) -> None:
    assert named(names).load().names == ("151674",)


@pytest.mark.parametrize("names", ["", [], None])
def test_none_is_none(names: list[str] | str | None) -> None:
    others = named(names).load()
    assert len(others) == 0
    assert others.sections() == others.features() == []


@pytest.mark.parametrize("names", ["C2", "C3+C3", "../C3", "x" * 300, "*"])
def test_the_section_itself_a_repeated_one_and_a_path_are_refused(names: str) -> None:
    with pytest.raises(Exception, match="among other_sections") as caught:
        named(names).load()
    assert InputError.within(caught.value) is not None


def test_a_section_that_was_not_prepared_is_named_with_the_command(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no section\.h5ad of the other section 'C3'.*section=C3"):
        named("C3", tmp_path).load().sections()
