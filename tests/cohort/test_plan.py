"""The runs of a cohort: names, masks, rows of a table, what they share and need, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from spamcaf.cohort.plan import SCORES, Job, plan_jobs
from spamcaf.errors import InputError

Plan = Callable[..., list[Job]]


@pytest.fixture
def plan(project: Path) -> Plan:
    def plan(**params: Any) -> list[Job]:
        bootstrap_project(project)
        with KedroSession.create(project, env="tiny", runtime_params=params) as session:
            return plan_jobs(session.load_context())

    return plan


@pytest.fixture
def table(tmp_path: Path, plan: Plan) -> Callable[..., list[Job]]:
    def of_table(text: str, **params: Any) -> list[Job]:
        (tmp_path / "cohort.csv").write_text(text)
        return plan(sections=str(tmp_path / "cohort.csv"), **params)

    return of_table


def test_each_section_is_a_run_of_the_whole_chain(plan: Plan) -> None:
    jobs = plan(sections="C2+007", run="mine")
    assert [(job.name, job.wanted, job.is_shared, job.needs) for job in jobs] == [
        ("C2/mine", (), False, ()),
        ("007/mine", (), False, ()),
    ]
    assert jobs[1].choices == {"section": "007", "run": "mine"}


def test_masks_are_runs_as_the_benchmark_names_them_behind_what_they_share(plan: Plan) -> None:
    first, *jobs = plan(sections="C2", masks="0-5", protocols="random+block")
    assert first.is_shared and first.section == "C2"
    assert [job.run for job in jobs] == [
        *(f"default-random-{mask}" for mask in range(6)),
        *(f"default-block-{mask}" for mask in range(4)),  # of six masks only four differ
    ]
    assert {job.wanted for job in jobs} == {SCORES} and {job.needs for job in jobs} == {("C2",)}
    assert jobs[-1].choices["split"] == {"protocol": "block", "mask": 3}
    assert (jobs[-1].protocol, jobs[-1].mask) == ("block", 3)


def test_a_section_hidden_whole_needs_the_others_first(plan: Plan) -> None:
    jobs = plan(sections="C2+C3", protocols="section", masks=0)
    assert [job.is_shared for job in jobs] == [True, True, False, False]
    assert jobs[2].choices["other_sections"] == ["C3"] and set(jobs[2].needs) == {"C2", "C3"}


def test_columns_of_a_table_are_parameters_of_their_row(table: Plan) -> None:
    jobs = table(
        "section,run,split.mask,raw_root,other_sections,panel.include\nC2,a,,/x y,,\n1e3,default,1,,C2,ERBB2 CD74\n",
        seed=5,
    )
    shared, first, second = jobs
    assert (shared.name, shared.is_shared) == ("C2", True)  # the second row learns from it
    assert first.choices == {"section": "C2", "run": "a", "raw_root": "/x y"} and first.needs == ("C2",)
    assert second.choices == {
        **{"section": "1e3", "run": "default", "other_sections": "C2"},
        **{"split": {"mask": 1}, "panel": {"include": "ERBB2 CD74"}},
    }
    assert second.needs == ("C2",) and second.wanted == ()


def test_runs_of_a_section_may_differ_in_what_is_of_a_run(table: Plan) -> None:
    jobs = table("section,run,seed,fit.use_network\nC2,a,1,\nC2,b,2,false\n")
    assert [job.name for job in jobs] == ["C2", "C2/a", "C2/b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("section,nothing\nC2,1\n", r"unknown parameter 'nothing'.*line 2 of"),
        ("section,split.mask\nC2,0\nC3,x\n", r"split\.mask = 'x'.*line 3 of"),
        ("section,run\nC2,a/b\n", r"run name 'a/b'.*line 2 of"),
        ("section\na/b\n", r"section name 'a/b'.*line 2 of"),
        ("section,run\nC2,a\nC2,a\n", r"C2/a twice.*another `run`"),
        ("section,run,tiles.views\nC2,a,\nC2,b,4\n", r"C2 that differ in tiles\.views"),
        ("section,run,backbone\nC2,a,\nC2,b,uni\n", r"C2 that differ in backbone"),
        ("section,run,fit.finetune\nC2,a,\nC2,b,1\n", r"C2 that differ in fit\.finetune"),
        ("name\nC2\n", r"a column `section`"),
        ("section,run\n,b\n", r"a name in each row"),
        ("section\n", r"and 0 rows"),
        ("", r"cannot be read"),
        ("section\n" + "C2\n" * 10_001, r"with 10001 rows.*at most 10000"),
        ("section,seed\nC2,2\nC3,[\n", r"line 3 of .*cohort\.csv, which cannot be read"),
        ("section,seed\nC2,\x7f\n", r"line 2 of .*cohort\.csv, which cannot be read"),
    ],
)
def test_a_wrong_table_is_refused_before_any_work(table: Plan, text: str, message: str) -> None:
    with pytest.raises(InputError, match=rf"(?s){message}"):
        table(text)


def test_a_cohort_needs_sections(plan: Plan) -> None:
    with pytest.raises(InputError, match=r"no sections\..*--params sections="):
        plan()
    with pytest.raises(InputError, match=r"missing\.csv, which cannot be read"):
        plan(sections="missing.csv")
