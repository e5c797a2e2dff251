"""Checkpoints from anywhere: what a file says of itself is compared before anything of that size is built."""

import json
import resource
import shutil
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from small_training import run
from test_training import SMALL, section, write_pictures

from stages import infer, search
from stages.models.context_encoder import ContextEncoder
from stages.models.dcgan import Discriminator, Generator
from stages.models.dmfn import DMFN
from stages.models.partial_conv import PartialConvUNet
from stages.runs import header
from stages.runs.errors import InputError
from stages.training import checkpoint

CPU = torch.device("cpu")
SHAPE = {"size": 16, "latent": 4, "width": 2, "kernel": 4, "upsampling": "resize"}
MADE = {"network": "dcgan", "arguments": SHAPE, "params": {"prior": "normal", "d_norm": "none", "d_width": 3}}
DMFN_SHAPE = {"size": 16, "width": 4, "blocks": 1}


def of_dcgan() -> dict[str, torch.Tensor]:
    parts = {"generator": Generator(**SHAPE), "discriminator": Discriminator(16, 3, 4, "none")}
    return {f"{part}.{name}": t for part, module in parts.items() for name, t in module.state_dict().items()}


def of_dmfn() -> dict[str, torch.Tensor]:
    return {f"network.{name}": tensor for name, tensor in DMFN(**DMFN_SHAPE).state_dict().items()}


def write(path: Path, head: dict[str, Any] | bytes, content: bytes = b"") -> Path:
    """A safetensors file of any header, right or wrong."""
    text = head if isinstance(head, bytes) else json.dumps(head).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def one_line(path: Path, load: Callable[[], object]) -> str:
    with pytest.raises(InputError) as caught:
        load()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "`dvc repro`" in str(caught.value)
    return str(caught.value)


@contextmanager
def little_memory(mib: int = 256) -> Iterator[None]:
    """No more than `mib` beyond what the process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (mib << 20), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_networks_come_back_as_they_were(tmp_path: Path) -> None:
    path, tensors = tmp_path / "a.safetensors", of_dcgan()
    checkpoint.save(path, tensors, MADE)
    found = search.load_networks(path, CPU)
    assert (found.prior, found.latent, found.size) == ("normal", 4, 16)
    for part in ("generator", "discriminator"):
        module = getattr(found, part)
        assert not module.training
        for name, tensor in module.state_dict().items():
            assert torch.equal(tensor, tensors[f"{part}.{name}"])
            assert tensor.device == CPU
    checkpoint.save(path, of_dmfn(), {"network": "dmfn", "arguments": DMFN_SHAPE})
    network, size = infer.load_network(path, "dmfn")
    assert size == 16
    assert not any(tensor.is_meta for tensor in network.state_dict().values())


HUGE = [
    ("dcgan", {"width": 100_000}, "generator.first.weight is float32 "),
    ("dcgan", {"latent": 10**12}, "generator.first.weight is float32 "),
    ("dcgan", {"size": 10**9}, "not 1000000000"),
    ("dcgan", {"width": 10**30}, "not a whole dcgan"),
    ("dmfn", {"width": 100_000}, "network.layers.0.bias is float32 4, and the network's float32 100000"),
    ("dmfn", {"blocks": 10**9}, "far more tensors than the file has"),
    ("dmfn", {"size": 4 * 10**9, "blocks": 10**9}, "far more tensors than the file has"),
    ("partial_conv", {"width": 2, "refine": 10**9}, "far more tensors than the file has"),
    ("context_encoder", {"size": 64 << 2000}, "not a whole context_encoder"),
    ("context_encoder", {"bottleneck": 10**6, "width": 10**6}, "is float32 "),
    ("autoencoder", {"width": 10**6}, "is none of the network's|it has no network"),
]
BASE = {
    "dcgan": SHAPE,
    "dmfn": DMFN_SHAPE,
    "partial_conv": {"size": 32},
    "context_encoder": {"size": 64, "encoder": "vgg", "objective": "gan", "bottleneck": 8, "width": 2},
    "autoencoder": {"size": 32},
}


@pytest.mark.parametrize(("network", "changes", "said"), HUGE, ids=lambda value: str(value)[:40])
def test_what_a_header_claims_is_compared_before_it_is_built(
    network: str, changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    """No gigabyte is taken, no thousand million layers are made: each is a line at once, in 256 MiB."""
    path = tmp_path / "a.safetensors"
    arguments = BASE[network] | changes
    match network:
        case "context_encoder":
            own: Any = {f"network.{k}": v for k, v in ContextEncoder(**BASE[network]).state_dict().items()}
        case "partial_conv":
            own = {f"network.{k}": v for k, v in PartialConvUNet(32, 2).state_dict().items()}
        case "dcgan":
            own = of_dcgan()
        case _:
            own = of_dmfn()
    checkpoint.save(path, own, MADE | {"network": network, "arguments": arguments})
    with little_memory():
        if network == "dcgan":
            line = one_line(path, lambda: search.load_networks(path, CPU))
        else:
            line = one_line(path, lambda: infer.load_network(path, network))
    assert any(part in line for part in said.split("|")), line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"size": "big"}, "size: input should be a valid integer, not big"),
        ({"size": 16.0}, "size: input should be a valid integer, not 16.0"),
        ({"size": True}, "size: input should be a valid integer, not True"),
        ({"size": -3}, "not -3"),
        ({"size": None}, "size: input should be a valid integer, not None"),
        ({"size": [16] * 100}, "size: input should be a valid integer, not [16, 16, "),
        ({"width": 0}, "not a whole dcgan"),
        ({"width": -8}, "not a whole dcgan"),
        ({"kernel": 6}, "not a whole dcgan (6)"),
        ({"upsampling": 4}, "upsampling: input should be a valid string, not 4"),
        ({"upsampling": "bicubic"}, "upsampling: must be one of transposed, resize, not 'bicubic'"),
        ({"depth": 3}, "arguments: depth: unexpected keyword argument)"),
        ({"self": 3}, "not a whole dcgan"),
        ({"latent\n": 3}, "unexpected keyword argument"),
    ],
    ids=str,
)
def test_arguments_that_the_network_does_not_take(arguments: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, of_dcgan(), MADE | {"arguments": SHAPE | arguments})
    assert said in one_line(path, lambda: search.load_networks(path, CPU))


def test_an_argument_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, of_dcgan(), MADE | {"arguments": {k: v for k, v in SHAPE.items() if k != "latent"}})
    assert "(arguments: latent: missing required argument)" in one_line(path, lambda: search.load_networks(path, CPU))


METADATA = {
    "no JSON": ("{", "not a checkpoint of Palimpsest"),
    "nested": ("[" * 100_000, "not a checkpoint of Palimpsest (RecursionError)"),
    "nested, and whole": ('{"a":' + "[" * 500 + "]" * 500 + "}", "its metadata are nested too deeply"),
    "a list": ("[]", "its metadata are no mapping"),
    "a number": ("3", "its metadata are no mapping"),
    "not a number": ('{"arguments": {"size": NaN}}', "NaN in its metadata"),
    "infinite": (
        json.dumps(MADE | {"arguments": SHAPE | {"size": 0.5}}).replace("0.5", "1e999"),
        "size: input should be a valid integer, not inf",
    ),
    "a long number": ('{"arguments": {"size": ' + "9" * 5000 + "}}", "not a checkpoint of Palimpsest"),
    "arguments": ('{"network": "dcgan", "arguments": [1]}', "arguments in its metadata is no mapping"),
    "params": ('{"network": "dcgan", "arguments": {}, "params": 3}', "params in its metadata is no mapping"),
    "no params": (json.dumps({"network": "dcgan", "arguments": SHAPE}), "its metadata have no params"),
    "no arguments": ('{"network": "dcgan", "params": {}}', "its metadata have no arguments"),
    "no network": ("{}", "holds a None, and latent search needs a dcgan"),
    "network of lists": ('{"network": [["dcgan"]]}', "holds a [['dcgan']], and latent search needs a dcgan"),
    "no prior": (json.dumps(MADE | {"params": {}}), "prior is None, and not one of uniform, normal"),
    "prior": (json.dumps(MADE | {"params": {"prior": {"a": 1}}}), "prior is {'a': 1}, and not one of"),
    "d_width": (json.dumps(MADE | {"params": {"prior": "normal", "d_width": "x"}}), "valid integer, not x"),
}


@pytest.mark.parametrize(("text", "said"), METADATA.values(), ids=METADATA)
def test_metadata_that_say_nothing_sensible(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_file(of_dcgan(), path, metadata={header.KEY: text})
    with pytest.raises(InputError) as caught:
        search.load_networks(path, CPU)
    assert str(path) in str(caught.value)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 500


F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
HEADERS: dict[str, tuple[dict[str, Any] | bytes, bytes]] = {
    "more than the file has": ({"a": {"dtype": "F32", "shape": [10**9], "data_offsets": [0, 4 * 10**9]}}, b"12345678"),
    "a shape that is not the offsets'": ({"a": F32 | {"shape": [3]}}, b"12345678"),
    "overlapping": ({"a": F32, "b": F32 | {"data_offsets": [4, 12]}}, b"123456789012"),
    "the same bytes twice": ({"a": F32, "b": F32}, b"12345678"),
    "a gap": ({"a": F32, "b": F32 | {"data_offsets": [16, 24]}}, bytes(24)),
    "backwards": ({"a": F32 | {"data_offsets": [8, 0]}}, b"12345678"),
    "negative": ({"a": F32 | {"shape": [-2]}}, b"12345678"),
    "a type unheard of": ({"a": F32 | {"dtype": "F31"}}, b"12345678"),
    "nested metadata": ({"__metadata__": {"palimpsest": {"network": "dcgan"}}, "a": F32}, b"12345678"),
    "metadata of numbers": ({"__metadata__": {"palimpsest": 3}, "a": F32}, b"12345678"),
    "metadata of another": ({"__metadata__": {"format": "pt"}, "a": F32}, b"12345678"),
    "no metadata": ({"a": F32}, b"12345678"),
    "no UTF-8": (b'{"\xff": 3}', b""),
    "not JSON": (b"{" * 64, b""),
    "nested header": (b'{"a":' + b"[" * 100_000, b""),
}


@pytest.mark.parametrize(("head", "content"), HEADERS.values(), ids=HEADERS)
def test_headers_that_are_wrong(head: dict[str, Any] | bytes, content: bytes, tmp_path: Path) -> None:
    path = write(tmp_path / "a.safetensors", head, content)
    with little_memory():
        assert "not a checkpoint of Palimpsest" in one_line(path, lambda: checkpoint.Checkpoint(path))


def test_a_header_longer_than_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    for length in (10**6, 2**63, 2**64 - 1):
        path.write_bytes(struct.pack("<Q", length) + b"{}")
        one_line(path, lambda: checkpoint.Checkpoint(path))


def damaged(**changes: Any) -> dict[str, torch.Tensor]:
    """A DMFN's tensors with others in place of some, or (None) without them."""
    tensors = of_dmfn() | {name.replace("__", "."): value for name, value in changes.items()}
    return {name: tensor for name, tensor in tensors.items() if tensor is not None}


BIAS = "network__layers__0__bias"
ONE_NAN = torch.tensor([0, 1, float("nan"), 2])
TENSORS = {
    "missing": ({BIAS: None}, "it has no network.layers.0.bias"),
    "one more": ({"network__other": torch.zeros(2)}, "network.other is none of the network's"),
    "another shape": ({BIAS: torch.zeros(5)}, "bias is float32 5, and the network's float32 4"),
    "a scalar": ({BIAS: torch.tensor(1.0)}, "bias is float32 scalar, and the network's float32 4"),
    "another type": ({BIAS: torch.zeros(4, dtype=torch.float64)}, "bias is float64 4, and the network's float32 4"),
    "half": ({BIAS: torch.zeros(4, dtype=torch.bfloat16)}, "bias is bfloat16 4, and the network's float32 4"),
    "whole numbers": ({BIAS: torch.zeros(4, dtype=torch.int64)}, "bias is int64 4, and the network's float32 4"),
    "not a number": ({BIAS: ONE_NAN}, "network.layers.0.bias is not finite"),
    "infinite": ({BIAS: torch.full((4,), torch.inf)}, "network.layers.0.bias is not finite"),
}


@pytest.mark.parametrize(("changes", "said"), TENSORS.values(), ids=TENSORS)
def test_tensors_that_are_not_the_networks(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, damaged(**changes), {"network": "dmfn", "arguments": DMFN_SHAPE})
    line = one_line(path, lambda: infer.load_network(path, "dmfn"))
    assert said in line


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.data())
@settings(max_examples=80)
def test_whatever_the_metadata_say_it_loads_or_is_one_line(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    made: Any = json.loads(json.dumps(MADE))
    for _ in range(data.draw(st.integers(1, 2))):
        node, key = data.draw(st.sampled_from([(made, k) for k in made] + [(made["arguments"], k) for k in SHAPE]))
        node[key] = data.draw(JSON)
        if not isinstance(made["arguments"], dict):
            break
    path = tmp_path_factory.getbasetemp() / "fuzz.safetensors"
    save_file(of_dcgan(), path, metadata={header.KEY: json.dumps(data.draw(st.just(made) | JSON))})
    lines: list[str] = []
    for load in (
        lambda: search.load_networks(path, CPU),
        lambda: infer.load_network(path, "dmfn"),
    ):
        try:
            load()
        except InputError as error:
            lines.append(str(error))
    assert all("fuzz.safetensors" in line for line in lines)


# ---- start: -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def aligned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("aligned"), 16)


@pytest.fixture(scope="module")
def larger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("larger"), 64)


STARTS = [
    ("train_dcgan", {"prior": "normal"}, "prior uniform (here normal)"),
    ("train_dcgan", {"d_norm": "none"}, "d_norm batch (here none)"),
    ("train_dcgan", {"d_width": 5}, "d_width 4 (here 5)"),
    ("train_dcgan", {"latent": 5}, "latent 100 (here 5)"),
    ("train_dcgan", {"kernel": 5}, "kernel 4 (here 5)"),
    ("train_dcgan", {"upsampling": "transposed", "prior": "normal"}, "upsampling resize (here transposed), prior unif"),
    ("train_dmfn", {"d_width": 3}, "d_width 2 (here 3)"),
    ("train_dmfn", {"combine": "sum"}, "combine dense (here sum)"),
    ("train_context_encoder", {"d_width": 3}, "d_width 4 (here 3)"),
    ("train_context_encoder", {"overlap": 2}, "overlap 4 (here 2)"),
    ("train_context_encoder", {"objective": "vae"}, "objective gan (here vae)"),
    ("train_autoencoder", {"upsampling": "transposed"}, "upsampling resize (here transposed)"),
    ("train_partial_conv", {"residual": False}, "residual True (here False)"),
]


@pytest.fixture(scope="module")
def first(
    aligned: Path, larger: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], tuple[Path, dict[str, Any]]]:
    """A stage's first checkpoint, and its section."""
    made: dict[str, tuple[Path, dict[str, Any]]] = {}

    def get(stage: str) -> tuple[Path, dict[str, Any]]:
        if stage not in made:
            given = section(stage, steps=1, batch=2)
            pictures = larger if stage not in ("train_dcgan", "train_dmfn") else aligned
            made[stage] = run(stage, pictures, tmp_path_factory.mktemp(stage), given).model, given
        return made[stage]

    return get


@pytest.mark.parametrize(("stage", "changes", "said"), STARTS, ids=lambda value: str(value))
def test_a_start_of_other_weights_is_refused_by_the_key_that_differs(
    stage: str, changes: dict[str, Any], said: str, first: Any, aligned: Path, larger: Path, tmp_path: Path
) -> None:
    """Of the same shapes, too: a generator of one prior has never seen the other's z."""
    start, given = first(stage)
    pictures = larger if stage not in ("train_dcgan", "train_dmfn") else aligned
    with pytest.raises(InputError) as caught:
        run(stage, pictures, tmp_path, given | changes, start)
    line = str(caught.value)
    assert line.startswith(f"start: {start}: of another network: {said}")
    assert line.endswith("set these to the checkpoint's, or start from no_checkpoint.txt")
    assert "width 4 (here 4)" not in line


@pytest.mark.parametrize(
    "changes",
    [{"objective": "hinge"}, {"saturating": True, "label_smoothing": False}, {"d_width": SMALL["width"]}],
    ids=str,
)
def test_a_start_may_go_on_by_another_loss(changes: dict[str, Any], first: Any, aligned: Path, tmp_path: Path) -> None:
    """What the logits are trained by changes; which picture looks more real does not. And `d_width` null is `width`."""
    start, given = first("train_dcgan")
    run("train_dcgan", aligned, tmp_path, given | changes, start)


OLD_NAMES = {
    "lr": "rate", "d_lr": "d_rate", "hflip": "mirror", "label_flip": "flip", "label_smoothing": "smoothing",
    "finetune_lr": "finetune_rate", "lr_ratio": "rate_ratio",
}  # fmt: skip


@pytest.mark.parametrize("stage", ["train_dcgan", "train_dmfn", "train_partial_conv", "train_context_encoder"])
def test_a_checkpoint_that_names_its_parameters_as_older_versions_did(
    stage: str, first: Any, aligned: Path, larger: Path, tmp_path: Path
) -> None:
    """It starts a training, is searched and infers: the parameters that shape its weights have kept their names."""
    start, given = first(stage)
    tensors, made = load_file(start), header.Header(start).inputs
    older = tmp_path / "older.safetensors"
    named = {OLD_NAMES.get(name, name): value for name, value in made["params"].items()}
    assert {"rate", "mirror"} < named.keys()
    checkpoint.save(older, tensors, made | {"params": named})
    run(stage, aligned if stage in ("train_dcgan", "train_dmfn") else larger, tmp_path, given, older)
    part = "generator" if stage == "train_dcgan" else "network"
    network = (
        search.load_networks(older, CPU).generator if part == "generator" else infer.load_network(older, stage[6:])[0]
    )
    assert all(torch.equal(value, tensors[f"{part}.{name}"]) for name, value in network.state_dict().items())


def test_a_start_whose_tensors_do_not_fit(first: Any, aligned: Path, tmp_path: Path) -> None:
    start, given = first("train_dcgan")
    tensors, made = load_file(start), header.Header(start).inputs
    other = tmp_path / "other.safetensors"
    for changed, said in (
        ({k: v for k, v in tensors.items() if not k.startswith("generator")}, "it has no generator.first.weight"),
        (tensors | {"discriminator.more": torch.zeros(1)}, "discriminator.more is none of the network's"),
        (tensors | {"generator.first.weight": torch.zeros(2, 2)}, "generator.first.weight is float32 2 x 2, and the"),
        (tensors | {"discriminator.last.bias": torch.full((1,), torch.nan)}, "discriminator.last.bias is not finite"),
    ):
        checkpoint.save(other, changed, made)
        with pytest.raises(InputError) as caught:
            run("train_dcgan", aligned, tmp_path / said[:9] / str(len(changed)) / said[-9:], given, other)
        assert str(caught.value).startswith(f"start: {other}: not a whole dcgan ({said}")
        assert str(caught.value).endswith("get it anew, or start from no_checkpoint.txt")


# ---- a training's state -------------------------------------------------------------------------------------------


STATES: dict[str, tuple[Callable[[dict[str, Any], dict[str, Any]], object], str]] = {
    "step": (lambda tensors, said: said.update(step="5"), "step: input should be a valid integer"),
    "steps": (lambda tensors, said: said.update(step=99), "step 99 of 6"),
    "history": (lambda tensors, said: said.update(history=[{"l1": "x"}]), "history.0.l1: input should be a valid"),
    "nothing": (lambda tensors, said: said.clear(), "step: field required"),
    "seen": (
        lambda tensors, said: tensors.update({"seen.data": torch.zeros(3, dtype=torch.uint8)}),
        "`seen.data` is not of the 50 pictures of ",
    ),
    "no moment": (lambda tensors, said: tensors.pop("adam.0.exp_avg"), "it has no adam.0.exp_avg"),
    "one more": (lambda tensors, said: tensors.update({"adam.999.step": torch.tensor(1.0)}), "adam.999.step is none"),
    "a moment's shape": (lambda tensors, said: tensors.update({"adam.0.exp_avg": torch.zeros(3)}), "adam.0.exp_avg is"),
    "a moment's name": (lambda tensors, said: tensors.update({"adam.x": torch.zeros(3)}), "adam.x is none of"),
    "weights": (lambda tensors, said: tensors.pop("averaged.encoder.0.weight"), "it has no averaged.encoder.0.weight"),
    "NaN": (lambda tensors, said: tensors["network.encoder.0.bias"].fill_(torch.nan), "0.bias is not finite"),
}


@pytest.fixture(scope="module")
def state(larger: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """The state folder of an autoencoder's training that was killed behind its last step, and its section."""
    home, given = tmp_path_factory.mktemp("killed"), section("train_autoencoder", steps=6, batch=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shutil.rmtree", lambda *_, **__: None)  # what a kill before the outputs are in place leaves
        run("train_autoencoder", larger, home, given)
    return home / "state", given


@pytest.mark.parametrize(("damage", "said"), STATES.values(), ids=STATES)
def test_a_damaged_state_is_one_line(damage: Any, said: str, state: Any, larger: Path, tmp_path: Path) -> None:
    folder, given = state
    shutil.copytree(folder, tmp_path / "state")
    (file,) = (tmp_path / "state").glob("*/state.safetensors")
    tensors, progress = load_file(file), header.Header(file).inputs
    damage(tensors, progress)
    checkpoint.save(file, tensors, progress)
    with pytest.raises(InputError) as caught:
        run("train_autoencoder", larger, tmp_path, given)
    assert f"{file}: not a whole checkpoint (" in str(caught.value)
    assert said in str(caught.value)
    assert str(caught.value).endswith("remove it, and the training begins anew")


def test_a_whole_state_is_gone_on_from(state: Any, larger: Path, tmp_path: Path) -> None:
    folder, given = state
    shutil.copytree(folder, tmp_path / "state")
    model = run("train_autoencoder", larger, tmp_path, given).model
    assert model.read_bytes() == (folder.parent / "out" / model.name).read_bytes()
    assert np.isfinite(load_file(model)["network.encoder.0.weight"].numpy()).all()
