"""Scores of a pretended pipeline: hand-worked summaries, intervals, and inputs that do not fit."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pretend
import pyarrow.parquet as pq
import pytest

from stages import evaluate as stage
from stages.images import table
from stages.metrics import fidelity
from stages.runs.errors import InputError
from stages.runs.params import Runtime, build

ROOT = Path(__file__).parent.parent
PLAIN = {"lpips": "none", "perceptual_weights": "none", "bootstrap": 200, "seed": 5}


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    pretend.dataset(folder)
    pretend.system(folder, "soft", noise=20)
    return folder


def paths(data: Path, system: str = "soft") -> dict[str, Path]:
    return {
        "aligned": data / "aligned" / "faces",
        "masks": data / "masks" / "faces",
        "inpainted": data / "inpainted" / system,
        "blended": data / "blended" / system,
    }


def evaluated(data: Path, out: Path, **changes) -> tuple[dict, list[dict]]:
    """The score file and the table's rows, with `changes` to the input paths."""
    out.mkdir(exist_ok=True)
    scores, rows = out / "soft.json", out / "soft.parquet"
    given = {**paths(data), **changes}
    stage.evaluate(**given, scores=scores, table=rows, params=stage.Params(**PLAIN), runtime=Runtime(), name="soft")
    return json.loads(scores.read_text()), pq.read_table(rows).to_pylist()


def run(data: Path, out: Path, params: dict, **environment: str) -> subprocess.CompletedProcess:
    """The stage as `dvc.yaml` runs it, from the repository's root."""
    out.mkdir(exist_ok=True)
    (out / "params.yaml").write_text(json.dumps({"evaluate": params, "runtime": {}}))
    options = {**paths(data), "scores": out / "soft.json", "table": out / "soft.parquet", "params": out / "params.yaml"}
    words = [word for name, path in options.items() for word in (f"--{name}", str(path))]
    line = [sys.executable, "-m", "stages.evaluate", "soft", *words]
    environment |= {"PALIMPSEST_RECORDS": str(out / "records"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(line, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)


def test_every_row_is_scored_as_fidelity_scores_it(data, tmp_path):
    _, rows = evaluated(data, tmp_path)
    assert len(rows) == 2 * 6 * 2
    row = next(r for r in rows if r["path"] == "0003.png" and r["kind"] == "pixels" and r["blending"] == "raw")
    completed = table.Table(data / "inpainted" / "soft" / "completed.arrow")
    output = completed.pictures([3 * 2 + 1])
    hole = pretend.draw("pixels", 3, 32)
    expected = fidelity.score(output, pretend.picture(3, 32)[None], hole[None])
    assert row["image_id"] == pretend.key(3)[0]
    assert row["ratio"] == hole.mean()
    assert {name: row[name] for name in expected} == {name: value[0] for name, value in expected.items()}


def test_the_summary_means_what_it_says(data, tmp_path):
    summary, rows = evaluated(data, tmp_path)
    mean = np.mean([r["psnr_hole"] for r in rows if r["kind"] == "centre" and r["blending"] == "raw"])
    entry = summary["raw"]["centre"]
    assert entry["n"] == 6
    assert entry["psnr_hole"]["mean"] == pytest.approx(mean, rel=1e-5)
    assert summary["raw"]["overall"]["n"] == 12
    # Pixel holes miss about .1 to .5; the centre hole .25.
    bins = summary["raw"]["ratio"]
    assert sum(entry["n"] for entry in bins.values()) == 12
    assert bins["20-30"]["n"] >= 6
    # Half the error: 6 dB better, and the paired difference says so with certainty.
    gain = summary["difference"]["centre"]["psnr_hole"]
    assert 5 < gain["low"] <= gain["mean"] <= gain["high"] < 7
    means = [summary[blending]["centre"]["psnr_hole"]["mean"] for blending in ("blended", "raw")]
    assert gain["mean"] == pytest.approx(means[0] - means[1], abs=1e-3)


@pytest.mark.parametrize(
    ("ratio", "name"), [(0.01, "00-01"), (0.1, "01-10"), (0.1001, "10-20"), (0.6, "50-60"), (1.0, "60-100")]
)
def test_bins_take_in_their_upper_end(ratio, name):
    columns = {"image_id": ["a"] * 2, "path": ["a"] * 2, "kind": ["half"] * 2, "blending": ["raw", "blended"]}
    columns |= {"ratio": np.array([ratio, ratio]), "l1": np.array([0.5, 0.25])}
    summary = stage.summarise(columns, draws=10, seed=1)
    assert list(summary["raw"]["ratio"]) == [name]
    assert summary["difference"]["half"] == {"n": 1, "l1": {"mean": -0.25, "low": -0.25, "high": -0.25}}


def test_bootstrap_by_hand():
    # Two pictures, 0 and 1: a draw's mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
    mean, low, high = stage.bootstrap(np.array([[0.0], [1.0]]), np.array([0, 1]), draws=500, seed=1)
    assert (mean[0], low[0], high[0]) == (0.5, 0, 1)
    # One picture has nothing to vary with, however many its rows.
    assert (stage.bootstrap(np.array([[0.0], [1.0]]), np.array([7, 7]), draws=50, seed=1) == 0.5).all()


def test_bootstrap_resamples_pictures_not_rows():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(40, 1)), 25, axis=0)  # 25 rows a picture, all alike
    pictures = np.repeat(np.arange(40), 25)
    _, low, high = stage.bootstrap(values, pictures, draws=2000, seed=1)[:, 0]
    expected = 2 * 1.96 * values[::25].std() / np.sqrt(40)
    assert high - low == pytest.approx(expected, rel=0.1)
    # The same seed, the same interval; blocks of draws do not show.
    again = stage.bootstrap(values, pictures, draws=2000, seed=1)[:, 0]
    assert (again[1], again[2]) == (low, high)


def test_bootstrap_leaves_out_what_has_no_number():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    table = stage.bootstrap(values, np.arange(3), draws=200, seed=1)
    assert table[0, 0] == 2
    assert 1 <= table[1, 0] <= table[2, 0] <= 3
    assert np.isnan(table[:, 1]).all()


def test_the_command_gives_the_same_bytes_twice_and_leaves_torch_alone(data, tmp_path):
    for name in ("one", "two"):
        done = run(data, tmp_path / name, PLAIN)
        assert done.returncode == 0, done.stderr
    for file in ("soft.json", "soft.parquet"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    text = (tmp_path / "one" / "soft.json").read_text()
    assert "NaN" not in text
    assert text == json.dumps(json.loads(text), indent=1, sort_keys=True) + "\n"
    code = "import sys, stages.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_no_test_pictures_is_no_crash(tmp_path):
    pretend.dataset(tmp_path, count=0)
    pretend.system(tmp_path, "soft", noise=1, count=0)
    summary, rows = evaluated(tmp_path, tmp_path / "out")
    assert rows == []
    assert summary["raw"] == {"overall": {"n": 0}, "ratio": {}}


@pytest.mark.parametrize("weights", ["none", "random"])
def test_lpips_never_takes_random_weights(weights):
    with pytest.raises(InputError, match="lpips: alex needs perceptual_weights: imagenet"):
        build(stage.Params, {**PLAIN, "lpips": "alex", "perceptual_weights": weights}, "evaluate")


def test_a_seed_that_no_generator_takes_is_named():
    with pytest.raises(InputError, match=r"evaluate\.seed: .*greater than or equal to 0 \(got -5\)"):
        build(stage.Params, {**PLAIN, "seed": -5}, "evaluate")


def test_lpips_without_its_weights_is_one_line(data, tmp_path):
    """Through the command, with an empty cache and a proxy that nobody is."""
    options = {**PLAIN, "lpips": "alex", "perceptual_weights": "imagenet"}
    done = run(data, tmp_path / "out", options, TORCH_HOME=str(tmp_path), https_proxy="http://127.0.0.1:9")
    assert done.returncode == 2
    (message,) = done.stderr.strip().splitlines()
    assert message.startswith("evaluate@soft:")
    assert "curl -L" in message
    assert not (tmp_path / "out" / "soft.json").exists()


def test_a_picture_that_was_not_composited_is_refused(data, tmp_path):
    pretend.system(tmp_path, "soft", noise=20)
    path = tmp_path / "inpainted" / "soft" / "completed.arrow"
    rows = table.Table(path)
    pictures, keys = rows.pictures(), [rows.column(name) for name in table.COMPLETED]
    pictures[4, 0, 0] ^= 1  # a corner, and a centre hole
    with table.writing_pictures(path.with_name("new.arrow"), (32, 32), table.COMPLETED) as writer:
        for row in zip(pictures, *keys, strict=True):
            writer.append(*row)
    path.with_name("new.arrow").replace(path)
    with pytest.raises(InputError, match=r"completed\.arrow: known pixels were changed"):
        evaluated(data, tmp_path / "out", inpainted=path.parent)


def test_tables_that_do_not_fit_are_refused(data, tmp_path):
    pretend.dataset(tmp_path / "fewer", count=5)
    with pytest.raises(InputError, match=r"aligned/faces/test\.arrow: no row for 0005\.png"):
        evaluated(data, tmp_path / "out", aligned=tmp_path / "fewer" / "aligned" / "faces")
    pretend.dataset(tmp_path / "larger", size=64)
    with pytest.raises(InputError, match=r"test\.arrow: \(64, 64\) pixels"):
        evaluated(data, tmp_path / "out", masks=tmp_path / "larger" / "masks" / "faces")
    pretend.system(tmp_path / "one", "soft", noise=1, kinds=("centre",))
    with pytest.raises(InputError, match="not the rows of"):
        evaluated(data, tmp_path / "out", blended=tmp_path / "one" / "blended" / "soft")
    shutil.copytree(data / "inpainted" / "soft", tmp_path / "broken")
    (tmp_path / "broken" / "completed.arrow").write_bytes(b"no table")
    with pytest.raises(InputError, match="not a table"):
        evaluated(data, tmp_path / "out", inpainted=tmp_path / "broken")
