"""Which versions are installed, and do those that must match, match?"""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from spamcaf.doctor.check import Check, passed
from spamcaf.errors import InputError, first_line

NAME = "software"
PACKAGES = ("spamcaf", "kedro", "torch", "torchvision", "timm", "scanpy", "anndata")


def check_software() -> tuple[Check, None]:
    """List the main packages; raise InputError when one is missing, or torch and torchvision do not fit."""
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, number in versions.items() if number is None]
    if missing:
        raise InputError(
            f"{', '.join(missing)} not installed.", "all packages of pyproject.toml.", "Run `pip install -e .` again."
        )
    try:
        import torchvision  # noqa: F401  its compiled operators are registered with torch here
    except (ImportError, RuntimeError, OSError) as error:
        raise InputError(
            f"torch {versions['torch']} and torchvision {versions['torchvision']}, which do not work together "
            f"({first_line(error)}).",
            "a pair that was built together.",
            "Run `pip install --upgrade torch torchvision` from one index.",
        ) from error
    return passed(NAME, ", ".join(f"{name} {number}" for name, number in _all(versions).items())), None


def _all(versions: dict[str, str | None]) -> dict[str, str | None]:
    return {"python": platform.python_version(), **versions}


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
