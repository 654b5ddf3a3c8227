"""Check that an image belongs to the spots: they lie on tissue, and no shift, turn or scale of them fits better.

Agreement is the correlation, over lattice points with and without a spot, of "a spot is here" with "tissue is there".
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from spamcaf.errors import InputError
from spamcaf.histology.tissue import Tissue
from spamcaf.sections.lattice import Lattice

logger = logging.getLogger(__name__)

SWAPPED = "x and y swapped"
TURNS: dict[str, tuple[tuple[int, int], tuple[int, int]]] = {
    SWAPPED: ((0, 1), (1, 0)),
    "left and right exchanged": ((-1, 0), (0, 1)),
    "top and bottom exchanged": ((1, 0), (0, -1)),
    "a turn by 180 degrees": ((-1, 0), (0, -1)),
    "a turn by 90 degrees": ((0, 1), (-1, 0)),
    "a turn by 270 degrees": ((0, -1), (1, 0)),
    "x and y swapped, and a turn by 180 degrees": ((0, -1), (-1, 0)),
}
"""Matrices that (x, y), as a row, is multiplied with."""
IN_PLACE = " about the middle of the spots"
REACH = 3
"""Largest shift tried, in steps of the lattice."""
SAFE_SHARE, LOWEST_SHARE = 0.85, 0.5
"""Above the first share of spots on tissue an image is accepted where only these spots are known, below the second it
is refused, between them shifts decide. On her2st C2-C4 the right image holds all of the spots, others 0.18 to 0.73."""
CLEAR_GAIN = 0.1
"""A shift, orientation or scale fits clearly better when the agreement of spots and tissue is higher by this much."""
MATCH, MATCH_GAIN = 0.9, 0.05
"""An orientation also fits better with an agreement above the first, which chance does not reach, and higher by the
second. The right orientations of her2st have 0.93 to 0.97, of three DLPFC sections 0.80 to 0.95; others up to 0.79."""
GOOD, FAIR = 0.75, 0.6
"""Agreement that tells an orientation or a scale, and agreement below which the image of spots is in doubt."""
POOR_GAIN, SPOTS_OF_CHANCE = 0.01, 4
"""Below `FAIR`, a shift need be better by the first only, and by a few spots: among the images and spots of
three DLPFC sections and a mouse kidney wrong pairs have 0.07 to 0.45 and gain 0.02 or more, right ones gain nothing."""
HOPELESS = 0.15
"""Agreement below which an image is not of these spots, whatever a shift brings."""
MIRROR_GAIN = 0.02
"""By so much the given coordinates have to fit better than with x and y exchanged, where they mirror the array."""
MIN_OFF_TISSUE, MIN_OFF_SHARE = 20, 0.03
"""With fewer spots off the tissue, in all or for each spot under tissue, or fewer points on glass, an image cannot be
judged. The fullest of the DLPFC sections has 0.042."""
EQUAL_SHARE, SHIFT_GAIN = 0.005, 0.03
"""An orientation or scale does not fit better that brings fewer spots onto tissue, but for a few. Where spots off the
tissue are known, the second is a gain that no shift brings by chance."""
MAX_POINTS = 20_000
"""So many points with a spot, and so many without, are as good as all of them; Visium HD has hundreds of thousands."""
SCALES = np.exp(np.arange(np.log(0.2), np.log(25), 0.01))
"""Factors of the coordinates that are tried: pixels of a small image, micrometres, pixels of another level."""
OTHER_SCALE = 0.03
LIKENESS_PX, SAME_IMAGE, FLAT = 96, 0.9, 1.0
"""Size at which images are compared, the least correlation of brightness of two versions of one image, and the least
standard deviation, gray levels, of one that shows anything. Among four Visium sections the images of others have up to
0.66, and the image itself turned or mirrored up to 0.86."""
TRUST = "you know that they belong together: --params section_checks.trust_image=true"


def orientations(
    xy_px: NDArray[np.float64], size_px: tuple[float, float]
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float64]]]:
    """Return turn and shift of the seven other orientations by name: (x, y) becomes (x, y) @ turn + shift.

    Each is given twice, within the image of `size_px` (width, height) and about the middle of the spots, (spot, 2).
    """
    middle = (xy_px.min(axis=0) + xy_px.max(axis=0)) / 2
    turns = {name: np.array(rows) for name, rows in TURNS.items()}
    framed = {name: (turn, np.where(turn.sum(axis=0) < 0, size_px, 0.0)) for name, turn in turns.items()}
    return framed | {name + IN_PLACE: (turn, middle - middle @ turn) for name, turn in turns.items()}


def require_on_tissue(
    tissue: Tissue,
    xy_px: NDArray[np.float64],
    lattice: Lattice,
    off_px: NDArray[np.float64] | None = None,
    image: str = "the image",
    trust: bool = False,
) -> float:
    """Check that an image is that of the spots, and return the share of them that lies on tissue.

    Parameters
    ----------
    tissue
        What the image shows, found without the spots.
    xy_px, off_px
        (spot, 2), full-resolution pixels, the spots under tissue, and those off it by the source; without the latter,
        the empty lattice points around the spots are taken.
    image
        Name of the file, for messages.
    trust
        Warn where InputError would be raised: for the image of another section, turned, mirrored, or of another scale.
    """
    fit = _Fit(tissue, xy_px, lattice, off_px)
    if int((~tissue.holds(fit.points_px)).sum()) < MIN_OFF_TISSUE and fit.share >= SAFE_SHARE:
        logger.warning("%s shows no glass near the spots: whether it is their image cannot be checked", image)
        return fit.share
    better = [found for found in (_other_orientation(fit, image), _other_scale(fit, image)) if found is not None]
    problem = max(better, key=lambda found: found[0])[1] if better else _other_section(fit, image)
    if problem is not None:
        if not trust:
            raise problem
        logger.warning("trusted all the same (section_checks.trust_image): %s", problem)
    elif fit.shifted - fit.agreement > fit.chance:
        logger.warning(
            "agreement of spots and tissue in %s is %.2f, and %.2f after a small shift: make sure that it is the image "
            "of these spots, of which the source names %s off the tissue", image, fit.agreement, fit.shifted,
            "some" if fit.is_by_spots else "none",
        )  # fmt: skip
    return fit.share


def like_orientation(
    tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice, off_px: NDArray[np.float64] | None = None
) -> str | None:
    """Return the orientation of the spots that fits the tissue about as well as theirs; None where none does.

    Parameters as of `require_on_tissue`. Tissue that fills the image fits spots in every orientation.
    """
    fit = _Fit(tissue, xy_px, lattice, off_px)
    agreements = {name: agreement for name, (agreement, _) in fit.in_other_orientations().items()}
    name = max(agreements, key=agreements.__getitem__)
    return name if agreements[name] > fit.agreement - CLEAR_GAIN else None


def warn_of_other_image(
    thumbnail: NDArray[np.uint8], own: Mapping[str, NDArray[np.uint8]], image: str = "the image"
) -> bool:
    """Return whether the image is like one of the small images that came with the spots; warn of one that it is not.

    Parameters
    ----------
    thumbnail
        (row, column, 3) uint8, the full-resolution image shrunk.
    own
        The small images of the section by name (hires, lowres), (row, column, 3) uint8.
    image
        Name of the image file, for the message.
    """
    is_like = False
    for name, small in own.items():
        ours, theirs = (_brightness(each) for each in (thumbnail, small))
        if min(ours.std(), theirs.std()) < FLAT:  # a placeholder of one colour
            continue
        likeness = float(np.corrcoef(ours.ravel(), theirs.ravel())[0, 1])
        is_like |= likeness >= SAME_IMAGE
        if likeness < SAME_IMAGE:
            logger.warning(
                "%s does not look like the section's %s image (correlation %.2f): make sure that it is the image of "
                "these spots, in their orientation", image, name, likeness,
            )  # fmt: skip
    return is_like


def _brightness(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    from PIL import Image

    gray = Image.fromarray(np.ascontiguousarray(image)).convert("L")
    return np.asarray(gray.resize((LIKENESS_PX, LIKENESS_PX), Image.Resampling.BOX), np.float32)


def require_handedness(
    tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice, off_px: NDArray[np.float64] | None = None
) -> None:
    """Raise InputError unless coordinates that mirror the array fit the image clearly better than with x and y swapped.

    To be called where `lattice.mirrored`: an image may be mirrored on purpose, a position file may not have its columns
    exchanged, and tissue may look alike either way. Parameters as of `require_on_tissue`.
    """
    fit = _Fit(tissue, xy_px, lattice, off_px)
    swapped = fit.agreement_at(fit.points_px[:, ::-1])
    if swapped > fit.agreement - MIRROR_GAIN:
        raise InputError(
            "array rows and columns that are mirrored in the image; agreement of spots and tissue is "
            f"{fit.agreement:.2f}, and {swapped:.2f} with {SWAPPED}.",
            "an array that is not mirrored, or one that fits clearly better than with x and y exchanged.",
            "Exchange the two columns of the coordinates; or, if the image was mirrored on purpose: "
            "--params section_checks.allow_mirrored=true.",
        )


def _other_orientation(fit: _Fit, image: str) -> tuple[float, InputError] | None:
    """Return agreement and error where another orientation fits clearly better; the best one is named."""
    found = fit.in_other_orientations()
    name = max(found, key=found.__getitem__)
    agreement, share = found[name]
    gain = agreement - fit.agreement
    matches = agreement > MATCH and gain > MATCH_GAIN
    rescues = share > fit.share + CLEAR_GAIN and gain > CLEAR_GAIN
    is_clear = gain > CLEAR_GAIN and agreement > GOOD
    is_better = share >= max(SAFE_SHARE, fit.share - EQUAL_SHARE) and agreement > fit.shifted
    if not (is_better and (matches or rescues or is_clear)):
        return None
    return agreement, InputError(
        f"{fit.share:.0%} of the spots lie on tissue, but {share:.0%} with {name}; agreement of spots and tissue "
        f"in {image} is {fit.agreement:.2f}, and {agreement:.2f} so.",
        "the orientation that fits best.",
        f"Coordinates and image seem to differ by {name}: bring both into one orientation; or, if {TRUST}.",
    )


def _other_scale(fit: _Fit, image: str) -> tuple[float, InputError] | None:
    """Return agreement and error where coordinates times some factor fit the image, and as they are they do not."""
    if fit.agreement > GOOD:
        return None
    agreements = np.array([fit.agreement_at(fit.points_px * scale) for scale in SCALES])
    best = int(agreements.argmax())
    agreement = float(agreements[best])
    n_equal = int(np.argmin(np.append(agreements[best:], -1) == agreement))
    scale = float(SCALES[best + (n_equal - 1) // 2])  # neighbouring factors fit a coarse mask equally well
    share = float(fit.tissue.holds(fit.points_px[fit.has_spot] * scale).mean())
    is_better = agreement > max(GOOD, fit.shifted + CLEAR_GAIN) and share >= max(SAFE_SHARE, fit.share - EQUAL_SHARE)
    if not is_better or abs(scale - 1) < OTHER_SCALE:
        return None
    return agreement, InputError(
        f"spots that fit {image} once their coordinates are multiplied by about {scale:.3g}: agreement of spots and "
        f"tissue is {fit.agreement:.2f}, and {agreement:.2f} so.",
        "coordinates in pixels of the full-resolution image.",
        "The coordinates seem to be in micrometres, or in pixels of another image: bring them to full-resolution "
        f"pixels, or name the image that they belong to (--params image=<file>); or, if {TRUST}.",
    )


def _other_section(fit: _Fit, image: str) -> InputError | None:
    """Return the error where too few spots lie on tissue, or where a shift of the image would fit better."""
    gain = fit.shifted - fit.agreement
    is_poor = (fit.agreement < FAIR and gain > fit.chance) or fit.agreement < HOPELESS or gain > SHIFT_GAIN + fit.chance
    is_off = fit.share < LOWEST_SHARE or (fit.share < SAFE_SHARE and gain > CLEAR_GAIN)
    if not (is_off or (fit.is_by_spots and is_poor)):
        return None
    dx, dy = fit.shift_px
    return InputError(
        f"{fit.share:.0%} of the spots lie on tissue of {image}; agreement of spots and tissue is {fit.agreement:.2f}, "
        f"and {fit.shifted:.2f} with all spots moved by x {dx:+.0f}, y {dy:+.0f} px.",
        f"at least {SAFE_SHARE:.0%}, an agreement of {FAIR:g} or more, and no shift that fits better.",
        "The image is of another section, cut, or in another orientation than the coordinates: name the right one "
        f"(--params image=<file>); or, if spots on tissue were left out by hand, or {TRUST}.",
    )


class _Fit:
    """Fit of points with a spot, and without one, to the tissue mask.

    Without a spot are the spots off the tissue or, where too few are known, the empty lattice points around the spots.
    """

    def __init__(
        self, tissue: Tissue, xy_px: NDArray[np.float64], lattice: Lattice, off_px: NDArray[np.float64] | None
    ) -> None:
        self.tissue, self.xy_px = tissue, xy_px
        # the agreement with few spots off the tissue is chance
        self.is_by_spots = off_px is not None and len(off_px) >= max(MIN_OFF_TISSUE, MIN_OFF_SHARE * len(xy_px))
        others = off_px if off_px is not None and self.is_by_spots else _empty_points(xy_px, lattice)
        on, off = (points[:: -(-len(points) // MAX_POINTS) or 1] for points in (xy_px, others))
        self.points_px = np.concatenate([on, off])
        self.has_spot = np.arange(len(self.points_px)) < len(on)
        self.share = float(tissue.holds(xy_px).mean())
        self.agreement = self.agreement_at(self.points_px)
        self.shifted, self.shift_px = self._best_shift(lattice.basis_px)
        # by so much a shift may gain by chance
        self.chance = POOR_GAIN + SPOTS_OF_CHANCE / len(self.points_px)

    def agreement_at(self, points_px: NDArray[np.float64]) -> float:
        """Return the correlation of "a spot is here" with "tissue is there", the points having been moved."""
        on_tissue = self.tissue.holds(points_px)
        varies = 0 < on_tissue.sum() < len(on_tissue)
        return float(np.corrcoef(on_tissue, self.has_spot)[0, 1]) if varies else 0.0

    def in_other_orientations(self) -> dict[str, tuple[float, float]]:
        """Return agreement, and the share of spots on tissue, in each of the other orientations by name."""
        rows, columns = self.tissue.mask.shape
        size_px = (columns * self.tissue.px_per_mask_px, rows * self.tissue.px_per_mask_px)
        return {
            name: (
                self.agreement_at(self.points_px @ turn + shift),
                float(self.tissue.holds(self.xy_px @ turn + shift).mean()),
            )
            for name, (turn, shift) in orientations(self.xy_px, size_px).items()
        }

    def _best_shift(self, basis_px: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        """Return the agreement at the best shift by whole lattice vectors, and the shift (x, y), pixels."""
        reach = range(-REACH, REACH + 1)
        shifts = sorted(((i, j) for i in reach for j in reach), key=lambda steps: abs(steps[0]) + abs(steps[1]))
        agreements = [self.agreement_at(self.points_px + shift @ basis_px) for shift in shifts]
        best = int(np.argmax(agreements))  # the shortest of equally good ones
        return agreements[best], shifts[best] @ basis_px


def _empty_points(xy_px: NDArray[np.float64], lattice: Lattice) -> NDArray[np.float64]:
    """Return the lattice points in and around the spots that have none, (point, 2)."""
    steps = np.rint((xy_px - lattice.origin_px) @ np.linalg.inv(lattice.basis_px)).astype(int)
    low, high = steps.min(axis=0) - REACH, steps.max(axis=0) + REACH + 1
    grid = np.stack(np.meshgrid(*(np.arange(a, b) for a, b in zip(low, high, strict=True))), axis=-1).reshape(-1, 2)
    is_empty = ~np.isin(grid @ [1, 1 << 20], steps @ [1, 1 << 20])
    return grid[is_empty] @ lattice.basis_px + lattice.origin_px
