"""`audit sign-tests` and `audit handover`: records that people leave, also where somebody meddles with them."""

import json
from pathlib import Path

import pytest
from dossier_lab import NET, PSNR, SCORES, DossierLab
from pydantic import TypeAdapter

from flows.audit import checkpoint, log
from flows.audit.facts import machine
from flows.checkout.git import Git
from flows.dossier import handover, sign_tests
from flows.lineage import signatures
from flows.lineage.records import HANDED, TESTED
from stages.runs import record
from stages.runs.errors import InputError


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> DossierLab:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    monkeypatch.delenv("PALIMPSEST_KEY", raising=False)
    lab = DossierLab(tmp_path / "lab")
    monkeypatch.chdir(lab.home)
    return lab


def said(lab: DossierLab, about: str) -> list[tuple[str, str]]:
    return [(fact.word, fact.said) for fact in checkpoint.ask(lab.home, "net").facts if fact.about == about]


def test_a_person_signs_the_scores_as_they_are_now(lab: DossierLab) -> None:
    lab.key("Ada Lovelace")
    done = sign_tests.sign(lab.home, "net")
    TypeAdapter(sign_tests.SignedTests).validate_json(machine(done))
    assert done.scores == lab.digests(*(f"{SCORES}{end}" for end in (".json", ".parquet", ".means.parquet")))
    ((word, text),) = said(lab, "tests signed")
    assert word == "verified"
    assert text.startswith("by Ada Lovelace, 20")
    held = signatures.on_branch(Git(lab.home))
    assert len(held.attestations) == 1  # other records are for those to sign who made them
    assert len(held.records) == 7
    (event,) = [event for event in log.ask(lab.home) if event.kind == "tests signed"]
    assert (event.about, event.said, event.signed) == (NET, "3 files of scores, by Ada Lovelace", "Ada Lovelace")


def test_other_scores_are_not_those_that_were_signed(lab: DossierLab) -> None:
    lab.key("Ada Lovelace")
    sign_tests.sign(lab.home, "net")
    lab.score({**PSNR, "f.png": 30.0})
    with pytest.raises(InputError, match="neither in DVC's cache nor in the working copy"):
        sign_tests.sign(lab.home, "net")  # dvc.lock has the old ones
    lab.commit("scored again")
    ((word, text),) = said(lab, "tests signed")
    assert word == "recorded"
    assert "the scores are others now (data/scores/net." in text
    sign_tests.sign(lab.home, "net")
    assert sorted(word for word, _ in said(lab, "tests signed")) == ["recorded", "verified"]


def test_scores_that_no_lock_has_cannot_be_told_of(lab: DossierLab) -> None:
    lab.key("Ada Lovelace")
    lab.score({**PSNR, "f.png": 30.0})
    lab.lock()  # not committed
    sign_tests.sign(lab.home, "net")
    lab.score(PSNR)
    lab.lock()
    ((word, text),) = said(lab, "tests signed")
    assert word == "cannot tell"
    assert "no dvc.lock that Git knows here has those that were signed" in text


def test_a_statement_that_somebody_else_signed_is_named(lab: DossierLab) -> None:
    """Who writes that Bob has signed needs Bob's key."""
    lab.key("Ada Lovelace")
    notes = {"checkpoint": NET, "md5": record.digest(lab.home / NET), "scores": {}, "signer": "Bob", "at": "2026-01-01"}
    facts = {"inputs": {}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    record.write(lab.records, TESTED, facts, {"ended": "2026-01-01T00:00:00+00:00"})
    ((word, text),) = said(lab, "tests signed")
    assert word == "cannot tell"
    assert "signed by nobody" in text
    signatures.collect(lab.home)  # signs what has run here, and not what a person alone can say
    assert said(lab, "tests signed") == [(word, text)]
    signatures.collect(lab.home, None, f"{TESTED}/*.json")
    ((word, text),) = said(lab, "tests signed")
    assert word == "DIFFERS"
    assert text.endswith("says: by Bob; but it is Ada Lovelace who has signed it")


@pytest.mark.parametrize("kind", [TESTED, HANDED])
def test_a_statement_that_was_altered_is_named(lab: DossierLab, kind: str) -> None:
    lab.key("Ada Lovelace")
    sign_tests.sign(lab.home, "net")
    handover.hand_over(lab.home, "net", "Acme")
    (file,) = lab.records.glob(f"{kind}/*.json")
    file.write_text(file.read_text().replace("Ada", "Bob").replace("Acme", "Emca"))
    answer = checkpoint.ask(lab.home, "net")
    about = {TESTED: "tests signed", HANDED: "handed over"}[kind]
    assert "DIFFERS" in {fact.word for fact in answer.facts if fact.about == about}
    assert answer.found


def test_who_cannot_sign_is_told_why(lab: DossierLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="you have no key yet; `palimpsest audit key new NAME`"):
        sign_tests.sign(lab.home, "net")
    lab.key("Ada Lovelace")
    with pytest.raises(InputError, match="has scores of it"):
        sign_tests.sign(lab.home, "more")
    with pytest.raises(InputError, match="no file, and no data/models/none"):
        sign_tests.sign(lab.home, "none")
    lab.git("rm", "-q", "--cached", "signers.yaml")
    lab.git("commit", "-qm", "no signers")
    (lab.home / "signers.yaml").rename(tmp_path / "signers.yaml")
    with pytest.raises(InputError, match="is not in it; `palimpsest audit key trust NAME FILE`"):
        sign_tests.sign(lab.home, "net")
    lab.git("switch", "-q", "--detach")
    lab.git("branch", "palimpsest/records/x")  # so there can be no branch of records
    (tmp_path / "signers.yaml").rename(lab.home / "signers.yaml")
    with pytest.raises(InputError, match="give the other branch another name"):
        sign_tests.sign(lab.home, "net")
    assert not list(lab.records.glob(f"{TESTED}/*"))  # signed at once, or not at all


def test_who_received_a_checkpoint_is_kept_signed_and_shown(lab: DossierLab) -> None:
    lab.key("Ada Lovelace")
    done = handover.hand_over(lab.home, "net", "Acme Ltd", "for a trial")
    TypeAdapter(handover.Handover).validate_json(machine(done))
    assert done.sha256 == record.digests(lab.home / NET, "sha256")[0]
    ((word, text),) = said(lab, "handed over")
    assert word == "recorded"
    assert text == f"to Acme Ltd, {done.time}, signed by nobody: for a trial"
    signatures.collect(lab.home)
    ((_, text),) = said(lab, "handed over")
    assert "signed by Ada Lovelace" in text
    (event,) = [event for event in log.ask(lab.home) if event.kind == "handed over"]
    assert (event.about, event.said, event.signed) == (NET, "to Acme Ltd: for a trial", "Ada Lovelace")
    kept = json.loads((lab.records / done.record).read_text())
    assert kept["inputs"] == {NET: done.md5}


@pytest.mark.parametrize("to", ["", " ", "two\nlines", "\x1b[2J", "x" * 1001])
def test_a_receiver_that_is_no_line_of_text_is_refused(lab: DossierLab, to: str) -> None:
    with pytest.raises(InputError, match="--to: takes one line of text"):
        handover.hand_over(lab.home, "net", to)
    assert not list(lab.records.glob(f"{HANDED}/*"))


def test_a_terminal_acts_on_nothing_that_a_record_says(lab: DossierLab, capsys: pytest.CaptureFixture[str]) -> None:
    notes = {"md5": lab.digests(NET)[NET], "checkpoint": NET, "to": "Acme\x1b[2J\nnext"}
    facts = {"inputs": {}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    record.write(lab.records, HANDED, facts, {"ended": "2026-01-01T00:00:00+00:00"})
    checkpoint.show(checkpoint.ask(lab.home, "net"))
    log.show(log.ask(lab.home), 99)
    shown = capsys.readouterr().out
    assert shown.count("Acme\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}next") == 2
    assert "\x1b" not in shown


def test_a_strangers_record_does_not_stand_before_one_that_is_signed(lab: DossierLab) -> None:
    lab.key("Ada")
    (file,) = lab.records.glob("train_net@net/*.json")
    signatures.collect(lab.home)
    body = json.loads(file.read_text())
    facts = record.facts_of(body) | {"environment": {**body["environment"], "processor": "forged"}}
    record.write(lab.records, body["stage"], facts, {"ended": "2020-01-01T00:00:00+00:00"})
    run = checkpoint.ask(lab.home, "net").trainings[0].run
    assert run.record
    assert run.record["environment"]["processor"] == "A processor"
