"""The classical baselines: worked by hand, by brute force, and blind to what lies under the hole."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx_made
import pretend
import pytest
import torch

from stages.images import batches, holes, table
from stages.infer import BASELINES, Params, infer, load_network
from stages.models import classical
from stages.runs.errors import InputError
from stages.runs.params import Runtime, build
from stages.training import checkpoint

ROOT = Path(__file__).parents[2]
SIZE = (16, 16)


def write_aligned(folder: Path, train: np.ndarray, test: np.ndarray) -> Path:
    folder.mkdir(exist_ok=True)
    for split, pictures in (("train", train), ("val", test[:0]), ("test", test)):
        with table.writing_pictures(folder / f"{split}.arrow", test.shape[1:3], table.ALIGNED) as writer:
            for i, pixels in enumerate(pictures):
                writer.append(pixels, f"{split}{i}", f"{split}{i}.png", [1, 0, 0, 0, 1, 0], None)
    return folder


def write_masks(folder: Path, drawn: dict[str, list[np.ndarray]]) -> Path:
    """Holes by kind for test0, test1, ...; rows by picture, then by kind, as `mask` has them."""
    folder.mkdir(exist_ok=True)
    shape = next(iter(drawn.values()))[0].shape
    with table.writing_holes(folder / "test.arrow", shape) as writer:
        for i in range(len(next(iter(drawn.values())))):
            for kind, made in drawn.items():
                writer.append(table.pack(made[i]), f"test{i}", f"test{i}.png", kind, float(made[i].mean()))
    return folder


def noise(count: int, seed: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *size, 3), np.uint8)


def some_holes(count: int, kind: str, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [holes.draw(kind, size, holes.keyed_rng(0, str(i), kind)) for i in range(count)]


def complete(tmp_path: Path, aligned: Path, masks: Path, to: str = "out", *, method: str, **params: object) -> Path:
    entry = build(Params, {**pretend.classical(method), **params}, "infer.x")
    infer(Path(entry.checkpoint), aligned, masks, tmp_path / to, entry, Runtime(threads=1), "x")
    return tmp_path / to


@pytest.fixture
def data(tmp_path) -> tuple[Path, Path]:
    aligned = write_aligned(tmp_path / "aligned", noise(9, 1), noise(4, 2))
    return aligned, write_masks(tmp_path / "masks", {kind: some_holes(4, kind) for kind in ("centre", "pixels")})


def test_mean_and_nearest_by_hand(tmp_path):
    train = np.empty((3, 2, 2, 3), np.uint8)
    train[:] = np.array([10, 20, 32])[:, None, None, None]
    train[:, 0, 0] = [[200] * 3, [100] * 3, [0] * 3]
    test = np.full((1, 2, 2, 3), 18, np.uint8)
    test[0, 0, 0] = 0  # the whole picture lies nearest the third, its known pixels nearest the second
    hole = np.array([[True, False], [False, False]])
    aligned = write_aligned(tmp_path / "aligned", train, test)
    masks = write_masks(tmp_path / "masks", {"corner": [hole]})

    out = complete(tmp_path, aligned, masks, method="nearest", to="nearest")
    assert np.array_equal(table.Table(out / "guide.arrow").pictures()[0], train[1])
    completed = table.Table(out / "completed.arrow").pictures()[0]
    assert completed[..., 0].tolist() == [[100, 18], [18, 18]]

    out = complete(tmp_path, aligned, masks, method="mean", to="mean")
    guide = table.Table(out / "guide.arrow").pictures()[0]
    assert guide[..., 1].tolist() == [[100, 21], [21, 21]]  # (10 + 20 + 32) / 3 = 20.67
    completed = table.Table(out / "completed.arrow").pictures()[0]
    assert completed[..., 2].tolist() == [[100, 18], [18, 18]]


@pytest.mark.parametrize("kind", ["centre", "lines", "pixels"])
def test_nearest_is_the_brute_force_one_in_any_batch(tmp_path, monkeypatch, kind):
    # Large sums and small differences: float32 sums would pick wrong ones here.
    size = (64, 64)
    base = np.random.default_rng(3).choice([2, 253], (1, *size, 3))
    pictures = (base + np.random.default_rng(4).integers(-2, 3, (60, *size, 3))).astype(np.uint8)
    train = table.Table(write_aligned(tmp_path / "aligned", pictures[:50], pictures[50:]) / "train.arrow")
    hole = np.stack(some_holes(10, kind, size))
    known = np.where(hole[..., None], 0, pictures[50:]).astype(np.uint8)
    difference = (known[:, None].astype(int) - pictures[:50]) * ~hole[:, None, ..., None]
    expected = np.square(difference).sum((2, 3, 4)).argmin(1)
    together = classical.nearest(known, hole, train)
    assert np.array_equal(together, pictures[expected])
    monkeypatch.setattr(classical, "BYTES", 7 * 64 * 64 * 24)  # seven training pictures a block
    alone = [classical.nearest(known[i : i + 1], hole[i : i + 1], train)[0] for i in range(10)]
    assert np.array_equal(alone, together)


@pytest.mark.parametrize("method", ["telea", "navier_stokes"])
def test_diffusion_continues_a_flat_picture(tmp_path, method):
    flat = np.empty((1, *SIZE, 3), np.uint8)
    flat[:] = (40, 120, 220)
    aligned = write_aligned(tmp_path / "aligned", flat[:0], flat)  # needs no training pictures
    masks = write_masks(tmp_path / "masks", {kind: some_holes(1, kind) for kind in ("centre", "half", "pixels")})
    out = complete(tmp_path, aligned, masks, method=method)
    for name in ("completed", "guide"):
        read = table.Table(out / f"{name}.arrow").pictures()
        assert np.abs(read.astype(int) - flat).max() <= 5  # OpenCV's Telea drifts by a few steps


@pytest.mark.parametrize("method", list(BASELINES))
def test_rows_are_the_holes_and_known_pixels_the_inputs(tmp_path, data, method):
    aligned, masks = data
    out = complete(tmp_path, aligned, masks, method=method)
    asked, truth = table.Table(masks / "test.arrow"), table.Table(aligned / "test.arrow").pictures()
    hole = asked.holes()
    for name in ("completed", "guide"):
        made = table.Table(out / f"{name}.arrow")
        assert made.keys() == asked.keys()
        assert made.column("kind") == asked.column("kind")
    completed, guide = (table.Table(out / f"{name}.arrow").pictures() for name in ("completed", "guide"))
    assert np.array_equal(completed[~hole], np.repeat(truth, 2, axis=0)[~hole])
    assert np.array_equal(completed[hole], guide[hole])
    if method in ("telea", "navier_stokes"):
        assert np.array_equal(guide, completed)


@pytest.mark.parametrize("method", list(BASELINES))
@pytest.mark.parametrize("kind", ["half", "pixels"])
def test_the_truth_under_the_hole_changes_no_byte(tmp_path, method, kind):
    test, made = noise(4, 2), some_holes(4, kind)
    masks = write_masks(tmp_path / "masks", {kind: made})
    honest = complete(tmp_path, write_aligned(tmp_path / "a", noise(9, 1), test), masks, "honest", method=method)
    hidden = np.where(np.stack(made)[..., None], noise(4, 99), test)
    assert not np.array_equal(hidden, test)
    blind = complete(tmp_path, write_aligned(tmp_path / "b", noise(9, 1), hidden), masks, "blind", method=method)
    for name in ("completed.arrow", "guide.arrow"):
        assert (honest / name).read_bytes() == (blind / name).read_bytes()


def test_a_hole_that_covers_everything_is_completed(tmp_path):
    aligned = write_aligned(tmp_path / "aligned", noise(3, 1), noise(1, 2))
    masks = write_masks(tmp_path / "masks", {"all": [np.ones(SIZE, bool)]})
    for method in BASELINES:
        out = complete(tmp_path, aligned, masks, to=method, method=method)
        assert len(table.Table(out / "completed.arrow")) == 1


def test_count_and_kinds_select(data):
    aligned, masks = data
    work = batches.select(aligned, masks, count=2, kinds=["pixels"])
    assert len(work) == 2
    assert set(work.kinds) == {"pixels"}
    more = batches.select(aligned, masks, count=3)
    assert set(work.keys) < set(more.keys)
    assert len(more) == 6
    assert [len(batch.kinds) for batch in more.batches(4)] == [4, 2]
    assert more.count_batches(4) == 2
    batch = next(more.batches(6))
    truth = dict(zip(more.aligned.keys(), more.aligned.pictures(), strict=True))
    assert not batch.known[batch.hole].any()
    for known, hole, key in zip(batch.known, batch.hole, batch.keys, strict=True):
        assert np.array_equal(known[~hole], truth[key][~hole])


def test_folders_that_do_not_fit_are_named(tmp_path, data):
    aligned, masks = data
    with pytest.raises(InputError, match=r"kinds: no 'eye_bar' in .*test\.arrow; it has: centre, pixels"):
        batches.select(aligned, masks, kinds=["eye_bar"])
    fewer = write_aligned(tmp_path / "fewer", noise(1, 1), noise(3, 2))
    with pytest.raises(InputError, match=r"fewer/test\.arrow: no row for test3\.png"):
        batches.select(fewer, masks)
    larger = write_aligned(tmp_path / "larger", noise(1, 1, (8, 8)), noise(4, 2, (8, 8)))
    with pytest.raises(InputError, match=r"holes of \(16, 16\), pictures of \(8, 8\)"):
        batches.select(larger, masks)
    empty = tmp_path / "empty"
    empty.mkdir()
    with table.writing_holes(empty / "test.arrow", SIZE):
        pass
    with pytest.raises(InputError, match="no holes to complete"):
        batches.select(aligned, empty)


@pytest.mark.parametrize("method", ["mean", "nearest"])
def test_no_training_pictures(tmp_path, data, method):
    bare = write_aligned(tmp_path / "bare", noise(0, 1), noise(4, 2))
    with pytest.raises(InputError, match=f"'{method}' needs training pictures and dataset 'x' has none"):
        complete(tmp_path, bare, data[1], method=method)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"method": "tela"}, "infer.x.method: input should be 'telea', 'navier_stokes', 'mean' or 'nearest'"),
        ({"method": None}, "network classical, and no other, takes a method: one of telea, navier_stokes, mean, near"),
        ({"network": "dmfn"}, "network classical, and no other, takes a method"),
        ({"network": "../x"}, "infer.x.network"),
        ({"count": 0}, "infer.x.count"),
        ({"kinds": "centre"}, "infer.x.kinds"),
        ({"radius": 0}, "infer.x.radius"),
        ({"raduis": 3}, "unknown key 'infer.x.raduis'"),
    ],
)
def test_bad_parameters_are_named(change, named):
    with pytest.raises(InputError, match=named):
        build(Params, {**pretend.classical("telea"), **change}, "infer.x")


def test_the_command(tmp_path, data):
    aligned, masks = data
    (tmp_path / "params.yaml").write_text(
        json.dumps({"runtime": {}, "infer": {"near": {**pretend.classical("nearest"), "kinds": ["pixels"]}}})
    )
    start = "import runpy, sys; runpy.run_module('stages.infer', run_name='__main__', alter_sys=True)"
    code = start + "; assert 'torch' not in sys.modules"
    arguments = ["near", "--params", tmp_path / "params.yaml", "--aligned", aligned, "--masks", masks]
    arguments += ["--checkpoint", "stages/models/no_checkpoint.txt"]
    environment = {**os.environ, "PALIMPSEST_RECORDS": str(tmp_path / "records")}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments, "--inpainted", tmp_path / "out"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""  # no progress bar where nobody watches
    here = complete(tmp_path, aligned, masks, "here", method="nearest", kinds=["pixels"])
    for name in ("completed.arrow", "guide.arrow"):
        assert (tmp_path / "out" / name).read_bytes() == (here / name).read_bytes()
    assert len(list((tmp_path / "records" / "infer@near").iterdir())) == 1


# --- Trained networks ---


def write_network(path: Path, network: str, **arguments: object) -> Path:
    torch.manual_seed(0)
    module = import_module(f"stages.models.{network}").Network(**arguments)
    tensors = {f"network.{name}": value for name, value in module.state_dict().items()}
    checkpoint.save(path, tensors, {"network": network, "arguments": arguments})
    return path


def complete_by(path: Path, data: tuple[Path, Path], out: Path, network: str, **params: object) -> Path:
    entry = build(Params, {"network": network, "dataset": "x", "checkpoint": str(path), **params}, "infer.x")
    infer(path, *data, out, entry, Runtime(threads=1), "x")
    return out


@pytest.fixture
def large(tmp_path) -> tuple[Path, Path]:
    size = (64, 64)
    aligned = write_aligned(tmp_path / "large", noise(2, 1, size), noise(3, 2, size))
    kinds = {kind: some_holes(3, kind, size) for kind in ("centre", "pixels")}
    return aligned, write_masks(tmp_path / "large_masks", kinds)


VAE = {"size": 64, "encoder": "alexnet", "objective": "vae", "bottleneck": 8, "width": 2}


def test_a_network_completes_as_its_own_forward_pass(tmp_path, data):
    path = write_network(tmp_path / "a.safetensors", "dmfn", size=16, width=4, blocks=1)
    out = complete_by(path, data, tmp_path / "out", "dmfn", batch=3)
    network, _ = load_network(path, "dmfn")
    guide, completed = table.Table(out / "guide.arrow"), table.Table(out / "completed.arrow")
    work = batches.select(*data)
    batch = next(work.batches(len(work)))
    known = torch.from_numpy(batch.known).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        output = network(known, torch.from_numpy(batch.hole)[:, None])
    expected = ((output + 1) * 127.5).permute(0, 2, 3, 1).numpy()
    assert np.abs(guide.pictures() - expected).max() <= 0.51
    assert np.array_equal(completed.pictures()[~batch.hole], batch.known[~batch.hole])
    assert np.array_equal(completed.pictures()[batch.hole], guide.pictures()[batch.hole])


def test_kinds_that_a_network_cannot_complete_are_left_out_or_refused(tmp_path, large):
    path = write_network(tmp_path / "a.safetensors", "context_encoder", **VAE)
    out = complete_by(path, large, tmp_path / "out", "context_encoder")
    assert set(table.Table(out / "completed.arrow").column("kind")) == {"centre"}
    with pytest.raises(InputError, match="network 'context_encoder' cannot complete pixels"):
        complete_by(path, large, tmp_path / "no", "context_encoder", kinds=["pixels", "centre"])


def test_a_drawn_completion_depends_on_its_seed_and_picture_alone(tmp_path, large):
    path = write_network(tmp_path / "a.safetensors", "context_encoder", **VAE)

    def drawn(name: str, **params: object) -> np.ndarray:
        return table.Table(complete_by(path, large, tmp_path / name, "context_encoder", **params) / "guide.arrow")

    mean, first, again, second = (
        drawn("m"),
        drawn("a", sample_seed=1),
        drawn("b", sample_seed=1, batch=1),
        drawn("c", sample_seed=2),
    )
    assert np.abs(first.pictures().astype(int) - again.pictures()).max() <= 1
    assert not np.array_equal(first.pictures(), second.pictures())
    assert not np.array_equal(first.pictures(), mean.pictures())
    other = write_network(tmp_path / "b.safetensors", "context_encoder", **VAE | {"objective": "gan"})
    with pytest.raises(InputError, match=r"sample_seed: network 'context_encoder' of .* draws no completions"):
        complete_by(other, large, tmp_path / "no", "context_encoder", sample_seed=1)


def test_checkpoints_that_do_not_fit_are_refused_in_one_line(tmp_path, data):
    path = write_network(tmp_path / "a.safetensors", "dmfn", size=32, width=4, blocks=1)
    with pytest.raises(InputError, match=r"a.safetensors: completes 32 x 32 pictures, dataset 'x' has 16 x 16: set"):
        complete_by(path, data, tmp_path / "no", "dmfn")
    with pytest.raises(InputError, match="holds network dmfn, not autoencoder"):
        complete_by(path, data, tmp_path / "no", "autoencoder")
    with pytest.raises(InputError, match="holds network dmfn, not nothing"):
        complete_by(path, data, tmp_path / "no", "nothing")
    checkpoint.save(tmp_path / "old.safetensors", {}, {"network": "nothing", "arguments": {"size": 16}})
    with pytest.raises(
        InputError, match=r"old\.safetensors: holds network 'nothing', and no stages/models/nothing\.py"
    ):
        complete_by(tmp_path / "old.safetensors", data, tmp_path / "no", "nothing")
    with pytest.raises(InputError, match=r"network 'dmfn' needs one: data/models/<name>.safetensors"):
        complete_by(Path("stages/models/no_checkpoint.txt"), data, tmp_path / "no", "dmfn")
    broken = tmp_path / "broken.safetensors"
    checkpoint.save(broken, {}, {"network": "dmfn", "arguments": {"size": 16, "width": 4, "blocks": 1}})
    with pytest.raises(InputError, match=r"broken\.safetensors: not a whole dmfn"):
        complete_by(broken, data, tmp_path / "no", "dmfn")


def test_a_network_from_elsewhere_completes_every_hole(tmp_path: Path, data: tuple[Path, Path]) -> None:
    aligned, masks = data
    file = onnx_made.grey(tmp_path / "grey.onnx")
    entry = build(Params, {"network": "onnx", "checkpoint": str(file), "dataset": "x"}, "infer.x")
    infer(file, aligned, masks, tmp_path / "out", entry, Runtime(threads=1), "x")
    made, pictures, drawn = (
        table.Table(path)
        for path in (tmp_path / "out" / "completed.arrow", aligned / "test.arrow", masks / "test.arrow")
    )
    keys = made.keys()
    assert len(keys) == 8
    hole = drawn.holes(drawn.find(keys))
    result, truth = made.pictures(range(8)), pictures.pictures(pictures.find([key[:2] for key in keys]))
    np.testing.assert_array_equal(result[~hole], truth[~hole])
    assert (result[hole] == 128).all()
    with pytest.raises(InputError, match="completes 32 x 32 pictures, dataset 'x' has 16 x 16"):
        infer(onnx_made.grey(file, 32), aligned, masks, tmp_path / "two", entry, Runtime(threads=1), "x")


@pytest.mark.parametrize("entry", [{"checkpoint": "a.safetensors"}, {"checkpoint": "a.onnx", "sample_seed": 1}])
def test_what_a_network_from_elsewhere_does_not_take(entry: dict) -> None:
    with pytest.raises(InputError, match="network 'onnx'"):
        build(Params, {"network": "onnx", "dataset": "x", **entry}, "infer.x")
