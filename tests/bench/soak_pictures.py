"""Damaged pictures of every format through the decoder: `nice python tests/bench/soak_pictures.py [COUNT] [SEED]`.

Real photos are encoded in each format, damaged in one of several ways, and read. It fails where

- the process crashes, takes more than 10 seconds, or more than 1 GiB of memory;
- anything but a picture or a BadPicture comes out;
- a picture is kept that differs visibly from the photo (more than 1 % of its pixels by over 32 levels, all of them by
  over 4 on average, or another size) and a second reader does not find the same in the bytes: OpenCV, without a warning
  and with the same pixels. For PNG also every checksum must be right, which Pillow's `verify` tells.

BMP, PPM and TIFF without compression have no checksum, and almost any bits are a valid WebP, HEIC or LZW stream: there
damage cannot be told from another picture. The former are not read twice, and HEIC has no second reader. For JPEG,
`strict_jpeg.py` also counts what no encoder writes, and libjpeg passes over.
"""

from __future__ import annotations

import collections
import contextlib
import io
import multiprocessing
import multiprocessing.connection
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parent))

import strict_jpeg

from stages.images.decode.picture import BadPicture
from stages.images.decode.read import read

PHOTOS = Path(__file__).parents[3] / "shared" / "data"
SECONDS, MEMORY = 10, 1 << 30

try:
    import pillow_heif
except ImportError:
    pillow_heif = None


def pillow(kind: str, mode: str = "RGB", **options: Any) -> Callable[[Image.Image], bytes]:
    def encode(photo: Image.Image) -> bytes:
        stream = io.BytesIO()
        photo.convert(mode).save(stream, kind, **options)
        return stream.getvalue()

    return encode


def png16(photo: Image.Image) -> bytes:
    return cv2.imencode(".png", np.asarray(photo)[..., ::-1].astype(np.uint16) * 257)[1].tobytes()


def tiff16(photo: Image.Image) -> bytes:
    return pillow("TIFF", "I;16")(Image.fromarray(np.asarray(photo.convert("L")).astype(np.uint16) * 257))


def heic(photo: Image.Image) -> bytes:
    stream = io.BytesIO()
    pillow_heif.from_pillow(photo).save(stream, quality=80)
    return stream.getvalue()


CODINGS = {
    "JPEG 4:2:0": pillow("JPEG", quality=85),
    "JPEG 4:4:4": pillow("JPEG", quality=92, subsampling=0),
    "JPEG grey": pillow("JPEG", "L", quality=80),
    "JPEG progressive": pillow("JPEG", progressive=True, quality=85),
    "JPEG restarts": pillow("JPEG", restart_marker_rows=1, quality=85),
    "PNG": pillow("PNG"),
    "PNG palette": pillow("PNG", "P"),
    "PNG 16 bits": png16,
    "TIFF": pillow("TIFF"),
    "TIFF LZW": pillow("TIFF", compression="tiff_lzw"),
    "TIFF deflate": pillow("TIFF", compression="tiff_adobe_deflate"),
    "TIFF JPEG": pillow("TIFF", compression="jpeg"),
    "TIFF 16 bits": tiff16,
    "WebP": pillow("WEBP", quality=80),
    "WebP lossless": pillow("WEBP", lossless=True, method=0),
    "AVIF": pillow("AVIF", quality=75, speed=10),
    **({"HEIC": heic} if pillow_heif else {}),
    "GIF": pillow("GIF", "P"),
    "BMP": pillow("BMP"),
    "PPM": pillow("PPM"),
}

ENDS = {"JPEG": b"\xff\xd9", "PNG": b"\0\0\0\0IEND\xaeB`\x82", "GIF": b"\0;"}


# Any pixels are valid in these, and readers differ on headers that lack a part.
UNCHECKED = ("BMP", "PPM", "TIFF", "TIFF 16 bits")


def flip(data: bytes, rng: np.random.Generator, count: int, start: int, stop: int) -> bytes:
    out = bytearray(data)
    for place in rng.integers(start, stop, count):
        out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def swap(data: bytes, rng: np.random.Generator) -> bytes:
    size = int(rng.integers(16, max(17, len(data) // 8)))
    first, second = sorted(int(n) for n in rng.integers(0, max(1, len(data) - size), 2))
    second = max(second, first + size)
    parts = data[:first], data[first : first + size], data[first + size : second], data[second : second + size]
    return parts[0] + parts[3] + parts[2] + parts[1] + data[second + size :]


def between(data: bytes, rng: np.random.Generator) -> int:
    return int(rng.integers(1, len(data)))


DAMAGES: dict[str, Callable[[bytes, np.random.Generator, str, bytes], bytes]] = {
    "one bit": lambda data, rng, *_: flip(data, rng, 1, 0, len(data)),
    "eight bits": lambda data, rng, *_: flip(data, rng, 8, 0, len(data)),
    "a bit of the header": lambda data, rng, *_: flip(data, rng, 1, 0, min(len(data), 700)),
    "zeros": lambda data, rng, *_: (
        data[: (at := between(data, rng))]
        + bytes(n := min(int(rng.integers(1, 2000)), len(data) - at))
        + data[at + n :]
    ),
    "cut": lambda data, rng, *_: data[: between(data, rng)],
    "cut by a little": lambda data, rng, *_: data[: -int(rng.integers(1, 40))],
    "cut, end pasted on": lambda data, rng, kind, _: data[: between(data, rng)] + ENDS.get(kind.split()[0], b""),
    "parts swapped": lambda data, rng, *_: swap(data, rng),
    "bytes inserted": lambda data, rng, *_: (
        data[: (at := between(data, rng))] + rng.bytes(int(rng.integers(1, 64))) + data[at:]
    ),
    "bytes lost": lambda data, rng, *_: data[: (at := between(data, rng))] + data[at + int(rng.integers(1, 64)) :],
    "another's second half": lambda data, rng, _, other: data[: len(data) // 2] + other[len(other) // 2 :],
}


def photos(count: int = 24) -> list[Image.Image]:
    found = []
    for folder in ("celeba", "lfw", "scenes", "dogs"):
        files = sorted((PHOTOS / folder).rglob("*.jpg"))
        found += files[:: max(1, len(files) * 4 // count)][: count // 4]
    shown = []
    for file in found:
        with Image.open(file) as opened:
            picture = opened.convert("RGB")
            picture.thumbnail((128, 128))
            shown.append(picture)
    return shown


class Maker:
    """The damaged file of each number: the same for the same seed."""

    def __init__(self, seed: int):
        self.seed, self.photos, self.whole = seed, photos(), {}

    def coded(self, kind: str, number: int) -> bytes:
        if (kind, number) not in self.whole:
            self.whole[kind, number] = CODINGS[kind](self.photos[number])
        return self.whole[kind, number]

    def make(self, number: int) -> tuple[str, str, bytes, bytes]:
        """Format, damage, the whole file and the damaged one."""
        rng = np.random.default_rng([self.seed, number])
        kind = list(CODINGS)[number % len(CODINGS)]
        damage = list(DAMAGES)[number // len(CODINGS) % len(DAMAGES)]
        first, second = rng.choice(len(self.photos), 2, replace=False)
        whole = self.coded(kind, int(first))
        return kind, damage, whole, DAMAGES[damage](whole, rng, kind, self.coded(kind, int(second)))


@contextlib.contextmanager
def warnings_of_c():
    """What C libraries print on standard error, as a list of one text."""
    said: list[str] = []
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield said
        finally:
            os.dup2(kept, 2)
            os.close(kept)
            file.seek(0)
            said.append(file.read().decode(errors="replace"))


def second_opinion(kind: str, data: bytes, pixels: np.ndarray) -> str:
    """Why a second reader does not find these pixels in the bytes; empty where it does."""
    if kind == "HEIC" or kind in UNCHECKED:
        return ""  # there is no second reader, or nothing to be read
    if kind.startswith("JPEG") and not data.rstrip(b"\0").endswith(ENDS["JPEG"]):
        data += ENDS["JPEG"]
    if kind.startswith("PNG"):
        try:
            with Image.open(io.BytesIO(data)) as opened:
                opened.verify()
        except Exception as error:
            return f"Pillow: {error}"
    with warnings_of_c() as said:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if bgr is None:
        return "OpenCV cannot read it"
    if kind.startswith("JPEG") and said[0]:
        return said[0].strip()
    if bgr.shape != pixels.shape:
        return f"OpenCV finds the size {bgr.shape}"
    off = np.abs(bgr[..., ::-1].astype(int) - pixels).mean()
    return f"OpenCV finds other pixels (by {off:.1f} levels)" if off > 2 else ""


def visible(pixels: np.ndarray, expected: np.ndarray) -> bool:
    if pixels.shape != expected.shape:
        return True
    off = np.abs(pixels.astype(int) - expected)
    return bool(off.mean() > 4 or (off.max(axis=2) > 32).mean() > 0.01)


def verdict(kind: str, whole: bytes, data: bytes) -> tuple[str, str]:
    """One of "rejected", "kept", "kept, another valid picture" or "FAULT", and what there is to say."""
    try:
        picture = read(data)
    except BadPicture as bad:
        return "rejected", re.split(r":| \d", str(bad))[0]
    except Exception as error:
        return "FAULT", f"{type(error).__name__}: {error}"
    if not visible(picture.pixels, read(whole).pixels):
        return "kept", ""
    if why := second_opinion(kind, data, picture.pixels):
        return "FAULT", f"{why} (remarks: {picture.remarks})"
    return "kept, another valid picture", (strict_jpeg.fault(data) or "") if kind.startswith("JPEG") else ""


def peak() -> int:
    """The most memory this process has held since the last call, in bytes."""
    found = re.search(r"VmHWM:\s*(\d+) kB", Path("/proc/self/status").read_text())
    Path("/proc/self/clear_refs").write_text("5")
    return int(found[1]) * 1024 if found else 0


def work(seed: int, numbers: multiprocessing.connection.Connection) -> None:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    cv2.setNumThreads(1)
    maker = Maker(seed)
    numbers.send(None)
    while (number := numbers.recv()) is not None:
        kind, damage, whole, data = maker.make(number)
        peak()
        start = time.perf_counter()
        result = verdict(kind, whole, data)
        seconds, memory = time.perf_counter() - start, peak()
        if memory > MEMORY:
            result = "FAULT", f"{memory >> 20} MiB"
        numbers.send((number, kind, damage, *result, seconds, memory))


class Worker:
    def __init__(self, seed: int):
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=work, args=(seed, other), daemon=True)
        self.process.start()
        other.close()
        self.pipe.recv()
        self.number, self.since = -1, 0.0

    def give(self, number: int | None) -> None:
        self.number, self.since = -1 if number is None else number, time.monotonic()
        self.pipe.send(number)


def soak(count: int, seed: int, workers: int = 2) -> list[tuple]:
    """What became of each damaged file: number, format, damage, verdict, what there is to say, seconds, bytes."""
    kinds, damages = list(CODINGS), list(DAMAGES)
    waiting, results = iter(range(count)), []
    crew = [Worker(seed) for _ in range(min(workers, count))]
    for worker in crew:
        worker.give(next(waiting))
    while len(results) < count:
        multiprocessing.connection.wait([worker.pipe for worker in crew if worker.number >= 0], timeout=1)
        for place, worker in enumerate(crew):
            if worker.number < 0:
                continue
            lost = None
            try:
                if worker.pipe.poll():
                    results.append(worker.pipe.recv())
                elif time.monotonic() - worker.since > SECONDS:
                    lost = f"over {SECONDS} s"
                else:
                    continue
            except EOFError:
                worker.process.join(5)
                lost = f"crashed, exit code {worker.process.exitcode}"
            number = worker.number
            if lost:
                worker.process.kill()
                names = kinds[number % len(kinds)], damages[number // len(kinds) % len(damages)]
                results.append((number, *names, "FAULT", lost, float(SECONDS), 0))
                crew[place] = worker = Worker(seed)
            worker.give(next(waiting, None))
    return sorted(results)


def main(count: int = 10_000, seed: int = 0) -> int:
    results = soak(count, seed)
    kinds = ("rejected", "kept", "kept, another valid picture", "FAULT")
    for column, title in ((1, "format"), (2, "damage")):
        names = list(dict.fromkeys(row[column] for row in results))
        print(f"{title:24}" + "".join(f"{kind:>30}" for kind in kinds) + f"{'in':>8}")
        for name in [*names, "all"]:
            found = collections.Counter(row[3] for row in results if name in (row[column], "all"))
            print(f"{name:24}" + "".join(f"{found[kind]:30}" for kind in kinds) + f"{sum(found.values()):8}")
        print()
    print("reasons:", dict(collections.Counter(row[4] for row in results if row[3] == "rejected").most_common()))
    jpegs = [row[4] for row in results if row[3] == kinds[2] and row[1].startswith("JPEG")]
    print("JPEG, another picture, by the strict reader:", dict(collections.Counter(jpegs).most_common()))
    bits = collections.Counter(row[3] for row in results if row[2] == "one bit" and row[1].startswith("JPEG"))
    print("JPEG, one bit:", dict(bits))
    print(f"slowest {max(row[5] for row in results):.2f} s, largest {max(row[6] for row in results) >> 20} MiB")
    faults = [row for row in results if row[3] == "FAULT"]
    for number, kind, damage, _, why, *_ in faults:
        print(f"FAULT {number}: {kind}, {damage}: {why}")
    assert len(results) == count == sum(row[3] in kinds for row in results)
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
