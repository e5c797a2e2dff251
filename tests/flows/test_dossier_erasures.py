"""What was erased is said in a dossier and in exports, and what is left is never shown as what was recorded."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dossier_lab import ALIGNED, SCORES, TABLE, DossierLab

from flows.audit import checkpoint, diff, splits
from flows.dossier import compose, sign_tests
from flows.exports import materials, model_card, sbom
from flows.exports.words import describe
from flows.lineage import erasures, signatures
from flows.lineage.records import ERASED
from stages.runs import record
from stages.runs.errors import InputError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DossierLab:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("PALIMPSEST_KEY", raising=False)
    made = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(made.home)
    return made


def said(answer: checkpoint.Checkpoint, about: str) -> list[tuple[str, str]]:
    return [(fact.word, fact.said) for fact in answer.facts if fact.about == about]


def test_what_is_left_of_a_training_is_not_what_was_recorded(lab: DossierLab, tmp_path: Path) -> None:
    lab.erase("a.png")
    found = materials.of(lab.home, "net")
    ((word, words),) = said(found.answer, "trained on")
    assert word == "recorded"
    assert words.startswith("4 pictures are left of the list, from which others were erased: ")
    removed, changed = said(found.answer, "erased")
    assert removed == (
        "recorded",
        "removed on 2026-02-01, because a picture was erased on which it was trained, signed by nobody",
    )
    assert changed[1].startswith(f"pictures were erased on 2026-02-01 from data/models/net.members.arrow and {TABLE}")
    done = compose.write(lab.home, "net", tmp_path / "out", lambda line: None)
    page = (tmp_path / "out" / "index.html").read_text()
    assert "It was removed on 2026-02-01, because a picture was erased on which it was trained" in page
    assert not done.found
    counted = [
        one
        for one in page.split("<p class=")
        if "trained on" in one or "4 are the pictures" in one or "Their files" in one
    ]
    assert counted
    assert not [one for one in counted if "verified" in one]
    assert (
        f"Pictures were erased on 2026-02-01 from {TABLE}, signed by nobody: what is said here is of what is left"
        in page
    )
    assert [file.name for file in (tmp_path / "out" / "records").glob(f"{ERASED}*")]
    for text in (model_card.text(found, {}), sbom.text(found, {})):
        assert "removed on 2026" in text.replace("\\", "")
    (dataset,) = found.datasets or []
    assert "Pictures were erased from it on 2026-02-01" in describe(dataset)
    for piece in dataset.files or []:
        assert piece.here
        assert (piece.md5, piece.sha256) == tuple(record.digests(piece.here, "md5", "sha256"))


def test_a_difference_is_not_verified_by_what_is_left_of_a_list(lab: DossierLab) -> None:
    def pictures() -> list[tuple[str, str]]:
        facts = diff.ask(lab.home, "net", "net@HEAD").facts
        return [(fact.word, fact.said) for fact in facts if fact.about == "pictures"]

    assert pictures() == [("verified", "the same 5")]
    lab.erase("a.png")
    assert pictures() == [
        ("recorded", "erased from the list of net and net@HEAD: what is left of it is compared"),
        ("recorded", "the same 4"),
    ]


def test_a_dataset_is_described_as_it_is_now_where_the_training_need_not_run_again(lab: DossierLab) -> None:
    """A licence was corrected: other ingested tables, and the same crops. One lock has each of the two."""
    first, before = lab.git("rev-parse", "HEAD"), lab.digests(TABLE)[TABLE]
    for file in (lab.home / TABLE).iterdir():
        rows = pq.read_table(file)
        licences = pa.array(["MIT"] * len(rows), pa.string())
        pq.write_table(rows.set_column(rows.column_names.index("licence"), "licence", licences), file)
    lab.commit("licences")
    for stage in ("ingest@faces", "align@faces"):
        lab.ran(stage, *lab.stages()[stage])
    found = materials.of(lab.home, "net")
    (dataset,) = found.datasets or []
    assert dataset.table.md5 == lab.digests(TABLE)[TABLE] != before
    assert {one.licence for one in dataset.terms} == {"MIT"}
    commits = {run.stage: run.commit for run in found.runs}
    assert commits["train_net@net"] == first
    assert commits["ingest@faces"] == commits["align@faces"] == lab.git("rev-parse", "HEAD")
    lab.git("checkout", "-q", first, "dvc.lock")  # the working copy's lock counts
    (dataset,) = materials.of(lab.home, "net").datasets or []
    assert dataset.table.md5 == before


def test_what_was_made_before_an_erasure_is_still_traced_to_its_data(lab: DossierLab) -> None:
    """Of two versions of a folder the one that the training has read, though that has lost a picture since."""
    folder, file = lab.digests(ALIGNED, f"{ALIGNED}/train.arrow").values()
    (lab.home / ALIGNED / "train.arrow").write_bytes(b"another")
    lab.commit("aligned anew")
    assert checkpoint.ask(lab.home, "net").trainings[0].datasets == []  # no listing tells which one it was
    lab.cache("1" * 32 + ".dir", [{"md5": "2" * 32, "relpath": "train.arrow"}])
    lab.erased({"changed": {folder: "1" * 32 + ".dir", file: "2" * 32}})
    assert [one.name for one in checkpoint.ask(lab.home, "net").trainings[0].datasets] == ["faces"]


def test_no_name_of_a_picture_is_in_a_dossier(lab: DossierLab, tmp_path: Path) -> None:
    """The record of an ingestion names pictures that lie on another side: in a dossier it has their number alone."""
    lab.key("Ada")
    compose.write(lab.home, "net", tmp_path / "out", lambda line: None)
    for file in (tmp_path / "out").rglob("*"):
        assert file.is_dir() or b"b.png" not in file.read_bytes(), file
    (file,) = (tmp_path / "out" / "records").glob("ingest@faces*")
    shown = json.loads(file.read_text())
    (whole,) = lab.records.glob("ingest@faces/*.json")
    assert shown["notes"]["moved"] == 1
    assert shown["record_sha256"] == record.digests(whole, "sha256")[0]


def test_scores_without_an_erased_picture_are_not_those_that_were_signed(lab: DossierLab) -> None:
    lab.key("Ada")
    sign_tests.sign(lab.home, "net")
    lab.erase("f.png")
    signatures.collect(lab.home)
    erasures.replaced.cache_clear()
    answer = checkpoint.ask(lab.home, "net")
    ((word, words),) = said(answer, "tests signed")
    assert (word, words.partition("; ")[2]) == (
        "cannot tell", f"a picture was erased from {SCORES}.parquet since, so it is not what was signed",
    )  # fmt: skip
    assert said(answer, "evaluated on")[0][0] == "recorded"
    with pytest.raises(InputError, match="a picture was erased from"):
        sign_tests.sign(lab.home, "net")
    assert materials.of(lab.home, "net").evaluations[0].pictures is None


def test_what_is_left_of_a_table_has_not_its_digest(lab: DossierLab) -> None:
    md5 = lab.digests(TABLE)[TABLE]
    lab.erase("g.png")
    fact = splits.of_table(lab.home, "faces", md5).facts[0]
    assert (fact.word, fact.said) == (
        "recorded",
        f"{TABLE} {md5[:10]}: pictures were erased from it; this is what is left",
    )


def test_an_erasure_that_nobody_who_counts_has_signed_is_not_believed(lab: DossierLab) -> None:
    lab.key("Ada")
    lab.erase("a.png")
    erasures.replaced.cache_clear()
    words = said(checkpoint.ask(lab.home, "net"), "erased")
    assert {word for word, _ in words} == {"cannot tell"}
