"""A section without counts: its scale is stated by someone, and sites cover its image."""

from __future__ import annotations

import numpy as np
import pytest

from spamcaf.errors import InputError
from spamcaf.sections.sites import as_section, lay_sites, resolve_mpp


def test_the_users_word_comes_before_the_images() -> None:
    assert resolve_mpp(0.5, 0.25) == 0.5
    assert resolve_mpp(None, 0.25) == 0.25
    with pytest.raises(InputError, match=r"transfer\.mpp"):
        resolve_mpp(None, None)


def test_sites_cover_the_image_at_the_pitch_asked_for() -> None:
    sites = lay_sites((1000, 3000), mpp=0.5, pitch_um=100.0)
    assert len(sites) == 5 * 15
    assert sites["site_id"].is_unique
    xy = sites[["x_px", "y_px"]].to_numpy()
    assert (xy > 0).all() and (xy < (3000, 1000)).all()
    assert np.unique(np.diff(np.unique(xy[:, 0]))).tolist() == [200.0]


def test_the_section_has_places_and_facts_and_no_genes() -> None:
    section = as_section(lay_sites((1000, 3000), 0.5, 100.0), "S", 0.5, 100.0)
    assert section.shape == (75, 0)
    assert section.uns["section"]["mpp"] == 0.5
    assert section.obs["in_tissue"].eq(1).all()
    with pytest.raises(InputError, match="3 sites on tissue"):
        as_section(lay_sites((1000, 3000), 0.5, 100.0).iloc[:3], "S", 0.5, 100.0)
