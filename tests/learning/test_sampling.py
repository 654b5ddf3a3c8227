from __future__ import annotations

import numpy as np
import torch

from spamcaf.model.data import nearest, neighbours_leave_one_out, neighbours_same_section, select_visible

LINE_UM = np.stack([np.arange(6) * 100.0, np.zeros(6)], axis=1)


def test_nearest_come_first() -> None:
    found = nearest(np.array([[130.0, 0.0]]), LINE_UM, 3)
    assert found.tolist() == [[1, 2, 0]]


def test_nearest_are_no_more_than_there_are() -> None:
    assert nearest(LINE_UM[:2], LINE_UM[:1], 5).tolist() == [[0], [0]]


def test_a_spot_is_never_its_own_neighbour() -> None:
    found = neighbours_leave_one_out(LINE_UM, np.array([0, 1, 3, 4]), 2)
    assert all(spot not in row for spot, row in enumerate(found.tolist()))
    assert found[1].tolist() == [0, 3]
    assert sorted(found[2].tolist()) == [1, 3]


def test_spots_at_one_place_are_not_confused() -> None:
    twins = np.array([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    found = neighbours_leave_one_out(twins, np.arange(4), 2)
    assert all(spot not in row for spot, row in enumerate(found.tolist()))


def test_neighbours_are_of_ones_own_section_even_where_others_are_nearer() -> None:
    section = np.array([0, 1, 0, 1, 0, 0])
    index, is_near = neighbours_same_section(LINE_UM, section, np.arange(6), 3)
    assert index[0].tolist() == [2, 4, 5]
    assert is_near[0].all()
    assert index[1][is_near[1]].tolist() == [3]


def test_hidden_candidates_are_passed_over() -> None:
    candidates = torch.tensor([[3, 1, 2, 0], [0, 2, 1, 3]])
    is_visible = torch.tensor([True, False, True, False])
    index, seen = select_visible(candidates, is_visible[candidates], 3)
    assert index[:, :2].tolist() == [[2, 0], [0, 2]]
    assert seen.tolist() == [[True, True, False]] * 2
