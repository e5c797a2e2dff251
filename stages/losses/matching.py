"""Losses that compare the features of a completed picture with those of the truth: Hui et al. 2020.

Features are maps N x C x h x w of one layer or, in the order of the layers, of several; those of
the truth are to carry no gradient. Every loss is computed in float32.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def layer_weight(channels: int) -> float:
    """1e3 / C^2, the weight of a layer of C channels in every matching loss."""
    return 1e3 / channels**2


def feature_matching(output: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """The weighted sum over the layers of the mean |output - truth|.

    With VGG19's relu1_1 .. relu5_1 it is VGG feature matching, with the maps of the discriminator's
    local branch discriminator feature matching, both of Hui et al. 2020.
    """
    pairs = zip(output, truth, strict=True)
    return torch.stack([layer_weight(o.shape[1]) * _difference(o, t).mean() for o, t in pairs]).sum()


def guidance(output: Tensor, truth: Tensor) -> Tensor:
    """Where the completion is wrong: N x 3 x H x W twice -> N x 1 x H x W in [0, 1], without a gradient.

    E = mean over the channels of (output - truth)^2, over its maximum in the same picture (Hui
    et al. 2020). Zero where a picture is right everywhere, as with an empty hole.
    """
    error = (output.detach() - truth).float().square().mean(1, keepdim=True)
    worst = error.amax((1, 2, 3), keepdim=True)
    return error / torch.where(worst > 0, worst, 1)


def self_guided(guide: Tensor, output: Sequence[Tensor], truth: Sequence[Tensor]) -> Tensor:
    """Self-guided regression, Hui et al. 2020: the weighted sum over the layers of the mean guide * |output - truth|.

    They are VGG19's relu1_1 and relu2_1; `guide` (N x 1 x H x W) is average-pooled to the size of
    each. The published code adds it to the plain matching of the two layers as one weight,
    1 + guide: the same sum. Here the two are apart, so that either can be left out.
    """
    pairs = zip(output, truth, strict=True)
    terms = [layer_weight(o.shape[1]) * _guided(_pooled(guide, o), o, t).mean() for o, t in pairs]
    return torch.stack(terms).sum()


def centroids(features: Tensor) -> Tensor:
    """Where each channel of non-negative N x C x h x w is: N x C x 2, (x, y) in [-1, 1).

    sum(coordinate * f) / sum(f) with f + 1e-7, so that a channel without any feature lies in the
    middle; pixel i of n has the coordinate 2 i / n - 1. The published code lacks a transpose: its y
    is x again.
    """
    mass = features.float() + 1e-7
    y, x = (torch.arange(side, device=features.device) * (2 / side) - 1 for side in features.shape[2:])
    total = mass.sum((2, 3))
    return torch.stack([mass.sum(2) @ x, mass.sum(3) @ y], 2) / total[..., None]


def alignment(output: Tensor, truth: Tensor) -> Tensor:
    """Geometrical alignment, Hui et al. 2020: the mean squared difference of the centroids.

    The layer is VGG19's relu4_1.
    """
    return F.mse_loss(centroids(output), centroids(truth))


def _difference(output: Tensor, truth: Tensor) -> Tensor:
    return (output.float() - truth.float()).abs()


def _guided(guide: Tensor, output: Tensor, truth: Tensor) -> Tensor:
    """guide * |output - truth|; where the guide is 0 nothing is read, be it NaN."""
    return guide * torch.where(guide > 0, output.float() - truth.float(), 0).abs()


def _pooled(guide: Tensor, features: Tensor) -> Tensor:
    return F.avg_pool2d(guide, guide.shape[2] // features.shape[2])
