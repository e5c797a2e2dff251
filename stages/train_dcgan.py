"""Train a DCGAN with the tricks of report 1, each a parameter (Radford et al. 2016; Goodfellow et al. 2014).

By default the generator's loss is the non-saturating one, and the discriminator's labels are smoothed
at random and now and then flipped. What is saved is a moving average of the generator's weights
(`ema`; 0 saves the last weights, as the reports did) and the discriminator, both for latent search.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from stages.runs import command
from stages.runs.params import STRICT, Runtime


@dataclass(frozen=True, config=STRICT)
class Params:
    dataset: str  # the dataset whose training split it learns
    steps: Annotated[int, Field(ge=1)] = 600  # generator updates
    batch: Annotated[int, Field(ge=2)] = 64  # pictures a step
    width: Annotated[int, Field(ge=1)] = 64  # channels at half the picture's side; 64 in the reports
    kernel: Literal[4, 5] = 5  # pixels; 5 in report 1, 4 in report 2
    prior: Literal["uniform", "normal"] = "uniform"  # uniform in report 1, normal in report 2
    latent: Annotated[int, Field(ge=1)] = 100  # numbers in z
    rate: Annotated[float, Field(gt=0)] = 2e-4  # Adam's, for the generator
    d_rate: Annotated[float, Field(gt=0)] | None = None  # the discriminator's; null: as `rate`, as in the reports
    beta1: Annotated[float, Field(ge=0, lt=1)] = 0.5  # Adam's first decay
    saturating: bool = False  # the generator minimises log(1 - D); report 1 maximised log D
    smoothing: bool = True  # report 1: real labels in [0.7, 1.2], fake in [0, 0.3]
    flip: Annotated[float, Field(ge=0, le=1)] = 0.03  # report 1: share of labels flipped
    mirror: bool = True  # half of the pictures mirrored
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged generator; 0: no average
    seed: Annotated[int, Field(ge=0)] = 1
    log_every: Annotated[int, Field(ge=1)] = 10  # steps a row of history
    sample_every: Annotated[int, Field(ge=1)] = 200  # steps a sample sheet
    save_every: Annotated[int, Field(ge=1)] = 100  # steps between states for resuming


def train_dcgan(
    aligned: Path,
    model: Path,
    members: Path,
    history: Path,
    samples: Path,
    params: Params,
    runtime: Runtime,
    name: str,
) -> Callable[[], None]:
    """Train on `aligned`/train.arrow; write checkpoint, members, history (CSV) and sample sheets.

    Returns what forgets the resume state, to be called once the outputs are in place.

    Raises InputError for a size no DCGAN takes, an empty training split, or a loss that is not finite.
    """
    import torch

    from stages.images.tensors import to_tensor
    from stages.losses.adversarial import discriminator_loss, generator_loss, noisy_labels
    from stages.models.dcgan import Discriminator, Generator, sample_prior
    from stages.runs import checkpoint, record, training

    device = training.prepare(runtime)
    table = training.training_split(aligned, f"train_dcgan.{name}.dataset")
    sampler = training.Sampler(len(table), params.batch, params.seed)
    size = table.size[0]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(params.seed)
        shape = {"size": size, "latent": params.latent, "width": params.width, "kernel": params.kernel}
        generator = Generator(**shape)
        discriminator = Discriminator(size, params.width, params.kernel)
    generator = generator.to(device).to(memory_format=torch.channels_last).train()
    discriminator = discriminator.to(device).to(memory_format=torch.channels_last).train()
    averaged = copy.deepcopy(generator)
    betas = (params.beta1, 0.999)
    g_adam = torch.optim.Adam(generator.parameters(), params.rate, betas)
    d_adam = torch.optim.Adam(discriminator.parameters(), params.d_rate or params.rate, betas)

    inputs = {
        "network": "dcgan",
        "arguments": shape,
        "params": dataclasses.asdict(params),
        "runtime": dataclasses.asdict(runtime),
        "data": record.digest(aligned / "train.arrow"),
    }
    parts = {
        "generator": generator,
        "discriminator": discriminator,
        "averaged": averaged,
        "g_adam": g_adam,
        "d_adam": d_adam,
    }
    shown = sample_prior(64, params.latent, params.prior, training.generator(params.seed, 0)).to(device)
    with training.Run(name, parts, sampler, inputs, params.save_every) as run:
        for step in run.steps(params.steps):
            rng = training.generator(params.seed, 1, step)
            real = to_tensor(table.pictures(sampler.rows(step)), device)
            if params.mirror:
                flip = torch.rand(len(real), generator=rng) < 0.5
                real = torch.where(flip.to(device)[:, None, None, None], real.flip(3), real)
            real = real.contiguous(memory_format=torch.channels_last)
            real_labels, fake_labels = noisy_labels(params.batch, params.smoothing, params.flip, rng)
            z = sample_prior(params.batch, params.latent, params.prior, rng).to(device)

            with training.autocast(runtime, device):
                fake = generator(z)
                # Real and fake pass apart: batch normalisation must not tell them by their company.
                verdicts = discriminator(real), discriminator(fake.detach())
            d_loss, losses = discriminator_loss(
                verdicts[0].float(), verdicts[1].float(), real_labels.to(device), fake_labels.to(device)
            )
            d_adam.zero_grad()
            d_loss.backward()
            d_adam.step()

            discriminator.requires_grad_(False)
            with training.autocast(runtime, device):
                verdict = discriminator(fake)
            g_loss = generator_loss(verdict.float(), params.saturating)
            g_adam.zero_grad()
            g_loss.backward()
            g_adam.step()
            discriminator.requires_grad_(True)

            # The average forgets its start: a fixed decay would keep the untrained weights for long.
            training.average(averaged, generator, min(params.ema, (1 + step) / (10 + step)) if params.ema else 0.0)
            run.log({"g_loss": g_loss, **losses}, params.log_every)
            if (step + 1) % params.sample_every == 0 or step + 1 == params.steps:
                with torch.no_grad():
                    run.sheet(averaged.eval()(shown))
        inputs["members"] = training.write_members(members, table, sampler.seen)
        tensors = {f"generator.{key}": value for key, value in averaged.state_dict().items()}
        tensors |= {f"discriminator.{key}": value for key, value in discriminator.state_dict().items()}
        checkpoint.save(model, tensors, inputs)
        return run.finish(history, samples)


if __name__ == "__main__":
    command.run(
        train_dcgan,
        sections={"params": "train_dcgan.{name}", "runtime": "runtime"},
        inputs=("aligned",),
        outputs=("model", "members", "history", "samples"),
    )
