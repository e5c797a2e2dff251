"""A finished pipeline in small: tables as the stages before `evaluate` write them, without running those."""

import hashlib
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import save_file

from stages.images import table

NO_CHECKPOINT = Path(__file__).parent.parent / "stages" / "models" / "no_checkpoint.txt"  # a training from scratch
NO_TABLE = Path(__file__).parent.parent / "stages" / "images" / "no_table.txt"  # a training on one dataset


def picture(number: int, size: int) -> np.ndarray:
    """A face-like thing: a disc on a ground, both coloured by `number`; uint8 size x size x 3."""
    rng = np.random.default_rng(number)
    ground, skin = rng.integers(40, 216, (2, 3)).tolist()
    canvas = np.full((size, size, 3), ground, np.uint8)
    centre = (int(size * rng.uniform(0.4, 0.6)), int(size * rng.uniform(0.4, 0.6)))
    cv2.circle(canvas, centre, size // 3, skin, -1, cv2.LINE_AA)
    for side in (-1, 1):
        cv2.circle(canvas, (centre[0] + side * size // 8, centre[1] - size // 10), size // 20, (20, 20, 30), -1)
    grain = rng.normal(0, 4, canvas.shape)
    return np.clip(canvas + grain, 0, 255).astype(np.uint8)


def key(number: int) -> tuple[str, str]:
    return hashlib.sha256(str(number).encode()).hexdigest(), f"{number:04}.png"


def classical(method: str, dataset: str = "x") -> dict[str, str]:
    """An entry of `infer` for a baseline."""
    return {
        "network": "classical",
        "method": method,
        "dataset": dataset,
        "checkpoint": "stages/models/no_checkpoint.txt",
    }


def draw(kind: str, number: int, size: int) -> np.ndarray:
    hole = np.zeros((size, size), bool)
    if kind == "centre":
        hole[size // 4 : -size // 4, size // 4 : -size // 4] = True
    else:
        hole |= np.random.default_rng(number).random((size, size)) < 0.1 * (1 + number % 5)
    return hole


TRAINED = 500  # the number of the first training picture


def dataset(
    data: Path, name: str = "faces", count: int = 6, size: int = 32, kinds=("centre", "pixels"), train: int = 0
) -> None:
    """data/aligned/<name> and data/masks/<name> with `count` test pictures and `train` training ones, with holes."""
    for folder in ("aligned", "masks"):
        (data / folder / name).mkdir(parents=True)
    still = [1.0, 0, 0, 0, 1, 0]
    for split in ("train", "val", "test"):
        numbers = {"train": range(TRAINED, TRAINED + train), "val": range(0), "test": range(count)}[split]
        with table.writing_pictures(data / "aligned" / name / f"{split}.arrow", (size, size), table.ALIGNED) as writer:
            for number in numbers:
                writer.append(picture(number, size), *key(number), still, None)
        with table.writing_holes(data / "masks" / name / f"{split}.arrow", (size, size)) as writer:
            for number in numbers:
                for kind in kinds:
                    hole = draw(kind, number, size)
                    writer.append(table.pack(hole), *key(number), kind, float(hole.mean()))


def system(
    data: Path,
    name: str,
    noise: float,
    count: int = 6,
    size: int = 32,
    kinds=("centre", "pixels"),
    train: int = 0,
    trained: float = 0,
) -> None:
    """data/inpainted/<name> with `noise` levels of error in the hole, and data/blended/<name> with half of it.

    Of test pictures, and then of `train` training ones, whose error is `trained` levels.
    """
    numbers = [*((number, "test", noise) for number in range(count))]
    numbers += [(number, "train", trained) for number in range(TRAINED, TRAINED + train)]
    for folder, file, part in (("inpainted", "completed", 1.0), ("blended", "blended", 0.5)):
        (data / folder / name).mkdir(parents=True)
        path = data / folder / name / f"{file}.arrow"
        with table.writing_pictures(path, (size, size), table.COMPLETED) as writer:
            for number, split, level in numbers:
                for kind in kinds:
                    truth, hole = picture(number, size), draw(kind, number, size)
                    error = np.random.default_rng(number + 1000).normal(0, level * part, truth.shape)
                    filled = np.clip(truth + error, 0, 255).astype(np.uint8)
                    writer.append(np.where(hole[..., None], filled, truth), *key(number), kind, split)
    shutil.copy(data / "inpainted" / name / "completed.arrow", data / "inpainted" / name / "guide.arrow")


def ingested(data: Path, name: str = "faces", count: int = 6) -> None:
    """data/ingested/<name>: a remark on a kept file, two rejections of one reason, a tag in another, one by align."""
    (data / "ingested" / name).mkdir(parents=True)
    reasons = ["first of 2"] + [None] * count + ["truncated", "truncated", "not a <picture>"]
    rows = {
        "image_id": [key(number)[0] for number in range(len(reasons))],
        "path": [key(number)[1] for number in range(len(reasons))],
        "status": ["kept"] * (count + 1) + ["rejected"] * 3,
        "reason": reasons,
        "licence": ["CC0-1.0"] * len(reasons),
        "consent": ["not a person"] * len(reasons),
    }
    pq.write_table(pa.table(rows), data / "ingested" / name / "part-00000.parquet")
    unaligned = {"image_id": ["x"], "path": ["x.png"], "split": ["test"], "reason": ["no face found"]}
    pq.write_table(pa.table(unaligned), data / "aligned" / name / "rejected.parquet")


def model(data: Path, name: str, sections: dict) -> None:
    """data/models, histories and samples of a training."""
    for folder in ("models", "histories", f"samples/{name}"):
        (data / folder).mkdir(parents=True, exist_ok=True)
    tensors = {"generator.weight": np.ones((3, 4), np.float32), "discriminator.bias": np.zeros(5, np.float32)}
    save_file(tensors, data / "models" / f"{name}.safetensors", metadata={"palimpsest": json.dumps(sections)})
    members = pa.table({"image_id": ["a", "b", "c"]})
    with pa.ipc.new_file(str(data / "models" / f"{name}.members.arrow"), members.schema) as writer:
        writer.write_table(members)
    lines = [f"{step},{5 / step:.4f},{1 + step / 100:.4f},note" for step in range(10, 400, 10)]
    (data / "histories" / f"{name}.csv").write_text("\n".join(["step,generator,discriminator,remark", *lines]) + "\n")
    for step in (100, 200):
        cv2.imwrite(
            str(data / "samples" / name / f"{step:07}.png"), np.hstack([picture(step + i, 64) for i in range(8)])
        )


def curves(data: Path, name: str, count: int = 6, kinds=("centre", "pixels")) -> None:
    """data/inpainted/<name>/curves.parquet: losses that fall, each from its own height."""
    keys = [(*key(number), kind, 20 + number) for number in range(count) for kind in kinds]
    losses = [[top * 0.97**i + 5 for i in range(100)] for *_, top in keys]
    columns = {name: [row[i] for row in keys] for i, name in enumerate(("image_id", "path", "kind"))}
    columns |= {
        "split": ["test"] * len(keys),
        "losses": losses,
        "context": [[loss * 0.9 for loss in row] for row in losses],
    }
    pq.write_table(pa.table(columns), data / "inpainted" / name / "curves.parquet")


class Trap:
    """Unpickled, it makes the file named."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)
