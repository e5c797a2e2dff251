"""VGG features: torchvision's own activations, from a checked file, a planted one or a fixed random draw."""

import hashlib
import io
import pickle
from pathlib import Path

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from pretend import Trap

from stages.losses.perceptual import MEAN, STD, Features
from stages.models import imagenet
from stages.runs.errors import InputError

FILES = {"vgg16": "vgg16-397923af.pth", "vgg19": "vgg19-dcbb9e9d.pth"}
LIU = ("pool1", "pool2", "pool3")


def pictures(count: int = 2, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty torch.hub cache, with downloads going to a port where nobody answers."""
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    name = imagenet.address
    monkeypatch.setattr(imagenet, "address", lambda weights: f"http://127.0.0.1:9/{name(weights).rsplit('/', 1)[1]}")
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def know(monkeypatch: pytest.MonkeyPatch, network: str, data: bytes) -> None:
    """Take `data` for the known weights of `network`."""
    monkeypatch.setitem(imagenet.WEIGHTS, network, (imagenet.WEIGHTS[network][0], hashlib.sha256(data).hexdigest()))


def fake(network: str) -> tuple[bytes, torch.nn.Module]:
    """Random convolutions as torchvision's file would hold them; without the classifier's 500 MB."""
    with torch.device("meta"):
        stack = getattr(torchvision.models, network)(weights=None, init_weights=False).features
    stack.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(7)
    for value in stack.parameters():
        value.data.normal_(0, 0.05, generator=rng)
    file = io.BytesIO()
    torch.save({f"features.{key}": value for key, value in stack.state_dict().items()}, file)
    return file.getvalue(), stack


@pytest.mark.parametrize(
    ("network", "layer", "upto", "channels"),
    [("vgg16", "pool3", 17, 256), ("vgg19", "relu4_1", 21, 512), ("vgg19", "relu2_1", 7, 128)],
)
def test_features_are_torchvisions_own(network, layer, upto, channels, cache, monkeypatch):
    """The first `upto` layers of the network in the file, on the picture as its weights expect it."""
    data, stack = fake(network)
    (cache / FILES[network]).write_bytes(data)
    know(monkeypatch, network, data)
    found = Features(network, ["relu1_1", layer], "imagenet")(pictures())
    expected = (pictures() / 2 + 0.5 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.no_grad():
        torch.testing.assert_close(found["relu1_1"], stack[:2](expected))
        torch.testing.assert_close(found[layer], stack[:upto](expected), rtol=1e-3, atol=1e-4)
    assert list(found) == ["relu1_1", layer]
    assert found[layer].shape[1] == channels


@pytest.mark.parametrize("network", FILES)
def test_another_file_under_the_right_name_is_refused(network, cache):
    (cache / FILES[network]).write_bytes(fake(network)[0])
    with pytest.raises(InputError, match=rf"{FILES[network]}: not the known weights .*curl -L"):
        Features(network, ["relu1_1"], "imagenet")


def test_a_planted_pickle_is_never_executed(cache, tmp_path, monkeypatch):
    mark = tmp_path / "executed"
    data = pickle.dumps(Trap(mark), protocol=2)
    (cache / FILES["vgg19"]).write_bytes(data)
    with pytest.raises(InputError, match="not the known weights"):
        Features("vgg19", ["relu1_1"], "imagenet")
    know(monkeypatch, "vgg19", data)  # not even if its digest were the known one
    with pytest.raises(pickle.UnpicklingError):
        Features("vgg19", ["relu1_1"], "imagenet")
    assert not mark.exists()
    pickle.loads(data)
    assert mark.exists()  # the trap works


def test_missing_weights_name_the_command(cache):
    with pytest.raises(InputError, match=r"could not be downloaded \(.*curl -L --create-dirs -o .*dcbb9e9d\.pth"):
        Features("vgg19", ["relu1_1"], "imagenet")


def test_random_weights_are_one_draw_that_leaves_torchs_own_alone():
    state = torch.get_rng_state()
    first, again = (Features("vgg16", LIU, "random")(pictures()) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    for layer in LIU:
        assert torch.equal(first[layer], again[layer])
    shorter = Features("vgg16", ["pool1"], "random")(pictures())["pool1"]
    assert torch.equal(shorter, first["pool1"]), "the layers asked for do not change the draw"


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 1000))
def test_random_features_keep_the_pictures_scale(seed):
    """He et al. 2015: the mean square of what enters each convolution stays of one order, however deep."""
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    squares = [f.square().mean().item() for f in Features("vgg16", ["relu1_2", "relu3_3"], "random")(x).values()]
    assert 0.2 < squares[1] / squares[0] < 5


def test_frozen_but_gradients_pass():
    features = Features("vgg19", ["relu3_1"], "random").train()
    assert not any(p.requires_grad for p in features.parameters())
    x = pictures().requires_grad_()
    features(x)["relu3_1"].square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().amax(dim=(1, 2, 3)).min() > 0


def test_layers_and_weights_that_do_not_exist_are_named():
    with pytest.raises(ValueError, match="vgg16 has no layer relu3_4; it has relu1_1, relu1_2, pool1"):
        Features("vgg16", ["relu3_4"], "random")  # VGG19 has it
    with pytest.raises(ValueError, match="imagenet or random, not ImageNet"):
        Features("vgg16", ["relu1_1"], "ImageNet")
