"""Train a context encoder: what is missing in the middle, from what is around it (Pathak et al. 2016; report 4).

Two objectives: `vae`, squared error and the divergence of the latent numbers from a standard normal,
and `gan`, squared error and a discriminator that sees the patch alone. What is saved is a moving
average of the weights (`ema`; 0 saves the last ones, as the report did).
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.runs.params import STRICT, refuse_idle
from stages.training import ema
from stages.training.device import keyed_generator
from stages.training.distributed import DistributedContext
from stages.training.params import Training
from stages.training.run import Inputs, Outputs, Run, run, seeded

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.models.context_encoder import ContextEncoder, Discriminator, Patch

Weight = Annotated[float, Field(ge=0)]


@dataclass(frozen=True, config=STRICT)
class Params(Training):
    batch: Annotated[int, Field(ge=2)] = 32  # pictures a step; 32 in the report
    lr: Annotated[float, Field(gt=0)] = 1e-3  # Adam's learning rate; Pathak: 2e-3 (ten times the discriminator's)
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.995  # decay of the averaged network that is saved
    encoder: Literal["alexnet", "vgg", "resnet"] = "resnet"  # in whose style; untrained at the start
    objective: Literal["vae", "gan"] = "vae"  # squared error with a divergence, or with a discriminator
    bottleneck: Annotated[int, Field(ge=1)] = 500  # latent numbers; 500, 2000 and 4000 in the report
    width: Annotated[int, Field(ge=1)] = 32  # channels of the first layers; an eighth of the last's, 64 in the report
    upsampling: Literal["transposed", "resize"] = "resize"  # how the decoder doubles: the report, or no chequers
    fraction: Annotated[float, Field(gt=0, lt=1)] = 0.5  # the missing box's side over the picture's; report: 0.25
    overlap: Annotated[int, Field(ge=0)] = 4  # pixels of known border that are predicted too; Pathak: 7
    overlap_weight: Weight = 10.0  # of squared error there; Pathak: 10
    kl: Weight = 0.1  # vae: weight of the divergence relative to the squared error, each summed per picture; report: 1
    reconstruction: Weight = 0.999  # gan: weight of mean squared error
    adversarial: Weight = 0.001  # gan: weight of the discriminator's log-loss
    lr_ratio: Annotated[float, Field(gt=0)] = 10.0  # gan: `lr` over the discriminator's
    d_width: Annotated[int, Field(ge=1)] | None = None  # the discriminator's channels; null: as `width`
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5  # Adam's first decay, of both

    def __post_init__(self) -> None:
        gan = ["reconstruction", "adversarial", "lr_ratio", "d_width"]
        refuse_idle(self, f"objective: {self.objective}", ["kl"] if self.objective == "gan" else gan)
        if self.overlap == 0:
            refuse_idle(self, "overlap: 0", ["overlap_weight"])

    def shaping(self) -> dict[str, tuple[str, ...]]:
        return {"discriminator": ("d_width",)}


def train_context_encoder(
    context: DistributedContext, inputs: Inputs, outputs: Outputs, params: Params, name: str
) -> Callable[[], None]:
    """Train the network; `stages.training.run.run` says from what, what is written and what is returned.

    A sheet's rows: what was given, the completion, of a VAE three more drawn ones, the truth.

    Raises InputError for a size, fraction or overlap the network cannot take, an empty training split, a
    start of another shape, or a loss that is not finite.
    """
    import torch

    from stages.losses.context_encoder import gan, overlap_weights, patch_sse, vae
    from stages.models.context_encoder import ContextEncoder, Discriminator
    from stages.training.examples import Examples
    from stages.training.training_set import training_set

    pictures = training_set(inputs, params, f"train_context_encoder.{name}")
    examples = Examples(pictures, params.batch, {"centre": {"fraction": params.fraction}}, params.hflip, params.seed)
    chosen = ("encoder", "objective", "bottleneck", "width", "fraction", "overlap", "upsampling")
    arguments = {"size": pictures.size[0], **{key: getattr(params, key) for key in chosen}}
    with seeded(params.seed):
        network = ContextEncoder(**arguments)
        discriminator = Discriminator(network.patch_side, params.d_width or params.width)
    network = context.place(network)
    averaged = copy.deepcopy(network)
    adam = torch.optim.Adam(network.parameters(), params.lr, (params.beta1, 0.999), fused=True)
    trainer = DiscriminatorTrainer(context, discriminator, params) if params.objective == "gan" else None
    parts = {"network": network, "averaged": averaged, "adam": adam, **(trainer.parts if trainer else {})}
    predict = shared(context, network)
    weights = overlap_weights(network.patch_side, params.overlap, params.overlap_weight).to(context.device)
    truth, holes = examples.shown(8, context)
    with Run(name, "context_encoder", arguments, params, inputs, parts, examples, context) as training:
        for step in training.steps():
            image, hole = examples.batch(step, context)
            target = network.inner(image)
            noise = torch.randn(params.batch, network.latent, generator=keyed_generator(params.seed, 1, step))
            with context.autocast():
                patch = predict(image, hole, context.shard(noise))
            pixels = patch.pixels.float()

            if trainer:
                d_loss = trainer.step(target, pixels.detach())
                logits = trainer.logits(pixels)
                loss, losses = gan(pixels, target, weights, logits, params.reconstruction, params.adversarial)
                losses["d_loss"] = d_loss
            else:
                assert patch.mean is not None
                assert patch.log_variance is not None
                mean, log_variance = patch.mean.float(), patch.log_variance.float()
                loss, losses = vae(pixels, target, weights, mean, log_variance, params.kl)
            adam.zero_grad()
            loss.backward()
            adam.step()

            ema.average(averaged, network, ema.decay(params.ema, step))
            training.log(losses | {"patch_sse": patch_sse(pixels.detach(), target, params.overlap).mean()})
            if training.sheet_due():
                training.sheet(_sheet(averaged.eval(), truth, holes, keyed_generator(params.seed, 2)))
        kept = {"network": averaged} | ({"discriminator": trainer.discriminator} if trainer else {})
        return training.finish(outputs, kept)


def shared(context: DistributedContext, network: ContextEncoder) -> Callable[..., Patch]:
    """`network.patch`, to be called for passes that train: its gradients are those of the whole context."""
    wrapped: Any = context.wrap(network)
    if context.size > 1:  # else only passes through `forward` would be joined
        wrapped.mark_forward_method("patch")
    return wrapped.patch


class DiscriminatorTrainer:
    """The discriminator and its training (Goodfellow et al. 2014, eq. 1; report 4, eq. 3)."""

    def __init__(self, context: DistributedContext, discriminator: Discriminator, params: Params):
        import torch

        self.context, self.discriminator = context, context.place(discriminator)
        lr = params.lr / params.lr_ratio
        self.adam = torch.optim.Adam(self.discriminator.parameters(), lr, (params.beta1, 0.999), fused=True)
        self.wrapped = context.wrap(self.discriminator)
        self.parts = {"discriminator": self.discriminator, "d_adam": self.adam}

    def step(self, real: Tensor, fake: Tensor) -> Tensor:
        """One step of the discriminator; its loss."""
        import torch

        from stages.losses.adversarial import discriminator_loss

        with self.context.autocast():
            # Real and fake pass apart: batch normalisation must not tell them by their company.
            real_logits, fake_logits = self.wrapped(real).float(), self.wrapped(fake).float()
        labels = torch.ones_like(real_logits), torch.zeros_like(fake_logits)
        loss, _ = discriminator_loss(real_logits, fake_logits, *labels)
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()
        return loss.detach()

    def logits(self, fake: Tensor) -> Tensor:
        """Logits for patches, whose gradients train what made them and not the discriminator."""
        self.discriminator.requires_grad_(False)
        with self.context.autocast():
            logits = self.discriminator(fake).float()
        self.discriminator.requires_grad_(True)
        return logits


def _sheet(network: ContextEncoder, truth: Tensor, holes: Tensor, rng: torch.Generator) -> list[Tensor]:
    """Rows: given, completed, three more drawn completions of a VAE, the truth."""
    import torch

    with torch.no_grad():
        completions = [network(truth, holes)]
        if network.latent:
            completions += network.sample(truth, holes, 3, rng)
    return [truth.masked_fill(holes, -1), *(torch.where(holes, whole, truth) for whole in completions), truth]


if __name__ == "__main__":
    run(train_context_encoder)
