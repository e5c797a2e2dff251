"""DCGAN: Radford et al. 2016, as reports 1 (5x5 kernels, uniform prior) and 2 (4x4, normal) used it.

Pictures are float32 N x 3 x S x S in [-1, 1]; S is 4 times a power of two from 16 to 512. Channels
halve as the side doubles: at S = 64 and width 64 they are 512, 256, 128, 64 and 3.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stages.models.upsampling import to_rgb, upsample
from stages.runs.errors import InputError

PRIORS = ("uniform", "normal")


def doublings(size: int) -> int:
    """How often 4 doubles to `size`. Raises InputError for a size the network cannot take."""
    steps = (size // 4).bit_length() - 1
    if size < 16 or size > 512 or 4 << steps != size:
        raise InputError(f"a DCGAN takes pictures of 16, 32, 64, 128, 256 or 512 pixels, not {size}: set align.side")
    return steps


class Generator(nn.Module):
    """z (N x latent) -> pictures in [-1, 1]; a linear layer to 4 x 4, then doublings of the side.

    `upsampling` is `transposed`, as in the reports, with `kernel` 4 or 5, or `resize` (stages/models/upsampling.py).
    """

    def __init__(self, size: int, latent: int, width: int, kernel: int, upsampling: str = "transposed"):
        super().__init__()
        steps = doublings(size)
        channels = [width << (steps - 1 - i) for i in range(steps)]
        self.first = nn.Linear(latent, channels[0] * 16, bias=False)
        layers: list[nn.Module] = [nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]
        for in_channels, out_channels in pairwise(channels):
            layers.append(upsample(in_channels, out_channels, upsampling, kernel, bias=False))
            layers += [nn.BatchNorm2d(out_channels), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers, *to_rgb(channels[-1], upsampling, kernel), nn.Tanh())
        self.apply(_initialise)

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(self.first(z).unflatten(1, (-1, 4, 4)))


class Discriminator(nn.Module):
    """Pictures in [-1, 1] -> one logit each (N); stride-2 convolutions, no normalisation on the first.

    `norm` is `batch`, as in the reports, or `none`: then each picture is judged by itself, as R1 needs.
    """

    def __init__(self, size: int, width: int, kernel: int, norm: str = "batch"):
        super().__init__()
        steps = doublings(size)
        channels = [3] + [width << i for i in range(steps)]
        layers: list[nn.Module] = []
        for i, (in_channels, out_channels) in enumerate(pairwise(channels)):
            normed = bool(i) and norm == "batch"
            layers.append(_down(in_channels, out_channels, kernel, bias=not normed))
            layers += [nn.BatchNorm2d(out_channels)] if normed else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(channels[-1] * 16, 1)
        self.apply(_initialise)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.last(self.layers(pictures).flatten(1)).squeeze(1)


def _down(in_channels: int, out_channels: int, kernel: int, bias: bool) -> nn.Module:
    return nn.Conv2d(in_channels, out_channels, kernel, 2, {4: 1, 5: 2}[kernel], bias=bias)


def _initialise(module: nn.Module) -> None:
    """Radford et al. 2016, section 4: weights from N(0, 0.02); normalisation gains from N(1, 0.02)."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        nn.init.normal_(module.weight, 0.0, 0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1.0, 0.02)
        nn.init.zeros_(module.bias)


def sample_prior(count: int, latent: int, prior: str, rng: torch.Generator) -> Tensor:
    """`count` x `latent` float32 on the CPU: uniform in [-1, 1] (report 1) or standard normal (report 2)."""
    if prior == "uniform":
        return torch.rand(count, latent, generator=rng) * 2 - 1
    return torch.randn(count, latent, generator=rng)
