"""Copies of real training photos are traced, strangers are not: `python tests/soak/soak_near_copies.py [COUNT]`, 500.

Photos of CelebA and LFW (../shared/data) are ingested and trained on, but those of some people. Of COUNT training
photos each is saved anew (JPEG, quality 50 to 95), resized (half to double), turned grey, and mirrored: every copy must
lead to its original's checkpoint. Of COUNT photos of the people left out none may. Exits 1 where fewer than 99.5 % of
the copies are traced, or where a stranger is named.
"""

import io
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

from PIL import Image, ImageOps
from ready_made import Repository, ingested

from flows.audit import image
from flows.audit.copies import POSSIBLE

ROOT = Path(__file__).parents[2]
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


def photos(data: Path) -> dict[str, tuple[str, Path]]:
    """Of each photo, by a name without folders, the person and the file."""
    people = dict(line.split() for line in (data / "celeba" / "identity_CelebA.txt").read_text().splitlines())
    found = {file.name: (f"lfw {file.parent.name}", file) for file in (data / "lfw").rglob("*.jpg")}
    return found | {
        file.name: (f"celeba {people[file.name]}", file)
        for file in (data / "celeba" / "img_align_celeba").rglob("*.jpg")
        if file.name in people
    }


def main() -> int:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 500
    rng = random.Random(13)
    every = photos(ROOT.parent / "shared" / "data")
    people = sorted({person for person, _ in every.values()})
    rng.shuffle(people)
    out: set[str] = set()
    while sum(person in out for person, _ in every.values()) < count:
        out.add(people.pop())
    strangers = sorted(name for name, (person, _) in every.items() if person in out)[:count]
    trained = sorted(name for name, (person, _) in every.items() if person not in out)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        repository = Repository(base / "home")
        begun = time.monotonic()
        table = ingested(base / "x", {name: ("train", every[name][1].read_bytes()) for name in trained})
        print(f"{len(trained)} photos ingested and trained on, in {time.monotonic() - begun:.0f} s")
        repository.table("x", table)
        ids = [row["image_id"] for row in table.select(["image_id", "split"]).to_pylist() if row["split"]]
        repository.members("net", ids)
        repository.commit()
        kept = {row["path"] for row in table.select(["path", "split"]).to_pylist() if row["split"]}
        chosen = rng.sample(sorted(kept), count)
        (base / "copies").mkdir()
        (base / "strangers").mkdir()
        for number, name in enumerate(chosen):
            with Image.open(every[name][1]) as picture:
                for kind, change in COPIES.items():
                    (base / "copies" / f"{number:03} {kind} {name}").write_bytes(change(picture.convert("RGB"), rng))
        for name in strangers:
            (base / "strangers" / name).write_bytes(every[name][1].read_bytes())
        begun = time.monotonic()
        copies = image.ask(repository.home, str(base / "copies"))
        traced = dict.fromkeys(COPIES, 0)
        for one in copies.pictures:
            kind = next(kind for kind in COPIES if f" {kind} " in one.asked)
            original = one.asked.partition(f" {kind} ")[2]
            right = bool(one.uses) and any(copy.path == original for copy in one.copies)
            traced[kind] += right
            if not right:
                print(f"  not traced: {one.asked}: {[copy.said() for copy in one.copies]}")
        print(f"{len(copies.pictures)} copies asked for, in {time.monotonic() - begun:.0f} s")
        for kind, right in traced.items():
            print(f"{kind:12} {right} of {count} traced")
        answer = image.ask(repository.home, str(base / "strangers"))
        named = [one for one in answer.pictures if one.uses]
        possible = sum(any(copy.kind == POSSIBLE for copy in one.copies) for one in answer.pictures)
        print(f"strangers    {len(named)} of {len(answer.pictures)} named as seen; {possible} possible")
        for one in named:
            print(f"  named: {one.asked}: {[copy.said() for copy in one.copies]}")
    return int(sum(traced.values()) < GOAL * len(COPIES) * count or bool(named))


if __name__ == "__main__":
    sys.exit(main())
