"""Loading a backbone by name: from a package, the Hugging Face hub or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from spamcaf.datasets.weights import Weights, find_weights, probe_weights
from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.provenance import configuration_hash

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        spec = self.spec()
        source = self._source or spec.source
        path = find_weights(source, self._token)
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

    def probe(self, timeout_s: float) -> Weights:
        """Tell where the weights are, loading and downloading nothing; raise the InputError that a load would raise.

        Content is not read: damaged weights are found when they are loaded.
        """
        return probe_weights(self._source or self.spec().source, self._token, timeout_s)

    def spec(self) -> BackboneSpec:
        """Return the entry of the backbone's name; raise InputError when there is none or it is wrong."""
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
