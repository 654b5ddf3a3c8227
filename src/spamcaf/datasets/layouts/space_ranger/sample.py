"""Which files of a folder belong to one sample: those of GEO begin with its name, those of Space Ranger with none."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger.folder import spatial_folder, visible
from spamcaf.errors import InputError
from spamcaf.names import SpaceRanger

SEPARATORS = "_. -"
PARTS = "|".join(map(re.escape, (SpaceRanger.SPATIAL, SpaceRanger.MATRIX_FOLDER)))
PREFIX = rf"(?P<sample>(?:.*?[{SEPARATORS}])??)(?:(?:{PARTS})[{SEPARATORS}])?"
"""The sample's name, and the folder's where a file was taken out of one."""
ACCESSION = re.compile(rf"GSM\d+[{SEPARATORS}]")
"""What GEO puts before the depositor's own name of a sample."""
POSITIONS = re.escape(SpaceRanger.POSITIONS_STEM) + r".*\.(?:csv|tsv|txt|parquet)(?:\.gz)?"


@dataclass(frozen=True)
class Sample:
    """The files of one section in `folder`, or in `spatial` in it.

    `name` is what they begin with, empty where they have the names that Space Ranger gave them; `section` is what the
    user calls the section. `is_alone` says that no other sample lies in the folder.
    """

    folder: Path
    name: str
    section: str
    is_alone: bool = True

    @property
    def places(self) -> list[Path]:
        """The folders in which spatial files may lie, the most specific first."""
        own = [p for p in visible(self.folder, f"*{SpaceRanger.SPATIAL}") if p.is_dir()]
        own = [p for p in own if self.name and sample_of(p.name, SpaceRanger.SPATIAL) == self.name]
        return list(dict.fromkeys((*own, spatial_folder(self.folder), self.folder)))

    def files(self, pattern: str) -> list[Path]:
        """Return the spatial files of the sample whose names match `pattern` after the prefix, those of one folder.

        Files of the sample's name come before those of the section's, and these before those without a prefix. Where
        there is one sample alone, its spatial files may also be called otherwise.
        """
        found: dict[str, dict[Path, list[Path]]] = {}
        for place in self.places:
            for path in visible(place, "*"):
                name = sample_of(path.name, pattern)
                if name is not None and path.is_file():
                    found.setdefault(name, {}).setdefault(place, []).append(path)
        name = next((name for name in (self.name, self.section, "") if name in found), None)
        if name is None and self.is_alone and len(found) == 1:
            name = next(iter(found))
        return [] if name is None else next(iter(found[name].values()))

    def missing(self, what: str, expected: str) -> InputError:
        """Return the error for a spatial file that is not there, which names what is."""
        of_sample = f" of {self.name}" if self.name else ""
        place = self.places[0]
        return InputError(
            f"no {what}{of_sample} in {place}, but {listing(place, self.name or self.section)}.",
            expected,
            f"Copy it from the Space Ranger output of this section, as {self.name}{'_' if self.name else ''}<name> or "
            "under its own name; unpack it where it is a tar.gz.",
        )


def sample_of(name: str, pattern: str) -> str | None:
    """Return what a file's name begins with before what matches `pattern`; None where nothing there does."""
    match = re.fullmatch(PREFIX + f"(?:{pattern})", name)
    return match["sample"].rstrip(SEPARATORS) if match else None


def matching(samples: Iterable[str], section: str) -> list[str]:
    """Return the samples that are `section` by the first rule that fits any.

    A sample called exactly so comes first; then one that is called so after GEO's accession number, and the one
    without a name; then those in whose name the section's stands between separators.
    """
    names = sorted(set(samples))
    between = re.compile(rf"(?:^|.*[{SEPARATORS}]){re.escape(section)}(?:[{SEPARATORS}].*|$)")
    rules = (
        [name for name in names if name == section],
        [name for name in names if not name or bare(name) == section],
        [name for name in names if between.fullmatch(name)],
    )
    return next((found for found in rules if found), [])


def bare(name: str) -> str:
    """Return a sample's name without GEO's accession number."""
    match = ACCESSION.match(name)
    return name[match.end() :] if match else name
