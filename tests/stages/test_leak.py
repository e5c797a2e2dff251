"""No system may see what it is asked to guess: the whole chain, run twice, once with noise for the truth.

Every test picture has one hole, of another kind each, and everything under it is overwritten in
aligned/test.arrow. Then every stage from search and infer to blend must write the same bytes.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pretend
import pytest
import torch

from stages import blend, infer, search
from stages.images import holes, table
from stages.infer import BASELINES
from stages.models.dcgan import Discriminator, Generator
from stages.runs import params
from stages.runs.params import Runtime
from stages.training import checkpoint

ROOT = Path(__file__).parents[2]
SIZE = 64  # the least that a context encoder takes
KINDS = ("centre", "random_box", "half", "lines", "strokes", "pixels")
NETWORKS: dict[str, dict[str, object]] = {
    "autoencoder": {"size": SIZE, "width": 2},
    "partial_conv": {"size": SIZE, "width": 4, "refine": 1, "residual": True},
    "dmfn": {"size": SIZE, "width": 4, "blocks": 1},
    "context_encoder": {"size": SIZE, "encoder": "alexnet", "objective": "vae", "bottleneck": 8, "width": 2},
}
METHODS = dict.fromkeys(("dcgan", *NETWORKS, *BASELINES), "exact") | {"telea": "sobel", "navier_stokes": "coupled"}
RUNTIME = Runtime(threads=1)
PARAMS = {
    "search": {"dcgan": {"model": "dcgan", "dataset": "x", "iterations": 5, "starts": 8, "batch": 4}},
    "infer": {name: pretend.classical(name) for name in BASELINES}
    | {name: {"network": name, "dataset": "x", "checkpoint": f"{name}.safetensors"} for name in NETWORKS},
    "blend": {
        name: {"system": name, "dataset": "x", "method": method} | ({} if method == "exact" else {"iterations": 20})
        for name, method in METHODS.items()
    },
}


def write_checkpoint(path: Path) -> None:
    torch.manual_seed(0)
    if path.stem in NETWORKS:
        network = import_module(f"stages.models.{path.stem}").Network(**NETWORKS[path.stem])
        tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
        checkpoint.save(path, tensors, {"network": path.stem, "arguments": NETWORKS[path.stem]})
        return
    shape = {"size": SIZE, "latent": 16, "width": 8, "kernel": 5}
    parts = {"generator": Generator(**shape), "discriminator": Discriminator(SIZE, 8, 5)}
    tensors = {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}
    checkpoint.save(path, tensors, {"network": "dcgan", "arguments": shape, "params": {"prior": "uniform"}})


def checkpoint_of(home: Path, name: str) -> Path:
    return home / f"{name}.safetensors" if name in NETWORKS else ROOT / "stages" / "models" / "no_checkpoint.txt"


def write_tables(home: Path, noisy: bool) -> None:
    (home / "aligned").mkdir(parents=True)
    (home / "masks").mkdir()
    drawn = [holes.draw(kind, SIZE, holes.keyed_rng(0, kind)) for kind in KINDS]
    rng = np.random.default_rng(5)
    for split, first in (("train", 100), ("val", 200), ("test", 0)):
        with (
            table.writing_pictures(home / "aligned" / f"{split}.arrow", (SIZE, SIZE), table.ALIGNED) as pictures,
            table.writing_holes(home / "masks" / f"{split}.arrow", (SIZE, SIZE)) as masks,
        ):
            for number, (kind, hole) in enumerate(zip(KINDS, drawn, strict=True), first):
                picture = pretend.picture(number, SIZE)
                if noisy and split == "test":
                    picture[hole] = rng.integers(0, 256, (hole.sum(), 3), np.uint8)
                pictures.append(picture, *pretend.key(number), [1.0, 0, 0, 0, 1, 0], None)
                masks.append(table.pack(hole), *pretend.key(number), kind, float(hole.mean()))


def run(home: Path, name: str) -> None:
    """`search` or `infer`, then `blend`."""
    tables, inpainted = (home / "aligned", home / "masks"), home / "inpainted" / name

    def given(stage: ModuleType) -> Any:
        section = f"{stage.__name__.removeprefix('stages.')}.{name}"
        return params.section(PARAMS, section, stage.Params)

    if name == "dcgan":
        search.search(home / "dcgan.safetensors", *tables, inpainted, given(search), RUNTIME, name)
    else:
        infer.infer(checkpoint_of(home, name), *tables, inpainted, given(infer), RUNTIME, name)
    blend.blend(*tables, inpainted, home / "blended" / name, given(blend), name)


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The chain on the true pictures and on those with noise under the holes."""
    homes = tmp_path_factory.mktemp("true"), tmp_path_factory.mktemp("noisy")
    for home in homes:
        for name in ("dcgan", *NETWORKS):
            write_checkpoint(home / f"{name}.safetensors")
        write_tables(home, noisy=home is homes[1])
        for name in METHODS:
            run(home, name)
    return homes


def test_the_noise_lies_under_every_hole(chains: tuple[Path, Path]) -> None:
    """Else the next test would prove nothing."""
    true, noisy = (table.Table(home / "aligned" / "test.arrow").pictures() for home in chains)
    hole = table.Table(chains[0] / "masks" / "test.arrow").holes()
    changed = (true != noisy).any(axis=3)
    assert not changed[~hole].any()
    assert (changed.sum(axis=(1, 2)) > 0.9 * hole.sum(axis=(1, 2))).all()


@pytest.mark.parametrize("name", METHODS)
def test_the_truth_under_the_hole_changes_no_byte(name: str, chains: tuple[Path, Path]) -> None:
    true, noisy = (
        {path.relative_to(home): path.read_bytes() for path in home.glob(f"*ed/{name}/*")} for home in chains
    )
    assert {path.name for path in true} >= {"completed.arrow", "guide.arrow", "blended.arrow"}
    assert true == noisy
