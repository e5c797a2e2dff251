"""ImageNet weights of torchvision's, loaded so that a planted file runs nothing.

They come from torchvision's cache or its address. Every file's sha256 is fixed here and checked
before the bytes are read by torch's restricted unpickler; torchvision's own loaders, which check
nothing of what they find in the cache, are never called.
"""

from __future__ import annotations

import hashlib
import io
import socket
import sys
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from stages.runs import record
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

TIMEOUT = 10  # seconds without an answer, after which a download is given up

# network: torchvision's weights and the sha256 of their file, whose first 8 digits its name carries.
WEIGHTS = {
    "alexnet": ("AlexNet_Weights.IMAGENET1K_V1", "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02"),
    "squeezenet1_1": (
        "SqueezeNet1_1_Weights.IMAGENET1K_V1",
        "b8a52dc049b60e4b6ab68ad0df457362afab8b6304b2febdc1650a5dab4d7e7b",
    ),
    "vgg16": ("VGG16_Weights.IMAGENET1K_V1", "397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0"),
    "vgg19": ("VGG19_Weights.IMAGENET1K_V1", "dcbb9e9dad569fff7a846263a77324fc34978fea2bfb039c012d710e1776ae44"),
}


def address(weights: str) -> str:
    """Where torchvision has the file of some weights; its last part is the file's name in the cache."""
    from torchvision.models import get_weight

    return get_weight(weights).url


def imagenet(network: str) -> dict[str, Tensor]:
    """The state dict of one network of `WEIGHTS`, from torchvision's cache or else downloaded into it.

    Raises InputError, with the command that mends it, where the file is missing and cannot be
    downloaded, or where its sha256 is another.
    """
    import torch

    weights, sha256 = WEIGHTS[network]
    source = address(weights)
    path = Path(torch.hub.get_dir()) / "checkpoints" / source.rsplit("/", 1)[1]
    fetch = f"curl -L --create-dirs -o '{path}' {source}"
    if not path.exists():
        try:
            _download(source, path, sha256)
        except (OSError, HTTPException, RuntimeError) as error:
            reason = getattr(error, "reason", error)
            raise InputError(
                f"{path}: ImageNet weights are not here and could not be downloaded ({reason}); get them: {fetch}"
            ) from None
    return read(path, sha256, f"get it again: {fetch}")


def read(path: Path, sha256: str, remedy: str) -> dict[str, Tensor]:
    """The tensors in a file of torch's, whose bytes must have this sha256: else InputError."""
    import torch

    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise InputError(f"{path}: not the known weights (sha256 {found[:16]}..., not {sha256[:16]}...); {remedy}")
    record.note_weights(path.name, found)
    # From the bytes that were checked, not from the file, which could have changed since.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _download(source: str, path: Path, sha256: str) -> None:
    """Fetch `source` into `path`; where its sha256 is another, nothing is left behind.

    Raises OSError, HTTPException, or RuntimeError for another sha256.
    """
    import torch

    path.parent.mkdir(parents=True, exist_ok=True)
    usual = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # torch sets none, and a silent server would be waited for without end
    try:
        torch.hub.download_url_to_file(source, str(path), hash_prefix=sha256, progress=sys.stderr.isatty())
    finally:
        socket.setdefaulttimeout(usual)
