"""Losses against the truth: plain squared error (report 5) and the six terms of Liu et al. 2018.

output and target are N x 3 x H x W in [-1, 1], hole bool N x 1 x H x W, True = missing. Both report 5
and Liu et al. have pixel values in [0, 1]: `_unit` translates, here and nowhere else, so that the
numbers and the weights mean what they mean there. (Features take [-1, 1] and normalise themselves.)

What lies outside a term's region is never read, be it NaN, and has no gradient: it is left out before the term is
taken of it, since 0 times NaN is NaN, in a gradient too.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from stages.losses.perceptual import Features
from stages.runs.errors import InputError

# Liu et al. 2018, eq. 7.
WEIGHTS: Mapping[str, float] = {"valid": 1.0, "hole": 6.0, "perceptual": 0.05, "style": 120.0, "tv": 0.1}
LAYERS = ("pool1", "pool2", "pool3")  # of VGG16: theirs


Objective = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, dict[str, Tensor]]]


def objective(
    loss: str, hole_weight: float, terms: Mapping[str, float], perceptual_weights: str, device: torch.device
) -> Objective:
    """(output, target, hole) -> (total, parts): `mse` with its `hole_weight`, or `liu` with `terms` for `WEIGHTS`'.

    Raises InputError for a term that does not exist, and where perceptual and style terms have a
    weight and `perceptual_weights` (none, imagenet, random) give no features to take them of.
    """
    if unknown := set(terms) - set(WEIGHTS):
        raise InputError(f"params.yaml: terms: unknown {', '.join(sorted(unknown))}; one of: {', '.join(WEIGHTS)}")
    if loss == "mse":
        return functools.partial(mse, hole_weight=hole_weight)
    weights = {**WEIGHTS, **terms}
    features = None
    if weights["perceptual"] or weights["style"]:
        if perceptual_weights == "none":
            raise InputError(
                "params.yaml: loss: liu needs perceptual_weights: imagenet or random, "
                "or else terms: {perceptual: 0, style: 0}"
            )
        features = Features("vgg16", LAYERS, perceptual_weights, device)
    return functools.partial(liu, features=features, weights=weights)


def composited(output: Tensor, target: Tensor, hole: Tensor) -> Tensor:
    """The output under the hole, the target's own pixels elsewhere."""
    return torch.where(hole, output, target)


def errors(output: Tensor, target: Tensor, hole: Tensor) -> dict[str, Tensor]:
    """Mean squared errors over all pixels, values in [0, 1], of the output (`mse_raw`) and composited.

    Report 5's table does not say which of the two it has. Without gradients.
    """
    with torch.no_grad():
        difference = _difference(output, target)
        composited = torch.where(hole, difference, 0)
        return {"mse_raw": difference.square().mean(), "mse_composited": composited.square().mean()}


def mse(output: Tensor, target: Tensor, hole: Tensor, hole_weight: float = 1.0) -> tuple[Tensor, dict[str, Tensor]]:
    """Mean squared error over all pixels, values in [0, 1]: report 5's loss.

    Its formula divides by the number of pixels, this by pixels times channels: a mean. Pixels under
    the hole count `hole_weight` times (1 in the report).
    """
    square = _difference(output, target).square()
    total = (square * torch.where(hole, hole_weight, 1.0)).mean()
    return total, {"mse": total}


def liu(
    output: Tensor, target: Tensor, hole: Tensor, features: Features | None, weights: Mapping[str, float] = WEIGHTS
) -> tuple[Tensor, dict[str, Tensor]]:
    """Liu et al. 2018, eq. 3 to 7: the weighted total, and each of its terms before its weight.

    `weights` are by the names of `WEIGHTS`; style's counts for the output and for the composite.
    `features` are of VGG16's `LAYERS`; None leaves out the perceptual and style terms. Every term is a
    mean over the batch.
    """
    composite = composited(output, target, hole)
    difference = _difference(output, target)
    parts = {
        "valid": torch.where(hole, 0, difference).abs().mean(),
        "hole": torch.where(hole, difference, 0).abs().mean(),
        "tv": total_variation(_unit(composite), hole),
    }
    if features is not None:
        with torch.no_grad():
            truth = features(target)
        raw, mixed = features(output), features(composite)
        parts["perceptual"] = feature_difference(raw, truth) + feature_difference(mixed, truth)
        parts["style_raw"] = style_difference(raw, truth)
        parts["style_composited"] = style_difference(mixed, truth)
    return torch.stack([weights[name.split("_")[0]] * part for name, part in parts.items()]).sum(), parts


def feature_difference(output: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Eq. 4, one of its two sums: mean absolute difference of the features, summed over the layers."""
    return torch.stack([F.l1_loss(output[name], target[name]) for name in target]).sum()


def style_difference(output: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Tensor:
    """Eq. 5 or 6: mean absolute difference of the Gram matrices, summed over the layers."""
    return torch.stack([F.l1_loss(gram(output[name]), gram(target[name])) for name in target]).sum()


def gram(features: Tensor) -> Tensor:
    """N x C x H x W -> N x C x C: products of channels over all places, times K = 1 / (C H W); in float32."""
    with torch.autocast(features.device.type, enabled=False):  # sums over thousands of places
        flat = features.float().flatten(2)
        return flat @ flat.transpose(1, 2) / flat[0].numel()


def total_variation(picture: Tensor, hole: Tensor) -> Tensor:
    """L_tv: absolute differences between neighbours that both lie in the hole grown by one pixel.

    Their sum over all of the picture's values, N x 3 x H x W. The hole grows to all eight neighbours;
    the paper says no more than a dilation of one pixel. (The formula is of the composite.)
    """
    region = F.max_pool2d(hole.float(), 3, stride=1, padding=1) > 0
    across = torch.where(region[..., 1:] & region[..., :-1], picture[..., 1:] - picture[..., :-1], 0)
    down = torch.where(region[..., 1:, :] & region[..., :-1, :], picture[..., 1:, :] - picture[..., :-1, :], 0)
    return (across.abs().sum() + down.abs().sum()) / picture.numel()


def _difference(output: Tensor, target: Tensor) -> Tensor:
    """output - target, of values in [0, 1]."""
    return _unit(output) - _unit(target)


def _unit(picture: Tensor) -> Tensor:
    """[-1, 1] to [0, 1]."""
    return (picture + 1) / 2
