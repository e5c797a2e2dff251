"""`palimpsest retrain` on real DVC and Git repositories, real processes and a real Prefect server.

The project's one training copies a checkpoint: which one, the photos say. So a test plants what the candidate is.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import forked
import pytest
from configobj import ConfigObj
from dvc_project import ENV, Process, command, dvc, end, gone, of, post, server_of, wait
from test_gate import VALUES, write_members, write_network, write_tables

from flows.audit import checkpoint
from flows.checkout.git import Git
from flows.checkout.worktree import StepError, Worktree
from flows.engine import commands, run_cache
from flows.engine.repository import opened
from flows.lineage import dvc_lock, keys, public_keys, signatures
from flows.operations import run_log
from flows.registry import candidate, decisions, history
from flows.registry.candidate import STEPS, Retraining, retraining
from stages.runs import record
from stages.runs.errors import InputError

STAGE = """
import os, shutil, sys, time
from pathlib import Path
name, out, *inputs = sys.argv[1:]
control = Path(os.environ["CONTROL"])
with open(control / "trace", "a") as trace:
    trace.write(f"{name} {os.getpid()}\\n")
while (control / (name + ".hold")).exists():
    time.sleep(0.02)
level = Path(inputs[0], "level").read_text() if name in ("ingest", "train") else ""
if name == "ingest":
    shutil.copytree(inputs[0], out)
elif name in ("align", "mask"):
    shutil.copytree(Path("tables", name), out)
elif level == "failing":
    (control / "records").write_text(os.environ["PALIMPSEST_RECORDS"])
    sys.exit("train fails")
else:
    start = Path(inputs[1]).read_bytes() if inputs[1].endswith(".safetensors") else b""
    Path(out).parent.mkdir(exist_ok=True)
    shutil.copy(f"weights/{level}.safetensors", out)
    shutil.copy(f"weights/{level}.members.arrow", out.replace(".safetensors", ".members.arrow"))
    Path("data/scores").mkdir(exist_ok=True)
    Path("data/scores/net.json").write_text(f'{{"level": "{level}", "start": {len(start)}}}')
"""
PIPELINE = {
    "stages": {
        "ingest": {
            "foreach": {"faces": {}},
            "do": {
                "cmd": "python stage.py ingest data/ingested/${key} photos",
                "deps": ["stage.py", "photos"],
                "outs": ["data/ingested/${key}"],
            },
        },
        **{
            name: {
                "foreach": {"faces": {}},
                "do": {
                    "cmd": f"python stage.py {name} data/{folder}/${{key}} tables",
                    "deps": ["stage.py", "tables"],
                    "outs": [f"data/{folder}/${{key}}"],
                },
            }
            for name, folder in (("align", "aligned"), ("mask", "masks"))
        },
        "train": {
            "foreach": "${train_partial_conv}",
            "do": {
                "cmd": "python stage.py train data/models/${key}.safetensors data/ingested/faces ${item.start}",
                "deps": ["stage.py", "weights", "data/ingested/faces", "${item.start}"],
                "outs": ["data/models/${key}.safetensors", "data/models/${key}.members.arrow"],
                "metrics": [{"data/scores/${key}.json": {"cache": False}}],
            },
        },
    },
    "artifacts": {"face-net": {"path": "data/models/net.safetensors", "type": "model"}},
}
PARAMS = VALUES | {"train_partial_conv": {"net": {"start": "none.txt", "dataset": "faces"}}}
IGNORED = "/data/*\n!/data/scores\n!/data/start/\n/data/start/*\n!/data/start/*.dvc\n/.palimpsest/\n/photos/\n"


class Lab:
    """A repository `lab` in `home`, with a folder of photos in it that Git ignores, and a remote beside it."""

    def __init__(self, home: Path) -> None:
        self.home, self.root, self.worktree = home, home / "lab", home / "lab-retrain"
        self.drive, self.away = home / "drive" / "lab", home / "away"  # another worktree: not mounted now, and where
        self.control = home / "control"
        self.git = Git(self.root)

    def photos(self, level: str, more: int = 0) -> None:
        """Photos from which a network of that level comes, and `more` without which it would be the same."""
        (self.root / "photos" / "level").write_text(level)
        (self.root / "photos" / "more").write_text(str(more))

    def begun(self, stage: str) -> int | None:
        """The process of a stage that has begun."""
        file = self.control / "trace"
        lines = file.read_text().splitlines() if file.exists() else []
        return {name: int(pid) for name, pid in map(str.split, lines)}.get(stage)

    def trace(self) -> list[str]:
        """The stages that have run since the last time."""
        file = self.control / "trace"
        lines = file.read_text().splitlines() if file.exists() else []
        file.unlink(missing_ok=True)
        return [line.split()[0] for line in lines]

    def commit(self, **changed: Any) -> str:
        """Change sections of params.yaml, and commit."""
        file = self.root / "params.yaml"
        file.write_text(json.dumps(json.loads(file.read_text()) | changed, indent=1))
        self.git("add", "params.yaml")
        self.git("commit", "--quiet", "--allow-empty", "-m", "changed")
        return self.git("rev-parse", "HEAD")

    def start(self, *words: str, **environment: str) -> Process:
        env = {**ENV, **IDENTITY, "CONTROL": str(self.control), **environment}
        return command("flows.cli", ["retrain", *words], self.root, env)

    def run(self, *words: str, code: int = 0, **environment: str) -> list[str]:
        """The lines that `palimpsest retrain` prints."""
        return end(self.start(*words, **environment), code)

    def unplug(self) -> None:
        """Make a worktree of the user's on a drive, with work in its index, and take the drive away."""
        self.git("worktree", "add", "--quiet", "--detach", str(self.drive))
        (self.drive / "chapter").write_text("not committed yet")
        Git(self.drive)("add", "chapter")
        self.drive.rename(self.away)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Nothing of the user's own changes meanwhile: files, index, HEAD, branch, stash, a merge in progress, and a
        worktree that is away."""
        before = self._state()
        yield
        assert self._state() == before

    def _state(self) -> dict[str, Any]:
        said = {word: self.git(*word.split()) for word in ("status --porcelain=v2 --branch", "stash list")}
        own = {name: self.git.commit(name) for name in ("HEAD", "main", "MERGE_HEAD")}
        files = [path for path in self.root.rglob("*") if path.is_file() and not path.is_symlink()]
        self.away.rename(self.drive)
        said["the other worktree"] = Git(self.drive)("status", "--porcelain=v2", "--branch")
        self.drive.rename(self.away)
        known = {".git", ".dvc", ".palimpsest"}
        bytes_ = {path: path.read_bytes() for path in files if path.relative_to(self.root).parts[0] not in known}
        index = (self.root / ".git" / "index").read_bytes(), (self.root / ".git" / "HEAD").read_bytes()
        return {**said, **own, "files": bytes_, "index": index}


IDENTITY = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))}  # fmt: skip


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_template(tmp_path_factory.mktemp("template"))


def make_template(home: Path) -> Path:
    """A folder with what a Lab needs, to be copied."""
    root = home / "lab"
    root.mkdir(parents=True)
    write_tables(root / "tables" / "align", root / "tables" / "mask")
    (root / "weights").mkdir()
    for level, off, first in (("poor", 0.4, 100), ("fair", 0.2, 9), ("good", 0.0, 101)):  # `fair` knows 9, 10 and 11
        write_network(root / "weights" / f"{level}.safetensors", off)
        write_members(root / "weights" / f"{level}.members.arrow", range(first, 120))
    (root / "photos").mkdir()
    (root / ".dvc").mkdir()
    (root / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (root / ".dvc" / ".gitignore").write_text("/config.local\n/tmp\n/cache\n")
    for name, text in {
        "stage.py": STAGE, "dvc.yaml": json.dumps(PIPELINE), "params.yaml": json.dumps(PARAMS, indent=1),
        ".gitignore": IGNORED, "none.txt": "none",
    }.items():  # fmt: skip
        (root / name).write_text(text)
    subprocess.run(["git", "init", "-q", "-b", "main", str(root)], check=True)
    for words in (["add", "-A"], ["commit", "-q", "-m", "The lab"]):
        subprocess.run(["git", *words], cwd=root, env={**ENV, **IDENTITY}, check=True)
    (home / "control").mkdir()
    return home


@pytest.fixture
def lab(template: Path, tmp_path: Path, api: str, prefect_database: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("PREFECT_API_URL", api)  # for what is begun here without a flow
    monkeypatch.setattr(sys, "executable", forked.python())  # of its children
    for name, value in {**IDENTITY, "PATH": ENV["PATH"], "PYTHONPATH": ENV["PYTHONPATH"]}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CONTROL", str(tmp_path / "control"))
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    lab = Lab(tmp_path)
    lab.git("status")  # the index gets to know the copied files
    lab.unplug()
    shutil.copytree(prefect_database.parent, lab.root / ".palimpsest" / "prefect")  # of a server of its own
    return lab


def test_a_candidate_is_promoted_rejected_and_rolled_back(lab: Lab, api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.photos("fair")
    dvc(lab.root, "remote", "add", "-q", "-d", "store", "../remote")
    lab.git("commit", "-qam", "A remote")
    (lab.root / "none.txt").write_text("a dirty working copy")
    (lab.root / "dvc.yaml").write_text("half an edit")
    (lab.root / "note").write_text("untracked")
    head = lab.git("rev-parse", "HEAD")
    monkeypatch.setenv(keys.KEY, str(lab.home / "key.pem"))
    keys.new(lab.root, "Ada", "secret")
    facts = {"inputs": {}, "outputs": {}, "params": {}}
    record.write(lab.root / record.home(), "train", facts, {"ended": "2026-11-27T00:00:00+00:00"})
    mine = {keys.KEY: os.environ[keys.KEY], keys.PASSPHRASE: "secret"}
    with lab.untouched():
        first = lab.run(PREFECT_API_URL=api, **mine)
    assert "not committed, so without what has changed in: dvc.yaml" in first
    assert first[-1].startswith("retrain: net promoted: the first candidate of this system")
    assert sorted(lab.trace()) == ["align", "ingest", "mask", "train"]
    now = history.current(lab.root)
    assert now is not None
    assert (now.version, now.artifact, now.system) == ("v1.0.0", "face-net", "net")
    assert set(now.data) == {"faces"}
    assert lab.git("rev-parse", "promoted", f"{now.commit}^").split() == [now.commit, head]
    (attested,) = history.read(lab.git)[-1].decision.attested
    held = signatures.on_branch(lab.git)
    assert signatures.check(*held, public_keys.trusted(lab.root), [attested]).faults == []
    assert signatures.check(held.records, {}, public_keys.trusted(lab.root), [attested]).faults, (
        "what is cut off is missed"
    )
    assert lab.git("show", "promoted:none.txt") == "none", "what is committed, not what lies there"
    assert lab.git("show", "promoted:data/scores/net.json") == '{"level": "fair", "start": 0}'
    lab.git("checkout", "--quiet", "dvc.yaml")
    again = lab.run(PREFECT_API_URL="http://127.0.0.1:9/api")  # where nobody answers
    assert len(again) == 1
    assert again[0].startswith("retrain: nothing new since the last decision; promoted now: face-net v1.0.0")
    assert lab.trace() == []

    # A merge in progress, and photos that make it better.
    lab.git("checkout", "--quiet", "none.txt")
    lab.git("checkout", "--quiet", "-b", "other")
    lab.commit(draw={"count": 1})
    lab.git("checkout", "--quiet", "main")
    lab.git("merge", "--no-ff", "--no-commit", "other")
    lab.photos("good")
    with lab.untouched():
        decision = finish(lab)
    assert lab.trace() == ["ingest", "train"], "only what depends on the photos"
    assert decision.outcome == "promoted"
    assert decision.why.startswith("psnr_hole better by ")
    better = history.current(lab.root)
    assert better is not None
    assert better.version == "v2.0.0"
    assert better.commit == lab.git.commit("promoted") != now.commit
    assert better.data != now.data
    answer = checkpoint.ask(lab.root, "face-net@v1.0.0")
    assert (answer.md5, [told["outcome"] for told in answer.decisions]) == (now.md5, ["promoted"])
    assert [(made.stage, made.commit) for made in answer.trainings] == [("train@net", now.commit)]

    # The pictures that decided are in the candidate's commit, and in no other.
    answer = checkpoint.ask(lab.root, "face-net@v2.0.0")
    (told,) = answer.decisions
    assert len({row["image_id"] for row in told["pictures"]}) == told["gate"]["pictures"] > 0
    assert [fact.word for fact in answer.facts if fact.about == "selected on"] == ["verified"]
    assert lab.git("ls-tree", now.commit, "--", history.VALIDATION) == ""

    # The remote has it: a clone gets the promoted checkpoint.
    clone = lab.home / "clone"
    subprocess.run(["git", "clone", "-q", "-b", "face-net@v2.0.0", str(lab.root), str(clone)], check=True,
                   stderr=subprocess.DEVNULL)  # fmt: skip
    dvc(clone, "pull", "-q", "data/models/net.safetensors")
    good = (lab.root / "weights" / "good.safetensors").read_bytes()
    assert (clone / "data" / "models" / "net.safetensors").read_bytes() == good

    # A detached HEAD; photos that make it worse; and a server that is lost on the way.
    lab.git("merge", "--abort")
    lab.git("checkout", "--quiet", "--detach")
    lab.photos("poor")
    (lab.control / "train.hold").touch()
    with lab.untouched():
        process = lab.start()  # with a server of its own
        wait(lambda: lab.begun("train"))
        server_of(process).kill()
        (lab.control / "train.hold").unlink()
        third = end(process)
    assert third[-1].startswith("retrain: net rejected: psnr_hole worse by ")
    assert " dB [" in third[-1]
    assert history.current(lab.root) == better
    assert lab.git("log", "-1", "--format=%s", "candidates").startswith("net rejected: psnr_hole worse by ")
    assert lab.git("show", "candidates:data/scores/net.json") == '{"level": "poor", "start": 0}'
    assert lab.git("show", f"candidates:{history.VALIDATION}") != lab.git("show", f"promoted:{history.VALIDATION}")
    outcomes = [entry.outcome for entry in run_log.entries(lab.root)]
    assert outcomes == ["promoted", "nothing changed", "rejected"]

    with lab.untouched():
        back = lab.run("--rollback")
    assert back[-1].startswith("retrain: promoted now: face-net v1.0.0")
    returned = history.current(lab.root)
    assert returned is not None
    assert (returned.commit, returned.md5) == (now.commit, now.md5)
    told = [told["outcome"] for told in checkpoint.ask(lab.root, "face-net@v1.0.0").decisions]
    assert told == ["promoted", "rolled back"]
    assert lab.git("diff", "promoted", now.commit) == ""
    lab.git("merge-base", "--is-ancestor", better.commit, "promoted")  # its history is kept
    shown = subprocess.run(["gto", "show", "face-net#prod"], cwd=lab.root, env=ENV, check=True, capture_output=True)
    assert b"v1.0.0" in shown.stdout
    with pytest.raises(InputError, match="nothing to go back to: no other promotion stands"):
        decisions.rollback(lab.root)
    with job_of(lab) as job:
        job.do("refresh", print)
    assert not job.news


def test_a_stage_that_fails_is_named_and_nothing_is_promoted(lab: Lab, api: str) -> None:
    lab.photos("failing")
    with lab.untouched():
        lines = lab.run(code=1, PREFECT_API_URL=api, PALIMPSEST_RECORDS="kept")
    assert not [line for line in lines if "NoneType" in line]
    assert (lab.control / "records").read_text() == str(lab.root / "kept"), "the user's choice, in the user's checkout"
    assert lines[-1] == (
        "retrain: 3 ran; failed: train@net: exit code 1: train fails; log: .palimpsest/logs/train@net.log "
        f"(in {lab.worktree}); nothing was promoted"
    )
    assert (lab.worktree / ".palimpsest/logs/train@net.log").read_text() == "train fails\n"
    assert lab.git("branch", "--list", "candidates", "promoted") == ""
    assert run_log.entries(lab.root)[-1].outcome == "failed"


def test_ctrl_c_and_a_kill_leave_nothing_behind(lab: Lab, api: str) -> None:
    lab.photos("good")
    (lab.control / "ingest.hold").touch()
    (lab.control / "train.hold").touch()
    process = lab.start(PREFECT_API_URL=api)
    wait(lambda: lab.begun("ingest"))
    process.send_signal(signal.SIGINT)
    assert end(process, 130)[-1] == "retrain: interrupted; run it again to go on"
    stage = lab.begun("ingest")
    assert stage is not None
    wait(lambda: gone(stage))  # its shell may have gone first
    (lab.control / "ingest.hold").unlink()
    process = lab.start(PREFECT_API_URL=api)
    wait(lambda: lab.begun("train"))
    trainer = lab.begun("train")
    assert trainer is not None
    process.kill()
    process.communicate()
    wait(lambda: gone(trainer))
    (lab.control / "train.hold").unlink()
    lab.trace()
    with lab.untouched():
        assert lab.run(PREFECT_API_URL=api)[-1].startswith("retrain: net promoted: ")
    ran = lab.trace()
    assert "train" in ran
    assert "ingest" not in ran, "what had been recorded was there"
    for home, flows in ((lab.root, ["Completed", "Crashed", "Failed"]), (lab.worktree, ["Completed", "Crashed"])):
        seen = {run["state_name"] for run in post(api, "flow_runs", of(home))}
        assert set(flows) <= seen, "Prefect knows what the kill has ended"
        assert "Running" not in seen
        # Its server hears of the tasks' ends later.
        wait(lambda home=home: "Running" not in {task["state_name"] for task in post(api, "task_runs", of(home))})


# --- Steps, without Prefect ---


@contextmanager
def job_of(lab: Lab, rev: str = "HEAD") -> Iterator[Retraining]:
    """A retraining whose rebuild is plain DVC's: the stages are the same, and it begins sooner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(candidate, "REBUILD", (sys.executable, "-m", "dvc", "repro"))
        with retraining(lab.root, rev, None, print) as job:
            yield job


def finish(lab: Lab) -> history.Decision:
    with job_of(lab) as job:
        job.finish(print)
    assert job.decision is not None
    return job.decision


def plant(lab: Lab, md5: str, system: str = "net") -> str:
    """A promotion without the work."""
    git = lab.git
    head = git("rev-parse", "HEAD")
    decision = history.Decision("promoted", "planted", system, f"{system}-net", f"data/models/{system}", md5, head)
    return decisions.record(git, git("rev-parse", "HEAD^{tree}"), decision, history.read(git), head)


def test_ctrl_c_between_two_commands_is_heeded(lab: Lab) -> None:
    lab.photos("good")
    for step, missing in (("rebuild", {"ingest", "train"}), ("record", set())):
        with job_of(lab) as job:
            for before in STEPS[: STEPS.index(step)]:
                job.do(before, print)
            job.worktree.stop()
            with pytest.raises(StepError, match="interrupted; run it again"):
                job.finish(print)
            with pytest.raises(StepError, match="interrupted; run it again"):
                job.worktree.run(["true"], print)
        assert missing.isdisjoint(lab.trace())
    assert lab.git("branch", "--list", "candidates", "promoted") == ""


def test_a_warm_start_is_the_promoted_checkpoint(lab: Lab) -> None:
    lab.photos("fair")
    lab.commit(retrain=VALUES["retrain"] | {"warm": True})
    assert finish(lab).outcome == "promoted", "there is nothing to start from"
    lab.photos("fair", more=1)
    finish(lab)
    fair = (lab.root / "weights" / "fair.safetensors").stat().st_size
    assert lab.git("show", "candidates:data/scores/net.json") == f'{{"level": "fair", "start": {fair}}}'
    assert "data/start/net.safetensors" in lab.git("show", "candidates:params.yaml")
    assert "data/start/net.safetensors.dvc" in lab.git("ls-tree", "-r", "--name-only", "candidates")
    with job_of(lab) as job:
        job.do("refresh", print)
    assert (job.stale, job.news) == ([], False), "it does not go on for ever"

    # What those before it have trained on is known to a network as well, not only to the next.
    for level, outcome in (("good", "promoted"), ("poor", "rejected")):
        lab.photos(level)
        decision = finish(lab)
        assert decision.gate is not None
        assert (decision.outcome, decision.gate["pictures"]) == (outcome, 9)

    # Where DVC's cache has lost them, both are made again, the later from the earlier.
    places = []
    for entry in history.active(history.read(lab.git)):
        made = dvc_lock.outputs(history.lock(lab.git, entry.commit))
        for name in ("safetensors", "members.arrow"):
            md5 = made[f"data/models/net.{name}"]
            places.append(lab.root / ".dvc/cache/files/md5" / md5[:2] / md5[2:])
    assert len(places) == 4
    kept = [place.read_bytes() for place in places]
    for place in places:
        place.unlink()
    lab.photos("fair", more=2)
    lab.trace()
    with job_of(lab) as job:
        job.do("refresh", print)
    assert lab.trace() == ["train", "train"]
    assert [place.read_bytes() for place in places] == kept
    assert (lab.worktree / "data/start/net.safetensors").read_bytes() == kept[2]


def test_a_rollback_in_between_and_what_it_undoes(lab: Lab) -> None:
    for md5 in "ab":
        plant(lab, md5, system="other")
    lab.photos("fair")
    with job_of(lab) as job:
        for step in ("refresh", "rebuild", "decide"):
            job.do(step, print)
        decisions.rollback(lab.root)
        job.do("record", print)
    log = [entry.decision for entry in history.read(lab.git)]
    assert [(one.system, one.outcome) for one in log[2:]] == [("other", "rolled back"), ("net", "promoted")]
    lab.photos("fair", more=1)
    assert finish(lab).why == "the same checkpoint as the promoted one"
    decisions.rollback(lab.root)
    now = history.current(lab.root)
    assert now is not None
    assert (now.system, now.md5) == ("other", "a")
    lab.photos("fair", more=2)
    assert finish(lab).why == "this checkpoint was promoted before, and rolled back"
    shown = subprocess.run(["gto", "show"], cwd=lab.root, env=ENV, check=True, capture_output=True, text=True).stdout
    assert ["net" in line and "│ -" in line for line in shown.splitlines() if "face-net" in line] == [True], shown


def test_what_a_kill_has_left_out_is_made(lab: Lab) -> None:
    """Between the decision and its tags; and in Git's own transaction of two branches."""
    first = plant(lab, "a")
    assert lab.git("tag", "--list") == ""
    for name in ("heads/candidates", "heads/promoted", "tags/net-net@v1.0.0", "tags/net-net#prod#1"):
        (lab.root / ".git" / "refs" / f"{name}.lock").touch()
    decisions.settle(lab.root)
    assert set(lab.git("tag", "--list").split()) == {"net-net@v1.0.0", "net-net#prod#1"}
    second = plant(lab, "b")
    lab.git("update-ref", "refs/heads/promoted", first)
    decisions.settle(lab.root)
    decisions.settle(lab.root)
    assert lab.git.commit("promoted") == second
    assert len(lab.git("tag", "--list").split()) == 4
    decisions.rollback(lab.root)
    plant(lab, "c")
    decisions.settle(lab.root)
    assert history.promoted_now(lab.root).startswith("promoted now: net-net v3.0.0, checkpoint c")


KILLED_PUSH = """
import os
from dvc_data.index.index import DataIndex
commit = DataIndex.commit
def commit_and_die(index):
    commit(index)
    os._exit(137)
DataIndex.commit = commit_and_die
from dvc.cli import main
main(["push"])
"""


def test_what_a_killed_push_has_left_out_is_pushed(lab: Lab) -> None:
    """Killed while DVC lists what there is to push: it takes such a list for the whole."""
    lab.photos("fair")
    finish(lab)
    dvc(lab.root, "remote", "add", "-q", "-d", "store", "../remote")
    lab.git("commit", "-qam", "A remote")
    with job_of(lab) as job:
        job.do("refresh", print)  # it makes the remote known to the worktree, and pushes
    shutil.rmtree(lab.home / "remote")
    (lab.root / ".git" / "worktrees" / lab.worktree.name / "palimpsest-pushed").unlink()
    lab.git("-C", str(lab.worktree), "checkout", "--quiet", "--force", "--detach", "promoted")
    assert subprocess.run([sys.executable, "-c", KILLED_PUSH], cwd=lab.worktree, env=ENV).returncode == 137
    with job_of(lab) as job:
        job.do("refresh", print)
    made = dvc_lock.outputs(history.lock(lab.git, "promoted"))
    pushed = {file.parent.name + file.name for file in (lab.home / "remote").rglob("*") if file.is_file()}
    assert {md5 for path, md5 in made.items() if not path.endswith(".json")} <= pushed


def test_only_what_the_checkpoint_comes_from_is_its_data() -> None:
    def stage(outs: list[str], *deps: str) -> dict[str, Any]:
        return {
            key: [{"path": path, "md5": path[-1]} for path in paths] for key, paths in (("outs", outs), ("deps", deps))
        }

    lock = {
        "stages": {
            "train": stage(["data/models/a", "data/models/b"], "code", "data/aligned/a/train"),
            "align@a": stage(["data/aligned/a"], "data/ingested/a"),
            "align@ab": stage(["data/aligned/ab"], "data/ingested/ab"),
            "ingest@a": stage(["data/ingested/a"], "photos"),
            "ingest@ab": stage(["data/ingested/ab"], "photos"),
        }
    }
    assert dvc_lock.ingested(lock, "data/models/a") == {"a": "a"}
    assert dvc_lock.upstream(lock, "data/models/a")["data/models/b"] == "b"
    assert dvc_lock.ingested({}, "data/models/a") == {}
    assert dvc_lock.makers(lock, ["data/models/a", "data/models/b"], []) == ["train"]
    assert dvc_lock.makers(lock, ["data/models/a"], ["data/aligned/a"]) == ["align@a", "train"]
    assert dvc_lock.makers(lock, ["data/models/a"], ["data/aligned/a", "data/ingested/a", "data/aligned/ab"]) == [
        "ingest@a", "align@a", "train",
    ]  # fmt: skip


def test_a_log_that_has_grown_is_not_overwritten(lab: Lab) -> None:
    plant(lab, "a")
    old = history.read(lab.git)
    plant(lab, "b")
    decision = old[-1].decision
    with pytest.raises(decisions.Moved):
        decisions.record(lab.git, lab.git("rev-parse", "HEAD^{tree}"), decision, old, decision.rev)


@pytest.mark.parametrize("half", ["empty", "unmarked", "broken", "gone", "torn"])
def test_a_half_made_worktree_is_mended(lab: Lab, half: str) -> None:
    rev = lab.git("rev-parse", "HEAD")
    worktree = Worktree(lab.root, lab.worktree, os.open("/dev/null", os.O_RDONLY))
    if half == "empty":
        lab.worktree.mkdir()
    elif half == "unmarked":
        lab.git("worktree", "add", "--detach", "--no-checkout", "--lock", str(lab.worktree), rev)
    else:
        worktree.prepare(rev)
        admin = lab.root / ".git" / "worktrees" / "lab-retrain"
        if half == "broken":
            (admin / "HEAD").write_text("")
        elif half == "gone":
            shutil.rmtree(lab.worktree)
        else:
            (admin / "index.lock").touch()
            (lab.worktree / "stage.py").write_text("half")
            (lab.worktree / ".dvc" / "tmp").mkdir(exist_ok=True)
            (lab.worktree / ".dvc" / "tmp" / "rwlock").write_text("")
            (lab.worktree / ".dvc" / "config.local").write_text("[cache")
    with lab.untouched():
        worktree.prepare(rev)
        commands.stale(worktree.path, print)
    assert (lab.worktree / "stage.py").read_text() == STAGE
    assert worktree.git("status", "--porcelain") == ""


def test_a_worktree_or_folder_of_the_users_is_not_taken(lab: Lab) -> None:
    lab.git("worktree", "add", "--quiet", "-b", "mine", str(lab.worktree))
    (lab.worktree / "stage.py").write_text("my work")
    with pytest.raises(InputError, match="a worktree of your own"), job_of(lab) as job:
        job.do("refresh", print)
    lab.git("worktree", "move", str(lab.worktree), str(lab.home / "elsewhere"))
    lab.worktree.mkdir()
    (lab.worktree / "thesis.txt").write_text("my work")
    with pytest.raises(InputError, match="not retrain's worktree"), job_of(lab) as job:
        job.do("refresh", print)
    assert (lab.worktree / "thesis.txt").exists()


def test_two_retrainings_take_turns(lab: Lab) -> None:
    said: list[str] = []

    def second() -> None:
        with retraining(lab.root, "HEAD", None, said.append):
            said.append("my turn")

    with job_of(lab):
        thread = threading.Thread(target=second)
        thread.start()
        wait(lambda: said)
        assert said == [f"waiting for another retraining (PID {os.getpid()}), or what it has left"]
    thread.join()
    assert said[-1] == "my turn"


def mistake(lab: Lab, line: str, rev: str = "HEAD") -> None:
    with pytest.raises(InputError, match=line), job_of(lab, rev=rev) as job:
        job.do("refresh", print)
    assert not (lab.control / "trace").exists()


def test_mistakes_are_told_before_the_work(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    lab.photos("good")
    mistake(lab, "--rev: no commit 'none'", rev="none")
    lab.commit(retrain=VALUES["retrain"] | {"system": "dcgan"})
    mistake(lab, r"dvc.yaml: artifacts: none has the path data/models/dcgan.safetensors; add, and commit")
    lab.commit(retrain=VALUES["retrain"] | {"margin": "much"})
    mistake(lab, "params.yaml: retrain.margin")
    good = lab.commit(retrain=VALUES["retrain"])
    for name, text, line in (
        ("dvc.yaml", "stages: {", "dvc.yaml: not valid YAML: "),
        (
            "dvc.yaml",
            json.dumps(PIPELINE | {"artifacts": {"face-net": None}}),
            "dvc.yaml: artifacts: must be a mapping",
        ),
        ("params.yaml", None, "params.yaml: commit .* has none; `git add params.yaml` and commit it"),
    ):
        if text:
            (lab.root / name).write_text(text)
        else:
            lab.git("rm", "--quiet", "--cached", name)
        lab.git("commit", "--quiet", "--all", "-m", "A mistake")
        mistake(lab, line)
        lab.git("reset", "--quiet", "--hard", good)
    for kind in ("version_aware", "worktree"):
        remote = f"[core]\n    remote = cloud\n['remote \"cloud\"']\n    url = s3://bucket\n    {kind} = true\n"
        (lab.root / ".dvc" / "config.local").write_text(remote)
        mistake(lab, r"the DVC remote 'cloud' keeps versions of its own \(version_aware or worktree\). Pushing to it")
        with opened(lab.root) as repo, pytest.raises(InputError, match="keeps versions of its own, and no run-cache"):
            run_cache.remote(repo)
    (lab.root / ".dvc" / "config.local").unlink()
    lab.git("branch", "candidates")
    mistake(lab, "branch 'candidates': its last commit is none of retrain's decisions")
    lab.git("branch", "-D", "candidates")
    plant(lab, "a")
    mistake(lab, "of the promoted commit .* is gone from DVC's cache, and its commit does not make it again: ")
    lab.git("checkout", "--quiet", "promoted")
    mistake(lab, "branch 'promoted' is checked out in")
    lab.git("checkout", "--quiet", "main")
    for name in IDENTITY:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(lab.home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    mistake(lab, "Git does not know who commits")


def test_imported_data_are_updated(lab: Lab) -> None:
    source = lab.home / "source.txt"
    source.write_text("old")
    dvc(lab.root, "import-url", "-q", str(source), "imported.txt")
    lab.git("add", "imported.txt.dvc")
    rev = lab.commit()
    source.write_text("new")
    worktree = Worktree(lab.root, lab.worktree, os.open("/dev/null", os.O_RDONLY))
    with lab.untouched():
        worktree.prepare(rev)
        commands.check_out(worktree.path, print)
        assert (lab.worktree / "imported.txt").read_text() == "old"
        worktree.update(print)
    assert (lab.worktree / "imported.txt").read_text() == "new"
    made = lab.git("commit-tree", worktree.tree([]), "-p", rev, "-m", "candidate")
    worktree.prepare(rev)
    worktree.restore(made, rev)
    commands.check_out(worktree.path, print)
    assert (lab.worktree / "imported.txt").read_text() == "new", "it need not be fetched again"


def test_data_that_only_part_is_in_git_are_told_of(lab: Lab) -> None:
    (lab.root / "tables" / "later").write_text("not committed")
    said: list[str] = []
    worktree = Worktree(lab.root, lab.worktree, os.open("/dev/null", os.O_RDONLY))
    worktree.prepare(lab.git("rev-parse", "HEAD"))
    worktree.link(said.append)
    assert said == ["tables: 1 files that Git does not follow beside others are left out; part the two"]
    assert (lab.worktree / "photos").is_symlink()


def test_dvcs_configuration_goes_along(lab: Lab) -> None:
    (lab.root / ".dvc" / "config.local").write_text("['remote \"store\"']\n    url = ../../mine\n    jobs = 3\n")
    worktree = Worktree(lab.root, lab.home / "deep" / "down" / "tree", os.open("/dev/null", os.O_RDONLY))
    worktree.prepare(lab.git("rev-parse", "HEAD"))
    file = worktree.path / ".dvc" / "config.local"
    said = ConfigObj(str(file))
    assert said['remote "store"']["url"] == str(lab.home / "mine")
    assert said["cache"]["dir"] == str(lab.root / ".dvc" / "cache")
    assert file.stat().st_mode & 0o077 == 0, "it may hold a password"
    assert worktree.git("status", "--porcelain") == ""


# --- What there is to decide ---


def with_stages(lab: Lab, **more: Any) -> str:
    """Add stages, or keys of stages, to the dvc.yaml of a lab, and commit."""
    pipeline = json.loads((lab.root / "dvc.yaml").read_text())
    for name, about in more.items():
        pipeline["stages"].setdefault(name, {}).update(about)
    (lab.root / "dvc.yaml").write_text(json.dumps(pipeline))
    lab.git("add", "dvc.yaml")
    return lab.commit()


def test_stages_that_run_each_time_or_never_make_no_candidate_alone(lab: Lab) -> None:
    lab.photos("fair")
    with_stages(
        lab,
        fetch={"cmd": "mkdir -p data && cp photos/new data/new", "outs": ["data/new"], "always_changed": True},
        clock={"cmd": 'date +%N > data/now; echo clock 0 >> "$CONTROL/trace"', "outs": ["data/now"],
               "always_changed": True},
        callback={"cmd": "true"},
        read={"cmd": "cp data/new data/read", "deps": ["data/new"], "outs": ["data/read"]},
    )  # fmt: skip
    (lab.root / "photos" / "new").write_text("1")
    assert finish(lab).outcome == "promoted"
    lab.trace()
    with job_of(lab) as job:
        job.finish(print)
    assert (job.news, job.ended, job.decision) == (False, True, None)
    assert lab.trace() == ["clock"], "it may have brought something new"
    assert len(history.read(lab.git)) == 1
    (lab.worktree / "photos").resolve().joinpath("new").write_text("2")
    lab.commit(retrain=VALUES["retrain"] | {"warm": True})
    assert finish(lab).why == "the same checkpoint as the promoted one", "what it brought is new; so is the rule"

    # From a warm start, too: the start alone is nothing new.
    lab.trace()
    with job_of(lab) as job:
        job.finish(print)
    assert (job.news, job.decision) == (False, None)
    assert "train" not in lab.trace()

    # Nor is what only a frozen stage would read.
    with_stages(lab, ingest={"do": PIPELINE["stages"]["ingest"]["do"] | {"frozen": True}})
    lab.photos("good")
    with job_of(lab) as job:
        job.finish(print)
    assert (job.news, job.decision) == (False, None)
    assert {"ingest", "train"}.isdisjoint(lab.trace())


# --- The promoted checkpoint is gone from DVC's cache ---


def collect(lab: Lab, *more: str) -> None:
    """`dvc gc -w -f`, as a user does: what the worktree and the history need goes as well."""
    dvc(lab.root, "gc", "-q", "-w", "-f", *more)


def promoted_bytes(lab: Lab) -> bytes | None:
    now = history.current(lab.root)
    assert now is not None
    file = lab.root / ".dvc/cache/files/md5" / now.md5[:2] / now.md5[2:]
    return file.read_bytes() if file.exists() else None


def test_a_promoted_checkpoint_that_is_gone_is_made_again_or_fetched(lab: Lab) -> None:
    lab.photos("fair")
    assert finish(lab).outcome == "promoted"
    kept, tip = promoted_bytes(lab), lab.git("rev-parse", "promoted")
    collect(lab)
    assert promoted_bytes(lab) is None
    dvc(lab.root, "remote", "add", "-q", "-d", "store", "../remote")
    lab.git("commit", "-qam", "A remote, which has nothing yet")
    lab.trace()
    said: list[str] = []
    with job_of(lab) as job:
        job.do("refresh", said.append)  # all is stale, as nothing is there
        assert promoted_bytes(lab) == kept
        assert any("made again from commit" in line for line in said)
        assert sorted(lab.trace()) == ["ingest", "train"], "no more than it comes from"
        job.finish(print)
        assert (job.news, job.decision) == (False, None), "a repeated candidate is nothing new"
        assert job.worktree.pushed() is None, "what was missing could not be pushed"
    with job_of(lab) as job:
        job.do("refresh", print)
        assert job.worktree.pushed() == tip

    # Now the remote has it, and is asked first.
    collect(lab)
    lab.photos("fair", more=1)
    lab.trace()
    with job_of(lab) as job:
        job.do("refresh", print)
    assert promoted_bytes(lab) == kept
    assert lab.trace() == [], "it was not made again"


def test_a_promoted_checkpoint_that_is_gone_for_good(lab: Lab) -> None:
    """From a chain of warm starts, after the photos have changed."""
    lab.commit(retrain=VALUES["retrain"] | {"warm": True})
    lab.photos("fair")
    finish(lab)
    collect(lab)
    lab.photos("good")
    line = (
        "is gone from DVC's cache, and its commit does not make it again: .* rename 'net' in params.yaml and its artif"
    )
    with pytest.raises(InputError, match=line), job_of(lab) as job:
        job.do("refresh", print)
    values = json.loads((lab.root / "params.yaml").read_text())
    pipeline = json.loads((lab.root / "dvc.yaml").read_text())
    pipeline["artifacts"] = {"face-net-2": pipeline["artifacts"]["face-net"]}
    (lab.root / "dvc.yaml").write_text(json.dumps(pipeline))
    lab.git("add", "dvc.yaml")
    lab.commit(retrain=values["retrain"] | {"system": "net2"}, infer={"net2": values["infer"]["net"]})
    assert finish(lab).why == "the first candidate of this system"
