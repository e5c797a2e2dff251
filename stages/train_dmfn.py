"""Train DMFN, the dense multi-scale fusion network of report 3 (Hui et al. 2020).

The generator's loss is a sum of six terms, each with its weight as a parameter; a weight of 0
leaves that term out, and it alone. Everything is taken of the composited picture: the output under
the hole, elsewhere the truth. What is saved is a moving average of the generator's weights (`ema`;
0 saves the last ones, as the report did) and the discriminator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import field
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.images.holes import Kinds, validate_kinds
from stages.runs.params import STRICT, refuse_idle
from stages.training import ema
from stages.training.distributed import DistributedContext
from stages.training.params import Training
from stages.training.run import Inputs, Outputs, Run, run, seeded

if TYPE_CHECKING:
    from torch import Tensor, nn


Thing = TypeVar("Thing")
Pair = tuple[Thing, Thing]
Weight = Annotated[float, Field(ge=0)]
LAYERS = ("relu1_1", "relu2_1", "relu3_1", "relu4_1", "relu5_1")  # of VGG19
OF_VGG = ("self_guided", "vgg_matching", "alignment")  # the terms that need its features
TERMS = ("l1", *OF_VGG, "d_matching", "adversarial")


@dataclass(frozen=True, config=STRICT)
class Params(Training):
    holes: Kinds = field(  # kind, or a label -> options; drawn afresh. The report trained on boxes alone
        default_factory=lambda: {"eye_bar": {}, "random_box": {}}
    )
    batch: Annotated[int, Field(ge=2)] = 8  # pictures a step, over all devices
    width: Annotated[int, Field(ge=1)] = 64  # the generator's channels at full size
    blocks: Annotated[int, Field(ge=1)] = 8  # fusion blocks
    combine: Literal["dense", "sum"] = "dense"  # how a block joins its dilations: the paper, or its published code
    upsampling: Literal["transposed", "resize"] = "resize"  # how the decoder doubles: the report, or no chequers
    d_width: Annotated[int, Field(ge=1)] = 64  # the discriminator's channels after its first convolutions
    d_lr: Annotated[float, Field(gt=0)] | None = None  # the discriminator's learning rate; null: as `lr`
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5  # Adam's first decay
    beta2: Annotated[float, Field(ge=0, lt=1)] = 0.9  # Adam's second decay; 0.999 in the published code
    l1: Weight = 1.0  # weight of the mean absolute error over the whole picture
    self_guided: Weight = 25.0  # lambda: of self-guided regression
    vgg_matching: Weight = 25.0  # lambda too: of VGG feature matching
    d_matching: Weight = 5.0  # eta: of the discriminator's feature matching; 0, 2, 5 and 8 in the report
    adversarial: Weight = 0.003  # mu: of the relativistic average loss
    alignment: Weight = 1.0  # gamma: of geometrical alignment
    perceptual_weights: Literal["none", "imagenet", "random"] = "none"  # of VGG19; none leaves its three terms out

    def __post_init__(self) -> None:
        validate_kinds(self.holes)
        if not self.terms():
            raise ValueError(f"nothing to train by: give one of {', '.join(TERMS)} a weight")
        if self.perceptual_weights == "none":
            refuse_idle(self, "perceptual_weights: none", OF_VGG)
        elif not set(self.terms()) & set(OF_VGG):
            refuse_idle(self, f"{', '.join(OF_VGG)}: 0", ["perceptual_weights"])

    def terms(self) -> list[str]:
        """The terms of the generator's loss that count."""
        left_out = OF_VGG if self.perceptual_weights == "none" else ()
        return [name for name in TERMS if getattr(self, name) and name not in left_out]

    def shaping(self) -> dict[str, tuple[str, ...]]:
        return {"discriminator": ("d_width",)}


def train_dmfn(
    context: DistributedContext, inputs: Inputs, outputs: Outputs, params: Params, name: str
) -> Callable[[], None]:
    """Train both networks; `stages.training.run.run` says from what, what is written and what is returned.

    The history records the two parts of the discriminator's loss, l1, and every term that counts, all unweighted:
    with `perceptual_weights` none, self_guided, vgg_matching and alignment do not count. A sheet's
    rows: what was given, the network's output, the composite, the truth. On several devices each
    process takes the relativistic averages over its own part of the batch.

    Raises InputError for a size the network cannot take, an empty training split, a start of another
    shape, VGG19's weights asked for and not to be had, or a loss that is not finite.
    """
    import torch
    import torch.nn.functional as F

    import stages.losses.matching  # noqa: F401  # now: a Run is known by the code imported before it
    from stages.losses.adversarial import relativistic_discriminator_loss
    from stages.losses.perceptual import Features
    from stages.models.dmfn import DMFN, Discriminator
    from stages.training.examples import Examples
    from stages.training.training_set import training_set

    pictures = training_set(inputs, params, f"train_dmfn.{name}")
    examples = Examples(pictures, params.batch, params.holes, params.hflip, params.seed)
    size = pictures.size[0]
    chosen = ("width", "blocks", "combine", "upsampling")
    arguments: dict[str, Any] = {"size": size, **{key: getattr(params, key) for key in chosen}}
    with seeded(params.seed):
        network, discriminator = DMFN(**arguments), Discriminator(size, params.d_width)
    network, discriminator = context.place(network), context.place(discriminator)
    averaged = copy.deepcopy(network)
    betas = (params.beta1, params.beta2)
    g_adam = torch.optim.Adam(network.parameters(), params.lr, betas, fused=True)
    d_adam = torch.optim.Adam(discriminator.parameters(), params.d_lr or params.lr, betas, fused=True)
    parts = {
        "network": network,
        "averaged": averaged,
        "discriminator": discriminator,
        "g_adam": g_adam,
        "d_adam": d_adam,
    }
    vgg = (
        Features("vgg19", LAYERS, params.perceptual_weights, context.device)
        if set(params.terms()) & set(OF_VGG)
        else None
    )
    wrapped, wrapped_discriminator = context.wrap(network), context.wrap(discriminator)
    truth, holes = examples.shown(8, context)
    with Run(name, "dmfn", arguments, params, inputs, parts, examples, context) as training:
        for step in training.steps():
            image, hole = examples.batch(step, context)
            with context.autocast():
                completed = torch.where(hole, wrapped(image, hole).float(), image)
                real_logits, real_maps = wrapped_discriminator(image, hole)

            discriminator.requires_grad_(False)
            with context.autocast():
                fake_logits, fake_maps = discriminator(completed, hole)
                features = vgg_features(vgg, completed, image)
            maps = fake_maps, [of_layer.detach() for of_layer in real_maps]
            logits = fake_logits, real_logits.detach()
            g_loss, losses = generator_loss(params, (completed, image), logits, maps, features)
            g_adam.zero_grad()
            g_loss.backward()
            g_adam.step()
            discriminator.requires_grad_(True)

            # The discriminator learns from what the generator made before this step.
            with context.autocast():
                fake_logits, _ = wrapped_discriminator(completed.detach(), hole)
            d_loss, d_losses = relativistic_discriminator_loss(real_logits.float(), fake_logits.float())
            d_adam.zero_grad()
            d_loss.backward()
            d_adam.step()

            ema.average(averaged, network, ema.decay(params.ema, step))
            # Measured where it has no weight too: it tells how far the completion is off, whatever it is trained by.
            measured = {"l1": F.l1_loss(completed.detach(), image)}
            training.log(measured | losses | d_losses)
            if training.sheet_due():
                with torch.no_grad():
                    seen = averaged.eval()(truth, holes)
                training.sheet([truth.masked_fill(holes, -1), seen, torch.where(holes, seen, truth), truth])
        return training.finish(outputs, {"network": averaged, "discriminator": discriminator})


def vgg_features(vgg: nn.Module | None, completed: Tensor, image: Tensor) -> Pair[list[Tensor]] | None:
    """The features of `LAYERS` of both, the truth's without gradients; None where there is no network."""
    import torch

    if vgg is None:
        return None
    with torch.no_grad():
        truth = list(vgg(image).values())
    return list(vgg(completed).values()), truth


def generator_loss(
    params: Params,
    pictures: Pair[Tensor],
    logits: Pair[Tensor],
    maps: Pair[list[Tensor]],
    features: Pair[list[Tensor]] | None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms that count, and each of them before its weight.

    Everything comes in pairs, first the completed pictures', then the truth's: N x 3 x H x W, the
    discriminator's N logits, its local maps, and the features of `LAYERS`, which only the terms `OF_VGG` need.
    """
    import torch
    import torch.nn.functional as F

    from stages.losses import matching
    from stages.losses.adversarial import relativistic_generator_loss

    (completed, truth), (fake_logits, real_logits) = pictures, logits
    terms = {
        "l1": lambda: F.l1_loss(completed, truth),
        "d_matching": lambda: matching.feature_matching(*maps),
        "adversarial": lambda: relativistic_generator_loss(real_logits.float(), fake_logits.float()),
    }
    if features:
        output, target = features
        terms |= {
            "self_guided": lambda: matching.self_guided(matching.guidance(completed, truth), output[:2], target[:2]),
            "vgg_matching": lambda: matching.feature_matching(output, target),
            "alignment": lambda: matching.alignment(output[3], target[3]),
        }
    parts = {name: terms[name]() for name in params.terms()}
    return torch.stack([getattr(params, name) * part for name, part in parts.items()]).sum(), parts


if __name__ == "__main__":
    run(train_dmfn)
