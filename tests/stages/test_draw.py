"""`draw`: portraits that detectors take for faces, with landmarks that are where they are drawn."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import draw
from stages.portraits import portrait
from stages.portraits.person import Pose
from stages.portraits.shell import Canvas, Shell, bell, enlarge, sample
from stages.runs.errors import InputError
from stages.runs.params import build

ROOT = Path(__file__).parents[2]

HEADER = (
    "path,lefteye_x,lefteye_y,righteye_x,righteye_y,nose_x,nose_y,leftmouth_x,leftmouth_y,rightmouth_x,rightmouth_y"
)


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drawn(folder: Path, count: int, size: int = 64, seed: int = 1) -> dict[str, bytes]:
    draw.draw(folder, draw.Params(count=count, side=size, seed=seed))
    return written(folder)


@pytest.fixture(scope="module")
def sixty() -> list[tuple[np.ndarray, np.ndarray]]:
    return [portrait.render(draw.person(1, index), 128) for index in range(60)]


def command(folder: Path, section: str) -> subprocess.Popen[str]:
    """`python -m stages.draw` on a copy of the code, so that the checkout's scratch stays untouched."""
    if not (folder / "stages").exists():
        shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.yaml").write_text(f"draw: {section}\n")
    environment = {k: v for k, v in os.environ.items() if k not in ("PALIMPSEST_RECORDS", "PYTHONPATH")}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.draw", "--portraits", "data/raw/portraits"],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a test can signal all of its processes, as a terminal does
    )


def drawing(folder: Path) -> subprocess.Popen[str]:
    """A stage that has begun to draw, in several processes, more than it will ever end."""
    running = command(folder, "{count: 100000, side: 64, seed: 1}")
    deadline = time.monotonic() + 120
    while not list((folder / ".palimpsest/tmp").rglob("0000.png")):
        assert running.poll() is None, running.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return running


# --- what is written -----------------------------------------------------------------------------


def test_two_runs_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    first = drawn(tmp_path / "a", 3)
    assert drawn(tmp_path / "b", 3) == first
    assert drawn(tmp_path / "c", 3, seed=2)["0000.png"] != first["0000.png"]


def test_the_number_of_opencv_threads_changes_no_byte(tmp_path: Path) -> None:
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = drawn(tmp_path / "a", 4, size=256)
        cv2.setNumThreads(4)
        assert drawn(tmp_path / "b", 4, size=256) == alone
    finally:
        cv2.setNumThreads(before)


def test_the_number_of_processes_changes_no_byte(tmp_path: Path) -> None:
    assert draw.FEW <= 70
    together = drawn(tmp_path / "a", 70, size=32)
    assert len(together) == 71
    draw.draw(tmp_path / "b", draw.Params(count=70, side=32, seed=1, workers=1))
    assert written(tmp_path / "b") == together


def test_between_pixels_it_is_bilinear_and_beyond_the_border_the_border() -> None:
    plane = np.array([[0, 10, 20], [100, 110, 120]], float)
    column, row = np.array([0, 0.5, 1.25, -3, 9]), np.array([0, 0.5, 0, 0.75, 1])
    np.testing.assert_allclose(sample(plane, column, row), [0, 55, 12.5, 75, 120])
    np.testing.assert_allclose(sample(np.stack([plane, -plane]), column, row)[1], [0, -55, -12.5, -75, -120])


def test_enlarging_is_cubic_convolution() -> None:
    small = np.random.default_rng(0).uniform(-1, 1, (4, 9))
    found = enlarge(small, 61, 70)
    np.testing.assert_allclose(found, cv2.resize(small, (70, 61), interpolation=cv2.INTER_CUBIC), atol=1e-5)
    np.testing.assert_allclose(enlarge(small, 4, 9), small, atol=1e-12)


def test_a_larger_count_leaves_the_first_pictures_as_they_are(tmp_path: Path) -> None:
    few, more = drawn(tmp_path / "a", 2), drawn(tmp_path / "b", 5)
    assert set(few) == {"0000.png", "0001.png", "landmarks.csv"}
    assert set(more) == {f"000{i}.png" for i in range(5)} | {"landmarks.csv"}
    assert more["landmarks.csv"].startswith(few["landmarks.csv"])
    assert all(more[name] == few[name] for name in ("0000.png", "0001.png"))


def test_the_command_writes_pictures_of_the_size_asked_and_their_table(tmp_path: Path) -> None:
    running = command(tmp_path, "{count: 2, side: 72, seed: 3}")
    assert (running.communicate()[1], running.returncode) == ("", 0)
    folder = tmp_path / "data/raw/portraits"
    assert written(folder) == drawn(tmp_path / "here", 2, size=72, seed=3)
    lines = (folder / "landmarks.csv").read_text().splitlines()
    assert lines[0] == HEADER
    for row in csv.DictReader(lines):
        picture = cv2.imdecode(np.frombuffer((folder / row["path"]).read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
        assert picture.shape == (72, 72, 3)
        assert picture.std() > 10
        values = [float(row[name]) for name in HEADER.split(",")[1:]]
        index = int(Path(row["path"]).stem)
        np.testing.assert_allclose(values, portrait.render(draw.person(3, index), 72)[1].reshape(-1), atol=6e-4)


def test_ctrl_c_does_not_wait_for_all_that_is_left_to_draw(tmp_path: Path) -> None:
    running = drawing(tmp_path)
    os.killpg(running.pid, signal.SIGINT)
    assert running.communicate(timeout=30)[1].splitlines() == ["draw: interrupted"]
    assert running.returncode == 130
    assert not (tmp_path / "data").exists()


def test_sigterm_to_all_of_its_processes_ends_it_without_a_word(tmp_path: Path) -> None:
    running = drawing(tmp_path)
    os.killpg(running.pid, signal.SIGTERM)
    assert running.communicate(timeout=30)[1].splitlines() == []
    assert running.returncode == 143


def test_no_process_outlives_a_killed_stage(tmp_path: Path) -> None:
    running = drawing(tmp_path)
    others = psutil.Process(running.pid).children(recursive=True)
    assert len(others) >= 2
    running.kill()
    running.communicate()
    assert not psutil.wait_procs(others, timeout=20)[1]


def test_the_record_covers_the_code_that_draws_in_other_processes(tmp_path: Path) -> None:
    codes = []
    for name in ("as it is", "altered"):
        shutil.copytree(ROOT / "stages", tmp_path / name / "stages", ignore=shutil.ignore_patterns("__pycache__"))
        if name == "altered":
            room = tmp_path / name / "stages/portraits/portrait.py"
            room.write_text(room.read_text() + "# altered\n")
        running = command(tmp_path / name, "{count: 70, side: 32, seed: 1}")
        said = running.communicate(timeout=60)[1]
        assert running.returncode == 0, said
        (record,) = (tmp_path / name).glob(".palimpsest/records/draw/*.json")
        codes.append(json.loads(record.read_text())["code"])
    assert codes[0] != codes[1]


# --- bad input -----------------------------------------------------------------------------------


def test_an_unknown_key_ends_the_command_in_one_line(tmp_path: Path) -> None:
    old = command(tmp_path, "{count: 2, side: 64, seed: 1, size: 64}")
    assert "unknown key 'draw.size': it is called 'side' now" in old.communicate()[1]
    refused = command(tmp_path, "{count: 2, side: 64, seed: 1, sise: 64}")
    assert refused.communicate()[1].splitlines() == ["draw: params.yaml: unknown key 'draw.sise'"]
    assert refused.returncode == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("count", 0), ("count", "600"), ("side", 8), ("side", 64.0), ("seed", -1), ("seed", None)]
)
def test_a_bad_value_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"draw\.{key}: "):
        build(draw.Params, {"count": 1, "side": 64, "seed": 1, key: value}, "draw")


# --- geometry ------------------------------------------------------------------------------------

poses = st.builds(
    Pose,
    yaw=st.floats(-0.35, 0.35),
    pitch=st.floats(-0.16, 0.16),
    roll=st.floats(-0.2, 0.2),
    scale=st.floats(0.9, 1.1),
    x=st.floats(-0.03, 0.03),
    y=st.floats(-0.03, 0.03),
)


def ball(pose: Pose, pixels: float) -> Shell:
    """An egg with a nose."""
    canvas = Canvas(-1.5, 1.5, pixels, np.zeros(3))
    canvas.bump(0, 0.5, 0.12, 0.1, 0.25)
    v = np.linspace(canvas.v[0, 0], canvas.v[-1, 0], Shell.ROWS)
    round_off = np.sqrt(1 - (v / 1.51) ** 2)
    return Shell(canvas, round_off, 1.1 * round_off, pose)


@settings(max_examples=25, deadline=None)
@given(pose=poses, t=st.floats(-0.6, 0.6), v=st.floats(-0.3, 1.1))
def test_a_spot_is_seen_where_its_projection_says(pose: Pose, t: float, v: float) -> None:
    view = portrait.View(pose, 128)
    shell = ball(pose, view.scale * 2)
    spot = bell(shell.canvas.t, t, 0.03) * bell(shell.canvas.v, v, 0.03)
    seen = cv2.resize(view.bend(shell, spot[None])[0], (128, 128), interpolation=cv2.INTER_AREA)
    y, x = np.mgrid[0:128, 0:128]
    centre = np.array([(seen * x).sum(), (seen * y).sum()]) / seen.sum()
    said = view.pixels(shell.project(np.array([t]), np.array([v])))[0]
    # A turned surface foreshortens the far half of the spot, which draws its centroid a little to the near one.
    assert np.abs(centre - said).max() < 0.5


def test_a_frontal_unit_ball_is_projected_as_by_hand() -> None:
    upright = Pose(yaw=0, pitch=0, roll=0, scale=1, x=0, y=0)
    canvas = Canvas(-1, 1, 50, np.zeros(3))
    flat = np.ones(Shell.ROWS)
    points = Shell(canvas, flat, flat, upright).project(np.array([0, np.pi / 6, -np.pi / 2]), np.array([0, 0.5, -0.5]))
    np.testing.assert_allclose(points, [[0, 0], [0.5, 0.5], [-1, -0.5]], atol=1e-6)
    # Turned by 30 degrees, the point in front moves by sin 30 of the depth.
    turned = Shell(canvas, flat, flat, Pose(np.pi / 6, 0, 0, 1, 0, 0))
    np.testing.assert_allclose(turned.project(np.array([0]), np.array([0])), [[0.5, 0]], atol=1e-6)


def test_landmarks_lie_inside_in_their_order_and_grow_with_the_picture() -> None:
    for index in range(200, 212):
        small, large = (portrait.render(draw.person(1, index), size)[1] for size in (64, 192))
        assert ((small > 0) & (small < 63)).all()
        left, right, nose, corner_left, corner_right = small
        assert left[0] < nose[0] < right[0]
        assert corner_left[0] < corner_right[0]
        assert max(left[1], right[1]) < nose[1] < min(corner_left[1], corner_right[1])
        # Pixel centres: (landmark + 1/2) / size is the place in the picture.
        np.testing.assert_allclose((small + 0.5) / 64, (large + 0.5) / 192, atol=0.002)


def test_pictures_differ_and_are_neither_black_nor_burnt_out(sixty: list[tuple[np.ndarray, np.ndarray]]) -> None:
    pictures = np.stack([picture for picture, _ in sixty]).astype(np.float32)
    assert len({picture.tobytes() for picture, _ in sixty}) == 60
    faces = pictures[:, 40:90, 40:88].mean((1, 2))  # a mean colour a face
    assert faces.std(0).min() > 20
    assert faces.mean(1).min() > 25
    assert (pictures == 255).all(-1).mean((1, 2)).max() < 0.05


# --- detectors -----------------------------------------------------------------------------------


def test_yunet_finds_the_faces_and_their_landmarks(shared: Path, sixty: list[tuple[np.ndarray, np.ndarray]]) -> None:
    model = shared / "weights/face_detection_yunet_2023mar.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", (256, 256), 0.9)
    errors = []
    for picture, landmarks in sixty:
        twice = cv2.resize(picture[..., ::-1], (256, 256), interpolation=cv2.INTER_CUBIC)
        _, faces = detector.detect(twice)
        if faces is None:
            continue
        best = max(faces, key=lambda face: face[-1])
        found = (best[4:14].reshape(5, 2) + 0.5) / 2 - 0.5
        errors.append(np.hypot(*(found - landmarks).T) / (best[2] / 2))
    assert len(errors) >= 0.95 * len(sixty)
    off = np.median(errors, axis=0)  # shares of the face's width
    assert off[:2].max() < 0.05
    assert off.max() < 0.09
    assert np.quantile(np.array(errors)[:, :2], 0.95) < 0.1


def test_the_haar_cascade_finds_the_faces(sixty: list[tuple[np.ndarray, np.ndarray]]) -> None:
    cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_default.xml")
    greys = (cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture, _ in sixty)
    found = sum(len(cascade.detectMultiScale(grey, 1.1, 4)) > 0 for grey in greys)
    assert found >= 0.8 * len(sixty)
