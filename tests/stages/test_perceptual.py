"""LPIPS from a stand-in for torchvision's cache; a file that is not the known one is refused unread."""

import hashlib
import http.server
import pickle
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend import Trap

from stages.metrics import perceptual
from stages.models import imagenet
from stages.runs import record
from stages.runs.errors import InputError

WEIGHTS, FILE = "SqueezeNet1_1_Weights.IMAGENET1K_V1", "squeezenet1_1-b8a52dc0.pth"  # the smallest of the three
CPU = torch.device("cpu")


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty torch.hub cache, with downloads going to a port where nobody answers."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    monkeypatch.setattr(imagenet, "address", lambda _: f"http://127.0.0.1:9/{FILE}")
    return tmp_path / "checkpoints"


@pytest.fixture(scope="module")
def backbone() -> tuple[bytes, torch.nn.Module]:
    """Random SqueezeNet weights as torchvision's file would hold them, in the test alone: no real ones are here."""
    import io

    import torchvision

    torch.manual_seed(1)
    network = torchvision.models.squeezenet1_1(weights=None)
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.getvalue(), network


def plant(cache: Path, data: bytes) -> None:
    cache.mkdir(parents=True)
    (cache / FILE).write_bytes(data)


def know(monkeypatch, data: bytes) -> None:
    """Take `data` for the known weights."""
    monkeypatch.setitem(imagenet.WEIGHTS, "squeezenet1_1", (WEIGHTS, hashlib.sha256(data).hexdigest()))


def pictures(seed: int, count: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 64, 64, 3), np.uint8)


def test_the_fixed_digests_begin_as_torchvisions_file_names_say():
    for weights, sha256 in imagenet.WEIGHTS.values():
        assert len(sha256) == 64
        assert imagenet.address(weights).removesuffix(".pth").rsplit("-", 1)[1] == sha256[:8]


def test_lpips_is_the_packages_own(cache, backbone, monkeypatch):
    """The same numbers as lpips' own loading, from the same backbone."""
    import lpips

    data, network = backbone
    plant(cache, data)
    know(monkeypatch, data)
    ours = perceptual.Lpips("squeeze", CPU)
    assert record.weights() == record.weights() | {
        "squeeze.pth": perceptual.LINEAR["squeeze"],
        FILE: hashlib.sha256(data).hexdigest(),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = lpips.LPIPS(net="squeeze", pnet_rand=True, verbose=False)
    for name, slot in theirs.net.state_dict().items():
        slot.copy_(network.features.state_dict()[name.split(".", 1)[1]])
    x, y = pictures(1), pictures(2)
    a, b = (torch.from_numpy(p).permute(0, 3, 1, 2) / 127.5 - 1 for p in (x, y))
    expected = theirs(a, b).detach().reshape(-1).numpy()
    assert (expected > 0).all()
    np.testing.assert_allclose(ours(x, y), expected, rtol=1e-4)
    np.testing.assert_array_equal(ours(x, x), 0)
    assert ours(x[:0], y[:0]).shape == (0,)


def test_a_batch_scores_as_one_by_one(cache, backbone, monkeypatch):
    data, _ = backbone
    plant(cache, data)
    know(monkeypatch, data)
    monkeypatch.setattr(perceptual, "BATCH", 2)
    measure = perceptual.Lpips("squeeze", CPU)
    x, y = pictures(3), pictures(4)
    alone = [measure(x[n : n + 1], y[n : n + 1])[0] for n in range(3)]
    np.testing.assert_allclose(measure(x, y), alone, rtol=1e-5)


def test_random_weights_under_the_right_name_are_refused(cache, backbone):
    plant(cache, backbone[0])
    with pytest.raises(InputError, match=r"squeezenet1_1-b8a52dc0\.pth: not the known weights .*curl -L"):
        perceptual.Lpips("squeeze", CPU)


def test_a_planted_pickle_is_never_executed(cache, tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    data = pickle.dumps(Trap(mark), protocol=2)
    plant(cache, data)
    with pytest.raises(InputError, match="not the known weights"):
        perceptual.Lpips("squeeze", CPU)
    # Even if its digest were the known one, torch's restricted unpickler would not run it.
    know(monkeypatch, data)
    with pytest.raises(pickle.UnpicklingError):
        perceptual.Lpips("squeeze", CPU)
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # the trap works


def test_missing_weights_name_the_command(cache):
    with pytest.raises(InputError, match=r"could not be downloaded \(.*curl -L --create-dirs -o .*b8a52dc0\.pth"):
        perceptual.Lpips("squeeze", CPU)
    assert not any(cache.iterdir())


def test_a_silent_server_is_given_up(cache, monkeypatch):
    import socket

    monkeypatch.setattr(imagenet, "TIMEOUT", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(imagenet, "address", lambda _: f"http://127.0.0.1:{silent.getsockname()[1]}/{FILE}")
        with pytest.raises(InputError, match="timed out"):
            perceptual.Lpips("squeeze", CPU)


@pytest.mark.parametrize("sent", [b"", b"half", None], ids=["nothing", "a part", "another file"])
def test_a_bad_download_leaves_nothing_behind(sent, cache, backbone, monkeypatch):
    """A broken connection is no file in the cache, which every later run would refuse."""
    data, _ = backbone
    know(monkeypatch, data)

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[::-1] if sent is None else sent)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(imagenet, "address", lambda _: f"http://127.0.0.1:{server.server_port}/{FILE}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(InputError, match=r"could not be downloaded \(.*; get them: curl -L"):
            perceptual.Lpips("squeeze", CPU)
        server.shutdown()
    assert list(cache.iterdir()) == []


def test_missing_weights_are_downloaded_once(cache, backbone, tmp_path, monkeypatch):
    data, _ = backbone
    know(monkeypatch, data)
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        monkeypatch.setattr(imagenet, "address", lambda _: f"http://127.0.0.1:{server.server_port}/{FILE}")
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for _ in range(2):
            perceptual.Lpips("squeeze", CPU)
        server.shutdown()
    assert asked == [f"/{FILE}"]
    assert [path.name for path in cache.iterdir()] == [FILE]
