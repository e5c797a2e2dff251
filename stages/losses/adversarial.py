"""Adversarial losses, all from logits: log of a saturated sigmoid is never taken."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

REAL = (0.7, 1.2)  # report 1's random label ranges
FAKE = (0.0, 0.3)


def noisy_labels(count: int, smoothing: bool, flip: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Labels (real, fake) of one discriminator step, each float32 of length `count`, on the CPU.

    Report 1, section 4.4: with `smoothing`, real labels are uniform in [0.7, 1.2] and fake ones in
    [0, 0.3], else 1 and 0; each is then exchanged for one of the other sort with probability `flip`.
    """
    draws = torch.rand(4, count, generator=rng)
    low_high = (REAL, FAKE) if smoothing else ((1.0, 1.0), (0.0, 0.0))
    real, fake = (low + (high - low) * draw for (low, high), draw in zip(low_high, draws[:2], strict=True))
    return torch.where(draws[2] < flip, fake, real), torch.where(draws[3] < flip, real, fake)


def discriminator_loss(
    real_logits: Tensor, fake_logits: Tensor, real_labels: Tensor, fake_labels: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Goodfellow et al. 2014, eq. 1, for the discriminator; logits and labels of length N.

    Binary cross entropy softplus(l) - t l, which also holds for smoothed labels t beyond [0, 1].
    Returns the total and its parts `d_real`, `d_fake`.
    """
    parts = {
        "d_real": F.binary_cross_entropy_with_logits(real_logits, real_labels),
        "d_fake": F.binary_cross_entropy_with_logits(fake_logits, fake_labels),
    }
    return parts["d_real"] + parts["d_fake"], parts


def generator_loss(fake_logits: Tensor, saturating: bool = False) -> Tensor:
    """The generator's loss from its N logits, a mean.

    Non-saturating, max log D(G(z)): softplus(-logit), which report 1 trained by. Saturating,
    Goodfellow et al. 2014, eq. 1: min log(1 - D(G(z))), which is -softplus(logit).
    """
    return -F.softplus(fake_logits).mean() if saturating else F.softplus(-fake_logits).mean()


def relativistic_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Relativistic average, Jolicoeur-Martineau 2018, for the discriminator; logits of length N.

    (BCE(real - mean fake, 1) + BCE(fake - mean real, 0)) / 2: a real picture is to look more real
    than the average fake. Returns the total and its parts `d_real`, `d_fake`, halved each.
    """
    parts = {
        "d_real": F.softplus(fake_logits.mean() - real_logits).mean() / 2,
        "d_fake": F.softplus(fake_logits - real_logits.mean()).mean() / 2,
    }
    return parts["d_real"] + parts["d_fake"], parts


def relativistic_generator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """The same for the generator, labels exchanged: (BCE(real - mean fake, 0) + BCE(fake - mean real, 1)) / 2.

    Both halves carry its gradient, the first by the average fake.
    """
    real_gain, fake_gain = real_logits - fake_logits.mean(), real_logits.mean() - fake_logits
    return (F.softplus(real_gain).mean() + F.softplus(fake_gain).mean()) / 2


def discriminator_hinge(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Lim and Ye 2017, Geometric GAN, eq. 13: max(0, 1 - real) + max(0, 1 + fake), means over logits of length N.

    Returns the total and its parts `d_real`, `d_fake`.
    """
    parts = {"d_real": F.relu(1 - real_logits).mean(), "d_fake": F.relu(1 + fake_logits).mean()}
    return parts["d_real"] + parts["d_fake"], parts


def gradient_penalty(discriminator: Callable[[Tensor], Tensor], real: Tensor) -> Tensor:
    """R1 (Mescheder et al. 2018, eq. 9, without gamma): half the mean squared gradient at real pictures N x 3 x H x W.

    The discriminator must judge each picture by itself: no batch normalisation.
    """
    real = real.detach().requires_grad_(True)
    (gradient,) = torch.autograd.grad(discriminator(real).sum(), real, create_graph=True)
    return gradient.square().sum(dim=(1, 2, 3)).mean() / 2
