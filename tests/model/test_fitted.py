from __future__ import annotations

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.model.fit import Fitted
from spamcaf.model.fitted import PROGRAM_COLUMNS, SpamcafModel, check_tensors, program_rows
from spamcaf.parameters import ComputeSettings
from spamcaf.peers.models import predict
from spamcaf.sections.sites import Measured


def _parts(fitted: Fitted) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    return fitted.model.to_tensors(), fitted.model.metadata()


def test_a_model_read_back_predicts_the_same(
    fitted: Fitted, visible: Measured, section: Measured, cpu: ComputeSettings
) -> None:
    again = SpamcafModel.from_tensors(*_parts(fitted))
    for context in (visible, None):
        before = predict(fitted.model, context, section.sites, cpu)
        after = predict(again, context, section.sites, cpu)
        np.testing.assert_array_equal(before.mean, after.mean)
        np.testing.assert_array_equal(before.sd, after.sd)


def test_tensors_are_plain_arrays_and_metadata_texts(fitted: Fitted) -> None:
    tensors, metadata = _parts(fitted)
    assert all(isinstance(t, np.ndarray) and t.dtype.kind in "fi" for t in tensors.values())
    assert all(isinstance(value, str) for value in metadata.values())


def test_a_missing_tensor_is_named(fitted: Fitted) -> None:
    tensors, metadata = _parts(fitted)
    del tensors["within_section.stacking.network_weight"]
    with pytest.raises(InputError, match=r"missing \['within_section.stacking.network_weight'\]"):
        SpamcafModel.from_tensors(tensors, metadata)


def test_an_unknown_tensor_is_named(fitted: Fitted) -> None:
    tensors, metadata = _parts(fitted)
    tensors["networks.0.gate"] = np.zeros(3)
    with pytest.raises(InputError, match=r"unknown \['networks.0.gate'\]"):
        SpamcafModel.from_tensors(tensors, metadata)


@pytest.mark.parametrize("name", ["programs.loadings", "networks.1.fusion_head.1.weight", "reference_spots.depth"])
def test_a_wrong_shape_is_named(fitted: Fitted, name: str) -> None:
    tensors, metadata = _parts(fitted)
    tensors[name] = tensors[name][1:]
    with pytest.raises(InputError, match=f"tensor {name} of shape"):
        SpamcafModel.from_tensors(tensors, metadata)


def test_numbers_must_be_finite(fitted: Fitted) -> None:
    tensors, metadata = _parts(fitted)
    tensors["programs.signal_fraction"] = tensors["programs.signal_fraction"] * np.nan
    with pytest.raises(InputError, match="NaN or Inf in tensor"):
        SpamcafModel.from_tensors(tensors, metadata)


def test_another_format_is_refused(fitted: Fitted) -> None:
    tensors, metadata = _parts(fitted)
    with pytest.raises(InputError, match="format '0'"):
        SpamcafModel.from_tensors(tensors, metadata | {"spamcaf_model": "0"})


def test_each_program_has_a_row_of_what_was_decided(fitted: Fitted) -> None:
    model = fitted.model
    rows = program_rows(model)
    assert [row["program"] for row in rows] == list(range(1 + len(model.programs)))
    assert all(tuple(row) == PROGRAM_COLUMNS for row in rows)
    last = rows[-1]
    assert last["signal_fraction"] == model.programs.signal_fraction[-1]
    assert last["within_section_network_weight"] == model.within_section.stacking.network_weight[-1]
    assert last["new_section_network_weight"] == model.new_section.stacking.network_weight[-1]
    kernels = [
        last[f"within_section_{k}"]
        for k in ("target", "neighbourhood", "matern_2", "matern_5", "exponential_3", "noise")
    ]
    assert kernels == pytest.approx(
        [
            *model.within_section.hyper.weights[len(model.programs)],
            model.within_section.hyper.noise[len(model.programs)],
        ],
        abs=0,
    )
    assert last["new_section_target"] == model.new_section.hyper.weights[-1, 0]
    assert last["new_section_noise"] == model.new_section.hyper.noise[len(model.programs)]


def test_counters_of_a_convolutional_backbone_s_blocks_are_whole_numbers() -> None:
    name = "networks.0.last_blocks.after.1.num_batches_tracked"
    check_tensors({name: np.array(7)}, {name: ()})
    with pytest.raises(InputError, match="of float64"):
        check_tensors({name: np.array(7.0)}, {name: ()})
