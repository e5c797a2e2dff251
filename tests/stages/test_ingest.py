"""The ingest stage: every input one row, no leak between splits, bad input rejected or named."""

import dataclasses
import hashlib
import io
import json
import pickle
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from stages import ingest
from stages.images import phash, sources, withdrawn
from stages.images.decode.picture import ORIENTATION
from stages.images.decode.read import decode
from stages.images.splits import Split, split_of
from stages.ingest import Params
from stages.runs import record
from stages.runs.errors import InputError
from stages.runs.params import build

ROOT = Path(__file__).parents[2]

SECTION = {
    "source": "folder",
    "root": "pictures",
    "use": "train",
    "licence": "CC0-1.0",
    "consent": "not a person",
    "origin": "a test",
    "split": {"val": 0.2, "test": 0.2},
}
PARAMS = build(Params, SECTION, "datasets.x.ingest")


def picture(seed: int, size: int = 16) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8))


def png(seed: int, size: int = 16, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture(seed, size).save(stream, "PNG", **options)
    return stream.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def rows_of(root: Path, tombstones: str = "", **changes: Any) -> dict[str, dict[str, Any]]:
    """The table of `root`, by path, in its order."""
    return {row["path"]: row for row in table_of(root, tombstones, **changes)}


def table_of(root: Path, lines: str = "", **changes: Any) -> list[dict[str, Any]]:
    """The rows of the table of `root`, where these lines are the tombstones."""
    with tempfile.TemporaryDirectory() as scratch:
        tombstones = Path(scratch, "tombstones.txt")
        tombstones.write_text(lines)
        out = Path(scratch, "out")
        ingest.ingest(root, tombstones, out, dataclasses.replace(PARAMS, **changes), "x")
        shards = [pq.read_table(shard) for shard in sorted(out.iterdir())]
    return pa.concat_tables(shards).to_pylist()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


def test_a_kept_pictures_oddities_are_its_reason_and_counted_in_the_record(tmp_path: Path) -> None:
    several = png(1, save_all=True, append_images=[picture(2)])
    write(tmp_path / "root", {"odd.png": several[:-12], "plain.png": png(1), "small.png": several[:9]})
    odd, plain, small = rows_of(tmp_path / "root").values()
    assert (odd["status"], odd["reason"]) == ("kept", "first of 2; end marker missing")
    assert odd["split"] in sources.SPLITS
    assert (plain["status"], plain["reason"]) == ("rejected", "duplicate pixels of odd.png")
    assert small["status"] == "rejected"
    assert "ingest trial: 1 kept: first of 2" in run(tmp_path, tmp_path / "root").stderr
    (written,) = (tmp_path / "records/ingest@trial").iterdir()
    assert json.loads(written.read_text())["notes"]["remarks"] == {"first of 2": 1, "end marker missing": 1}


def test_every_input_is_one_row_with_the_right_verdict(tmp_path: Path) -> None:
    whole = png(1)
    root = write(
        tmp_path / "root",
        {
            "a whole.png": whole,
            "sub/same bytes.png": whole,
            "same pixels.png": png(1, compress_level=1),
            "half.png": png(2)[:400],
            "zero.jpg": b"",
            "text.jpg": b"I am no picture",
            "speck.png": png(3, size=1),
            "Žofie\n2.png": png(4),
            "notes.txt": b"not an input",
        },
    )
    (root / "out.png").symlink_to(write(tmp_path, {"elsewhere.png": png(5)}) / "elsewhere.png")
    rows = rows_of(root)
    assert {path: row["reason"] for path, row in rows.items()} == {
        "a whole.png": None,
        "half.png": "truncated",
        "out.png": "outside the root (symlink)",
        "same pixels.png": "duplicate pixels of a whole.png",
        "speck.png": "too small: 1 x 1",
        "sub/same bytes.png": "duplicate bytes of a whole.png",
        "text.jpg": "not a picture",
        "zero.jpg": "empty file",
        "Žofie\n2.png": None,
    }
    assert list(rows) == sorted(rows)
    for row in rows.values():
        kept = row["reason"] is None
        assert row["status"] == ("kept" if kept else "rejected")
        assert (row["split"] in sources.SPLITS) == kept
        assert (row["image"]["bytes"] is not None) == kept


def test_a_kept_row_holds_the_file_and_all_that_is_known(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    stream = io.BytesIO()
    picture(0).resize((40, 24)).save(stream, "JPEG", exif=exif)
    points = ",".join(sources.LANDMARKS)
    root = write(
        tmp_path,
        {
            "a.jpg": stream.getvalue(),
            "b.png": png(2),
            "landmarks.csv": f"path,{points}\na.jpg,1,2,3,4,5,6,7,8,9,10\n".encode(),
            "pictures.csv": (
                b"path,consent,identity,split,group,purpose,collected\n"
                b"a.jpg,signed 2024-05-01,Ada,val,men,a study,2024-05\n"
            ),
        },
    )
    rows = rows_of(root)
    row = rows["a.jpg"]
    assert row.pop("image") == {"bytes": stream.getvalue(), "path": "a.jpg"}
    pixels = decode(stream.getvalue())
    assert pixels.shape == (40, 24, 3)
    seen = phash.hashes(pixels)
    assert seen is not None
    assert row == {
        "phash": seen.upright,
        "near": None,
        "image_id": sha(stream.getvalue()),
        "path": "a.jpg",
        "pixel_sha256": sha(pixels.tobytes() + b"40x24x3"),
        "source": "folder",
        "identity": "Ada",
        "split": "val",
        "width": 24,
        "height": 40,
        "landmarks": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10],
        "licence": "CC0-1.0",
        "consent": "signed 2024-05-01",
        "origin": "a test",
        "group": "men",
        "purpose": "a study",
        "collected": "2024-05",
        "status": "kept",
        "reason": None,
    }
    assert (rows["b.png"]["landmarks"], rows["b.png"]["consent"]) == (None, "not a person")


def test_a_folder_of_bad_pictures_alone_is_an_error_that_counts_them(tmp_path: Path) -> None:
    write(tmp_path, {"a.jpg": b"", "b.jpg": b"text", "c.jpg": b"text too", "d.png": png(0, size=2)})
    with pytest.raises(InputError) as caught:
        rows_of(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}: none of its 4 pictures can be used: 2 not a picture")
    assert "1 empty file" in message
    assert "1 too small" in message


def test_a_file_too_large_for_any_picture_is_not_read(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": png(0)})
    with (tmp_path / "b.bmp").open("wb") as stream:
        stream.truncate(10 << 30)  # a sparse file: it takes no room
    assert rows_of(tmp_path)["b.bmp"]["reason"] == "too large: 10240 MiB"


# Splits: the rules are proved in test_splits.py, here that pictures and lists reach them.


def labelled(root: Path, inputs: list[tuple[str, int, str | None, str | None]]) -> dict[str, dict[str, Any]]:
    """The table of pictures (name, seed, person, split); equal seeds are equal pixels, in files of other bytes."""
    notes = ["path,identity,split"]
    for name, seed, person, split in inputs:
        text = PngInfo()
        text.add_text("name", name)
        write(root, {name: png(seed, size=8, pnginfo=text)})
        notes.append(f"{name},{person or ''},{split or ''}")
    write(root, {"pictures.csv": "\n".join(notes).encode()})
    return rows_of(root)


def split_and_reason(rows: dict[str, dict[str, Any]]) -> dict[str, tuple[str | None, str | None]]:
    return {path: (row["split"], row["reason"]) for path, row in rows.items()}


inputs = st.lists(
    st.tuples(
        st.integers(0, 12),  # which picture
        st.sampled_from([None, "Ada", "Ben", "Cem", "Dua"]),
        st.sampled_from([None, "train", "val", "test"]),
    ),
    min_size=1,
    max_size=14,
)


@settings(max_examples=25, deadline=None)
@given(inputs=inputs)
def test_nothing_lies_on_two_sides_whatever_comes_in(inputs: list[tuple[int, str | None, str | None]]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        rows = list(labelled(Path(scratch), [(f"{n:02d}.png", *each) for n, each in enumerate(inputs)]).values())
    kept = [row for row in rows if row["status"] == "kept"]
    assert len(rows) == len(inputs)
    assert len(kept) == len({seed for seed, _, _ in inputs}) == len({row["pixel_sha256"] for row in kept})
    side = {row["pixel_sha256"]: row["split"] for row in kept}  # those of a rejected copy's pixels too
    for person in {row["identity"] for row in rows} - {None}:
        assert len({side[row["pixel_sha256"]] for row in rows if row["identity"] == person}) == 1
    for row, (_, _, official) in zip(rows, inputs, strict=True):
        if official:
            assert sources.SPLITS.index(side[row["pixel_sha256"]]) >= sources.SPLITS.index(official)


def test_a_copy_under_another_name_does_not_move_a_trained_picture(tmp_path: Path) -> None:
    seed = next(s for s in range(99) if split_of(pixel_sha(s), PARAMS.split) == "test")
    old = [("z.png", seed, "Ada", "train"), ("y.png", 100, "Ada", None)]
    before = split_and_reason(labelled(tmp_path / "before", old))
    after = split_and_reason(labelled(tmp_path / "after", [*old, ("a.png", seed, None, None)]))
    assert before == {"y.png": ("train", None), "z.png": ("train", None)}
    assert after == {**before, "a.png": (None, "duplicate pixels of z.png")}


def pixel_sha(seed: int) -> str:
    return ingest.pixel_digest(np.asarray(picture(seed, 8)))


def test_of_equal_pictures_the_official_test_picture_stays(tmp_path: Path) -> None:
    rows = labelled(tmp_path, [("a.png", 1, None, "train"), ("b.png", 1, None, "test"), ("c.png", 1, None, "val")])
    assert split_and_reason(rows) == {
        "a.png": (None, "duplicate pixels of b.png"),
        "b.png": ("test", None),
        "c.png": (None, "duplicate pixels of b.png"),
    }


def test_cifar10_training_copies_of_test_pictures_go(tmp_path: Path) -> None:
    def batch(*seeds: int) -> bytes:
        pixels = [np.asarray(picture(seed, 32)).transpose(2, 0, 1).reshape(-1) for seed in seeds]
        return pickle.dumps({b"data": np.stack(pixels)})

    write(tmp_path, {"data_batch_1": batch(1, 2, 3), "test_batch": batch(4, 2)})
    rows = rows_of(tmp_path, source="cifar10", split=Split(val=0, test=0))
    assert split_and_reason(rows) == {
        "data_batch_1/00000": ("train", None),
        "data_batch_1/00001": (None, "duplicate bytes of test_batch/00001"),
        "data_batch_1/00002": ("train", None),
        "test_batch/00000": ("test", None),
        "test_batch/00001": ("test", None),
    }


def test_who_is_moved_by_a_picture_of_two_people_is_named(tmp_path: Path) -> None:
    old = [("1.png", 1, "Ada", "train"), ("2.png", 2, "Ada", "train"), ("3.png", 3, "Ben", "test")]
    before = split_and_reason(labelled(tmp_path / "before", old))
    assert before == {"1.png": ("train", None), "2.png": ("train", None), "3.png": ("test", None)}
    after = split_and_reason(labelled(tmp_path / "after", [*old, ("4.png", 1, "Ben", None)]))
    assert after == {
        "1.png": (None, "duplicate pixels of 4.png"),  # which shows Ben, who is in the test
        "2.png": ("test", "moved from train to test: linked to 3.png"),
        "3.png": ("test", None),
        "4.png": ("test", None),
    }


def test_an_unknown_picture_goes_to_a_known_copy_and_is_named(tmp_path: Path) -> None:
    seed = next(s for s in range(99) if split_of(pixel_sha(s), PARAMS.split) == "test")
    labelled(tmp_path / "root", [("t.png", seed, None, None), ("z.png", seed, None, "train")])
    done = run(tmp_path, tmp_path / "root")
    assert "ingest trial: t.png: moved from test to train: linked to z.png" in done.stderr
    (written,) = (tmp_path / "records/ingest@trial").iterdir()
    assert list(json.loads(written.read_text())["notes"]["moved"]) == ["t.png"]


def test_a_withdrawn_pictures_pixels_keep_its_copies_out_when_its_file_is_gone(tmp_path: Path) -> None:
    write(tmp_path, {"b.png": png(1, compress_level=1), "d.png": png(2)})
    lines = f"{sha(png(1))}\n{ingest.pixel_digest(np.asarray(picture(1)))}\n"
    assert [row["reason"] for row in table_of(tmp_path, lines)] == ["withdrawn", None]


def test_log_and_record_name_who_moved(tmp_path: Path) -> None:
    labelled(tmp_path / "root", [("1.png", 1, "Ada", "train"), ("2.png", 2, "Ada", "test"), ("3.png", 2, "Ada", None)])
    done = run(tmp_path, tmp_path / "root")
    assert done.returncode == 0, done.stderr
    assert "ingest trial: 1.png: moved from train to test: linked to 2.png" in done.stderr
    (written,) = (tmp_path / "records/ingest@trial").iterdir()
    assert json.loads(written.read_text())["notes"] == {
        "kept": 2,
        "rejected": {"duplicate pixels": 1},
        "moved": {"1.png": "moved from train to test: linked to 2.png"},
        "near": 0,
        "remarks": {},
        "terms": [{"licence": "CC0-1.0", "consent": "not a person", "pictures": 2}],
    }


def test_rejected_pictures_have_no_say(tmp_path: Path) -> None:
    labels = [("1.png", 1, "Ada", "train"), ("2.png", 2, "Ada", "test"), ("3.png", 3, "Ada", "test")]
    labelled(tmp_path, labels)
    tombstone = sha((tmp_path / "3.png").read_bytes())
    write(tmp_path, {"2.png": png(2)[:300]})
    assert split_and_reason(rows_of(tmp_path, tombstone)) == {
        "1.png": ("train", None),
        "2.png": (None, "truncated"),
        None: (None, "withdrawn"),
    }


def test_a_picture_that_changes_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": png(1)})
    (item,) = sources.find("folder", tmp_path)
    seen = ingest.examine(item)
    assert ingest.contents(item, str(seen.image_id)) == png(1)
    for change in (png(2), b""):
        write(tmp_path, {"a.png": change})
        with pytest.raises(InputError, match=r"a\.png: changed while it was read"):
            ingest.contents(item, str(seen.image_id))


def test_a_person_in_several_official_partitions_lies_in_the_strictest(tmp_path: Path) -> None:
    write(tmp_path, {f"img_align_celeba/{number}.jpg": png(number) for number in range(5)})
    write(
        tmp_path,
        {
            "list_eval_partition.txt": b"0.jpg 0\n1.jpg 1\n2.jpg 0\n3.jpg 2\n",
            "identity_CelebA.txt": b"0.jpg 7\n1.jpg 7\n2.jpg 8\n3.jpg 9\n4.jpg 9\n",
        },
    )
    rows = rows_of(tmp_path, source="celeba")
    assert [row["split"] for row in rows.values()] == ["val", "val", "train", "test", "test"]


def test_evaluate_puts_everything_into_the_test(tmp_path: Path) -> None:
    labelled(tmp_path, [(f"{seed}.png", seed, None, "train" if seed % 2 else None) for seed in range(10)])
    rows = rows_of(tmp_path, use="evaluate").values()
    assert {(row["split"], row["reason"]) for row in rows} == {("test", None)}


# Withdrawal.


def test_a_withdrawn_picture_takes_its_copies_along(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": png(1, compress_level=1), "b.png": png(1), "c.png": png(1), "d.png": png(2)})
    line = f"# asked for on paper\n{sha(png(1)).upper()}  # b and c\n"
    assert [row["reason"] for row in table_of(tmp_path, line)] == ["withdrawn", "withdrawn", "withdrawn", None]


def photo(seed: int) -> Image.Image:
    """A smooth picture, whose copies are as near as those of photos are."""
    return picture(seed, 32).resize((160, 128), Image.Resampling.BICUBIC)


def saved(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_a_copy_that_was_saved_anew_is_withdrawn_too_and_names_the_tombstone(tmp_path: Path) -> None:
    gone, stranger = photo(1), photo(2)
    copies = {
        "half.jpg": saved(gone.resize((80, 64)), "JPEG", quality=50),
        "mirrored.jpg": saved(ImageOps.mirror(gone), "JPEG", quality=80),
        "stranger.jpg": saved(stranger, "JPEG"),
    }
    hashed = phash.hashes(np.asarray(gone))
    assert hashed
    line = withdrawn.line(sha(saved(gone)), ingest.pixel_digest(np.asarray(gone)), hashed.upright)
    half, mirrored, other = table_of(write(tmp_path, copies), f"# none\n{line}\n")
    for row in (half, mirrored):
        assert row["reason"].startswith(f"withdrawn: a near copy of tombstone {sha(saved(gone))[:10]} (")
        assert ingest.kind(row["reason"]) == "withdrawn"
    assert (other["path"], other["status"]) == ("stranger.jpg", "kept")
    # Without its hash, only the same bytes and pixels are refused.
    assert [row["status"] for row in table_of(tmp_path, line.rpartition(" ")[0])] == ["kept"] * 3


def test_the_row_of_a_withdrawn_picture_has_its_digests_and_the_reason_alone(tmp_path: Path) -> None:
    labelled(tmp_path, [("Ada Lovelace.png", 1, "Ada Lovelace", "train"), ("other.png", 2, None, None)])
    tombstone = sha((tmp_path / "Ada Lovelace.png").read_bytes())
    gone, other = table_of(tmp_path, tombstone)
    pixels = ingest.pixel_digest(np.asarray(picture(1, 8)))
    assert {key: value for key, value in gone.items() if value is not None} == {
        "image": {"bytes": None, "path": None},
        "image_id": tombstone,
        "pixel_sha256": pixels,
        "status": "rejected",
        "reason": "withdrawn",
    }
    assert other["path"] == "other.png"


def test_a_faulty_tombstone_is_named(tmp_path: Path) -> None:
    write(tmp_path, {"a.png": png(1)})
    with pytest.raises(InputError, match=r"tombstones\.txt, line 2: an image_id has 64"):
        rows_of(tmp_path, "# fine\nportrait.png\n")


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.write_bytes(b"\xff\xfe")])
def test_tombstones_that_are_no_text_are_one_line(make: Callable[[Path], object], tmp_path: Path) -> None:
    make(tmp_path / "tombstones.txt")
    with pytest.raises(InputError, match=r"tombstones\.txt: cannot be read as UTF-8 text"):
        withdrawn.read(tmp_path / "tombstones.txt")


@settings(max_examples=30)
@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.booleans(), st.booleans()), unique=True))
def test_tombstones_are_read_as_they_were_written(pictures: list[tuple[bytes, bool, bool]]) -> None:
    lines, digests, hashes = [], set(), {}
    for name, pixels, hashed in pictures:
        image_id, pixel = name.hex(), sha(name)
        digests |= {image_id, pixel} if pixels else {image_id}
        if pixels and hashed:
            hashes[image_id] = name
        lines.append(withdrawn.line(image_id, pixel if pixels else None, name if hashed else None))
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "tombstones.txt")
        file.write_text("\n".join(lines))
        assert withdrawn.read(file) == (digests, hashes)


def test_a_tombstone_of_too_many_words_is_named(tmp_path: Path) -> None:
    (tmp_path / "tombstones.txt").write_text(" ".join([sha(b"")] * 4))
    with pytest.raises(InputError, match=r"tombstones\.txt, line 1: has 4 words; a line has image_id, pixel_sha256"):
        withdrawn.read(tmp_path / "tombstones.txt")


# The table's files.


def test_the_same_bytes_whatever_the_number_of_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "SHARD_ROWS", 7)
    write(tmp_path / "root", {f"{seed}.png": png(seed) for seed in range(30)})
    (tmp_path / "tombstones.txt").touch()
    digests = []
    for cores in (1, 5):
        monkeypatch.setattr(ingest.os, "cpu_count", lambda cores=cores: cores)
        out = tmp_path / f"out{cores}"
        ingest.ingest(tmp_path / "root", tmp_path / "tombstones.txt", out, PARAMS, "x")
        assert [pq.read_metadata(shard).num_rows for shard in sorted(out.iterdir())] == [7, 7, 7, 7, 2]
        digests.append(record.digest(out))
    assert digests[0] == digests[1]


def test_a_shard_ends_when_its_pictures_grow_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ingest, "SHARD_BYTES", 2 * len(png(0)))
    write(tmp_path / "root", {f"{seed}.png": png(seed) for seed in range(5)})
    (tmp_path / "tombstones.txt").touch()
    ingest.ingest(tmp_path / "root", tmp_path / "tombstones.txt", tmp_path / "out", PARAMS, "x")
    assert len(list((tmp_path / "out").iterdir())) == 3


def test_threads_stay_in_order_and_run_only_a_little_ahead() -> None:
    drawn = []

    def items() -> Any:
        for number in range(100):
            drawn.append(number)
            yield number

    results = ingest.in_order(lambda number: number * number, items(), workers=2)
    assert next(results) == 0
    assert len(drawn) < 12
    assert list(results) == [number * number for number in range(1, 100)]


# Parameters.


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "imagenet"}, "unknown source 'imagenet'; one of: portraits, folder"),
        ({"use": "test"}, "ingest.use"),
        ({"root": 3}, "ingest.root"),
        ({"licence": ""}, "ingest.licence"),
        ({"split": {"val": 0.5, "test": 0.5}}, "below 1"),
        ({"split": {"val": "0.1", "test": 0.1}}, "split.val"),
        ({"split": {"val": -0.1, "test": 0.1}}, "split.val"),
        ({"split": {"val": 0.1}}, "missing key 'datasets.x.ingest.split.test'"),
        ({"sources": "folder"}, "unknown key 'datasets.x.ingest.sources'"),
    ],
)
def test_wrong_parameters_are_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        build(Params, {**SECTION, **change}, "datasets.x.ingest")
    assert message in str(caught.value)


# The stage as a command.


def run(tmp_path: Path, root: Path, **changes: Any) -> subprocess.CompletedProcess[str]:
    """The command as dvc.yaml gives it; its table lies in tmp_path/ingested."""
    section = {**SECTION, "root": str(root), **changes}
    (tmp_path / "params.yaml").write_text(json.dumps({"datasets": {"trial": {"ingest": section}}}))
    (tmp_path / "tombstones.txt").touch()
    paths = {"params": "params.yaml", "tombstones": "tombstones.txt", "ingested": "ingested"}
    options = [word for option, path in paths.items() for word in (f"--{option}", str(tmp_path / path))]
    return subprocess.run(
        [sys.executable, "-W", "error", "-m", "stages.ingest", "trial", "--root", str(root), *options],
        cwd=ROOT,
        env={"PALIMPSEST_RECORDS": str(tmp_path / "records"), "PATH": ""},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_command_writes_a_table_and_a_record_and_repeats_its_bytes(tmp_path: Path) -> None:
    root = write(tmp_path / "root", {f"{seed}.png": png(seed) for seed in range(4)})
    done = run(tmp_path, root)
    assert done.returncode == 0, done.stderr
    assert "4 in, 4 kept, 0 rejected" in done.stderr
    first = record.digest(tmp_path / "ingested")
    (written,) = (tmp_path / "records/ingest@trial").iterdir()
    assert first in json.loads(written.read_text())["outputs"].values()
    assert run(tmp_path, root).returncode == 0
    assert record.digest(tmp_path / "ingested") == first


@pytest.mark.parametrize("fault", ["missing", "empty", "bad", "planted", "source"])
def test_a_users_mistake_is_one_line_and_leaves_nothing(tmp_path: Path, fault: str) -> None:
    root, changes = tmp_path / "root", {}
    if fault != "missing":
        root.mkdir()
    if fault == "bad":
        write(root, {"a.jpg": b"text"})
    if fault == "planted":
        write(root, {"data_batch_1": pickle.dumps(print)})
        changes = {"source": "cifar10"}
    if fault == "source":
        changes = {"source": "imagenet"}
    done = run(tmp_path, root, **changes)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ingest@trial: ")
    assert ("source" if fault == "source" else str(root)) in line
    assert not (tmp_path / "ingested").exists()


# Real photos.


def test_celeba_keeps_every_photo_but_the_second_of_the_pair(shared: Path, tmp_path: Path) -> None:
    rows = rows_of(shared / "data/celeba", source="celeba")
    rejected = {path: row["reason"] for path, row in rows.items() if row["status"] == "rejected"}
    folder = "img_align_celeba"
    assert rejected == {f"{folder}/197961.jpg": f"duplicate bytes of {folder}/186574.jpg"}
    splits = Counter(row["split"] for row in rows.values())
    assert splits == {"train": 4140, "val": 750, "test": 539, None: 1}
    assert {(row["width"], row["height"]) for row in rows.values() if row["width"]} == {(178, 218)}


def test_lfw_keeps_people_together(shared: Path, tmp_path: Path) -> None:
    names = sorted((shared / "data/lfw").iterdir())[:60]
    for name in names:
        (tmp_path / name.name).mkdir()
        for file in name.iterdir():
            (tmp_path / name.name / file.name).write_bytes(file.read_bytes())
    rows = rows_of(tmp_path, source="lfw").values()
    sides = {(row["identity"], row["split"]) for row in rows if row["split"]}
    assert len(sides) == len(names)
    assert {side for _, side in sides} == set(sources.SPLITS)


def test_cifar10_gives_no_training_picture_to_the_test(shared: Path) -> None:
    rows = rows_of(shared / "data/cifar10", source="cifar10")
    sides = Counter((Path(path).parent.name == "test_batch", row["split"]) for path, row in rows.items())
    assert set(sides) == {(True, "test"), (False, "train"), (False, "val")}
    assert sides[False, "val"] / (5 * 1017) == pytest.approx(PARAMS.split.val, abs=0.02)
    path, row = next(iter(rows.items()))
    (item,) = (item for item in sources.find("cifar10", shared / "data/cifar10") if item.path == path)
    np.testing.assert_array_equal(decode(row["image"]["bytes"]), item.content)
    assert row["image_id"] == row["pixel_sha256"] == sha(np.ascontiguousarray(item.content).tobytes() + b"32x32x3")
