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
    pictures N x 3 x H x W in [-1, 1] it returns a dict of layer -> N x C x h x w, in the network's
    order; nothing above the last layer asked for is computed. `weights`: `imagenet`, or `random`
    (He et al. 2015, always the same draw).

    Raises InputError where ImageNet's weights are missing and cannot be had, or are not the ones
    known; ValueError for a layer or a kind of weights that does not exist.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, network: str, layers: Sequence[str], weights: str, device: torch.device | str = "cpu"):
        super().__init__()
        import torchvision
        from torchvision.models.feature_extraction import create_feature_extractor

        if weights not in ("imagenet", "random"):
            raise ValueError(f"weights must be imagenet or random, not {weights}")
        with torch.device("meta"):  # nothing is drawn, nothing allocated
            whole = getattr(torchvision.models, network)(weights=None, init_weights=False)
            nodes = _nodes(whole.features)
            if missing := sorted(set(layers) - set(nodes)):
                raise ValueError(f"{network} has no layer {', '.join(missing)}; it has {', '.join(nodes)}")
            extractor = create_feature_extractor(whole, {nodes[name]: name for name in layers})
        self.extractor = extractor.to_empty(device="cpu")
        if weights == "imagenet":
            state = imagenet(network)
            self.extractor.load_state_dict({key: state[key] for key in self.extractor.state_dict()})
        else:
            _draw(self.extractor)
        self.register_buffer("mean", torch.tensor(MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(STD)[:, None, None])
        self.requires_grad_(False).eval().to(device).to(memory_format=torch.channels_last)

    def forward(self, pictures: Tensor) -> dict[str, Tensor]:
        return self.extractor(((pictures + 1) / 2 - self.mean) / self.std)


def _nodes(stack: nn.Sequential) -> dict[str, str]:
    """Torchvision's name, `features.<index>`, of each layer of `stack` that has a name here."""
    nodes: dict[str, str] = {}
    block, numbers = 1, count(1)
    for place, layer in enumerate(stack):
        if isinstance(layer, nn.ReLU):
            nodes[f"relu{block}_{next(numbers)}"] = f"features.{place}"
        elif isinstance(layer, nn.MaxPool2d):
            nodes[f"pool{block}"] = f"features.{place}"
            block, numbers = block + 1, count(1)
    return nodes


def _draw(network: nn.Module) -> None:
    rng = torch.Generator().manual_seed(SEED)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=rng)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
