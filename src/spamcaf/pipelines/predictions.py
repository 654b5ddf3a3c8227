"""What a model predicts, as an AnnData by the output contract."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spamcaf.names import Model
from spamcaf.reporting.prediction import build_prediction

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData
    from numpy.typing import NDArray

    from spamcaf.histology.tissue import Tissue
    from spamcaf.model.predict import Predicted
    from spamcaf.model.trained import TrainedModel


def as_prediction(
    predicted: Predicted,
    model: TrainedModel,
    genes: pd.DataFrame,
    sites: pd.DataFrame,
    n_px_padded: NDArray,
    section: AnnData,
    tissue: Tissue,
    divided: int,
) -> AnnData:
    """Return the prediction with the record of its model; the Gaussian process alone, where there is one, as a layer.

    `genes`, `sites`, `n_px_padded`, `section` and `divided` are those of `build_prediction`.
    """
    prediction = build_prediction(
        predicted.mean,
        predicted.sd,
        genes,
        sites,
        n_px_padded,
        section,
        tissue.thumbnail,
        tissue.px_per_mask_px,
        divided,
        model.record,
    )
    if predicted.process is not None:
        prediction.layers[Model.PROGRAM_GP] = predicted.process
    return prediction
