"""`palimpsest audit image`: copies of training pictures are traced, others are not, and nothing is a silent no."""

import io
import json
import os
import tempfile
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dvc_project import ENV, command, end
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from ready_made import Repository, ingested

from flows.audit import checkpoint, image, members_index
from flows.audit.copies import BYTES, NEAR, PIXELS, POSSIBLE
from flows.audit.members_index import MembersIndex
from flows.lineage import cache, digests
from stages.images import phash
from stages.runs.errors import InputError


def scene(seed: int) -> Image.Image:
    """A smooth picture that no other one looks like."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 10, 3), np.uint8)
    return Image.fromarray(coarse).resize((120, 140), Image.Resampling.BICUBIC)


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


TRAINED = [saved(scene(seed)) for seed in range(6)]
TESTED = saved(scene(6))

COPIES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "renamed": (BYTES, saved),
    "packed anew": (PIXELS, lambda picture: saved(picture, compress_level=1)),
    "as a BMP": (PIXELS, lambda picture: saved(picture, "BMP")),
    "JPEG of quality 50": (NEAR, lambda picture: saved(picture, "JPEG", quality=50)),
    "half": (NEAR, lambda picture: saved(picture.resize((60, 70)))),
    "twice": (NEAR, lambda picture: saved(picture.resize((240, 280)), "WEBP")),
    "grey": (NEAR, lambda picture: saved(picture.convert("L"))),
    "mirrored": (NEAR, lambda picture: saved(ImageOps.mirror(picture), "JPEG")),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """`one` has read pictures 0 to 3, `two` 3 to 5; 6 was for tests. `three` is newer, has read 0 and 7, and a table of
    its own."""
    scratch = tmp_path_factory.mktemp("tables")
    repository = Repository(tmp_path_factory.mktemp("audit") / "ü #1 %20?")
    pictures = {f"{number}.png": ("train", data) for number, data in enumerate(TRAINED)} | {"6.png": ("test", TESTED)}
    repository.table("x", ingested(scratch / "x", pictures))
    repository.training("one", TRAINED[:4])
    repository.training("two", TRAINED[3:])
    repository.commit()
    repository.table("x", ingested(scratch / "y", {"0.png": pictures["0.png"], "7.png": ("train", saved(scene(7)))}))
    repository.training("one", [TRAINED[0], saved(scene(7))])
    repository.commit()
    return repository


def ask(repository: Repository, scratch: Path, data: bytes, name: str = "asked") -> image.Answer:
    (scratch / name).write_bytes(data)
    return image.ask(repository.home, str(scratch / name))


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_leads_to_exactly_the_checkpoints_that_read_the_original(
    made: Repository, copy: str, tmp_path: Path
) -> None:
    kind, change = COPIES[copy]
    for number, checkpoints in {0: ["one", "one"], 3: ["one", "two"], 5: ["two"]}.items():
        answer = ask(made, tmp_path, change(scene(number)))
        (found,) = answer.pictures
        assert [(use["checkpoint"], use["kind"]) for use in found.uses] == [
            (f"data/models/{name}.safetensors", kind) for name in checkpoints
        ]
        assert [(one.kind, one.path, one.mirrored) for one in found.copies] == [
            (kind, f"{number}.png", copy == "mirrored")
        ]
        assert (answer.found, answer.missing, answer.lists, answer.tables) == (True, [], 3, 2)
        assert bool(answer.sheet) == (kind == NEAR)


def test_who_was_for_tests_or_is_unknown_has_trained_nothing(made: Repository, tmp_path: Path) -> None:
    answer = ask(made, tmp_path, saved(scene(6), "JPEG"))
    (found,) = answer.pictures
    assert ([(one.path, one.split) for one in found.copies], found.uses, answer.found) == (
        [("6.png", "test")],
        [],
        False,
    )
    answer = ask(made, tmp_path, saved(scene(100)))
    assert (answer.pictures[0].copies, answer.sheet, answer.found) == ([], None, False)
    blank = ask(made, tmp_path, saved(Image.new("RGB", (50, 50), "white")))
    assert (blank.pictures[0].copies, blank.found) == ([], False)


def test_a_crop_is_only_possible_and_shown(made: Repository, tmp_path: Path) -> None:
    original = phash.hashes(np.asarray(scene(2)))
    assert original is not None
    for margin in range(1, 30):
        crop = saved(ImageOps.crop(scene(2), margin))
        answer = ask(made, tmp_path, crop)
        if answer.pictures[0].copies[0].kind == POSSIBLE:
            break
    (found,) = answer.pictures
    assert [(one.path, one.kind) for one in found.copies] == [("2.png", POSSIBLE)]
    assert phash.NEAR < (found.copies[0].bits or 0) <= phash.POSSIBLE
    assert (found.uses, answer.found) == ([], False)
    assert answer.sheet is not None
    with Image.open(made.home / answer.sheet) as sheet:
        assert sheet.format == "PNG"
        for place, shown in enumerate((Image.open(io.BytesIO(crop)), scene(2))):  # the crop, then the original
            width = round(shown.width * 256 / shown.height)
            left = 12 + place * 268 + (256 - width) // 2
            there = np.asarray(sheet.crop((left, 12, left + width, 268)), int)
            assert np.abs(there - np.asarray(shown.resize((width, 256)), int)).max() <= 1


def test_a_folder_is_answered_picture_by_picture(made: Repository, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.jpg").write_bytes(saved(scene(3), "JPEG"))
    (folder / "sub" / "b.png").write_bytes(TRAINED[0])
    (folder / "c.png").write_bytes(TESTED)
    (folder / "d.png").write_bytes(TESTED[:300])
    (folder / "notes.txt").write_text("no picture")
    for seed in range(100, 112):
        (folder / f"{seed}.png").write_bytes(saved(scene(seed)))
    answer = image.ask(made.home, str(folder))
    assert {one.asked: len(one.uses) for one in answer.pictures if one.uses} == {"a.jpg": 2, "sub/b.png": 2}
    lines = end(command("flows.cli", ["audit", "image", str(folder)], made.home, ENV), 1)
    assert lines[0].endswith("mine: 2 of 16 pictures were trained on (3 of 3 lists of training pictures were searched)")
    told = {line.split()[0]: " ".join(line.split()[1:]) for line in lines[1:] if line.split()}
    assert told["a.jpg"].startswith(
        "recorded trained on by data/models/one.safetensors, data/models/two.safetensors; a near copy: 3.png of"
    )
    assert told["c.png"] == "verified trained on by none; the same bytes: 6.png of data/ingested/x (test)"
    assert told["d.png"] == "cannot tell cannot be read as a picture (truncated)"
    assert told["12"] == "others no copy was found"
    said = json.loads(
        "\n".join(end(command("flows.cli", ["audit", "image", str(folder), "--json"], made.home, ENV), 1))
    )
    assert len(said["pictures"]) == 16


def test_what_is_no_picture_is_one_line(made: Repository, tmp_path: Path) -> None:
    for name, data, why in (("cut.png", TESTED[:300], "truncated"), ("empty.jpg", b"", "empty file")):
        with pytest.raises(
            InputError, match=rf"{name}: no training has read these bytes, and they are no .* \({why}\)"
        ):
            ask(made, tmp_path, data, name)
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match="nothing: no pictures in this folder"):
        image.ask(made.home, str(tmp_path / "nothing"))


def test_a_table_that_is_missing_altered_or_old_is_no_silent_no(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "home")
    rows = ingested(tmp_path / "x", {"0.png": ("train", TRAINED[0]), "1.png": ("train", TRAINED[1])})
    old = repository.table("x", rows.drop_columns(["phash", "near"]))
    repository.training("one", TRAINED[:2])
    repository.commit()
    copy = saved(scene(1), "JPEG")
    answer = ask(repository, tmp_path, copy)
    assert (answer.pictures[0].uses, answer.found) == ([], True)
    assert ["2 pictures of data/ingested/x" in gone["why"] for gone in answer.missing] == [True]
    assert ask(repository, tmp_path, saved(scene(1), "BMP")).pictures[0].uses, "the pixels were looked for"

    part = repository.table("x", rows)  # ingested anew, of the same pictures: all of them are compared
    repository.commit()
    answer = ask(repository, tmp_path, copy)
    assert (len(answer.pictures[0].uses), answer.missing) == (1, [])

    whole = part.read_bytes()
    part.write_bytes(whole.replace(b"1.png", b"2.png"))
    answer = ask(repository, tmp_path, copy)
    assert answer.pictures[0].uses == []
    assert any(str(part) in gone["why"] for gone in answer.missing)
    part.unlink()
    (listing,) = repository.home.glob(f".dvc/cache/files/md5/{repository.outs['data/ingested/x'][:2]}/*.dir")
    for gone in (part, listing, old):
        gone.unlink(missing_ok=True)
        answer = ask(repository, tmp_path, copy)
        assert (answer.pictures[0].uses, answer.found) == ([], True)
        assert all(
            "neither in DVC's cache nor" in one["why"] or "no perceptual" in one["why"] for one in answer.missing
        )

    (repository.home / "data/ingested/x").mkdir(parents=True)  # the working copy will do
    (repository.home / "data/ingested/x/part-00000.parquet").write_bytes(whole)
    assert len(ask(repository, tmp_path, copy).pictures[0].uses) == 1


def test_a_list_that_was_hashed_once_is_hashed_again_when_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "FRESH", 0)
    repository = Repository(tmp_path)
    members = repository.training("one", TRAINED)
    repository.commit()
    asked = f"{1:064x}"
    assert image.ask(tmp_path, asked).remembered == 0
    assert image.ask(tmp_path, asked).remembered == 1
    before, whole = members.stat(), members.read_bytes()
    members.write_bytes(whole.replace(b".png", b".jpg"))
    os.utime(members, ns=(before.st_atime_ns, before.st_mtime_ns))
    (gone,) = image.ask(tmp_path, asked).missing
    assert str(members) in gone["why"]
    members.write_bytes(whole)
    (tmp_path / digests.FILE).write_text("[damaged")
    assert image.ask(tmp_path, asked).missing == []


def test_what_changed_a_moment_ago_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may change again within a tick of the file system's clock."""
    monkeypatch.setattr(digests, "FRESH", 3600 * 10**9)  # however slow the machine
    repository = Repository(tmp_path)
    repository.training("one", TRAINED)
    repository.commit()
    assert [image.ask(tmp_path, "0" * 64).remembered for _ in range(2)] == [0, 0]


def test_of_many_pictures_each_is_looked_up(made: Repository, tmp_path: Path) -> None:
    """A few are looked up one by one, many by a table of them."""
    for count in (2, 30):
        folder = tmp_path / str(count)
        folder.mkdir()
        for number in range(count):
            (folder / f"{number:02}.png").write_bytes(saved(scene(number)))
        used = {one.asked[:2]: len(one.uses) for one in image.ask(made.home, str(folder)).pictures if one.uses}
        assert used == dict(list({"00": 2, "01": 1, "02": 1, "03": 2, "04": 1, "05": 1, "07": 1}.items())[:count])


@given(
    st.lists(st.lists(st.integers(0, 40), max_size=30), max_size=20),
    st.integers(0, 20),
    st.lists(st.integers(0, 60), max_size=4),
)
def test_the_index_leaves_no_list_out(lists: list[list[int]], first: int, asked: list[int]) -> None:
    """Lists are added in two goes. Pictures whose ids begin alike may be taken for each other."""

    def image_id(number: int) -> str:
        return f"{number % 50:016x}{number:048x}"

    with tempfile.TemporaryDirectory() as folder:
        for part in (range(first), range(first, len(lists))):
            index = MembersIndex(Path(folder))
            for number in part:
                if number < len(lists):
                    index.add(str(number), pa.array([image_id(one) for one in lists[number]], pa.string()))
            index.save()
        known = MembersIndex(Path(folder)).of([image_id(one) for one in asked])
        starts = {one % 50 for one in asked}
        assert known == {
            str(number): not starts.isdisjoint(one % 50 for one in each) for number, each in enumerate(lists)
        }


def test_a_damaged_index_is_made_anew(made: Repository) -> None:
    file = made.home / members_index.FILE
    asked = sha256(TRAINED[3]).hexdigest()
    expected = image.ask(made.home, asked).pictures
    whole, known = file.read_bytes(), MembersIndex(made.home).of([asked])
    assert sorted(known.values()) == [False, True, True]
    for place in range(len(whole)):
        for bit in (0, 3, 7):
            file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << bit]) + whole[place + 1 :])
            assert MembersIndex(made.home).of([asked]) in ({}, known)
    file.write_bytes(whole[: len(whole) // 2])
    assert image.ask(made.home, asked).pictures == expected
    assert MembersIndex(made.home).of([asked]) == known


@pytest.mark.parametrize(
    ("ids", "why"),
    [
        (pa.array(["a" * 64, None]), "'image_id' has other things than texts"),
        (pa.array([1, 2]), "'image_id' has other things than texts"),
        (pa.array([b"\xff" * 64]).cast(pa.binary()).view(pa.string()), "Invalid UTF8"),
        (b"no list", "File is too small"),
    ],
    ids=["null", "numbers", "no text", "no Arrow"],
)
def test_a_list_that_is_none_is_named_and_the_others_are_searched(
    ids: pa.Array | bytes, why: str, tmp_path: Path
) -> None:
    repository = Repository(tmp_path)
    repository.members("bad", ["f" * 64])
    repository.training("good", TRAINED[:1])
    if isinstance(ids, bytes):
        repository.keep("data/models/bad.members.arrow", ids)
    else:
        repository.members("bad", ids)
    repository.commit()
    answer = image.ask(tmp_path, sha256(TRAINED[0]).hexdigest())
    assert [use["checkpoint"] for use in answer.pictures[0].uses] == ["data/models/good.safetensors"]
    ((said, path),) = [(gone["why"], gone["path"]) for gone in answer.missing]
    assert path == "data/models/bad.members.arrow"
    assert why in said
    cache.place(tmp_path, repository.outs["data/models/bad.safetensors"]).unlink()  # the list alone is looked at
    told = checkpoint.ask(tmp_path, "bad")
    assert [fact.word for fact in told.facts if fact.about == "trained on"] == ["cannot tell"]


def test_ids_that_are_none_come_not_into_the_index(tmp_path: Path) -> None:
    spaced = " " * 8 + "a" * 56  # two of them would move what lies between
    for number, ids in enumerate([[spaced, "b" * 64, spaced], ["a" * 64, None], [1, 2]]):
        index = MembersIndex(tmp_path)
        index.add(str(number), pa.array(ids))
        index.save()
    assert not (tmp_path / members_index.FILE).exists()


def test_what_is_no_sha256_is_looked_for_in_the_lists(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    repository.members("net", ["of an older version"])
    repository.commit()
    index = MembersIndex(tmp_path)
    index.add("0" * 32, pa.array(["f" * 64]))
    index.save()
    assert MembersIndex(tmp_path).of(["of an older version"]) == {"0" * 32: True}
    answer = image.ask(tmp_path, "f" * 64)
    assert (answer.pictures[0].uses, answer.missing) == ([], [])
