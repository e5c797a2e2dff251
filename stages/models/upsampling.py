"""Doubling a decoder's side: by stride-2 transposed convolutions, as in the reports, or by resize and convolution.

Odena, Dumoulin and Olah 2016, "Deconvolution and Checkerboard Artifacts": where a transposed convolution's windows
overlap, they do so unevenly or are only learnt not to, and a chequered pattern shows in every picture. Repeating
each value as a 2 x 2 square and convolving after that treats all pixels alike.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from stages.runs.errors import InputError

Upsampling = Literal["transposed", "resize"]
METHODS = ("transposed", "resize")


def doubled(above: int, below: int, upsampling: str, kernel: int, bias: bool = True) -> nn.Module:
    """N x `above` x H x W -> N x `below` x 2H x 2W.

    `transposed`: one transposed convolution of `kernel` 3, 4 or 5 with stride 2. `resize`: nearest neighbour, then a
    3 x 3 convolution, whatever the kernel. Raises InputError for another `upsampling`.
    """
    if upsampling not in METHODS:
        raise InputError(f"upsampling: must be one of {', '.join(METHODS)}, not {upsampling!r}")
    if upsampling == "resize":
        return nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv2d(above, below, 3, padding=1, bias=bias))
    # All kernels double the side exactly: odd ones need one more row and column at the far edge.
    padding, extra = {3: (1, 1), 4: (1, 0), 5: (2, 1)}[kernel]
    return nn.ConvTranspose2d(above, below, kernel, 2, padding, output_padding=extra, bias=bias)
