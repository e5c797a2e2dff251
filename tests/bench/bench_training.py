"""A training step in bf16 against fp32, of the DCGAN and of DMFN, in one interleaved run:

    python tests/bench/bench_training.py [--size 64] [--width 32] [--d-width 32] [--batch 16]

The networks, losses and optimisers are those of the stages; pictures are noise, read from memory.
By default the shapes are the reports' where two cores can carry them: the DCGAN at 64 pixels, width
64 and batch 64, DMFN at a quarter of the report's side and half its width. Ratios are medians over
rounds; times on a busy machine mean little.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.losses.adversarial import (
    discriminator_loss,
    generator_loss,
    noisy_labels,
    relativistic_discriminator_loss,
)
from stages.models import dcgan, dmfn
from stages.runs.params import Runtime
from stages.train_dmfn import Params
from stages.train_dmfn import generator_loss as dmfn_loss
from stages.training.device import autocast, prepare

GOAL = 1.5


def adam(network: nn.Module, beta2: float) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), 2e-4, (0.5, beta2))


def noise(batch: int, size: int) -> Tensor:
    pictures = torch.rand(batch, 3, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return pictures.contiguous(memory_format=torch.channels_last)


def descend(loss: Tensor, optimiser: torch.optim.Adam) -> None:
    optimiser.zero_grad()
    loss.backward()
    optimiser.step()


def dcgan_step(runtime: Runtime, device: torch.device, size: int, width: int, batch: int) -> Callable[[], None]:
    """Report 1's: both networks' step, as in stages/train_dcgan.py."""
    nets = [dcgan.Generator(size, 100, width, 5), dcgan.Discriminator(size, width, 5)]
    generator, discriminator = (n.to(device, memory_format=torch.channels_last) for n in nets)  # type: ignore[call-overload]
    g_adam, d_adam = adam(generator, 0.999), adam(discriminator, 0.999)
    rng = torch.Generator().manual_seed(1)
    real, z = noise(batch, size).to(device), dcgan.sample_prior(batch, 100, "uniform", rng).to(device)
    labels = [labels.to(device) for labels in noisy_labels(batch, True, 0.0, rng)]

    def step() -> None:
        with autocast(runtime, device):
            fake = generator(z)
            logits = discriminator(real), discriminator(fake.detach())
        descend(discriminator_loss(logits[0].float(), logits[1].float(), *labels)[0], d_adam)
        discriminator.requires_grad_(False)
        with autocast(runtime, device):
            fake_logits = discriminator(fake)
        descend(generator_loss(fake_logits.float()), g_adam)
        discriminator.requires_grad_(True)

    return step


def dmfn_step(
    runtime: Runtime, device: torch.device, size: int, width: int, d_width: int, batch: int
) -> Callable[[], None]:
    """Report 3's without VGG's terms: both networks' step, as in stages/train_dmfn.py."""
    params = Params(dataset="none")
    nets = [dmfn.DMFN(size, width), dmfn.Discriminator(size, d_width)]
    network, discriminator = (n.to(device, memory_format=torch.channels_last) for n in nets)  # type: ignore[call-overload]
    g_adam, d_adam = adam(network, params.beta2), adam(discriminator, params.beta2)
    image, hole = noise(batch, size).to(device), torch.zeros(batch, 1, size, size, dtype=torch.bool, device=device)
    hole[:, :, size // 4 : size // 2, size // 4 : 3 * size // 4] = True

    def step() -> None:
        with autocast(runtime, device):
            completed = torch.where(hole, network(image, hole).float(), image)
            real, real_maps = discriminator(image, hole)
        discriminator.requires_grad_(False)
        with autocast(runtime, device):
            fake, fake_maps = discriminator(completed, hole)
        maps = fake_maps, [of_layer.detach() for of_layer in real_maps]
        descend(dmfn_loss(params, (completed, image), (fake, real.detach()), maps, None)[0], g_adam)
        discriminator.requires_grad_(True)
        with autocast(runtime, device):
            fake, _ = discriminator(completed.detach(), hole)
        descend(relativistic_discriminator_loss(real.float(), fake.float())[0], d_adam)

    return step


def seconds(step: Callable[[], None], times: int, device: torch.device) -> float:
    start = time.perf_counter()
    for _ in range(times):
        step()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=64, help="of DMFN's pictures; 256 in the report")
    parser.add_argument("--width", type=int, default=32, help="DMFN's; 64 in the report")
    parser.add_argument("--d-width", type=int, default=32, help="its discriminator's; 64 in the paper's code")
    parser.add_argument("--batch", type=int, default=16, help="DMFN's; 8 in the report")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=3, help="a round, of each side")
    options = parser.parse_args()

    runtimes = {
        name: Runtime(device=options.device, threads=options.threads, precision=name) for name in ("fp32", "bf16")
    }
    device = prepare(runtimes["fp32"])
    torch.manual_seed(0)
    shape = (options.size, options.width, options.d_width, options.batch)
    systems = {
        "DCGAN, 64 pixels, width 64, batch 64": lambda runtime: dcgan_step(runtime, device, 64, 64, 64),
        "DMFN, {} pixels, width {} and {}, batch {}".format(*shape): lambda r: dmfn_step(r, device, *shape),
    }
    print(f"{'seconds a step, and how much faster bf16 is':48} {'fp32':>8} {'bf16':>8} {'ratio':>8}")
    for name, build in systems.items():
        steps = {precision: build(runtime) for precision, runtime in runtimes.items()}
        times: dict[str, list[float]] = {precision: [] for precision in steps}
        for step in steps.values():
            seconds(step, 2, device)  # what is set up once
        for _ in range(options.rounds):
            for precision, step in steps.items():
                times[precision].append(seconds(step, options.steps, device))
        ratio = statistics.median(slow / fast for slow, fast in zip(times["fp32"], times["bf16"], strict=True))
        slow, fast = (statistics.median(values) for values in times.values())
        print(f"{name:48} {slow:8.3f} {fast:8.3f} {ratio:8.2f}  goal >= {GOAL}", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory of this process: {peak:.2f} GiB")


if __name__ == "__main__":
    main()
