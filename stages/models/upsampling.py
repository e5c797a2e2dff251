"""Doubling a decoder's side: by stride-2 transposed convolutions, as in the reports, or by resize and convolution.

Odena, Dumoulin and Olah 2016, "Deconvolution and Checkerboard Artifacts": where the windows of a transposed
convolution overlap, they have to learn to weigh all pixels alike, and until then a chequered pattern shows in every
picture. Repeating each value as a 2 x 2 square and convolving after that treats all pixels alike from the start.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from stages.runs.errors import InputError

METHODS = ("transposed", "resize")


class ResizeConv2d(nn.Conv2d):
    """Nearest-neighbour doubling, then a 3 x 3 convolution: N x `in_channels` x H x W -> N x `out_channels` x 2H x 2W.

    Computed as the one transposed convolution that equals the two: its 4 x 4 kernel is the 3 x 3 one spread over a
    2 x 2 square of ones. That takes four products an output value and channel instead of nine.
    """

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        # As He et al. 2015, eq. 10, so that signals neither grow nor shrink where nothing normalises: of a window's
        # nine values four are different, and occur 1, 2, 2 and 4 times, of which 25 is the sum of the squares.
        nn.init.normal_(self.weight, std=(2 / (25 * in_channels)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        kernel = self.weight.flip(2, 3).transpose(0, 1)
        kernel = F.pad(kernel, [0, 1]) + F.pad(kernel, [1, 0])
        kernel = F.pad(kernel, [0, 0, 0, 1]) + F.pad(kernel, [0, 0, 1, 0])
        return F.conv_transpose2d(x, kernel, self.bias, stride=2, padding=1)


def upsample(
    in_channels: int, out_channels: int, upsampling: str, kernel: int, bias: bool = True
) -> nn.Conv2d | nn.ConvTranspose2d:
    """A layer N x `in_channels` x H x W -> N x `out_channels` x 2H x 2W.

    `transposed`: a transposed convolution of `kernel` 3, 4 or 5 with stride 2. `resize`: `ResizeConv2d`, whatever
    the kernel. Raises InputError for another `upsampling`.
    """
    if upsampling not in METHODS:
        raise InputError(f"upsampling: must be one of {', '.join(METHODS)}, not {upsampling!r}")
    if upsampling == "resize":
        return ResizeConv2d(in_channels, out_channels, bias)
    # All kernels double the side exactly: odd ones need one more row and column at the far edge.
    padding, extra = {3: (1, 1), 4: (1, 0), 5: (2, 1)}[kernel]
    return nn.ConvTranspose2d(in_channels, out_channels, kernel, 2, padding, output_padding=extra, bias=bias)


def to_rgb(in_channels: int, upsampling: str, kernel: int, norm: bool = True) -> list[nn.Module]:
    """The last doubling: layers N x `in_channels` x H x W -> N x 3 x 2H x 2W, without the network's last activation.

    With `resize` it ends in half the channels, and one more 3 x 3 convolution makes colours of them: else the 2 x 2
    squares that were one value before would show as blocks. `norm` puts batch normalisation between the two.
    """
    if upsampling == "transposed":
        return [upsample(in_channels, 3, upsampling, kernel)]
    half = max(3, in_channels // 2)
    layers: list[nn.Module] = [upsample(in_channels, half, upsampling, kernel, bias=not norm)]
    if norm:
        layers.append(nn.BatchNorm2d(half))
    return [*layers, nn.ReLU(inplace=True), nn.Conv2d(half, 3, 3, padding=1)]
