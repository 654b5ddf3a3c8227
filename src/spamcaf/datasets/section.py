"""A section and its slide as catalog entries, whatever files they are read from."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from kedro.io import AbstractDataset, DatasetError

from spamcaf.errors import InputError
from spamcaf.names import SECTION_METADATA, SectionField
from spamcaf.readers.files import SectionQuery
from spamcaf.readers.find import find_reader
from spamcaf.readers.labels import add_labels

if TYPE_CHECKING:
    from anndata import AnnData

    from spamcaf.histology.slide import Slide


class _SectionFiles(AbstractDataset[Any, Any]):
    """What both entries share: where to look, and that raw data are read-only.

    `filepath` is a folder that holds one section or several, or a file; `section` names the section. `image` (a path)
    and `bin_um` (Visium HD) say what the files cannot.
    """

    def __init__(
        self,
        *,
        filepath: str,
        section: str | int,
        image: str | None = None,
        bin_um: str | float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        self._wanted = SectionQuery(Path(filepath), str(section), Path(image) if image else None, _whole(bin_um))
        self.metadata = metadata

    def save(self, data: Any) -> None:  # noqa: ANN401  nothing is accepted, whatever its type
        raise DatasetError("Raw data are read-only. Save under another catalog entry.")

    def _exists(self) -> bool:
        try:
            find_reader(self._wanted)
        except InputError:
            return False
        return True

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._wanted.root), "section": self._wanted.section}


class SectionDataset(_SectionFiles):
    """Load a raw section: Space Ranger, Visium HD, legacy ST, h5ad or SpatialData, told by content.

    `labels` is the path of a table of spot labels, see `add_labels`.
    """

    def __init__(
        self,
        *,
        filepath: str,
        section: str | int,
        image: str | None = None,
        bin_um: str | float | None = None,
        labels: str | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(filepath=filepath, section=section, image=image, bin_um=bin_um, metadata=metadata)
        self._labels = Path(labels) if labels else None

    def load(self) -> AnnData:
        reader = find_reader(self._wanted)
        section = reader.read()
        section.uns[SECTION_METADATA][SectionField.LAYOUT.value] = reader.kind
        if self._labels is not None:
            add_labels(section, self._labels, self._wanted.section)
        return section


class SectionSlideDataset(_SectionFiles):
    """Load the full-resolution H&E image that belongs to a section, lazily."""

    def load(self) -> Slide:
        return find_reader(self._wanted).open_slide()


def _whole(bin_um: str | float | None) -> int | None:
    """Return the size of bins, given as a number or as the name of their folder has it: 16, 016, square_016um."""
    if bin_um is None:
        return None
    size = re.fullmatch(r"(?:square_)?0*([1-9]\d*)(?:\.0*)?(?:um)?", str(bin_um).strip())
    if size is None:
        raise InputError(f"bin_um = {bin_um!r}.", "a whole number of micrometres.", "Correct it: --params bin_um=16.")
    return int(size[1])


class NoTruthDataset(AbstractDataset[None, None]):
    """Load None: nobody measured this section between its spots, so super-resolution is not scored."""

    def __init__(self, *, metadata: dict[str, Any] | None = None) -> None:
        self.metadata = metadata

    def load(self) -> None:
        return None

    def save(self, data: None) -> None:
        raise DatasetError("There is no truth to save.")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return {}
