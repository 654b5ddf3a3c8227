"""One entry of `backbones`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class BackboneSpec(BaseModel):
    """One entry of `backbones` in globals.yml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(
        description="hf-hub:<owner>/<model>, @<revision> to pin it; package:<module>/<file>; a local folder or file"
    )
    architecture: str = Field(description="name of the timm architecture")
    init: dict[str, Any] = Field(
        default_factory=dict, description="arguments of the architecture; a layer is SwiGLUPacked or SiLU"
    )
    width: int = Field(gt=0, description="features per tile")
    pooling: Literal["head", "class_and_mean"] = Field(
        "head", description="head: the network's own (class token, or mean of a convolutional map)"
    )
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    mpp: float | None = Field(None, gt=0, description="micrometres per pixel that it was trained at")
    licence: str = "unknown"
    sha256: str | None = Field(None, description="of the weight file; refused when it differs")
    naming: Literal["timm", "in_order", "dinov2", "timm_pretrained"] = Field(
        "timm",
        description="how the file names tensors: as timm does now; otherwise, in the same order; as transformers' "
        "Dinov2Model; as timm's own pretrained file of this name",
    )
