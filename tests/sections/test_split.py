"""Splits depend on barcodes, seed and mask alone, and every visible spot is validated once."""

from __future__ import annotations

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from spamcaf.names import Part
from spamcaf.parameters import SplitSettings
from spamcaf.sections.split import BARCODE, FOLD, NO_FOLD, PART, barcodes_of, split_spots

few = settings(max_examples=30, deadline=None)
sections = st.integers(25, 200).map(lambda n: [f"spot{i}" for i in range(n)])
seeds = st.integers(0, 2**31)


@few
@given(sections, seeds, st.integers(0, 9), st.data())
def test_order_of_the_spots_does_not_matter(names: list[str], seed: int, mask: int, data: st.DataObject) -> None:
    settings_ = SplitSettings(mask=mask)
    shuffled = data.draw(st.permutations(names))
    ours, theirs = split_spots(names, settings_, seed), split_spots(shuffled, settings_, seed)
    assert theirs[BARCODE].tolist() == shuffled
    pd.testing.assert_frame_equal(
        ours.sort_values(BARCODE, ignore_index=True), theirs.sort_values(BARCODE, ignore_index=True)
    )


@few
@given(sections, seeds, st.floats(0.05, 0.95), st.integers(2, 5))
def test_sizes_and_folds(names: list[str], seed: int, hidden_share: float, n_folds: int) -> None:
    split = split_spots(names, SplitSettings(hidden_share=hidden_share, n_folds=n_folds), seed)
    hidden, train = barcodes_of(split, Part.HIDDEN), barcodes_of(split, Part.TRAIN)
    assert sorted(hidden + train) == sorted(names)
    assert len(hidden) == min(max(round(len(names) * hidden_share), 1), len(names) - n_folds)
    assert (split.loc[split[PART] == Part.HIDDEN, FOLD] == NO_FOLD).all()
    sizes = split.loc[split[PART] == Part.TRAIN, FOLD].value_counts()
    assert sorted(sizes.index) == list(range(n_folds))
    assert sizes.max() - sizes.min() <= 1


@few
@given(sections, seeds)
def test_masks_and_seeds_and_sections_hide_different_spots(names: list[str], seed: int) -> None:
    hidden = {tuple(barcodes_of(split_spots(names, SplitSettings(mask=mask), seed), Part.HIDDEN)) for mask in range(5)}
    hidden.add(tuple(barcodes_of(split_spots(names, SplitSettings(), seed + 1), Part.HIDDEN)))
    assert len(hidden) == 6
    others = [f"other_{name}" for name in names]
    elsewhere = barcodes_of(split_spots(others, SplitSettings(), seed), Part.HIDDEN)
    assert [name.removeprefix("other_") for name in elsewhere] != barcodes_of(
        split_spots(names, SplitSettings(), seed), Part.HIDDEN
    )


def test_every_spot_is_hidden_by_some_mask() -> None:
    names = [f"spot{i}" for i in range(100)]
    hidden = [set(barcodes_of(split_spots(names, SplitSettings(mask=mask), 1), Part.HIDDEN)) for mask in range(20)]
    assert set.union(*hidden) == set(names)
    assert not set.intersection(*hidden)
