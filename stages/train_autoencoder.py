"""Train report 5's vanilla autoencoder, which is blind: it is not told where the hole is.

By default the loss is the report's squared error; Liu et al.'s six terms are a parameter, as for the
partial-convolution U-Net beside it. What is saved is a moving average of the weights (`ema`; 0 saves
the last ones, as the report did).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from stages.runs.params import STRICT
from stages.training import ema
from stages.training.distributed import DistributedContext
from stages.training.reconstruction_params import ReconstructionParams
from stages.training.run import Inputs, Outputs, Run, run, seeded


@dataclass(frozen=True, config=STRICT)
class Params(ReconstructionParams):
    upsampling: Literal["transposed", "resize"] = "resize"  # how the decoder doubles: the report, or no chequers


def train_autoencoder(
    context: DistributedContext, inputs: Inputs, outputs: Outputs, params: Params, name: str
) -> Callable[[], None]:
    """Train the network; `stages.training.run.run` says from what, what is written and what is returned.

    A sheet's rows: what was given, the network's output, the composite, the truth.

    Raises InputError for a size the network cannot take, an empty training split, a start of another
    shape, perceptual terms without weights for them, or a loss that is not finite.
    """
    import torch

    from stages.losses import reconstruction
    from stages.models.autoencoder import Autoencoder
    from stages.training.examples import Examples
    from stages.training.training_set import training_set

    pictures = training_set(inputs, params, f"train_autoencoder.{name}")
    examples = Examples(pictures, params.batch, params.holes, params.hflip, params.seed)
    arguments: dict[str, Any] = {"size": pictures.size[0], "width": params.width, "upsampling": params.upsampling}
    with seeded(params.seed):
        network = Autoencoder(**arguments)
    objective = reconstruction.objective(
        params.loss, params.hole_weight, params.terms, params.perceptual_weights, context.device
    )
    network = context.place(network)
    averaged = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), params.lr, fused=True)
    parts = {"network": network, "averaged": averaged, "adam": adam}
    wrapped = context.wrap(network)
    truth, holes = examples.shown(8, context)
    with Run(name, "autoencoder", arguments, params, inputs, parts, examples, context) as training:
        for step in training.steps():
            image, hole = examples.batch(step, context)
            with context.autocast():
                output = wrapped(image, hole).float()
            loss, losses = objective(output, image, hole)
            adam.zero_grad()
            loss.backward()
            adam.step()
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
    run(train_autoencoder)
