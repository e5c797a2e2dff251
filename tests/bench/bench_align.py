"""align against PIL, two processes against one, the Arrow table against loose png: `python tests/bench/bench_align.py`.

Ratios of medians, the two sides taken in turns, so that a busy machine slows both. On real CelebA photos
(../shared). The PIL pipeline is as careful: the photo sampled at twice the crop's size, bilinear, then
averaged down. Exits 1 where a goal is missed.
"""

import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from stages import align as stage
from stages.images import landmarks as faces
from stages.images.decode.read import decode
from stages.images.table import ALIGNED, LANDMARKS, Table, writing_pictures

SHARED = Path(__file__).parents[3] / "shared"
MODEL = SHARED / "weights/face_detection_yunet_2023mar.onnx"
SIZE = 64
POINTS = np.array([[69.0, 111], [108, 112], [88, 135], [72, 152], [106, 152]])  # of a CelebA photo, roughly
ALONE = 600  # photos, by one process and by two


def by_align(data: bytes) -> np.ndarray:
    picture = decode(data)
    return stage.aligned_face(picture, POINTS, SIZE, 0.25, 0.5).pixels


def by_pil(data: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    twice = faces.similarity(POINTS, 2 * SIZE)
    back = cv2.invertAffineTransform(twice)
    back[:, 2] += 0.5 - back[:, :2].sum(axis=1) / 2  # PIL counts from the pixel's corner
    warped = picture.transform((2 * SIZE, 2 * SIZE), Image.Transform.AFFINE, back.ravel(), Image.Resampling.BILINEAR)
    return np.asarray(warped.resize((SIZE, SIZE), Image.Resampling.BOX))


def ratio(slow: Callable[[], object], fast: Callable[[], object], rounds: int) -> tuple[float, float, float]:
    """Median seconds of both, and how many times faster the second is."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds):
        for work, kept in zip((slow, fast), times, strict=True):
            start = time.perf_counter()
            work()
            kept.append(time.perf_counter() - start)
    first, second = map(statistics.median, times)
    return first, second, first / second


def report(name: str, goal: float, measured: tuple[float, float, float], count: int) -> bool:
    slow, fast, times = measured
    print(f"{name:38} {count / slow:9.0f}/s {count / fast:9.0f}/s {times:7.2f}x  goal {goal}x", flush=True)
    return times >= goal


def ingest(photos: list[bytes], folder: Path) -> Path:
    folder.mkdir()
    rows = [
        {"image": {"bytes": data, "path": str(n)}, "image_id": str(n), "path": str(n), "split": "train"}
        | {"status": "kept", "landmarks": None}
        for n, data in enumerate(photos)
    ]
    text = pa.string()
    image = pa.struct([("bytes", pa.binary()), ("path", text)])
    types = {"image": image, "image_id": text, "path": text, "split": text, "status": text, "landmarks": LANDMARKS}
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(types.items())), folder / "part-00000.parquet")
    return folder


def main() -> int:
    cv2.setNumThreads(1)
    paths = sorted((SHARED / "data/celeba/img_align_celeba").glob("*.jpg"))
    photos = [path.read_bytes() for path in paths]
    some = photos[:400]
    apart = np.mean([np.abs(by_align(data).astype(int) - by_pil(data)).mean() for data in some[:50]])
    print(f"align and PIL differ by {apart:.2f} levels on average")
    print(f"{'':38} {'before':>11} {'now':>11}")
    good = report(
        "decode + warp + crop, PIL / align",
        1.5,
        ratio(lambda: [by_pil(data) for data in some], lambda: [by_align(data) for data in some], 9),
        len(some),
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = ingest(photos[:ALONE], folder / "ingested")

        def run(workers: int) -> None:
            params = stage.Params("face", SIZE, "yunet", str(MODEL), workers=workers)
            out = folder / f"{workers}-{time.perf_counter_ns()}"
            stage.align(source, MODEL, out, params, "celeba")

        good &= report("yunet, one process / two", 1.25, ratio(lambda: run(1), lambda: run(2), 3), ALONE)

        crops = [by_align(data) for data in photos]
        table_path, loose = folder / "train.arrow", folder / "loose"
        loose.mkdir()
        with writing_pictures(table_path, (SIZE, SIZE), ALIGNED) as writer:
            for n, crop in enumerate(crops):
                writer.append(crop, str(n), str(n), [1.0, 0, 0, 0, 1, 0], None)
                Image.fromarray(crop).save(loose / f"{n:05d}.png")
        table = Table(table_path)
        rng = np.random.default_rng(0)
        batches = [rng.choice(len(crops), 64, replace=False) for _ in range(20)]

        batch = np.empty((64, SIZE, SIZE, 3), np.uint8)  # both fill it: new memory would cost more than the reading

        def from_files(rows: np.ndarray) -> np.ndarray:
            return np.stack([cv2.imread(str(loose / f"{n:05d}.png"))[..., ::-1] for n in rows], out=batch)

        def from_table(rows: np.ndarray) -> np.ndarray:
            return table.pictures(rows, out=batch)

        for rows in batches:
            assert np.array_equal(from_files(rows).copy(), from_table(rows))

        def all_batches(read: Callable[[np.ndarray], np.ndarray]) -> None:
            for rows in batches:
                read(rows)

        measured = ratio(lambda: all_batches(from_files), lambda: all_batches(from_table), 15)
        good &= report("batches of 64, loose png / table", 30, measured, 64 * len(batches))
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
