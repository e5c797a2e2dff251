"""Between tables (uint8 RGB, N x H x W x 3) and networks (float32, N x 3 x H x W in [-1, 1])."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from stages.runs.errors import InputError


def to_tensor(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 N x H x W x 3 -> float32 N x 3 x H x W in [-1, 1], channels last in memory."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pictures(tensor: Tensor, what: Callable[[int], str]) -> np.ndarray:
    """float N x 3 x H x W in [-1, 1] (clipped) -> uint8 N x H x W x 3, rounded to nearest.

    Raises InputError where a value is not finite, as `check_finite` does: NaN would be a black pixel.
    """
    check_finite(tensor, what)
    return tensor.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()


def check_finite(
    tensor: Tensor, what: Callable[[int], str], remedy: str = "train the network again, or use fp32"
) -> None:
    """Raise InputError for the first of N rows that holds a NaN or an infinite value; `what` says what that row is."""
    if not tensor.isfinite().all():
        row = int(tensor.isfinite().flatten(1).all(1).byte().argmin())
        raise InputError(f"{what(row)} is not a finite number everywhere: {remedy}")
