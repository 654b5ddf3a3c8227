"""Weight files of backbones: in a package, in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

from spamcaf.errors import InputError

HUB, PACKAGE = "hf-hub:", "package:"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
TIMEOUT_S = 10.0
"""Seconds to wait for the hub's answer."""
FOLDER = "models--"
"""Beginning of the name of a repository's folder in the hub's cache."""


@dataclass(frozen=True)
class Weights:
    """Weights that can be had."""

    place: str  # path of the file, or name of the repository
    is_here: bool  # on this machine
    n_bytes: int | None


def find_weights(source: str, token: str | None) -> Path:
    """Return the weight file of a source, downloaded where needed with `token` or the hub's login; or InputError."""
    return _fetch(_repository(source), token) if source.startswith(HUB) else _local(source)


def probe_weights(source: str, token: str | None, timeout_s: float) -> Weights:
    """Return where `find_weights` would find the weights, downloading nothing; raise the InputError that it would."""
    if source.startswith(HUB):
        repository = _repository(source)
        path = _cached(repository)
        if path is None:
            return Weights(repository.name, False, _size_on_hub(repository, token, timeout_s))
    else:
        path = _local(source)
    return Weights(str(path), True, path.stat().st_size)


def hub_revision(path: Path) -> str | None:
    """Return the hub's commit of a weight file by its folder in the hub's cache; None for files elsewhere."""
    folder = path.parent.resolve()
    is_snapshot = folder.parent.name == "snapshots" and folder.parents[1].name.startswith(FOLDER)
    return folder.name if is_snapshot else None


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots in a repository's folder of the hub's cache, that of its main branch first."""
    if not os.path.isdir(folder / "snapshots"):
        return []
    newest = _main_commit(folder)
    return sorted((folder / "snapshots").iterdir(), key=lambda snapshot: (snapshot.name != newest, snapshot.name))


def _main_commit(folder: Path) -> str | None:
    main = folder / "refs" / "main"
    return main.read_text().strip() if main.is_file() else None


@dataclass(frozen=True)
class _Repository:
    """A repository of the hub, `<owner>/<model>`; without a revision its newest state."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at revision {self.revision}"


def _repository(source: str) -> _Repository:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"the source '{source}'.", f"{HUB}<owner>/<model>, or with @<revision>.", "Correct it in globals.yml."
        ) from error
    return _Repository(name, revision or None)


def _fetch(repository: _Repository, token: str | None) -> Path:
    """Return the weight file of a repository, from the hub or its cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HTTPError, LocalEntryNotFoundError

    # the client tries an unreachable hub again and again for a file that is not in the cache. So a file of the cache is
    # requested first, by the name that it is kept under; without any, one request finds out whether there is a hub
    name, kept = repository.name, _cached(repository)
    if kept is None:
        _size_on_hub(repository, token, TIMEOUT_S)
    else:
        name = _name_of(kept.parents[2].name)
    for file in sorted(WEIGHT_FILES, key=lambda file: kept is not None and file != kept.name):
        try:
            return Path(hf_hub_download(name, file, revision=repository.revision, token=token))
        except (OSError, HTTPError, EntryNotFoundError) as error:
            if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
                continue
            if kept is not None and _status(error) is None:
                return kept
            raise _refusal(repository, error) from error
    raise _no_file(repository)


def _cached(repository: _Repository) -> Path | None:
    """Return the weight file in the hub's cache, whatever the case of the repository's name there."""
    from huggingface_hub import constants, try_to_load_from_cache

    # the hub ignores case, its cache does not: `hf download MahmoodLab/UNI` fills another folder than MahmoodLab/uni
    cache, name = Path(constants.HF_HUB_CACHE), repository.name
    kept = sorted(_name_of(path.name) for path in cache.glob(f"{FOLDER}*")) if cache.is_dir() else []
    for spelling in (name, *(other for other in kept if other.lower() == name.lower() and other != name)):
        for file in WEIGHT_FILES:
            path = try_to_load_from_cache(spelling, file, revision=repository.revision)
            if isinstance(path, str) and Path(path).is_file():
                return Path(path)
    return None


def _name_of(folder: str) -> str:
    return folder.removeprefix(FOLDER).replace("--", "/")


def _size_on_hub(repository: _Repository, token: str | None, timeout_s: float) -> int | None:
    """Return the bytes of the weight file by its HTTP header; raise InputError without access."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    for file in WEIGHT_FILES:
        url = hf_hub_url(repository.name, file, revision=repository.revision)
        try:
            return get_hf_file_metadata(url, token=token, timeout=timeout_s).size
        except EntryNotFoundError:
            continue
        except (OSError, HTTPError) as error:
            raise _refusal(repository, error) from error
    raise _no_file(repository)


def _no_file(repository: _Repository) -> InputError:
    found = f"no {' or '.join(WEIGHT_FILES)} in {repository}."
    return InputError(found, "one of them.", "Check the entry in globals.yml.")


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind `error`: the hub's client wraps a refusal as a file that it could not find."""
    status = None
    while error is not None and status is None:
        status = getattr(getattr(error, "response", None), "status_code", None)
        error = error.__cause__
    return status


def _refusal(repository: _Repository, error: BaseException) -> InputError:
    """Return what stands in the way, by the HTTP status of the hub's answer."""
    from huggingface_hub import constants

    page = f"https://huggingface.co/{repository.name}"
    match _status(error):
        case 401:
            found = f"{repository} is gated or does not exist, and no valid token was given (401)."
            expected = "a Hugging Face token of an account with access."
            step = (
                f"Ask for access at {page}, then run `hf auth login` or put `huggingface: {{token: ...}}` into "
                "conf/local/credentials.yml."
            )
        case 403:
            found = f"your token may not read {repository} (403)."
            expected = "an account that was granted access, and a token with the scope 'read gated repositories'."
            step = f"Ask for access at {page} and check the token's scope."
        case 404:
            found = f"the hub shows no {repository} to you (404)."
            expected = "a repository that exists and that your account may see."
            step = f"Check the entry in globals.yml, and open {page} in a browser."
        case _:
            offline = ", since HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
            found = f"{repository} is not in the hub's cache and the hub cannot be reached{offline}."
            expected = f"a connection to the hub, or the file {' or '.join(WEIGHT_FILES)} on this machine."
            step = f"Download it from {page} and pass its folder: --params backbone_source=<folder>."
    otherwise = "Without it, the packaged backbone works: --params backbone=efficientnet_lite0."
    return InputError(found, expected, f"{step} {otherwise}")


def _local(source: str) -> Path:
    """Return the weights in a package, or that `source` is or holds: a file, a folder, or one of the hub's cache."""
    if source.startswith(PACKAGE):
        return _packaged(source.removeprefix(PACKAGE))
    folder = Path(os.path.expanduser(source))
    if os.path.isfile(folder):
        return folder
    kept = _weights_in([folder]) or _weights_in(snapshots(folder))
    if len(kept) > 1 and _main_commit(folder) != kept[0].parent.name:
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


def _weights_in(folders: list[Path]) -> list[Path]:
    """Return the first weight file of each folder that has one."""
    found = [[folder / name for name in WEIGHT_FILES if os.path.isfile(folder / name)] for folder in folders]
    return [paths[0] for paths in found if paths]


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
    if path.is_file():
        return path
    raise InputError(f"no {file} in the package {module}.", "it carries the weights.", f"{install} --force-reinstall")
