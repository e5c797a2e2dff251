"""Train the partial-convolution U-Net of report 5 (Liu et al. 2018).

By default the loss is the report's squared error and Adam its default; Liu et al.'s six terms, and
their second stage (the encoder's normalisation frozen, the learning rate lowered), are parameters. What is
saved is a moving average of the weights (`ema`; 0 saves the last ones, as the report did).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.runs.params import STRICT, refuse_idle
from stages.training import ema
from stages.training.distributed import DistributedContext
from stages.training.reconstruction_params import ReconstructionParams
from stages.training.run import Inputs, Outputs, Run, run, seeded


@dataclass(frozen=True, config=STRICT)
class Params(ReconstructionParams):
    refine: Annotated[int, Field(ge=0)] = 0  # partial convolutions at full size before the last; none in the paper
    residual: bool = False  # the network corrects a smooth filling; not so in the paper
    finetune_from: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of the steps before the second stage; 1: none
    finetune_lr: Annotated[float, Field(gt=0)] = 5e-5  # Adam's learning rate in the second stage

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.finetune_from == 1:
            refuse_idle(self, "finetune_from: 1", ["finetune_lr"])


def train_partial_conv(
    context: DistributedContext, inputs: Inputs, outputs: Outputs, params: Params, name: str
) -> Callable[[], None]:
    """Train the network; `stages.training.run.run` says from what, what is written and what is returned.

    A sheet's rows: what was given, the network's output, the composite, the truth.

    Raises InputError for a size the network cannot take, an empty training split, a start of another
    shape, perceptual terms without weights for them, or a loss that is not finite.
    """
    import torch

    from stages.losses import reconstruction
    from stages.models.partial_conv import PartialConvUNet
    from stages.training.examples import Examples
    from stages.training.training_set import training_set

    pictures = training_set(inputs, params, f"train_partial_conv.{name}")
    examples = Examples(pictures, params.batch, params.holes, params.hflip, params.seed)
    shape = {"width": params.width, "refine": params.refine, "residual": params.residual}
    arguments: dict[str, Any] = {"size": pictures.size[0], **shape}
    with seeded(params.seed):
        network = PartialConvUNet(**arguments)
    objective = reconstruction.objective(
        params.loss, params.hole_weight, params.terms, params.perceptual_weights, context.device
    )
    network = context.place(network)
    averaged = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), params.lr, fused=True)
    # The second stage's own: it leaves the frozen parameters alone, whatever gradients they get.
    frozen = {id(parameter) for parameter in network.encoder_affine()}
    fine = torch.optim.Adam([p for p in network.parameters() if id(p) not in frozen], params.finetune_lr, fused=True)
    parts = {"network": network, "averaged": averaged, "adam": adam, "fine": fine}
    wrapped = context.wrap(network)
    truth, holes = examples.shown(8, context)
    with Run(name, "partial_conv", arguments, params, inputs, parts, examples, context) as training:
        for step in training.steps():
            second = step >= params.finetune_from * params.steps
            if second:
                network.freeze_encoder()
            image, hole = examples.batch(step, context)
            with context.autocast():
                output = wrapped(image, hole).float()
            loss, losses = objective(output, image, hole)
            network.zero_grad()
            loss.backward()
            (fine if second else adam).step()
            ema.average(averaged, network, ema.decay(params.ema, step))
            training.log(losses | reconstruction.errors(output, image, hole))
            if training.sheet_due():
                with torch.no_grad():
                    seen = averaged.eval()(truth, holes)
                training.sheet(
                    [truth.masked_fill(holes, -1), seen, reconstruction.composited(seen, truth, holes), truth]
                )
        return training.finish(outputs, {"network": averaged})


if __name__ == "__main__":
    run(train_partial_conv)
