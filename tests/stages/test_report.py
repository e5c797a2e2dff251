"""The page from a pretended pipeline: complete, offline, the same bytes twice; leftovers named.

What its script does is in test_report_page.py.
"""

import copy
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import cv2
import forked
import numpy as np
import pretend
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from stages import evaluate, report
from stages.images.table import Table
from stages.metrics.means import OVERALL, SUFFIX, Interval, read_means
from stages.pages.checkpoints import parameters
from stages.pages.results import Folders
from stages.pages.scores import ALL, Entry, Scores, best, score_tables
from stages.pages.sheets import save_sheet
from stages.pages.systems import COSTS
from stages.runs import record
from stages.runs.errors import InputError
from stages.runs.params import Runtime

ROOT = Path(__file__).parents[2]
FOLDERS = Folders._fields
SECTIONS = {
    "report": {"pictures": 4, "compared": 5},
    "datasets": {"faces": {"ingest": {"use": "train"}, "mask": {"kinds": {"centre": {}, "pixels": {}, "half": {}}}}},
    "train_dcgan": {"net": {"dataset": "faces"}},
    **{f"train_{network}": {} for network in ("autoencoder", "partial_conv", "context_encoder", "dmfn")},
    "search": {"net": {"model": "net", "dataset": "faces"}},
    "infer": {"telea_co": pretend.classical("telea", "faces")},
    "blend": {
        "net": {"system": "net", "dataset": "faces", "method": "exact"},
        "telea_co": {"system": "telea_co", "dataset": "faces", "method": "sobel", "iterations": 5},
    },
    "evaluate": {"lpips": "none", "perceptual_weights": "none", "bootstrap": 50, "seed": 5},
}


HOSTILE = "<img src=x onerror=alert(1)>\"'&{{ 7 * 7 }}"


def fill(data: Path) -> Path:
    pretend.dataset(data)
    pretend.ingested(data)
    pretend.model(data, "net", {"network": "dcgan", "params": {"steps": 400}})
    for system, noise in (("net", 30), ("telea_co", 15)):
        pretend.system(data, system, noise)
        evaluated(data, system)
    pretend.curves(data, "net")
    return data


def evaluated(data: Path, entry: str, system: str | None = None, dataset: str = "faces") -> None:
    """The scores of an entry of `blend`, of the system that has its name or of another."""
    (data / "scores").mkdir(exist_ok=True)
    places = [data / "aligned" / dataset, data / "masks" / dataset]
    places += [data / "inpainted" / (system or entry), data / "blended" / entry]
    outputs = [data / "scores" / f"{entry}{end}" for end in (".json", ".parquet", SUFFIX)]
    evaluate.evaluate(*places, *outputs, evaluate.Params(**SECTIONS["evaluate"]), Runtime(), entry)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return fill(tmp_path_factory.mktemp("data"))


def made(data: Path, out: Path, sections: dict = SECTIONS) -> Path:
    """The report's folder, by calling the stage."""
    rest = {name: section for name, section in sections.items() if name != "report"}
    given = {name: data / name for name in FOLDERS}
    report.report(**given, report=out, params=report.Params(**sections["report"]), **rest)
    return out


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory) -> Path:
    return made(data, tmp_path_factory.mktemp("out") / "report")


@pytest.fixture(scope="module")
def text(folder) -> str:
    return (folder / "index.html").read_text()


def told(text: str) -> dict:
    """What the page tells its script of the pictures to compare."""
    return json.loads(re.search(r'<script type="application/json" id="compared">(.*?)</script>', text)[1])


class Reader(HTMLParser):
    """Checks that tags close in order; keeps what the page refers to, and the texts that it shows."""

    def __init__(self):
        super().__init__()
        self.open, self.links, self.tags, self.texts = [], [], set(), []

    def handle_data(self, data):
        self.texts.append(data)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset", "action")]
        if tag not in ("meta", "img", "br", "link", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_offline(folder, text):
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert not reader.tags & {"link", "object"}
    assert not re.search(r"<script[^>]* src|@import", text)
    assert re.findall(r'<iframe src="([^"]+)"', text) == [f"../../{COSTS}"]
    assert "http:" not in text
    assert "https:" not in text
    pictures = {link for link in reader.links if not link.startswith("#")}
    assert pictures - {f"../../{COSTS}"} == {path.name for path in folder.glob("*.png")}
    for link in reader.links:
        assert not link.startswith("#") or f'id="{link[1:]}"' in text


def test_every_picture_shows_something(folder):
    files = sorted(folder.glob("*.png"))
    assert {path.name for path in files} == {
        "sheet-faces-centre.png", "sheet-faces-pixels.png", "training-net.png", "samples-net.png", "search-net.png",
    }  # fmt: skip
    for path in files:
        pixels = cv2.imread(str(path))
        assert pixels.std() > 5, path.name
        assert min(pixels.shape[:2]) > 50, path.name


def test_the_sheet_holds_the_pictures_at_their_place(folder):
    """Columns are original, hole, then raw and blended of each system; rows the first by image_id."""
    sheet = cv2.imread(str(folder / "sheet-faces-centre.png"))[:, :, ::-1]
    first = min(range(6), key=lambda number: pretend.key(number)[0])
    tile = np.kron(pretend.picture(first, 32), np.ones((4, 4, 1), np.uint8))  # 32 pixels, four times
    np.testing.assert_array_equal(sheet[40:168, 14:142], tile)
    tile[np.kron(pretend.draw("centre", first, 32), np.ones((4, 4), bool))] = 255
    np.testing.assert_array_equal(sheet[40:168, 145:273], tile)
    assert sheet.shape == (40 + 4 * 131 + 14, 3 * 259 + 4 * 14, 3)


def test_a_file_to_compare_has_a_tile_of_everything(data, folder, text):
    """The truth, the hole, and each system's own pictures; of the five pictures that come first by image_id."""
    found = told(text)
    files = {path.relative_to(folder).as_posix() for path in (folder / "pictures").iterdir()}
    assert {hole["file"] for hole in found["holes"]} == files
    first = sorted(pretend.key(number) for number in range(6))[:5]
    assert [(picture["id"], picture["path"]) for picture in found["pictures"]] == first
    assert "Of faces, 5 of 6 completed test pictures are here" in text
    assert [found["pictures"][hole["picture"]]["path"] for hole in found["holes"][::2]] == [path for _, path in first]
    for hole in found["holes"]:
        number = int(found["pictures"][hole["picture"]]["path"][:4])
        tiles = np.split(cv2.imread(str(folder / hole["file"]))[..., ::-1], 6, axis=1)
        truth = pretend.picture(number, 32)
        np.testing.assert_array_equal(tiles[0], truth)
        np.testing.assert_array_equal(tiles[1], np.where(pretend.draw(hole["kind"], number, 32)[..., None], 255, truth))
        shown = [found["shown"][label] for label in found["layouts"][hole["layout"]]]
        assert shown == ["truth", "hole", "net raw", "net blended", "telea_co raw", "telea_co blended"]
        for place, (label, tile) in enumerate(zip(shown[2:], tiles[2:], strict=True)):
            system, blending = label.rsplit(" ", 1)
            file = {"raw": "inpainted/{}/completed.arrow", "blended": "blended/{}/blended.arrow"}[blending]
            table = Table(data / file.format(system))
            key = (*pretend.key(number), hole["kind"])
            np.testing.assert_array_equal(tile, table.pictures(table.find([key]))[0])
            row = next(row for row in scores_of(data, system) if of(row) == (*key, blending))
            assert hole["scores"][0][place] == pytest.approx(row["psnr_hole"], abs=0.005)


def scores_of(data: Path, system: str) -> list[dict]:
    """A system's scores, a row a picture, kind of hole and blending."""
    return pq.read_table(data / "scores" / f"{system}.parquet").to_pylist()


def of(row: dict) -> tuple[str, ...]:
    """What a row of scores is of."""
    return row["image_id"], row["path"], row["kind"], row["blending"]


def test_behind_each_picture_is_its_checkpoint(data, folder, text, tmp_path):
    """Its digest, the command that audits it, and which of the pictures it was trained on, if any."""
    source = told(text)["systems"]["net"]
    path = data / "models" / "net.safetensors"
    assert source["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert source["audit"] == f"palimpsest audit checkpoint {path}"
    assert (source["read"], source["these"]) == ("3", [])
    assert told(text)["systems"]["telea_co"] == {"by": "telea"}
    leaky = shutil.copytree(data, tmp_path / "data")
    image_id = told(text)["pictures"][0]["id"]
    members = pa.table({"image_id": ["a", image_id, pretend.key(99)[0]]})
    with pa.ipc.new_file(str(leaky / "models" / "net.members.arrow"), members.schema) as writer:
        writer.write_table(members)
    assert told((made(leaky, tmp_path / "report") / "index.html").read_text())["systems"]["net"]["these"] == [image_id]


def test_no_pictures_to_compare(data, tmp_path):
    folder = made(data, tmp_path / "report", {**SECTIONS, "report": {"pictures": 4, "compared": 0}})
    assert not (folder / "pictures").exists()
    assert "<h2>Compare</h2>" not in (folder / "index.html").read_text()


def test_it_counts_what_came_in_and_why_it_went(text):
    row = re.search(r"<th scope=row>faces</th>(.*)</tr>", text)[1]
    assert re.findall(r"<td>(\d+)</td>", row) == ["10", "7", "3", "1", "0", "0", "6"]
    assert "<td>ingest</td><td>truncated</td><td>2</td>" in text
    assert "<td>ingest</td><td>not a &lt;picture&gt;</td><td>1</td>" in text
    assert "<td>align</td><td>no face found</td><td>1</td>" in text
    rejected, odd = text.index("What was rejected"), text.index("What was odd about pictures that were kept")
    assert text.count("first of 2") == 1
    assert rejected < text.index("truncated") < odd < text.index("first of 2")


def test_scores_are_the_means_with_the_best_in_bold(data, text):
    means = {name: read_means(data / "scores" / f"{name}{SUFFIX}") for name in SECTIONS["blend"]}
    entry = means["telea_co"]["blended", *OVERALL]["psnr_hole"]
    assert f"<td><b>{entry.mean:.2f}</b><small>{entry.low:.2f} to {entry.high:.2f}</small><span class=" in text
    worse = means["net"]["raw", *OVERALL]["psnr_hole"].mean
    assert f"<td>{worse:.2f}<small>" in text
    gain = means["net"]["difference", "kind", "centre"]["psnr_hole"]
    assert gain.low > 0
    assert f"<span class='up'>{gain.mean:+.2f}</span>" in text
    assert re.search(r"<th scope=row>net <i>raw</i></th><td>12</td>", text), "two holes in each of six pictures"


def hostile(folder: Path) -> Path:
    """A report on a dataset, kinds of hole, a model and systems with such names; one of the systems has no seams."""
    data, kinds, same = folder / "data", (f"</script>{HOSTILE}", "pixels"), f"same {HOSTILE}"
    pretend.dataset(data, HOSTILE, kinds=kinds)
    pretend.ingested(data, HOSTILE)
    pretend.model(data, HOSTILE, {HOSTILE: HOSTILE})
    pretend.system(data, HOSTILE, 30, kinds=kinds)
    pretend.system(data, same, 30, kinds=kinds[:1])
    pretend.curves(data, HOSTILE, kinds=kinds)
    shutil.copy(data / "inpainted" / same / "completed.arrow", data / "blended" / same / "blended.arrow")
    entry = {"dataset": HOSTILE, "model": HOSTILE, "method": HOSTILE, HOSTILE: HOSTILE}
    systems = dict.fromkeys((HOSTILE, same), entry)
    for name in systems:
        evaluated(data, name, dataset=HOSTILE)
    random = {"perceptual_weights": "random"}
    dataset = {"ingest": {"use": HOSTILE}, "mask": {"kinds": {kind: {} for kind in kinds}}}
    sections = SECTIONS | {"datasets": {HOSTILE: dataset}, "train_dcgan": {HOSTILE: random}}
    sections |= {"search": systems, "infer": {}, "blend": {name: {"system": name, **entry} for name in systems}}
    return made(data, data / "report", sections)


def test_a_hostile_name_is_shown_as_it_is_and_is_no_html(tmp_path):
    folder = hostile(tmp_path)
    text = (folder / "index.html").read_text()
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    assert "<img src=x" not in text
    pictures = {path.name for path in folder.glob("*.png")}
    assert {link for link in reader.links if not link.startswith("#")} == pictures | {f"../../{COSTS}"}
    for said in (
        HOSTILE,  # a cell or a heading alone
        f"Pictures: {HOSTILE}",
        f"Scores: {HOSTILE}",
        f"Every metric: </script>{HOSTILE}",
        f"latent search through {HOSTILE}",
        f"What {HOSTILE} was made from",
        f"Not every kind of hole is completed by same {HOSTILE}: see by kind.",
        f"Perceptual weights are random, not ImageNet's: train_dcgan.{HOSTILE}.perceptual_weights.",
    ):
        assert said in reader.texts, said
    assert f"Blending changes no pixel of same {HOSTILE}: around each hole" in "".join(reader.texts)
    assert json.loads(next(text for text in reader.texts if text.startswith("{"))) == {HOSTILE: HOSTILE}
    assert {*told(text)["systems"]} == {HOSTILE, f"same {HOSTILE}"}


def test_best_by_hand():
    assert best([0.2, None, 0.5], "high") == 0.5
    assert best([0.2, None, 0.5], "low") == 0.2
    assert best([0.4, 2.0, 3.0], "one") == 2.0  # twice is nearer to right than two fifths
    assert best([None], "low") is None


def test_checkpoints_are_named_by_sha256(data, text):
    digest = hashlib.sha256((data / "models" / "net.safetensors").read_bytes()).hexdigest()
    assert f"<code>{digest}</code></td><td>17</td>" in text  # 3 x 4 + 5 numbers
    assert "&#34;steps&#34;: 400" in text


def test_the_command_gives_the_same_bytes(data, folder, tmp_path):
    """As `dvc.yaml` runs it, with another plotting style at home and in another time zone."""
    home = tmp_path / "home"
    (home / "matplotlib").mkdir(parents=True)
    (home / "matplotlib" / "matplotlibrc").write_text("lines.linewidth: 9\nfont.size: 30\n")
    (tmp_path / "params.yaml").write_text(json.dumps(SECTIONS))
    words = [word for name in FOLDERS for word in (f"--{name}", str(data / name))]
    line = [forked.python(), "-m", "stages.report", *words, "--params", str(tmp_path / "params.yaml")]
    environment = {**os.environ, "MPLCONFIGDIR": str(home / "matplotlib"), "TZ": "Asia/Tokyo"}
    environment["PALIMPSEST_RECORDS"] = str(tmp_path / "records")
    out = tmp_path / "report"
    subprocess.run([*line, "--report", str(out)], cwd=ROOT, env=environment, check=True)
    assert pages(out) == pages(folder)


@pytest.mark.parametrize(
    ("file", "section"),
    [
        ("scores/net.json", "blend"),
        ("scores/net.means.parquet", "blend"),
        ("blended/net", "blend"),
        ("inpainted/net", "blend"),
        ("models/net.safetensors", "train_dcgan"),
        ("histories/net.csv", "train_dcgan"),
        ("samples/net", "train_dcgan"),
        ("masks/faces", "datasets"),
    ],
)
def test_leftovers_of_a_removed_entry_are_named_and_left_out(data, tmp_path, capsys, file, section):
    sections = copy.deepcopy(SECTIONS)
    name = next(iter(sections[section]))
    for part in (section,) if section == "datasets" else ("train_dcgan", "search", "blend"):
        sections[part].pop(name)
    shutil.copytree(data, tmp_path / "data")
    beside = made(tmp_path / "data", tmp_path / "beside", sections)
    (said,) = capsys.readouterr().err.splitlines()
    assert "made by no entry of params.yaml and left out" in said
    left = shlex.split(said.partition("rm -r ")[2])
    assert str(tmp_path / "data" / file) in left
    subprocess.run(["rm", "-r", *left], check=True)
    without = made(tmp_path / "data", tmp_path / "without", sections)
    assert not capsys.readouterr().err
    assert pages(beside) == pages(without)


def pages(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"net": None}, "blend: no entry of system 'net'; every system is blended and scored"),
        ({"soft": {"system": "nte"}}, "blend.soft.system: no 'nte' in search or infer"),
        ({"soft": {}}, "blend.soft.system: no '' in search or infer"),
        ({"soft": {"system": "net", "dataset": "dogs"}}, "blend.soft.dataset: 'dogs', but 'net' completes 'faces'"),
        ({"net": {"system": "telea_co", "dataset": "faces"}}, "blend.net: has the name of another system than 'telea"),
    ],
)
def test_every_system_is_blended_and_every_blend_is_of_a_system(data, tmp_path, changes, said):
    blend = {name: entry for name, entry in {**SECTIONS["blend"], **changes}.items() if entry is not None}
    with pytest.raises(InputError, match=f"^params.yaml: {re.escape(said)}"):
        made(data, tmp_path / "report", {**SECTIONS, "blend": blend})


@pytest.fixture(scope="module")
def twice(tmp_path_factory) -> tuple[Path, str]:
    """Where `net` is blended once more, by an entry of another name, and both systems completed training pictures."""
    data = tmp_path_factory.mktemp("twice") / "data"
    pretend.dataset(data, train=3)
    pretend.ingested(data)
    pretend.model(data, "net", {"network": "dcgan", "params": {"steps": 400}})
    for system, noise, trained in (("net", 30, 5), ("telea_co", 15, 15)):
        pretend.system(data, system, noise, train=3, trained=trained)
        evaluated(data, system)
    pretend.system(data, "net_soft", 10, train=3, trained=5)  # blended with half of this noise
    shutil.rmtree(data / "inpainted" / "net_soft")
    evaluated(data, "net_soft", "net")
    pretend.curves(data, "net")
    soft = {"system": "net", "dataset": "faces", "method": "sobel", "iterations": 7}
    sections = {**SECTIONS, "blend": {"net_soft": soft, **SECTIONS["blend"]}}
    return data, (made(data, data / "report", sections) / "index.html").read_text()


def rows_of(text: str, after: str) -> list[str]:
    """The headings of the rows of the first table behind a text."""
    part = text[text.index(after) :]
    return [re.sub("<.*?>", "", row) for row in re.findall(r"<th scope=row>(.*?)</th>", part[: part.index("</table>")])]


def test_of_two_blends_of_a_system_the_raw_pictures_are_shown_once(twice, capsys):
    data, text = twice
    assert not capsys.readouterr().err
    lines = ["net raw", "net blended", "net_soft blended", "telea_co raw", "telea_co blended"]
    for table in ("<h2>Scores: faces</h2>", "PSNR, hole (dB), by kind of hole.", "Every metric: centre"):
        assert rows_of(text, table) == lines
    assert rows_of(text, "What blending changes:") == ["net", "net_soft", "telea_co"]
    assert rows_of(text, "<h2>Systems</h2>") == ["net", "telea_co"]
    assert "<td>exact; net_soft: sobel (iterations 7)</td>" in text
    assert "2 systems; each" in text
    found = told(text)
    assert found["shown"] == ["truth", "hole", *lines]
    assert found["made"] == {line: line.partition(" ")[0].removesuffix("_soft") for line in lines}
    hole = found["holes"][0]
    key = (*found["pictures"][hole["picture"]].values(), hole["kind"])[1:]
    tiles = np.split(cv2.imread(str(data / "report" / hole["file"]))[..., ::-1], 7, axis=1)
    table = Table(data / "blended" / "net_soft" / "blended.arrow")
    np.testing.assert_array_equal(tiles[4], table.pictures(table.find([key]))[0])
    row = next(row for row in scores_of(data, "net_soft") if of(row) == (*key, "blended"))
    assert hole["scores"][0][2] == pytest.approx(row["psnr_hole"], abs=0.005)
    sheet = cv2.imread(str(data / "report" / "sheet-faces-centre.png"))
    assert sheet.shape[1] == 2 * 259 + (3 * 131 - 3) + 4 * 14  # a third column for net


def test_training_pictures_stand_beside_test_pictures_and_nowhere_else(twice):
    data, text = twice
    means = [read_means(data / "scores" / f"net{SUFFIX}", split) for split in ("test", "train")]
    section = "<h2>Training pictures: faces</h2>"
    assert rows_of(text, section) == rows_of(text, "<h2>Scores: faces</h2>")
    row = re.search(r"<tr><th scope=row>net <i>raw</i></th>(.*?)</tr>", text[text.index(section) :])[1]
    shown = [float(number) for number in re.findall(r"<td>([\d.]+)", row)]
    numbers = [one["raw", *OVERALL][metric].mean for metric in ("psnr_hole", "patch_sse") for one in means]
    assert shown == [12, 6, *(pytest.approx(number, abs=0.05) for number in numbers)]
    assert shown[3] > shown[2] + 10, "what was memorised is far better"
    assert "<b>" not in text[text.index(section) : text.index("<h2>Training</h2>")]
    assert rows_of(text, "Test and training pictures: pixels") == rows_of(text, section)
    # Tables, sheets and the comparison are of test pictures.
    assert re.search(r"<th scope=row>net <i>raw</i></th><td>12</td><td>" + f"{numbers[0]:.2f}<small>", text)
    names = {pretend.key(number)[1] for number in range(pretend.TRAINED, pretend.TRAINED + 3)}
    assert not [name for name in names if name in text]
    assert len({picture["id"] for picture in told(text)["pictures"]}) == 5


def test_without_training_pictures_there_is_no_table_of_them(text):
    assert "Training pictures:" not in text


def entry(psnr: float, *paths: str, kinds: tuple[str, ...] = ("centre",)) -> Entry:
    """Scores of raw pictures, as good in each kind of hole."""
    keys = {kind: frozenset((path, path, kind) for path in paths) for kind in kinds}
    group = {"psnr_hole": Interval(len(paths), psnr, psnr - 1, psnr + 1)}
    means = {("raw", *OVERALL): group, **{("raw", "kind", kind): group for kind in kinds}}
    return Entry(means, keys | {ALL: frozenset().union(*keys.values())}, {})


def bold(scores: Scores, column: int = 0) -> list[str]:
    return [row.system for row in scores.rows if row.cells[column] and row.cells[column].best]


def test_the_best_is_marked_among_systems_scored_on_the_same_pictures_and_holes():
    same = {"a": entry(20, "x", "y"), "b": entry(25, "y", "x")}
    tables = score_tables({name: {name: one} for name, one in same.items()}, ["centre"])
    assert tables.others == []
    assert bold(tables.overall) == bold(tables.tables[0]) == bold(tables.kinds["centre"]) == ["b"]
    # Another's pictures are easier: nobody is best beside it.
    tables = score_tables({name: {name: one} for name, one in {**same, "c": entry(30, "z", "x")}.items()}, ["centre"])
    assert tables.others == ["c"]
    assert bold(tables.overall) == bold(tables.tables[0]) == bold(tables.kinds["centre"]) == []


def test_a_column_without_the_other_system_keeps_its_best():
    """One that was scored on other holes of one kind alone; by the other kind, all are comparable."""
    both = ("centre", "lines")
    systems = {"a": entry(20, "x", "y", kinds=both), "b": entry(25, "x", "y", kinds=both), "c": entry(30, "x")}
    tables = score_tables({name: {name: one} for name, one in systems.items()}, both)
    assert tables.others == ["c"]
    assert (bold(tables.tables[0], 0), bold(tables.tables[0], 1)) == ([], ["b"])
    assert bold(tables.overall) == ["b"], "c does not complete every kind"
    fewer = {"a": entry(20, "x", "y", kinds=both), "b": entry(25, "x", "y")}
    tables = score_tables({name: {name: one} for name, one in fewer.items()}, both)
    assert (tables.others, bold(tables.tables[0], 0)) == ([], ["b"]), "fewer kinds, but of these the same holes"


def test_the_page_says_which_systems_were_scored_on_others(tmp_path):
    data = fill(tmp_path / "data")
    for folder in ("inpainted", "blended"):
        shutil.rmtree(data / folder / "net")
    pretend.system(data, "net", 30, count=2)
    evaluated(data, "net")
    text = (made(data, tmp_path / "report") / "index.html").read_text()
    said = "<p>telea_co was scored on other pictures or holes than the other systems. So no best is marked"
    assert said in text
    scores = text[text.index("<h2>Scores: faces</h2>") : text.index("SSIM, hole, by kind of hole.")]
    assert "<b>" not in scores


def test_without_learned_models_and_test_pictures(tmp_path):
    """Baselines alone, on a dataset of which every picture was rejected or trains."""
    pretend.dataset(tmp_path, count=0)
    pretend.ingested(tmp_path, count=0)
    pretend.system(tmp_path, "telea", noise=1, count=0)
    evaluated(tmp_path, "telea")
    sections = {**SECTIONS, "train_dcgan": {}, "search": {}}
    sections |= {part: {"telea": {"system": "telea", "dataset": "faces"}} for part in ("infer", "blend")}
    page = (made(tmp_path, tmp_path / "report", sections) / "index.html").read_text()
    assert "Scores: faces" in page
    assert "Checkpoints" not in page


def test_what_blending_does_not_change_is_no_method_of_its_own(tmp_path):
    """One row in each table, one column on each sheet, no gain, and a sentence that says why."""
    data, name = fill(tmp_path / "data"), "telea_co"
    shutil.copy(data / "inpainted" / name / "completed.arrow", data / "blended" / name / "blended.arrow")
    evaluated(data, name)
    folder = made(data, tmp_path / "report")
    text = (folder / "index.html").read_text()
    rows = re.findall(r"<th scope=row>(.*?)</th>", text)
    assert f"{name} <i>raw</i>" in rows
    assert f"{name} <i>blended</i>" not in rows
    assert rows.count("net <i>raw</i>") == rows.count("net <i>blended</i>") == rows.count(f"{name} <i>raw</i>")
    gains = text[text.index("What blending changes:") :]
    assert re.findall(r"<th scope=row>(.*?)</th>", gains[: gains.index("</table>")]) == ["net"]
    assert f"<p>Blending changes no pixel of {name}: around each hole" in gains
    sheet = cv2.imread(str(folder / "sheet-faces-centre.png"))
    assert sheet.shape == (40 + 4 * 131 + 14, 2 * 259 + 128 + 4 * 14, 3)


def test_a_system_of_fewer_kinds_is_left_off_the_other_sheets(tmp_path):
    data = fill(tmp_path / "data")
    for folder in ("inpainted", "blended", "scores"):
        for path in (data / folder).glob("net*"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    pretend.system(data, "net", 30, count=2, kinds=("pixels",))
    evaluated(data, "net")
    widths = {}
    for kind in ("centre", "pixels"):
        sheet = cv2.imread(str(made(data, tmp_path / kind) / f"sheet-faces-{kind}.png"))
        widths[kind] = sheet.shape
    assert widths["centre"] == (40 + 4 * 131 + 14, 2 * 259 + 3 * 14, 3)
    assert widths["pixels"] == (40 + 2 * 131 + 14, 3 * 259 + 4 * 14, 3)


def test_random_perceptual_weights_are_said(data, tmp_path):
    sections = copy.deepcopy(SECTIONS)
    sections["train_dcgan"]["net"]["loss"] = {"perceptual_weights": "random"}
    page = (made(data, tmp_path / "report", sections) / "index.html").read_text()
    assert (
        "<p class=note>Perceptual weights are random, not ImageNet's: train_dcgan.net.loss.perceptual_weights" in page
    )


def test_a_missing_or_broken_input_is_one_line(data, tmp_path):
    sections = copy.deepcopy(SECTIONS)
    sections["infer"]["new"] = sections["blend"]["new"] = {"system": "new", "dataset": "faces"}
    with pytest.raises(InputError, match=r"scores/new\.means\.parquet: not found"):
        made(data, tmp_path / "one", sections)
    broken = fill(tmp_path / "data")
    shutil.move(broken / "ingested" / "faces" / "part-00000.parquet", tmp_path / "table")
    with pytest.raises(InputError, match=r"ingested/faces: not the expected table"):
        made(broken, tmp_path / "none")
    shutil.move(tmp_path / "table", broken / "ingested" / "faces" / "part-00000.parquet")
    (broken / "models" / "net.safetensors").write_bytes(b"\x80\x04pickle")
    with pytest.raises(InputError, match=r"net\.safetensors: not a checkpoint"):
        made(broken, tmp_path / "two")


def test_costs_are_those_of_the_runs_that_made_what_lies_there(data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").symlink_to(data)
    folders = Folders(*(Path("data") / name for name in FOLDERS))
    model, done = folders.models / "net.safetensors", folders.inpainted / "net"
    for stage, output, seconds in (("train_dcgan@net", model, 77.7), ("search@net", done, 8.8)):
        for digest, wrong in ((record.digest(output), 0), ("0" * 32, 1)):  # the second made something else
            facts = {"outputs": {output.as_posix(): digest}}
            took = {"seconds": seconds + wrong, "peak_memory_mib": 1234, "ended": f"2026-01-0{1 + wrong}"}
            record.write(record.home(), stage, facts, took)
    report.write_costs(folders, {"train_dcgan": SECTIONS["train_dcgan"]}, SECTIONS["search"], SECTIONS["infer"])
    page = Path(".palimpsest/costs.html").read_text()
    row = "<td>12</td><td>77.7</td><td>1,234</td><td>8.8</td><td>1,234</td>"
    assert f"<th scope=row>net</th>{row}" in page
    assert "<th scope=row>telea_co</th><td>12</td><td>–</td><td>–</td><td>–</td><td>–</td>" in page


def test_parameters_are_the_weights_that_complete() -> None:
    numbers = {"network.a.weight": 12, "network.a.running_mean": 3, "generator.b": 5, "discriminator.c": 100}
    assert parameters(numbers) == 17


def test_names_that_end_differently_are_told_apart_on_a_sheet(tmp_path):
    """However narrow the pictures are; a sheet whose names fit has one line of them."""

    def drawn(*names):
        save_sheet([(name, [("raw", np.zeros((1, 64, 64, 3), np.uint8))]) for name in names], tmp_path / "sheet.png")
        return np.asarray(Image.open(tmp_path / "sheet.png"))

    short, ten, hundred = drawn("GAN"), drawn("GAN, adversary times 10"), drawn("GAN, adversary times 100")
    assert len(short) < len(ten)
    assert ten.shape == hundred.shape
    assert (ten != hundred).any()
    assert drawn("a " * 200).shape[0] == len(short) + 2 * 18
