"""Context encoders: Pathak et al. 2016, with the encoders and the two objectives of report 4.

Pictures are float32 N x 3 x S x S in [-1, 1], S a multiple of 64 (256 in the report), and what is
missing lies in one box in their centre. Holes are bool N x 1 x S x S, True = missing. The network
predicts a patch that overlaps the known pixels around the box by a border. Where paper and report
leave a layer open (the kernels, the number of layers between two halvings) it is chosen here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock
from torchvision.models.vgg import make_layers

from stages.models.upsampling import to_rgb, upsample
from stages.runs.errors import InputError

OBJECTIVES = ("vae", "gan")
GRID = 4  # pixels a side of what the encoder ends in
SMALLEST = 8  # pixels a side of a patch


class Patch(NamedTuple):
    """What a context encoder predicts; mean and log_variance are N x latent, of a VAE alone."""

    pixels: Tensor  # N x 3 x P x P in [-1, 1], P = the box's side + 2 overlap
    mean: Tensor | None
    log_variance: Tensor | None


class ContextEncoder(nn.Module):
    """(image, hole) -> whole picture, N x 3 x S x S in [-1, 1]: the known pixels with the patch put over them.

    The encoder (`alexnet`, `vgg` or `resnet`, styles of `ENCODERS`) halves the picture to 4 x 4 of
    8 `width` features, a linear bottleneck makes `bottleneck` numbers of them, and layers that double
    the side a patch, tanh at the end. `upsampling` says how they double: `transposed`, as in the report
    (4 x 4, stride 2), or `resize` (stages/models/upsampling.py). The report's: S 256, width 64, bottleneck
    4000, fraction 0.25 and no overlap, whose decoder is 4 x 4 x 512 -> 64 x 64 x 3; Pathak's overlap is 7.

    The box has `fraction` of the picture's side (0.5: the frozen hole `centre`) and is always blanked,
    in training as in use, however small the hole in it; a hole that leaves it cannot be completed
    (`completes`). The patch is not composited: `overlap` pixels around the box are the network's too.

    With the objective `vae` two linear heads make a mean and a log-variance of the bottleneck (report 4,
    section 3.3); the decoder gets the mean, or mean + exp(log_variance / 2) noise (Kingma and Welling
    2014, eq. 10). `latent` is how many numbers of noise a picture takes: 0 with the objective `gan`,
    which has no heads and one completion.

    Raises InputError for a size, fraction or overlap it cannot take, and an encoder or objective it has not.
    """

    def __init__(
        self,
        size: int,
        encoder: str,
        objective: str,
        bottleneck: int,
        width: int,
        fraction: float = 0.5,
        overlap: int = 4,
        upsampling: str = "transposed",
    ):
        super().__init__()
        if encoder not in ENCODERS or objective not in OBJECTIVES:
            raise InputError(
                f"no context encoder '{encoder}', '{objective}': encoder is one of {', '.join(ENCODERS)}, "
                f"objective of {', '.join(OBJECTIVES)}"
            )
        if size < 64 or size % 64:
            raise InputError(f"a context encoder takes pictures of multiples of 64 pixels, not {size}: set align.side")
        self.size, self.overlap = size, overlap
        self.start, self.side = box(size, fraction)
        self.patch_side = self.side + 2 * overlap
        if overlap < 0 or self.start < overlap or self.side == size or self.patch_side < SMALLEST:
            raise InputError(
                f"a box of {self.side} pixels with {overlap} around it is no patch of {SMALLEST} pixels or more inside "
                f"a picture of {size} that leaves some known: set fraction and overlap"
            )
        self.latent = bottleneck if objective == "vae" else 0
        self.encoder = ENCODERS[encoder]([width << min(i, 3) for i in range(_doublings(size))])
        self.bottleneck = nn.Sequential(
            nn.Linear(8 * width * GRID**2, bottleneck, bias=False), nn.BatchNorm1d(bottleneck), nn.LeakyReLU(0.2)
        )
        if self.latent:
            self.mean, self.log_variance = nn.Linear(bottleneck, bottleneck), nn.Linear(bottleneck, bottleneck)
            # Variance 1 at first: one large draw would spoil the decoder's running statistics for long.
            nn.init.zeros_(self.log_variance.weight)
            nn.init.zeros_(self.log_variance.bias)
        self.decoder = _decoder(bottleneck, width, self.patch_side, upsampling)

    def forward(self, image: Tensor, hole: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._whole(image, hole, self.patch(image, hole, noise).pixels)

    def patch(self, image: Tensor, hole: Tensor, noise: Tensor | None = None) -> Patch:
        """The patch with its border; without `noise` (N x latent, standard normal) a VAE's is of the mean."""
        mean, log_variance = self._encode(image, hole)
        return Patch(self._decode(_draw(mean, log_variance, noise)), mean if self.latent else None, log_variance)

    def sample(self, image: Tensor, hole: Tensor, count: int, rng: torch.Generator) -> Tensor:
        """`count` completions of each picture drawn by a VAE: count x N x 3 x S x S, as `forward` gives them.

        `rng` is a CPU generator. Raises ValueError for the objective `gan`, which draws nothing.
        """
        if not self.latent:
            raise ValueError("only a VAE draws several completions")
        mean, log_variance = self._encode(image, hole)
        noises = torch.randn(count, len(image), self.latent, generator=rng).to(image.device)
        draws = (self._decode(_draw(mean, log_variance, noise)) for noise in noises)
        return torch.stack([self._whole(image, hole, pixels) for pixels in draws])

    def completes(self, hole: Tensor) -> Tensor:
        """Which holes lie within the box, bool N: what lies outside would stay blank."""
        return ~self._blanked(hole, 0).any(dim=3).any(dim=2).squeeze(1)

    def inner(self, pictures: Tensor) -> Tensor:
        """The pixels of whole pictures where the patch goes: N x C x S x S -> N x C x P x P."""
        span = self._span(self.overlap)
        return pictures[:, :, span, span]

    def _span(self, border: int) -> slice:
        return slice(self.start - border, self.start + self.side + border)

    def _blanked(self, pictures: Tensor, value: float) -> Tensor:
        pictures = pictures.clone()
        span = self._span(0)
        pictures[:, :, span, span] = value
        return pictures

    def _encode(self, image: Tensor, hole: Tensor) -> tuple[Tensor, Tensor | None]:
        features = self.encoder(self._blanked(_known(image, hole), 0))
        # Of sizes that are no power of two some features more are left.
        features = F.avg_pool2d(features, features.shape[-1] - GRID + 1, stride=1)
        code = self.bottleneck(features.flatten(1))
        return (self.mean(code), self.log_variance(code)) if self.latent else (code, None)

    def _decode(self, code: Tensor) -> Tensor:
        pixels = self.decoder(code)
        start = (pixels.shape[-1] - self.patch_side) // 2
        span = slice(start, start + self.patch_side)
        return pixels[:, :, span, span]

    def _whole(self, image: Tensor, hole: Tensor, pixels: Tensor) -> Tensor:
        whole = _known(image, hole)
        span = self._span(self.overlap)
        whole[:, :, span, span] = pixels.to(whole.dtype)
        return whole


class Discriminator(nn.Module):
    """Patches N x 3 x P x P in [-1, 1] -> one logit each (N): it sees nothing but the patch (Pathak et al. 2016).

    Stride-2 convolutions to 4 to 7 pixels, no normalisation on the first; channels double from `width` to
    8 times it. For P = 64 and width 64 the paper's: 64, 128, 256, 512 and a logit of 4 x 4.
    """

    def __init__(self, side: int, width: int):
        super().__init__()
        steps = _doublings(side)
        channels = [3, *(width << min(i, 3) for i in range(steps))]
        layers: list[nn.Module] = []
        for i, (in_channels, out_channels) in enumerate(pairwise(channels)):
            layers.append(nn.Conv2d(in_channels, out_channels, 4, 2, 1, bias=i == 0))
            layers += [nn.BatchNorm2d(out_channels)] if i else []
            layers.append(nn.LeakyReLU(0.2, inplace=True))
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(channels[-1] * (side >> steps) ** 2, 1)

    def forward(self, patches: Tensor) -> Tensor:
        return self.last(self.layers(patches).flatten(1)).squeeze(1)


def box(size: int, fraction: float) -> tuple[int, int]:
    """First pixel and side of the box: those of the hole `centre` (stages/images/holes.py) of that fraction."""
    side = max(1, round(fraction * size))
    return (size - side) // 2, side


def alexnet(channels: Sequence[int]) -> nn.Sequential:
    """One stride-2 convolution a halving, of AlexNet's kernels 11, 5, 3, 3, 3 (and 3 after), BN, LeakyReLU.

    Report 4: AlexNet "starts with a large kernel size"; layers and channels are otherwise its own.
    """
    layers: list[nn.Module] = []
    for i, (in_channels, out_channels) in enumerate(pairwise([3, *channels])):
        kernel = (11, 5, 3)[min(i, 2)]
        layers += [
            nn.Conv2d(in_channels, out_channels, kernel, 2, kernel // 2, bias=False),
            nn.BatchNorm2d(out_channels),
        ]
        layers.append(nn.LeakyReLU(0.2, inplace=True))
    return nn.Sequential(*layers)


def vgg(channels: Sequence[int]) -> nn.Sequential:
    """Two 3 x 3 convolutions with BN and ReLU, then max-pooling, a halving: VGG-13's blocks, by torchvision."""
    return make_layers([layer for channel in channels for layer in (channel, channel, "M")], batch_norm=True)


def resnet(channels: Sequence[int]) -> nn.Sequential:
    """A 3 x 3 convolution with stride 2, then two basic blocks a halving as in ResNet-18, by torchvision."""
    layers: list[nn.Module] = [nn.Conv2d(3, channels[0], 3, 2, 1, bias=False), nn.BatchNorm2d(channels[0])]
    layers.append(nn.ReLU(inplace=True))
    for in_channels, out_channels in pairwise(channels):
        shortcut = nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, 2, bias=False), nn.BatchNorm2d(out_channels))
        layers += [BasicBlock(in_channels, out_channels, 2, shortcut), BasicBlock(out_channels, out_channels)]
    return nn.Sequential(*layers)


# Channels after each halving -> a stack from N x 3 x S x S to the last channels at S / 2^len(channels).
ENCODERS: dict[str, Callable[[Sequence[int]], nn.Sequential]] = {"alexnet": alexnet, "vgg": vgg, "resnet": resnet}


def _decoder(bottleneck: int, width: int, side: int, upsampling: str) -> nn.Sequential:
    """N x bottleneck -> N x 3 x (side or a little more) twice, from a grid of 4 to 8 pixels a side."""
    steps = _doublings(side)
    grid = -(-side // 2**steps)  # rounded up: what is too much is cropped
    channels = [width << min(i, 3) for i in reversed(range(steps))]
    layers: list[nn.Module] = [nn.Linear(bottleneck, channels[0] * grid**2, bias=False)]
    layers += [nn.Unflatten(1, (channels[0], grid, grid)), nn.BatchNorm2d(channels[0]), nn.ReLU(inplace=True)]
    for in_channels, out_channels in pairwise(channels):
        layers += [
            upsample(in_channels, out_channels, upsampling, 4, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, *to_rgb(channels[-1], upsampling, 4), nn.Tanh())


def _doublings(side: int) -> int:
    """How often 4 doubles without passing `side`."""
    return (side // 4).bit_length() - 1


def _known(image: Tensor, hole: Tensor) -> Tensor:
    # Not a product: 0 times what lies under the hole is not 0 where that is no number.
    return image.masked_fill(hole, 0)


def _draw(mean: Tensor, log_variance: Tensor | None, noise: Tensor | None) -> Tensor:
    return mean if log_variance is None or noise is None else mean + (log_variance / 2).exp() * noise


Network = ContextEncoder
