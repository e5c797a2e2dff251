"""`draw_shapes`: a world without faces, the same bytes everywhere, and one that differs from picture to picture."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import draw_shapes
from stages.draw_shapes import THINGS, Params, Scene, scene
from stages.runs.errors import InputError
from stages.runs.params import build

ROOT = Path(__file__).parents[2]


def written(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def drawn(folder: Path, **values: object) -> dict[str, bytes]:
    draw_shapes.draw_shapes(folder, build(Params, {"side": 32, "seed": 1, **values}, "draw_shapes.x"))
    return written(folder)


def command(folder: Path, section: object) -> subprocess.CompletedProcess[str]:
    """`python -m stages.draw_shapes fruit` on a copy of the code."""
    shutil.copytree(ROOT / "stages", folder / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "params.yaml").write_text(json.dumps({"draw_shapes": {"fruit": section}}))
    environment = {k: v for k, v in os.environ.items() if k not in ("PALIMPSEST_RECORDS", "PYTHONPATH")}
    line = [sys.executable, "-m", "stages.draw_shapes", "draw_shapes@fruit", "--shapes", "data/raw/{name}"]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_larger_count_leaves_the_first_pictures_and_another_seed_does_not(tmp_path: Path) -> None:
    few, more = drawn(tmp_path / "a", count=2), drawn(tmp_path / "b", count=4)
    assert set(more) == {f"000{number}.png" for number in range(4)}
    assert few == {name: more[name] for name in few}
    assert not set(few.values()) & set(drawn(tmp_path / "c", count=2, seed=2).values())


def test_the_command_draws_what_its_entry_says(tmp_path: Path) -> None:
    done = command(tmp_path, {"count": 3, "side": 40, "seed": 5, "things": "fruit", "most": 1})
    assert (done.stderr, done.returncode) == ("", 0)
    found = written(tmp_path / "data/raw/fruit")
    assert found == drawn(tmp_path / "here", count=3, side=40, seed=5, things="fruit", most=1)
    picture = cv2.imdecode(np.frombuffer(found["0002.png"], np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(picture[..., ::-1], scene(Params(3, 40, 5, "fruit", 1), 2))


def test_an_unknown_key_ends_the_command_in_one_line(tmp_path: Path) -> None:
    done = command(tmp_path, {"count": 3, "side": 40, "seed": 5, "fruits": 3})
    assert done.stderr == "draw_shapes@fruit: params.yaml: unknown key 'draw_shapes.fruit.fruits'\n"
    assert done.returncode == 2
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("key", "value"), [("count", 0), ("side", 31), ("seed", -1), ("things", "faces"), ("most", 0), ("most", 10)]
)
def test_a_bad_value_is_refused_by_name(key: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"draw_shapes\.x\.{key}: "):
        build(Params, {"count": 1, "side": 32, "seed": 1, key: value}, "draw_shapes.x")


def egg(light: tuple[float, float, float], key: float, fill: float) -> np.ndarray:
    """The red channel of an egg on black, 0.4 wide and 0.2 high around (0.4, 0.6), of 200 pixels a side."""
    drawing = Scene(np.random.default_rng(0), 200)
    drawing.picture[:] = 0
    drawing.light, drawing.key, drawing.fill = light, np.full(3, key), np.full(3, fill)
    drawing.egg(0.4, 0.6, (0.2, 0.1), np.array([1.0, 0.5, 0.0]), gloss=0)
    np.testing.assert_allclose(drawing.picture[1:], [drawing.picture[0] / 2, drawing.picture[0] * 0])
    return drawing.picture[0]


def test_an_egg_lies_where_it_is_said_to() -> None:
    rows, columns = np.nonzero(egg((0.0, 0.0, 1.0), key=0, fill=1) > 0.5)
    # Centres of pixels: x from 0.2 to 0.6 are the columns 40 to 119, y from 0.5 to 0.7 the rows 100 to 139.
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (40, 119, 100, 139)


def test_an_egg_is_lit_from_where_the_light_is() -> None:
    lit = egg((-1.0, 0.0, 0.0), key=1, fill=0.25)
    assert lit[120, 100] == pytest.approx(0.25)  # the far side has the shade's light alone
    # Half way out to the left the normal is (-0.5 / 0.2, 0, sqrt(0.75) / 0.1), made a unit's length: x = -0.277.
    assert lit[120, 60] == pytest.approx(0.25 + 0.277, abs=0.01)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32), things=st.sampled_from(sorted(THINGS)), most=st.integers(1, 9))
def test_every_number_of_a_scene_is_finite_and_something_stands_out(seed: int, things: str, most: int) -> None:
    with np.errstate(all="raise", under="ignore"):
        picture = scene(Params(1, 32, seed, things, most), 0)
    assert picture.shape == (32, 32, 3)
    assert picture.dtype == np.uint8
    # A wall and a table alone change slowly along a row.
    assert np.abs(np.diff(picture.astype(int), axis=1)).max() > 12


def test_pictures_differ_in_colour_and_in_what_lies_where() -> None:
    pictures = np.stack([scene(Params(1, 32, 3), index) for index in range(60)]).astype(float)
    assert len({picture.tobytes() for picture in pictures}) == 60
    assert pictures.mean((1, 2)).std(0).min() > 15
    assert pictures.std(0).min() > 20  # no place is the same in all
    assert (pictures == 255).all(-1).mean() < 0.05


def test_no_face_is_found(shared: Path) -> None:
    model = shared / "weights/face_detection_yunet_2023mar.onnx"
    detector = cv2.FaceDetectorYN.create(str(model), "", (128, 128), 0.6)
    pictures = [scene(Params(1, 128, 1), index)[..., ::-1] for index in range(40)]
    assert [index for index, picture in enumerate(pictures) if detector.detect(picture)[1] is not None] == []


def test_grey_is_the_luminance_of_the_same_scene() -> None:
    colour, grey = (scene(Params(1, 48, 3, "both", 4, shade), 0).astype(np.float64) for shade in (False, True))
    assert np.ptp(colour, axis=2).max() > 60
    assert np.ptp(grey, axis=2).max() == 0
    np.testing.assert_allclose(grey[..., 0], np.sqrt(colour**2 @ [0.2126, 0.7152, 0.0722]), atol=1.1)
