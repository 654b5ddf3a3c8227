"""While checks run, standard output stays empty; afterwards everything is as before."""

from __future__ import annotations

import logging
import sys

import pytest

from spamcaf.doctor.check import quiet


def test_output_and_warnings_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    handler = logging.StreamHandler(sys.stdout)
    logger = logging.getLogger("spamcaf.test_quiet")
    logger.setLevel(logging.INFO)
    logging.getLogger().addHandler(handler)
    try:
        with quiet():
            sys.stdout.write("printed")
            logger.info("detail")
            logger.warning("careful")
        inside = capsys.readouterr()
        logger.info("again")
        assert "again" in capsys.readouterr().out
    finally:
        logging.getLogger().removeHandler(handler)
    assert inside.out == ""
    assert "printed" in inside.err and "careful" in inside.err and "detail" not in inside.err


def test_an_exception_undoes_it_too() -> None:
    before = sys.stdout
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert sys.stdout is before
    assert logging.root.manager.disable == logging.NOTSET
