"""`palimpsest audit verify`: what is altered is found and named, and what is not altered is no fault."""

import json
import random
import re
import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pytest
from audited import ENV, IDENTITY, Laboratory
from dvc_project import dvc

from flows.audit import verify
from flows.checkout.git import Git
from flows.lineage import cache
from flows.lineage.records import Records
from stages.runs import record

RECORDS = ".palimpsest/records"


@pytest.fixture
def home(lab: Laboratory, tmp_path: Path) -> Path:
    """A copy to be altered."""
    lab.copy(tmp_path / "copy")
    return tmp_path / "copy"


def faults(home: Path) -> dict[str, str]:
    return {fault.file: fault.said for fault in verify.ask(home).faults}


def flip(file: Path, rng: random.Random) -> None:
    """Change one byte, wherever."""
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= rng.randrange(1, 256)
    file.chmod(0o644)
    file.write_bytes(data)


def test_an_untouched_repository_has_no_fault(lab: Laboratory, home: Path, tmp_path: Path) -> None:
    answer = verify.ask(home)
    assert answer.faults == []
    assert [about for about, _ in answer.unknown] == ["signatures of records"], "nobody has a key here"
    assert answer.checked == {
        "Git repository": 1, "outputs": 7, "cache objects": answer.checked["cache objects"],
        "runs in DVC's run-cache": 10, "tables": 5, "checkpoints": 4, "lists of pictures": 4, "records": 10,
        "signed records": 0,
    }  # fmt: skip
    for words in (["git", "checkout", "-q", "HEAD~1"], ["dvc", "checkout", "-q"], ["dvc", "gc", "-q", "-w", "-f"]):
        subprocess.run(words, cwd=home, env=ENV, check=True)
        answer = verify.ask(home)
        if words[0] == "dvc":
            assert (answer.faults, len(answer.unknown) > 1) == ([], words[1] == "gc")
        else:
            assert all("which are those of" in fault.said for fault in answer.faults), "of the later commit"
    for number, words in enumerate((["git", "clone", "-q"], ["git", "clone", "-q", "--depth", "1"])):
        clone = tmp_path / f"clone {number}"
        subprocess.run([*words, "--no-local", str(lab.home), str(clone)], env=ENV, check=True)
        answer = verify.ask(clone)
        about = [what for what, _ in answer.unknown]
        assert (answer.faults, "outputs" in about, "Git's history" in about) == ([], True, bool(number))


def test_a_changed_byte_is_found_and_its_file_named(home: Path) -> None:
    rng = random.Random(3)
    data = [file for file in (home / "data").rglob("*") if file.is_file()]
    kept = [file for _, file in cache.objects(home)]
    noted = [file for file in (home / ".dvc/cache/runs").rglob("*") if file.is_file()]
    for file in (*rng.sample(data, 6), *rng.sample(kept, 5), *rng.sample(noted, 2), *[home / "dvc.lock"] * 6):
        mode, whole = file.stat().st_mode, file.read_bytes()
        flip(file, rng)
        assert file.relative_to(home).as_posix() in faults(home), file
        file.write_bytes(whole)
        file.chmod(mode)
    assert faults(home) == {}


def test_a_fault_says_what_the_remote_has(lab: Laboratory, home: Path) -> None:
    store = home / "control" / "store"
    for words in (
        ["remote", "add", "-q", "-d", "store", "control/store"],
        ["push", "-q", "--all-commits"],
    ):
        dvc(home, *words)
    net = home / "data/models/net.safetensors"
    promised = record.digest(net)
    flip(cache.place(home, promised), random.Random(1))
    flip(net, random.Random(2))
    remotes = {fault.file: fault.remote for fault in verify.ask(home).faults}
    assert len(remotes) == 2
    assert set(remotes.values()) == {"whole on the remote 'store'"}
    flip(store / "files/md5" / promised[:2] / promised[2:], random.Random(3))
    assert {fault.remote for fault in verify.ask(home).faults} == {"altered on the remote 'store' too"}
    shutil.rmtree(store)
    assert {fault.remote for fault in verify.ask(home).faults} == {"missing on the remote 'store'"}


def altered_record(home: Path, stage: str, **facts: object) -> str:
    """A record of a stage's run, altered and named by what it says then, in place of the true one: its file."""
    lock = (home / "dvc.lock").read_text()
    whole = [one for one in Records(home).every() if one.where.startswith(stage)]
    about, name = next(one for one in whole if all(md5 in lock for md5 in one.body["outputs"].values()))
    (home / RECORDS / name).unlink()
    changed = {**record.facts_of(about), **facts}
    rest = {key: about[key] for key in ("started", "ended")}
    file = record.write(home / RECORDS, stage, changed, rest)
    return file.relative_to(home / RECORDS).as_posix()


def test_records_are_held_against_their_names_and_the_locks(home: Path) -> None:
    one, two = ("train_net@net", "align@faces")
    file = altered_record(home, one, inputs={"data/aligned/faces/train.arrow": "0" * 32, "none.txt": "0" * 32})
    other = altered_record(home, two, params={"datasets.faces.align": {"side": 16}})
    found = faults(home)
    assert set(found) == {file, other}
    assert found[file].startswith("contradicts dvc.lock on train_net@net: data/aligned/faces/train.arrow 0000000000")
    assert found[other].startswith("contradicts dvc.lock on align@faces: datasets.faces.align.side: 16, dvc.lock has 8")
    for name, text in ((file, "{"), (other, (home / RECORDS / other).read_text().replace('"side":16', '"side":17'))):
        (home / RECORDS / name).write_text(text)
    found = faults(home)
    assert found[file] == "is damaged; remove it"
    assert "than its name promises" in found[other]


def test_a_parameter_that_dvc_overlooks_is_named(home: Path) -> None:
    """DVC's run-cache sees no parameter named `size`: the second commit says 6 of pictures that were made with 4."""
    values = json.loads((home / "params.yaml").read_text())
    for size in (4, 6):
        values["datasets"]["faces"]["align"] = {"size": size}
        (home / "params.yaml").write_text(json.dumps(values))
        dvc(home, "repro", "-q")
        subprocess.run(["git", *IDENTITY, "commit", "-qam", f"size {size}"], cwd=home, env=ENV, check=True)
    answer = verify.ask(home)
    (why,) = [why for about, why in answer.unknown if about == "parameters in dvc.lock"]
    lock = f"dvc.lock of commit {Git(home)('rev-parse', 'HEAD')[:10]}"
    wrong = rf"align@faces in {lock}, made with datasets\.faces\.align\.side: [48], dvc\.lock has 6: DVC's run-cache"
    assert re.match(wrong, why), "all sizes make the same here"
    assert answer.faults == []
    # A record by today's name proves an older lock's value.
    altered_record(home, "align@faces", params={"datasets.faces.align": {"side": 6}})
    assert not any("dvc.lock has 6" in why for _, why in verify.ask(home).unknown)
    for file in (home / RECORDS / "align@faces").iterdir():
        file.unlink()
    (why,) = [why for about, why in verify.ask(home).unknown if about == "parameters in dvc.lock"]
    assert why.startswith("2, align@faces in dvc.lock of commit ")
    assert "no record tells" in why


def test_a_list_with_a_stranger_is_found_though_every_digest_is_right(home: Path) -> None:
    """Someone has rewritten list, lock and all: the table of the training's data still says who could be in it."""
    listed = home / "data/models/net.members.arrow"
    old = record.digest(listed)
    with pa.memory_map(str(listed)) as source:
        rows = pa.ipc.open_file(source).read_all().to_pylist()
    rows.append({"image_id": "f" * 64, "path": "stranger.png"})
    listed.unlink()
    table = pa.Table.from_pylist(rows)
    with pa.OSFile(str(listed), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    new, size = record.digest(listed), listed.stat().st_size
    lock = (home / "dvc.lock").read_text().splitlines()
    at = next(number for number, line in enumerate(lock) if line.endswith(old))
    lock[at : at + 2] = [lock[at].replace(old, new), f"      size: {size}"]
    (home / "dvc.lock").write_text("\n".join(lock) + "\n")
    for words in (["add", "-A"], [*IDENTITY, "commit", "-qm", "forged"]):
        subprocess.run(["git", *words], cwd=home, env=ENV, check=True)
    found = [(fault.file, fault.said) for fault in verify.ask(home).faults]
    for file, said in {
        "data/models/net.members.arrow": "1 of its pictures are not among the table that it was trained on",
        "data/models/net.safetensors": f"its metadata say members {old}",
    }.items():
        assert any(each == file and words.startswith(said) for each, words in found), found


def test_a_damaged_git_object_is_found(home: Path) -> None:
    blob = subprocess.run(["git", "rev-parse", "HEAD:dvc.lock"], cwd=home, check=True, capture_output=True, text=True)
    file = home / ".git/objects" / blob.stdout[:2] / blob.stdout[2:].strip()
    flip(file, random.Random(1))
    assert str(file.relative_to(home)) in faults(home)


def test_the_command_ends_by_what_it_finds(lab: Laboratory, home: Path) -> None:
    lines = lab.run("audit", "verify")
    assert lines[0].startswith("nothing is altered, so far as can be told; ")
    (home / "data/scores/net.json").write_text("{}")
    lines = Laboratory(home).run("audit", "verify", "--json", code=1)
    (fault,) = json.loads("\n".join(lines))["faults"]
    assert (fault["file"], fault["remote"]) == ("data/scores/net.json", None)
