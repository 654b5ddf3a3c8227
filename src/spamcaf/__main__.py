"""The command `spamcaf`, and `python -m spamcaf`: run, doctor and cohort, in the source tree and outside of it."""

from __future__ import annotations

import os
from pathlib import Path

COMMANDS = ("run", "doctor", "cohort")


def main() -> None:
    """Run the command line with the configuration of the source tree, of `./conf`, or of the package."""
    from kedro.utils import find_kedro_project

    from spamcaf.config_loader import PACKED

    here = Path.cwd()
    os.environ.setdefault("KEDRO_DISABLE_TELEMETRY", "1")
    conf = _own_conf(find_kedro_project(here), here) or PACKED
    if (conf / "logging.yml").is_file():
        os.environ.setdefault("KEDRO_LOGGING_CONFIG", str(conf / "logging.yml"))  # read when Kedro is imported

    from kedro.framework.project import configure_project

    from spamcaf import cli

    configure_project("spamcaf")
    cli.PROGRAM = "spamcaf"
    cli.cli(prog_name="spamcaf", default_map={name: {"conf_source": str(conf)} for name in COMMANDS})


def _own_conf(project: Path | None, here: Path) -> Path | None:
    """Return a whole configuration of the user's: of the source tree, or in the working directory."""
    conf = (project or here) / "conf"
    is_ours = project is None or 'package_name = "spamcaf"' in (project / "pyproject.toml").read_text(encoding="utf-8")
    return conf if is_ours and (conf / "base").is_dir() else None


if __name__ == "__main__":
    main()
