"""The probe of HEST-Bench: ridge regression on 256 principal components of one tile's embedding.

As there, features are standardised one by one, the penalty is 100 / (components x genes), and there is no intercept:
predictions lack the mean of a gene, so that only correlations can be compared.

References
----------
.. [1] Jaume et al. (2024), HEST-1k: a dataset for spatial transcriptomics and histology image analysis, NeurIPS.
"""

from __future__ import annotations

import numpy as np

from spamcaf.parameters import ComputeSettings
from spamcaf.peers.frozen import DEFAULT_COMPUTE, Expression, target_features
from spamcaf.sections.sites import Measured, SiteSource

N_COMPONENTS = 256
PENALTY = 100.0


def predict(
    measured: Measured, sites: SiteSource, pitch_um: float, seed: int, compute: ComputeSettings = DEFAULT_COMPUTE
) -> Expression:
    """Return expression (site, gene) from the features of each site's own tile."""
    from sklearn.decomposition import PCA
    from sklearn.linear_model import Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features = measured.sites.target.astype(np.float64)
    n_components = min(N_COMPONENTS, len(measured) - 1, features.shape[1])
    penalty = PENALTY / (n_components * measured.expression.shape[1])
    probe = make_pipeline(
        StandardScaler(),
        PCA(n_components, random_state=seed),
        Ridge(alpha=penalty, fit_intercept=False, solver="lsqr", random_state=seed, max_iter=1000),
    ).fit(features, measured.expression)
    predicted: Expression = probe.predict(target_features(sites).astype(np.float64)).astype(np.float32)
    return predicted.reshape(len(sites), -1)
