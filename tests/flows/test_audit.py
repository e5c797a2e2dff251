"""`palimpsest audit` on repositories of which the tests know what each checkpoint was trained on."""

import io
import json
import random
import shutil
import subprocess
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dvc_project import ENV, Project, dvc
from PIL import Image

from flows.audit import checkpoint, image
from flows.lineage import cache, entries, locks
from stages.runs.errors import InputError

IDENTITY = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]

# A training reads the pictures of a folder: it leaves their list, and a checkpoint that names the list. An evaluation
# leaves a table with a row per picture and hole.
STAGE = """
import json, sys
from hashlib import md5, sha256
from pathlib import Path
import numpy, pyarrow, pyarrow.parquet
from safetensors.numpy import save_file
what, out = sys.argv[1:3]
Path(out).parent.mkdir(parents=True, exist_ok=True)
files = sorted(Path(what).iterdir())
rows = {"image_id": [sha256(file.read_bytes()).hexdigest() for file in files], "path": [file.name for file in files]}
if what == "test":
    pyarrow.parquet.write_table(pyarrow.table({key: 2 * value for key, value in rows.items()}), out)
else:
    members = Path(out + ".members.arrow")
    table = pyarrow.table(rows)
    with pyarrow.OSFile(str(members), "wb") as sink, pyarrow.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    start = b"".join(Path(name).read_bytes() for name in sys.argv[3:])
    weights = numpy.frombuffer(members.read_bytes() + start + out.encode(), numpy.uint8)
    said = {"network": "net", "members": md5(members.read_bytes()).hexdigest()}
    save_file({"w": weights}, out + ".safetensors", {"palimpsest": json.dumps(said)})
"""


def png(name: str) -> bytes:
    """A picture's file."""
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(ord(name)).integers(0, 256, (8, 8, 3), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def train(name: str, folder: str, *start: str) -> dict:
    outs = [f"data/models/{name}.members.arrow", f"data/models/{name}.safetensors"]
    words = " ".join([folder, f"data/models/{name}", *start])
    return {"cmd": f"python stage.py {words}", "deps": ["stage.py", folder, *start], "outs": outs}


STAGES = {
    "train_net": train("net", "pictures"),
    "train_more": train("more", "others", "data/models/net.safetensors"),  # goes on from net
    "evaluate": {
        "foreach": ["net"],
        "do": {
            "cmd": "python stage.py test data/scores/${item}.parquet",
            "deps": ["stage.py", "data/models/${item}.safetensors"],
            "outs": ["data/scores/${item}.parquet"],
        },
    },
}


class History:
    """A repository and the checkpoints that it has made: `net` of a and b; of a, b and c; of b and c (uncommitted)."""

    def __init__(self, home: Path) -> None:
        self.project = Project(home)
        self.home = home
        (home / "stage.py").write_text(STAGE)
        self.project.pipeline(STAGES)
        for folder, names in {"pictures": "ab", "others": "x", "test": "tuv"}.items():
            (home / folder).mkdir()
            for name in names:
                self.picture(name, folder)
        self.nets, self.commits = [], []
        self.make(commit=True)
        self.picture("c")
        self.make(commit=True)
        (home / "pictures" / "a.png").unlink()
        self.make(commit=False)

    def picture(self, name: str, folder: str = "pictures") -> None:
        (self.home / folder / f"{name}.png").write_bytes(png(name))

    def make(self, commit: bool) -> None:
        self.project.run("repro")
        kept = self.home.parent / f"bare-{len(self.nets)}.safetensors"  # a file without a name
        self.nets.append(shutil.copy(self.home / "data/models/net.safetensors", kept))
        if commit:
            for words in (["add", "-A"], [*IDENTITY, "commit", "-qm", "made"]):
                subprocess.run(["git", *words], cwd=self.home, env=ENV, check=True)
            said = subprocess.run(
                ["git", "rev-parse", "HEAD"], cwd=self.home, check=True, capture_output=True, text=True
            )
            self.commits.append(said.stdout.strip())


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> History:
    home = tmp_path_factory.mktemp("audit") / "ü #1 %20?"
    home.mkdir()
    return History(home)


def names(training: checkpoint.Training) -> list[str]:
    assert training.pictures is not None
    return [row["path"] for row in training.pictures]


def words(answer: checkpoint.Checkpoint) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for fact in answer.facts:
        found.setdefault(fact.word, []).append(fact.about)
    return found


@pytest.mark.parametrize(
    ("which", "pictures"), [(0, ["a.png", "b.png"]), (1, ["a.png", "b.png", "c.png"]), (2, ["b.png", "c.png"])]
)
def test_a_bare_file_is_told_by_its_bytes(made: History, which: int, pictures: list[str]) -> None:
    answer = checkpoint.ask(made.home, str(made.nets[which]))
    (training,) = answer.trainings
    assert (training.stage, names(training)) == ("train_net", pictures)
    assert training.commit == ([*made.commits, None])[which]
    assert {row["image_id"] for row in training.pictures or []} == {
        sha256(png(name[0])).hexdigest() for name in pictures
    }
    assert words(answer) == {
        "verified": ["bytes", "trained on", "evaluated on"], "recorded": ["made by"], "claimed": ["network"],
        "cannot tell": ["code"],  # its stages leave no records
    }  # fmt: skip
    assert [fact.said for fact in answer.facts if fact.about == "evaluated on"] == [
        "3 pictures, by evaluate@net (data/scores/net.parquet)"
    ]
    assert not answer.found


def test_what_a_checkpoint_has_gone_on_from_counts(made: History) -> None:
    answer = checkpoint.ask(made.home, "more")
    assert [(training.stage, names(training)) for training in answer.trainings] == [
        ("train_more", ["x.png"]), ("train_net", ["b.png", "c.png"]),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "which"), [("a", {0, 1}), ("b", {0, 1, 2}), ("c", {1, 2}), ("t", set())])
def test_a_picture_is_found_in_exactly_the_checkpoints_that_have_read_it(
    made: History, name: str, which: set[int], tmp_path: Path
) -> None:
    (tmp_path / "renamed.jpg").write_bytes(png(name))
    for asked in (str(tmp_path / "renamed.jpg"), sha256(png(name)).hexdigest().upper()):
        answer = image.ask(made.home, asked)
        (picture,) = answer.pictures
        digests = {md5(Path(made.nets[number]).read_bytes()).hexdigest() for number in which}
        assert {use["md5"] for use in picture.uses} == digests
        assert all(
            (use["checkpoint"], use["path"]) == ("data/models/net.safetensors", f"{name}.png") for use in picture.uses
        )
        assert answer.lists == 4
        if asked.endswith(".jpg"):  # nothing was ingested here: of copies nothing can be told
            assert [gone["path"] for gone in answer.missing] == ["data/ingested/"]
        else:
            assert (answer.missing, answer.found) == ([], bool(which))


def test_what_is_missing_or_altered_is_no_silent_no(made: History, tmp_path: Path) -> None:
    home = tmp_path / "clone"
    shutil.copytree(made.home, home)
    (first,) = checkpoint.ask(home, str(made.nets[0])).trainings
    kept = cache.find(home, str(first.members), "")
    assert kept is not None
    kept.chmod(0o644)
    whole = kept.read_bytes()
    kept.write_bytes(whole.replace(b"a.png", b"z.png"))
    answer = checkpoint.ask(home, str(made.nets[0]))
    assert (answer.trainings[0].pictures, answer.found, words(answer)["DIFFERS"]) == (None, True, ["trained on"])
    unseen = image.ask(home, "0" * 64)
    assert [(gone["md5"], str(kept) in gone["why"]) for gone in unseen.missing] == [(first.members, True)]
    assert unseen.found

    kept.unlink()
    answer = checkpoint.ask(home, str(made.nets[0]))
    assert (answer.trainings[0].pictures, answer.found) == (None, False)
    assert words(answer)["cannot tell"] == ["trained on", "code"]
    assert [gone["md5"] for gone in image.ask(home, "0" * 64).missing] == [first.members]

    (home / "pictures" / "new.png").write_text("new")
    stranger = shutil.copy(made.nets[0], tmp_path / "stranger.safetensors")
    bytes_ = bytearray(Path(stranger).read_bytes())
    bytes_[-1] ^= 1  # in the numbers
    Path(stranger).write_bytes(bytes_)
    answer = checkpoint.ask(home, str(stranger))
    assert (answer.trainings, words(answer)["cannot tell"]) == ([], ["made by"])


def test_a_clone_alone_answers(made: History) -> None:
    """With the remote's objects and nothing else: no data, no cache of ours."""
    clone = made.home.with_name("clone")
    subprocess.run(["git", "clone", "-q", str(made.home), str(clone)], check=True)
    for home in (made.home, clone):
        dvc(home, "remote", "add", "-q", "--local", "-d", "store", "../store")
    dvc(made.home, "push", "-q", "--all-commits")
    before = image.ask(clone, sha256(png("a")).hexdigest())
    assert (before.pictures[0].uses, len(before.missing)) == ([], 3)
    dvc(clone, "fetch", "-q", "--all-commits")
    after = image.ask(clone, sha256(png("a")).hexdigest())
    assert (len(after.pictures[0].uses), after.missing) == (2, [])


def test_commands_end_by_what_they_find(made: History, tmp_path: Path) -> None:
    run = made.project.run
    lines = run("audit", "checkpoint", "net")
    assert lines[0] == "net: made by train_net from 2 pictures"
    assert json.loads("\n".join(run("audit", "checkpoint", "net", "--json")))["trainings"][0]["commit"] is None
    lines = run("audit", "image", "pictures/b.png", code=1)
    assert lines[0] == "pictures/b.png: trained on by 3 checkpoints (4 of 4 lists of training pictures were searched)"
    asked = sha256(png("t")).hexdigest()
    lines = run("audit", "image", asked)
    assert lines[0].startswith(f"{asked}: no checkpoint was trained on these bytes (4 of 4 lists")
    for asked, why in {
        ("image", "nosuch.png"): "nosuch.png: neither a file nor a folder nor the sha256 of a file",
        ("checkpoint", "nosuch"): "nosuch: no file, and no data/models/nosuch.safetensors in dvc.lock",
        ("checkpoint", "net@v1.0.0"): "net@v1.0.0: no version 'v1.0.0' of a promoted 'net'",
        ("checkpoint", "stage.py"): "stage.py: not a checkpoint of Palimpsest",
    }.items():
        (line,) = run("audit", *asked, code=2)
        assert line.startswith(f"audit {asked[0]}: {why}")


def test_every_answer_of_many_random_histories_is_the_truth(tmp_path: Path) -> None:
    """Forty trainings of random pictures, in locks as DVC writes them, on commits that no branch has any more, too."""
    rng = random.Random(5)
    git = ["git", *IDENTITY]
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / ".dvc").mkdir()
    everyone = [sha256(str(i).encode()).hexdigest() for i in range(60)]
    truth: dict[str, set[str]] = {picture: set() for picture in everyone}
    for number in range(40):
        seen = rng.sample(everyone, rng.randint(1, 30))
        rows = pa.table({"image_id": seen, "path": [f"{one[:6]}.png" for one in seen]})
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, rows.schema) as writer:
            writer.write_table(rows)
        content = sink.getvalue().to_pybytes()
        members, checkpoint = md5(content).hexdigest(), md5(f"net {number}".encode()).hexdigest()
        kept = cache.folder(tmp_path) / "files" / "md5" / members[:2] / members[2:]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
        for picture in seen:
            truth[picture].add(checkpoint)
        outs = {
            f"data/models/net{number % 3}.members.arrow": members,
            f"data/models/net{number % 3}.safetensors": checkpoint,
        }
        lines = [
            f"    - path: {path}\n      hash: md5\n      md5: {digest}\n      size: 1\n"
            for path, digest in outs.items()
        ]
        text = f"schema: '2.0'\nstages:\n  train@net{number % 3}:\n    cmd: train\n    outs:\n{''.join(lines)}"
        (tmp_path / "dvc.lock").write_text(text)
        if number == 39:
            break  # not committed
        subprocess.run(["git", "add", "-A"], cwd=tmp_path, check=True)
        subprocess.run([*git, "commit", "-qm", "made"], cwd=tmp_path, check=True)
        if number % 7 == 5:  # an experiment, as DVC keeps it
            subprocess.run(["git", "update-ref", f"refs/exps/ab/trial{number}", "HEAD"], cwd=tmp_path, check=True)
        if number % 7 in (3, 5):  # the other is left behind, as by a rebase: only the reflog knows it
            subprocess.run(["git", "reset", "-q", "--soft", "HEAD~1"], cwd=tmp_path, check=True)
    assert len(locks.every(tmp_path)) == 40
    for picture, checkpoints in truth.items():
        answer = image.ask(tmp_path, picture)
        assert {use["md5"] for use in answer.pictures[0].uses} == checkpoints
        assert not answer.missing
    for checkpoint in set().union(*truth.values()):
        (maker,) = entries.making(locks.every(tmp_path), checkpoint)
        (listed,) = [md5 for path, md5 in maker.outs.items() if path.endswith(".arrow")]
        file = cache.find(tmp_path, listed, "")
        assert file is not None
        with pa.memory_map(str(file)) as source:
            ids = set(pa.ipc.open_file(source).read_all()["image_id"].to_pylist())
        assert ids == {picture for picture, known in truth.items() if checkpoint in known}
    subprocess.run(["git", "reflog", "expire", "--expire=now", "--all"], cwd=tmp_path, check=True)
    assert len(locks.every(tmp_path)) == 40 - 6, "experiments are there; what nothing points at is not"


def test_outside_of_a_repository_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    with pytest.raises(InputError, match="not a git repository"):
        image.ask(tmp_path, "0" * 64)
    assert not list(tmp_path.iterdir())


def test_of_a_lock_the_outputs_count_and_not_what_stale_stages_have_read() -> None:
    """`dvc repro -s train` or an experiment of one stage leaves the entries of those that follow as they were."""
    old, new = "0" * 32, "1" * 32
    lock = (
        "schema: '2.0'\nstages:\n"
        f"  train:\n    cmd: a\n    outs:\n    - path: data/models/net.safetensors\n      hash: md5\n      md5: {new}\n"
        "      size: 1\n"
        "  evaluate:\n    cmd: b\n    deps:\n"
        f"    - path: data/models/net.safetensors\n      hash: md5\n      md5: {old}\n"
        f"      size: 1\n    outs:\n    - path: data/scores\n      hash: md5\n      md5: {old}.dir\n      size: 1\n"
    )
    assert locks.files(lock.encode()) == {"data/models/net.safetensors": new, "data/scores": f"{old}.dir"}
