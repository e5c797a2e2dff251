"""One retraining: a candidate is made in a worktree of its own, compared with what is promoted, and decided about.

Four steps, each done once: refresh, rebuild, decide, record. All that lasts is written by the last one, in one
transaction of Git (`decisions.record`). If the process is killed before it, only DVC's run-cache remains, which makes
the next run quick; if it is killed after it, tags and a push may be missing, and the next run makes them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from flows.checkout.git import Git
from flows.checkout.root import label, retrain_lock, retrain_worktree
from flows.checkout.worktree import StepError, Worktree
from flows.engine import commands
from flows.engine.repository import cached, default_remote, edit_yaml
from flows.lineage import dvc_lock, keys, signatures
from flows.prefect_server import server
from flows.process import file_lock
from flows.process.command import Say
from flows.registry import decisions, gate, gto, history
from flows.registry.history import START, Decision, Entry, Kept
from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.record import home as records_folder

STEPS = ("refresh", "rebuild", "decide", "record")
# What a candidate comes from, beside data that Git does not have.
SOURCES = ("params.yaml", "dvc.yaml", "tombstones.txt", "stages", "flows", ":(glob)**/*.dvc")
REBUILD = (sys.executable, "-m", "flows.cli", "rebuild")
REPRODUCE = (sys.executable, "-m", "dvc", "repro", "--single-item")


class Retraining:
    """A retraining of what `rev` holds; `retraining()` makes it."""

    def __init__(self, root: Path, worktree: Worktree, rev: str) -> None:
        self.root, self.worktree, self.rev = root, worktree, rev
        self.stale: list[str] = []  # the stages whose inputs are new: a rebuild begins with them
        self.news = False  # whether there is anything to decide
        self.decision: Decision | None = None
        self.commit: str | None = None  # of the decision
        self.error: InputError | StepError | None = None  # why there is no decision
        self.failure: BaseException | None = None  # any other reason
        self.trouble: str | None = None  # what went wrong after the decision
        self._git = Git(root)
        self._log: list[Entry] = []
        self._last: Entry | None = None  # the candidate before
        self._always: set[str] = set()  # the stages that run each time
        self._sure = False  # whether anything is new beside the stages that run each time
        self._moved = False  # the worktree has been brought to another commit
        self._new: list[str] = []  # files of the candidate that Git does not follow yet
        self._done: dict[str, str] = {}

    def do(self, step: str, say: Say) -> str:
        """Do one of STEPS, if it has not been done: what came out, in one line.

        Raises InputError and StepError, which are in `error` as well, and DvcException.
        """
        if step not in self._done:
            try:
                work: Callable[[Say], str] = getattr(self, f"_{step}")  # `_refresh`, `_rebuild`, `_decide`, `_record`
                self.worktree.check()
                self._done[step] = work(say)
            except (InputError, StepError) as error:
                self.error = error
                raise
            except BaseException as error:
                self.failure = error
                raise
        return self._done[step]

    def finish(self, say: Say) -> None:
        """Do the steps that have not been done."""
        for step in STEPS:
            if not self.ended:
                self.do(step, say)

    @property
    def ended(self) -> bool:
        """Whether every step has been done, or there is nothing to decide."""
        return len(self._done) == len(STEPS) or (bool(self._done) and not self.news)

    def summary(self) -> str:
        """What has become of the candidate, in one line."""
        if self.decision is None or self.commit is None:
            return str(self.error or "not decided")
        said = f"{self.decision.system} {self.decision.outcome}: {self.decision.why} (commit {self.commit[:10]})"
        return f"{said}; but {self.trouble}" if self.trouble else said

    # --- refresh ---

    def _refresh(self, say: Say) -> str:
        decisions.settle(self.root)  # what a killed run has left out
        tree = self.worktree
        tree.prepare(self.rev)
        self._read()
        if name := commands.versioned_remote(tree.path):
            raise InputError(
                f"the DVC remote '{name}' keeps versions of its own (version_aware or worktree). Pushing to it changes "
                "dvc.lock, but a promotion is pushed after the decision about its dvc.lock; make another the default"
            )
        now = history.current(self.root)
        if now and default_remote(tree.path) and tree.pushed() != now.commit:
            tree.prepare(now.commit)
            self._push(now.commit, say)
            self._moved = True
        self._log = history.read(self._git)
        self._last = history.candidate(self._log)
        self._lay_out(say)
        self.stale = commands.stale(tree.path, say)
        self._always = commands.always_changed(tree.path)
        # What is stale each time may bring nothing new: `_rebuild` sees.
        self._sure = not self._always.issuperset(self.stale) or self._last is None or self._rule_is_new(self._last)
        self.news = self._sure or bool(self.stale)
        if self.news and (baseline := self._promoted(say, rebuild=True)):  # its bytes are needed: better missed now
            if self._moved:  # to make these bytes again
                self._lay_out(say)
            if self.bar.warm and self._sure:
                self._start_anew(baseline, say)
        return f"new, to begin with: {', '.join(self.stale)}" if self.stale else "no stage has anything new to read"

    def _lay_out(self, say: Say) -> None:
        """Bring the worktree to the commit, with what the last candidate had made, and new data."""
        tree, last = self.worktree, self._last
        if self._moved:
            tree.prepare(self.rev)
            self._moved = False
        if last:
            if self.bar.warm:
                self._start_as(last)
            tree.restore(last.commit, last.decision.rev)
        tree.link(say)
        commands.check_out(tree.path, say, self._new)
        tree.update(say)

    def _read(self) -> None:
        """What the commit says: the rule, the system, its checkpoint and the name that this has as an artifact."""
        for name in ("params.yaml", "dvc.yaml"):
            if not (self.worktree.path / name).exists():
                raise InputError(f"{name}: commit {self.rev[:10]} has none; `git add {name}` and commit it")
        self._values = params.load(self.worktree.path / "params.yaml")
        self.bar = gate.rule(self._values)
        self._checkpoint = gate.checkpoint(gate.system(self._values, self.bar.system))
        try:
            artifacts = dvc_lock.read(self.worktree.path / "dvc.yaml").get("artifacts") or {}
            names = [name for name, about in artifacts.items() if about.get("path") == self._checkpoint]
        except AttributeError:
            raise InputError("dvc.yaml: artifacts: must be a mapping: NAME: {path: PATH, type: model}") from None
        if not names:
            raise InputError(
                f"dvc.yaml: artifacts: none has the path {self._checkpoint}; add, and commit: "
                f"{self.bar.system}: {{path: {self._checkpoint}, type: model}}"
            )
        gto.check(str(names[0]))
        folder = label(self._git.prefix)
        self._artifact = f"{folder}:{names[0]}" if folder else str(names[0])  # as DVC and GTO name it
        self._entry = self._checkpoint.removeprefix("data/models/").removesuffix(".safetensors")
        sections = [
            name for name in self._values if name.startswith("train_") and self._entry in (self._values[name] or {})
        ]
        if self.bar.warm and len(sections) != 1:
            raise InputError(f"params.yaml: retrain.warm: no training makes {self._checkpoint}; set it to false")
        self._section = sections[0] if sections else None

    def _rule_is_new(self, last: Entry) -> bool:
        what = f"params.yaml of commit {last.commit[:10]}"
        text = self._git.file(last.commit, "params.yaml")
        return bool(dvc_lock.parse(text, what).get("retrain") != self._values["retrain"])

    # --- A warm start: the promoted checkpoint, added to DVC and named in params.yaml ---

    def _start_as(self, last: Entry) -> None:
        """As the last candidate had it: where nothing else is new, its training need not be repeated."""
        pointer = f"{START}/{self._entry}.safetensors.dvc"
        text = self._git.file(last.commit, pointer)
        if text is not None:
            self.worktree.write(pointer, text)
            self._name_start(pointer)

    def _start_anew(self, baseline: Baseline, say: Say) -> None:
        home = self.worktree.path / START / f"{self._entry}.safetensors"
        home.parent.mkdir(parents=True, exist_ok=True)
        home.unlink(missing_ok=True)  # it may be a link into the cache
        shutil.copyfile(baseline.checkpoint, home)
        commands.add(self.worktree.path, home, say)
        self._name_start(f"{START}/{home.name}.dvc")

    def _name_start(self, pointer: str) -> None:
        with edit_yaml(str(self.worktree.path / "params.yaml")) as values:
            values[self._section][self._entry]["start"] = pointer.removesuffix(".dvc")
        self._new = [pointer]

    # --- rebuild ---

    def _rebuild(self, say: Say) -> str:
        if not self._sure and self.bar.warm:
            # A new start alone would make a new candidate each time: first, do the others get anything new to read?
            self._run([*REBUILD, *sorted(self._always)], say)
            if self._always.issuperset(commands.stale(self.worktree.path, say)):
                self.news = self._made() != self._made(self._last)
                return "only what runs each time"
            if baseline := self._promoted(say):
                self._start_anew(baseline, say)
        said = self._run(REBUILD, say)
        if self._last and not self._rule_is_new(self._last):
            self.news = self._made() != self._made(self._last)
        return said

    def _run(self, words: Sequence[str], say: Say) -> str:
        # Records come home: the audit asks the user's checkout.
        more: dict[str, str | None] = {"PALIMPSEST_RECORDS": str(self.root / records_folder())}
        if not (os.environ.get("PREFECT_API_URL") and server.answers()):
            more["PREFECT_API_URL"] = ""  # it starts one of its own
        code, last = self.worktree.run(words, say, **more)
        if code:
            raise StepError(f"{last.removeprefix('rebuild: ')} (in {self.worktree.path}); nothing was promoted")
        return last.removeprefix("rebuild: ")

    def _made(self, entry: Entry | None = None) -> Any:
        """What a candidate, or that in the worktree, consists of: its checkpoint, and the entries of `dvc.lock` but for
        those stages that run each time.
        """
        content = history.lock(self._git, entry.commit) if entry else dvc_lock.read(self.worktree.path / "dvc.lock")
        stages = {name: made for name, made in (content.get("stages") or {}).items() if name not in self._always}
        return dvc_lock.outputs(content).get(self._checkpoint), stages

    # --- decide ---

    def _decide(self, say: Say) -> str:
        content = dvc_lock.read(self.worktree.path / "dvc.lock")
        md5 = dvc_lock.outputs(content).get(self._checkpoint)
        if not md5:
            raise InputError(f"dvc.yaml: no stage makes {self._checkpoint}, the checkpoint of '{self.bar.system}'")
        self._log = history.read(self._git)
        baseline = self._promoted(say)
        undone = {entry.decision.md5 for entry in self._log if entry.decision.outcome == "promoted"}
        undone -= {entry.decision.md5 for entry in history.active(self._log)}
        result: dict[str, Any] | None = None
        if md5 in undone:
            promote, why = False, "this checkpoint was promoted before, and rolled back"
        elif baseline is None:
            promote, why = True, "the first candidate of this system"
        elif baseline.md5 == md5:
            promote, why = False, "the same checkpoint as the promoted one"
        else:
            result = self._gate(content, baseline, say)
            promote, why = result["promote"], result["why"]
        self.decision = Decision(
            "promoted" if promote else "rejected",
            why,
            self.bar.system,
            self._artifact,
            self._checkpoint,
            md5,
            self.rev,
            baseline.commit if baseline else None,
            result,
        )
        return f"{self.decision.outcome}: {why}"

    def _gate(self, content: dict[str, Any], baseline: Baseline, say: Say) -> dict[str, Any]:
        """What `flows.registry.gate` says, run as a command in the worktree, so that the candidate's code decides."""
        home = self.worktree.path
        verdict = home / ".palimpsest" / "verdict.json"
        verdict.parent.mkdir(exist_ok=True)
        for old in (verdict, home / history.VALIDATION):
            old.unlink(missing_ok=True)
        lists = history.members(self._git, self._log, self.rev, content, self._checkpoint)
        words: dict[str, Sequence[Path | str]] = {
            "candidate": [self._checkpoint],
            "candidate-members": self._cached(lists, say),
            "promoted": [baseline.checkpoint],
            "promoted-members": baseline.members,
            "verdict": [verdict],
        }
        line = [sys.executable, "-m", "flows.registry.gate"]
        line += [word for name, paths in words.items() for word in (f"--{name}", *map(str, paths))]
        code, last = self.worktree.run(line, say, PREFECT_API_URL=None)
        if code == 2:
            raise InputError(last)
        if code:
            raise StepError(f"compare: exit code {code}: {last}; nothing was promoted")
        result = dict(json.loads(verdict.read_text()))
        if rows := result.pop("validation", None):  # none from the code of an older commit
            lines = [history.COLUMNS, *rows]
            text = "".join(",".join(map(str, line)) + "\n" for line in lines)
            self.worktree.write(history.VALIDATION, text)
            result["validation"] = sha256(text.encode()).hexdigest()
        return result

    def _promoted(self, say: Say, rebuild: bool = False) -> Baseline | None:
        """The system's promotion that stands, and where its bytes are; None where there is none.

        Raises InputError or StepError as `_cached` does.
        """
        entries = [e for e in history.active(self._log) if e.decision.system == self.bar.system]
        if not entries:
            return None
        commit, decision = entries[-1].commit, entries[-1].decision
        lists = history.members(self._git, self._log, commit, history.lock(self._git, commit), decision.path)
        checkpoint, *members = self._cached([Kept(commit, decision.path, decision.md5), *lists], say, rebuild)
        return Baseline(commit, decision.md5, checkpoint, members)

    def _cached(self, files: Sequence[Kept], say: Say, rebuild: bool = False) -> list[Path]:
        """Where the bytes of files are: in DVC's cache. What that lacks is brought back: from the default remote or,
        where `rebuild` says so, by the file's own commit, to which the worktree is brought then.

        Raises InputError where that fails, and StepError where it has not been tried.
        """
        places = cached(self.root, [file.md5 for file in files])

        def missing() -> list[Kept]:
            return [file for file, place in zip(files, places, strict=True) if not place.exists()]

        remote = default_remote(self.worktree.path)
        if remote and (lost := missing()):
            say(f"{', '.join(file.path for file in lost)}: gone from DVC's cache; asking the remote '{remote}'")
            commands.fetch(self.worktree.path, [file.md5 for file in lost], say)
        for commit in dict.fromkeys(file.commit for file in missing()) if rebuild else ():
            self._make_again(commit, [file.path for file in missing() if file.commit == commit], say)
        for commit, path, _ in missing():
            where = f"{path} of the promoted commit {commit[:10]} is gone from DVC's cache"
            if not rebuild:
                raise StepError(f"{where}; run it again: it is brought back; nothing was promoted")
            there = f" and not on the remote '{remote}'" if remote else ""
            raise InputError(
                f"{where}{there}, and its commit does not make it again: its data have changed, or the machine; "
                f"rename '{self.bar.system}' in params.yaml and its artifact in dvc.yaml, and the next candidate will "
                "be the new system's first"
            )
        return places

    def _make_again(self, commit: str, paths: Sequence[str], say: Say) -> None:
        """Run the stages that have made files, as the commit has them, and those before them whose outputs are gone."""
        say(f"{', '.join(paths)}: made again from commit {commit[:10]}, in {self.worktree.path}")
        tree, content = self.worktree, history.lock(self._git, commit)
        self._cached(history.starts(self._log, content, paths), say, rebuild=True)
        self._moved = True
        tree.prepare(commit)
        tree.link(say)
        commands.check_out(tree.path, say, tree.git.paths("ls-files", "--", f"{START}/*.dvc"))
        gone = commands.unlike(tree.path)
        with contextlib.suppress(StepError):  # it has said why; the file is missed then
            for stage in dvc_lock.makers(content, paths, gone):
                self._run([*REPRODUCE, stage], say)
        tree.check()

    # --- record ---

    def _record(self, say: Say) -> str:
        while True:
            assert self.decision is not None
            measured = [history.VALIDATION] if self.decision.gate else []
            tree = self.worktree.tree([*self._new, *measured])
            try:
                with contextlib.suppress(InputError, OSError):  # at its end, the command says why
                    signatures.collect(self.root, os.environ.get(keys.PASSPHRASE))
                decision = dataclasses.replace(self.decision, attested=signatures.newest(self._git))
                self.commit = decisions.record(self._git, tree, decision, self._log, self.rev)
                break
            except decisions.Moved:
                say("a rollback came in between: compared again, with what is promoted now")
                self._decide(say)
        decisions.settle(self.root)
        if self.decision.outcome == "promoted":
            self.worktree.prepare(self.commit)
            self._push(self.commit, say)
        return self.summary()

    def _push(self, commit: str, say: Say) -> None:
        """Send the promoted commit's data where a remote is set, unless they have been."""
        self.trouble = None
        if default_remote(self.worktree.path) and self.worktree.pushed() != commit:
            self.trouble = self.worktree.push(say)


@dataclasses.dataclass(frozen=True)
class Baseline:
    """What a candidate is compared with."""

    commit: str
    md5: str
    checkpoint: Path
    members: list[Path]  # of its training, and of those that it has gone on from


@contextlib.contextmanager
def retraining(root: Path, rev: str, path: Path | None, say: Say) -> Iterator[Retraining]:
    """A retraining of the commit `rev` in the worktree at `path` (None: beside the checkout), of the project `root`.

    Another one of the same project is waited for, and so is what a killed one has left.

    Raises InputError where its decision could not be recorded, and where there is no such commit.
    """
    git = Git(root)
    decisions.ready(git)
    if changed := git.changed(*SOURCES):
        say(f"not committed, so without what has changed in: {', '.join(changed)}")
    commit = git.commit(rev)
    if commit is None:
        raise InputError(f"--rev: no commit '{rev}'" if rev != "HEAD" else "there is no commit yet: `git commit`")

    def waiting(other: str) -> None:
        say(f"waiting for another retraining (PID {other}), or what it has left")

    with file_lock.lock(retrain_lock(root), waiting) as held:
        place = (path or retrain_worktree(root)).resolve()
        yield Retraining(root, Worktree(root, place, held), commit)
