"""`palimpsest audit dossier`: a folder in which every sentence leads to the record behind it."""

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from audited import Laboratory
from dossier_lab import NET, DossierLab
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter
from safetensors.numpy import save_file

from flows.audit.facts import machine
from flows.checkout.git import Git
from flows.dossier import annex_use, by_group, compose, folder, material, pictures
from flows.lineage import owner
from flows.lineage.records import Records
from flows.registry import decisions
from flows.registry.history import Decision
from stages.runs import record
from stages.runs.errors import InputError

OWNER = """
owner: A & B <laboratory>
purpose: all pictures
misuse: <script src="https://example.org/x.js"></script>
limits: "\u202eturned"
checkpoints: {net: {purpose: "old photos: see https://example.org"}, more: {purpose: a secret}}
datasets: {faces: {kind: licensed, about: from a shoot}, dogs: {about: a secret}}
"""


class Page(HTMLParser):
    """What a page says: each element of class `said` with its text, word and links; and all ids and targets."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.said: list[dict] = []
        self.loose: list[str] = []  # text in `main` that is neither said nor a heading
        self._open: list[tuple[str, set[str]]] = []
        self.feed(file.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        classes = set((found.get("class") or "").split())
        if tag not in ("meta", "link", "br", "img"):
            self._open.append((tag, classes))
        self.ids += [found["id"]] if found.get("id") else []
        self.targets += [str(found[key]) for key in ("href", "src", "srcset", "data", "action") if key in found]
        if "said" in classes:
            self.said.append({"text": "", "word": None, "links": []})
        elif "ref" in classes:
            self.said[-1]["links"].append(found["href"])

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, text: str) -> None:
        if not text.strip():
            return
        inside = [each for _, classes in self._open for each in classes]
        tags = [tag for tag, _ in self._open]
        if "said" in inside:
            if "word" in inside:
                self.said[-1]["word"] = text
            elif "refs" not in inside:
                self.said[-1]["text"] += text
        elif "main" in tags and "lead" not in inside and not {"h1", "h2", "h3", "th"} & set(tags):
            self.loose.append(text)

    def find(self, words: str) -> dict:
        (one,) = [one for one in self.said if words in one["text"]]
        return one


def made(lab: DossierLab, asked: str = "net") -> tuple[Path, compose.Dossier]:
    where = lab.home.parent / "out"
    return where, compose.write(lab.home, asked, where, lambda line: None)


@pytest.fixture(autouse=True)
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("PALIMPSEST_KEY", raising=False)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[DossierLab, Path, compose.Dossier]]:
    """A dossier to look at, of a repository that has all that there is to say."""
    with pytest.MonkeyPatch.context() as patch:
        base = tmp_path_factory.mktemp("dossier") / "ü #1 %20?"
        patch.setenv("XDG_CONFIG_HOME", str(base / "settings"))
        lab = DossierLab(base / "lab")
        (lab.home / "audit.yaml").write_text(OWNER)
        patch.chdir(lab.home)
        yield lab, *made(lab)


def files(where: Path) -> dict[str, bytes]:
    return {file.relative_to(where).as_posix(): file.read_bytes() for file in where.rglob("*") if file.is_file()}


def test_every_sentence_has_a_link_and_every_link_a_target(full: tuple) -> None:
    _, where, done = full
    index, records = Page(where / "index.html"), Page(where / "records.html")
    assert len(index.said) > 60
    assert [one for one in index.said if not one["links"]] == []
    assert index.loose == records.said == []
    for page, name in ((index, "index.html"), (records, "records.html")):
        assert len(page.ids) == len(set(page.ids))
        for target in page.targets:
            file, _, anchor = target.partition("#")
            there = where / unquote(file) if file else where / name
            assert there.is_file(), target
            assert not anchor or anchor in {"index.html": index, "records.html": records}[there.name].ids, target
    assert sum(done.sentences.values()) == sum(one["word"] is not None for one in index.said)


def test_the_folder_is_whole_and_offline(full: tuple) -> None:
    _, where, done = full
    found = files(where)
    assert sorted(found) == done.files
    listed = json.loads(found["dossier.json"])["files"]
    assert listed == {name: sha256(data).hexdigest() for name, data in found.items() if name != "dossier.json"}
    page = found["index.html"].decode()
    for target in Page(where / "index.html").targets:
        assert not re.match("[a-z]+:|//", target)
    assert "@import" not in page
    assert "url(" not in page
    assert "<script" not in page
    assert not [name for name in found if name.endswith((".png", ".jpg"))]  # no picture leaves the laboratory so
    for name in ("a.png", "f.png"):
        assert name.encode() not in b"".join(found.values())  # nor the name of one


def test_what_the_owner_says_is_never_shown_as_recorded(full: tuple) -> None:
    _, where, _ = full
    page = Page(where / "index.html")
    for words in ("A & B <laboratory>", "old photos: see https://example.org", '<script src="https', "from a shoot"):
        assert {one["word"] for one in page.said if words in one["text"]} == {"said by the owner"}
    isolated = re.compile("<bdi>[^<]*\u202e[^<]*</bdi>")  # else the word behind it would be turned as well
    text = (where / "index.html").read_text()
    assert len(isolated.findall(text)) == text.count("\u202e") > 0
    found = files(where)
    assert not [
        name for name, data in found.items() if b"all pictures" in data
    ]  # of this checkpoint it is said otherwise
    assert not [name for name, data in found.items() if b"a secret" in data]  # that is about others
    others = [data for name, data in found.items() if name.startswith(("records/", "locks/", "tables/"))]
    assert not [data for data in others if b"laboratory" in data]


def test_it_says_what_is_recorded(full: tuple) -> None:
    _, where, done = full
    page = Page(where / "index.html")
    said = {one["text"].strip(): one["word"] for one in page.said}
    assert (
        said["The pictures of faces were collected from 2025 to 2026-03; of 1 picture no date is recorded."]
        == "recorded"
    )
    assert said["Collected for 'a study': 3 pictures of faces, of those that were trained on."] == "recorded"
    assert said["Collected for 'a show': 1 picture of faces, of those that were trained on."] == "recorded"
    assert said["2 pictures of faces were rejected: 2 too small."] == "recorded"
    assert said["Its training and the 2 runs before it took 3 min."] == "recorded"
    assert said["It has 6 numbers in its tensors (net 6)."] == "verified"
    assert said["Licences of faces: 7 CC-BY-4.0 and 1 none recorded."] == "recorded"
    assert not [text for text in said if "None" in text]
    assert page.find("more.safetensors, md5")["text"].rstrip().endswith("has gone on from it (train_net@more).")
    assert said["Nobody has signed its scores."] == "not recorded"
    assert "Technical documentation: 1(b) Hardware and software that it works with" in done.empty
    assert "Technical documentation: 2(d) Data" not in done.empty
    assert (done.found, done.differs) == (False, [])
    TypeAdapter(compose.Dossier).validate_json(machine(done))


def test_what_is_in_doubt_is_gathered_at_the_end_and_nothing_unknown_is_verified(full: tuple) -> None:
    _, where, _ = full
    page = Page(where / "index.html")
    doubts = [one["text"] for one in page.said if one["word"] in ("cannot tell", "DIFFERS")]
    last = [one["text"] for one in page.said[len(page.said) - len(set(doubts)) :]]
    assert set(last) == set(doubts)
    assert any("of 8 of 8 pictures nobody has said who is shown" in text for text in doubts)
    assert not [one for one in page.said if "people who are shown" in one["text"]]
    answer = next((where / "answers").glob("audit-checkpoint*")).read_text()
    (files,) = [one for one in doubts if one.startswith("record: train_net@net")]
    assert files.removeprefix("record: ").rstrip(". ") in answer


def test_scores_by_group_are_those_worked_out_by_hand(full: tuple) -> None:
    """Old: (10 + 14) / 2. The only young picture has no interval."""
    _, where, _ = full
    (file,) = (where / "groups").iterdir()
    found = {one["group"]: one for one in json.loads(file.read_text())["groups"]}
    assert {name: one["pictures"] for name, one in found.items()} == {"old": 2, "young": 1}
    assert found["old"]["raw"]["psnr_hole"]["mean"] == 12
    assert 10 <= found["old"]["raw"]["psnr_hole"]["low"] < 12 < found["old"]["raw"]["psnr_hole"]["high"] <= 14
    assert found["young"]["raw"]["psnr_hole"] == {"mean": 20, "low": None, "high": None}
    text = "Between groups, psnr_hole of net differs by 8 dB at most: it is lowest for old and highest for young."
    assert Page(where / "index.html").find("Between groups")["text"].strip() == text


def test_scores_by_group_are_those_of_test_pictures(tmp_path: Path) -> None:
    """Of a group's two test pictures (10 and 14 dB) and a training one, which the network knows by heart."""
    rows = {"image_id": ["a", "b", "c"], "path": ["a", "b", "c"], "kind": ["lines"] * 3, "blending": ["raw"] * 3}
    rows |= {"split": ["test", "test", "train"], "psnr_hole": [10.0, 14.0, 60.0]}
    pq.write_table(pa.table(rows), tmp_path / "net.parquet")
    (found,) = by_group.scores(tmp_path / "net.parquet", dict.fromkeys("abc", "old"), {})
    assert (found["pictures"], found["completions"], found["raw"]["psnr_hole"]["mean"]) == (2, 2, 12)


def test_an_older_table_has_no_groups_purposes_and_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = DossierLab(tmp_path / "lab", columns=False)
    monkeypatch.chdir(lab.home)
    where, _ = made(lab)
    page = Page(where / "index.html")
    for words in ("Scores of net by group are not", "To which groups the pictures of faces"):
        assert page.find(words)["word"] == "not recorded"
    for words in ("When the pictures", "Why the pictures"):
        assert {one["word"] for one in page.said if words in one["text"]} == {"not recorded"}


def test_a_checkpoint_without_records_has_a_dossier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    stranger = tmp_path / "stranger.safetensors"
    save_file({"w": np.zeros(1, np.float32)}, stranger, {"palimpsest": "{}"})
    where, done = made(lab, str(stranger))
    page = Page(where / "index.html")
    assert [one for one in page.said if not one["links"]] == []
    assert {"Technical documentation: 2(d) Data", "Bill of materials: M.1 Data"} <= set(done.empty)
    assert page.find("made by: no dvc.lock")["word"] == "cannot tell"
    for file in lab.records.glob("*/*.json"):
        file.unlink()
    _, done = made(lab)  # dvc.lock still says what it came from
    assert done.sentences["recorded"] > 10
    assert Page(where / "index.html").find("as dvc.lock names them")["word"] == "recorded"  # its code
    assert not list((where / "records").glob("*"))


def test_an_altered_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    (file,) = lab.records.glob("train_net@net/*.json")
    file.write_text(file.read_text().replace("A processor", "Another"))
    where, done = made(lab)
    assert done.found
    page = Page(where / "index.html")
    for words in ("The record of its training is altered", "Its training and the 2 runs before it took"):
        found = [one["word"] for one in page.said if words in one["text"]]
        assert found == ["DIFFERS", "DIFFERS"], "where it is said, and once more among what is in doubt"
    assert page.find("60 s4, 2 threadsAnothernone")["word"] == "DIFFERS"  # its row
    assert page.find("ingest@faces60 s")["word"] is None


def test_it_says_what_was_decided_and_on_which_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    for key, value in (("user.name", "Ada"), ("user.email", "ada@example.org")):
        lab.git("config", key, value)
    gate = {
        "pictures": 3,
        "metric": "psnr_hole",
        "gain": 1.5,
        "low": 1.0,
        "high": 2.0,
        "confidence": 0.95,
        "margin": 0.25,
    }
    git, head = Git(lab.home), lab.git("rev-parse", "HEAD")
    md5 = lab.digests(NET)[NET]
    said = Decision("promoted", "psnr_hole better by 1.5 dB [1.0, 2.0]", "net", "net", NET, md5, head, None, gate)
    commit = decisions.record(git, lab.git("rev-parse", "HEAD^{tree}"), said, [], head)
    lab.git("tag", "-a", "-m", "v", "net@v2.0.0", commit)
    where, _ = made(lab)
    page = Page(where / "index.html")
    texts = [one["text"].strip() for one in page.said]
    assert "As net it has the version v2.0.0." in texts
    assert "Retrain compared it by psnr_hole on 3 validation pictures: psnr_hole better by 1.5 dB [1.0, 2.0]." in texts
    assert "promotedpsnr_hole1.5  [1, 2]0.950.25" in texts  # a row
    assert page.find("It is the promoted one of net, since")["word"] == "recorded"
    assert [one for one in page.said if not one["links"]] == []
    (file,) = (where / "decisions").iterdir()
    assert json.loads(file.read_text())["commit"] == commit


def test_the_same_records_give_the_same_bytes_and_a_dossier_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    where, _ = made(lab)
    first = files(where)
    (where / "index.html").write_text("edited")
    (where / "records.html").unlink()
    made(lab)
    again = files(where)
    # CycloneDX asks for the time and a number of its own; the pages have its digest.
    dated = {"exports/net.cdx.json", "dossier.json", "index.html", "records.html"}
    assert {name for name in first | again if first.get(name) != again.get(name)} == dated
    assert len(again["index.html"]) == len(first["index.html"])
    (where / "locks" / "mine.txt").write_text("notes")
    with pytest.raises(InputError, match=r"mine\.txt: not written by `audit dossier`"):
        made(lab)
    assert files(where) == {**again, "locks/mine.txt": b"notes"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lab", "out"]


def test_the_command_writes_it_and_says_what(lab: Laboratory, tmp_path: Path) -> None:
    first, *_ = lab.run("audit", "dossier", "net", "-o", f"{tmp_path}/out")
    page = Page(tmp_path / "out" / "index.html")
    assert first.startswith(
        f"{tmp_path}/out/index.html: {sum(one['word'] is not None for one in page.said)} sentences, "
    )
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "index.html").write_text("mine")
    said = lab.run("audit", "dossier", "net", "-o", f"{tmp_path}/mine", code=2)
    assert said == [f"audit dossier: {tmp_path}/mine: exists, and is no dossier; name another folder with -o"]
    assert files(tmp_path / "mine") == {"index.html": b"mine"}


def test_a_folder_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to("photos")
    for name in ("photos", "file", "link"):
        with pytest.raises(InputError, match=f"{name}: .*name another"):
            folder.refuse(tmp_path / name)
    with pytest.raises(InputError, match="/proc: exists, and is no dossier"):  # nothing in it is searched
        folder.refuse(Path("/proc"))
    (tmp_path / "empty").mkdir()
    folder.refuse(tmp_path / "empty")
    folder.refuse(tmp_path / "new" / "deep")


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    folder.write(tmp_path / "out", {"a": b"old"})
    with pytest.raises(InputError, match="name another folder"):
        folder.write(tmp_path / "out", {"a": b"new", "a/b": b"no file can lie in another"})
    assert (tmp_path / "out" / "a").read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["out"]


def test_names_from_records_do_no_harm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    (file,) = lab.records.glob("train_net@net/*.json")
    body = json.loads(file.read_text()) | {"stage": "../../<b>"}
    file.write_text(json.dumps(body))
    where, _ = made(lab)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["lab", "out"]
    assert "<b>" not in (where / "index.html").read_text()
    assert list((where / "records").glob("*b-*.json"))


STRANGE = [
    {"environment": {"kernels": "x"}}, {"packages": {"imported": ["x"]}}, {"sources": ["x"]}, {"weights": {"x": ["y"]}},
    {"seconds": "x"}, {"git": "x"}, {"inputs": {"x": 1}}, {"notes": {"terms": ["x"]}}, {"notes": {"changed": ["x"]}},
    {"notes": {"rejected": {"a": "x"}}}, {"params": "x"}, {"notes": {"gone": 3}}, {"notes": {"checkpoints": ["x"]}},
]  # fmt: skip


def test_a_record_of_another_shape_is_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A branch of records may bring a stranger's: it is left out, and parameters are read as far as they make sense."""
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    known = len(Records(lab.home).every())
    params = {"datasets.faces.align": ["x"], "evaluate": {"bootstrap": "x"}, "train_net.net": {"holes": [1]}}
    for number, file in enumerate(lab.records.glob("*/*.json")):
        body = json.loads(file.read_text())
        for each in STRANGE if not number else ():
            strange = file.with_name(f"{len(list(file.parent.iterdir()))}.json")
            strange.write_text(record.text(body | each))
        file.write_text(record.text(body | {"params": params}))
    assert len(Records(lab.home).every()) == known
    material.gather(lab.home, "net", lambda line: None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("purposes: x", "unknown key 'purposes'"),
        ("checkpoints: {net: {limit: x}}", "unknown key 'checkpoints.net.limit'"),
        ("datasets: {faces: {kind: bought}}", "datasets.faces.kind: input should be 'public'"),
        ("purpose: 3", "purpose: input should be a valid string"),
        ("released: 2026-01-01", "released: read as a date; write it in quotes"),
        ("datasets: {faces: {published: '2026-02-31'}}", "datasets.faces.published: value error, day is out of range"),
        ("- purpose", "must be a mapping"),
        ("a: [", "not valid YAML"),
    ],
)
def test_a_mistake_in_audit_yaml_is_one_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "audit.yaml").write_text(text)
    with pytest.raises(InputError, match=r"^audit\.yaml: ") as caught:
        owner.read(tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


DATES = st.dates().map(str).flatmap(lambda day: st.sampled_from([day, day[:7], day[:4]]))


@given(st.lists(st.none() | DATES, max_size=9))
def test_no_date_is_before_the_earliest_or_after_the_latest(found: list[str | None]) -> None:
    from collections import Counter

    answer = pictures.dates(Counter(found))
    known = [said for said in found if said]
    assert (answer["pictures"], answer["without"]) == (len(known), len(found) - len(known))
    for said in known:
        assert answer["earliest"][:4] <= said[:4] <= answer["latest"][:4]
        if len(answer["latest"]) == len(said):
            assert said <= answer["latest"]
        if len(answer["earliest"]) == len(said):
            assert answer["earliest"] <= said


def test_what_is_counted_of_the_pictures_that_were_read(full: tuple) -> None:
    _, where, _ = full
    (file,) = (where / "tables").iterdir()
    found = json.loads(file.read_text())["trained"]
    from dossier_lab import FILES, PATHS

    assert found["pictures"] == 5
    assert found["bytes"] == sum(len(FILES[path]) for path in PATHS[:5])
    assert (found["width"]["smallest"], found["width"]["largest"], found["height"]["median"]) == (6, 8, 8)
    assert found["group"] == [
        {"said": "young", "pictures": 2},
        {"said": "old", "pictures": 2},
        {"said": None, "pictures": 1},
    ]
    assert (where / "index.html").read_text().count(NET) > 0


def test_a_label_is_named_with_the_kind_of_hole_behind_it() -> None:
    holes = {"lines": {}, "small": {"kind": "centre", "fraction": 0.25}}
    assert [annex_use._kind(label, holes) for label in holes] == ["lines", "small (centre)"]
    assert annex_use._kind("lines", ["lines"]) == "lines"
