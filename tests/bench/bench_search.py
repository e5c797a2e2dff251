"""Latent search against the naive loop, in one interleaved run:

    python tests/bench/bench_search.py --model data/models/dcgan.safetensors --aligned data/aligned/portraits

The naive loop is what the reports' code does: one picture, torch's default memory layout, gradients
into the weights too, a random z to start from, and a constant rate. Ratios are medians over rounds;
times on a busy machine mean little.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from pathlib import Path

import torch

from stages.images.holes import draw, keyed_rng
from stages.images.table import Table
from stages.images.tensors import to_tensor
from stages.losses.latent import context_loss, context_weights, prior_loss
from stages.models.dcgan import Discriminator, Generator, sample_prior
from stages.runs.params import Runtime
from stages.search import Networks, Params, best_start, candidates, descend, load_networks

BATCH = 32


def naive(networks: Networks, known: torch.Tensor, weights: torch.Tensor, iterations: int, rate: float, seed: int):
    """One picture (1 x 3 x S x S) the reports' way; yields the loss before each step."""
    z = sample_prior(1, networks.latent, networks.prior, torch.Generator().manual_seed(seed)).requires_grad_(True)
    adam = torch.optim.Adam([z], rate)
    plain = [copy.deepcopy(n).to(memory_format=torch.contiguous_format).requires_grad_(True) for n in networks[:2]]
    for _ in range(iterations):
        output = plain[0](z)
        loss = context_loss(output, known, weights) + 0.003 * prior_loss(plain[1](output))
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
        z.data.clamp_(-1, 1)
        yield loss.item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="a checkpoint of train_dcgan; without one, untrained full-width networks")
    parser.add_argument(
        "--aligned", type=Path, help="a folder of data/aligned; without one, the networks' own pictures"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000, help="of the naive loop, for the time to a loss")
    parser.add_argument("--pictures", type=int, default=4, help="that the naive loop completes for it")
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
    if options.aligned:
        known = to_tensor(Table(options.aligned / "test.arrow").pictures(range(BATCH)), torch.device("cpu"))
    else:
        z = sample_prior(BATCH, networks.latent, networks.prior, torch.Generator().manual_seed(99))
        known = networks.generator(z)
    hole = torch.from_numpy(draw("centre", size, keyed_rng(0, "bench"))).expand(BATCH, -1, -1)
    weights = context_weights(hole)

    def begin(params: Params) -> torch.Tensor:
        return best_start(known, weights, candidates(networks, params, Runtime(), torch.device("cpu")))

    def settings(iterations: int) -> Params:
        return Params(model="x", dataset="x", iterations=iterations, starts=256)

    first = begin(settings(10))

    print(f"{'throughput, picture-iterations a second':44} median")
    rates: dict[str, list[float]] = {"naive": [], "fp32": [], "bf16": []}
    for _ in range(options.rounds):
        loop = naive(networks, known[:1], weights[:1], 11, 0.01, 0)
        next(loop)  # its own networks are copied here
        start = time.perf_counter()
        for _ in loop:
            pass
        rates["naive"].append(10 / (time.perf_counter() - start))
        for precision in ("fp32", "bf16"):
            start = time.perf_counter()
            descend(networks, known, weights, first, settings(10), Runtime(precision=precision))
            rates[precision].append(10 * BATCH / (time.perf_counter() - start))
    for name, values in rates.items():
        ratio = statistics.median(v / n for v, n in zip(values, rates["naive"], strict=True))
        goal = {"naive": "", "fp32": "goal >= 6", "bf16": "goal >= 10"}[name]
        print(f"{name:44} {statistics.median(values):8.1f}  {ratio:6.2f} x  {goal}")

    count = options.pictures
    print(f"\ntime to an equal or lower final fp32 loss, a picture, mean of {count}; best start included")
    start = time.perf_counter()
    ends = [
        list(naive(networks, known[i : i + 1], weights[i : i + 1], options.iterations, 0.01, i))[-1]
        for i in range(count)
    ]
    slow, target = (time.perf_counter() - start) / count, sum(ends) / count
    print(f"naive: {options.iterations} iterations at a constant rate: {slow:.1f} s, loss {target:.2f}")
    for precision in ("fp32", "bf16"):
        for iterations in (100, 150, 200, 250, 300, 400):
            start = time.perf_counter()
            params, runtime = settings(iterations), Runtime(precision=precision)
            found = descend(networks, known, weights, begin(params), params, runtime)
            seconds = (time.perf_counter() - start) / BATCH
            # The loss of the z found, in fp32 whatever the search ran in.
            last = descend(networks, known, weights, found.z, settings(1), Runtime())
            loss = last.losses[0][:count].mean().item()
            print(f"{precision}, {iterations:4} iterations: {seconds:6.2f} s, loss {loss:.2f}, {slow / seconds:6.1f} x")
            if loss <= target:
                print(f"{precision}: reached: {slow / seconds:.1f} x (goal >= 20)")
                break


if __name__ == "__main__":
    main()
