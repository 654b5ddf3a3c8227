"""What a run reads and never writes: the backbone, and the stored results of other sections."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.backbones.load import BackboneSpec, build, find_entry
from spamcaf.backbones.weights import Weights, find_weights, hub_revision, probe_weights
from spamcaf.datasets.features import FeaturesDataset
from spamcaf.datasets.stored import AnnDataDataset, ReadOnlyDataset, read_record, validated
from spamcaf.errors import InputError, did_you_mean, is_section_name
from spamcaf.histology.backbone import Backbone, BackboneIdentity, blind_backbone
from spamcaf.names import NO_IMAGE, is_no_image
from spamcaf.provenance import plain_hash, without_home
from spamcaf.readers.files import content_hash
from spamcaf.readers.reference import Reference, find_reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from anndata import AnnData

    from spamcaf.histology.features import Features


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
    image
        Where it is `none`, there is nothing to see: the backbone is `blind_backbone`, whatever its name.
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
        image: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=source or "", metadata=metadata)
        self._is_blind = is_no_image(image)
        self._name, self._backbones, self._source = str(name), backbones, source
        self._token = (credentials or {}).get("token")
        self._loaded: dict[str, Any] = {}

    def load(self) -> Backbone:
        if self._is_blind:
            return blind_backbone()
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
        entry = (self._name, source, sha256, plain_hash([spec.model_dump(mode="json", exclude={"dense"})]))
        identity = BackboneIdentity(*entry, spec.width, spec.licence, hub_revision(path), spec.mpp, spec.dense)
        self._loaded = {"backbone_weights": identity.key}
        return Backbone(build(spec, path), spec.mean, spec.std, identity)

    def origin(self) -> dict[str, Any]:
        """Return the name, and once they were loaded, the identity of the weights."""
        return {"backbone": NO_IMAGE if self._is_blind else self._name, **self._loaded}

    @property
    def is_blind(self) -> bool:
        """Whether there is no image, and so nothing to load."""
        return self._is_blind

    def probe(self, timeout_s: float) -> Weights:
        """Return where the weights are, without loading or downloading; raise the InputError that a load would raise.

        Content is not read: damaged weights are found when they are loaded.
        """
        spec = self.spec()  # also where its source is replaced: a load would raise its errors too
        return probe_weights(self._source or spec.source, self._token, timeout_s)

    def spec(self) -> BackboneSpec:
        """Return the entry of the backbone's name; raise InputError when there is none or it is wrong."""
        return validated(BackboneSpec, find_entry(self._name, self._backbones), f"'{self._name}' of `backbones`")


class BackboneLoaderDataset(BackboneDataset):
    """Give a function that loads the backbone, for nodes that need its weights in some runs only."""

    def load(self) -> Callable[[], Backbone]:  # type: ignore[override]
        return super().load

    def origin(self) -> dict[str, Any]:
        """Return nothing: the features that go with it have its record."""
        return {}


@dataclass(frozen=True)
class OtherSections:
    """Sections by name, whose ingestion and feature extraction are stored; nothing is read before it is used."""

    names: tuple[str, ...]
    intermediate: Path
    feature: Path

    def __len__(self) -> int:
        return len(self.names)

    def sections(self) -> list[AnnData]:
        """Return the checked sections, with the raw counts of all their spots."""
        return [AnnDataDataset(filepath=str(path)).load() for path in self._stored(self.intermediate, "section.h5ad")]

    def features(self) -> list[Features]:
        """Return the features of their spots."""
        return [FeaturesDataset(filepath=str(path)).load() for path in self._stored(self.feature, "spot_features")]

    def require(self, *, with_features: bool) -> None:
        """Raise InputError where a section, or its features, are not stored."""
        self._stored(self.intermediate, "section.h5ad")
        if with_features:
            self._stored(self.feature, "spot_features")

    def _stored(self, root: Path, what: str) -> list[Path]:
        for name in self.names:
            if not (root / name / what).exists():
                near = did_you_mean(name, (path.name for path in root.glob("*") if (path / what).exists()))
                raise InputError(
                    f"no {what} of the other section '{name}' in {root}.",
                    "the section and the features of its spots, of an earlier run with the same backbone.",
                    f"{near}kedro run --pipelines pooling --params section={name}, with this environment.",
                )
        return [root / name / what for name in self.names]


class OtherSectionsDataset(ReadOnlyDataset):
    """Name the sections to learn from beside the section of the run; read-only.

    Parameters
    ----------
    filepath, features
        The layers of sections and of features, which hold a folder per section.
    names
        A list, or a text with `+` between the names, as a command line gives it: C3+C4.
    section
        The section of the run.
    """

    instead = "Other sections are read-only: run the pipelines for each of them."
    shown = ("names", "filepath")

    def __init__(
        self,
        *,
        filepath: str,
        features: str,
        names: list[str] | str | int | None,
        section: str | int,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._features, self._section, self._names = Path(features), str(section), _listed(names)

    def load(self) -> OtherSections:
        for name in self._names:
            if not is_section_name(name) or name == self._section or self._names.count(name) > 1:
                raise InputError(
                    f"'{name}' among other_sections of section '{self._section}'.",
                    "other sections, each once.",
                    "Separate names by +: --params other_sections=C3+C4.",
                )
        return OtherSections(self._names, self._filepath, self._features)

    def origin(self) -> dict[str, Any]:
        """Return a hash per section of the records of what is stored of it."""
        records = {
            name: [
                read_record(self._filepath / name / "section.h5ad"),
                read_record(self._features / name / "spot_features"),
            ]
            for name in self._names
        }
        return {"other_sections": {name: plain_hash(record) for name, record in records.items()}}


def _listed(names: list[str] | str | int | None) -> tuple[str, ...]:
    """Return names given as a list, or as a text with `+` or spaces between them."""
    listed = names if isinstance(names, list | tuple) else re.split(r"[+\s]+", "" if names is None else str(names))
    return tuple(str(name) for name in listed if name != "")


@dataclass(frozen=True)
class References:
    """Counts without an image; nothing is read before `load`."""

    found: dict[str, Reference]  # by name

    def load(self) -> Iterator[tuple[str, AnnData]]:
        """Yield name and raw counts of each."""
        for name, reference in self.found.items():
            yield name, reference.read()


class ReferencesDataset(ReadOnlyDataset):
    """Name counts, without images, that gene programs are learned from beside the section of the run; read-only.

    Parameters
    ----------
    filepath
        The layer of ingested sections, which holds a folder per section.
    names
        Names of sections, or paths: a list, or a text with `+` between them, as a command line gives it.
    section
        The section of the run, which cannot be its own reference.
    raw_root
        Where sections lie that were not ingested.
    metadata
        For Kedro-Viz.
    """

    instead = "References are read-only: they are the counts that `reference` names."
    shown = ("names", "filepath")

    def __init__(
        self,
        *,
        filepath: str,
        names: list[str] | str | int | None,
        section: str | int,
        raw_root: str,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, metadata=metadata)
        self._names, self._section, self._raw_root = _listed(names), str(section), Path(raw_root)

    def load(self) -> References:
        return self.find()

    def origin(self) -> dict[str, Any]:
        found = self.find().found
        return {"reference": {name: content_hash(reference.sources) for name, reference in found.items()}}

    def find(self) -> References:
        """Return the references, unread; InputError where one is not there, named twice, or the section itself."""
        for name in self._names:
            if name == self._section or self._names.count(name) > 1:
                raise InputError(
                    f"'{name}' among the references of section '{self._section}'.",
                    "other counts, each once: hidden spots of the section must not be seen.",
                    "Separate names by +: --params reference=C1+D1.",
                )
        # data/02_intermediate lies two folders below the project's root
        where = (self._filepath.parents[1], self._filepath, self._raw_root)
        return References({without_home(name): find_reference(name, *where) for name in self._names})
