from __future__ import annotations

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.model.predict import predict
from spamcaf.model.released import FittedReleased, ReleasedModel
from spamcaf.model.trained import read_model
from spamcaf.parameters import ComputeSettings
from spamcaf.sections.sites import Measured


def _parts(released: FittedReleased) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return released.model.to_tensors(), released.model.metadata()


def test_a_model_read_back_predicts_the_same(
    released: FittedReleased, seen_whole: Measured, cpu: ComputeSettings
) -> None:
    again = read_model(*_parts(released))
    assert isinstance(again, ReleasedModel)
    assert again.settings == released.model.settings
    before, after = (predict(model, None, seen_whole.sites, cpu).mean for model in (released.model, again))
    np.testing.assert_array_equal(before, after)


def test_tensors_are_plain_arrays_and_metadata_texts(released: FittedReleased) -> None:
    tensors, metadata = _parts(released)
    assert all(isinstance(t, np.ndarray) and t.dtype == np.float32 and t.ndim > 0 for t in tensors.values())
    assert all(isinstance(value, str) for value in metadata.values())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda t, m: t.pop("genes.1.running_var"), r"missing \['genes.1.running_var'\]"),
        (lambda t, m: t.update(gate=np.zeros(3)), r"unknown \['gate'\]"),
        (lambda t, m: t.update({"genes.6.bias": t["genes.6.bias"][1:]}), "tensor genes.6.bias of shape"),
        (lambda t, m: t.update({"genes.6.bias": t["genes.6.bias"] * np.nan}), "NaN or Inf in tensor"),
        (lambda t, m: m.update(released_model="0"), "format '0'"),
    ],
)
def test_what_does_not_belong_together_is_refused(damage: object, message: str, released: FittedReleased) -> None:
    tensors, metadata = _parts(released)
    damage(tensors, metadata)  # type: ignore[operator]
    with pytest.raises(InputError, match=message):
        read_model(tensors, metadata)
