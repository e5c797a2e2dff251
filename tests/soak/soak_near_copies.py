"""Copies of real training photos and of their crops are traced, strangers are not: `python
tests/soak/soak_near_copies.py [COUNT]`, 500.

Photos of CelebA and LFW (../shared/data) are ingested, aligned and trained on, but those of some people. COUNT training
photos, and the aligned crops of as many, are each saved anew (JPEG, quality 50 to 95), resized (half to double), turned
grey, and mirrored: every copy must lead to its original's checkpoint. Of COUNT photos of the people left out, and of
their aligned crops, none may. Exits 1 where fewer than 99.5 % of the copies are traced, where a stranger is named, or
where a copy is taken for a picture of somebody else. How many photos are traced that were cut by 5 to 20 %, or turned
by three degrees, is said only.
"""

import io
import random
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

from PIL import Image, ImageOps
from ready_made import Repository, aligned, ingested

from flows.audit import crop_hashes, image
from flows.audit.copies import POSSIBLE
from stages.images.table import Table

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT.parent / "shared" / "weights" / "face_detection_yunet_2023mar.onnx"
FACES = {"mode": "face", "detector": "yunet"}
GOAL = 0.995


def jpeg(picture: Image.Image, quality: int) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return stream.getvalue()


def resized(picture: Image.Image, rng: random.Random) -> bytes:
    scale = rng.uniform(0.5, 2)
    return jpeg(picture.resize((round(picture.width * scale), round(picture.height * scale))), 95)


COPIES: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "saved anew": lambda picture, rng: jpeg(picture, rng.randint(50, 95)),
    "resized": resized,
    "grey": lambda picture, rng: jpeg(picture.convert("L"), 95),
    "mirrored": lambda picture, rng: jpeg(ImageOps.mirror(picture), 95),
}


def cut(picture: Image.Image, rng: random.Random) -> bytes:
    """With 5 to 20 % of each side's length cut off, saved anew."""
    share = rng.uniform(0.05, 0.2)
    width, height = (round(side * (1 - share)) for side in picture.size)
    left, top = rng.randint(0, picture.width - width), rng.randint(0, picture.height - height)
    return jpeg(picture.crop((left, top, left + width, top + height)), 90)


CUT: dict[str, Callable[[Image.Image, random.Random], bytes]] = {
    "cut": cut,
    "turned": lambda picture, rng: jpeg(picture.rotate(3, Image.Resampling.BICUBIC), 90),
}


def photos(data: Path) -> dict[str, tuple[str, Path]]:
    """Of each photo, by a name without folders, the person and the file."""
    people = dict(line.split() for line in (data / "celeba" / "identity_CelebA.txt").read_text().splitlines())
    found = {file.name: (f"lfw {file.parent.name}", file) for file in (data / "lfw").rglob("*.jpg")}
    return found | {
        file.name: (f"celeba {people[file.name]}", file)
        for file in (data / "celeba" / "img_align_celeba").rglob("*.jpg")
        if file.name in people
    }


def crops(folder: Path) -> dict[str, Image.Image]:
    """The crops of an aligned table, by their paths."""
    table = Table(folder / "train.arrow")
    return dict(zip(table.column("path"), map(Image.fromarray, table.pictures()), strict=True))


def copies_found(
    repository: Repository,
    folder: Path,
    originals: Mapping[str, Image.Image],
    changes: Mapping[str, Callable[[Image.Image, random.Random], bytes]],
    people: Mapping[str, str],
    rng: random.Random,
) -> tuple[int, int]:
    """How many copies of pictures, by their names, lead to a checkpoint and to their original; how many to a picture of
    somebody else."""
    folder.mkdir()
    for number, (name, picture) in enumerate(originals.items()):
        for kind, change in changes.items():
            (folder / f"{number:03} {kind} {name}").write_bytes(change(picture, rng))
    begun = time.monotonic()
    answer = image.ask(repository.home, str(folder))
    print(f"{folder.name}: {len(answer.pictures)} asked for, in {time.monotonic() - begun:.0f} s")
    traced, others = dict.fromkeys(changes, 0), 0
    for one in answer.pictures:
        kind = next(kind for kind in changes if f" {kind} " in one.asked)
        original = one.asked.partition(f" {kind} ")[2]
        right = bool(one.uses) and any(copy.path == original for copy in one.copies)
        traced[kind] += right
        if changes is COPIES and not right:
            print(f"  not traced: {one.asked}: {[copy.said() for copy in one.copies]}")
        if wrong := [copy for copy in one.copies if copy.kind != POSSIBLE and people[copy.path] != people[original]]:
            print(f"  somebody else, for {one.asked}: {[copy.said() for copy in wrong]}")
            others += 1
    for kind, right in traced.items():
        print(f"  {kind:12} {right} of {len(originals)} traced")
    return sum(traced.values()), others


def strangers_named(repository: Repository, folder: Path) -> int:
    """How many pictures of a folder, which nothing was trained on, are named as seen."""
    begun = time.monotonic()
    answer = image.ask(repository.home, str(folder))
    named = [one for one in answer.pictures if one.uses]
    possible = sum(any(copy.kind == POSSIBLE for copy in one.copies) for one in answer.pictures)
    print(
        f"{folder.name}: {len(named)} of {len(answer.pictures)} named as seen; {possible} possible; in "
        f"{time.monotonic() - begun:.0f} s"
    )
    for one in named:
        print(f"  named: {one.asked}: {[copy.said() for copy in one.copies]}")
    return len(named)


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rng = random.Random(13)
    every = photos(ROOT.parent / "shared" / "data")
    people = sorted({person for person, _ in every.values()})
    rng.shuffle(people)
    out: set[str] = set()
    while sum(person in out for person, _ in every.values()) < count:
        out.add(people.pop())
    left_out = sorted(name for name, (person, _) in every.items() if person in out)
    trained = sorted(name for name, (person, _) in every.items() if person not in out)
    with tempfile.TemporaryDirectory() as scratch:
        base = Path(scratch)
        repository = Repository(base / "home")
        begun = time.monotonic()
        table = ingested(base / "x", {name: ("train", every[name][1].read_bytes()) for name in trained})
        ingested(base / "y", {name: ("train", every[name][1].read_bytes()) for name in left_out})
        known, unknown = (aligned(base / name, detector_model=str(WEIGHTS), **FACES) for name in ("x", "y"))
        print(f"{len(trained)} photos ingested, aligned and trained on, in {time.monotonic() - begun:.0f} s")
        repository.table("x", table)
        repository.aligned("x", known, WEIGHTS, size=64, **FACES)
        rows = table.select(["path", "image_id", "split"]).to_pylist()
        kept = {row["path"]: row["image_id"] for row in rows if row["split"]}
        repository.members("net", [*kept.values()])
        repository.commit()
        begun = time.monotonic()
        answer = image.ask(repository.home, str(every[next(iter(kept))][1]))
        took = time.monotonic() - begun
        size = sum(file.stat().st_size for file in (repository.home / crop_hashes.FOLDER).iterdir())
        print(f"{answer.crops} crops hashed at the first question, in {took:.1f} s; {size} bytes")
        cropped, strange = crops(known), crops(unknown)
        photographed = {name: Image.open(every[name][1]).convert("RGB") for name in rng.sample(sorted(cropped), count)}
        chosen = {name: cropped[name] for name in rng.sample(sorted(cropped), count)}
        who = {name: person for name, (person, _) in every.items()}
        photos_found = copies_found(repository, base / "photos", photographed, COPIES, who, rng)
        crops_found = copies_found(repository, base / "crops", chosen, COPIES, who, rng)
        cut_found = copies_found(repository, base / "photos cut or turned", photographed, CUT, who, rng)
        for folder in ("strangers", "strangers' crops"):
            (base / folder).mkdir()
        for name in left_out[:count]:
            (base / "strangers" / name).write_bytes(every[name][1].read_bytes())
        for name in sorted(strange)[:count]:
            strange[name].save(base / "strangers' crops" / f"{name}.png")
        named = strangers_named(repository, base / "strangers") + strangers_named(repository, base / "strangers' crops")
    named += sum(others for _, others in (photos_found, crops_found, cut_found))
    return int(photos_found[0] + crops_found[0] < GOAL * 2 * len(COPIES) * count or named > 0)


if __name__ == "__main__":
    sys.exit(main())
