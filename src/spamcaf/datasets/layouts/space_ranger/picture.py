"""The full-resolution image that lies beside a Space Ranger folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from spamcaf.datasets.layouts.beside import all_images, called, images_in, owner, passed_over, the_one
from spamcaf.datasets.layouts.listing import listing
from spamcaf.datasets.layouts.space_ranger.folder import sections_like
from spamcaf.datasets.layouts.space_ranger.matrix_file import matrices_in
from spamcaf.datasets.layouts.space_ranger.sample import bare, matching
from spamcaf.errors import InputError


def find_image(folders: Sequence[Path], section: str) -> Path:
    """Return the full-resolution image of `section`; raise InputError unless there is exactly one.

    `folders` belong to the section, the innermost first, each in the next. An image called as the section, or as its
    sample on GEO, comes first, then `*tissue_image.*` and `*full_image.*`, then `*image.*`; see `called`. Where other
    samples lie in the innermost folder, and above the last one, only names count that begin with the section's.
    """
    inner, above = folders[0], folders[-1].parent
    samples = matrices_in(inner)
    own = matching(samples, section) or list(samples)
    own = own if len(own) == 1 else []
    names = list(dict.fromkeys(filter(None, (section, *own, *map(bare, own)))))
    others = {name for name in samples if name not in own}
    rings = [(folder, others, len(samples) > 1) for folder in folders]
    for folder, of_others, is_shared in (*rings, (above, others | sections_like(above, section), True)):
        images = images_in(folder)
        free = [p for p in images if not is_shared and owner(p, (*names, *of_others), ()) is None]
        found = called([p for p in images if owner(p, names, of_others)], names, free)
        if found:
            return the_one(found, f"images that may be the full-resolution one of section '{section}'")
    every = [p for folder in (*folders, above) for p in all_images(folder) if folder != above or owner(p, names, ())]
    raise InputError(
        f"no full-resolution image of section '{section}' in {inner} or above it; it holds "
        f"{listing(inner, section)}{passed_over(every, section)}.",
        f"the image that Space Ranger was run on, such as {section}_full_image.tif; hires and lowres are thumbnails.",
        f"Put it into {inner}, or name it: --params image=<path>.",
    )
