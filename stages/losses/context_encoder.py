"""The losses of context encoders: report 4 (VAE and GAN) and Pathak et al. 2016.

Patches are N x 3 x P x P in [-1, 1], with a border of `overlap` pixels that overlaps what is known.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses.adversarial import generator_loss


def kl_to_standard_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL[N(mean, exp(log_variance)) || N(0, 1)], summed over the latent numbers: N x latent twice -> N.

    Kingma and Welling 2014, appendix B: the sum of (mean^2 + variance - 1 - log variance) / 2. Report
    4's eq. (1) has log q/p in the integral: p's divergence from q is with log p/q, so the report's lacks
    a minus sign.
    """
    return (mean.square() + log_variance.exp() - 1 - log_variance).sum(dim=1) / 2


def overlap_weights(side: int, overlap: int, weight: float) -> Tensor:
    """float32 side x side: `weight` in the border of `overlap` pixels (Pathak: 10), 1 within."""
    inside = torch.ones(side - 2 * overlap, side - 2 * overlap)
    return F.pad(inside, [overlap] * 4, value=weight)


def weighted_l2(patch: Tensor, target: Tensor, weights: Tensor) -> Tensor:
    """Sum over each patch of its squared differences, values in [-1, 1], times weights P x P: N.

    Where a weight is 0 nothing is read, be it NaN.
    """
    return (torch.where(weights > 0, patch - target, 0).square() * weights).sum(dim=(1, 2, 3))


def patch_sse(patch: Tensor, target: Tensor, overlap: int) -> Tensor:
    """Sum of squared differences in [0, 1] within the border: N, the number of evaluate's `patch_sse`.

    Report 4's tables appear to be such sums, of 64 x 64 x 3 values; their scale it does not say. With
    values in [-1, 1] the number would be 4 times as large.
    """
    return F.pad((patch - target) / 2, [-overlap] * 4).square().sum(dim=(1, 2, 3))


def vae(
    patch: Tensor, target: Tensor, weights: Tensor, mean: Tensor, log_variance: Tensor, kl_weight: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Report 4, eq. (2): weighted L2 + `kl_weight` KL, both sums per picture, means over the batch.

    The report writes a plain norm; its losses are of the size of squares, which a normal likelihood
    asks for too. `kl_weight` is then twice that likelihood's variance. Parts: `l2`, `kl`.
    """
    parts = {
        "l2": weighted_l2(patch, target, weights).mean(),
        "kl": kl_to_standard_normal(mean, log_variance).mean(),
    }
    return parts["l2"] + kl_weight * parts["kl"], parts


def gan(
    patch: Tensor, target: Tensor, weights: Tensor, logits: Tensor, reconstruction: float, adversarial: float
) -> tuple[Tensor, dict[str, Tensor]]:
    """Report 4, eq. (4) and (5), for the generator: reconstruction * L2 + adversarial * -log D of the logits.

    The L2 is normalised, as Pathak et al. have it: in the total it is divided by the patch's number of
    values; the part `l2` is the sum per picture, to be compared with a VAE's. `logits` are the
    discriminator's, N; the adversarial part is the non-saturating -log D (report 1's reason).
    """
    parts = {"l2": weighted_l2(patch, target, weights).mean(), "adversarial": generator_loss(logits)}
    return reconstruction * parts["l2"] / patch[0].numel() + adversarial * parts["adversarial"], parts
