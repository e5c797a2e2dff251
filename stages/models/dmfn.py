"""DMFN, the dense multi-scale fusion network: Hui et al. 2020, as report 3 used it for eye bars.

Pictures are float32 N x 3 x S x S in [-1, 1]; S is a multiple of 4 from 16 on, 256 in the report.
Holes are bool N x 1 x S x S, True = missing. Where paper and report leave a layer open (the first
and the discriminator's 5 x 5 kernels, the decoder), it is as in the paper's published code.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stages.models.upsampling import upsample
from stages.runs.errors import InputError

DILATIONS = (1, 2, 4, 8)
COMBINATIONS = ("dense", "sum")


class DMFN(nn.Module):
    """(image, hole) -> whole picture, N x 3 x S x S in [-1, 1], not composited.

    An encoder of `width`, 2 and 4 `width` channels with two strides of 2, `blocks` fusion blocks
    and a decoder, tanh (Hui et al. 2020). The report's: width 64, 8 blocks, and a decoder that doubles the
    side by `transposed` convolutions (4 x 4, stride 2); `upsampling` may be `resize` instead
    (stages/models/upsampling.py). Pixels under the hole are zeroed first; the hole is the fourth channel.

    Raises InputError for a size it cannot take.
    """

    def __init__(
        self, size: int, width: int = 64, blocks: int = 8, combine: str = "dense", upsampling: str = "transposed"
    ):
        super().__init__()
        _check(size)
        self.layers = nn.Sequential(
            nn.Conv2d(4, width, 5, padding=2),
            nn.ReLU(inplace=True),
            *_normalised(_conv(width, 2 * width, 3, stride=2)),
            *_normalised(_conv(2 * width, 2 * width, 3)),
            *_normalised(_conv(2 * width, 4 * width, 3, stride=2)),
            *(FusionBlock(4 * width, combine) for _ in range(blocks)),
            *_normalised(_conv(4 * width, 4 * width, 3)),
            *_doubled(4 * width, 2 * width, upsampling),
            *_doubled(2 * width, width, upsampling),
            nn.Conv2d(width, 3, 3, padding=1),
            nn.Tanh(),
        )

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        known = image.masked_fill(hole, 0)  # no product: 0 times NaN is NaN
        return self.layers(torch.cat([known, hole.to(image.dtype)], 1))


class FusionBlock(nn.Module):
    """DMFB, Hui et al. 2020: N x C x H x W -> the same shape; C is a multiple of 4.

    A quarter of the channels is seen at four dilations, x1 to x4, and combined from near to far,
    each y a 3x3 convolution K of the y before plus the next x (`combine` = dense, the paper):
    y1 = x1, y2 = K2(x1 + x2), y3 = K3(y2 + x3), y4 = K4(y3 + x4). The published code has the
    plain sums without K (`sum`), and fuses by 3x3 where the paper has 1x1.
    """

    def __init__(self, channels: int, combine: str = "dense"):
        super().__init__()
        if combine not in COMBINATIONS:
            raise ValueError(f"combine must be dense or sum, not {combine}")
        quarter = channels // 4
        self.reduce = nn.Sequential(*_normalised(_conv(channels, quarter, 3)))
        self.branches = nn.ModuleList(_conv(quarter, quarter, 3, dilation=d) for d in DILATIONS)
        self.combine = nn.ModuleList(
            _conv(quarter, quarter, 3) if combine == "dense" else nn.Identity() for _ in DILATIONS[1:]
        )
        self.fuse = nn.Sequential(
            nn.InstanceNorm2d(channels),
            nn.ReLU(inplace=True),
            _conv(channels, channels, 1),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        reduced = self.reduce(x)
        first, *others = (branch(reduced) for branch in self.branches)
        scales = [first]
        for convolve, other in zip(self.combine, others, strict=True):
            scales.append(convolve(scales[-1] + other))
        return x + self.fuse(torch.cat(scales, 1))


class Discriminator(nn.Module):
    """(composited image, hole) -> (one logit each: N, the feature maps of the local branch).

    A global branch sees the picture and a local one the `crop` of half its side around the hole.
    Both are 5x5 stride-2 convolutions (BN, LeakyReLU 0.2) that end at 4 to 8 pixels, at 256 six and
    five of them, and a linear layer to 8 `width` numbers, 512 in the paper; one layer judges both.
    The feature maps, N x C x h x w after each local convolution, are for feature matching.
    """

    def __init__(self, size: int, width: int = 64):
        super().__init__()
        _check(size)
        self.whole, whole_numbers = _branch(size, width)
        self.local, local_numbers = _branch(size // 2, width)
        self.whole_last = nn.Linear(whole_numbers, 8 * width)
        self.local_last = nn.Linear(local_numbers, 8 * width)
        self.verdict = nn.Linear(16 * width, 1)

    def forward(self, image: Tensor, hole: Tensor) -> tuple[Tensor, list[Tensor]]:
        maps = [crop(image, hole)]
        for layer in self.local:
            maps.append(layer(maps[-1]))
        sides = [self.whole_last(self.whole(image).flatten(1)), self.local_last(maps[-1].flatten(1))]
        logits = self.verdict(nn.functional.leaky_relu(torch.cat(sides, 1), 0.2))
        return logits.squeeze(1), maps[1:]


def crop(image: Tensor, hole: Tensor) -> Tensor:
    """Half the side of each picture around its hole: N x C x H x W -> N x C x H/2 x W/2.

    The crop is centred on the bounding box of the hole and shifted inside the picture; of an empty
    hole it is the picture's centre. Exact pixels, nothing is scaled.
    """
    rows, columns = (
        _span(hole.squeeze(1).any(axis), side // 2) for axis, side in ((2, hole.shape[2]), (1, hole.shape[3]))
    )
    pictures = torch.arange(len(image), device=image.device)[:, None, None]
    return image.permute(0, 2, 3, 1)[pictures, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def _span(missing: Tensor, length: int) -> Tensor:
    """The `length` places around the True ones of each row, inside it: bool N x side -> int64 N x length."""
    side = missing.shape[1]
    # argmax finds the first of equals: of a row without a hole it is 0 both ways, so the whole row is the box.
    first = missing.byte().argmax(1)
    end = side - missing.flip(1).byte().argmax(1)
    start = ((first + end - length) // 2).clamp(0, side - length)
    return start[:, None] + torch.arange(length, device=missing.device)


def _conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    # Without a bias. A normalisation that follows at once would take it away again or, in the discriminator, has a
    # shift of its own. So would the one behind a fusion block's plain sums; but a dense block convolves once more
    # before it, with zeros around the picture, and a bias would show from the border on. It is left out all the same.
    return nn.Conv2d(in_channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


def _normalised(layer: nn.Conv2d) -> tuple[nn.Module, ...]:
    return layer, nn.InstanceNorm2d(layer.out_channels), nn.ReLU(inplace=True)


def _doubled(in_channels: int, out_channels: int, upsampling: str) -> tuple[nn.Module, ...]:
    return (
        upsample(in_channels, out_channels, upsampling, 4, bias=False),
        nn.InstanceNorm2d(out_channels),
        nn.ReLU(inplace=True),
        *_normalised(_conv(out_channels, out_channels, 3)),
    )


def _branch(size: int, width: int) -> tuple[nn.Sequential, int]:
    """Stride-2 convolutions from `size` down to 4 to 8 pixels, and how many numbers the last map has.

    Channels double from `width` up to 8 `width`.
    """
    steps = (size // 4).bit_length() - 1
    channels = [3] + [width << min(i, 3) for i in range(steps)]
    layers = [
        nn.Sequential(
            _conv(in_channels, out_channels, 5, stride=2), nn.BatchNorm2d(out_channels), nn.LeakyReLU(0.2, inplace=True)
        )
        for in_channels, out_channels in pairwise(channels)
    ]
    return nn.Sequential(*layers), channels[-1] * (-(-size // 2**steps)) ** 2


def _check(size: int) -> None:
    if size < 16 or size % 4:
        raise InputError(f"DMFN takes pictures of a multiple of 4 pixels, 16 or more, not {size}: set align.side")


Network = DMFN
