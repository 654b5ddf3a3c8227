"""What the project logs while checks run: warnings belong to the report, the rest stays out of it."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def quiet() -> Iterator[None]:
    """Send what is printed and logged to standard error, log lines only from WARNING on; undone afterwards."""
    handlers = [
        handler
        for handler in logging.getLogger().handlers
        if isinstance(handler, logging.StreamHandler) and handler.stream is sys.stdout
    ]
    output, disabled = sys.stdout, logging.root.manager.disable
    for handler in handlers:
        handler.setStream(sys.stderr)
    logging.disable(logging.INFO)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        logging.disable(disabled)
        for handler in handlers:
            handler.setStream(output)


@contextmanager
def overheard(name: str = "spamcaf") -> Iterator[list[str]]:
    """Give a list that takes the warnings logged inside, by loggers of `name`, instead of letting them be printed."""
    warnings: list[str] = []
    logger, listener = logging.getLogger(name), _Listener(warnings)
    logger.addHandler(listener)
    propagates, logger.propagate = logger.propagate, False
    try:
        yield warnings
    finally:
        logger.propagate = propagates
        logger.removeHandler(listener)


class _Listener(logging.Handler):
    """Keeps messages."""

    def __init__(self, messages: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self._messages.append(record.getMessage().rstrip("."))
