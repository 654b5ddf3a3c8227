"""Put `conf/` into the wheel, as `spamcaf/conf`: a command of the wheel runs where there is no source tree."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

NOT_SHIPPED = ("local", "*credentials*", ".*", "__pycache__")  # a developer's own
DEFAULT_ENV = "local"  # must be there, and an empty folder is no part of a wheel


class BuildWithConfiguration(build_py):
    """Build the package with a copy of the configuration; an editable one reads that of the source tree."""

    def run(self) -> None:
        """Build."""
        super().run()
        if not self.editable_mode:
            conf = Path(self.build_lib) / "spamcaf" / "conf"
            shutil.rmtree(conf, ignore_errors=True)  # of an earlier build
            shutil.copytree("conf", conf, ignore=shutil.ignore_patterns(*NOT_SHIPPED))
            (conf / DEFAULT_ENV).mkdir()
            (conf / DEFAULT_ENV / ".gitkeep").touch()


setup(cmdclass={"build_py": BuildWithConfiguration})
