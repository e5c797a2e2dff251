"""Latent search against the naive loop, in one interleaved run: `python tests/bench/bench_search.py`.

The naive loop is what the reports' code does: one picture, gradients into the weights too, a new
random z, and a constant rate. Ratios are medians over rounds; times on a busy machine mean little.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch

from stages.images.holes import draw, keyed_rng
from stages.losses.latent import context_loss, context_weights, prior_loss
from stages.models.dcgan import Discriminator, Generator, sample_prior
from stages.runs.params import Runtime
from stages.search import Networks, Params, best_start, candidates, descend, load_networks

BATCH = 32


def naive(networks: Networks, known: torch.Tensor, weights: torch.Tensor, iterations: int, rate: float, seed: int):
    """One picture (1 x 3 x S x S) the reports' way; yields the loss before each step."""
    z = sample_prior(1, networks.latent, networks.prior, torch.Generator().manual_seed(seed)).requires_grad_(True)
    adam = torch.optim.Adam([z], rate)
    for module in networks[:2]:
        module.requires_grad_(True)
    for _ in range(iterations):
        output = networks.generator(z)
        loss = context_loss(output, known, weights) + 0.003 * prior_loss(networks.discriminator(output))
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
        z.data.clamp_(-1, 1)
        yield loss.item()
    for module in networks[:2]:
        module.requires_grad_(False).zero_grad()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint of train_dcgan; without one, untrained full-width networks")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000, help="of the naive loop, for the time to a loss")
    options = parser.parse_args()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    if options.model:
        networks = load_networks(options.model, torch.device("cpu"))
    else:
        nets = [Generator(64, 100, 64, 5), Discriminator(64, 64, 5)]
        nets[0].train()(torch.rand(64, 100) * 2 - 1)  # running statistics that mean something
        frozen = [n.eval().requires_grad_(False).to(memory_format=torch.channels_last) for n in nets]
        networks = Networks(frozen[0], frozen[1], 100, "uniform", 64)
    size = networks.size
    # The networks' own pictures: for these a loss near zero exists.
    z = sample_prior(BATCH, networks.latent, networks.prior, torch.Generator().manual_seed(99))
    known = networks.generator(z)
    hole = torch.from_numpy(draw("centre", size, keyed_rng(0, "bench"))).expand(BATCH, -1, -1)
    weights = context_weights(hole)

    def batched(precision: str, iterations: int):
        params = Params(model="x", dataset="x", iterations=iterations, starts=256)
        runtime = Runtime(precision=precision)
        start = best_start(known, weights, candidates(networks, params, runtime, torch.device("cpu")))
        return descend(networks, known, weights, start, params, runtime)

    print(f"{'throughput, picture-iterations a second':44} median")
    rates: dict[str, list[float]] = {"naive": [], "fp32": [], "bf16": []}
    for _ in range(options.rounds):
        start = time.perf_counter()
        for _ in naive(networks, known[:1], weights[:1], 10, 0.01, 0):
            pass
        rates["naive"].append(10 / (time.perf_counter() - start))
        for precision in ("fp32", "bf16"):
            start = time.perf_counter()
            batched(precision, 10)
            rates[precision].append(10 * BATCH / (time.perf_counter() - start))
    for name, values in rates.items():
        ratio = statistics.median(v / n for v, n in zip(values, rates["naive"], strict=True))
        goal = {"naive": "", "fp32": "goal >= 6", "bf16": "goal >= 10"}[name]
        print(f"{name:44} {statistics.median(values):8.1f}  {ratio:6.2f} x  {goal}")

    print("\ntime to an equal or lower final fp32 loss, a picture")
    start = time.perf_counter()
    *_, last = naive(networks, known[:1], weights[:1], options.iterations, 0.01, 0)
    slow = time.perf_counter() - start
    *_, other = naive(networks, known[1:2], weights[1:2], options.iterations, 0.01, 1)
    target = (last + other) / 2
    print(f"naive: {options.iterations} iterations at a constant rate: {slow:.1f} s, loss {target:.2f} (mean of two)")
    for iterations in (50, 75, 100, 150, 200, 300, 400):
        start = time.perf_counter()
        found = batched("fp32", iterations)
        seconds = (time.perf_counter() - start) / BATCH
        loss = found.losses[-1].mean().item()
        print(
            f"batched, {iterations:4} iterations: {seconds:6.2f} s, loss {loss:.2f}, {slow / seconds:6.1f} x",
            flush=True,
        )
        if loss <= target:
            print(f"reached: {slow / seconds:.1f} x (goal >= 20)")
            break


if __name__ == "__main__":
    main()
