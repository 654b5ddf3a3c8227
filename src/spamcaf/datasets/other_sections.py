"""The stored results of other sections of the same tissue, to learn from."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spamcaf.datasets.features import FeaturesDataset
from spamcaf.datasets.stored import AnnDataDataset, ReadOnlyDataset
from spamcaf.errors import InputError, is_section_name

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.features import Features


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

    def _stored(self, root: Path, what: str) -> list[Path]:
        for name in self.names:
            if not (root / name / what).exists():
                raise InputError(
                    f"no {what} of the other section '{name}' in {root}.",
                    "its ingestion and feature extraction, run before with the same backbone.",
                    f"kedro run --pipelines ingestion,feature_extraction --params section={name}, with this "
                    "environment.",
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
    metadata
        For Kedro-Viz.
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
        self._features, self._section = Path(features), str(section)
        listed = names if isinstance(names, list | tuple) else re.split(r"[+\s]+", "" if names is None else str(names))
        self._names = tuple(str(name) for name in listed if name != "")

    def load(self) -> OtherSections:
        for name in self._names:
            if not is_section_name(name) or name == self._section or self._names.count(name) > 1:
                raise InputError(
                    f"'{name}' among other_sections of section '{self._section}'.",
                    "other sections, each once.",
                    "Separate names by +: --params other_sections=C3+C4.",
                )
        return OtherSections(self._names, self._filepath, self._features)
