"""LPIPS (Zhang et al. 2018, eq. 1).

The backbones' weights are torchvision's; the linear layers ship inside the `lpips` package, and their
sha256 are fixed here. lpips' own loaders, which check nothing, are never called. LPIPS is never
computed from random weights.
"""

from __future__ import annotations

import warnings
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.models.imagenet import imagenet, read

if TYPE_CHECKING:
    import torch
    from torch import Tensor

BATCH = 64  # pictures at once: 7 times as fast as one by one

BACKBONES = {"alex": "alexnet", "squeeze": "squeezenet1_1", "vgg": "vgg16"}  # lpips' names and torchvision's
# lpips/weights/v0.1/<net>.pth of lpips 0.1.4.
LINEAR = {
    "alex": "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0",
    "squeeze": "4a5350f23600cb79923ce65bb07cbf57dca461329894153e05a1346bd531cf76",
    "vgg": "a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
}


class Lpips:
    """LPIPS with the backbone `net` (alex, squeeze or vgg), version 0.1.

    Raises InputError where the weights are missing and cannot be had, or are not the ones known.
    """

    def __init__(self, net: str, device: torch.device):
        import lpips
        import torch

        linear = Path(str(resources.files(lpips))) / "weights" / "v0.1" / f"{net}.pth"
        weights = read(linear, LINEAR[net], "reinstall it: pip install --force-reinstall --no-deps lpips==0.1.4")
        backbone = imagenet(BACKBONES[net])
        with warnings.catch_warnings(), torch.device("meta"):  # nothing is drawn at random, nothing is loaded
            warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
            network = lpips.LPIPS(net=net, pretrained=False, pnet_rand=True, verbose=False)
        state = network.state_dict()
        for name in state:
            if name.startswith("net.slice"):  # net.slice2.3.weight is features.3.weight
                state[name] = backbone["features." + name.split(".", 2)[2]]
            elif name.startswith("lin"):  # lins.2.model.1.weight is lin2.model.1.weight, once more
                state[name] = weights[name.replace("lins.", "lin")]
        network.load_state_dict(state, assign=True)
        self._network = network.requires_grad_(False).eval().to(device)
        self._device = device

    def __call__(self, output: np.ndarray, target: np.ndarray) -> np.ndarray:
        """float64 N of uint8 pictures N x H x W x 3, 32 pixels or more a side: 0 is alike, about 1 is not."""
        import torch

        distances = []
        with torch.inference_mode():
            for start in range(0, len(output), BATCH):
                pair = (self._tensor(pictures[start : start + BATCH]) for pictures in (output, target))
                distances.append(self._network(*pair).reshape(-1).cpu().double().numpy())
        return np.concatenate([np.empty(0), *distances])

    def _tensor(self, pictures: np.ndarray) -> Tensor:
        """float32 N x 3 x H x W in [-1, 1], as LPIPS takes it."""
        import torch

        return torch.from_numpy(pictures).to(self._device).permute(0, 3, 1, 2).float() / 127.5 - 1
