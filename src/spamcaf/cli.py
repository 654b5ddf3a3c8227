"""Command line: Kedro's own `run`, whose errors are one paragraph instead of a traceback."""

from __future__ import annotations

import copy
import functools
import re
from collections.abc import Callable
from typing import Any

import click
from kedro.config import MissingConfigException
from kedro.framework.cli.project import run as kedro_run

from spamcaf.errors import InputError


@click.group(name="spamcaf")
def cli() -> None:
    """Commands of this project."""


def with_short_errors(command: Callable[..., Any]) -> Callable[..., Any]:
    """Return `command` ending in one short message where the input is to blame; faults of ours keep their traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # noqa: ANN401  whatever the command takes and gives
        try:
            return command(*args, **kwargs)
        except Exception as error:
            message = short_message(error)
            if message is None:
                raise
            raise click.ClickException(message) from error

    return wrapped


def short_message(error: BaseException) -> str | None:
    """Return what to tell the user, or None when the error is not about what the user gave."""
    ours = InputError.within(error)
    if ours is not None:
        return str(ours)
    if isinstance(error, MissingConfigException):
        return f"{error} Expected: an environment that has a folder in conf/. Next step: check --env."
    unknown = re.search(r"importing the 'spamcaf\.pipelines\.(\w+)' module\.$", str(error))
    if isinstance(error, ImportError) and error.__cause__ is None and unknown:
        return f"Found: no pipeline '{unknown[1]}'. Expected: one of the project's. Next step: `kedro registry list`."
    return None


run = copy.copy(kedro_run)
if kedro_run.callback is not None:
    run.callback = with_short_errors(kedro_run.callback)
cli.add_command(run)
