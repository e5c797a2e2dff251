"""Train a DCGAN with the tricks of report 1, each a parameter (Radford et al. 2016; Goodfellow et al. 2014).

By default the generator's loss is the non-saturating one, and the discriminator's labels are smoothed
at random and now and then flipped; beside that stands a modern objective, `hinge` with the R1 penalty.
What is saved is a moving average of the generator's weights (`ema`; 0 saves the last weights, as the
reports did) and the discriminator, both for latent search.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.runs.params import STRICT, refuse_idle
from stages.training import ema
from stages.training.device import keyed_generator
from stages.training.distributed import DistributedContext
from stages.training.params import Training
from stages.training.run import Inputs, Outputs, Run, run, seeded


@dataclass(frozen=True, config=STRICT)
class Params(Training):
    steps: Annotated[int, Field(ge=1)] = 600  # generator updates
    batch: Annotated[int, Field(ge=2)] = 64  # pictures a step
    width: Annotated[int, Field(ge=1)] = 64  # channels at half the picture's side; 64 in the reports
    kernel: Literal[4, 5] = 5  # pixels, of the discriminator and of `transposed`; 5 in report 1, 4 in report 2
    upsampling: Literal["transposed", "resize"] = "resize"  # how the generator doubles: the reports, or no chequers
    prior: Literal["uniform", "normal"] = "uniform"  # uniform in report 1, normal in report 2
    latent: Annotated[int, Field(ge=1)] = 100  # numbers in z
    d_width: Annotated[int, Field(ge=1)] | None = None  # the discriminator's channels; null: as `width`
    d_lr: Annotated[float, Field(gt=0)] | None = None  # the discriminator's learning rate; null: as `lr`
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5  # Adam's first decay
    objective: Literal["bce", "hinge"] = "bce"  # binary cross entropy, with report 1's labels, or hinge
    r1: Annotated[float, Field(ge=0)] = 0.0  # gamma of the R1 penalty; wants d_norm: none
    d_norm: Literal["batch", "none"] = "batch"  # the discriminator's normalisation
    saturating: bool = False  # the generator minimises log(1 - D); report 1 maximised log D
    label_smoothing: bool = True  # report 1: real labels in [0.7, 1.2], fake in [0, 0.3]
    label_flip: Annotated[float, Field(ge=0, le=1)] = 0.03  # report 1: share of labels flipped

    def __post_init__(self) -> None:
        if self.r1 and self.d_norm != "none":
            raise ValueError("r1: the penalty needs d_norm: none, a discriminator that judges each picture by itself")
        if self.objective == "hinge":
            refuse_idle(self, "objective: hinge", ["saturating", "label_flip"])

    def shaping(self) -> dict[str, tuple[str, ...]]:
        return {"generator": ("prior",), "discriminator": ("d_norm", "d_width")}


def train_dcgan(
    context: DistributedContext, inputs: Inputs, outputs: Outputs, params: Params, name: str
) -> Callable[[], None]:
    """Train both networks; `stages.training.run.run` says from what, what is written and what is returned.

    Raises InputError for a size no DCGAN takes, an empty training split, a start of another shape, or a
    loss that is not finite.
    """
    import torch

    from stages.losses import adversarial
    from stages.models.dcgan import Discriminator, Generator, sample_prior
    from stages.training.examples import Examples
    from stages.training.training_set import training_set

    pictures = training_set(inputs, params, f"train_dcgan.{name}")
    examples = Examples(pictures, params.batch, {}, params.hflip, params.seed)
    chosen = ("latent", "width", "kernel", "upsampling")
    shape = {"size": pictures.size[0], **{key: getattr(params, key) for key in chosen}}
    with seeded(params.seed):
        generator = Generator(**shape)
        discriminator = Discriminator(shape["size"], params.d_width or params.width, params.kernel, params.d_norm)
    generator, discriminator = context.place(generator), context.place(discriminator)
    averaged = copy.deepcopy(generator)
    betas = (params.beta1, 0.999)
    g_adam = torch.optim.Adam(generator.parameters(), params.lr, betas, fused=True)
    d_adam = torch.optim.Adam(discriminator.parameters(), params.d_lr or params.lr, betas, fused=True)
    parts = {
        "generator": generator,
        "discriminator": discriminator,
        "averaged": averaged,
        "g_adam": g_adam,
        "d_adam": d_adam,
    }
    wrapped_generator, wrapped_discriminator = context.wrap(generator), context.wrap(discriminator)
    shown = sample_prior(64, params.latent, params.prior, keyed_generator(params.seed, 0)).to(context.device)
    with Run(name, "dcgan", shape, params, inputs, parts, examples, context) as training:
        for step in training.steps():
            rng = keyed_generator(params.seed, 1, step)
            real, _ = examples.batch(step, context)
            labels = adversarial.noisy_labels(params.batch, params.label_smoothing, params.label_flip, rng)
            z = context.shard(sample_prior(params.batch, params.latent, params.prior, rng))

            with context.autocast():
                fake = wrapped_generator(z)
                # Real and fake pass apart: batch normalisation must not tell them by their company.
                real_logits = wrapped_discriminator(real).float()
                fake_logits = wrapped_discriminator(fake.detach()).float()
            if params.objective == "hinge":
                d_loss, losses = adversarial.discriminator_hinge(real_logits, fake_logits)
            else:
                shards = [context.shard(label) for label in labels]
                d_loss, losses = adversarial.discriminator_loss(real_logits, fake_logits, *shards)
            if params.r1:
                losses["r1"] = adversarial.gradient_penalty(discriminator, real)
                d_loss = d_loss + params.r1 * losses["r1"]
            d_adam.zero_grad()
            d_loss.backward()
            d_adam.step()

            discriminator.requires_grad_(False)
            with context.autocast():
                logits = discriminator(fake).float()
            hinge = params.objective == "hinge"
            g_loss = -logits.mean() if hinge else adversarial.generator_loss(logits, params.saturating)
            g_adam.zero_grad()
            g_loss.backward()
            g_adam.step()
            discriminator.requires_grad_(True)

            ema.average(averaged, generator, ema.decay(params.ema, step))
            training.log({"g_loss": g_loss, **losses})
            if training.sheet_due():
                with torch.no_grad():
                    training.sheet(averaged.eval()(shown).split(8))
        return training.finish(outputs, {"generator": averaged, "discriminator": discriminator})


if __name__ == "__main__":
    run(train_dcgan)
