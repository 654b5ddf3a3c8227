"""Dataset of a backbone by name: from a package, the Hugging Face hub or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.io import AbstractDataset, DatasetError
from pydantic import ValidationError

from spamcaf.backbones.load import BackboneSpec, build, find_entry
from spamcaf.backbones.weights import Weights, find_weights, hub_revision, probe_weights
from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.provenance import configuration_hash


class BackboneDataset(AbstractDataset[Backbone, Backbone]):
    """Load the backbone `name`: an entry of `backbones`, a timm model, or a folder with timm's config.json; read-only.

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
        network = build(spec, path)
        configuration, revision = configuration_hash(spec), hub_revision(path)
        identity = BackboneIdentity(
            self._name, source, sha256, configuration, spec.width, spec.licence, revision, spec.mpp
        )
        return Backbone(network, spec.mean, spec.std, identity)

    def save(self, data: Backbone) -> None:
        raise DatasetError("Backbones are read-only.")

    def probe(self, timeout_s: float) -> Weights:
        """Return where the weights are, loading and downloading nothing; raise the InputError that a load would raise.

        Content is not read: damaged weights are found when they are loaded.
        """
        spec = self.spec()
        return probe_weights(self._source or spec.source, self._token, timeout_s)

    def spec(self) -> BackboneSpec:
        """Return the entry of the backbone's name; raise InputError when there is none or it is wrong."""
        try:
            return BackboneSpec.model_validate(find_entry(self._name, self._backbones))
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
