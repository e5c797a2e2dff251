"""LPIPS (Zhang et al. 2018, eq. 1), and ImageNet weights loaded so that a planted file runs nothing.

The backbones' weights are torchvision's, from its cache or its address; the linear layers ship
inside the `lpips` package. Every file's sha256 is fixed here and checked before the bytes are
read by torch's restricted unpickler; lpips' and torchvision's own loaders, which check
nothing of what they find in the cache, are never called. LPIPS is never computed from random weights.
"""

from __future__ import annotations

import hashlib
import io
import os
import urllib.request
import warnings
from http.client import HTTPException
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from stages.runs.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

TIMEOUT = 10  # seconds without an answer, after which a download is given up
BATCH = 64  # pictures at once: 7 times as fast as one by one

# torchvision's weights and the sha256 of their files, which carry its first 8 digits in their names.
BACKBONES = {
    "alex": ("AlexNet_Weights.IMAGENET1K_V1", "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"),
    "squeeze": (
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
    ),
    "vgg": ("VGG16_Weights.IMAGENET1K_V1", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
}
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
        weights = _read(linear, LINEAR[net], "reinstall it: pip install --force-reinstall --no-deps lpips==0.1.4")
        backbone = imagenet(*BACKBONES[net])
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


def address(weights: str) -> str:
    """Where torchvision has the file of some weights; its last part is the file's name in the cache."""
    from torchvision.models import get_weight

    return get_weight(weights).url


def imagenet(weights: str, sha256: str) -> dict[str, Tensor]:
    """The state dict of one of torchvision's weight files, from its cache or else downloaded into it.

    Raises InputError, with the command that mends it, where the file is missing and cannot be
    downloaded, or where its sha256 is another.
    """
    import torch

    source = address(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / source.rsplit("/", 1)[1]
    fetch = f"curl -L --create-dirs -o '{path}' {source}"
    if not path.exists():
        try:
            _download(source, path)
        except (OSError, HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"{path}: ImageNet weights are not here and could not be downloaded ({reason}); get them: {fetch}"
            ) from None
    return _read(path, sha256, f"get it again: {fetch}")


def _read(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """The tensors in a file of torch's, whose bytes must have this sha256."""
    import torch

    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(f"{path}: not the known weights (sha256 {found[:16]}..., not {sha256[:16]}...); {remedy}")
    # From the bytes that were checked, not from the file, which could have changed since.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _download(source: str, path: Path) -> None:
    """Fetch `source` into `path`, which appears whole or not at all. Raises OSError or HTTPException."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        with urllib.request.urlopen(source, timeout=TIMEOUT) as answer, draft.open("wb") as file:
            while block := answer.read(1 << 20):
                file.write(block)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
