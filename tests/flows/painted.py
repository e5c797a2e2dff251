"""A server of `palimpsest restore --serve` with two small networks, for the tests of it and of its page."""

import contextlib
import io
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import httpx
import numpy as np
import torch
from dvc_project import PATIENCE
from PIL import Image

from stages.images import png
from stages.models import context_encoder, partial_conv
from stages.training import checkpoint

UNET = "data/models/unet.safetensors"
NETWORKS: dict[str, tuple[Any, dict[str, Any]]] = {
    UNET: (partial_conv, {"size": 32, "width": 4}),
    "data/models/vae.safetensors": (
        context_encoder, {"size": 64, "encoder": "alexnet", "objective": "vae", "bottleneck": 8, "width": 4}
    ),
}  # fmt: skip


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Soft colours, uint8 H x W x 3."""
    small = np.random.default_rng(seed).integers(0, 255, (5, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


def saved(pixels: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def mask(hole: np.ndarray) -> bytes:
    return png.encode(hole.astype(np.uint8) * 255)


@contextlib.contextmanager
def serving(home: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The address that the server says, and its process, which is ended by Ctrl-C."""
    torch.manual_seed(0)
    (home / "data/models").mkdir(parents=True)
    for path, (module, arguments) in NETWORKS.items():
        tensors = {f"network.{name}": value for name, value in module.Network(**arguments).state_dict().items()}
        said = {"network": module.__name__.rpartition(".")[2], "arguments": arguments}
        checkpoint.save(home / path, tensors, said)
    words = [forked.python(), "-m", "flows.cli", "restore", "--serve", "--model", UNET]
    with subprocess.Popen(words, cwd=home, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            line = process.stderr.readline()
            assert line.startswith("restore: open http://127.0.0.1:"), line + process.stderr.read()
            yield line.split()[2], process
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=PATIENCE)
            assert process.returncode == 0, said
            assert "Traceback" not in said, said
        finally:
            process.kill()


class Client(httpx.Client):
    """Asks the server as its page does."""

    def __init__(self, address: str) -> None:
        base, _, key = address.partition("#")
        super().__init__(base_url=base, headers={"x-palimpsest-key": key}, timeout=PATIENCE, trust_env=False)

    def open(self, data: bytes, name: str = "photo.png") -> str:
        """The path of a photo that is open now."""
        answer = self.post("/api/photos", params={"name": name}, content=data)
        assert answer.status_code == 201, answer.text
        return f"/api/photos/{answer.json()['id']}"

    def state(self, photo: str) -> Any:
        return self.get(photo).json()

    def ended(self, photo: str) -> Any:
        """The photo's state as soon as nothing runs."""
        while (state := self.state(photo))["run"]["state"] in ("waiting", "running"):
            time.sleep(0.01)
        return state

    def fill(self, photo: str, hole: np.ndarray, **query: Any) -> Any:
        answer = self.post(f"{photo}/run", params={"system": UNET, **query}, content=mask(hole))
        assert answer.status_code == 202, answer.text
        return self.ended(photo)
