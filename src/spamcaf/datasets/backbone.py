"""Loading a backbone by name: from a package, the Hugging Face hub or a local folder."""

from __future__ import annotations

import hashlib
from typing import Any

from spamcaf.backbones.load import BackboneSpec, build, find_entry
from spamcaf.backbones.weights import Weights, find_weights, hub_revision, probe_weights
from spamcaf.datasets.stored import ReadOnlyDataset, validated
from spamcaf.errors import InputError
from spamcaf.histology.backbone import Backbone, BackboneIdentity
from spamcaf.provenance import configuration_hash


class BackboneDataset(ReadOnlyDataset):
    """Load a backbone; weights are loaded strictly and never unpickled.

    Parameters
    ----------
    name
        An entry of `backbones`, a timm model, or a folder with timm's config.json.
    backbones
        Entries by name, each a `BackboneSpec`.
    source
        Replaces the entry's own source, for weights in a local folder.
    credentials
        `{token: ...}` of the hub; without it, the hub's own login.
    metadata
        For Kedro-Viz.
    """

    instead = "Backbones are read-only."
    shown = ("name", "source")

    def __init__(
        self,
        *,
        name: str,
        backbones: dict[str, dict[str, Any]],
        source: str | None = None,
        credentials: dict[str, str] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=source or "", metadata=metadata)
        self._name, self._backbones, self._source = str(name), backbones, source
        self._token = (credentials or {}).get("token")

    def load(self) -> Backbone:
        spec = self.spec()
        source = self._source or spec.source
        path = find_weights(source, self._token)
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if spec.sha256 and sha256 != spec.sha256:
            raise InputError(
                f"{path} with sha256 {sha256[:12]}...",
                f"{spec.sha256[:12]}..., the weights that the entry '{self._name}' pins.",
                "Fetch the file again, or change the entry in globals.yml if you trust this one.",
            )
        configuration, revision = configuration_hash(spec), hub_revision(path)
        identity = BackboneIdentity(
            self._name, source, sha256, configuration, spec.width, spec.licence, revision, spec.mpp
        )
        return Backbone(build(spec, path), spec.mean, spec.std, identity)

    def probe(self, timeout_s: float) -> Weights:
        """Return where the weights are, without loading or downloading; raise the InputError that a load would raise.

        Content is not read: damaged weights are found when they are loaded.
        """
        spec = self.spec()  # also where its source is replaced: a load would raise its errors too
        return probe_weights(self._source or spec.source, self._token, timeout_s)

    def spec(self) -> BackboneSpec:
        """Return the entry of the backbone's name; raise InputError when there is none or it is wrong."""
        return validated(BackboneSpec, find_entry(self._name, self._backbones), f"'{self._name}' of `backbones`")
