"""Revoked keys, by real signing: what was there before counts, what came after does not, whatever times it claims."""

import subprocess
from collections.abc import Callable
from pathlib import Path

import forked
import pytest
from dvc_project import ENV
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.signer import CryptoSigner

from flows.audit import evidence, verify_records
from flows.audit.findings import Findings
from flows.checkout.git import Git
from flows.lineage import attestation, keys, public_keys, record_branch, revocation, signatures
from flows.lineage.attestation import Attestation
from flows.lineage.public_keys import Trusted
from stages.runs import record as runs
from stages.runs.errors import InputError


def record(number: int, ended: str = "2026-11-27T00:00:00+00:00") -> tuple[str, str]:
    facts = {"inputs": {}, "outputs": {"net.safetensors": f"{number:032x}"}, "params": {}}
    name = runs.name_of("train", facts)
    return f"train/{name}.json", runs.text({"format": 2, "stage": "train", "digest": name, **facts, "ended": ended})


class Lab:
    """A repository with records, which people sign, each with a key in a file of its own."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.home, self.root, self._patch = home, home / "project", monkeypatch
        subprocess.run(["git", "init", "-q", str(self.root)], check=True)
        self.git = Git(self.root)

    def as_(self, name: str) -> None:
        self._patch.setenv(keys.KEY, str(self.home / f"{name}.pem"))
        if not keys.place().exists():
            keys.new(self.root, name, "")

    def run(self, *numbers: int, ended: str = "2026-11-27T00:00:00+00:00") -> int:
        """Leave records and sign them; how many were signed."""
        for number in numbers:
            path, text = record(number, ended)
            file = self.root / ".palimpsest" / "records" / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return signatures.collect(self.root)[1]

    def palimpsest(self, *words: str) -> list[str]:
        """The lines that `palimpsest audit key WORDS` prints."""
        line = [forked.python(), "-m", "flows.cli", "audit", "key", *words]
        done = subprocess.run(line, cwd=self.root, env=ENV, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    def commit(self) -> None:
        """Commit `signers.yaml`."""
        self.git("add", public_keys.SIGNERS)
        Git(self.root, **record_branch.WRITER)("commit", "-qm", "keys")

    @property
    def signers(self) -> str:
        return (self.root / public_keys.SIGNERS).read_text()

    def checked(self) -> signatures.Checked:
        return signatures.check(*signatures.on_branch(self.git), public_keys.trusted(self.root))

    def who(self, number: int, ended: str = "2026-11-27T00:00:00+00:00") -> str | None:
        return signatures.Vouchers(self.git).of(record(number, ended)[1])

    def forge(self, signer: CryptoSigner, number: int) -> str:
        """A record and its attestation, as whoever has the key can push them: older than all by its times, and naming
        none before it. The name of the attestation."""
        early = "2020-01-01T00:00:00+00:00"
        path, text = record(number, early)
        data = attestation.sign(path, text, [], signer)
        name = attestation.name_of(data)
        home = self.root / ".palimpsest" / "records"
        (home / path).write_text(text)
        (home / signatures.FOLDER / f"{name}{signatures.END}").write_bytes(data)
        self._patch.delenv(keys.KEY)
        signatures.collect(self.root)
        return name


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    return Lab(tmp_path, monkeypatch)


def test_what_was_signed_before_counts_and_what_came_after_does_not(lab: Lab) -> None:
    lab.as_("Ada")
    assert lab.run(1, 2) == 2
    lab.as_("Bob")
    lab.run(3)
    (lab.root / public_keys.SIGNERS).write_text(f"# who signs here\n{lab.signers}# no more\n")
    kept = lab.signers
    (lab.root / ".dvc").mkdir()
    assert lab.palimpsest("revoke", "Ada") == [
        "Ada: revoked; of its signatures 2 still count; `git add signers.yaml` and commit"
    ]
    ada = public_keys.trusted(lab.root)["Ada"].key.keyid[:10]
    assert f"Ada: ecdsa, {ada}; revoked: what it had signed by then counts" in lab.palimpsest("list")
    for part in ("# who signs here\n", "# no more", kept[kept.index("'Bob': |") : kept.index("# no more")]):
        assert part in lab.signers
    assert lab.checked() == (
        {record(1)[0]: "Ada (key revoked)", record(2)[0]: "Ada (key revoked)", record(3)[0]: "Bob"}, [], [], {},
    )  # fmt: skip

    lab.as_("Ada")
    with pytest.raises(InputError, match=r"the key of 'Ada', which is revoked in signers\.yaml; move it away"):
        lab.run(4)
    signer = keys.signer(None)
    assert signer is not None
    name = lab.forge(signer, 5)
    found = lab.checked()
    assert [fault.partition(";")[0] for fault in found.faults] == [
        f"attestation {name[:10]}: signed with a revoked key (Ada)"
    ]
    assert set(found.unsigned) == {record(4)[0], record(5)[0]}
    assert (lab.who(1), lab.who(3)) == ("Ada (key revoked)", "Bob")
    with pytest.raises(attestation.Forged, match="signed with a revoked key"):
        lab.who(5, "2020-01-01T00:00:00+00:00")

    lab.as_("Bob")  # who knows that the two records are right
    assert lab.run() == 2
    assert lab.checked().faults == []
    assert lab.who(5, "2020-01-01T00:00:00+00:00") == "Bob"


def test_with_all_nothing_counts_until_somebody_else_signs_it(lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1, 2)
    assert signatures.revoke(lab.git, "Ada", every=False) == 2
    with pytest.raises(InputError, match="revoked already"):
        signatures.revoke(lab.git, "Ada", every=False)
    assert signatures.revoke(lab.git, "Ada", every=True) == 0
    assert len(lab.checked().faults) == 2
    lab.as_("Ada again")
    assert lab.run() == 2
    assert lab.checked() == (dict.fromkeys((record(1)[0], record(2)[0]), "Ada again"), [], [], {})


def test_a_clone_that_lacks_what_would_tell_says_so(lab: Lab) -> None:
    """It has fetched `signers.yaml` and not yet the branch."""
    lab.as_("Ada")
    lab.run(1)
    before = lab.git("rev-parse", "palimpsest/records")
    lab.run(2)
    signatures.revoke(lab.git, "Ada", every=False)
    lab.git("update-ref", "refs/heads/palimpsest/records", before)
    body = runs.parse(record(1)[1].encode(), "")
    run = evidence.Run(body, record(1)[0], None)
    fact = next(evidence.of_training(lab.git, signatures.Vouchers(lab.git), run, {}, []))
    assert (fact.about, fact.word) == ("record", "cannot tell")
    assert "is missing; `git fetch` brings it" in fact.said
    assert any("gone, though" in fault for fault in lab.checked().faults)


def test_what_cannot_be_revoked_or_read_ends_in_one_line(lab: Lab) -> None:
    lab.as_("Ada")
    with pytest.raises(InputError, match="no attestation that counts is here"):
        signatures.revoke(lab.git, "Ada", every=False)
    lab.run(1)
    with pytest.raises(InputError, match="no key of 'Eve'"):
        signatures.revoke(lab.git, "Eve", every=False)
    public = lab.home / "ada.pub"
    public.write_text(public_keys.trusted(lab.root)["Ada"].key.keyval["public"])
    signatures.revoke(lab.git, "Ada", every=False)
    attempts: dict[str, Callable[[], object]] = {
        "the key of 'Ada', which is revoked; to undo that": lambda: public_keys.trust(lab.root, "Eve", public),
        "'Ada' has a revoked key": lambda: (lab.as_("Bob"), keys.place().unlink(), keys.new(lab.root, "Ada", "")),
    }
    for why, attempt in attempts.items():
        with pytest.raises(InputError, match=why):
            attempt()
    whole = lab.signers
    head = signatures.newest(lab.git)[0]
    for wrong in (
        whole.replace(head, head[:10]),
        whole.replace("revoked:", "until:"),
        whole.replace(f"\n  - {head}", " yes"),
    ):
        assert wrong != whole
        (lab.root / public_keys.SIGNERS).write_text(wrong)
        with pytest.raises(InputError, match=r"signers\.yaml: Ada: must be a public key"):
            public_keys.trusted(lab.root)
    lines = "".join(f"  {line}\n" for line in public.read_text().splitlines())
    (lab.root / public_keys.SIGNERS).write_text(f"{whole}Eve: |\n{lines}")
    assert public_keys.trusted(lab.root)["Eve"].revoked == ((head,),), "one key with two names is revoked all the same"


def test_of_several_revocations_of_a_key_all_hold(lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1)
    public = lab.home / "ada.pub"
    public.write_text(public_keys.trusted(lab.root)["Ada"].key.keyval["public"])
    public_keys.trust(lab.root, "Ada's laptop", public)
    signatures.revoke(lab.git, "Ada", every=False)
    first = lab.signers
    with pytest.raises(InputError, match="revoked already"):
        signatures.revoke(lab.git, "Ada's laptop", every=False)
    signatures.revoke(lab.git, "Ada", every=True)
    with pytest.raises(InputError, match="no attestation that counts is here"):
        signatures.revoke(lab.git, "Ada's laptop", every=False)
    assert len(lab.checked().faults) == 1

    signer = keys.signer(None)
    assert signer is not None
    late = lab.forge(signer, 2)
    ada = public_keys.trusted(lab.root)["Ada"].key
    held = signatures.on_branch(lab.git)
    (early,) = held.attestations.keys() - {late}
    for revoked, count in ((((late,), (early, late)), 1), (((early,), (late, early)), 1), (((early,), ()), 2)):
        assert len(signatures.check(*held, {"Ada": Trusted(ada, revoked)}).faults) == count

    (lab.root / public_keys.SIGNERS).write_text(first)
    lab.commit()
    assert lab.who(1) == "Ada (key revoked)"
    signatures.revoke(lab.git, "Ada", every=True)  # is not committed yet
    with pytest.raises(attestation.Forged, match="signed with a revoked key"):
        lab.who(1)


def test_what_a_stranger_signs_stops_nobody_and_can_be_taken_off(lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1)
    lab.commit()
    (mine,) = signatures.newest(lab.git)
    ada, stranger = keys.signer(None), CryptoSigner.generate_ecdsa()
    assert ada is not None
    home = lab.root / ".palimpsest" / "records"
    path, text = record(2)
    by_stranger = attestation.sign(path, text, [mine], stranger)
    by_liar = attestation.sign(path, record(2, "2020-01-01T00:00:00+00:00")[1], [mine], liar(ada, stranger))
    forged = [attestation.name_of(data) for data in (by_stranger, by_liar)]
    tip = lab.git("rev-parse", record_branch.BRANCH)
    for name, data in zip(forged, (by_stranger, by_liar), strict=True):
        (home / signatures.FOLDER / f"{name}{signatures.END}").write_bytes(data)
    signatures.collect(lab.root)  # they are on the branch
    assert len(audited(lab.root)[0]) == 2
    assert signatures.newest(lab.git) == [mine]
    assert lab.run(2) == 1, "Ada signs what the stranger has signed"
    assert lab.run() == 0, "once"
    for name in forged:
        (home / signatures.FOLDER / f"{name}{signatures.END}").unlink()
    lab.git("update-ref", f"refs/heads/{record_branch.BRANCH}", tip)  # Git's reflog has it
    assert lab.run() == 0
    assert audited(lab.root) == ([], [])
    assert lab.who(2) == "Ada"


def test_a_signature_is_not_planted_in_advance(lab: Lab) -> None:
    """A thief signs, keeps that to himself, and has a public attestation name it, which the key's entry then names."""
    lab.as_("Ada")
    lab.run(1)
    lab.commit()
    (mine,) = signatures.newest(lab.git)
    thief, stranger = keys.signer(None), CryptoSigner.generate_ecdsa()
    assert thief is not None
    planted = attestation.sign(*record(9), [], thief)
    name = attestation.name_of(planted)
    home = lab.root / ".palimpsest" / "records" / signatures.FOLDER

    def publish(data: bytes) -> None:
        (home / f"{attestation.name_of(data)}{signatures.END}").write_bytes(data)
        signatures.collect(lab.root)

    for signer in (stranger, liar(thief, stranger)):
        publish(attestation.sign(*record(1), [mine, name], signer))
    assert signatures.revoke(lab.git, "Ada", every=False) == 1
    assert mine in lab.signers
    assert lab.signers.count("  - ") == 1
    lab.commit()
    lab.forge(thief, 8)  # and what else the thief signs
    publish(planted)
    with pytest.raises(revocation.Revoked):
        lab.who(9)


def test_a_key_is_not_revoked_while_a_signature_may_come_later(lab: Lab) -> None:
    """The thief has already published an attestation with the key."""
    lab.as_("Ada")
    lab.run(1)
    thief = keys.signer(None)
    assert thief is not None
    planted = "0" * 64
    data = attestation.sign(*record(2), [planted], thief)
    home = lab.root / ".palimpsest" / "records" / signatures.FOLDER
    (home / f"{attestation.name_of(data)}{signatures.END}").write_bytes(data)
    signatures.collect(lab.root)
    with pytest.raises(InputError, match="attestation 0000000000 is missing, though others name it"):
        signatures.revoke(lab.git, "Ada", every=False)
    assert signatures.revoke(lab.git, "Ada", every=True) == 0


def audited(root: Path) -> tuple[list[str], list[tuple[str, str]]]:
    """What `audit verify` says of signatures: the faults, and what it cannot tell."""
    findings = Findings()
    verify_records.signatures(root, findings)
    return [f"{fault.file}: {fault.said}" for fault in findings.faults], findings.unknown


def test_a_revocation_counts_in_commits_that_lack_it_as_well(lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1)
    lab.commit()
    lab.git("branch", "old")
    trusted = lab.signers
    signatures.revoke(lab.git, "Ada", every=False)
    lab.commit()
    revoked = lab.git("rev-parse", "HEAD")[:10]
    signer = keys.signer(None)
    assert signer is not None
    early = "2020-01-01T00:00:00+00:00"
    late = lab.forge(signer, 9)
    assert [fault[:22] for fault in audited(lab.root)[0]] == [f"attestation {late[:10]}"]

    def at(commit: str, faults: list[str]) -> str:
        """What cannot be told of attestations there."""
        lab.git("checkout", "-q", commit)
        found, unknown = audited(lab.root)
        assert [fault[:22] for fault in found] == faults
        return dict(unknown).get("attestations", "")

    said = at("old", [])
    assert said.startswith(f"{late[:10]} by Ada: the key is revoked in commit {revoked}")
    assert lab.who(1) == "Ada", "what was signed before is right there, too"
    with pytest.raises(revocation.Elsewhere, match=f"Ada; the key is revoked in commit {revoked}"):
        lab.who(9, early)
    lab.as_("Ada")
    with pytest.raises(InputError, match=rf"of 'Ada', which is revoked in signers\.yaml of commit {revoked}; move"):
        lab.run(10)

    at("-", [f"attestation {late[:10]}"])  # the commit that revokes
    lab.git("checkout", "-q", "-b", "removed")
    (lab.root / public_keys.SIGNERS).unlink()
    lab.as_("Bob")
    lab.commit()
    said = at("removed", [f"attestation {late[:10]}"])  # stays a forgery where the entry is taken away
    assert "Ada, whose key is in commit" in said
    lab.git("checkout", "-q", "-b", "undone", "HEAD~1")
    (lab.root / public_keys.SIGNERS).write_text(trusted)
    lab.commit()
    assert at("undone", []) == ""
    assert lab.who(9, early) == "Ada", "whoever changes signers.yaml decides"
    assert revoked in at("old", []), "and in that commit alone"
    lab.as_("Ada")
    lab.git("checkout", "-q", "undone")
    assert lab.run() == 1, "the key signs again"


def test_a_strangers_list_of_keys_ends_in_one_line_soon(lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1)
    key = lab.signers[lab.signers.index("'Ada'") :]
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10))  # 10 thousand million
    for text in (
        'Eve: "\\ud800"\n', bomb, f"{bomb}Eve: {{key: *a9, revoked: []}}\n", "Eve: {key: x, revoked: [[1]]}\n",
        f"{bomb}? *a9\n: x\n", key.replace("'Ada'", '"\\ud800"'), key.replace("'Ada'", '"\\e[2J"'),
    ):  # fmt: skip
        (lab.root / public_keys.SIGNERS).write_text(text)
        with pytest.raises(InputError, match=r"^signers\.yaml.{10,250}$"):
            public_keys.trusted(lab.root)
    (lab.root / public_keys.SIGNERS).unlink()
    lab.as_("Bob")
    public = lab.home / "bob.pub"
    public.write_text(public_keys.trusted(lab.root)["Bob"].key.keyval["public"])
    with pytest.raises(InputError, match="characters that are no text"):
        public_keys.trust(lab.root, "\x1b[2J", public)


def test_a_list_of_keys_that_is_not_utf_8_ends_in_one_line(lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1)
    (lab.root / public_keys.SIGNERS).write_bytes(b"# J\xe9r\xf4me\n" + lab.signers.encode())
    with pytest.raises(InputError, match=r"signers\.yaml: byte 4 is not UTF-8"):
        signatures.revoke(lab.git, "Ada", every=False)
    with pytest.raises(InputError, match=r"signers\.yaml: byte 4 is not UTF-8"):
        lab.as_("Bob")
    assert not keys.place().exists(), "no half of a key is left"


@given(st.lists(st.lists(st.integers(0, 30), max_size=3), max_size=12), st.lists(st.integers(0, 14), max_size=3))
def test_what_is_reached_is_closed_and_no_more(before: list[list[int]], heads: list[int]) -> None:
    """Each names some with lower numbers, or such as are not there (from 12 on)."""
    every = [
        Attestation(str(number), "", "", {}, [str(one) for one in named if one < number or one >= 12], "")
        for number, named in enumerate(before)
    ]
    found = attestation.reached(every, map(str, heads))
    previous = {one.name: one.previous for one in every}
    assert found >= set(map(str, heads))
    assert all(name in found for one in found for name in previous.get(one, []))
    # Nothing is in it without a reason: a head, or what one of it names.
    named = {name for one in found for name in previous.get(one, [])} | set(map(str, heads))
    assert found == named


def liar(one: CryptoSigner, other: CryptoSigner) -> CryptoSigner:
    """The other one, who says to be the first."""
    key = other.public_key
    return CryptoSigner(other._private_key, type(key)(one.public_key.keyid, "ecdsa", key.scheme, key.keyval))


def test_a_revoked_key_is_trusted_no_further_by_its_keyid_alone() -> None:
    """A stranger who writes the key's id into an attestation that counts has still to sign it."""
    ada, stranger = CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ecdsa()
    path, text = record(1)
    data = attestation.sign(path, text, [], liar(ada, stranger))
    name = attestation.name_of(data)
    found = signatures.check({path: text}, {name: data}, {"Ada": Trusted(ada.public_key, ((name,),))})
    assert found == ({}, [path], [f"attestation {name[:10]}: the signature is not Ada's, though it says so"], {})


@pytest.mark.parametrize("kept", ["", "Ada"])
def test_whoever_is_not_trusted_yet_signs_once(kept: str, lab: Lab) -> None:
    lab.as_("Ada")
    lab.run(1)
    trusted = lab.signers
    lab.as_("Bob")
    (lab.root / public_keys.SIGNERS).unlink()
    if kept:
        (lab.root / public_keys.SIGNERS).write_text(trusted)
        lab.commit()
    assert lab.run(2) == 1
    assert lab.run() == 0
