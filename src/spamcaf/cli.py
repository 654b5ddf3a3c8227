"""Command line: Kedro's own `run`, whose errors are one paragraph instead of a traceback, `doctor` and `cohort`."""

from __future__ import annotations

import copy
import functools
import os
import pkgutil
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import yaml
from kedro.config import MissingConfigException
from kedro.framework.cli import utils
from kedro.framework.cli.project import CONF_SOURCE_HELP, PARAMS_ARG_HELP
from kedro.framework.cli.project import run as kedro_run
from kedro.utils import find_kedro_project
from omegaconf.errors import OmegaConfBaseException

from spamcaf.config_loader import as_typed, as_written
from spamcaf.errors import PACKAGE, InputError, did_you_mean, first_line, is_fault_of_ours, options_of
from spamcaf.limits import MAX_JSON_BYTES, read_bytes
from spamcaf.names import CHAIN
from spamcaf.signals import ending_soon

if TYPE_CHECKING:
    from kedro.framework.context import KedroContext


PROGRAM = "kedro"  # `spamcaf` where that command was called: next steps name it


@click.group(name="spamcaf")
def cli() -> None:
    """Commands of this project."""


def with_short_errors(command: Callable[..., Any], advise: Callable[..., str] | None = None) -> Callable[..., Any]:
    """Return `command` with errors of the user's input, and signals, as one line; other errors keep their traceback.

    `advise` makes of the command's options a sentence that stands below errors of both kinds.
    """

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  whatever the command takes and gives
        with ending_soon():
            try:
                return command(*args, **kwargs)
            except Exception as error:
                advice = advise(**kwargs) if advise else ""
                if (message := short_message(error)) is None:
                    error.add_note(advice)  # printed below the traceback
                    raise
                raise click.ClickException(f"{message} {advice}".strip()) from error

    return wrapped


def short_message(error: BaseException) -> str | None:
    """Return the message for the user, or None when the error is not about the user's input."""
    if (ours := InputError.within(error)) is not None:
        return as_called(str(ours))
    if isinstance(error, MissingConfigException):
        return f"{error} Expected: an environment that has a folder in conf/. Next step: check --env."
    unknown = re.search(r"importing the 'spamcaf\.pipelines\.(\w+)' module\.$", str(error))
    if isinstance(error, ImportError) and error.__cause__ is None and unknown:
        known = sorted(module.name for module in pkgutil.iter_modules([str(PACKAGE / "pipelines")]) if module.ispkg)
        next_step = f"{did_you_mean(unknown[1], known)}Choose one: --pipelines <name>."
        return str(InputError(f"no pipeline '{unknown[1]}'.", f"one of {', '.join(known)}.", next_step))
    return None


def doctor_of(pipelines: Sequence[str] = (), **options: Any) -> str:  # noqa: ANN401  the options of a run
    """Return what checks the inputs of a run, with its options; nothing for pipelines that need no measured section."""
    if set(pipelines) - {*CHAIN, "pooling"}:
        return ""
    words = options_of(options.get("env") or os.environ.get("KEDRO_ENV"), options.get("params"))
    return as_called(f"All that a run needs is checked by `kedro doctor{words}`.")


def as_called(text: str) -> str:
    """Return `text` with this project's commands as the user calls them."""
    return re.sub(r"\bkedro (?=(run|doctor|cohort)\b)", f"{PROGRAM} ", text)


def split_params(context: click.Context, option: click.Parameter, value: Any) -> dict[str, Any]:  # noqa: ANN401  text or dict
    """Return --params as Kedro does, but names, paths and genes as they were typed."""
    if isinstance(value, dict):  # of a --config file
        return value
    items = ",".join(as_typed(item) for item in utils.split_string(context, option, value or ""))
    try:
        parsed: dict[str, Any] = utils._split_params(context, option, items)
    except yaml.YAMLError as error:
        unreadable = InputError(
            f"--params {value}, which cannot be read ({first_line(error)}).",
            "<name>=<value>, several joined by commas.",
            "Quote values with other characters than letters and digits: --params \"panel.method='...'\".",
        )
        raise click.ClickException(str(unreadable)) from error
    return parsed


def read_config(context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    """Take the options of a --config file as Kedro does, but names, paths and genes in its params as written there."""
    if value is None:
        return None
    try:
        text = read_bytes(Path(value), MAX_JSON_BYTES).decode()
        written = yaml.load(text, Loader=yaml.BaseLoader)[context.info_name]  # noqa: S506  texts alone
        if not isinstance(written, dict):
            raise ValueError("no options there")
        utils._config_file_callback(context, option, value)
        if empty := [name for name in written if (context.default_map or {}).get(name) is None]:
            raise ValueError(f"nothing behind {', '.join(empty)}")
    except InputError as error:
        raise click.ClickException(str(error)) from error
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, OmegaConfBaseException) as error:
        if is_fault_of_ours(error):
            raise
        found = f"{value}, which cannot be read ({first_line(error)})."
        unreadable = InputError(found, "YAML with the options under `run:`.", "Correct it.")
        raise click.ClickException(str(unreadable)) from error
    if context.default_map and "params" in context.default_map:
        context.default_map["params"] = as_written(context.default_map["params"], written["params"])
    return value


def with_pipelines(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return Kedro's `run`, to which --pipeline means --pipelines: Kedro would warn of what still works."""

    @functools.wraps(command)
    def wrapped(pipeline: str | None, pipelines: list[str], **options: Any) -> Any:  # noqa: ANN401  Kedro's options
        names = [pipeline] if pipeline and not pipelines else pipelines
        return command(pipeline=pipeline if pipelines else None, pipelines=names, **options)

    return wrapped


run = copy.copy(kedro_run)
run.params = [copy.copy(option) for option in kedro_run.params]
for option in run.params:
    option.callback = {"params": split_params, "config": read_config}.get(str(option.name), option.callback)
if kedro_run.callback is not None:
    run.callback = with_pipelines(with_short_errors(kedro_run.callback, doctor_of))
cli.add_command(run)


@cli.command()
@utils.env_option
@click.option("--conf-source", callback=utils.validate_conf_source, help=CONF_SOURCE_HELP)
@click.option("--params", type=click.UNPROCESSED, default="", help=PARAMS_ARG_HELP, callback=split_params)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of a table.")
@click.pass_context
@with_short_errors
def doctor(
    context: click.Context, env: str | None, conf_source: str | None, params: dict[str, Any], as_json: bool
) -> None:
    """Check in seconds whether `kedro run` with the same options can work.

    Checks configuration, section, slide, backbone, device, memory, disk and software, and estimates the time of the
    run; downloads and writes nothing. Ends with code 1 when a check fails.
    """
    from kedro.framework.session import KedroSession

    from spamcaf.doctor import doctor as checks
    from spamcaf.doctor.check import Status, quiet

    root = find_kedro_project(Path.cwd()) or Path.cwd()

    def load_context() -> KedroContext:
        return KedroSession.create(root, env=env, conf_source=conf_source, runtime_params=params).load_context()

    with quiet():
        found = checks.examine(load_context, root)
    click.echo(as_called(checks.as_json(found) if as_json else checks.as_text(found)))
    context.exit(1 if checks.worst(found) is Status.FAIL else 0)


@cli.command()
@utils.env_option
@click.option("--conf-source", callback=utils.validate_conf_source, help=CONF_SOURCE_HELP)
@click.option("--params", type=click.UNPROCESSED, default="", help=PARAMS_ARG_HELP, callback=split_params)
@click.option("--workers", type=click.IntRange(1), help="Runs at once; by default as many as there are cores.")
@click.option("--threads", type=click.IntRange(1), help="CPU threads of a run; by default the cores of its share.")
@click.option("--memory", help="Memory of a worker on this machine, such as 8GB; by default its share of all.")
@click.pass_context
@with_short_errors
def cohort(
    context: click.Context,
    env: str | None,
    conf_source: str | None,
    params: dict[str, Any],
    **options: int | str | None,
) -> None:
    """Run many sections at once: --params sections=C2+C3[,masks=0-4], or sections=<table>.csv.

    Each is a run of its own, on workers of this machine or on the cluster of conf/<env>/cluster.yml; what is stored and
    fits is not made again. Ends with a table, a report, and code 1 when a run failed.
    """
    from kedro.framework.session import KedroSession

    from spamcaf.cohort.cohort import run_cohort

    root = find_kedro_project(Path.cwd()) or Path.cwd()
    session = KedroSession.create(root, env=env, conf_source=conf_source, runtime_params=params)
    context.exit(0 if run_cohort(session.load_context(), options, click.echo) else 1)
