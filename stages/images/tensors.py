"""Between tables (uint8 RGB, N x H x W x 3) and networks (float32, N x 3 x H x W in [-1, 1])."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_tensor(pictures: np.ndarray, device: torch.device) -> Tensor:
    """uint8 N x H x W x 3 -> float32 N x 3 x H x W in [-1, 1], channels last in memory."""
    return torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def to_pictures(tensor: Tensor) -> np.ndarray:
    """float N x 3 x H x W in [-1, 1] (clipped) -> uint8 N x H x W x 3, rounded to nearest."""
    return tensor.float().add(1).mul(127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
