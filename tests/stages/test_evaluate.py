"""Scores of a pretended pipeline: hand-worked summaries, intervals, and inputs that do not fit."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import forked
import numpy as np
import pretend
import pyarrow.parquet as pq
import pytest

from stages import evaluate as stage
from stages.images import table
from stages.metrics import diversity, dots, fidelity, means
from stages.metrics.means import OVERALL, Interval, Means
from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.params import Runtime, build

ROOT = Path(__file__).parents[2]
DVC = str(Path(sys.executable).with_name("dvc"))
RAW_BINS = ("raw", "ratio")
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


FILES = {"scores": "soft.json", "table": "soft.parquet", "means": "soft.means.parquet"}


def evaluated(data: Path, out: Path, **changes) -> tuple[dict, Means, list[dict]]:
    """The score file, the means and the table's rows, with `changes` to the input paths."""
    out.mkdir(exist_ok=True)
    outputs = {name: out / file for name, file in FILES.items()}
    given = {**paths(data), **changes, **outputs}
    stage.evaluate(**given, params=stage.Params(**PLAIN), runtime=Runtime(), name="soft")
    rows = pq.read_table(outputs["table"]).to_pylist()
    return json.loads(outputs["scores"].read_text()), means.read_means(outputs["means"]), rows


def run(data: Path, out: Path, params: dict, **environment: str) -> subprocess.CompletedProcess:
    """The stage as `dvc.yaml` runs it, from the repository's root."""
    out.mkdir(exist_ok=True)
    (out / "params.yaml").write_text(json.dumps({"evaluate": params, "runtime": {"threads": 1}}))
    options = {**paths(data), **{name: out / file for name, file in FILES.items()}, "params": out / "params.yaml"}
    words = [word for name, path in options.items() for word in (f"--{name}", str(path))]
    environment["PALIMPSEST_RECORDS"] = str(out / "records")
    return forked.run("stages.evaluate", ["soft", *words], ROOT, environment)


def test_every_row_is_scored_as_fidelity_scores_it(data, tmp_path):
    _, _, rows = evaluated(data, tmp_path)
    assert len(rows) == 2 * 6 * 2
    row = next(r for r in rows if r["path"] == "0003.png" and r["kind"] == "pixels" and r["blending"] == "raw")
    completed = table.Table(data / "inpainted" / "soft" / "completed.arrow")
    output = completed.pictures([3 * 2 + 1])
    hole = pretend.draw("pixels", 3, 32)
    expected = fidelity.score(output, pretend.picture(3, 32)[None], hole[None])
    assert row["image_id"] == pretend.key(3)[0]
    assert row["ratio"] == hole.mean()
    assert {name: row[name] for name in expected} == {name: value[0] for name, value in expected.items()}
    assert row["dots"] == dots.dots(output, pretend.picture(3, 32)[None], hole[None])[0]


def test_the_squared_error_of_what_a_network_puts_out_counts_the_known_pixels_too(data, tmp_path):
    """Report 5's loss is perhaps that; and blending changes nothing of it."""
    inpainted = tmp_path / "soft"
    shutil.copytree(data / "inpainted" / "soft", inpainted)
    keys = [(*pretend.key(number), kind, "test") for number in range(6) for kind in ("centre", "pixels")]
    with table.writing_pictures(inpainted / "guide.arrow", (32, 32), table.COMPLETED) as writer:
        for number, key in enumerate(keys):
            writer.append(np.minimum(pretend.picture(number // 2, 32).astype(int) + 10, 255).astype(np.uint8), *key)
    _, found, rows = evaluated(data, tmp_path / "out", inpainted=inpainted)
    row = next(r for r in rows if r["path"] == "0003.png" and r["kind"] == "pixels" and r["blending"] == "raw")
    off = np.minimum(255 - pretend.picture(3, 32).astype(int), 10) / 255
    assert row["mse_output"] == pytest.approx((off**2).mean(), abs=1e-9)
    assert row["mse_output"] != row["mse"]
    assert {r["mse_output"] for r in rows if r["blending"] == "blended"} == {None}
    assert "mse_output" in found["raw", *OVERALL]
    assert "mse_output" not in found["blended", *OVERALL]


def test_the_means_are_what_they_say(data, tmp_path):
    scores, found, rows = evaluated(data, tmp_path)
    mean = np.mean([r["psnr_hole"] for r in rows if r["kind"] == "centre" and r["blending"] == "raw"])
    entry = found["raw", "kind", "centre"]["psnr_hole"]
    assert entry.n == 6
    assert entry.mean == pytest.approx(mean, rel=1e-5)
    assert found["raw", *OVERALL]["ssim"].n == 12
    # Pixel holes miss about .1 to .5; the centre hole .25.
    bins = {
        label: metrics["l1"].n for (blending, group, label), metrics in found.items() if (blending, group) == RAW_BINS
    }
    assert sum(bins.values()) == 12
    assert bins["20-30"] >= 6
    # Half the error: 6 dB better, and the paired difference says so with certainty.
    gain = found["difference", "kind", "centre"]["psnr_hole"]
    assert 5 < gain.low <= gain.mean <= gain.high < 7
    pair = [found[blending, "kind", "centre"]["psnr_hole"].mean for blending in ("blended", "raw")]
    assert gain.mean == pytest.approx(pair[0] - pair[1], abs=1e-3)
    # What a person compares is of the same means.
    both = ("raw", "blended")
    assert scores == {
        "n": 12,
        "psnr_hole": {
            kind: {blending: round(found[blending, "kind", kind]["psnr_hole"].mean, 2) for blending in both}
            for kind in ("centre", "pixels")
        },
        **{name: {one: round(found[one, *OVERALL][name].mean, 4) for one in both} for name in ("ssim", "l1")},
    }


def test_each_kind_of_hole_has_a_diversity_and_no_share_of_the_picture_has(data, tmp_path):
    """The mean is that of all pairs of pictures; blending here halves an error of noise, which is varied too."""
    _, found, rows = evaluated(data, tmp_path)
    completed = table.Table(data / "inpainted" / "soft" / "completed.arrow")
    places = [number for number, key in enumerate(completed.keys()) if key[2] == "centre"]
    hole = np.repeat(pretend.draw("centre", 0, 32)[None], 6, axis=0)
    made = diversity.by_ssim(completed.pictures(places), hole)
    true = diversity.by_ssim(np.stack([pretend.picture(number, 32) for number in range(6)]), hole)
    mean = found["raw", "kind", "centre"]["diversity"].mean
    assert mean == pytest.approx(np.nansum(made) / np.nansum(true), rel=1e-4)
    assert found["blended", "kind", "centre"]["diversity"].mean == pytest.approx(1, abs=abs(mean - 1))
    assert not any("diversity" in metrics for (_, group, _), metrics in found.items() if group == "ratio")
    # Holes of single pixels here and there: nothing is compared.
    assert {row["diversity"] for row in rows if row["kind"] == "pixels"} == {None}
    assert all(row["unnatural"] is None for row in rows), "this dataset has no training pictures"


def test_the_datasets_own_pictures_tell_what_is_natural(tmp_path):
    pretend.dataset(tmp_path, train=40, size=64)
    pretend.system(tmp_path, "soft", noise=60, size=64)
    _, found, _ = evaluated(tmp_path, tmp_path / "out", **paths(tmp_path))
    raw, blended, true = (
        found[blending, "kind", "centre"][metric].mean
        for blending, metric in (("raw", "unnatural"), ("blended", "unnatural"), ("raw", "unnatural_truth"))
    )
    assert raw > blended > true > 0
    assert found["difference", *OVERALL]["unnatural_truth"] == Interval(12, 0, 0, 0)


def many(kinds: int, lpips: bool) -> Means:
    """Means of so many kinds of hole: kind k has k dB raw, and half a decibel more when blended."""
    found: Means = {}
    for blending, more in (("raw", 0), ("blended", 0.5)):
        whole = dict.fromkeys(("ssim", "l1", "psnr", "mse", *["lpips"] * lpips), Interval(9, 0.25, 0, 1))
        found[blending, *OVERALL] = whole | {"psnr_hole": Interval(9, 40 + more, 0, 1)}
        for kind in range(kinds):
            found[blending, "kind", f"k{kind}"] = {"psnr_hole": Interval(3, kind + more, 0, 99)}
    return found


@pytest.mark.parametrize(
    ("kinds", "lpips", "numbers", "last"),
    [
        (7, False, 19, {"raw": 6, "blended": 6.5}),
        (8, True, 23, {"raw": 7, "blended": 7.5}),
        (9, False, 23, {"raw": 8, "blended": 8.5}),
        (9, True, 16, {"raw": 8}),
        (17, True, 24, {"raw": 16}),
        (18, True, 9, None),
    ],
)
def test_a_score_file_holds_what_can_be_read(kinds, lpips, numbers, last):
    """Too many kinds: first the blended ones go, then all kinds, for the mean over all holes."""
    scores = stage.headline(many(kinds, lpips))
    assert len(list(leaves(scores))) == numbers <= stage.NUMBERS
    assert scores["psnr_hole"].get(f"k{kinds - 1}") == last
    assert (scores["psnr_hole"] == {"raw": 40, "blended": 40.5}) == (last is None)


def leaves(node):
    for value in node.values():
        if isinstance(value, dict):
            yield from leaves(value)
        else:
            yield value


def test_dvc_shows_a_table_that_a_person_can_read(data, tmp_path):
    """A line as of the default: its kinds of hole and its longest name."""
    kinds = ("centre", "eye_bar", "half", "lines", "pixels", "random_box", "strokes")
    found = many(0, lpips=False)
    for blending in ("raw", "blended"):
        found |= {(blending, "kind", kind): {"psnr_hole": Interval(24, 21.5, 0, 99)} for kind in kinds}
    name = max(params.load(ROOT / "params.yaml")["blend"], key=len)
    file = tmp_path / "data" / "scores" / f"{name}.json"
    file.parent.mkdir(parents=True)
    file.write_text(json.dumps(stage.headline(found)))
    subprocess.run([DVC, "init", "--no-scm", "-q"], cwd=tmp_path, check=True)
    line = [DVC, "metrics", "show", f"data/scores/{name}.json"]
    shown = subprocess.run(line, cwd=tmp_path, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [len(re.split(r"\s{2,}", text.strip())) for text in shown] == [20, 20]
    assert max(map(len, shown)) <= 500


@pytest.mark.parametrize(
    ("ratio", "name"), [(0.01, "00-01"), (0.1, "01-10"), (0.1001, "10-20"), (0.6, "50-60"), (1.0, "60-100")]
)
def test_bins_take_in_their_upper_end(ratio, name):
    columns = {"image_id": ["a"] * 2, "path": ["a"] * 2, "kind": ["half"] * 2, "blending": ["raw", "blended"]}
    columns |= {"ratio": np.array([ratio, ratio]), "l1": np.array([0.5, 0.25])}
    found = means.summarise(columns, draws=10, seed=1)
    assert [label for blending, group, label in found if (blending, group) == RAW_BINS] == [name]
    assert found["difference", "kind", "half"] == {"l1": Interval(1, -0.25, -0.25, -0.25)}


def test_bootstrap_by_hand():
    # Two pictures, 0 and 1: a draw's mean is 0, 1/2 or 1 with chances 1/4, 1/2, 1/4.
    mean, low, high = means.bootstrap(np.array([[0.0], [1.0]]), np.array([0, 1]), draws=500, seed=1)
    assert (mean[0], low[0], high[0]) == (0.5, 0, 1)
    # One picture has nothing to vary with, however many its rows.
    assert (means.bootstrap(np.array([[0.0], [1.0]]), np.array([7, 7]), draws=50, seed=1) == 0.5).all()


def test_bootstrap_resamples_pictures_not_rows():
    rng = np.random.default_rng(0)
    values = np.repeat(rng.normal(size=(40, 1)), 25, axis=0)  # 25 rows a picture, all alike
    pictures = np.repeat(np.arange(40), 25)
    _, low, high = means.bootstrap(values, pictures, draws=2000, seed=1)[:, 0]
    expected = 2 * 1.96 * values[::25].std() / np.sqrt(40)
    assert high - low == pytest.approx(expected, rel=0.1)
    # The same seed, the same interval; blocks of draws do not show.
    again = means.bootstrap(values, pictures, draws=2000, seed=1)[:, 0]
    assert (again[1], again[2]) == (low, high)


def test_bootstrap_leaves_out_what_has_no_number():
    values = np.array([[1.0, np.nan], [3.0, np.nan], [np.nan, np.nan]])
    table = means.bootstrap(values, np.arange(3), draws=200, seed=1)
    assert table[0, 0] == 2
    assert 1 <= table[1, 0] <= table[2, 0] <= 3
    assert np.isnan(table[:, 1]).all()


def test_the_command_gives_the_same_bytes_twice_and_leaves_torch_alone(data, tmp_path):
    for name in ("one", "two"):
        done = run(data, tmp_path / name, PLAIN)
        assert done.returncode == 0, done.stderr
    assert written(tmp_path / "one") == written(tmp_path / "two")
    code = "import sys, stages.evaluate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def written(out: Path) -> dict[str, bytes]:
    return {file: (out / file).read_bytes() for file in FILES.values()}


def test_no_test_pictures_is_no_crash(tmp_path):
    pretend.dataset(tmp_path, count=0)
    pretend.system(tmp_path, "soft", noise=1, count=0)
    assert evaluated(tmp_path, tmp_path / "out") == ({"n": 0}, {}, [])


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


def test_a_damaged_table_of_means_is_named(tmp_path):
    path = tmp_path / f"soft{means.SUFFIX}"
    with pytest.raises(InputError, match=r"soft\.means\.parquet: not found; `dvc repro` makes it"):
        means.read_means(path)
    found = many(3, lpips=True)
    means.write_means({"test": found, "train": many(1, lpips=False)}, path)
    assert means.read_means(path) == found
    assert means.read_means(path, "train") == many(1, lpips=False)
    assert means.read_means(path, "val") == {}
    whole = path.read_bytes()
    pq.write_table(pq.read_table(path).drop_columns(["high"]), path)
    for damaged in (path.read_bytes(), whole[: len(whole) // 2], b"", b"no table"):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"soft\.means\.parquet: not a table of mean scores; remove it"):
            means.read_means(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match="not a table of mean scores"):
        means.read_means(path)
