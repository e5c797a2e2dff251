"""Latent search against the naive loop, in one interleaved run:

    python tests/bench/bench_search.py --model data/models/dcgan.safetensors --aligned data/aligned/portraits

The naive loop is what the reports' code does: one picture, torch's default memory layout, gradients
into the weights too, a random z to start from, and a constant learning rate. Each measurement has a process of
its own, as the loop has where it is used: what one leaves in the allocator's heap speeds up the next.
Ratios are medians over rounds; times on a busy machine mean little.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.images.holes import draw, keyed_rng
from stages.images.table import Table
from stages.images.tensors import to_tensor
from stages.losses.latent import context_loss, context_weights, prior_loss
from stages.models.dcgan import sample_prior
from stages.runs.params import Runtime
from stages.search import Networks, Params, best_start, descend, draw_candidates, load_networks

BATCH = 32


def naive(networks: Networks, known: torch.Tensor, weights: torch.Tensor, iterations: int, lr: float, seed: int):
    """One picture (1 x 3 x S x S) the reports' way; yields the loss before each step."""
    z = sample_prior(1, networks.latent, networks.prior, torch.Generator().manual_seed(seed)).requires_grad_(True)
    adam = torch.optim.Adam([z], lr)
    plain = [network.to(memory_format=torch.contiguous_format).requires_grad_(True) for network in networks[:2]]
    for _ in range(iterations):
        output = plain[0](z)
        loss = context_loss(output, known, weights) + 0.003 * prior_loss(plain[1](output))
        adam.zero_grad()
        loss.sum().backward()
        adam.step()
        z.data.clamp_(-1, 1)
        yield loss.item()


def prepared(model: Path, aligned: Path) -> tuple[Networks, Tensor, Tensor]:
    """The networks, BATCH pictures and their context weights under a central hole."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    networks = load_networks(model, torch.device("cpu"))
    known = to_tensor(Table(aligned / "test.arrow").pictures(range(BATCH)), torch.device("cpu"))
    hole = torch.from_numpy(draw("centre", networks.size, keyed_rng(0, "bench"))).expand(BATCH, -1, -1)
    return networks, known, context_weights(hole)


def settings(iterations: int) -> Params:
    return Params(model="x", dataset="x", iterations=iterations, starts=256)


def throughput(method: str, model: Path, aligned: Path) -> float:
    """Picture-iterations a second, after a warming-up."""
    networks, known, weights = prepared(model, aligned)
    if method == "naive":
        loop = naive(networks, known[:1], weights[:1], 35, 0.01, 0)
        for _ in range(5):
            next(loop)
        start = time.perf_counter()
        return len(list(loop)) / (time.perf_counter() - start)
    first = torch.zeros(BATCH, networks.latent)
    descend(networks, known, weights, first, settings(3), Runtime(precision=method))
    start = time.perf_counter()
    descend(networks, known, weights, first, settings(12), Runtime(precision=method))
    return 12 * BATCH / (time.perf_counter() - start)


def naive_ends(model: Path, aligned: Path, count: int, iterations: int) -> tuple[float, float]:
    """Seconds a picture and the mean last loss of the first `count` pictures, one after the other."""
    networks, known, weights = prepared(model, aligned)
    start = time.perf_counter()
    ends = [list(naive(networks, known[i : i + 1], weights[i : i + 1], iterations, 0.01, i))[-1] for i in range(count)]
    return (time.perf_counter() - start) / count, sum(ends) / count


def batch_ends(precision: str, model: Path, aligned: Path, count: int, iterations: int) -> tuple[float, float]:
    """The same of a batch, its best starts included; the loss is fp32's, whatever the search ran in."""
    networks, known, weights = prepared(model, aligned)
    params, runtime = settings(iterations), Runtime(precision=precision)
    descend(networks, known, weights, torch.zeros(BATCH, networks.latent), settings(2), runtime)
    start = time.perf_counter()
    candidates = draw_candidates(networks, params, runtime, torch.device("cpu"))
    found = descend(networks, known, weights, best_start(known, weights, candidates), params, runtime)
    seconds = (time.perf_counter() - start) / BATCH
    last = descend(networks, known, weights, found.z, settings(1), Runtime())
    return seconds, last.losses[0][:count].mean().item()


def alone(function: Callable[..., Any], *arguments: object) -> Any:
    """`function(*arguments)` in a fresh process."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="a checkpoint of train_dcgan")
    parser.add_argument("--aligned", type=Path, required=True, help="a folder of data/aligned")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--iterations", type=int, default=1000, help="of the naive loop, for the time to a loss")
    parser.add_argument("--pictures", type=int, default=4, help="that the naive loop completes for it")
    options = parser.parse_args()
    given = options.model, options.aligned

    print(f"{'throughput, picture-iterations a second':44} median")
    rates = {method: [] for method in ("naive", "fp32", "bf16")}
    for _ in range(options.rounds):
        for method, values in rates.items():
            values.append(alone(throughput, method, *given))
    for name, values in rates.items():
        ratio = statistics.median(v / n for v, n in zip(values, rates["naive"], strict=True))
        goal = {"naive": "", "fp32": "goal >= 6", "bf16": "goal >= 10"}[name]
        print(f"{name:44} {statistics.median(values):8.1f}  {ratio:6.2f} x  {goal}")

    count = options.pictures
    print(f"\ntime to an equal or lower final fp32 loss, a picture, mean of {count}; best start included")
    slow, target = alone(naive_ends, *given, count, options.iterations)
    print(f"naive: {options.iterations} iterations at a constant learning rate: {slow:.1f} s, loss {target:.2f}")
    for precision in ("fp32", "bf16"):
        for iterations in (100, 150, 200, 250, 300, 400):
            seconds, loss = alone(batch_ends, precision, *given, count, iterations)
            print(f"{precision}, {iterations:4} iterations: {seconds:6.2f} s, loss {loss:.2f}, {slow / seconds:6.1f} x")
            if loss <= target:
                print(f"{precision}: reached: {slow / seconds:.1f} x (goal >= 20)")
                break


if __name__ == "__main__":
    main()
