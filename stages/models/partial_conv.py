"""Partial convolutions and their U-Net: Liu et al. 2018, Image Inpainting for Irregular Holes (report 5).

The paper's mask M is 1 where a value is valid: here `valid`. Inside the network it is a float of 0
and 1, and one channel stands for every group of features that share a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from stages.runs.errors import InputError

KERNELS = (7, 5, 5)  # of the encoder's first convolutions; 3 in all others
DEEPEST = 8  # halvings in the paper, from 512 pixels to 2
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}  # the whole number of as many bytes


class PartialConv2d(nn.Conv2d):
    """x' = W (X * M) * k^2 C_in / sum(M) + b where sum(M) > 0, else 0; M' = 1 where sum(M) > 0 (eq. 1 and 2).

    Called with (x, valid): x is N x C_in x H x W; valid, bool or of 0 and 1, is N x 1 x H x W, 1 =
    known, for all channels at once. After a concatenation each part keeps its own mask: valid is
    N x G x H x W and `groups_of_channels` says how many channels belong to each of its G channels.
    Returns (x', M'), M' N x 1 x H' x W' of `valid`'s type. Zero padding counts as invalid; under a
    fully valid mask it is a Conv2d wherever the window lies inside the image. Invalid values are never read, be they
    NaN, and have no gradient.

    sum(M) counts every channel, as in the paper; the published code's default has one mask channel,
    which after a concatenation lets the first part's mask stand for both.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 0,
        bias: bool = True,
        groups_of_channels: Sequence[int] | None = None,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, bias=bias)
        self.window_sum = nn.AvgPool2d(kernel_size, stride, padding, divisor_override=1)
        self.groups_of_channels = tuple(groups_of_channels or (in_channels,))
        if sum(self.groups_of_channels) != in_channels:
            raise ValueError(f"groups of {self.groups_of_channels} channels are not {in_channels} in all")

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        known = Masked.apply(x, valid, self.groups_of_channels)
        raw = F.conv2d(known, self.weight, None, self.stride, self.padding)
        # At least float32, autocast or not: bfloat16 would round counts above 256.
        counts = self._counts(valid.to(torch.promote_types(raw.dtype, torch.float32)))
        some = counts > 0
        window = self.weight[0].numel()  # k^2 C_in
        scale = torch.where(some, window / counts.clamp(min=1), 0).to(raw.dtype)
        output = raw * scale
        if self.bias is not None:
            output = torch.where(some, output + self.bias[:, None, None], 0)
        return output, some.to(valid.dtype)

    @torch.no_grad()
    def _counts(self, valid: Tensor) -> Tensor:
        """Valid values in each window over all channels: N x 1 x H' x W' of `valid`'s type, exact from float32 on.

        The sum over the window is that of one plane, in which each mask counts for its group's channels.
        """
        plane = sum(channels * mask for channels, mask in zip(self.groups_of_channels, valid.split(1, 1), strict=True))
        # Not a convolution with ones, which autocast would take to bfloat16 and so round.
        return self.window_sum(plane)


class Masked(torch.autograd.Function):
    """X where M is 1, else 0, each group of channels by its mask: in one pass, where split and concatenate copy twice.

    The bits of X and those of M, all 0 or all 1, are joined by `and`: zero then comes of NaN too, which a product does
    not give, and it takes no longer than a product, where `torch.where` takes four to eight times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, valid: Tensor, groups_of_channels: tuple[int, ...]) -> Tensor:
        bits = -valid.to(BITS[x.element_size()])
        ctx.save_for_backward(bits)
        ctx.groups_of_channels = groups_of_channels
        return Masked._and(x, bits, groups_of_channels)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (bits,) = ctx.saved_tensors
        return Masked._and(gradient, bits, ctx.groups_of_channels), None, None

    @staticmethod
    def _and(x: Tensor, bits: Tensor, groups_of_channels: tuple[int, ...]) -> Tensor:
        masked = torch.empty_like(x)
        groups = (tensor.view(bits.dtype).split(groups_of_channels, 1) for tensor in (x, masked))
        for part, out, mask in zip(*groups, bits.split(1, 1), strict=True):
            torch.bitwise_and(part, mask, out=out)
        return masked


class Block(nn.Module):
    """A partial convolution, batch normalisation where `norm`, and ReLU (slope 0) or LeakyReLU."""

    def __init__(self, convolution: PartialConv2d, norm: bool, slope: float):
        super().__init__()
        self.convolution = convolution
        self.norm = nn.BatchNorm2d(convolution.out_channels) if norm else nn.Identity()
        self.activation = nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True)

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
        x, valid = self.convolution(x, valid)
        return self.activation(self.norm(x)), valid


class PartialConvUNet(nn.Module):
    """Picture and hole -> the whole picture; the U-Net of Liu et al. 2018, section 3.2 (report 5).

    image float32 N x 3 x S x S in [-1, 1], hole bool N x 1 x S x S, True = missing; the result
    N x 3 x S x S in [-1, 1], not composited, is 0 (grey) if nothing is known. S is a multiple of 16 from
    32 to 512. The encoder halves while the side is even, at most 8 times: 32 pixels to one (report
    5's five layers), 512 to 2 (the paper's eight). Channels double from `width` (64 in the paper) to 8
    times it. The paper leaves the last layer's range open: here it ends in tanh.

    Two things that the paper has not, both off by default: `refine` partial convolutions at full size
    before the last one, and `residual`, by which the network corrects a smooth filling (`spread`)
    instead of starting from grey; then the sum is clamped, and gradients pass as if it were not.

    Raises InputError for a size it cannot take.
    """

    def __init__(self, size: int, width: int, refine: int = 0, residual: bool = False):
        super().__init__()
        if size % 16 or not 32 <= size <= 512:
            raise InputError(
                f"a partial-convolution U-Net takes pictures of multiples of 16 pixels from 32 to 512, not {size}: "
                "set align.side"
            )
        self.frozen, self.residual = False, residual
        depth = min((size & -size).bit_length() - 1, DEEPEST)
        channels = [3, *(width * min(1 << i, 8) for i in range(depth))]
        self.encoder = nn.ModuleList(
            Block(PartialConv2d(in_channels, out_channels, kernel, 2, kernel // 2, bias=i == 0), norm=i > 0, slope=0)
            for i, (in_channels, out_channels, kernel) in enumerate(
                zip(channels, channels[1:], KERNELS + (3,) * depth, strict=False)
            )
        )
        self.decoder = nn.ModuleList(
            Block(_joined(in_channels, skip, skip), norm=True, slope=0.2)
            for skip, in_channels in reversed(list(pairwise(channels[1:])))
        )
        # Not normalised: pixels are at stake here, and with it 0.13 dB were lost in a test on CIFAR-10.
        self.refine = nn.ModuleList(Block(_joined(width, 3, width, True), norm=False, slope=0.2) for _ in range(refine))
        self.last = _joined(width, 3, 3, bias=True)

    def freeze_encoder(self) -> None:
        """From now on the encoder's normalisation uses its running statistics and changes them no more.

        With the gains and shifts (`encoder_affine`) left to no optimiser, that is the paper's second
        stage, section 4.3: invalid places disturb the statistics of the first.
        """
        self.frozen = True
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        super().train(mode)
        for norm in self._encoder_norms() if self.frozen else ():
            norm.eval()
        return self

    def encoder_affine(self) -> list[nn.Parameter]:
        """The gains and shifts of the encoder's normalisation."""
        return [parameter for norm in self._encoder_norms() for parameter in norm.parameters()]

    def _encoder_norms(self) -> list[nn.Module]:
        return [block.get_submodule("norm") for block in self.encoder]

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        known = (~hole).to(image.dtype)
        image = torch.where(hole, 0, image)
        x, valid = image, known
        skips = []
        for block in self.encoder:
            skips.append((x, valid))
            x, valid = block(x, valid)
        for block in self.decoder:
            x, valid = block(*_join(*_doubled(x, valid), *skips.pop()))
        x, valid = _doubled(x, valid)
        for block in self.refine:
            x, valid = block(*_join(x, valid, image, known))
        output, _ = self.last(*_join(x, valid, image, known))
        if not self.residual:
            return torch.tanh(output)
        output = output + spread(image, known)
        return output + (output.clamp(-1, 1) - output).detach()


def spread(image: Tensor, known: Tensor) -> Tensor:
    """The known pixels (`known` 1) of N x C x S x S, and between them a smooth filling; 0 if there are none.

    What `image` holds elsewhere is never read, be it NaN.
    Partial convolutions of equal weights, 2 x 2 with stride 2, down to an odd side: means of what is
    known. On the way up what is known stays, and the rest is interpolated from the smaller picture.
    """
    image = torch.where(known > 0, image, 0)
    if image.shape[-1] % 2:
        return image
    known_share = F.avg_pool2d(known, 2)
    some = (known_share > 0).to(image.dtype)
    means = F.avg_pool2d(image, 2) / torch.where(known_share > 0, known_share, 1)
    smooth = F.interpolate(spread(means, some), scale_factor=2, mode="bilinear", align_corners=False)
    return torch.lerp(smooth, image, known)


def _joined(in_channels: int, skip: int, out_channels: int, bias: bool = False) -> PartialConv2d:
    """A 3 x 3 partial convolution of features and a skip connection, each with its mask."""
    return PartialConv2d(in_channels + skip, out_channels, 3, 1, 1, bias, groups_of_channels=(in_channels, skip))


def _join(x: Tensor, valid: Tensor, skip: Tensor, skip_valid: Tensor) -> tuple[Tensor, Tensor]:
    return torch.cat([x, skip], 1), torch.cat([valid, skip_valid], 1)


def _doubled(x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Twice the side, each value as a 2 x 2 square."""
    return F.interpolate(x, scale_factor=2, mode="nearest"), F.interpolate(valid, scale_factor=2, mode="nearest")


Network = PartialConvUNet
