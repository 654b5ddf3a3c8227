"""Keys change with everything that features depend on; rows are found by id; blocks join in order."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.histology.backbone import BackboneIdentity
from spamcaf.histology.features import FeatureKey, Features, join_blocks

IDENTITY = BackboneIdentity("tiny", "package:tiny/x", "a" * 64, "c", 4, "MIT")
VIEW: dict[str, object] = {"tile_um": 112.0, "mpp": 0.5}
XY = np.array([[1.0, 2.0], [3.0, 4.0]])
KEY = FeatureKey.of("slide", IDENTITY, VIEW, 400, ["a", "b"], XY)


def test_equal_inputs_have_equal_keys() -> None:
    assert FeatureKey.of("slide", IDENTITY, dict(reversed(VIEW.items())), 400, ["a", "b"], XY.copy()) == KEY
    assert FeatureKey.of("slide", IDENTITY, VIEW, 400, ["a", "b"], np.asfortranarray(XY)).short() == KEY.short()


@pytest.mark.parametrize(
    "other",
    [
        FeatureKey.of("other", IDENTITY, VIEW, 400, ["a", "b"], XY),
        FeatureKey.of("slide", replace(IDENTITY, weights_sha256="b" * 64), VIEW, 400, ["a", "b"], XY),
        FeatureKey.of("slide", IDENTITY, VIEW, 401, ["a", "b"], XY),
        FeatureKey.of("slide", replace(IDENTITY, configuration="d"), VIEW, 400, ["a", "b"], XY),
        FeatureKey.of("slide", replace(IDENTITY, name="big"), VIEW, 400, ["a", "b"], XY),
        FeatureKey.of("slide", IDENTITY, {**VIEW, "tile_um": 113.0}, 400, ["a", "b"], XY),
        FeatureKey.of("slide", IDENTITY, VIEW, 400, ["b", "a"], XY),
        FeatureKey.of("slide", IDENTITY, VIEW, 400, ["a", "b"], XY[:, ::-1]),
        FeatureKey.of("slide", IDENTITY, VIEW, 400, ["a", "b"], XY + 1e-9),
    ],
    ids=["slide", "weights", "window", "configuration", "backbone", "view", "ids", "swapped axes", "coordinates"],
)
def test_whatever_differs_makes_another_key(other: FeatureKey) -> None:
    assert other.text() != KEY.text()
    assert other.short() != KEY.short()


def block(start: int, ids: tuple[str, ...]) -> Features:
    windows = np.arange(start * 36, (start + len(ids)) * 36, dtype=np.float32).reshape(-1, 9, 4)
    return Features(ids, windows, np.arange(start, start + len(ids)), KEY, 5, start)


def test_blocks_join_by_start_in_any_order() -> None:
    whole = join_blocks([block(4, ("e",)), block(0, ("a", "b")), block(2, ("c", "d"))])
    assert whole.ids == ("a", "b", "c", "d", "e")
    np.testing.assert_array_equal(whole.windows.ravel(), np.arange(5 * 36))
    np.testing.assert_array_equal(whole.n_px_padded, np.arange(5))


def test_places_are_compared_not_names_alone() -> None:
    features = Features(("a", "b"), np.zeros((2, 9, 4), np.float32), np.zeros(2, np.int64), KEY, 2)
    features.require_sites(["a", "b"], XY.copy())
    with pytest.raises(InputError, match="other places"):
        features.require_sites(["a", "b"], XY + 0.5)


def test_rows_follow_the_ids_asked_for() -> None:
    whole = block(0, ("a", "b", "c"))
    assert whole.rows(["c", "a", "c"]).tolist() == [2, 0, 2]
    with pytest.raises(InputError, match="2 of 3 sites without features, such as x"):
        whole.rows(["x", "a", "y"])


def test_shrunk_windows_join_too() -> None:
    blocks = (block(2, ("c", "d")), block(0, ("a", "b")))
    joined = join_blocks([replace(part, whole=np.full((2, 4), part.start)) for part in blocks])
    assert joined.whole[:, 0].tolist() == [0, 0, 2, 2]
    assert join_blocks([block(0, ("a",))]).whole is None
