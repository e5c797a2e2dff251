"""align: eyes on the template, transforms that go back, reasons for rejections, the same bytes from any workers."""

import csv
import hashlib
import os
import subprocess
from collections import Counter
from pathlib import Path

import cv2
import forked
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages import align as stage
from stages.images import landmarks as faces
from stages.images.haar import Haar
from stages.images.table import ALIGNED, LANDMARKS, Table
from stages.runs import record
from stages.runs.errors import InputError
from stages.runs.params import build

ROOT = Path(__file__).parents[2]
NO_MODEL = Path("stages/images/no_model.txt")
FACE = faces.template(100)  # a frontal face of 33 px between the eyes


def params(**changes):
    given = {"mode": "face", "side": 64, "detector": "annotations", "detector_model": "none", "workers": 1}
    return build(stage.Params, given | changes, "datasets.d.align")


def png(picture):
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def row(data, landmarks=None, split="train", path="a.png", status="kept"):
    return {
        "image": {"bytes": data if status == "kept" else None, "path": path},
        "image_id": hashlib.sha256(data).hexdigest(),
        "path": path,
        "split": split,
        "status": status,
        "landmarks": None if landmarks is None else np.ravel(landmarks).tolist(),
    }


def ingested(folder, rows, shard=100):
    """An ingested folder, as the contract has it, with the columns that align reads."""
    folder.mkdir(parents=True)
    text = pa.string()
    image = pa.struct([("bytes", pa.binary()), ("path", text)])
    types = {"image": image, "image_id": text, "path": text, "split": text, "status": text, "landmarks": LANDMARKS}
    for start in range(0, len(rows), shard):
        table = pa.Table.from_pylist(rows[start : start + shard], schema=pa.schema(types.items()))
        pq.write_table(table, folder / f"part-{start // shard:05d}.parquet")
    return folder


def run(tmp_path, rows, **changes):
    """The stage's function on `rows`; gives the folder it wrote."""
    source = tmp_path / "ingested"
    if not source.exists():
        ingested(source, rows)
    number = len(list(tmp_path.iterdir()))
    stage.align(source, NO_MODEL, tmp_path / f"aligned{number}", params(**changes), "d")
    return tmp_path / f"aligned{number}"


def test_a_task_holds_few_pictures_and_fewer_of_large_ones(tmp_path, monkeypatch):
    sizes = [5, 60, 60, 5, 200, 5, 5, 5, 5, 5]
    source = ingested(tmp_path / "in", [row(b"x" * n, path=f"{i}.png") for i, n in enumerate(sizes)], shard=3)
    monkeypatch.setattr(stage, "CHUNK", 4)
    monkeypatch.setattr(stage, "CHUNK_BYTES", 100)
    total, chunks = stage.read_kept(source)
    assert total == len(sizes)
    assert [[len(one.data) for one in chunk] for chunk in chunks] == [[5, 60, 60], [5, 200], [5, 5, 5, 5], [5]]


def reasons(folder):
    return {r["path"]: r["reason"] for r in pq.read_table(folder / "rejected.parquet").to_pylist()}


def photo(path):
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def eye_error(found, true, size=64):
    """Mean distance of the true eyes from the template in a crop by `found`, as a share of its side."""
    return float(
        np.hypot(*(faces.apply(faces.similarity(found, size), true) - faces.template(size))[:2].T).mean() / size
    )


# ---- geometry ---------------------------------------------------------------------------------------------------

turns = st.builds(
    lambda scale, angle, x, y: np.array(
        [[scale * np.cos(angle), -scale * np.sin(angle), x], [scale * np.sin(angle), scale * np.cos(angle), y]]
    ),
    st.floats(0.1, 40),
    st.floats(-3.1, 3.1),
    st.floats(-500, 5000),
    st.floats(-500, 5000),
)


@settings(max_examples=50, deadline=None)
@given(turns, st.integers(4, 64).map(lambda n: 8 * n))
def test_any_similar_face_comes_to_the_template_and_back(turn, size):
    points = faces.apply(turn, FACE)
    transform = faces.similarity(points, size)
    np.testing.assert_allclose(faces.apply(transform, points), faces.template(size), atol=1e-6)
    back = faces.apply(cv2.invertAffineTransform(transform), faces.apply(transform, points))
    assert np.abs(back - points).max() < 0.01


def test_the_template_has_eyes_and_nose_around_the_middle():
    np.testing.assert_allclose(faces.TEMPLATE[:3].mean(0), [0.5, 0.5], atol=0.05)
    np.testing.assert_allclose(faces.template(64)[0], [0.335 * 64 - 0.5, 0.41 * 64 - 0.5])


@pytest.mark.parametrize("swap", [[1, 0, 2, 3, 4], [0, 1, 2, 4, 3], [1, 0, 2, 4, 3]])
def test_landmarks_by_the_persons_sides_do_not_turn_a_face_over(swap):
    np.testing.assert_array_equal(faces.ordered(FACE[swap]), FACE)
    np.testing.assert_array_equal(faces.ordered(100 - FACE[swap]), 100 - FACE)  # a face upside down


@pytest.mark.parametrize("scale", [0.11, 0.45, 0.9, 1.0, 2.7])
def test_a_dot_is_found_where_the_transform_says(scale):
    picture = np.zeros((600, 700, 3), np.uint8)
    centre = np.array([300.0, 260.0])
    y, x = np.mgrid[:600, :700]
    radius = 4 / scale
    picture[np.hypot(x - centre[0], y - centre[1]) < radius] = 255
    angle = 0.3
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    transform = np.array([[a, -b, 40 - a * centre[0] + b * centre[1]], [b, a, 22.5 - b * centre[0] - a * centre[1]]])
    crop = faces.crop(picture, transform, 64)[..., 0].astype(float)
    v, u = np.mgrid[:64, :64]
    seen = np.array([(u * crop).sum(), (v * crop).sum()]) / crop.sum()
    np.testing.assert_allclose(seen, [40, 22.5], atol=0.05)


def test_shrinking_does_not_alias():
    stripes = np.zeros((512, 512, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than any pixel of the crop: must come out grey
    shrink = np.array([[64 / 512, 0, 0.5 * 64 / 512 - 0.5], [0, 64 / 512, 0.5 * 64 / 512 - 0.5]])
    crop = faces.crop(stripes, shrink, 64)[2:-2, 2:-2].astype(int)
    assert np.abs(crop - 127.5).max() <= 1


def test_centre_mode_leaves_pictures_of_the_right_size_as_they_are(tmp_path):
    pictures = [noise(32, 32, seed) for seed in range(3)]
    points = FACE * 0.32
    rows = [row(png(p), points if i == 1 else None, path=str(i)) for i, p in enumerate(pictures)]
    table = Table(run(tmp_path, rows, mode="centre", side=32) / "train.arrow")
    np.testing.assert_array_equal(table.pictures(), pictures)
    assert table.column("transform") == [[1, 0, 0, 0, 1, 0]] * 3
    np.testing.assert_allclose(table.landmarks()[1], points, rtol=1e-6)
    assert table.column("landmarks")[0] is None


def test_centre_mode_takes_the_largest_centred_square():
    picture = noise(100, 240)
    crop = stage.aligned_centre(picture, np.array([[119.5, 49.5]] * 5), 40)
    np.testing.assert_array_equal(crop.pixels, cv2.resize(picture[:, 70:170], (40, 40), interpolation=cv2.INTER_AREA))
    np.testing.assert_allclose(crop.landmarks, 19.5)  # centre to centre


# ---- the stage's function ---------------------------------------------------------------------------------------


def test_every_picture_is_aligned_or_rejected_with_its_reason(tmp_path):
    picture = noise(120, 120)
    flat = FACE.copy()
    flat[:2, 0] = [46, 54]  # profile: eyes 8 px apart, 35 px above the mouth
    rows = [
        row(png(picture), FACE + 10, "train", "good"),
        row(png(picture), None, "train", "unannotated"),
        row(png(picture), FACE * 0.05, "val", "tiny"),
        row(png(picture), flat, "test", "profile"),
        row(png(picture), FACE + 60, "test", "corner"),
        row(png(picture)[:900], FACE, "test", "cut"),
        row(b"text", None, None, "unseen", status="rejected"),  # ingest's own
        row(png(picture[:, :110]), FACE + 5, "test", "narrow"),
    ]
    folder = run(tmp_path, rows)
    assert reasons(folder) == {
        "unannotated": "no annotated landmarks",
        "tiny": "eyes less than 4 px apart",
        "profile": "profile",
        "corner": "too much of the crop lies outside the picture",
        "cut": "truncated",
    }
    kept = {split: Table(folder / f"{split}.arrow").column("path") for split in stage.SPLITS}
    assert kept == {"train": ["good"], "val": [], "test": ["narrow"]}
    table = Table(folder / "train.arrow")
    assert table.size == (64, 64)
    np.testing.assert_allclose(table.landmarks()[0], faces.template(64), atol=1e-4)
    transform = np.reshape(table.column("transform")[0], (2, 3))
    np.testing.assert_allclose(
        faces.apply(cv2.invertAffineTransform(transform), faces.template(64)), FACE + 10, atol=0.01
    )


def test_a_crop_beyond_the_border_is_mirrored_not_black():
    picture = np.full((100, 100, 3), 200, np.uint8)
    crop = stage.aligned_face(picture, FACE - [15, 0], 64, 0.25, 0.5)
    assert crop.pixels.min() == 200
    share = faces.outside(crop.transform, 64, 100, 100)
    assert share == pytest.approx(0.15, abs=0.02)


def test_one_process_and_two_write_the_same_bytes(tmp_path):
    rows = [
        row(png(noise(90, 90, n)), None if n % 7 == 0 else FACE * 0.8 + n % 5, stage.SPLITS[n % 3], f"{n:04d}")
        for n in range(stage.FEW + 20)
    ]
    folders = [run(tmp_path, rows, workers=workers, side=32) for workers in (1, 2)]
    names = ["rejected.parquet", "test.arrow", "train.arrow", "val.arrow"]
    for folder in folders:
        assert sorted(p.name for p in folder.iterdir()) == names
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    assert Table(folders[0] / "train.arrow").column("path") == [
        f"{n:04d}" for n in range(len(rows)) if n % 21 % 3 == 0 and n % 7
    ]
    assert len(reasons(folders[1])) == 40


def test_nothing_aligned_is_an_error_with_the_reasons(tmp_path):
    rows = [row(png(noise(40, 40, n)), path=str(n)) for n in range(3)] + [row(b"", path="none")]
    with pytest.raises(
        InputError, match=r"none of 4 .*: no annotated landmarks \(3\), empty file \(1\); .*datasets\.d\."
    ):
        run(tmp_path, rows)


def test_a_folder_that_is_no_ingested_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="holds no kept picture"):
        run(tmp_path, [row(b"", status="rejected")])
    (tmp_path / "ingested/part-00000.parquet").write_bytes(b"no parquet")
    with pytest.raises(InputError, match="not readable as parquet"):
        run(tmp_path, [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"side": 60}, "side"),
        ({"side": 520}, "side"),
        ({"side": 24}, "side"),
        ({"mode": "middle"}, "mode"),
        ({"detector": "mtcnn"}, "detector"),
        ({"workers": 0}, "workers"),
        ({"sise": 64}, "unknown key 'datasets.d.align.sise'"),
    ],
)
def test_wrong_parameters_are_named(change, named):
    with pytest.raises(InputError, match=named):
        params(**change)


# ---- detectors --------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_model_is_one_line_that_names_the_key(tmp_path, capfd):
    with pytest.raises(InputError, match=r"datasets\.d\.align\.detector_model: .*no_model\.txt: not a YuNet model"):
        run(tmp_path, [row(png(noise(40, 40)))], detector="yunet")
    assert capfd.readouterr().err == ""


def test_an_opencv_without_cascades_is_named_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(cv2.data, "haarcascades", str(tmp_path))
    with pytest.raises(InputError, match=r"has no haarcascade_.*opencv-python.*detector: yunet"):
        Haar()


def test_the_foremost_face_is_large_and_central():
    boxes = np.array([[0, 0, 40, 40], [80, 80, 40, 40], [95, 95, 10, 10]], float)
    assert faces.foremost(boxes, 200, 200) == 1
    boxes[0, 2:] = 90  # larger by far, though in a corner
    assert faces.foremost(boxes, 200, 200) == 0


def test_no_face_no_landmarks(yunet, shared):
    for picture in (noise(64, 64), np.zeros((1, 1, 3), np.uint8), np.zeros((2, 3000, 3), np.uint8)):
        for detector in (yunet, Haar()):
            with pytest.raises(faces.NoFace, match="no face found"):
                detector(picture)
    model = hashlib.sha256((shared / "weights/face_detection_yunet_2023mar.onnx").read_bytes()).hexdigest()
    assert record.weights()["face_detection_yunet_2023mar.onnx"] == model
    names = ("haarcascade_frontalface_default.xml", "haarcascade_eye.xml", "haarcascade_eye_tree_eyeglasses.xml")
    assert {*names} <= record.weights().keys()


def test_yunet_finds_the_eyes_of_the_annotated_photos(shared, yunet):
    folder = shared / "data/celeba"
    with (folder / "list_landmarks_align_celeba.sample12.csv").open() as stream:
        known = {name: np.array(numbers, float).reshape(5, 2) for name, *numbers in list(csv.reader(stream))[1:]}
    errors = {name: eye_error(yunet(photo(folder / "img_align_celeba" / name)), true) for name, true in known.items()}
    assert len(errors) == 12
    assert max(errors.values()) <= 0.04, errors


def test_yunets_output_is_rounded(yunet, celeba):
    picture = photo(celeba[0])
    found = yunet.seen(picture, 1.0, 0.9)[:, :4] * 16  # at scale 1 the picture's pixels are the network's
    assert len(found)
    np.testing.assert_array_equal(found, np.round(found))


def test_yunet_finds_most_faces_and_few_dogs(shared, yunet, celeba):
    def found(paths):
        def one(path):
            try:
                points = yunet(photo(path))
            except faces.NoFace:
                return False
            assert (points[1] - points[0])[0] > 0 < points[3:, 1].min() - points[:2, 1].max()
            return True

        return Counter(map(one, paths))

    assert found(celeba[::140])[False] <= 1  # of 39
    assert found(sorted((shared / "data/dogs").glob("*.jpg")))[True] <= 1  # of 11


@pytest.mark.parametrize("width", [70, 178, 500, 2000])  # the face is about half as wide
def test_yunet_sees_faces_of_any_size(yunet, celeba, width):
    for path in celeba[5:400:100]:
        picture = photo(path)
        usual = yunet(picture)
        scale = width / 178
        method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
        scaled = cv2.resize(picture, (width, round(218 * scale)), interpolation=method)
        again = (yunet(scaled) + 0.5) / scale - 0.5
        assert eye_error(again, usual) < 0.05


def test_haar_eyes_lie_near_yunets(shared, yunet):
    haar = Haar()
    photos = [photo(path) for path in sorted((shared / "data/lfw").rglob("*.jpg"))[:200:20]]
    errors = []
    for picture in photos:
        try:
            errors.append(eye_error(haar(picture), yunet(picture)))
        except faces.NoFace:  # closed or hidden eyes, which the cascades miss
            continue
    assert len(errors) >= 7
    assert max(errors) < 0.08


# ---- as a command -----------------------------------------------------------------------------------------------


def test_the_stage_as_a_command(shared, celeba, tmp_path):
    model = shared / "weights/face_detection_yunet_2023mar.onnx"
    rows = [row(path.read_bytes(), split="test", path=path.name) for path in celeba[:4]]
    rows.append(row(png(noise(80, 80)), path="noise.png"))
    source = ingested(tmp_path / "ingested", rows)
    values = tmp_path / "params.yaml"
    values.write_text(
        f"datasets: {{c: {{align: {{mode: face, side: 96, detector: yunet, detector_model: '{model}'}}}}}}\n"
    )
    command = [forked.python(), "-m", "stages.align", "c", "--params", values, "--ingested", source]
    command += ["--detector-model", model, "--aligned", tmp_path / "aligned"]
    environment = os.environ | {"PALIMPSEST_RECORDS": str(tmp_path / "records")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table = Table(tmp_path / "aligned/test.arrow")
    assert table.column("path") == [path.name for path in celeba[:4]]
    assert table.pictures().shape == (4, 96, 96, 3)
    np.testing.assert_allclose(table.landmarks()[:, :2], np.tile(faces.template(96)[:2], (4, 1, 1)), atol=1e-3)
    assert reasons(tmp_path / "aligned") == {"noise.png": "no face found"}
    assert set(ALIGNED) <= set(pa.ipc.open_file(tmp_path / "aligned/val.arrow").schema.names)


def test_drawn_portraits_have_their_eyes_on_the_template(tmp_path):
    """By their known landmarks: within 1 %, exactly but for the table's float32."""
    draw = pytest.importorskip("stages.draw", reason="draw has not landed")
    folder = tmp_path / "portraits"
    draw.draw(folder, build(draw.Params, {"count": 6, "side": 128, "seed": 3}, "draw"))
    with (folder / "landmarks.csv").open() as stream:
        known = {name: np.array(numbers, float).reshape(5, 2) for name, *numbers in list(csv.reader(stream))[1:]}
    rows = [row((folder / name).read_bytes(), true, "test", name) for name, true in known.items()]
    table = Table(run(tmp_path, rows) / "test.arrow")
    assert table.column("path") == list(known)
    for true, numbers in zip(known.values(), table.column("transform"), strict=True):
        eyes = faces.apply(np.reshape(numbers, (2, 3)), true)[:2]
        assert np.hypot(*(eyes - faces.template(64)[:2]).T).max() < 0.01 * 64
    np.testing.assert_array_equal(table.landmarks()[:, :2], np.tile(np.float32(faces.template(64)[:2]), (6, 1, 1)))
