"""One mask a group against masks on all channels, in one interleaved run:

    python tests/bench/bench_partial_conv.py

Both compute the same function; the other side is what the paper's equation says word by word, and
what published code does when told to keep a mask for every channel: masks as large as the features, counted by a
convolution with ones to every output channel. Layers are those of the U-Net at 64 pixels and width
32, the largest of each sort; a step is forward and backward. Ratios are medians over rounds; times on
a busy machine mean little.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.models.partial_conv import PartialConv2d, PartialConvUNet

LAYERS = {  # groups of channels, output channels, kernel, stride, side
    "encoder, 64 to 128, 5 x 5": ((64,), 128, 5, 2, 16),
    "encoder, 128 to 256, 3 x 3": ((128,), 256, 3, 2, 8),
    "decoder, 128 + 64 to 64": ((128, 64), 64, 3, 1, 16),
    "decoder, 64 + 32 to 32": ((64, 32), 32, 3, 1, 32),
}


class AllChannels(PartialConv2d):
    """A mask for every channel of input and output."""

    def forward(self, x: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        raw = F.conv2d(x * valid, self.weight, None, self.stride, self.padding)
        with torch.no_grad():
            counts = F.conv2d(valid, torch.ones_like(self.weight), None, self.stride, self.padding)
            scale = torch.where(counts > 0, self.weight[0].numel() / counts.clamp(min=1), 0)
            updated = (counts > 0).to(valid.dtype)
        output = raw * scale
        if self.bias is not None:
            output = torch.where(counts > 0, output + self.bias[:, None, None], 0)
        return output, updated


def step(layer: PartialConv2d, x: Tensor, valid: Tensor) -> Callable[[], Tensor]:
    gradient = torch.randn_like(layer(x, valid)[0])

    def run() -> Tensor:
        output = layer(x, valid)[0]
        output.backward(gradient)
        return output.detach()

    return run


def alone(layer: PartialConv2d, x: Tensor, valid: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        with torch.inference_mode():
            return layer(x, valid)[0]

    return run


def whole(network: PartialConvUNet, image: Tensor, hole: Tensor) -> Callable[[], Tensor]:
    def run() -> Tensor:
        output = network(image, hole)
        F.mse_loss(output, image).backward()
        return output.detach()

    return run


def seconds(run: Callable[[], Tensor], times: int) -> float:
    start = time.perf_counter()
    for _ in range(times):
        run()
    return (time.perf_counter() - start) / times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(f"{'16 pictures, ms':36} all channels  one a group  ratio")
    for name, (groups, out, kernel, stride, side) in LAYERS.items():
        one = PartialConv2d(sum(groups), out, kernel, stride, kernel // 2, False, groups)
        every = AllChannels(sum(groups), out, kernel, stride, kernel // 2, False)
        every.load_state_dict(one.state_dict())
        x = torch.randn(16, sum(groups), side, side).contiguous(memory_format=torch.channels_last).requires_grad_()
        valid = (torch.rand(16, len(groups), side, side) < 0.5).float()
        masks = valid.repeat_interleave(torch.tensor(groups), 1).contiguous(memory_format=torch.channels_last)
        compare(f"{name}, a step", step(every, x, masks), step(one, x, valid), options.rounds)
        compare(f"{name}, a pass", alone(every, x, masks), alone(one, x, valid), options.rounds)
    image = (torch.rand(16, 3, 64, 64) * 2 - 1).contiguous(memory_format=torch.channels_last)
    hole = torch.rand(16, 1, 64, 64) < 0.8
    net = PartialConvUNet(64, 32).to(memory_format=torch.channels_last)
    print(f"the U-Net's step: {seconds(whole(net, image, hole), 3) * 1e3:.0f} ms")


def compare(name: str, slow: Callable[[], Tensor], fast: Callable[[], Tensor], rounds: int) -> None:
    torch.testing.assert_close(slow(), fast(), rtol=1e-3, atol=1e-4)
    times = max(1, round(0.1 / seconds(slow, 2)))
    pairs = [(seconds(slow, times), seconds(fast, times)) for _ in range(rounds)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(side) * 1e3 for side in zip(*pairs, strict=True))
    print(f"{name:36} {a:12.1f} {b:12.1f} {ratio:6.2f} x  goal >= 1.25")


if __name__ == "__main__":
    main()
