"""The parameters that the trainings of report 5's two networks share: fresh holes, and one of two losses.

By default the loss is the report's squared error and Adam's learning rate its default; Liu et al.'s six terms are a
parameter (`stages/losses/reconstruction.py`).
"""

from __future__ import annotations

from dataclasses import field
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images.holes import Kinds, validate_kinds
from stages.runs.params import STRICT, refuse_idle
from stages.training.params import Training


@dataclass(frozen=True, config=STRICT)
class ReconstructionParams(Training):
    """`Training` with holes and a loss; refused where a parameter would do nothing."""

    holes: Kinds = field(default_factory=lambda: {"lines": {}})  # kind, or a label -> options; drawn afresh
    lr: Annotated[float, Field(gt=0)] = 1e-3  # Adam's learning rate; the report's, 2e-4 in Liu et al.
    width: Annotated[int, Field(ge=1)] = 32  # channels of the first convolution; 32 in the report, 64 in Liu et al.
    loss: Literal["mse", "liu"] = "mse"  # mse in the report, liu's six terms in the paper
    hole_weight: Annotated[float, Field(gt=0)] = 1.0  # of pixels under the hole in mse; 1 in the report
    terms: dict[str, Annotated[float, Field(ge=0)]] = field(default_factory=dict)  # other weights than the paper's
    perceptual_weights: Literal["none", "imagenet", "random"] = "none"  # of VGG16, for liu

    def __post_init__(self) -> None:
        validate_kinds(self.holes)
        if self.loss == "mse":
            refuse_idle(self, "loss: mse", ["terms", "perceptual_weights"])
        else:
            refuse_idle(self, "loss: liu", ["hole_weight"])
            if self.terms.get("perceptual") == self.terms.get("style") == 0:
                refuse_idle(self, "terms: {perceptual: 0, style: 0}", ["perceptual_weights"])
