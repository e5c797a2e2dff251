"""Report 5's vanilla autoencoder: blind, it is not told where the hole is."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from stages.models.upsampling import to_rgb, upsample
from stages.runs.errors import InputError


class Autoencoder(nn.Module):
    """Picture with black where it is missing -> the whole picture.

    image float32 N x 3 x S x S in [-1, 1], hole bool N x 1 x S x S, True = missing; the result
    N x 3 x S x S in [-1, 1], not composited. The hole serves to black out what is missing, in [0, 1] as
    the report has it, and is not given to the network. Five 3 x 3 convolutions, each with ReLU and
    max-pooling, to 16 times `width` channels (width 32: 32, 64, 128, 256, 512), and as many transposed
    ones back, with ReLU and at the end a sigmoid. S is a multiple of 32: 32 pixels become one.

    The report gives no more of the decoder than its kind of layer, `transposed`: 3 x 3 with stride 2 are
    chosen here. `upsampling` may be `resize` instead (stages/models/upsampling.py) from 8 pixels on: on fewer, layers
    that treat all pixels alike learn late which is which.

    Raises InputError for a size it cannot take.
    """

    def __init__(self, size: int, width: int, upsampling: str = "transposed"):
        super().__init__()
        if size % 32 or size < 32:
            raise InputError(f"the autoencoder takes pictures of multiples of 32 pixels, not {size}: set align.side")
        channels = [3, *(width << i for i in range(5))]
        encoder: list[nn.Module] = []
        for in_channels, out_channels in pairwise(channels):
            encoder += [nn.Conv2d(in_channels, out_channels, 3, 1, 1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        decoder: list[nn.Module] = []
        side = size // 32
        for in_channels, out_channels in pairwise(reversed(channels[1:])):
            decoder += [
                upsample(in_channels, out_channels, upsampling if side >= 8 else "transposed", kernel=3),
                nn.ReLU(inplace=True),
            ]
            side *= 2
        decoder += [*to_rgb(channels[1], upsampling, kernel=3, norm=False), nn.Sigmoid()]
        self.encoder, self.decoder = nn.Sequential(*encoder), nn.Sequential(*decoder)

    def forward(self, image: Tensor, hole: Tensor) -> Tensor:
        black = torch.where(hole, 0, (image + 1) / 2)
        return self.decoder(self.encoder(black)) * 2 - 1


Network = Autoencoder
