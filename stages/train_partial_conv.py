"""Train the partial-convolution U-Net of report 5 (Liu et al. 2018).

By default the loss is the report's squared error and Adam its default; Liu et al.'s six terms, and
their second stage (the encoder's normalisation frozen, the rate lowered), are parameters. What is
saved is a moving average of the weights (`ema`; 0 saves the last ones, as the report did).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images.holes import validate_kinds
from stages.runs import command
from stages.runs.params import STRICT, Runtime, Training

if TYPE_CHECKING:
    from stages.runs import training


@dataclass(frozen=True, config=STRICT)
class Params(Training):
    holes: dict[str, dict[str, Any]] = field(default_factory=lambda: {"lines": {}})  # kinds, drawn afresh: options
    rate: Annotated[float, Field(gt=0)] = 1e-3  # Adam's; the report's (its default), 2e-4 in the paper
    width: Annotated[int, Field(ge=1)] = 32  # channels at half the picture's side; 64 in the paper
    refine: Annotated[int, Field(ge=0)] = 0  # partial convolutions at full size before the last; none in the paper
    residual: bool = False  # the network corrects a smooth filling; not so in the paper
    loss: Literal["mse", "liu"] = "mse"  # mse in the report, liu's six terms in the paper
    hole_weight: Annotated[float, Field(gt=0)] = 1.0  # of pixels under the hole in mse; 1 in the report
    terms: dict[str, Annotated[float, Field(ge=0)]] = field(default_factory=dict)  # weights in place of the paper's
    perceptual_weights: Literal["none", "imagenet", "random"] = "none"  # of VGG16, for liu
    finetune_from: Annotated[float, Field(ge=0, le=1)] = 1.0  # share of the steps before the second stage; 1: none
    finetune_rate: Annotated[float, Field(gt=0)] = 5e-5  # Adam's in the second stage

    def __post_init__(self) -> None:
        validate_kinds(self.holes)
        idle = (self.terms or self.perceptual_weights != "none") if self.loss == "mse" else self.hole_weight != 1
        if idle:
            only = "terms and perceptual_weights are liu's" if self.loss == "mse" else "hole_weight is mse's"
            raise ValueError(f"loss: {self.loss}: {only}, and would do nothing")


def train_partial_conv(
    aligned: Path,
    start: Path,
    model: Path,
    members: Path,
    history: Path,
    samples: Path,
    params: Params,
    runtime: Runtime,
    name: str,
) -> Callable[[], None]:
    """Train on `aligned`/train.arrow; write checkpoint, members, history (CSV) and sample sheets.

    It goes on from the weights of the checkpoint `start`, or from random ones (training.NO_CHECKPOINT).

    A sheet's rows: what was given, the network's output, the composite, the truth. Returns what
    forgets the resume state, to be called once the outputs are in place.

    Raises InputError for a size the network cannot take, an empty training split, a `start` of another
    shape, perceptual terms without weights for them, or a loss that is not finite.
    """
    from stages.runs import training

    outputs = training.Outputs(model, members, history, samples)
    return training.launch(runtime, fit, training.Inputs(aligned, start), outputs, params, runtime, name)


def fit(
    team: training.Team,
    inputs: training.Inputs,
    outputs: training.Outputs,
    params: Params,
    runtime: Runtime,
    name: str,
) -> Callable[[], None]:
    """One process's part of the training; see `train_partial_conv`."""
    import torch

    from stages.images.examples import Examples
    from stages.losses import reconstruction
    from stages.models.partial_conv import PartialConvUNet
    from stages.runs import training

    table = training.training_split(inputs.aligned, f"train_partial_conv.{name}.dataset")
    examples = Examples(table, params.batch, params.holes, params.mirror, params.seed)
    shape = {"width": params.width, "refine": params.refine, "residual": params.residual}
    arguments: dict[str, Any] = {"size": table.size[0], **shape}
    with training.seeded(params.seed):
        network = PartialConvUNet(**arguments)
    objective = reconstruction.objective(
        params.loss, params.hole_weight, params.terms, params.perceptual_weights, team.device
    )
    network = team.place(network)
    averaged = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), params.rate, fused=True)
    # The second stage's own: it leaves the frozen parameters alone, whatever gradients they get.
    frozen = {id(parameter) for parameter in network.encoder_affine()}
    fine = torch.optim.Adam([p for p in network.parameters() if id(p) not in frozen], params.finetune_rate, fused=True)
    parts = {"network": network, "averaged": averaged, "adam": adam, "fine": fine}
    wrapped = team.wrap(network)
    truth, holes = examples.shown(8, team)
    with training.Run(name, "partial_conv", arguments, params, runtime, inputs, parts, examples.sampler, team) as run:
        for step in run.steps():
            second = step >= params.finetune_from * params.steps
            if second:
                network.freeze_encoder()
            image, hole = examples.batch(step, team)
            with team.autocast():
                output = wrapped(image, hole).float()
            loss, losses = objective(output, image, hole)
            network.zero_grad()
            loss.backward()
            (fine if second else adam).step()
            training.average(averaged, network, training.decay(params.ema, step))
            run.log(losses | reconstruction.errors(output, image, hole))
            if run.sheet_due():
                with torch.no_grad():
                    seen = averaged.eval()(truth, holes)
                run.sheet([truth.masked_fill(holes, -1), seen, reconstruction.composited(seen, truth, holes), truth])
        return run.finish(outputs, {"network": averaged})


if __name__ == "__main__":
    command.run(
        train_partial_conv,
        sections={"params": "train_partial_conv.{name}", "runtime": "runtime"},
        inputs=("aligned", "start"),
        outputs=("model", "members", "history", "samples"),
    )
