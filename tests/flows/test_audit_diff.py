"""`palimpsest audit diff` and `audit file` where the test knows what was changed, and what made what."""

import json
import shutil
from hashlib import md5
from pathlib import Path

import pytest
from audited import STAGE, Laboratory
from dvc.utils.serialize import dumps_yaml

from flows.audit import diff, file
from flows.lineage import cache, entries
from flows.lineage.locks import Lock
from flows.lineage.records import Records
from flows.lineage.sources import Sources
from stages.runs.errors import InputError


def test_what_was_changed_is_what_differs(lab: Laboratory) -> None:
    answer = diff.ask(lab.home, f"net@{lab.commits[0]}", "net")
    assert [row["path"] for row in answer.added] == ["c.png"]
    assert [row["path"] for row in answer.removed] == ["b.png"]
    assert [(row["stage"], row["key"], row["old"], row["new"]) for row in answer.params] == [
        ("train_net@net", "lr", 0.5, 0.25), ("align@faces", "side", 4, 8),
    ]  # fmt: skip
    (code,) = answer.code
    assert (code["path"], code["old_commit"], code["new_commit"]) == ("stage.py", *lab.commits)
    assert code["old"] == md5(STAGE.encode()).hexdigest()
    assert {row["path"] for row in answer.data} == {
        "pictures", "data/ingested/faces", "data/aligned/faces/train.arrow",
    }  # fmt: skip
    assert (answer.environment, answer.start, answer.found) == ([], ([], []), True)


def test_a_file_and_its_name_are_the_same_checkpoint(lab: Laboratory) -> None:
    answer = diff.ask(lab.home, str(lab.old), f"net@{lab.commits[0][:10]}")
    assert (answer.found, answer.params, answer.code, answer.md5[0]) == (False, [], [], answer.md5[1])


def test_start_and_environment_are_compared_and_what_is_missing_is_named(lab: Laboratory, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    lab.copy(home)
    answer = diff.ask(home, "net", "more")
    assert answer.start == ([], [md5((home / "data/models/net.safetensors").read_bytes()).hexdigest()])
    assert {(row["stage"], row["key"], row["old"], row["new"]) for row in answer.params} == {
        ("train_net@net -> train_net@more", "lr", 0.25, 0.5), ("train_net@net -> train_net@more", "steps", 3, 1),
        ("train_net@net", "lr", None, 0.25), ("train_net@net", "steps", None, 3),
    }  # fmt: skip
    (record,) = [one.where for one in Records(home).every() if one.where.startswith("train_net@more/")
                 and one.body["inputs"]["data/models/net.safetensors"] == answer.start[1][0]]  # fmt: skip
    path = home / ".palimpsest/records" / record
    about = json.loads(path.read_text())
    about["environment"]["libraries"]["torch"] = "0.1"
    path.write_text(json.dumps(about))
    (line,) = diff.ask(home, "net", "more").environment or []
    assert line.startswith("libraries: torch: ")
    path.unlink()
    answer = diff.ask(home, "net", "more")
    assert answer.environment is None
    assert [fact.word for fact in answer.facts if fact.about == "environment"] == ["cannot tell"]
    with pytest.raises(InputError, match="no such commit"):
        diff.ask(home, "net", "net@nosuch")


def test_a_bare_file_is_traced_to_the_stage_that_made_it(lab: Laboratory, tmp_path: Path) -> None:
    def ask(name: str) -> file.File:
        return file.ask(lab.home, shutil.copy(lab.home / name, tmp_path / "x"))

    inside = ask("data/aligned/faces/train.arrow")
    assert [(one.stage, one.path, one.commit) for one in inside.origins] == [
        ("align@faces", "data/aligned/faces/train.arrow", lab.commits[1])
    ]
    assert set(inside.origins[0].inputs) == {"stage.py", "data/ingested/faces", "none.txt"}
    score = ask("data/scores/net.json")
    assert ([one.stage for one in score.origins], score.git and score.git["path"]) == (
        ["evaluate@net"], "data/scores/net.json",
    )  # fmt: skip
    net = file.ask(lab.home, str(lab.old))
    assert ([one.commit for one in net.origins], net.hint) == (
        [lab.commits[0]], f"palimpsest audit checkpoint {lab.old}",
    )  # fmt: skip
    code = ask("stage.py")
    assert (code.origins, code.git and code.git["commit"]) == ([], lab.commits[1])
    folder = file.ask(lab.home, str(lab.home / "data/aligned/faces"))
    assert [one.stage for one in folder.origins] == ["align@faces"]


def test_what_is_unknown_is_no_answer(lab: Laboratory, tmp_path: Path) -> None:
    home = tmp_path / "copy"
    lab.copy(home)
    (tmp_path / "x").write_text("a stranger")
    answer = file.ask(home, str(tmp_path / "x"))
    assert ([fact.word for fact in answer.facts], answer.missing) == (["verified", "cannot tell"], [])
    (listing,) = {one.folder for one in file.ask(home, str(home / "data/aligned/faces/train.arrow")).origins}
    kept = cache.place(home, str(listing).rpartition("@")[2])
    whole = kept.read_bytes()
    kept.unlink()
    answer = file.ask(home, str(home / "data/aligned/faces/train.arrow"))
    assert [gone["path"] for gone in answer.missing] == ["data/aligned/faces"]
    assert ([fact.word for fact in answer.facts], answer.found) == (["verified", "cannot tell"], False)
    kept.write_bytes(whole.replace(b"test.arrow", b"text.arrow"))
    answer = file.ask(home, str(home / "data/aligned/faces/train.arrow"))
    assert ("DIFFERS" in [fact.word for fact in answer.facts], answer.found) == (True, True)


def test_commands_end_by_what_they_find(lab: Laboratory) -> None:
    run = lab.run
    lines = run("audit", "diff", f"net@{lab.commits[0]}", "net", code=1)
    assert lines[0] == f"net@{lab.commits[0]} and net: differ in pictures, parameters, data read, code"
    assert json.loads("\n".join(run("audit", "diff", "net", "net", "--json")))["added"] == []
    (line,) = run("audit", "diff", "net", "nosuch", code=2)
    assert line.startswith("audit diff: nosuch: no file, and no data/models/nosuch.safetensors in dvc.lock")
    assert run("audit", "file", "data/models/net.safetensors")[0].endswith(
        "made by train_net@net as data/models/net.safetensors"
    )
    (line,) = run("audit", "file", "nosuch", code=2)
    assert line == "audit file: nosuch: no such file or folder; name one"


def test_a_lock_is_cut_into_what_it_says(lab: Laboratory) -> None:
    """Entry by entry it says what it says as a whole, however DVC breaks its lines."""
    shared = {"sizes": [1, 2], "note": "two\nlines\n\n  and more"}
    stages = {
        name: {
            "cmd": "python stage.py " + "word " * 60,
            "deps": [{"path": "ü # x", "hash": "md5", "md5": "0" * 32, "size": 1}],
            "params": {"params.yaml": {"a": shared, "b": shared if alias else dict(shared)}},
            "outs": [{"path": f"data/{name}", "hash": "md5", "md5": "1" * 32 + ".dir", "size": 2, "nfiles": 3}],
        }
        for name, alias in {"one": False, "two@ü": True, "123": False}.items()
    }
    texts = [dumps_yaml({"schema": "2.0", "stages": stages}).encode(), (lab.home / "dvc.lock").read_bytes()]
    texts.append(texts[0].replace(b"schema: '2.0'", b"schema: '2.1'"))  # not as DVC writes it
    for text in texts:
        lock = Lock(None, None, text)
        assert {entry.stage: entry.content for entry in entries.of(lock)} == lock.content()["stages"]
        assert lock.files() == {path: digest for entry in entries.of(lock) for path, digest in entry.outs.items()}
    assert len(entries.split(texts[0])) == 3


def test_data_outside_of_the_repository_are_not_looked_for_in_git(lab: Laboratory) -> None:
    sources = Sources(lab.home)
    head = lab.commits[-1]
    outside = ["../pictures", "/etc/hostname", "data/../../pictures"]
    assert set(sources.at(head, [*outside, "stage.py"])) == {"stage.py"}
    assert sources.at(head, outside) == {}
    assert sources.tracked([*outside, "stage.py"]) == {"stage.py"}
    assert sources.find(dict.fromkeys(outside, "0" * 32)) == {}
