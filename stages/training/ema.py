"""The exponential moving average (EMA) of a network's weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def decay(ema: float, step: int) -> float:
    """The average's decay at a step: lower at first, or it would keep the untrained weights for long."""
    return min(ema, (1 + step) / (10 + step)) if ema else 0.0


def average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move every weight and buffer of `average` to decay * itself + (1 - decay) * `module`'s, in place."""
    import torch

    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)
