"""Finding what a source's folder holds."""

import os
import pickle
import subprocess
import unicodedata
from pathlib import Path

import forked
import numpy as np
import pytest

from stages.images import sources
from stages.images.table import SPLITS
from stages.runs.errors import InputError


def test_names_of_every_kind_and_links(tmp_path: Path) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    for folder in (root / "deep/er", root / ".hidden", elsewhere):
        folder.mkdir(parents=True)
    names = ["a b.jpg", "line\nbreak.png", "Žofie 日本.JPEG", "deep/er/x.webp", "UPPER.PNG"]
    for name in [*names, ".hidden/no.jpg", ".no.jpg", "notes.txt", "list.csv", "no_suffix", "../elsewhere/out.jpg"]:
        (root / name).write_bytes(b"x")
    (root / "out.jpg").symlink_to(elsewhere / "out.jpg")
    (root / "out_folder").symlink_to(elsewhere)
    (root / "in.jpg").symlink_to(root / "a b.jpg")
    (root / "in_folder").symlink_to(root / "deep")
    (root / "nowhere.jpg").symlink_to(root / "gone.jpg")
    (root / "folder.jpg").mkdir()
    (root / "folder.jpg/inside.png").write_bytes(b"x")
    os.mkfifo(root / "pipe.jpg")

    found = {item.path: item.reason for item in sources.find("folder", root)}

    assert found == {
        **dict.fromkeys(names),
        "in.jpg": None,
        "folder.jpg/inside.png": None,
        "out.jpg": "outside the root (symlink)",
        "out_folder": "outside the root (symlink)",
        "nowhere.jpg": "not a file",
        "pipe.jpg": "not a file",
    }
    assert list(found) == sorted(found)


@pytest.mark.parametrize("kind", ["symlink", "hardlink"])
def test_pictures_that_dvc_has_linked_to_its_cache_are_the_datasets(tmp_path: Path, kind: str) -> None:
    """`cache.type` is often so for large data: a picture is then a link out of the folder, and read-only."""

    def dvc(*words: str) -> None:
        subprocess.run([forked.python(), "-m", "dvc", *words, "-q"], cwd=tmp_path, check=True)

    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for name in ("a.jpg", "deep/b.png", "altered.png"):
        (tmp_path / "photos" / name).write_bytes(name.encode())
    dvc("init", "--no-scm")
    dvc("config", "cache.type", kind)
    dvc("add", "photos")
    file = tmp_path / "photos" / "altered.png"
    assert (file.is_symlink(), file.stat().st_nlink) == ((True, 1) if kind == "symlink" else (False, 2))
    file.chmod(0o600)
    file.write_bytes(b"not what was added")
    (tmp_path / "secret.png").touch()
    (tmp_path / "photos" / "out.png").symlink_to("../secret.png")
    outside = "outside the root (symlink)"
    assert {item.path: item.reason for item in sources.find("folder", tmp_path / "photos")} == {
        "a.jpg": None,
        "deep/b.png": None,
        "altered.png": outside if kind == "symlink" else None,
        "out.png": outside,
    }


def test_a_name_that_is_no_utf8_is_named_and_refused(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).write_bytes(b"x")
    (item,) = sources.find("folder", tmp_path)
    assert (item.path, item.reason) == (r"caf\xe9.jpg", "name is not UTF-8")


def test_a_root_that_is_itself_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a.png").write_bytes(b"x")
    (tmp_path / "real/b.png").symlink_to("a.png")
    (tmp_path / "root").symlink_to("real")
    assert [(item.path, item.reason) for item in sources.find("scenes", tmp_path / "root")] == [
        ("a.png", None),
        ("b.png", None),
    ]


POINTS = ",".join(sources.LANDMARKS)


def test_landmarks_and_notes_of_single_pictures(tmp_path: Path) -> None:
    for name in ("a.png", "with, comma.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "landmarks.csv").write_text(f"path,{POINTS}\na.png,1,2,3,4,5,6,7,8,9,10.5\n")
    (tmp_path / "pictures.csv").write_text('path,consent,identity,split\n"with, comma.png",signed,Ada,val\na.png,,,\n')
    first, second = sources.find("portraits", tmp_path)
    assert first.landmarks == (1, 2, 3, 4, 5, 6, 7, 8, 9, 10.5)
    assert (first.consent, first.identity, first.split) == (None, None, None)
    assert (second.landmarks, second.consent, second.identity, second.split) == (None, "signed", "Ada", "val")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("landmarks.csv", f"path,{POINTS}\na.png,1,2,3\n", "11 fields expected, 4 found"),
        ("landmarks.csv", f"path,{POINTS}\na.png,1,2,3,4,5,6,7,8,9,x\n", "'a.png': ten numbers"),
        ("landmarks.csv", f"path,{POINTS}\na.png,1,2,3,4,5,6,7,8,9,nan\n", "finite"),
        ("landmarks.csv", "path,x,y\n", "header must end in lefteye_x"),
        ("pictures.csv", "path,license\na.png,MIT\n", "unknown column 'license'"),
        ("pictures.csv", "path,collected\na.png,27.11.2026\n", "'a.png': collected must be a date as 2026-11-27"),
        ("pictures.csv", "path,collected\na.png,2026-13\n", "got '2026-13'"),
        ("pictures.csv", "name\na.png\n", "unknown column 'name'"),
        ("pictures.csv", "licence\nMIT\n", "no column 'path'"),
        ("pictures.csv", "path,licence\nb.png,MIT\n", "no picture 'b.png'"),
        ("pictures.csv", "path,origin\na.png,Rome, Italy\n", "2 fields expected, 3 found"),
        ("pictures.csv", "path,split\na.png,tset\n", "must be one of train, val, test"),
        ("pictures.csv", "path\n\udcff\n", "cannot be read as UTF-8"),
        ("pictures.csv", "", "no column 'path'"),
    ],
)
def test_a_faulty_list_is_named(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"x")
    (tmp_path / name).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=message) as caught:
        sources.find("folder", tmp_path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("shipped", [False, True], ids=["flat", "as shipped"])
def test_celeba_with_its_lists(tmp_path: Path, shipped: bool) -> None:
    pictures, lists, partition = (tmp_path / name if shipped else tmp_path for name in ("Img", "Anno", "Eval"))
    for folder in (pictures / "img_align_celeba", lists, partition):
        folder.mkdir(parents=True, exist_ok=True)
    for number in (1, 2, 3):
        (pictures / f"img_align_celeba/00000{number}.jpg").write_bytes(b"x")
    (partition / "list_eval_partition.txt").write_text("000001.jpg 0\n000002.jpg 2\n")
    (lists / "identity_CelebA.txt").write_text("000001.jpg 2880\n000003.jpg 17\n")
    header = " ".join(sources.LANDMARKS)
    (lists / "list_landmarks_align_celeba.txt").write_text(
        f"2\n{header}\n000001.jpg 69  109  106  113   77  142   73  152  108  154\n000002.jpg 1 2 3 4 5 6 7 8 9 10\n"
    )
    first, second, third = sources.find("celeba", tmp_path)
    assert (first.split, first.identity) == ("train", "2880")
    assert first.landmarks == (69, 109, 106, 113, 77, 142, 73, 152, 108, 154)
    assert (second.split, second.identity) == ("test", None)
    assert (third.split, third.identity, third.landmarks) == (None, "17", None)


def test_celeba_without_its_folder_or_with_a_strange_partition(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="img_align_celeba: no such folder"):
        sources.find("celeba", tmp_path)
    (tmp_path / "img_align_celeba").mkdir()
    (tmp_path / "list_eval_partition.txt").write_text("000001.jpg 3\n")
    with pytest.raises(InputError, match=r"'000001\.jpg': the partition must be 0, 1 or 2"):
        sources.find("celeba", tmp_path)


def test_celeba_hq_follows_its_mapping(tmp_path: Path) -> None:
    (tmp_path / "CelebA-HQ-img").mkdir()
    (tmp_path / "CelebA-HQ-mask").mkdir()
    for name in ("CelebA-HQ-img/0.jpg", "CelebA-HQ-img/00007.png", "CelebA-HQ-mask/0_hair.png"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "CelebA-HQ-to-CelebA-mapping.txt").write_text(
        "idx     orig_idx     orig_file\n0       119612       119613.jpg\n7       99094        099095.jpg\n"
    )
    (tmp_path / "list_eval_partition.txt").write_text("119613.jpg 0\n099095.jpg 1\n")
    (tmp_path / "identity_CelebA.txt").write_text("099095.jpg 8\n")
    assert [(item.path, item.split, item.identity) for item in sources.find("celeba_hq", tmp_path)] == [
        ("CelebA-HQ-img/0.jpg", "train", None),
        ("CelebA-HQ-img/00007.png", "val", "8"),
    ]


def write_batch(file: Path, pixels: np.ndarray) -> None:
    """A batch as the official archive has it: pickled by Python 2, keys as bytes."""
    rows = pixels.transpose(0, 3, 1, 2).reshape(len(pixels), -1)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(pickle.dumps({b"data": rows, b"labels": [0] * len(rows)}, protocol=2))


def test_cifar10_batches(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    write_batch(tmp_path / "cifar-10-batches-py/data_batch_2", pixels[:2])
    write_batch(tmp_path / "cifar-10-batches-py/test_batch", pixels[2:])
    found = sources.find("cifar10", tmp_path)
    assert [(item.path, item.split) for item in found] == [
        ("cifar-10-batches-py/data_batch_2/00000", sources.TRAIN_OR_VAL),
        ("cifar-10-batches-py/data_batch_2/00001", sources.TRAIN_OR_VAL),
        ("cifar-10-batches-py/test_batch/00000", "test"),
    ]
    np.testing.assert_array_equal([item.content for item in found], pixels)


class Planted:
    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize(
    "batch",
    [b"", b"not a pickle", pickle.dumps([1, 2]), pickle.dumps({b"data": np.zeros((2, 5), np.uint8)}), "planted"],
    ids=["empty", "text", "list", "shape", "planted"],
)
def test_a_foreign_or_planted_batch_is_named_and_runs_nothing(tmp_path: Path, batch: bytes | str) -> None:
    trap = tmp_path / "sprung"
    data = pickle.dumps({b"data": Planted(trap)}) if isinstance(batch, str) else batch
    (tmp_path / "data_batch_1").write_bytes(data)
    with pytest.raises(InputError, match="data_batch_1: no CIFAR-10 batch"):
        sources.find("cifar10", tmp_path)
    assert not trap.exists()
    if isinstance(batch, str):  # the trap does work
        pickle.loads(data)
        assert trap.exists()


@pytest.mark.parametrize("source", sources.SOURCES)
def test_a_missing_or_empty_folder_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(InputError, match="gone: no such folder"):
        sources.find(source, tmp_path / "gone")
    (tmp_path / "notes.txt").write_text("nothing here")
    with pytest.raises(InputError) as caught:
        sources.find(source, tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_the_real_folders_are_read_as_their_authors_meant(shared: Path) -> None:
    data = shared / "data"
    faces = sources.find("celeba", data / "celeba")
    assert len(faces) == 5430
    assert {split: sum(item.split == split for item in faces) for split in SPLITS} == {
        "train": 4140,
        "val": 750,
        "test": 540,
    }
    assert len({item.identity for item in faces}) == 181
    assert sum(item.landmarks is not None for item in faces) == 12
    assert len(sources.find("cifar10", data / "cifar10")) == 5 * 1017 + 900
    assert len(sources.find("scenes", data / "scenes")) == 1400
    people = sources.find("lfw", data / "lfw")
    assert len(people) == 1002
    assert all(Path(item.path).name.startswith(f"{item.identity}_") for item in people)


def test_a_person_spelled_in_two_unicode_forms_is_one(tmp_path: Path) -> None:
    for name in ("José", unicodedata.normalize("NFD", "José")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "1.jpg").write_bytes(b"x")
    (tmp_path / "José/2.jpg").write_bytes(b"x")
    (tmp_path / "pictures.csv").write_text("path,identity\nJosé/2.jpg, José \n", encoding="utf-8")
    assert [item.identity for item in sources.find("lfw", tmp_path)] == ["José"] * 3
