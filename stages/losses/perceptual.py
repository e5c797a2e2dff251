"""VGG features for perceptual and style losses: a frozen network that gradients pass through."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count

import torch
from torch import Tensor, nn

from stages.models.imagenet import imagenet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, in [0, 1]: what the weights expect
SEED = 0  # of the random weights, which are the same in every training


class Features(nn.Module):
    """Simonyan and Zisserman 2015: the activations of `network` (vgg16 or vgg19) after the layers named.

    `layers`: relu<block>_<number> or pool<block>, blocks and numbers counted from 1. Called with
    pictures N x 3 x H x W in [-1, 1] it returns a dict of layer -> N x C x h x w, in the order of
    `layers`; nothing above the last layer asked for is computed. `weights`: `imagenet`, or `random`
    (He et al. 2015, always the same draw).

    Raises InputError where ImageNet's weights are missing and cannot be had, or are not the ones
    known; ValueError for a layer or a kind of weights that does not exist.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, layers: Sequence[str], weights: str, device: torch.device | str = "cpu"):
        super().__init__()
        import torchvision

        if weights not in ("imagenet", "random"):
            raise ValueError(f"weights must be imagenet or random, not {weights}")
        with torch.device("meta"):  # nothing is drawn, nothing allocated
            stack = getattr(torchvision.models, network)(weights=None, init_weights=False).features
        places = _places(stack)
        if missing := sorted(set(layers) - set(places)):
            raise ValueError(f"{network} has no layer {', '.join(missing)}; it has {', '.join(places)}")
        self.layers = {name: places[name] for name in layers}
        self.stack = stack[: max(self.layers.values()) + 1].to_empty(device="cpu")
        if weights == "imagenet":
            state = imagenet(network)
            self.stack.load_state_dict({key: state[f"features.{key}"] for key in self.stack.state_dict()})
        else:
            _draw(self.stack)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        x = ((pictures + 1) / 2 - self.mean) / self.std
        kept = {}
        for place, layer in enumerate(self.stack):
            x = layer(x)
            if place in self.layers.values():
                kept[place] = x
        return {name: kept[place] for name, place in self.layers.items()}


def _places(stack: nn.Sequential) -> dict[str, int]:
    """The index in `stack` of each layer that has a name."""
    places: dict[str, int] = {}
    block, numbers = 1, count(1)
    for place, layer in enumerate(stack):
        if isinstance(layer, nn.ReLU):
            places[f"relu{block}_{next(numbers)}"] = place
        elif isinstance(layer, nn.MaxPool2d):
            places[f"pool{block}"] = place
            block, numbers = block + 1, count(1)
    return places


def _draw(stack: nn.Sequential) -> None:
    rng = torch.Generator().manual_seed(SEED)
    for layer in stack:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
