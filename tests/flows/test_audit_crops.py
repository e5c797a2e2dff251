"""`palimpsest audit image` of a crop as trainings read it: it leads to the picture, and nothing is a silent no."""

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageOps
from ready_made import Repository, aligned, ingested
from test_audit_image import ask, saved, scene

from flows.audit import crop_hashes, frames, image
from flows.audit.copies import CROP_NEAR, CROP_PIXELS
from flows.lineage.digests import Digests
from flows.lineage.locks import Lock
from flows.lineage.tables import Part
from stages import draw
from stages.images import phash
from stages.images.table import Table
from stages.ingest import pixel_digest
from stages.portraits import portrait

TRAINED = [saved(scene(seed)) for seed in range(4)]

COPIES: dict[str, tuple[str, Callable[[Image.Image], bytes]]] = {
    "as it is": (CROP_PIXELS, saved),
    "as a BMP": (CROP_PIXELS, lambda crop: saved(crop, "BMP")),
    "JPEG of quality 50": (CROP_NEAR, lambda crop: saved(crop, "JPEG", quality=50)),
    "half": (CROP_NEAR, lambda crop: saved(crop.resize((32, 32)))),
    "twice": (CROP_NEAR, lambda crop: saved(crop.resize((128, 128)), "WEBP")),
    "grey": (CROP_NEAR, lambda crop: saved(crop.convert("L"))),
    "mirrored": (CROP_NEAR, lambda crop: saved(ImageOps.mirror(crop), "JPEG")),
}


class Made(NamedTuple):
    """A repository, and what of it is in DVC's cache."""

    repository: Repository
    objects: dict[str, Path]  # of the newer aligned table, by their names
    crops: dict[str, Image.Image]  # by their paths; "older 0.png" is one of the older table


def crops(folder: Path) -> dict[str, Image.Image]:
    tables = [Table(file) for file in folder.glob("*.arrow")]
    return {
        path: Image.fromarray(pixels)
        for table in tables
        for path, pixels in zip(table.column("path"), table.pictures(), strict=True)
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """`one` has read the pictures 0 and 1, `two` 1 to 3; 4 was for tests. Their crops were smaller once."""
    scratch = tmp_path_factory.mktemp("tables")
    repository = Repository(tmp_path_factory.mktemp("audit") / "ü #1 %20?")
    pictures = {f"{number}.png": ("train", data) for number, data in enumerate(TRAINED)}
    repository.table("x", ingested(scratch, pictures | {"4.png": ("test", saved(scene(4)))}))
    older, newer = aligned(scratch, 48), aligned(scratch, 64)
    repository.folder("data/aligned/x", older)
    repository.training("one", TRAINED[:2])
    repository.commit()
    objects = repository.folder("data/aligned/x", newer)
    repository.training("two", TRAINED[1:])
    repository.commit()
    return Made(repository, objects, crops(newer) | {"older 0.png": crops(older)["0.png"]})


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_of_a_crop_leads_to_exactly_the_checkpoints_that_read_the_picture(
    made: Made, copy: str, tmp_path: Path
) -> None:
    kind, change = COPIES[copy]
    for number, checkpoints in {0: ["one"], 1: ["one", "two"], 4: []}.items():
        answer = ask(made.repository, tmp_path, change(made.crops[f"{number}.png"]))
        (found,) = answer.pictures
        assert [(use["checkpoint"], use["kind"]) for use in found.uses] == [
            (f"data/models/{name}.safetensors", kind) for name in checkpoints
        ]
        assert [(one.kind, one.path, one.table, one.split, one.mirrored) for one in found.copies] == [
            (kind, f"{number}.png", "data/aligned/x", "test" if number == 4 else "train", copy == "mirrored")
        ]
        assert (answer.missing, answer.aligned, answer.crops) == ([], 2, 10)
        assert bool(answer.sheet) == (kind == CROP_NEAR)


def test_it_is_told_and_shown(made: Made, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = made.crops["2.png"].convert("L")
    answer = ask(made.repository, tmp_path, saved(asked))
    image.show(answer)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert "asked, a near copy of the crop of 000001.png: trained on by 1 checkpoint (2 of 2 lists" in lines[0]
    assert any(line.startswith("a near copy of the crop verified 2.png of data/aligned/x (train); ") for line in lines)
    assert "compared with verified 10 crops of 2 aligned tables" in lines
    again = ask(made.repository, tmp_path, saved(asked))
    image.show(again)
    said = " ".join(capsys.readouterr().out.split())
    assert again.kept == 10
    assert "not hashed recorded 10 crops, by hashes that an earlier answer has made of the same files (" in said
    assert answer.sheet is not None
    with Image.open(made.repository.home / answer.sheet) as sheet:
        for place, shown in enumerate((asked.convert("RGB"), made.crops["2.png"])):
            there = np.asarray(sheet.crop((12 + place * 268, 12, 268 + place * 268, 268)), int)
            assert np.abs(there - np.asarray(shown.resize((256, 256)), int)).max() <= 1


def test_crops_of_an_older_table_and_of_a_folder_are_found(made: Made, tmp_path: Path) -> None:
    for name, crop in made.crops.items():
        crop.save(tmp_path / f"{name.replace(' ', '-')}.bmp")
    (tmp_path / "whole.png").write_bytes(TRAINED[2])
    Image.fromarray(np.asarray(scene(50))[10:130]).save(tmp_path / "stranger.png")
    answer = image.ask(made.repository.home, str(tmp_path))
    assert {one.asked: [(copy.kind, copy.path) for copy in one.copies] for one in answer.pictures} == {
        **{f"{number}.png.bmp": [(CROP_PIXELS, f"{number}.png")] for number in range(5)},
        "older-0.png.bmp": [(CROP_PIXELS, "0.png")],
        "whole.png": [("the same bytes", "2.png")],
        "stranger.png": [],
    }


def test_hashes_are_kept_and_made_anew_where_they_are_damaged(made: Made, tmp_path: Path) -> None:
    objects = made.objects["train.arrow"]
    part = Part("0" * 32, "data/aligned/x/train.arrow", objects, False)

    def of(kept: bool | None = False) -> tuple[list[bytes], list[int], bytes]:
        found, known = crop_hashes.of(tmp_path, part)
        assert kept in (known, None)
        return found.pixels.to_pylist(), found.rows.tolist(), found.looks.tobytes()

    expected = of()
    pictures = Table(objects).pictures()
    known = [phash.hashes(crop) for crop in pictures]
    assert expected == (
        [bytes.fromhex(pixel_digest(crop)) for crop in pictures],
        list(range(len(pictures))),
        b"".join(one.upright for one in known if one),
    )
    (file,) = (tmp_path / crop_hashes.FOLDER).iterdir()
    whole, before = file.read_bytes(), file.stat()
    assert of(kept=True) == expected
    assert file.stat() == before, "read, not made"
    with np.load(file) as kept:
        right = dict(kept)
    count = len(right["rows"])
    wrong: dict[str, object] = {
        "rows": right["rows"] + 0.5,
        "rows ": right["rows"] + 1,  # the last is beyond the table
        "rows  ": right["rows"][::-1].copy(),
        "rows   ": right["rows"] - 1,
        "looks": right["looks"][:-1],
        "looks ": right["looks"].astype(np.int16),
        "pixels": right["pixels"][:-32],
        "pixels ": np.zeros((count, 32), np.uint8),
        "versions": np.array("imagehash 4.0"),
    }
    for name, value in wrong.items():
        np.savez(file, **(right | {name.strip(): value}))
        assert of() == expected, name
    np.savez(file, **{name: value for name, value in right.items() if name != "versions"})
    assert of() == expected, "of an older version"
    assert of(kept=True) == expected
    file.write_bytes(whole)
    for place in range(0, len(whole), 41):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        assert of(kept=None) == expected, "some bytes of an archive mean nothing"
    file.write_bytes(whole[: len(whole) // 2])
    assert of() == expected
    assert file.read_bytes() == whole
    shutil.rmtree(file.parent)
    file.parent.write_text("no folder can be made here")
    assert of() == expected


def test_crops_of_one_colour_are_found_by_their_pixels_alone(tmp_path: Path) -> None:
    """They look like any other picture of one colour."""
    repository = Repository(tmp_path / "home")
    pictures = {f"{level}.png": saved(Image.new("RGB", (90, 80), (level, 9, 9))) for level in (10, 20)}
    pictures["scene.png"] = TRAINED[0]
    ingested(tmp_path, {path: ("train", data) for path, data in pictures.items()})
    folder = aligned(tmp_path)
    repository.folder("data/aligned/x", folder)
    repository.training("one", pictures.values())
    repository.commit()
    for name, crop in crops(folder).items():
        answer = ask(repository, tmp_path, saved(crop))
        assert [(copy.kind, copy.path) for copy in answer.pictures[0].copies] == [(CROP_PIXELS, name)]
    assert ask(repository, tmp_path, saved(Image.new("RGB", (64, 64), (15, 9, 9)))).pictures[0].copies == []


def test_an_aligned_table_that_is_missing_altered_or_none_is_no_silent_no(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "home")
    repository.table("x", ingested(tmp_path, {"0.png": ("train", TRAINED[0])}))
    folder = aligned(tmp_path)
    objects = repository.folder("data/aligned/x", folder)
    repository.training("one", TRAINED[:1])
    repository.commit()
    asked = saved(crops(folder)["0.png"], "JPEG")
    assert len(ask(repository, tmp_path, asked).pictures[0].uses) == 1

    train = objects["train.arrow"]
    whole = train.read_bytes()
    train.write_bytes(whole.replace(b"0.png", b"1.png"))
    answer = ask(repository, tmp_path, asked)
    assert (answer.pictures[0].uses, answer.found) == ([], True)
    assert [str(train) in gone["why"] for gone in answer.missing] == [True]

    (listing,) = repository.home.glob(f".dvc/cache/files/md5/{repository.outs['data/aligned/x'][:2]}/*.dir")
    for gone in (train, listing):
        gone.unlink()
        answer = ask(repository, tmp_path, asked)
        assert (answer.pictures[0].uses, answer.found) == ([], True)
        assert ["neither in DVC's cache nor" in one["why"] for one in answer.missing] == [True]
    shutil.copytree(folder, repository.home / "data/aligned/x")  # the working copy will do
    assert len(ask(repository, tmp_path, asked).pictures[0].uses) == 1

    shutil.rmtree(repository.home / "data/aligned/x")
    for content in ("of somebody else's", "of another one's"):  # two versions of a table that is none
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "train.arrow").write_text(content)
        repository.folder("data/aligned/y", tmp_path / "other")
        repository.commit()
    answer = ask(repository, tmp_path, asked)
    assert sorted(gone["path"] for gone in answer.missing) == ["data/aligned/x", *["data/aligned/y/train.arrow"] * 2]
    image.show(answer)
    said = [line for line in capsys.readouterr().out.splitlines() if "table " in line and "cannot tell" in line]
    assert len(said) == 1, "one line for all of them"
    assert json.dumps([gone["why"] for gone in answer.missing]).count("not a table of pictures") == 2


def test_a_photo_that_was_cut_is_found_by_its_face_where_the_weights_are_here(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path / "home")
    photos = sorted((shared / "data/celeba/img_align_celeba").glob("*.jpg"))[:3]
    ingested(tmp_path, {photo.name: ("train", photo.read_bytes()) for photo in photos})
    weights = repository.home / "faces.onnx"
    weights.write_bytes((shared / "weights/face_detection_yunet_2023mar.onnx").read_bytes())
    section = {"mode": "face", "detector": "yunet"}
    folder = aligned(tmp_path, detector_model=str(weights), **section)
    monkeypatch.chdir(repository.home)
    repository.aligned("x", folder, Path("faces.onnx"), size=64, **section)
    repository.training("one", [photo.read_bytes() for photo in photos])
    repository.commit()
    (tmp_path / "cut").mkdir()
    for photo in photos:
        with Image.open(photo) as whole:
            whole.crop((18, 20, 178, 208)).save(tmp_path / "cut" / photo.name, quality=90)
    answer = image.ask(repository.home, str(tmp_path / "cut"))
    found = {one.asked: one.copies for one in answer.pictures}
    assert [[copy.path for copy in copies] for copies in found.values()] == [[name] for name in found]
    assert {(copy.table, copy.aligned) for (copy,) in found.values()} == {("data/aligned/x", True)}
    assert sum(bool(one.uses) for one in answer.pictures) >= 2
    assert "its face aligned first" in next(iter(found.values()))[0].said()

    whole = weights.read_bytes()
    for other in (whole[:-1], None):  # others than the stage had, then none
        weights.unlink() if other is None else weights.write_bytes(other)
        answer = image.ask(repository.home, str(tmp_path / "cut"))
        assert ([one.copies for one in answer.pictures], answer.weights) == ([[]] * len(photos), ["faces.onnx"])
        image.show(answer)
        assert "if the face detector's weights faces.onnx could be used" in " ".join(capsys.readouterr().out.split())


ALIGN = """schema: '2.0'
stages:
  align@x:
    cmd: align
    deps:
    - path: {weights}
      hash: md5
      md5: {md5}
    params:
      params.yaml:
        datasets.x.align: {section}
    outs:
    - path: data/aligned/x
      hash: md5
      md5: 00000000000000000000000000000000.dir
"""


def aligning(weights: str, content: bytes, **section: object) -> Lock:
    """A lock whose stage `align` has read these weights."""
    said = {"mode": "face", "side": 64, "detector": "yunet", "detector_model": weights} | section
    text = ALIGN.format(weights=json.dumps(weights), md5=md5(content).hexdigest(), section=json.dumps(said))
    return Lock("f" * 40, datetime.now(UTC), text.encode())


def test_an_older_lock_which_calls_a_crops_side_size_is_understood(tmp_path: Path) -> None:
    lock = aligning("none", b"", detector="haar")
    older = lock._replace(text=lock.text.replace(b'"side"', b'"size"'))
    assert older != lock
    (frame,), *_ = frames.known(tmp_path, [older], Digests(tmp_path))
    picture = portrait.render(draw.person(1, 0), 128)[0]
    assert {crop.shape for crop in frame(picture)} == {(64, 64, 3)}


def test_a_lock_does_not_choose_which_file_is_read_as_weights(tmp_path: Path) -> None:
    """It may be of a fetched branch. The only file that OpenCV gets is one that the working copy itself names."""
    home, content = tmp_path / "home", b"no detector's weights"
    home.mkdir()
    read: list[Path] = []
    for name in ("home/faces.onnx", "other.onnx"):
        (tmp_path / name).write_bytes(content)

    class Noted(Digests):
        def __call__(self, file: Path) -> str:
            read.append(file)
            return super().__call__(file)

    named = ("faces.onnx", str(tmp_path / "other.onnx"), "../other.onnx")
    every = [aligning(name, content) for name in named]
    assert frames.known(home, every, Noted(home)) == ([], [*named], [])
    assert read == []
    (home / "params.yaml").write_text("datasets: {x: {align: {detector_model: faces.onnx}}}")
    assert frames.known(home, every, Noted(home)) == ([], [*named], []), (
        "no detector can be made of them: they are named"
    )
    assert read == [home / "faces.onnx"]
    (home / "params.yaml").unlink()
    (home / "dvc.lock").write_bytes(aligning("../other.onnx", content).text)
    frames.known(home, every, Noted(home))
    assert read[1:] == [home / "../other.onnx"]


def test_no_lock_loses_its_frames_silently(tmp_path: Path) -> None:
    """One of another version of align, one that is not written as DVC writes it, one whose entry is damaged."""
    other = aligning("old.onnx", b"", sharpness=3)
    layout = aligning("new.onnx", b"")
    layout = layout._replace(text=b"# merged by hand\n" + layout.text)
    alias = aligning("more.onnx", b"")
    alias = alias._replace(text=alias.text.replace(b"cmd: align", b"cmd: *nowhere"))
    found = frames.known(tmp_path, [other, layout, alias], Digests(tmp_path))
    assert (found.frames, found.absent) == ([], ["old.onnx", "new.onnx"])
    (said,) = found.damaged
    assert said.startswith(f"dvc.lock of commit {'f' * 10}: not valid YAML: ")
