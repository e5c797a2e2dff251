"""The losses of latent search: Yeh et al. 2016/2017, as reports 1 and 2 use them.

Each is a sum per image, as in the paper, so that lambda means what it means there; pictures are in
[-1, 1]. Report 1 writes M = 1 for known pixels: here `hole` is True where a pixel is missing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def context_weights(hole: Tensor, window: int = 7) -> Tensor:
    """Importance of each known pixel: the share of missing pixels in the window around it.

    Yeh et al. 2017, eq. 3 (report 2, "Importance Weighted Context Loss"). `hole` is bool
    ... x H x W; the result is float32 of the same shape, zero inside holes and on known pixels
    farther than window // 2 from one. Only pixels inside the image count in |N(i)|.
    """
    if window % 2 == 0:
        raise ValueError(f"window must be odd, not {window}")
    hole = torch.as_tensor(hole)
    flat = hole.float().reshape(-1, 1, *hole.shape[-2:])
    share = F.avg_pool2d(flat, window, stride=1, padding=window // 2, count_include_pad=False)
    return share.reshape(hole.shape) * ~hole


def known_weights(hole: Tensor) -> Tensor:
    """Report 1's unweighted loss: 1 on known pixels, 0 in holes; float32 like `hole`."""
    return (~torch.as_tensor(hole)).float()


def context_loss(output: Tensor, image: Tensor, weights: Tensor) -> Tensor:
    """|W * (G(z) - y)|_1 per image: N x 3 x H x W twice and N x H x W -> N.

    Report 1's eq. 4 has a plus sign where the difference is meant. Where a weight is 0 nothing is read, be it NaN.
    """
    weights = weights.unsqueeze(1)
    return (torch.where(weights > 0, output - image, 0).abs() * weights).sum(dim=(1, 2, 3))


def prior_loss(logits: Tensor) -> Tensor:
    """log(1 - D(G(z))) per image, from logits: -softplus(l), finite for every logit. N -> N."""
    return -F.softplus(logits)
