"""The tissue mask as a picture: thumbnail and mask in one PNG, with its scale."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from spamcaf.datasets.stored import StoredDataset
from spamcaf.histology.tissue import Tissue

if TYPE_CHECKING:
    from kedro_datasets._typing import ImagePreview

SCALE = "px_per_mask_px"


class TissueDataset(StoredDataset[Tissue, Tissue]):
    """Store the tissue as RGBA PNG: colours are the thumbnail's, opaque where there is tissue."""

    kind = "a tissue mask"

    def _read(self, path: Path) -> Tissue:
        from PIL import Image

        with Image.open(path) as image:
            pixels, scale = np.asarray(image.convert("RGBA")), float(image.info[SCALE])
        return Tissue(pixels[..., 3] > 0, pixels[..., :3].copy(), scale)

    def _write(self, data: Tissue, path: Path) -> None:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        record = PngInfo()
        record.add_text(SCALE, repr(float(data.px_per_mask_px)))
        pixels = np.dstack([data.thumbnail, np.where(data.mask, 255, 0).astype(np.uint8)])
        Image.fromarray(pixels).save(path, format="PNG", pnginfo=record)

    def preview(self) -> ImagePreview:
        """Show the picture."""
        return base64.b64encode(self._filepath.read_bytes()).decode()  # type: ignore[return-value]
