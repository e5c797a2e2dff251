"""Pictures brought to one frame: faces by their eyes to a template, other pictures by their centre.

A face's landmarks come from the dataset's annotations where it has them, else from a detector
(`stages/images/faces.py`, `haar.py`). The similarity that puts both eyes exactly on the template is
stored with each crop, so that a hole, a bar or a completed face finds its way back to the
photo. What cannot be aligned is rejected with a reason, and never stops a run.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass as plain
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from pydantic.dataclasses import dataclass
from tqdm import tqdm

from stages.images import landmarks as faces
from stages.images.decode.picture import BadPicture
from stages.images.decode.read import decode
from stages.images.faces import YuNet
from stages.images.haar import Haar
from stages.images.pool import processes
from stages.images.table import ALIGNED, SPLITS, Writer, writing_pictures
from stages.runs import command
from stages.runs.errors import InputError
from stages.runs.params import STRICT, refuse_idle

COLUMNS = ("image", "image_id", "path", "split", "status", "landmarks")  # of data/ingested, as they are read

CHUNK = 64  # pictures a task: enough to hide what passing them between processes costs
CHUNK_BYTES = 8 << 20  # and fewer of large photos: several tasks wait in memory
FEW = 256  # pictures; below, starting processes costs more than they save
CLOSEST = 4.0  # px between the eyes; closer ones fix no similarity

REJECTED = pa.schema([(name, pa.string()) for name in ("image_id", "path", "split", "reason")])


@dataclass(frozen=True, config=STRICT)
class Params:
    mode: Literal["face", "centre"]  # faces to the template, or the largest centred square
    side: Annotated[int, Field(ge=32, le=512, multiple_of=8)]  # px, the crop's side
    detector: Literal["annotations", "yunet", "haar"]  # for faces without annotated landmarks
    detector_model: str  # path of YuNet's .onnx file; `dvc.yaml` hands it to the command
    score_threshold: Annotated[float, Field(gt=0, le=1)] = 0.9  # YuNet's confidence from which on a face is one
    max_outside: Annotated[float, Field(ge=0, le=1)] = 0.25  # share of a crop that may lie outside its photo
    min_frontality: Annotated[float, Field(ge=0)] = 0.5  # eye distance over eye-to-mouth distance; lower is profile
    workers: Annotated[int, Field(ge=1)] = 2  # processes; the output does not depend on it

    def __post_init__(self) -> None:
        if self.mode == "centre":
            refuse_idle(self, "mode: centre", ["score_threshold", "max_outside", "min_frontality"])
            if self.detector != "annotations":
                raise ValueError(f"detector: {self.detector} would do nothing with mode: centre: set annotations")
        if self.detector != "yunet":
            refuse_idle(self, f"detector: {self.detector}", ["score_threshold"])


@plain(frozen=True, slots=True)
class Row:
    """One kept picture of the ingested table."""

    data: bytes
    image_id: str
    path: str
    split: str
    landmarks: list[float] | None


@plain(frozen=True, slots=True)
class Crop:
    """One aligned picture."""

    pixels: np.ndarray  # uint8, size x size x 3
    transform: np.ndarray  # 2 x 3, original to crop
    landmarks: np.ndarray | None  # 5 x 2, in the crop


class Unalignable(Exception):
    """A picture that cannot be brought to the frame: the message is the reason, in a few words."""


# ---- one picture ------------------------------------------------------------------------------------------------


def aligned_centre(picture: np.ndarray, landmarks: np.ndarray | None, size: int) -> Crop:
    """The largest centred square of a uint8 H x W x 3 picture; landmarks (5 x 2) are carried along."""
    transform = faces.centre(picture.shape[0], picture.shape[1], size)
    carried = None if landmarks is None else faces.apply(transform, landmarks)
    return Crop(faces.centre_crop(picture, size), transform, carried)


def aligned_face(
    picture: np.ndarray, landmarks: np.ndarray, size: int, max_outside: float, min_frontality: float
) -> Crop:
    """The face of a uint8 H x W x 3 picture, its eyes on the template; raises Unalignable."""
    eyes = float(np.hypot(*(landmarks[1] - landmarks[0])))
    if not eyes >= CLOSEST:  # also where they are no numbers
        raise Unalignable(f"eyes less than {CLOSEST:g} px apart")
    if faces.frontality(landmarks) < min_frontality:
        raise Unalignable("profile")
    transform = faces.similarity(landmarks, size)
    if faces.outside(transform, size, picture.shape[0], picture.shape[1]) > max_outside:
        raise Unalignable("too much of the crop lies outside the picture")
    return Crop(faces.crop(picture, transform, size), transform, faces.apply(transform, landmarks))


def make_detector(params: Params, model: Path, name: str) -> faces.Detector | None:
    """The detector that `params` ask for; raises InputError where it cannot be had."""
    if params.mode == "centre" or params.detector == "annotations":
        return None
    if params.detector == "haar":
        return Haar()
    return YuNet(model, params.score_threshold, f"datasets.{name}.align.detector_model")


def align_one(row: Row, params: Params, detector: faces.Detector | None) -> Crop:
    """Decode and align one picture; raises BadPicture, NoFace or Unalignable with the reason."""
    picture = decode(row.data)
    known = None if row.landmarks is None else np.asarray(row.landmarks, np.float64).reshape(5, 2)
    if params.mode == "centre":
        return aligned_centre(picture, known, params.side)
    if known is not None:
        found = faces.ordered(known)
    elif detector is not None:
        found = detector(picture)
    else:
        raise Unalignable("no annotated landmarks")
    return aligned_face(picture, found, params.side, params.max_outside, params.min_frontality)


# ---- many, in several processes ---------------------------------------------------------------------------------

Result = tuple[Row, Crop | str]  # the row without its bytes; the crop, or the reason for none

_worker: dict[str, Any] = {}  # what a worker process keeps from task to task: its parameters and its detector


def _start(params: Params, model: Path, name: str) -> None:
    faces.single_thread()
    _worker.update(params=params, detector=make_detector(params, model, name))


def _in_worker(rows: list[Row]) -> list[Result]:
    return align_rows(rows, _worker["params"], _worker["detector"])


def align_rows(rows: list[Row], params: Params, detector: faces.Detector | None) -> list[Result]:
    """Every row aligned or refused, in order."""
    results: list[Result] = []
    for row in rows:
        outcome: Crop | str
        try:
            outcome = align_one(row, params, detector)
        except (BadPicture, faces.NoFace, Unalignable) as error:
            outcome = str(error)
        results.append((Row(b"", row.image_id, row.path, row.split, None), outcome))
    return results


def align_together(chunks: Iterable[list[Row]], params: Params, model: Path, name: str) -> Iterator[Result]:
    """Every row of `chunks` aligned by `params.workers` processes, in the rows' order."""
    with processes(params.workers, _start, params, model, name) as pool:
        waiting: deque[Future[list[Result]]] = deque()
        for rows in chunks:
            waiting.append(pool.submit(_in_worker, rows))
            if len(waiting) > 2 * params.workers:  # so that memory stays bounded
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()


# ---- the tables -------------------------------------------------------------------------------------------------


def read_kept(ingested: Path) -> tuple[int, Iterator[list[Row]]]:
    """How many pictures of an ingested folder are kept, and those, in its order, a task's at a time."""
    files = sorted(ingested.glob("*.parquet"))
    try:
        status = [pq.read_table(file, columns=["status"])["status"].to_pylist() for file in files]
        for file in files:
            missing = set(COLUMNS) - set(pq.read_schema(file).names)
            if missing:
                raise InputError(f"{file}: no column {min(missing)!r}; run ingest again")
    except (pa.ArrowException, OSError, ValueError):
        raise InputError(f"{ingested}: not readable as parquet; run ingest again") from None
    total = sum(value == "kept" for values in status for value in values)
    if not total:
        raise InputError(f"{ingested}: holds no kept picture; run ingest again")
    return total, _chunks(row for file in files for row in _rows(file))


def _chunks(rows: Iterable[Row]) -> Iterator[list[Row]]:
    chunk: list[Row] = []
    for row in rows:
        chunk.append(row)
        if len(chunk) == CHUNK or sum(len(one.data) for one in chunk) >= CHUNK_BYTES:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _rows(file: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(batch_size=CHUNK, columns=list(COLUMNS)):
                for row in batch.to_pylist():
                    if row["status"] == "kept":
                        yield Row(row["image"]["bytes"], row["image_id"], row["path"], row["split"], row["landmarks"])
    except (pa.ArrowException, OSError, ValueError) as error:  # damage inside a page shows only here
        raise InputError(f"{file}: damaged ({str(error).splitlines()[0]}); run ingest again") from None


def align(ingested: Path, detector_model: Path, aligned: Path, params: Params, name: str) -> None:
    """Aligns the kept pictures of `ingested` into `aligned`: train.arrow, val.arrow, test.arrow, rejected.parquet."""
    total, chunks = read_kept(ingested)
    faces.single_thread()
    detector = make_detector(params, detector_model, name)  # where workers make their own: its faults show here
    results = (
        align_together(chunks, params, detector_model, name)
        if params.workers > 1 and total >= FEW
        else (result for rows in chunks for result in align_rows(rows, params, detector))
    )
    aligned.mkdir()
    rejected: list[tuple[str, str, str, str]] = []
    with ExitStack() as stack:
        writers: dict[str, Writer] = {
            split: stack.enter_context(writing_pictures(aligned / f"{split}.arrow", (params.side,) * 2, ALIGNED))
            for split in SPLITS
        }
        for row, outcome in tqdm(results, f"align {name}", total, unit="picture", mininterval=1, disable=None):
            if isinstance(outcome, str):
                rejected.append((row.image_id, row.path, row.split, outcome))
                continue
            # To a thousandth of a pixel: both eyes are then the template's in every picture, to the bit.
            points = None if outcome.landmarks is None else outcome.landmarks.ravel().round(3).astype(np.float32)
            writers[row.split].append(outcome.pixels, row.image_id, row.path, outcome.transform.ravel(), points)
    if len(rejected) == total:
        counts = Counter(reason for *_, reason in rejected).most_common()
        reasons = ", ".join(f"{reason} ({count})" for reason, count in counts)
        raise InputError(f"{ingested}: none of {total} pictures could be aligned: {reasons}; see datasets.{name}.align")
    columns = list(zip(*rejected, strict=True)) or [()] * len(REJECTED)
    table = pa.Table.from_arrays([pa.array(column, pa.string()) for column in columns], schema=REJECTED)
    pq.write_table(table, aligned / "rejected.parquet", compression="none")


if __name__ == "__main__":
    command.run(
        align,
        sections={"params": "datasets.{name}.align"},
        inputs=("ingested", "detector_model"),
        outputs=("aligned",),
    )
