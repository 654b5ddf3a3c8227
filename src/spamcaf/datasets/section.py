"""A section, its slide and its truth as catalog entries: simulated, or read from files in any layout."""

from __future__ import annotations

import hashlib
import os
import re
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DatasetError

from spamcaf.datasets.stored import ReadOnlyDataset
from spamcaf.errors import InputError, did_you_mean
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.names import NO_IMAGE, SECTION_METADATA, SectionField, is_no_image
from spamcaf.parameters import SimulationSettings
from spamcaf.provenance import configuration_hash
from spamcaf.readers.files import SectionQuery, SectionReader, content_hash
from spamcaf.readers.find import find_reader
from spamcaf.readers.labels import add_labels

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from spamcaf.simulation.section import SimulatedTissue

FILES, SIMULATED = "files", "simulated"
SIMULATED_NAME = re.compile(r"simulated(?:_(\d{1,9}))?")
"""Names of simulated sections: with a number they are of that seed."""


@lru_cache(maxsize=1)
def _simulated_tissue(settings: SimulationSettings) -> SimulatedTissue:
    from spamcaf.simulation.section import SimulatedTissue

    return SimulatedTissue(settings)


class _RawDataset(ReadOnlyDataset):
    """What the entries of a section share."""

    instead = "Raw data are read-only. Save under another catalog entry."
    shown = ("source", "filepath", "section")

    def __init__(
        self,
        *,
        source: str = FILES,  # or `simulated`: the tissue that `simulation` describes
        filepath: str = ".",  # a folder that holds one section or several, or a file
        section: str | int = SIMULATED,
        image: str | None = None,  # of full resolution, where it lies elsewhere; `none`: there is none to be used
        bin_um: str | float | None = None,  # of Visium HD, where there are several: 16, 016 or square_016um
        labels: str | None = None,  # path of a table of spot labels, see `add_labels`
        label_table: str | None = None,  # the same as a path from the folder of the sections
        simulation: dict[str, Any] | None = None,  # fields of `SimulationSettings`
        metadata: dict[str, Any] | None = None,
    ) -> None:
        if source not in {FILES, SIMULATED}:
            raise InputError(f"source = {source!r}.", f"{FILES} or {SIMULATED}.", "Correct it in globals.yml.")
        super().__init__(filepath=filepath, metadata=metadata)
        self._source, self._section = source, str(section)
        self._has_image = not is_no_image(image)
        elsewhere = Path(image) if image and self._has_image else None
        self._query = SectionQuery(Path(filepath), str(section), elsewhere, _whole(bin_um))
        in_root = Path(filepath, os.path.expanduser(label_table)) if label_table else None
        self._labels = Path(labels) if labels else in_root
        self._settings: SimulationSettings | None = None
        if source == SIMULATED:
            named = SIMULATED_NAME.fullmatch(self._section)
            seed = {"seed": int(named[1])} if named and named[1] else {}
            self._settings = SimulationSettings.model_validate({**(simulation or {}), **seed})

    def _tissue(self) -> SimulatedTissue | None:
        """Return the simulated tissue; None where the section is read from files."""
        return None if self._settings is None else _simulated_tissue(self._settings)

    @cached_property
    def _reader(self) -> SectionReader:
        return find_reader(self._query)

    def require(self) -> None:
        """Raise InputError where the section cannot be found, or has no name of a simulated one; reads nothing."""
        if self._source == FILES:
            _ = self._reader
        elif SIMULATED_NAME.fullmatch(self._section) is None:
            raise InputError(
                f"no section '{self._section}'.",
                f"'{SIMULATED}', or '{SIMULATED}_<seed>' such as {SIMULATED}_7, those of this environment.",
                f"{did_you_mean(self._section, [SIMULATED])}"
                "Name the environment of your data, for example --env her2st.",
            )

    def _exists(self) -> bool:
        try:
            return self._source == SIMULATED or bool(self._reader)
        except InputError:
            return False


class SectionDataset(_RawDataset):
    """Load a raw section: Space Ranger, Visium HD, legacy ST, h5ad or SpatialData by content, or the simulated one."""

    def load(self) -> AnnData:
        tissue = self._tissue()
        if tissue is not None:
            self.require()
            _ = tissue.image  # rendered once, for thumbnails and for all nodes behind
            return tissue.section()
        section = self._reader.read()
        section.uns[SECTION_METADATA][SectionField.LAYOUT.value] = self._reader.kind
        if self._labels is not None:
            add_labels(section, self._labels, self._section)
        return section

    def origin(self) -> dict[str, Any]:
        """Return the hash of the files with counts and positions, and of labels."""
        if self._settings is not None:
            return {"counts": configuration_hash(self._settings)}
        labels = [self._labels] if self._labels and self._labels.is_file() else []
        return {"counts": content_hash([*self._reader.sources(), *labels])}


class SectionSlideDataset(_RawDataset):
    """Load the full-resolution H&E image that belongs to a section, lazily; None where none is to be used."""

    def require(self) -> None:
        """Raise InputError where the image cannot be found; it is not opened."""
        self.origin()

    def load(self) -> Slide | None:
        if not self._has_image:
            return None
        tissue = self._tissue()
        if tissue is None:
            return self._reader.open_slide()
        digest = hashlib.sha256(tissue.image.data).hexdigest()[:16]
        return Slide(ArrayPixels(tissue.image, f"{SIMULATED}-{digest}"), SIMULATED)

    def origin(self) -> dict[str, Any]:
        """Return the fingerprint of the image."""
        if not self._has_image:
            return {"image": NO_IMAGE}
        simulation = self._settings
        return {"image": configuration_hash(simulation) if simulation else self._reader.image_fingerprint()}


class SlideOpenerDataset(SectionSlideDataset):
    """Load the function that opens the image, for a node that needs it with some settings only."""

    def load(self) -> Callable[[], Slide | None]:  # type: ignore[override]  # a way to what the base class loads
        return super().load

    def origin(self) -> dict[str, Any]:
        """Return nothing: the features that go with it have its record."""
        return {}


class TruthDataset(_RawDataset):
    """Load the simulated tissue, which knows the expected expression at any place; None for a section in files."""

    def load(self) -> SimulatedTissue | None:
        return self._tissue()

    def _exists(self) -> bool:
        return True


NoTruthDataset = TruthDataset  # the name in the catalogs of environments that version 0.1 shipped


class SimulatedOutsDataset(ReadOnlyDataset):
    """Write a simulated tissue as the `outs` folder of Space Ranger 2, with its full-resolution TIFF.

    A folder that exists is never replaced. Read it with the environment `own`.
    """

    def require_free(self) -> None:
        """Raise InputError where the folder exists already."""
        from spamcaf.simulation.space_ranger import require_free

        require_free(self._filepath)

    def save(self, data: SimulatedTissue) -> None:
        from spamcaf.simulation.space_ranger import write_space_ranger

        write_space_ranger(data, self._filepath)

    def load(self) -> None:
        raise DatasetError("Read the folder as a section: kedro run --env own --params section=...,raw_root=...")

    def _exists(self) -> bool:
        return self._filepath.is_dir()


def _whole(bin_um: str | float | None) -> int | None:
    if bin_um is None:
        return None
    size = re.fullmatch(r"(?:square_)?0*([1-9]\d*)(?:\.0*)?(?:um)?", str(bin_um).strip())
    if size is None:
        raise InputError(f"bin_um = {bin_um!r}.", "a whole number of micrometres.", "Correct it: --params bin_um=16.")
    return int(size[1])
