"""What is damaged or missing in Git's history and DVC's cache ends no answer: it is left out, and named."""

import json
import subprocess
from datetime import UTC, datetime
from hashlib import md5, sha256
from itertools import pairwise
from pathlib import Path
from urllib.parse import quote

import pyarrow as pa
import pytest
from ready_made import Repository, ingested
from test_audit_image import saved, scene

from flows.audit import checkpoint, diff, file, image, splits
from flows.checkout.git import Git
from flows.lineage import cache, dvc_lock, entries, locks, tables
from flows.lineage.locks import Lock
from flows.lineage.upstream import upstream
from stages.runs.errors import InputError

Files = dict[str, str]  # md5 by path
TABLE, ALIGNED, READ, NET = (
    "data/ingested/x",
    "data/aligned/x",
    "data/aligned/x/train.arrow",
    "data/models/n.safetensors",
)


def digest(text: str) -> str:
    return md5(text.encode()).hexdigest()


def listing(version: str) -> str:
    """What DVC's cache has of a version of the aligned folder."""
    return json.dumps([{"md5": digest(f"arrow {version}"), "relpath": "train.arrow"}])


def lock(number: int, *stages: tuple[str, Files, Files]) -> Lock:
    """A lock as DVC writes it: each stage by its name, with what it has read and made."""
    text = "schema: '2.0'\nstages:\n"
    for name, *files in stages:
        text += f"  {name}:\n    cmd: x\n"
        for key, named in zip(("deps", "outs"), files, strict=True):
            text += f"    {key}:\n" if named else ""
            text += "".join(f"    - path: {path}\n      hash: md5\n      md5: {one}\n" for path, one in named.items())
    return Lock(f"{number:040}", datetime(2026, 1, number, tzinfo=UTC), text.encode())


def version(name: str) -> tuple[tuple[str, Files, Files], ...]:
    """Stages that make a version of the aligned folder."""
    table = {TABLE: f"{digest(f'table {name}')}.dir"}
    return ("align@x", table, {ALIGNED: f"{digest(listing(name))}.dir"}), ("ingest@x", {}, table)


TRAINING = ("train@n", {READ: digest("arrow A")}, {NET: digest("net")})  # has read version A


@pytest.mark.parametrize(
    "text", ["a: !!bool x\n", "a: !!int ''\n", "a: !!float ''\n", "a: !!timestamp x\n", "a: &a [*b]\n"]
)
def test_whatever_is_wrong_with_yaml_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"\Asigners\.yaml: not valid YAML: .*; mend or restore it\Z"):
        dvc_lock.parse(text, "signers.yaml")


def test_aliases_that_stand_for_too_much_are_refused() -> None:
    bomb = "a: &a [x, x]\n" + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in pairwise("abcdefghijk"))
    for text in (bomb, "a: &a {b: *a}\n", "a: &a [*a]\n"):
        with pytest.raises(InputError, match=r"signers\.yaml: not valid YAML: more than 300,000 values; mend"):
            dvc_lock.parse(text, "signers.yaml")
    assert dvc_lock.parse("a: &a [1]\nb: *a\n", "dvc.lock") == {"a": [1], "b": [1]}


def test_which_of_two_folders_was_read_is_not_guessed(tmp_path: Path) -> None:
    """Version A was made and committed; then B alone, which the training beside it has not read."""
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    before, after = lock(1, *version("A")), lock(2, *version("B"), TRAINING)
    training = next(entries.making([before, after], digest("net")))

    def told(*locks: Lock) -> tuple[list[str], Files]:
        found = upstream(tmp_path, list(locks), training, [])
        return [md5 for entry in found.entries for md5 in entry.outs.values()], found.unknown

    made = [md5 for _, _, outs in version("A") for md5 in outs.values()]
    assert told(before, after) == ([], {READ: digest("arrow A")})
    assert told(before, lock(2, *version("A"), TRAINING)) == (made, {}), "there is one version of the folder alone"
    kept = cache.place(tmp_path, made[0])
    kept.parent.mkdir(parents=True)
    kept.write_text(listing("A"))
    assert told(before, after) == (made, {})


@pytest.mark.parametrize(
    "content", ['{"a": 1}', '[{"relpath": "train.arrow"}]', '[{"relpath": "a", "md5": null}]', "[1"]
)
def test_a_table_whose_listing_is_none_is_named(content: str, tmp_path: Path) -> None:
    md5 = f"{digest(content)}.dir"
    kept = cache.place(tmp_path, md5)
    kept.parent.mkdir(parents=True)
    kept.write_text(content)
    assert tables.parts(tmp_path, [(ALIGNED, md5)]) == (
        [], [tables.Gone(md5, ALIGNED, f"{kept}: not a listing of a folder")],
    )  # fmt: skip


DAMAGES = {
    "a merge that was committed": lambda text: b"<<<<<<< HEAD\n" + text + b"=======\n>>>>>>> other\n",
    "no inputs": lambda text: text.replace(b"    cmd: x\n    outs", b"    cmd: x\n    deps:\n    outs"),
    "a bad scalar": lambda text: text.replace(b"cmd: x", b"cmd: !!bool x"),
    "a path that no text can hold": lambda text: text.replace(b"data/models/n", b'"\\ud800/n').replace(
        b".safetensors", b'.safetensors"'
    ),
    "stages that are none": lambda text: b"stages: [" + text.splitlines()[-1].split()[-1] + b"]\n",
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_lock_in_history_is_left_out_and_named(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is older than the sound one, and on another branch, which may have been fetched."""
    home, asked = tmp_path / "home", tmp_path / "asked"
    repository = Repository(home)
    asked.write_text("net")
    text = lock(1, ("train@n", {}, {NET: digest("net")})).text
    for day, content in enumerate((DAMAGES[damage](text), text), 1):
        monkeypatch.setenv("GIT_COMMITTER_DATE", f"2026-01-0{day}T00:00:00Z")
        (home / "dvc.lock").write_bytes(content)
        repository.git("add", "-A")
        repository.git("commit", "-qm", "a lock")
    old, own = (each.commit or "" for each in locks.every(home))
    repository.git("checkout", "-qb", "fetched", old)
    repository.git("checkout", "-q", "-")
    told = {
        "checkpoint": checkpoint.ask(home, "n").facts,
        "diff": diff.ask(home, "n", "n").facts,
        "file": file.ask(home, str(asked)).facts,
    }
    for command, facts in told.items():
        made = [fact.said for fact in facts if fact.about == "made by"]
        assert [own[:10] in said for said in made] == [True], command
        named = [(fact.word, fact.said) for fact in facts if fact.about == "dvc.lock"]
        assert [word for word, _ in named] == ["cannot tell"], command
        assert named[0][1].startswith(f"dvc.lock of commit {old[:10]}: not "), command
        assert named[0][1].endswith("; what it says is left out")
        assert "restore" not in named[0][1], "nothing mends a commit"


def test_an_image_is_not_silently_unknown_where_a_lock_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    repository = Repository(tmp_path)
    repository.training("net", [b"one"])
    repository.commit()
    repository.training("more", [b"two"])
    repository.commit()
    whole = (tmp_path / "dvc.lock").read_bytes()
    for content in (b"<<<<<<< HEAD\n" + whole, whole.replace(b"- path: data/models/net", b"- path: data/\xff"), whole):
        (tmp_path / "dvc.lock").write_bytes(content)
        repository.git("commit", "-qam", "a lock")
    answer = image.ask(tmp_path, digest("a stranger") * 2)
    assert [gone["path"] for gone in answer.missing] == ["dvc.lock"]
    image.show(answer)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{digest('a stranger') * 2}: cannot tell" in said
    assert "dvc.lock cannot tell dvc.lock of commit" in said
    assert splits.ask(tmp_path, None, "HEAD~1").datasets == [], "of a path that is no UTF-8"


def test_a_lock_in_another_layout_is_read(tmp_path: Path) -> None:
    """Somebody's formatter has been over it."""
    repository = Repository(tmp_path)
    repository.training("net", [b"one"])
    content = {"schema": "2.0", "stages": {"all": {"cmd": "x", "outs": [
        {"md5": md5, "path": path} for path, md5 in repository.outs.items()]}}}  # fmt: skip
    (tmp_path / "dvc.lock").write_text(json.dumps(content))
    repository.git("add", "dvc.lock")
    repository.git("commit", "-qm", "a lock")
    (picture,) = image.ask(tmp_path, sha256(b"one").hexdigest()).pictures
    assert [use["checkpoint"] for use in picture.uses] == ["data/models/net.safetensors"]


@pytest.mark.parametrize("rows", [None, pa.table({"image_id": ["a"]})], ids=["no Parquet", "a column alone"])
def test_an_ingested_table_that_is_none_is_named(rows: pa.Table | None, tmp_path: Path) -> None:
    repository = Repository(tmp_path / "home")
    if rows is None:
        repository.keep("part", b"no Parquet")
        listing = [{"md5": repository.outs.pop("part"), "relpath": "part-00000.parquet"}]
        repository.keep("data/ingested/bad", json.dumps(listing).encode(), ".dir")
    else:
        repository.table("bad", rows)
    repository.table("good", ingested(tmp_path, {"0.png": ("train", saved(scene(0)))}))
    repository.training("net", [saved(scene(0))])
    repository.commit()
    (tmp_path / "asked.bmp").write_bytes(saved(scene(0), "BMP"))
    answer = image.ask(repository.home, str(tmp_path / "asked.bmp"))
    assert [use["checkpoint"] for use in answer.pictures[0].uses] == ["data/models/net.safetensors"]
    assert ["not a table of pictures" in gone["why"] for gone in answer.missing] == [True]
    told = {
        one.name: (one.pictures is None, one.facts[0].word) for one in splits.ask(repository.home, None, None).datasets
    }
    assert told == {"bad": (True, "cannot tell"), "good": (False, "verified")}


def test_a_shallow_clone_does_not_say_no(tmp_path: Path) -> None:
    """Of what only older commits have, it cannot tell; with Git's whole history it can."""
    made = Repository(tmp_path / "made")
    made.training("old", [b"a picture"])
    made.commit()
    made.outs.clear()
    made.training("new", [b"another"])
    made.commit()
    shallow = tmp_path / "shallow"
    made.git("clone", "-q", "--depth", "1", f"file://{quote(str(made.home))}", str(shallow))
    (shallow / ".dvc").mkdir(exist_ok=True)
    (shallow / ".dvc" / "config").write_text(f'[cache]\n    dir = "{made.home}/.dvc/cache"\n')
    asked = sha256(b"a picture").hexdigest()
    answer = image.ask(shallow, asked)
    assert (answer.pictures[0].uses, answer.found) == ([], True)
    assert ["git fetch --unshallow" in gone["why"] for gone in answer.missing] == [True]
    words = [fact.word for fact in file.ask(shallow, str(shallow / "dvc.lock")).facts if "unshallow" in fact.said]
    assert words == ["cannot tell"]
    cache.place(made.home, made.outs["data/models/new.safetensors"]).unlink()  # it would be no checkpoint
    assert [fact.word for fact in checkpoint.ask(shallow, "new").facts if "unshallow" in fact.said] == ["cannot tell"]
    Git(shallow)("fetch", "-q", "--unshallow")
    answer = image.ask(shallow, asked)
    assert ([use["checkpoint"] for use in answer.pictures[0].uses], answer.missing) == (
        ["data/models/old.safetensors"],
        [],
    )
