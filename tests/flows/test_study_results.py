"""Studies: from experiments in Git and DVC's cache to numbers, verdicts and a page."""

import csv
import io
import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import browser
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from studied import STUDY, Lab

from flows.lineage import cache
from flows.studies import curves, results, tables
from flows.studies import page as page_of
from flows.studies.compare import difference, favoured
from flows.studies.outcome import Results
from flows.studies.study import Run
from stages.images.table import Table
from stages.pages.curves import panels
from stages.runs.errors import InputError

BETTER, WORSE = "width=16", "width=8"


def collected(lab: Lab, runs: list[Run], scale: str = "report") -> Results:
    return results.collect(lab.home, lab.study, scale, runs)


def rows(found: Results) -> list[dict[str, str]]:
    return [*csv.DictReader(io.StringIO(tables.as_csv(found)))]


def verdicts(found: Results) -> list[str]:
    return [judged.verdict.word for judged in found.findings]


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, list[Run]]:
    """Five seeds of two arms, of which one is better throughout."""
    made = Lab(tmp_path_factory.mktemp("study"))
    return made, [
        made.experiment(arm, seed, noise) for arm, noise in ((WORSE, 40), (BETTER, 30)) for seed in range(1, 6)
    ]


@pytest.fixture(scope="module")
def found(lab: tuple[Lab, list[Run]]) -> Results:
    return collected(*lab)


@pytest.fixture(scope="module")
def page(found: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "deep" / "study"
    results.write(found, folder)
    return folder


def scored(lab: Lab, run: Run, metric: str, kinds: tuple[str, ...]) -> list[float]:
    """Of each picture, the mean of a run's raw scores, read past the code under test."""
    lock = lab._git("cat-file", "blob", f"{run.commit}:dvc.lock")
    md5 = re.search(r"scores/dmfn.parquet\n +hash: md5\n +md5: (\w+)", lock)[1]
    table = pq.read_table(cache.place(lab.home, md5)).to_pylist()
    by_picture: dict[str, list[float]] = {}
    for row in table:
        if row["blending"] == "raw" and row["kind"] in kinds:
            by_picture.setdefault(row["path"], []).append(row[metric])
    return [np.mean(values) for values in by_picture.values()]


# --- numbers -------------------------------------------------------------------------------------


def test_a_number_is_the_mean_over_seeds_and_pictures(lab: tuple[Lab, list[Run]], found: Results) -> None:
    for measure, metric, kinds in (("psnr", "psnr_hole", ("centre",)), ("l1", "l1_hole", ("centre", "lines"))):
        by_hand = [np.mean(scored(lab[0], run, metric, kinds)) for run in lab[1] if run.arm == BETTER]
        number = found.number(BETTER, measure)
        assert list(number.by_seed.values()) == pytest.approx(by_hand)
        assert [*number.by_seed] == [1, 2, 3, 4, 5]
        assert number.estimate.mean == pytest.approx(np.mean(by_hand))
        assert number.estimate.low < min(by_hand) + 0.5
        assert (number.estimate.seeds, number.estimate.pictures) == (5, 8)


def test_a_difference_is_that_of_the_same_pictures_and_seeds(lab: tuple[Lab, list[Run]], found: Results) -> None:
    means = {arm: [np.mean(scored(lab[0], run, "psnr_hole", ("centre",))) for run in lab[1] if run.arm == arm]
             for arm in (BETTER, WORSE)}  # fmt: skip
    difference = found.findings[0].verdict.difference
    assert difference.mean == pytest.approx(np.mean(means[BETTER]) - np.mean(means[WORSE]))
    assert found.findings[0].remarks == []
    # Pictures are harder or easier for both arms alike: unpaired, the interval would be wider.
    apart = np.hypot(*(found.number(arm, "psnr").estimate.error for arm in (BETTER, WORSE)))
    assert difference.error < apart * 1.1


def test_verdicts_follow_from_the_numbers_and_their_directions(found: Results) -> None:
    assert verdicts(found) == ["holds", "does not hold", "undecided"]
    assert found.findings[0].verdict.difference.low > 0
    assert found.findings[1].verdict.difference.high < 0  # of l1, less is better
    assert "lpips was not measured" in found.findings[2].verdict.sentence
    assert "four times in five" in found.findings[0].seen


def test_behind_every_number_stand_its_experiments_and_checkpoints(lab: tuple[Lab, list[Run]], found: Results) -> None:
    row = next(row for row in rows(found) if (row["arm"], row["measure"]) == (BETTER, "psnr"))
    runs = [run for run in lab[1] if run.arm == BETTER]
    assert row["experiments"].split() == [run.experiment for run in runs]
    for run, md5 in zip(runs, row["checkpoints"].split(), strict=True):
        assert cache.place(lab[0].home, md5).read_bytes() == f"{BETTER} {run.seed}".encode()
    assert found.base == lab[0]._git("rev-parse", "HEAD")


def test_published_numbers_stand_beside_with_why_they_cannot_be_compared(found: Results) -> None:
    published = {row["arm"]: (row["published"], row["comparable"]) for row in rows(found) if row["measure"] == "psnr"}
    assert published == {WORSE: ("19.5", "no: 30 pictures_&_one seed"), BETTER: ("21.25", "yes")}
    tex = tables.as_tex(found)
    assert r"not comparable: 30 pictures\_\&\_one seed" in tex
    assert tex.count(r"\midrule") == 3
    assert tex.count("$^{1}$") == 2  # the mark and its note


def test_the_parameters_that_differ_are_listed_without_seeds(found: Results) -> None:
    assert tables.differing(found) == ([WORSE, BETTER], [("train_dmfn.dmfn.width", ["8", "16"])])


# --- what is not there ---------------------------------------------------------------------------


def test_a_missing_run_leaves_the_rest_and_a_missing_arm_has_no_number(
    lab: tuple[Lab, list[Run]], tmp_path: Path
) -> None:
    home, runs = lab
    some = [run._replace(commit=None, failure="a loss is not finite") if run.seed == 2 and run.arm == WORSE else run
            for run in runs]  # fmt: skip
    found = collected(home, some)
    number = found.number(WORSE, "psnr")
    assert (number.estimate.seeds, number.gaps) == (4, {2: "a loss is not finite"})
    assert found.findings[0].verdict.sentence.startswith("Undecided: four seeds are too few (a verdict needs five); so")
    assert found.findings[0].remarks == ["Seed 2 has run in one of the arms alone, and is left out."]

    gone = collected(home, [run._replace(commit=None, failure="a loss is not finite") if run.arm == WORSE else run
                            for run in runs])  # fmt: skip
    assert gone.findings[0].verdict.sentence == "Undecided: width=8 is missing (a loss is not finite)."
    results.write(gone, tmp_path / "page")
    html = (tmp_path / "page/index.html").read_text()
    assert "missing: seeds 1, 2, 3, 4, 5 (a loss is not finite)" in html
    assert "No pictures of: width=8." in html
    for row in rows(gone):
        if row["arm"] == WORSE:
            assert (row["mean"], row["low"], row["seeds"], row["experiments"]) == ("missing", "", "0", "")
    assert re.search(r"width=8 & missing &  & 0", tables.as_tex(gone))
    assert re.search(r"psnr +width=8 +missing +0", tables.as_text(gone))
    (numbers,) = [n for n in tables.as_json(gone)["numbers"] if (n["arm"], n["measure"]) == (WORSE, "psnr")]
    assert numbers["mean"] is None
    assert numbers["missing"]["3"] == "a loss is not finite"


def test_an_arm_that_was_not_asked_for_is_missing_in_its_findings(lab: tuple[Lab, list[Run]]) -> None:
    found = collected(lab[0], [run for run in lab[1] if run.arm == BETTER])
    assert [*found.sources] == [BETTER]
    assert found.findings[0].verdict.sentence == "Undecided: width=8 is missing (it was not asked for)."


def test_nothing_has_run_yet(lab: tuple[Lab, list[Run]], tmp_path: Path) -> None:
    found = collected(lab[0], [run._replace(commit=None) for run in lab[1]])
    results.write(found, tmp_path / "page")
    assert verdicts(found) == ["undecided"] * 3
    assert {row["mean"] for row in rows(found)} == {"missing"}


def test_scores_that_the_cache_has_lost_or_that_were_altered_are_missing(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    runs = [lab.experiment(WORSE, seed, 40) for seed in (1, 2)]
    kept = cache.place(lab.home, lab.outs["data/scores/dmfn.parquet"])
    content = kept.read_bytes()
    kept.unlink()
    gaps = collected(lab, runs).number(WORSE, "psnr").gaps
    assert gaps == {
        2: f"data/scores/dmfn.parquet of experiment {runs[1].commit[:10]} is not in DVC's cache; "
        "`dvc exp pull` brings it"
    }
    kept.write_bytes(content[:-1] + b"?")
    assert "its bytes have the digest" in collected(lab, runs).number(WORSE, "psnr").gaps[2]


def test_an_experiment_without_a_lock_is_missing(lab: tuple[Lab, list[Run]]) -> None:
    commit = lab[0]._git("rev-parse", "HEAD")
    found = collected(lab[0], [Run(WORSE, 1, "x", commit, None)])
    assert found.number(WORSE, "psnr").gaps == {
        1: f"experiment {commit[:10]} has no dvc.lock; remove it with `dvc exp remove`, then run it again"
    }


# --- what leaves a finding undecided, or must be said -------------------------------------------


def test_small_never_judges(lab: tuple[Lab, list[Run]]) -> None:
    found = collected(*lab, scale="small")
    assert verdicts(found) == ["undecided"] * 3
    assert found.findings[0].verdict.sentence.startswith(
        "Undecided: the scale small never judges; so far width=16 is better"
    )


def compared(
    home: Path, better: Mapping[str, object], worse: Mapping[str, object], text: str = STUDY, seeds: int = 2
) -> Results:
    """Arms with the options `better` and `worse` of `Lab.experiment`."""
    lab = Lab(home, text)
    given = ((WORSE, 40, worse), (BETTER, 30, better))
    runs = [lab.experiment(arm, seed, noise, **more) for arm, noise, more in given for seed in range(1, seeds + 1)]
    return collected(lab, runs)


def test_random_perceptual_weights_never_judge(tmp_path: Path) -> None:
    found = compared(tmp_path, {"params": {"perceptual_weights": "random"}}, {}, seeds=5)
    assert found.findings[0].verdict.sentence.startswith(
        "Undecided: perceptual weights are random in these runs; so far width=16 is better"
    )


def test_pictures_that_one_arm_has_alone_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    (first, *_) = compared(tmp_path, {"pictures": range(6)}, {"pictures": range(2, 9)}).findings
    assert first.verdict.difference.pictures == 4
    assert first.remarks == ["5 completions that not both arms have in every seed are left out."]


def test_arms_on_different_pictures_are_compared_by_their_means(tmp_path: Path) -> None:
    found = compared(tmp_path, {"pictures": range(4)}, {"pictures": range(10, 15)})
    (first, *_) = found.findings
    better, worse = (found.number(arm, "psnr").estimate for arm in (BETTER, WORSE))
    assert first.verdict.difference.mean == pytest.approx(better.mean - worse.mean)
    assert first.verdict.difference.error == pytest.approx(np.hypot(better.error, worse.error))
    assert first.remarks == ["The arms complete different pictures, so the difference is that of two means."]


def test_other_holes_on_the_same_pictures_are_said(tmp_path: Path) -> None:
    (first, *_) = compared(tmp_path, {"holes": 2}, {}).findings
    assert first.remarks == ["The arms complete the same pictures with different holes."]


def test_two_arms_of_one_run_differ_by_blending_alone(tmp_path: Path) -> None:
    text = re.sub("grid: .*", "arms: {width=8: {blending: raw}, width=16: {blending: blended}}", STUDY)
    lab = Lab(tmp_path, text)
    runs = [lab.experiment(WORSE, seed, 40, blended=20) for seed in (1, 2)]
    found = collected(lab, [*runs, *(run._replace(arm=BETTER) for run in runs)])
    assert found.findings[0].verdict.difference.low > 0
    assert {row["arm"]: row["blending"] for row in rows(found)} == {WORSE: "raw", BETTER: "blended"}
    drawing = page_of._Drawing(found, [WORSE, BETTER])
    keys = drawing.chosen("centre", [WORSE, BETTER])
    _, (_, [(raw, first)]), (_, [(blended, second)]) = drawing.groups([WORSE, BETTER], keys)
    assert (raw, blended) == ("raw", "blended")
    kept = found.pictures[BETTER]
    for table, pictures in ((Table(kept.raw), first), (Table(kept.blended), second)):
        np.testing.assert_array_equal(table.pictures(table.find(keys)), pictures)
    # Where blending changes nothing there are raw scores alone, which are the blended ones.
    unchanged = [lab.experiment(WORSE, seed, 40) for seed in (3, 4)]
    same = collected(lab, [*unchanged, *(run._replace(arm=BETTER) for run in unchanged)])
    assert same.findings[0].verdict.difference[:3] == (0, 0, 0)
    assert "width=16 and width=8 are equal" in same.findings[0].verdict.sentence


def test_of_a_ratio_the_nearer_to_one_is_the_better(tmp_path: Path) -> None:
    text = STUDY.replace("metric: psnr_hole, kind: centre", "metric: sharpness, kind: centre")
    found = compared(tmp_path, {}, {}, text)
    means = [found.number(arm, "psnr").estimate.mean for arm in (BETTER, WORSE)]
    nearer = abs(np.log(means[1])) - abs(np.log(means[0]))
    assert found.findings[0].verdict.difference.mean == pytest.approx(nearer)
    assert "in |ln psnr|" in found.findings[0].verdict.sentence


def test_training_pictures_and_test_pictures_are_told_apart(tmp_path: Path) -> None:
    text = STUDY.replace("l1: {metric: l1_hole}", "l1: {metric: psnr_hole, kind: centre, split: train}")
    seen = {"train": ("001.png", "003.png", "004.png")}
    found = compared(tmp_path / "a", seen, seen, text)
    assert [found.number(BETTER, measure).estimate.pictures for measure in ("psnr", "l1")] == [5, 3]
    older = compared(tmp_path / "b", {"train": ("none",)}, {}, text)
    assert older.number(BETTER, "l1").gaps[1] == "there are no scores of centre holes on train pictures"
    said = "l1 of width=16 (seeds 1, 2): missing: there are no scores of centre holes on train pictures"
    assert said in tables.as_text(older).splitlines()


def test_an_arm_may_be_of_training_pictures_or_of_another_hole(tmp_path: Path) -> None:
    """One run, looked at twice: does it complete what it has seen as well as what it has not?"""
    text = re.sub("grid: .*", "arms: {width=8: {split: train, kind: centre}, width=16: {kind: centre}}", STUDY)
    lab = Lab(tmp_path, text)
    runs = [lab.experiment(WORSE, seed, 40, train=("001.png", "003.png", "004.png")) for seed in (1, 2)]
    found = collected(lab, [*runs, *(run._replace(arm=BETTER) for run in runs)])
    assert [found.number(arm, "psnr").estimate.pictures for arm in (WORSE, BETTER)] == [3, 5]
    assert {(row["arm"], row["split"], row["kind"]) for row in rows(found)} == {
        (WORSE, "train", "centre"),
        (BETTER, "test", "centre"),
    }
    assert "The arms complete different pictures, so the difference is that of two means." in found.findings[0].remarks
    # Each is shown with the pictures that it was measured on.
    results.write(found, tmp_path / "page")
    said = re.findall(
        r"The same (\w+) pictures for all arms \((.*?), seed 1\), from the top: (.*)\.",
        (tmp_path / "page/index.html").read_text(),
    )
    assert [(split, arm) for split, arm, _ in said] == [("training", WORSE), ("test", BETTER)]
    assert {*said[0][2].split(", ")} == {"001.png", "003.png", "004.png"}


def test_arms_with_different_kinds_of_hole_are_compared_picture_by_picture() -> None:
    better = {
        s: {("1", "a", "centre"): 10.0 + s, ("2", "b", "centre"): 20.0 + s, ("3", "c", "centre"): 0} for s in (1, 2)
    }
    worse = {
        s: {("1", "a", "lines"): 9.0 + s, ("1", "a", "pixels"): 7.0 + s, ("2", "b", "lines"): 17.0 + s} for s in (1, 2)
    }
    found = difference(better, worse, "high")
    assert (found.estimate.mean, found.estimate.seeds, found.estimate.pictures) == (2.5, 2, 2)  # by 2 in a, by 3 in b
    assert found.remarks == ["The arms complete the same pictures with different kinds of hole."]


def test_what_is_no_number_is_left_out(tmp_path: Path) -> None:
    """Else a single NaN would be the mean of all, and a finding would "not hold"."""
    lab = Lab(tmp_path)
    run = lab.experiment(WORSE, 1, 40)
    kept = cache.place(lab.home, lab.outs["data/scores/dmfn.parquet"])
    table = pq.read_table(kept)
    values = table["psnr_hole"].to_pylist()
    values[0], values[1] = np.nan, np.inf
    lab.keep(
        "data/scores/dmfn.parquet",
        _bytes(table.set_column(table.column_names.index("psnr_hole"), "psnr_hole", [values])),
    )
    run = run._replace(commit=lab._committed("again", WORSE, 1, {}))
    mean = collected(lab, [run]).number(WORSE, "psnr").estimate.mean
    assert np.isfinite(mean)


def _bytes(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@given(st.integers(0, 2**32), st.floats(0.2, 5))
def test_a_ratio_is_favoured_by_its_means_nearness_to_one(seed: int, mean: float) -> None:
    scores = np.random.default_rng(seed).normal(mean, 1e-4, (3, 6))
    found = favoured(scores, "one")
    assert found.mean() == pytest.approx(-abs(np.log(scores.mean())))
    # Of scores that hardly scatter, the tangent is the curve.
    np.testing.assert_allclose(found, -np.sign(np.log(scores.mean())) * np.log(scores), atol=1e-4)


def test_one_seed_has_an_interval_over_its_pictures(tmp_path: Path) -> None:
    found = compared(tmp_path, {}, {}, seeds=1)
    assert found.number(BETTER, "psnr").estimate.error > 0
    assert found.findings[0].verdict.sentence.startswith(
        "Undecided: one seed is too few (a verdict needs five); so far"
    )


# --- what is written -----------------------------------------------------------------------------


def test_the_folder_has_all_that_the_page_names_and_nothing_from_elsewhere(page: Path) -> None:
    html = (page / "index.html").read_text()
    named = set(re.findall(r'(?:src|href)="([^"#]+)"', html))
    assert {path.name for path in page.iterdir()} == named | {"index.html"}
    assert named == {"table.csv", "table.tex", "figure.png", "sheet-1-centre.png", "training-1.png"}
    assert "http" not in html.replace("http-equiv", "")
    assert [*page.parent.iterdir()] == [page]  # no draft is left


def test_the_curves_are_the_losses_of_every_seed(
    found: Results, lab: tuple[Lab, list[Run]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: dict[str, list[tuple[str, list[float]]]] = {}  # by loss: colour and values of each line

    def kept(titles, path, draw, label, colours):
        for title in titles:
            axes = Figure().subplots()
            draw(axes, title)
            drawn[title] = [(line.get_color(), [*line.get_ydata()]) for line in axes.lines]
        assert label == "step"
        drawn["arms"] = [(colour, [arm]) for arm, colour in colours.items()]

    monkeypatch.setattr(curves, "panels", kept)
    (figure,) = curves.drawn(found, tmp_path)
    assert figure.arms == [WORSE, BETTER]
    blue, brown = curves.COLOURS[:2]
    assert drawn["arms"] == [(blue, [WORSE]), (brown, [BETTER])]
    assert drawn["l1"] == [(blue, [4, 2, 40 / 30])] * 5 + [(brown, [3, 1.5, 1])] * 5
    assert drawn["d_real"] == [(colour, [seed] * 3) for colour in (blue, brown) for seed in range(1, 6)]
    # Arms that share their trainings are one line each, and what the cache has lost is left out.
    shared = found._replace(sources={"as it is": found.sources[WORSE], "blended": found.sources[WORSE]})
    assert [each.arms for each in curves.drawn(shared, tmp_path)] == [["as it is, blended"]]
    many = found._replace(sources={f"arm {number}": found.sources[WORSE] for number in range(9)})
    (figure,) = curves.drawn(many, tmp_path)
    assert [arm for _, (arm,) in drawn["arms"]] == ["arm 0 and 8 more"]
    assert figure.arms == [", ".join(many.sources)], "below the figure all are named"
    lost = {arm: [source._replace(histories={}) for source in sources] for arm, sources in found.sources.items()}
    assert [*curves.drawn(found._replace(sources=lost), tmp_path)] == []


@pytest.mark.parametrize("losses", [1, 2, 5])
def test_names_of_curves_leave_room_for_the_curves(losses: int, tmp_path: Path) -> None:
    drawn = []

    def draw(axes, title):
        drawn.append(axes)

    for name in ("a", "a long name that takes two lines or three, for $5 or $x^$ "):
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # matplotlib says that the plots have lost their height
            colours = {f"{name}{number}": colour for number, colour in enumerate(curves.COLOURS)}
            panels([f"loss {number}" for number in range(losses)], tmp_path / "c.png", draw, "step", colours)
    heights = [axes.get_window_extent().height for axes in drawn]
    assert min(heights) > 100
    assert max(heights) < 1.6 * min(heights)


def test_a_loss_that_falls_far_has_a_logarithmic_axis() -> None:
    for least, scale in ((0.2, "linear"), (0.05, "log"), (0.0, "linear"), (math.nan, "linear")):
        axes = Figure().subplots()
        curves._draw(axes, "l1", [curves._Training(["a"], [{"step": np.arange(2), "l1": np.array([1, least])}])])
        assert axes.get_yscale() == scale


def test_trainings_that_share_a_loss_share_a_figure(
    found: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each arm leaves a loss out in turn; a network with other losses has a figure of its own."""
    files = {"a": "step,l1,gan\n1,2,3\n", "b": "step,l1\n1,4\n", "c": "step,gan\n1,5\n", "d": "step,kl\n1,6\n"}
    sources = {}
    for arm, text in files.items():
        (tmp_path / f"{arm}.csv").write_text(text)
        first = found.sources[WORSE][0]
        sources[arm] = [first._replace(histories={"data/histories/x.csv": tmp_path / f"{arm}.csv"})]
    drawn: list[dict[str, list[float]]] = []

    def kept(titles, path, draw, label, colours):
        lines = {}
        for title in titles:
            axes = Figure().subplots()
            draw(axes, title)
            lines[title] = [line.get_ydata()[0] for line in axes.lines]
        drawn.append(lines)

    monkeypatch.setattr(curves, "panels", kept)
    figures = [each.arms for each in curves.drawn(found._replace(sources=sources), tmp_path)]
    assert figures == [["a", "b", "c"], ["d"]]
    assert drawn == [{"gan": [3, 5], "l1": [2, 4]}, {"kl": [6]}]


def test_everything_is_the_same_for_programs(found: Results) -> None:
    plain = json.loads(json.dumps(tables.as_json(found), allow_nan=False))
    assert [one["verdict"] for one in plain["findings"]] == verdicts(found)
    first = plain["findings"][0]["difference"]
    assert first["low"] < first["mean"] < first["high"]
    assert len(plain["runs"]) == 10
    assert len(plain["numbers"]) == 6
    assert {row["mean"] for row in rows(found)} == {
        str(one["mean"]) if one["mean"] is not None else "missing" for one in plain["numbers"]
    }


def test_an_older_page_is_replaced_whole_and_kept_where_the_new_one_fails(
    found: Results, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "page"
    folder.mkdir()
    (folder / "old.png").touch()
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(InputError, match=r"page: No space left on device; make room or mend its permissions"):
            results.write(found, folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["page", "old.png"]
    results.write(found, folder)
    assert not (folder / "old.png").exists()
    assert (folder / "index.html").exists()


def test_names_are_no_html(tmp_path: Path) -> None:
    text = STUDY.replace("More width is better", "<script>alert(1)</script>").replace("report 9, section 1", "<b>&amp;")
    text = (
        text.replace("width=16", "<i>A</i>")
        .replace("width=8,", "<i>B</i>,")
        .replace("worse: width=8", "worse: <i>B</i>")
    )
    text = re.sub("grid: .*", "arms: {<i>A</i>: {}, <i>B</i>: {}}", text)
    lab = Lab(tmp_path, text)
    found = collected(lab, [lab.experiment(arm, 1, 40) for arm in ("<i>A</i>", "<i>B</i>")])
    results.write(found, tmp_path / "page")
    html = (tmp_path / "page/index.html").read_text()
    assert not re.search(r"<script|<i>[AB]|<b>&amp;", html)
    assert "&lt;i&gt;A&lt;/i&gt;" in html


def test_the_page_fits_a_telephone_and_says_no_error(page: Path, chromium: browser.Browser) -> None:
    with chromium.open((page / "index.html").as_uri()) as tab:
        tab.call("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=1, mobile=False)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        assert tab.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
        assert not [event for event in tab.events if event["method"] in ("Log.entryAdded", "Runtime.exceptionThrown")]
