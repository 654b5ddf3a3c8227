"""The pages: they build, their commands are understood, their Python runs, and the messages they explain exist."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import anndata
import click
import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from spamcaf import __version__
from spamcaf.cli import cli
from spamcaf.errors import InputError
from spamcaf.parameters import RunSettings, flat_settings
from spamcaf.readers import find
from spamcaf.scoring import predictors
from tests.browser import CHROMIUM, NO_BROWSER, Browser

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks/README.md", *sorted(ROOT.glob("docs/*.md"))]
BLOCK = re.compile(
    r"(?:^<!-- (?P<mark>[^\n]*) -->\n)?^```(?P<kind>bash|python)\n(?P<text>.*?)^```", re.DOTALL | re.MULTILINE
)
RUNS, TESTED_BY, NEEDS = "runs", "tested by ", "needs "
KEDRO, OURS = "kedro", "spamcaf"
OTHER_PROGRAMS = {
    "python3",
    "python",
    ".",
    "pip",
    "pytest",
    "ruff",
    "mypy",
    "lint-imports",
    "sphinx-build",
    "hf",
    "mlflow",
}
PIPELINES = {path.parent.name for path in (ROOT / "src/spamcaf/pipelines").glob("*/__init__.py")}
PHONE_WIDTH = 390
MAX_README_LINES, MAX_PICTURE_BYTES = 120, 400_000


class Block(NamedTuple):
    page: str
    mark: str
    kind: str
    text: str


def blocks() -> Iterator[Block]:
    for page in PAGES:
        for found in BLOCK.finditer(page.read_text()):
            yield Block(str(page.relative_to(ROOT)), found["mark"] or "", found["kind"], found["text"])


def commands() -> Iterator[list[str]]:
    """Yield the words of every command of the pages' bash blocks."""
    for block in blocks():
        if block.kind == "bash":
            for line in block.text.replace("\\\n", " ").splitlines():
                for part in re.split(r"\s&&\s", line):
                    if words := shlex.split(part, comments=True):
                        yield words


OUR_COMMANDS = {" ".join(words): words for words in commands() if words[0] in {KEDRO, OURS}}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the pages, warnings as errors; return the folder."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-d", str(folder / ".trees"), "-b", "html"]
    done = subprocess.run([*command, ROOT / "docs", folder], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_built_and_reached(site: Path) -> None:
    index = (site / "index.html").read_text()
    for page in ROOT.glob("docs/*.md"):
        assert f'href="{page.stem}.html"' in index or page.stem == "index"


def test_the_reference_holds_every_parameter_and_the_functions(site: Path) -> None:
    parameters, library = ((site / f"{page}.html").read_text() for page in ("parameters", "library"))
    settings = flat_settings(dict(RunSettings()))
    assert len(settings) > 60
    assert [name for name in settings if f">{name}</span>" not in parameters] == []
    assert all(f"spamcaf.api.{name}" in library for name in ("embed", "fit", "super_resolve", "evaluate"))


@pytest.mark.skipif(CHROMIUM is None, reason=NO_BROWSER)
def test_pages_fit_a_phone_and_ask_no_network(site: Path) -> None:
    with Browser() as browser:
        for page in sorted(site.glob("*.html")):
            browser.open(page.as_uri(), PHONE_WIDTH, 800)
            assert browser.run("window.innerWidth") == PHONE_WIDTH, page.name  # grows with what does not fit
            assert [url for url in browser.requests if not url.startswith(("file:", "data:"))] == []
            assert browser.errors == []


def test_every_command_is_tested_or_names_what_it_needs() -> None:
    unmarked = [block for block in blocks() if not block.mark.startswith((RUNS, TESTED_BY, NEEDS))]
    assert unmarked == []
    for block in blocks():
        if block.mark.startswith(TESTED_BY):
            path, name = block.mark.removeprefix(TESTED_BY).split("::")
            assert f"\ndef {name}(" in (ROOT / path).read_text(), block
        if block.kind == "bash":
            assert block.mark != RUNS, block
    assert {words[0] for words in commands()} <= OTHER_PROGRAMS | {KEDRO, OURS}


def understand(kedro: Run, project: Path, words: list[str]) -> None:
    """Parse a command, its environment, pipelines and settings, without running it; raise what is wrong."""
    name, *options = words[1:]
    if name not in cli.commands:
        done = kedro(name, *options[:1], "--help")
        assert done.returncode == 0, done.stderr
        return
    given = [word.replace("<folder>", "folder").replace("<file>", "file") for word in options]
    chosen = cli.commands[name].make_context(name, given).params
    assert set(chosen.get("pipelines") or ()) <= PIPELINES
    bootstrap_project(project)
    with KedroSession.create(project, env=chosen["env"], runtime_params=chosen["params"]) as session:
        assert session.load_context().catalog.get("raw_section") is not None


@pytest.mark.parametrize("command", OUR_COMMANDS)
def test_commands_are_understood(kedro: Run, project: Path, command: str) -> None:
    understand(kedro, project, OUR_COMMANDS[command])


@pytest.mark.parametrize(
    ("command", "error"),
    [
        ("kedro run --parms a=1", click.NoSuchOption),
        ("kedro run --env her2", InputError),
        ("kedro run --params fit.epoch=1", InputError),
        ("kedro run --pipelines train", AssertionError),
        ("kedro rum", AssertionError),
    ],
)
def test_a_mistyped_command_would_be_found(kedro: Run, project: Path, command: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        understand(kedro, project, shlex.split(command))


@pytest.fixture
def registries() -> Iterator[None]:
    """Take out again what a page adds to the tables of readers and predictors."""
    finders, added = find.FINDERS, set(predictors.PREDICTORS)
    yield
    find.FINDERS = finders
    for name in set(predictors.PREDICTORS) - added:
        del predictors.PREDICTORS[name]
    sys.modules.pop("my_baselines", None)


@pytest.mark.parametrize("page", sorted({block.page for block in blocks() if block.mark == RUNS}))
@pytest.mark.usefixtures("first_run", "registries")
def test_python_on_a_page_runs(page: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = [block.text for block in blocks() if block.page == page and block.mark == RUNS]
    for name in ("data", "conf", "pyproject.toml"):  # a finished run
        (tmp_path / name).symlink_to(project / name)
    (tmp_path / "src/spamcaf").mkdir(parents=True)  # the sources are installed, Kedro only looks for their folder
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDRO_ENV", "tiny")
    mpl.use("Agg")
    names: dict[str, object] = {}
    for text in code:
        exec(compile(text, page, "exec"), names)
    plt.close("all")


@pytest.mark.usefixtures("first_run")
def test_the_picture_of_a_section_shows_measured_spots_and_predicted_sites(project: Path) -> None:
    place = ROOT / "docs/figures/section.py"
    spec = importlib.util.spec_from_file_location(place.stem, place)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    map_ = anndata.read_h5ad(project / "data/07_model_output/simulated/default/super_resolved.h5ad")
    gene = map_.var_names[3]
    image, measured, predicted = module.draw_section(project, "simulated", gene).axes[:3]
    (spots,), (surface,) = measured.collections, predicted.images[1:]
    assert len(spots.get_offsets()) == map_.obs["parent_barcode"].nunique()
    shown = np.ma.masked_invalid(surface.get_array()).compressed()
    assert set(shown) == set(map_[:, gene].to_df()[gene].astype(float))
    assert not image.collections and image.images


# --- messages ---

VARIABLE = "\0"


def _written(node: ast.AST) -> str:
    """Return a text of the source, with a mark in place of what it fills in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_written(value) for value in node.values)
    return VARIABLE


def _messages() -> list[str]:
    found = []
    for path in (ROOT / "src/spamcaf").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("InputError", "Finding")):
                found.append(" ".join(_written(argument) for argument in node.args))
            elif isinstance(node, ast.JoinedStr | ast.Constant):
                found.append(_written(node))
    return found


def test_every_explained_message_is_one_of_the_program() -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    explained = [row.split(" | ")[0].removeprefix("| ") for row in page.splitlines() if row.startswith("| ")]
    explained = [message for message in explained if message != "message"]
    assert len(explained) > 40
    texts = _messages()
    patterns = {message: ".*".join(map(re.escape, message.split("..."))) for message in explained}
    unknown = [
        message
        for message, pattern in patterns.items()
        if not any(re.search(pattern, text, re.DOTALL) for text in texts)
    ]
    assert unknown == []


# --- the first page ---


def test_the_readme_is_short_and_holds_both_commands() -> None:
    readme = (ROOT / "README.md").read_text()
    assert len(readme.splitlines()) <= MAX_README_LINES
    first = [block.text for block in blocks() if block.page == "README.md" and block.kind == "bash"]
    assert any("pip install" in text and re.search(r"kedro run$", text.strip()) for text in first)
    assert any("pip install" in text and "pytest" in text for text in first)
    (picture,) = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", readme)
    assert 0 < (ROOT / picture).stat().st_size <= MAX_PICTURE_BYTES


def test_links_between_files_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_citation_names_this_version() -> None:
    assert f"version: {__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert f"## {__version__}" in (ROOT / "CHANGELOG.md").read_text()
