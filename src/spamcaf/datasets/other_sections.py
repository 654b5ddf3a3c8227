"""The stored results of other sections of the same tissue, to learn from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

from spamcaf.datasets.anndata import AnnDataDataset
from spamcaf.datasets.features import FeaturesDataset
from spamcaf.errors import InputError, is_section_name

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.features import Features

SECTION_FILE, FEATURES_FOLDER = "section.h5ad", "spot_features"


@dataclass(frozen=True)
class OtherSections:
    """Sections by name, whose ingestion and feature extraction are stored; nothing is read before it is asked for."""

    names: tuple[str, ...]
    intermediate: Path
    feature: Path

    def __len__(self) -> int:
        return len(self.names)

    def sections(self) -> list[AnnData]:
        """Return the checked sections, with the raw counts of all their spots."""
        paths = [self._stored(self.intermediate, name, SECTION_FILE) for name in self.names]
        return [AnnDataDataset(filepath=str(path)).load() for path in paths]

    def features(self) -> list[Features]:
        """Return the features of their spots."""
        paths = [self._stored(self.feature, name, FEATURES_FOLDER) for name in self.names]
        return [FeaturesDataset(filepath=str(path)).load() for path in paths]

    def _stored(self, root: Path, name: str, what: str) -> Path:
        path = root / name / what
        if not path.exists():
            raise InputError(
                f"no {what} of the other section '{name}' in {root}.",
                "its ingestion and feature extraction, run before with the same backbone.",
                f"kedro run --pipelines ingestion,feature_extraction --params section={name}, with this environment.",
            )
        return path


class OtherSectionsDataset(AbstractDataset[OtherSections, OtherSections]):
    """Name the sections to learn from beside the section of the run; read-only.

    `names` is a list, or a text with `+` between the names, as a command line gives it: C3+C4. `filepath` is the layer
    of sections, `features` the layer of features; both hold a folder per section.
    """

    def __init__(
        self,
        *,
        filepath: str,
        features: str,
        names: list[str] | str | int | None,
        section: str | int,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._intermediate, self._feature = Path(filepath), Path(features)
        listed = names if isinstance(names, list | tuple) else re.split(r"[+\s]+", "" if names is None else str(names))
        self._names = tuple(str(name) for name in listed if name != "")
        self._section = str(section)
        self.metadata = metadata

    def load(self) -> OtherSections:
        for name in self._names:
            if not is_section_name(name) or name == self._section or self._names.count(name) > 1:
                raise InputError(
                    f"'{name}' among other_sections of section '{self._section}'.",
                    "other sections, each once.",
                    "Separate names by +: --params other_sections=C3+C4.",
                )
        return OtherSections(self._names, self._intermediate, self._feature)

    def save(self, data: OtherSections) -> None:
        raise DatasetError("Other sections are read-only: run the pipelines for each of them.")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {"names": self._names, "filepath": PurePosixPath(self._intermediate)}
