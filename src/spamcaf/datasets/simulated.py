"""The simulated section as catalog entries: section, slide and truth of one tissue."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from kedro.io import AbstractDataset, DatasetError

from spamcaf.errors import InputError
from spamcaf.histology.slide import ArrayPixels, Slide
from spamcaf.parameters import SimulationSettings

if TYPE_CHECKING:
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.simulation.section import SimulatedTissue

NAME = "simulated"


@lru_cache(maxsize=1)
def _tissue(settings: SimulationSettings) -> SimulatedTissue:
    from spamcaf.simulation.section import SimulatedTissue

    return SimulatedTissue(settings)


class _SimulatedDataset(AbstractDataset[Any, Any]):
    """What the three entries share: the settings, and that nothing can be saved."""

    def __init__(self, *, simulation: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        self._settings = SimulationSettings.model_validate(dict(simulation))
        self.metadata = metadata

    def save(self, data: Any) -> None:  # noqa: ANN401  nothing is accepted, whatever its type
        raise DatasetError("A simulated section is made from its settings; change those instead.")

    def _exists(self) -> bool:
        return True

    def _describe(self) -> dict[str, Any]:
        return self._settings.model_dump()


class SimulatedSectionDataset(_SimulatedDataset):
    """Load the simulated section: AnnData with raw counts, coordinates and facts."""

    def __init__(self, *, section: str, simulation: dict[str, Any], metadata: dict[str, Any] | None = None) -> None:
        super().__init__(simulation=simulation, metadata=metadata)
        self._section = str(section)

    def load(self) -> AnnData:
        if self._section != NAME:
            raise InputError(
                f"no section '{self._section}'.",
                f"'{NAME}', the only one of this environment.",
                "Name the environment of your data, for example --env her2st.",
            )
        return _tissue(self._settings).section()


class SimulatedSlideDataset(_SimulatedDataset):
    """Load the simulated H&E image as a slide."""

    def load(self) -> Slide:
        tissue = _tissue(self._settings)
        rows, columns = tissue.image_shape[:2]
        image = tissue.render(0, 0, columns, rows)
        return Slide(ArrayPixels(image, f"{NAME}-{_digest(image)}"), NAME)


class SimulatedTruthDataset(_SimulatedDataset):
    """Load the tissue itself, which knows the expected expression at any place."""

    def load(self) -> SimulatedTissue:
        return _tissue(self._settings)


class SimulatedOutsDataset(AbstractDataset["SimulatedTissue", None]):
    """Write a simulated tissue as the `outs` folder of Space Ranger 2, with its full-resolution TIFF.

    A folder that exists is never replaced. Read it with the environment `own`.
    """

    def __init__(self, *, filepath: str, metadata: dict[str, Any] | None = None) -> None:
        self._filepath = Path(filepath)
        self.metadata = metadata

    def save(self, data: SimulatedTissue) -> None:
        from spamcaf.simulation.space_ranger import write_space_ranger

        write_space_ranger(data, self._filepath)

    def load(self) -> None:
        raise DatasetError("Read the folder as a section: kedro run --env own --params section=...,raw_root=...")

    def _exists(self) -> bool:
        return self._filepath.is_dir()

    def _describe(self) -> dict[str, Any]:
        return {"filepath": PurePosixPath(self._filepath)}


def _digest(image: NDArray[np.uint8]) -> str:
    import hashlib

    return hashlib.sha256(image.tobytes()).hexdigest()[:16]
