from __future__ import annotations

import numpy as np

from spamcaf.model.data import fit_projection


def test_components_are_centred_ordered_and_share_one_scale() -> None:
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(200, 10)) * np.logspace(0, -3, 10) + 4).astype(np.float32)
    projection = fit_projection(features, 5)
    components = projection(features)
    rms_norm = components.var(axis=0, ddof=1)
    np.testing.assert_allclose(components.mean(axis=0), 0, atol=1e-4)
    assert np.all(np.diff(rms_norm) < 0)
    assert np.isclose(rms_norm.mean(), 1, rtol=1e-3)
    # One scale: the ratio of spreads is still that of the features' own directions.
    assert rms_norm[4] / rms_norm[0] < 1e-2


def test_windows_are_projected_like_their_tiles() -> None:
    features = np.random.default_rng(0).normal(size=(6, 9, 8)).astype(np.float32)
    projection = fit_projection(features.reshape(-1, 8), 3)
    np.testing.assert_allclose(projection(features)[:, 4], projection(features[:, 4]), atol=1e-6)


def test_no_more_components_than_the_data_have() -> None:
    features = np.random.default_rng(0).normal(size=(4, 30)).astype(np.float32)
    assert fit_projection(features, 64)(features).shape == (4, 4)
