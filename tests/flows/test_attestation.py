"""Attestations: made, read and held against records; openssl checks what securesystemslib has signed."""

import base64
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner

from flows.audit import verify_records
from flows.audit.findings import Findings
from flows.checkout.git import Git
from flows.lineage import attestation, keys, public_keys, record_branch, signatures
from flows.lineage.public_keys import Trusted
from flows.lineage.records import Records
from stages.runs import record as runs
from stages.runs.errors import InputError


def record(number: int) -> tuple[str, str]:
    facts = {
        "inputs": {"data/aligned/faces": "a" * 32 + ".dir", "stages/train.py": "b" * 32},
        "outputs": {"data/models/net.safetensors": f"{number:032x}", "data/samples/net": "c" * 32 + ".dir"},
        "params": {"train.net": {"lr": 0.1}},
    }
    name, ended = runs.name_of("train", facts), f"2026-11-27T00:00:{number:02}+00:00"
    return f"train/{name}.json", runs.text({"format": 2, "stage": "train", "digest": name, **facts, "ended": ended})


RECORDS = dict(record(number) for number in range(5))


@pytest.fixture(scope="module")
def ada() -> CryptoSigner:
    return CryptoSigner.generate_ecdsa()


@pytest.fixture(scope="module")
def chain(ada: CryptoSigner) -> dict[str, bytes]:
    """Five attestations, by name, in the order in which they were made."""
    return signatures.sign_new(RECORDS, {}, ada)


def checked(
    attestations: dict[str, bytes], ada: CryptoSigner, records: dict[str, str] | None = None, *anchors: str
) -> signatures.Checked:
    return signatures.check(
        RECORDS if records is None else records, attestations, {"Ada": Trusted(ada.public_key)}, anchors
    )


def test_what_is_signed_is_found_whole(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    found = checked(chain, ada, None, [*chain][-1])
    assert found == signatures.Checked(dict.fromkeys(RECORDS, "Ada"), [], [], {})
    first = json.loads(base64.b64decode(json.loads(next(iter(chain.values())))["payload"]))
    assert first["subject"] == [
        {"name": "data/models/net.safetensors", "digest": {"md5": f"{0:032x}"}},
        {"name": "data/samples/net", "digest": {"dvcDir": "c" * 32}},
    ]
    assert signatures.sign_new(RECORDS, chain, ada) == {}, "nothing is signed twice"


def test_unsigned_records_are_no_fault(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    path, text = record(9)
    assert checked(chain, ada, {**RECORDS, path: text}) == (dict.fromkeys(RECORDS, "Ada"), [path], [], {})


def test_two_chains_are_joined_by_the_next_one(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    six, seven, eight = (dict([record(number)]) for number in (6, 7, 8))
    both = {**chain, **signatures.sign_new(six, chain, ada), **signatures.sign_new(seven, chain, ada)}  # two clones
    third = signatures.sign_new(eight, both, ada)
    (last,) = (attestation.read(data, name) for name, data in third.items())
    assert len(last.previous) == 2
    every = {**both, **third}
    assert checked(every, ada, {**RECORDS, **six, **seven, **eight}).faults == []
    for name in both:
        less = {key: data for key, data in every.items() if key != name}
        assert checked(less, ada, {**RECORDS, **six, **seven, **eight}).faults == [
            f"attestation {name[:10]}: gone, though others or Git's history name it"
        ]


def test_one_that_is_taken_out_is_missed(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    for name in chain:
        less = {key: data for key, data in chain.items() if key != name}
        found = checked(less, ada, None, [*chain][-1])  # the last one is anchored
        assert [fault[:22] for fault in found.faults] == [f"attestation {name[:10]}"]


def test_cutting_off_the_end_is_seen_by_the_anchor_alone(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    names = [*chain]
    less = {name: chain[name] for name in names[:2]}
    records = dict([*RECORDS.items()][:2])
    assert checked(less, ada, records).faults == []
    assert len(checked(less, ada, records, names[3]).faults) == 1


def resigned(data: bytes, signer: CryptoSigner) -> bytes:
    payload = json.loads(base64.b64decode(json.loads(data)["payload"]))
    (about,) = payload["predicate"]["runDetails"]["byproducts"]
    previous = payload["predicate"]["runDetails"]["metadata"][attestation.PREVIOUS]
    return attestation.sign(about["name"], RECORDS[about["name"]], previous, signer)


def test_strangers_and_liars_are_named(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    stranger = CryptoSigner.generate_ecdsa()
    last, data = [*chain.items()][-1]
    by_stranger = resigned(data, stranger)
    lie = json.loads(by_stranger)
    lie["signatures"][0]["keyid"] = ada.public_key.keyid
    by_liar = f"{attestation.canonical(lie)}\n".encode()
    for forged, why in ((by_stranger, "somebody who is not trusted"), (by_liar, "not Ada's, though it says so")):
        others = {name: data for name, data in chain.items() if name != last}
        found = checked({**others, attestation.name_of(forged): forged}, ada)
        assert len(found.faults) == 1
        assert why in found.faults[0]
        assert len(found.unsigned) == 1


def rewritten(data: bytes) -> dict[str, bytes]:
    """The envelope in other words: each verifies as a signature."""
    found = json.loads(data)
    text = data.decode().rstrip()
    payload, sig = found["payload"], found["signatures"][0]["sig"]
    odd = base64.b64encode(base64.b64decode(payload)).decode().replace("+", "-").replace("/", "_")
    return {
        "spaces": json.dumps(found, indent=1).encode(),
        "an unknown field": json.dumps({**found, "note": 1}).encode(),
        "a key twice": (text[:-1] + ',"payloadType":"' + found["payloadType"] + '"}\n').encode(),
        "one more": json.dumps({**found, "signatures": [*found["signatures"], {"keyid": "x", "sig": sig}]}).encode(),
        "a line less": text.encode(),
        "urlsafe base64": data.replace(payload.encode(), odd.encode()) if odd != payload else b"{}",
        "padding": data.replace(sig.encode(), sig.rstrip("=").encode()) if "=" in sig else b"{}",
    }  # fmt: skip


@pytest.mark.parametrize(
    "how", rewritten(json.dumps({"payload": "", "payloadType": "", "signatures": [{"sig": ""}]}).encode())
)
def test_one_way_of_writing_is_accepted(how: str, chain: dict[str, bytes]) -> None:
    other = rewritten(next(iter(chain.values())))[how]
    with pytest.raises(attestation.Forged):
        attestation.read(other, attestation.name_of(other))


def forged(data: bytes, name: str, ada: CryptoSigner) -> bool:
    try:
        attestation.read(data, name)
        attestation.signed_by(data, {"Ada": ada.public_key})
    except attestation.Forged:
        return True
    return False


def test_each_changed_byte_is_found(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    draw = random.Random(1)
    name, data = [*chain.items()][2]
    for _ in range(100):
        at = draw.randrange(len(data))
        changed = data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
        for called in (name, attestation.name_of(changed)):
            assert forged(changed, called, ada)


def test_a_record_that_was_changed_or_removed_is_named(chain: dict[str, bytes], ada: CryptoSigner) -> None:
    path = [*RECORDS][1]
    assert checked(chain, ada, {**RECORDS, path: RECORDS[path].replace("0.1", "0.2")}).faults == [
        f"record {path}: not as Ada has signed it"
    ]
    less = {name: text for name, text in RECORDS.items() if name != path}
    assert checked(chain, ada, less).faults == [f"record {path}: gone, though Ada has signed it"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    return tmp_path


def test_a_key_is_made_locked_and_trusted_and_openssl_agrees(home: Path) -> None:
    file = keys.new(home, "Ada's own: #1", "secret")
    assert file.stat().st_mode & 0o777 == 0o600
    assert b"ENCRYPTED" in file.read_bytes()
    signer = keys.signer("secret")
    assert signer is not None
    made = signatures.sign_new(RECORDS, {}, signer)
    found = signatures.check(RECORDS, made, public_keys.trusted(home))
    assert found.signed == dict.fromkeys(RECORDS, "Ada's own: #1")
    _name, data = next(iter(made.items()))
    envelope = json.loads(data)
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"]
    (home / "signed").write_bytes(b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload))
    (home / "sig").write_bytes(base64.b64decode(envelope["signatures"][0]["sig"]))
    public = ["openssl", "pkey", "-in", str(file), "-passin", "pass:secret", "-pubout", "-out", str(home / "pub.pem")]
    subprocess.run(public, check=True)
    words = ["openssl", "dgst", "-sha256", "-verify", str(home / "pub.pem"), "-signature", str(home / "sig")]
    said = subprocess.run([*words, str(home / "signed")], check=True, capture_output=True, text=True)
    assert said.stdout.strip() == "Verified OK"
    (home / "signed").write_bytes((home / "signed").read_bytes()[:-1])
    assert subprocess.run([*words, str(home / "signed")], check=False, capture_output=True).returncode == 1


def test_an_ssh_key_signs_as_well(home: Path) -> None:
    file = keys.place()
    file.parent.mkdir(parents=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(file)], check=True)
    public_keys.trust(home, "Bob", Path(f"{file}.pub"))
    signer = keys.signer(None)
    assert signer is not None
    made = signatures.sign_new(RECORDS, {}, signer)
    assert signatures.check(RECORDS, made, public_keys.trusted(home)).signed == dict.fromkeys(RECORDS, "Bob")


def test_bad_keys_end_in_one_line(home: Path) -> None:
    assert keys.signer(None) is None, "unsigned is allowed"
    assert public_keys.trusted(home) == {}
    file = keys.new(home, "Ada", "secret")
    kept = file.read_bytes()
    cases: dict[str, Callable[[], object]] = {
        "the passphrase is wrong": lambda: keys.signer("guess"),
        "needs its passphrase; set PALIMPSEST_PASSPHRASE": lambda: keys.signer(None),
        "there is a key already": lambda: keys.new(home, "Ada", ""),
        "no public key that can be used": lambda: public_keys.trust(home, "Eve", file),
        "no such file|No such file": lambda: public_keys.trust(home, "Eve", home / "none"),
    }
    for why, attempt in cases.items():
        with pytest.raises(InputError, match=why):
            attempt()
    assert file.read_bytes() == kept
    (home / public_keys.SIGNERS).write_text("Ada: nonsense\n")
    with pytest.raises(InputError, match=r"signers\.yaml: Ada: no public key"):
        public_keys.trusted(home)


def test_collect_signs_what_nobody_has_and_every_clone_can_check_it(home: Path) -> None:
    root = home / "project"
    (root / ".palimpsest" / "records" / "train").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for path, text in RECORDS.items():
        (root / ".palimpsest" / "records" / path).write_text(text)
    done, signed = signatures.collect(root)
    assert (done.new, signed) == (5, 0), "unsigned is allowed"
    assert signatures.newest(Git(root)) == []
    keys.new(root, "Ada", "secret")
    with pytest.raises(InputError, match="needs its passphrase"):
        signatures.collect(root)
    assert signatures.collect(root, "secret")[1] == 5
    assert signatures.collect(root, "secret") == (signatures.collect(root, "secret")[0], 0), "once"
    path, text = record(7)
    (root / ".palimpsest" / "records" / path).write_text(text)
    assert signatures.collect(root, "secret")[1] == 1
    clone = home / "clone"
    subprocess.run(["git", "clone", "-q", str(root), str(clone)], check=True, stderr=subprocess.DEVNULL)
    held = signatures.on_branch(Git(clone))
    found = signatures.check(*held, public_keys.trusted(root), signatures.newest(Git(root)))
    assert found == (dict.fromkeys([*RECORDS, path], "Ada"), [], [], {})
    (clone / public_keys.SIGNERS).write_text((root / public_keys.SIGNERS).read_text())
    vouchers = signatures.Vouchers(Git(clone))
    assert vouchers.of(text) == "Ada"
    assert vouchers.of(text.replace("0.1", "0.2")) is None


def test_of_a_fetched_branch_nothing_is_signed_and_nothing_is_read_elsewhere(home: Path) -> None:
    """A stranger's record may name any file as its patch, and may lie in wait for a signature."""
    root, stranger = home / "project", home / "stranger"
    (home / "secret").write_text("secret")
    path, text = record(1)
    body = json.loads(text) | {"git": {"commit": "c" * 40, "dirty": ["a"], "diff": str(home / "secret")}}
    for place, written in ((root, record(2)), (stranger, (path, runs.text(body)))):
        (place / ".palimpsest" / "records" / "train").mkdir(parents=True)
        subprocess.run(["git", "init", "-q", str(place)], check=True)
        (place / ".palimpsest" / "records" / written[0]).write_text(written[1])
    signatures.collect(stranger)
    subprocess.run(["git", "remote", "add", "-f", "origin", str(stranger)], cwd=root, check=True, capture_output=True)
    keys.new(root, "Ada", "secret")
    done, signed = signatures.collect(root, "secret")
    assert (done.records, signed) == (2, 1)
    held = Records(root)
    (one,) = held.all_of("data/models/net.safetensors", f"{1:032x}")
    assert one.body["git"]["diff"] == str(home / "secret")
    assert held.diff(one.body) is None


def test_a_damaged_record_stays_off_the_branch(home: Path) -> None:
    root = home / "project"
    (root / ".palimpsest" / "records" / "train").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    keys.new(root, "Ada", "")
    for number in range(2):
        path, text = record(number)
        (root / ".palimpsest" / "records" / path).write_text(text if number else text.replace("0.1", "0.2"))
    done, signed = signatures.collect(root)
    assert (done.records, signed) == (1, 1)
    altered = root / ".palimpsest" / "records" / path
    altered.write_text(text.replace(":01+00:00", ":09+00:00"))  # its times, which its name does not cover
    assert signatures.collect(root)[1] == 0, "one run has one record: nobody signs the other as well"


def signed_project(home: Path) -> tuple[Path, Git]:
    """A repository whose three records Ada has signed; her key is not committed yet."""
    root = home / "project"
    (root / ".palimpsest" / "records" / "train").mkdir(parents=True)
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for path, text in [*RECORDS.items()][:3]:
        (root / ".palimpsest" / "records" / path).write_text(text)
    keys.new(root, "Ada", "")
    assert signatures.collect(root)[1] == 3
    return root, Git(root, **record_branch.WRITER)


def commit(git: Git, reference: str, changes: dict[str, bytes | None], *parents: str) -> None:
    """Put files (None: not) into the tree of a reference, and move it there."""
    apart = Git(git.home, GIT_INDEX_FILE=str(git.home / ".git" / "apart"), **record_branch.WRITER)
    apart("read-tree", *([reference] if git.commit(reference) else ["--empty"]))
    for path, data in changes.items():
        (git.home / ".git" / "file").write_bytes(data or b"")
        blob = apart("hash-object", "-w", "--no-filters", str(git.home / ".git" / "file"))
        words = ["--force-remove", path] if data is None else ["--add", "--cacheinfo", f"100644,{blob},{path}"]
        apart("update-index", *words)
    above = [word for parent in parents for word in ("-p", parent)]
    git("update-ref", reference, apart("commit-tree", apart("write-tree"), *above, "-m", "changed"))


def found(root: Path) -> tuple[list[str], list[str]]:
    """The files of the faults, and what lines are about that cannot tell."""
    findings = Findings()
    verify_records.signatures(root, findings)
    return [fault.file for fault in findings.faults], [about for about, _ in findings.unknown]


BRANCH = f"refs/heads/{record_branch.BRANCH}"


def test_what_the_branch_has_had_is_missed(home: Path) -> None:
    root, git = signed_project(home)
    assert found(root) == ([], ["signers.yaml"])
    (last,) = signatures.newest(git)
    file = f"attestations/{last}.dsse"
    tip = git("rev-parse", BRANCH)
    commit(git, BRANCH, {file: None}, BRANCH)  # the newest: no other one names it
    on_branch = f"{record_branch.BRANCH}:{file}"
    assert found(root)[0] == [file, on_branch], "the folder and the branch's own history tell"
    shutil.rmtree(root / ".palimpsest")
    assert found(root)[0] == [on_branch]
    git("update-ref", BRANCH, tip)
    assert found(root)[0] == []
    git("update-ref", BRANCH, f"{tip}^")
    assert on_branch in found(root)[0], "Git's reflog tells of a branch that was put back"


def test_what_has_moved_to_where_nobody_reads_it_is_missed(home: Path) -> None:
    """Git's list of all objects has one path for each, the last one."""
    root, git = signed_project(home)
    (last,) = signatures.newest(git)
    path, text = [*RECORDS.items()][2]
    file, other = f"attestations/{last}.dsse", text.replace(":02+00:00", ":59+00:00").encode()
    shutil.rmtree(root / ".palimpsest")
    data = record_branch.files(git, ".dsse")[file]
    moved: dict[str, bytes | None] = {file: None, path: None, "old/a": data, "old/b": text.encode()}
    on_branch = {f"{record_branch.BRANCH}:{file}", f"{record_branch.BRANCH}:{path}"}
    for changes in (moved, {"old/a": None, "old/b": None}, {path: other}):
        commit(git, BRANCH, changes, BRANCH)
        assert on_branch <= {*found(root)[0]}
    again = {f"attestations/{last}.0123456789.dsse": data, path.replace(".json", ".0123456789.json"): text.encode()}
    commit(git, BRANCH, again, BRANCH)
    assert found(root)[0] == [], "as where two clones' branches are united"


def test_the_branchs_copy_of_a_signed_record_is_checked_too(home: Path) -> None:
    root, git = signed_project(home)
    path, text = next(iter(RECORDS.items()))
    other = text.replace(":00+00:00", ":59+00:00").encode()  # its times, which its name does not cover
    commit(git, BRANCH, {path: other}, BRANCH)
    assert f"{record_branch.BRANCH}:{path}" in found(root)[0]
    assert signatures.collect(root)[1] == 0
    assert found(root) == ([], ["signers.yaml", "second records", "signatures of records"])


def test_keys_count_once_they_are_committed(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, git = signed_project(home)
    signers = root / public_keys.SIGNERS
    ada = signers.read_bytes()
    commit(git, "HEAD", {})
    signers.unlink()
    assert found(root) == ([], ["attestations", "signatures of records"]), "nobody's signature counts here"
    commit(git, "HEAD", {public_keys.SIGNERS: ada}, "HEAD")
    assert found(root) == ([public_keys.SIGNERS], []), "Ada's counts, as the commit has her key"
    signers.write_bytes(ada)
    assert found(root) == ([], [])
    monkeypatch.setenv(keys.KEY, str(home / "eve.pem"))
    keys.new(root, "Eve", "")
    path, text = record(7)
    (root / ".palimpsest" / "records" / path).write_text(text)
    assert signatures.collect(root)[1] == 1
    faults = found(root)[0]
    assert faults[0] == public_keys.SIGNERS
    assert faults[1].startswith("attestation "), "signed by somebody who is not trusted"
    git("branch", "eves")
    commit(git, "refs/heads/eves", {public_keys.SIGNERS: signers.read_bytes()}, "eves")
    signers.write_bytes(ada)
    assert found(root) == ([], ["attestations", "signatures of records"]), "another commit has the key: who, is said"


def test_a_damaged_list_of_keys_is_a_fault(home: Path) -> None:
    root, _ = signed_project(home)
    signers = root / public_keys.SIGNERS
    signers.write_bytes(signers.read_bytes().replace(b"MFkw", b"MFkx"))
    assert found(root)[0] == [public_keys.SIGNERS]
