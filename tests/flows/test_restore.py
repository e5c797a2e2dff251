"""`palimpsest restore`: which pixels change, which system does it, what is written, and what is refused."""

import hashlib
import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pytest
from dvc_project import Project
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx_made import grey

from flows.lineage import restored
from flows.restoration import detection, fill, frames, grain, holes, photos, system
from flows.restoration.restorer import Restorer, Settings, write_all
from flows.restoration.system import System
from flows.restore import Restoring, run
from stages.images import landmarks
from stages.images.faces import Face
from stages.models.dmfn import DMFN
from stages.runs.errors import InputError
from stages.training import checkpoint


def portrait(size: int = 200, turned: float = 0.0) -> tuple[np.ndarray, Face]:
    """A face-like picture, uint8 size x size x 3, and where its face is, turned by so many degrees."""
    picture = np.full((size, size, 3), (90, 110, 140), np.uint8)
    centre, unit = np.array([size * 0.5, size * 0.5]), size * 0.1
    turn = np.radians(turned)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    points = centre + unit * np.array([[-1, -0.8], [1, -0.8], [0, 0.3], [-0.8, 1.2], [0.8, 1.2]]) @ rotation.T
    cv2.circle(picture, (size // 2, size // 2), int(2.4 * unit), (200, 170, 150), -1, cv2.LINE_AA)
    for x, y in points[:2]:
        cv2.circle(picture, (round(x), round(y)), max(2, int(unit / 3)), (40, 30, 30), -1, cv2.LINE_AA)
    rng = np.random.default_rng(0)
    noisy = np.clip(picture + rng.normal(0, 3, picture.shape), 0, 255).astype(np.uint8)
    return noisy, Face((size * 0.3, size * 0.25, size * 0.4, size * 0.5), points, 0.9)


def painter(side: int, colour: Sequence[int], seen: list[tuple[np.ndarray, np.ndarray]] | None = None) -> System:
    """A system that paints all in one colour, or in its seed's, and keeps what it was given."""

    def make(seed: int | None) -> system.Complete:
        def complete(batch: object) -> np.ndarray:
            if seen is not None:
                seen.append((batch.known[0], batch.hole[0]))
            return np.broadcast_to(np.array(colour, np.uint8) + (seed or 0), batch.known.shape)

        return complete

    return System("painter", side, True, {"checkpoint": None}, make, lambda hole: np.ones(len(hole), bool))


# ---- frames ----


@given(st.floats(-180, 180), st.floats(5, 400), st.floats(-50, 500), st.floats(-50, 500))
def test_a_faces_frame_is_aligns_crop(turned: float, distance: float, x: float, y: float) -> None:
    """Both eyes lie on the template, whatever the face's turn and size."""
    turn = np.radians(turned)
    along = distance / 2 * np.array([np.cos(turn), np.sin(turn)])
    points = np.array([x, y]) + np.stack([-along, along, *np.zeros((3, 2))])
    frame = frames.of_face(Face((0, 0, 1, 1), points, 1), 0, 64)
    np.testing.assert_allclose(frame.to_crop(points[:2]), landmarks.template(64)[:2], atol=1e-4)
    assert frame.enlargement == pytest.approx(distance / (0.33 * 64), rel=1e-4)


def test_a_pixel_belongs_to_the_face_in_whose_middle_it_lies_most() -> None:
    left, right = frames.square(50, 50, 60, 32), frames.square(90, 50, 60, 32)
    hole = np.zeros((100, 150), bool)
    hole[50, [25, 60, 69, 71, 80, 130]] = True
    mine, yours = frames.shares(hole, [left, right])
    assert mine
    assert (np.flatnonzero(mine.mask) + mine.left).tolist() == [25, 60, 69]
    assert yours
    assert (np.flatnonzero(yours.mask) + yours.left).tolist() == [71, 80]  # 130 lies in no frame
    assert (mine.top, yours.top) == (50, 50)


def test_frames_around_a_hole_show_its_surroundings_and_grow() -> None:
    hole = np.zeros((400, 600), bool)
    hole[100:140, 200:300] = True
    (piece,) = frames.parts(hole)
    lengths = [64 * frame.enlargement for frame in frames.around(piece, 64)]
    np.testing.assert_allclose(lengths, [300, 450, 675])
    first = next(frames.around(piece, 64))
    np.testing.assert_allclose(first.to_crop(np.array([[249.5, 119.5]])), [[31.5, 31.5]])


@given(st.integers(0, 2**32 - 1))
def test_pieces_are_the_hole_once_over_as_far_as_frames_reach(seed: int) -> None:
    rng = np.random.default_rng(seed)
    hole = rng.random((30, 40)) < rng.choice([0.01, 0.1, 0.6])
    faces = [frames.square(*rng.uniform(-5, 45, 2), rng.uniform(5, 60), 16) for _ in range(3)]
    reached = hole.copy()
    points = np.argwhere(hole)[:, ::-1].astype(np.float64)
    reached[hole] = np.min([frame.distance(points) for frame in faces], axis=0) < 1
    for pieces, wanted in ((frames.parts(hole), hole), (frames.shares(hole, faces), reached)):
        count = np.zeros(hole.shape, int)
        for piece in filter(None, pieces):
            count[piece.box] += piece.mask
        np.testing.assert_array_equal(count, wanted)


# ---- filling ----


def a_hole(shape: tuple[int, int], rows: slice, columns: slice) -> np.ndarray:
    hole = np.zeros(shape, bool)
    hole[rows, columns] = True
    return hole


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
def test_outside_of_any_hole_nothing_changes_and_inside_no_truth_remains(seed: int, face: bool, noisy: bool) -> None:
    """What lies under the hole may be anything: the result is the same."""
    rng = np.random.default_rng(seed)
    view, known = portrait(120, float(rng.uniform(-40, 40)))
    hole = np.zeros(view.shape[:2], bool)
    for _ in range(rng.integers(1, 4)):
        top, left = rng.integers(0, 110, 2)
        hole[top : top + rng.integers(1, 60), left : left + rng.integers(1, 60)] = True
    other = view.copy()
    other[hole] = rng.integers(0, 256, (int(hole.sum()), 3))
    results = [
        fill.fill(one, hole, system.open_system(Path(), "telea"), faces=[known] if face else (), grain=noisy)
        for one in (view, other)
    ]
    np.testing.assert_array_equal(results[0].pixels[~hole], view[~hole])
    np.testing.assert_array_equal(results[0].pixels, results[1].pixels)
    assert sum(frame["pixels"] for frame in results[0].record["frames"]) == hole.sum()


def test_a_system_sees_nothing_of_the_hole_and_all_that_is_known() -> None:
    view, face = portrait(300, 15)
    hole = holes.preset("eye_bar", view, [face])
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    fill.fill(view, hole, painter(64, (0, 0, 0), seen), faces=[face])
    ((known, missing),) = seen
    assert (known[missing] == 0).all()
    frame = frames.of_face(face, 0, 64)
    covered = landmarks.crop(hole.astype(np.uint8) * 255, frame.transform, 64)
    assert missing[covered > 0].all()
    assert missing.sum() <= 1.3 * (covered > 0).sum()
    np.testing.assert_array_equal(known[~missing], landmarks.crop(view, frame.transform, 64)[~missing])


def test_on_a_plane_of_one_colour_the_fill_is_that_plane() -> None:
    """A guide without gradients, blended: the harmonic continuation, which of a constant border is the constant."""
    view = np.full((200, 300, 3), (10, 128, 250), np.uint8)
    hole = a_hole((200, 300), slice(60, 150), slice(90, 200))
    result = fill.fill(view, hole, painter(64, (200, 0, 90)))
    np.testing.assert_array_equal(result.pixels, view)


def test_a_ramp_goes_on_through_the_hole() -> None:
    """Harmonic too; enlarging by cubic interpolation keeps a ramp."""
    ramp = np.linspace(20, 220, 400)[None, :, None] * np.ones((300, 1, 3))
    view = np.rint(ramp).astype(np.uint8)
    hole = a_hole((300, 400), slice(100, 200), slice(150, 250))
    result = fill.fill(view, hole, painter(64, (99, 99, 99)))
    assert np.abs(result.pixels.astype(float) - ramp)[hole].max() <= 1.5


def test_a_hole_across_the_edge_of_a_faces_frame_is_completed_whole() -> None:
    view, face = portrait(300)
    frame = frames.of_face(face, 0, 64)
    rows, _ = frame.box(*view.shape[:2])
    hole = a_hole(view.shape[:2], slice(rows.stop - 30, rows.stop + 20), slice(100, 160))
    result = fill.fill(view, hole, painter(64, (0, 255, 0)), faces=[face])
    kinds = [frame["face"] for frame in result.record["frames"]]
    assert kinds == [0, None]
    assert sum(frame["pixels"] for frame in result.record["frames"]) == hole.sum()


def test_a_face_that_lies_wholly_in_the_hole_is_completed_from_what_is_around_it() -> None:
    view, face = portrait(400)
    hole = a_hole((400, 400), slice(20, 380), slice(20, 380))
    small = Face(face.box, 200 + (face.landmarks - 200) / 3, 1)
    made = fill.fill(view, hole, painter(64, (10, 200, 30)), faces=[small])
    assert [frame["face"] for frame in made.record["frames"]] == [None]
    np.testing.assert_array_equal(made.pixels[~hole], view[~hole])


def test_what_a_system_cannot_complete_is_tried_wider_then_refused() -> None:
    view, _ = portrait(200)
    hole = a_hole((200, 200), slice(80, 120), slice(80, 120))
    small = painter(64, (0, 0, 0))
    picky = System("picky", 64, False, {}, small.make, lambda hole: hole.mean(axis=(1, 2)) < 0.06)
    result = fill.fill(view, hole, picky)
    assert result.record["frames"][0]["enlargement"] == pytest.approx(270 / 64, abs=0.01)
    never = System("never", 64, False, {}, small.make, lambda hole: np.zeros(len(hole), bool))
    with pytest.raises(InputError, match="system 'never' cannot complete this hole"):
        fill.fill(view, hole, never)


def test_cancelled_between_frames() -> None:
    view, _ = portrait(200)
    hole = a_hole((200, 200), slice(10, 20), slice(10, 20)) | a_hole((200, 200), slice(150, 160), slice(150, 160))
    steps: list[tuple[int, int]] = []
    with pytest.raises(fill.Cancelled):
        fill.fill(
            view,
            hole,
            painter(32, (0, 0, 0)),
            progress=lambda *step: steps.append(step),
            cancelled=lambda: len(steps) > 0,
        )
    assert steps == [(0, 2)]


# ---- grain ----


def test_grain_is_like_the_photos_own() -> None:
    """Noise of known strength, colours and softness around a smooth hole comes back in it."""
    rng = np.random.default_rng(1)
    mix = np.linalg.cholesky(np.array([[9, 4, 4], [4, 16, 4], [4, 4, 25.0]]))
    picture = (128 + rng.standard_normal((300, 300, 3)) @ mix.T).astype(np.float32)
    hole = a_hole((300, 300), slice(100, 200), slice(100, 200))
    picture[hole] = 128
    noise = grain.grain(picture, hole, ~hole, 8.0, np.random.default_rng(2))
    assert not noise[~hole].any()
    np.testing.assert_allclose(np.cov(noise[hole].T), mix @ mix.T, rtol=0.25, atol=1.5)


def test_without_enlargement_or_noise_there_is_no_grain() -> None:
    flat = np.full((100, 100, 3), 50, np.float32)
    hole = a_hole((100, 100), slice(40, 60), slice(40, 60))
    assert np.abs(grain.grain(flat, hole, ~hole, 6.0, np.random.default_rng(0))).max() < 0.1
    noisy = flat + np.random.default_rng(0).normal(0, 5, flat.shape).astype(np.float32)
    assert not grain.grain(noisy, hole, ~hole, 1.0, np.random.default_rng(0)).any()


# ---- holes ----


@pytest.mark.parametrize("turned", [0, 30, -75])
def test_an_eye_bar_lies_on_the_eyes_at_the_photos_own_size(turned: float) -> None:
    view, face = portrait(400, turned)
    hole = holes.preset("eye_bar", view, [face])
    left, right = face.landmarks[:2]
    distance = np.hypot(*(right - left))
    assert hole.sum() == pytest.approx(1.8 * 0.5 * distance**2, rel=0.05)
    rows, columns = np.nonzero(hole)
    np.testing.assert_allclose([columns.mean(), rows.mean()], (left + right) / 2, atol=1)


def test_a_hole_on_each_face_and_in_the_middle_without_faces() -> None:
    view, face = portrait(200)
    wide = np.concatenate([view, view], axis=1)
    second = Face((0, 0, 1, 1), face.landmarks + np.array([200, 0]), 0.9)
    both = holes.preset("centre", wide, [face, second])
    np.testing.assert_array_equal(both, np.tile(holes.preset("centre", view, [face]), 2))
    alone = holes.preset("centre", wide, [], options={"fraction": 0.5})
    np.testing.assert_array_equal(alone, a_hole((200, 400), slice(50, 150), slice(150, 250)))
    with pytest.raises(InputError, match="no face found, and eye_bar needs one"):
        holes.preset("eye_bar", view, [])


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("eye_bar", "eye_bar", {}),
        ("centre:fraction=0.25", "centre", {"fraction": 0.25}),
        ("lines:count=3,thickness=.02", "lines", {"count": 3, "thickness": 0.02}),
    ],
)
def test_a_kind_of_hole_with_its_options(text: str, kind: str, options: dict) -> None:
    assert holes.parse(text) == (kind, options)


@pytest.mark.parametrize(
    "text", ["centre:fraction=2", "centre:size=3", "centre:fraction", "covered:x=1", "lines:count=[}"]
)
def test_options_that_a_kind_has_not_are_refused(text: str) -> None:
    with pytest.raises(InputError, match=text.partition(":")[0]):
        holes.parse(text)


def mask_file(path: Path, hole: np.ndarray) -> Path:
    cv2.imwrite(str(path), hole.astype(np.uint8) * 255)
    return path


def test_a_mask_of_the_photos_size_is_taken_as_it_is_and_others_are_refused(tmp_path: Path) -> None:
    hole = a_hole((50, 60), slice(3, 9), slice(4, 20))
    file = mask_file(tmp_path / "mask.png", hole)
    np.testing.assert_array_equal(holes.from_file(file, (50, 60)), hole)
    for shape, drawn, said in (
        ((60, 50), hole, "60 x 50 px, and the upright photo 50 x 60"),
        ((50, 60), ~hole & hole, "black everywhere"),
        ((50, 60), hole | ~hole, "white everywhere"),
    ):
        with pytest.raises(InputError, match=said):
            holes.from_file(mask_file(file, drawn), shape)
    file.write_text("no picture")
    with pytest.raises(InputError, match="not a picture"):
        holes.from_file(file, (50, 60))
    with pytest.raises(InputError, match="No such file"):
        holes.from_file(tmp_path / "none.png", (50, 60))


# ---- names ----


def test_names_of_results_never_meet(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    names = ["a.jpg", "a.png", "b.jpg", "b.hole.png", "below/a.jpg", "Ä.JPG"]
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    (folder / "notes.txt").write_text("")
    made = photos.jobs([folder], tmp_path / "out", "png", 3)
    assert len(made) == len(names)
    written = [file for job in made for file in job.files("png", 3)]
    assert len(set(written)) == len(written) == 6 * 7
    alone = photos.jobs([folder / "b.jpg"], tmp_path / "out", "png", 1)
    assert [file.name for file in alone[0].files("png", 1)] == ["b.png", "b.hole.png", "b.json", "b.json.sig"]


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Path(os.fsdecode(os.fsencode(tmp_path / "in") + b"/\xff.jpg")).touch()
    with pytest.raises(InputError, match=r"in/\\xff.jpg: a name that is not UTF-8; rename it"):
        photos.jobs([tmp_path / "in"], tmp_path / "out", "png", 1)


def test_photos_that_are_not_there_and_results_among_the_photos_are_refused(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jpg").write_bytes(b"")
    for asked, out, said in (
        ([tmp_path / "in"], tmp_path / "in", "lies in the photos' own folder"),
        ([tmp_path / "in"], tmp_path / "in" / "out", "lies in the photos' own folder"),
        ([tmp_path / "in" / "a.jpg"], tmp_path / "in", "is the folder of"),
        ([tmp_path / "none"], tmp_path / "out", "no such file or folder"),
    ):
        with pytest.raises(InputError, match=said):
            photos.jobs(asked, out, "png", 1)


# ---- records ----


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"files": {"a": "0"}}',
        '{"photo": 1, "hole": {}, "answers": [], "files": {"a": "0"}}',
        '{"photo": {"name": "a", "sha256": "1"}, "hole": {"share": 1}, "answers": [{}], "files": {"a": "0"}}',
    ],
)
def test_other_json_files_are_no_records(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    assert restored.beside(tmp_path / "a.png", "0") is None


def written(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_a_result_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 252)
    with pytest.raises(InputError, match="x: File name too long; rename the photo"):
        write_all({tmp_path / "a.png": b"1", long: b"2"}, tmp_path)
    assert not written(tmp_path)
    (tmp_path / ".a.png.new").write_bytes(b"half")  # of a call that was killed
    write_all({tmp_path / "a.png": b"1"}, tmp_path)
    assert written(tmp_path) == {"a.png": b"1"}


@pytest.mark.parametrize("gone", [["photo.png"], ["photo.png", "photo.hole.png"]])
def test_what_a_killed_call_has_left_is_completed_and_what_was_altered_is_not(tmp_path: Path, gone: list[str]) -> None:
    view, _ = portrait()
    (tmp_path / "photo.jpg").write_bytes(cv2.imencode(".jpg", view)[1].tobytes())
    mask = mask_file(tmp_path / "mask.png", a_hole((200, 200), slice(80, 120), slice(60, 140)))
    restorer = Restorer([painter(32, (1, 2, 3))], detection.ByHaar(), Settings(hole=str(mask)))
    (job,) = photos.jobs([tmp_path / "photo.jpg"], tmp_path / "out", "png", 1)
    restorer.restore(job)
    whole = written(tmp_path / "out")
    for name in gone:
        (tmp_path / "out" / name).unlink()
    restorer.restore(job)
    assert written(tmp_path / "out") == whole
    (tmp_path / "out" / "photo.png").write_bytes(b"mine")
    with pytest.raises(InputError, match="exists, and is another result"):
        restorer.restore(job)


def test_replacing_several_answers_leaves_none_of_them_and_nothing_of_others(tmp_path: Path) -> None:
    view, _ = portrait()
    (tmp_path / "photo.png").write_bytes(cv2.imencode(".png", view)[1].tobytes())
    for samples in (3, 1):
        asked = Settings(hole="lines", samples=samples, seed=7, force=True)
        restorer = Restorer([painter(32, (1, 2, 3))], detection.ByHaar(), asked)
        (job,) = photos.jobs([tmp_path / "photo.png"], tmp_path / "out", "png", samples)
        record = restorer.restore(job)
        assert record["hole"]["seed"] == 7
        there = written(tmp_path / "out")
        kept = {"photo.1.png"} if samples == 1 else set()
        assert there.keys() == {*record["files"], "photo.json"} | kept
        if samples == 3:
            assert len({there[f"photo.{number}.png"] for number in (1, 2, 3)}) == 3
            (tmp_path / "out" / "photo.1.png").write_bytes(b"somebody has drawn on it")
    assert there["photo.1.png"] == b"somebody has drawn on it"


def test_outside_of_any_project_a_folder_leaves_nothing_but_its_results(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        (tmp_path / "in" / f"{name}.png").write_bytes(cv2.imencode(".png", portrait()[0])[1].tobytes())
    (tmp_path / "in" / "bad.png").write_bytes(b"")
    asked = Settings(hole="centre")
    todo = photos.jobs([tmp_path / "in"], tmp_path / "out", "png", 1)
    work = Restoring(Restorer([painter(32, (1, 2, 3))], detection.ByHaar(), asked), todo)
    run(work, tmp_path)
    assert work.summary() == "2 of 3 photos restored, 1 rejected"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["in", "out"]


def test_a_fault_of_ours_does_not_pass_for_a_photo_that_is_done(tmp_path: Path) -> None:
    class Faulty(Restorer):
        def restore(self, job: photos.Job, progress: object = None) -> dict:
            raise ZeroDivisionError("of ours")

    todo = [photos.Job(tmp_path / name, tmp_path / name, True) for name in ("a", "b")]
    work = Restoring(Faulty([], detection.ByHaar(), Settings()), todo)
    with pytest.raises(ZeroDivisionError):
        work.one(todo[0])
    assert work.rejected == {str(tmp_path / "a"): f"{tmp_path / 'a'}: ZeroDivisionError: of ours"}


# ---- the command ----


@pytest.fixture
def photo(project: Project) -> Path:
    """A photo in the project, and a mask of its middle beside it."""
    view, _ = portrait()
    file = project.home / "in" / "photo.jpg"
    file.parent.mkdir()
    cv2.imwrite(str(file), view[..., ::-1])
    mask_file(project.home / "mask.png", a_hole((200, 200), slice(80, 120), slice(60, 140)))
    return file


def test_a_photo_by_the_working_copys_checkpoint_and_its_record(project: Project, photo: Path) -> None:
    """Any weights will do: what is asked is which pixels change, and what the record says."""
    arguments = {"size": 32, "width": 4, "blocks": 1, "combine": "dense", "upsampling": "resize"}
    network = DMFN(**arguments)
    weights = project.home / "data" / "models" / "net.safetensors"
    weights.parent.mkdir(parents=True)
    inputs = {"network": "dmfn", "arguments": arguments, "params": {}}
    checkpoint.save(weights, {f"network.{key}": value for key, value in network.state_dict().items()}, inputs)
    words = ["restore", "in/photo.jpg", "-o", "out", "--hole", "mask.png"]
    said = project.run(*words)
    assert "restore: by net (the working copy's, not scored)" in said
    before, after, hole = (
        cv2.imread(str(project.home / name)) for name in ("in/photo.jpg", "out/photo.png", "out/photo.hole.png")
    )
    missing = hole[..., 0] > 0
    np.testing.assert_array_equal(missing, cv2.imread(str(project.home / "mask.png"), 0) > 0)
    np.testing.assert_array_equal(after[~missing], before[~missing])
    assert (after[missing] != before[missing]).any()
    record = json.loads((project.home / "out" / "photo.json").read_text())
    assert record["photo"]["sha256"] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert record["answers"][0]["system"]["checkpoint"]["sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    for name, digest in record["files"].items():
        assert hashlib.sha256((project.home / "out" / name).read_bytes()).hexdigest() == digest
    told = project.run("audit", "file", "out/photo.png")
    assert told[0] == "out/photo.png: a photo that `palimpsest restore` has completed"
    assert [line for line in told if record["photo"]["sha256"] in line]
    assert told[-1] == "  see also: palimpsest audit checkpoint data/models/net.safetensors"
    # The same again is left as it is; another one is refused, but for --force.
    stamp = (project.home / "out" / "photo.png").stat().st_mtime_ns
    project.run(*words)
    assert (project.home / "out" / "photo.png").stat().st_mtime_ns == stamp
    (refused,) = [line for line in project.run(*words, "--no-grain", code=2) if line.startswith("restore: out")]
    assert refused == "restore: out/photo.png: exists, and is another result; add --force to replace it"
    project.run(*words, "--no-grain", "--force")
    assert json.loads((project.home / "out" / "photo.json").read_text())["answers"][0]["grain"] is False


def test_a_folder_goes_on_after_a_bad_photo_and_again_does_nothing(project: Project, photo: Path) -> None:
    for number in range(2):
        (photo.parent / f"{number}.jpg").write_bytes(photo.read_bytes() + bytes(number))
    (photo.parent / "bad.jpg").write_bytes(photo.read_bytes()[:500])
    words = ["restore", "in", "-o", "out", "--hole", "centre", "--model", "telea", "--json"]
    first = project.run(*words, code=1)
    told = json.loads("\n".join(first[first.index("{") :]))
    assert sorted(Path(one["results"]).name for one in told["restored"]) == ["0", "1", "photo"]
    assert list(told["rejected"]) == ["in/bad.jpg"]
    made = {file: file.stat().st_mtime_ns for file in (project.home / "out").iterdir()}
    assert len(made) == 9
    project.run(*words, code=1)
    assert {file: file.stat().st_mtime_ns for file in (project.home / "out").iterdir()} == made


def test_a_system_of_ones_own(project: Project, photo: Path) -> None:
    grey(project.home / "mine.onnx", 64)
    project.run("restore", "in/photo.jpg", "-o", "out", "--hole", "mask.png", "--model", "mine.onnx")
    record = json.loads((project.home / "out" / "photo.json").read_text())
    assert record["answers"][0]["system"]["network"] == "onnx"
    assert record["answers"][0]["frames"][0]["side"] == 64


def test_several_systems_beside_each_other(project: Project, photo: Path) -> None:
    project.run(
        "restore", "in/photo.jpg", "-o", "out", "--hole", "mask.png", "--model", "telea", "--model", "navier_stokes"
    )
    assert sorted(file.name for file in (project.home / "out").iterdir()) == [
        "photo.1.png", "photo.2.png", "photo.hole.png", "photo.json", "photo.sheet.png",
    ]  # fmt: skip
    one, two = (cv2.imread(str(project.home / "out" / f"photo.{number}.png")) for number in (1, 2))
    assert (one != two).any()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "no checkpoint yet: nothing is promoted, and data/models/ is empty; make one with `palimpsest rebuild`"),
        (["--model", "none"], "no system 'none' here; one of telea, navier_stokes"),
        (["--model", "telea", "--samples", "3"], "system 'telea' has one answer"),
        (["--model", "telea", "--format", "gif"], "--format gif: one of png, jpg"),
        (["--model", "telea", "--face", "3"], "--face 3: no such face; faces: none was found"),
        (["--model", "telea", "--hole", "eye_bar"], "in/photo.jpg: no face found, and eye_bar needs one"),
        (["--model", "telea", "--detector", "mask.png"], "--detector: mask.png: not a YuNet model"),
        (["--model", "photo.onnx"], "photo.onnx"),
    ],
)
def test_what_cannot_be_done_is_one_line_and_nothing_is_written(
    project: Project, photo: Path, words: list[str], said: str
) -> None:
    flat = cv2.imread(str(photo)) * 0 + 90
    cv2.imwrite(str(photo), flat)
    lines = project.run(
        "restore", "in/photo.jpg", "-o", "out", *(words if "--hole" in words else [*words, "--hole", "centre"]), code=2
    )
    assert said in lines[-1]
    assert not [line for line in lines if "Traceback" in line]
    assert not (project.home / "out").exists()


def test_an_unwritable_folder_leaves_nothing(project: Project, photo: Path) -> None:
    (project.home / "out").write_text("a file")
    (line,) = project.run("restore", "in/photo.jpg", "-o", "out", "--hole", "centre", "--model", "telea", code=2)[-1:]
    assert "out: " in line
    assert (project.home / "out").read_text() == "a file"


def test_outside_of_any_project_a_checkpoints_file_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.restore import root_for

    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    assert root_for(["telea"]) == tmp_path
    with pytest.raises(InputError, match="give a checkpoint's file by --model"):
        root_for([])
