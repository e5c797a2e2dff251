"""The runs of a study: each is made in a worktree, and kept as one of DVC's experiments.

An experiment is a commit on the one that it comes from, under a reference in `refs/exps/`. It is written here with Git
itself, by one `git update-ref`, and not by `dvc exp save`: that goes over the repository's stash and over references
of which there is one for all worktrees, so two at once fail (DVC 3.67.1), a kill leaves them behind, and it gets in
the way of an experiment that the user runs meanwhile. What comes out is the same: `dvc exp show`, `apply`, `push` and
`remove` take it as theirs.
"""

from __future__ import annotations

import contextlib
import os
import queue
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ruamel.yaml import YAML

from flows.checkout.git import Git
from flows.checkout.root import study_lock, study_worktree
from flows.checkout.worktree import StepError, Worktree
from flows.engine import experiments, lock_file
from flows.engine.repository import DvcException
from flows.lineage import cache, dvc_lock, locks
from flows.process import file_lock
from flows.process.command import Say
from flows.studies.arms import Base, Planned, put
from flows.studies.study import Run
from stages.runs import params
from stages.runs.errors import InputError
from stages.runs.record import home as records_folder

LOGS = Path(".palimpsest/logs/studies")
STATE = Path(".palimpsest/state")  # in it, a folder for each run: the trainings of two runs have the same names
BUILD = (sys.executable, "-m", "flows.studies.build")
OWNER = "a study", "move it away"
# What a run comes from, beside its base and data that Git does not have.
SOURCES = ("dvc.yaml", "tombstones.txt", "stages", "flows", ":(glob)**/*.dvc")


class Studying:
    """The runs of a study that are to be made; `studying()` makes it."""

    def __init__(
        self, root: Path, commit: str, begun: Base, runs: Sequence[Planned], jobs: int, trees: Sequence[Worktree]
    ) -> None:
        """`jobs` is the number of runs at a time, each in one of `trees`."""
        self.root, self.commit, self.runs, self.jobs = root, commit, runs, jobs
        self.failed: dict[str, str] = {}  # experiment -> what went wrong and where its log is
        self.failure: BaseException | None = None  # what is no matter of the user's
        self._base = begun
        self._git = Git(root)
        self._trees = trees
        self._free: queue.SimpleQueue[Worktree] = queue.SimpleQueue()
        for tree in trees:
            self._free.put(tree)
        self._lock = dvc_lock.parse(self._git.file(commit, "dvc.lock"), f"dvc.lock of commit {commit[:10]}")
        self._locks: dict[Path, str] = {}  # the dvc.lock that the last run has left in a worktree, of what lies there
        self._done: dict[str, str] = {}
        self._mutex = threading.Lock()  # for Git's list of worktrees, and for what is noted here

    def do(self, run: Planned, say: Say) -> str:
        """Make a run and keep it, if that has not been done: what came out, in one line.

        Safe to call for several runs from as many threads. Raises StepError where it fails, or after `stop`.
        """
        if run.experiment in self._done:
            return self._done[run.experiment]
        tree = self._free.get()
        started = time.monotonic()
        try:
            tree.check()
            with self._mutex:  # a line at a time
                say(f"{run.label}: begins")
            said = self._made(run, tree)
        except (StepError, InputError, DvcException, OSError) as error:
            self._note(run, f"failed: {' '.join(str(error).split())}", say, started)
            raise StepError(str(error)) from error
        except BaseException as error:
            self.failure = error
            raise
        finally:
            self._free.put(tree)
        self._note(run, said, say, started)
        return said

    def finish(self, say: Say) -> None:
        """Make the runs that have not been made, without Prefect."""
        with ThreadPoolExecutor(self.jobs) as threads:
            try:
                for future in [threads.submit(self._quietly, run, say) for run in self.runs]:
                    future.result()
            except BaseException:
                self.stop()
                raise
        if self.failure:
            raise self.failure

    @property
    def ended(self) -> bool:
        """Whether every run has been dealt with."""
        return len(self._done) == len(self.runs)

    def stop(self) -> None:
        """Let no other run begin, and tell those that run to save what they need to go on."""
        for tree in self._trees:
            tree.stop()

    def summary(self) -> str:
        """What has become of the runs, in one line."""
        made = len(self._done) - len(self.failed)
        parts = [f"{made} made"] + ([f"{len(self.failed)} failed"] if self.failed else [])
        if left := len(self.runs) - len(self._done):
            parts.append(f"{left} not run")
        return ", ".join(parts)

    def _quietly(self, run: Planned, say: Say) -> None:
        with contextlib.suppress(StepError):  # noted
            self.do(run, say)

    def _note(self, run: Planned, said: str, say: Say, started: float) -> None:
        with self._mutex:
            if any(tree.stopped for tree in self._trees):
                return
            self._done[run.experiment] = said
            if said.startswith("failed: "):
                self.failed[run.experiment] = said.removeprefix("failed: ")
            left = len(self.runs) - len(self._done)
            seconds = time.monotonic() - started
            say(f"{run.label}: {said} ({seconds:.0f} s); {f'{left} to go' if left else 'all done'}")

    def _made(self, run: Planned, tree: Worktree) -> str:
        with self._mutex:
            tree.prepare(self.commit)
        tree.git("clean", "--quiet", "-d", "--force", "--", ".")  # what the run before has left for Git
        self._write_parameters(run, tree.path / "params.yaml")
        # Without the entries of all other stages: DVC reads the file for every stage, and is slow at it.
        tree.write("dvc.lock", self._locks.pop(tree.top, "schema: '2.0'\nstages: {}\n"))
        log = self.root / LOGS / f"{run.experiment}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("w", encoding="utf-8") as file:

            def write(line: str) -> None:
                print(line, file=file, flush=True)

            tree.link(write)
            said = self._build(run, tree, write, log)
        self._complete_lock(run, tree)
        self._keep(run, tree)
        shutil.rmtree(self.root / STATE / run.experiment, ignore_errors=True)
        return said

    def _write_parameters(self, run: Planned, file: Path) -> None:
        """The base's file with what the run changes: its comments and its order stay."""
        kept = YAML(typ="rt", pure=True)
        kept.preserve_quotes = True
        kept.width = 1 << 20  # a line that is long stays one
        values = kept.load(self._base.text)
        for key, value in run.changed.items():
            put(values, key, value, run.experiment, self._base.name)
        kept.dump(values, file)
        if params.plain(file) != run.values:  # an alias stands for what another part of the file has, too
            plain = YAML(typ="safe", pure=True)
            plain.default_flow_style = False
            plain.dump(run.values, file)

    def _build(self, run: Planned, tree: Worktree, say: Say, log: Path) -> str:
        more = {
            "PALIMPSEST_RECORDS": str(self.root / records_folder()),  # the audit asks the user's checkout
            "PALIMPSEST_STATE": str(self.root / STATE / run.experiment),
            # Spinning threads make two runs at once slower; the bytes are the same.
            **({"OMP_WAIT_POLICY": "PASSIVE"} if self.jobs > 1 else {}),
        }
        code, last = tree.run([*BUILD, *(f"evaluate@{system}" for system in run.systems)], say, **more)
        if code:
            raise StepError(f"{last or f'exit code {code}'}; log: {os.path.relpath(log)}")
        return last

    def _complete_lock(self, run: Planned, tree: Worktree) -> None:
        """Make `dvc.lock` that of the commit, but for the stages that the run comes from: as `dvc repro` leaves it."""
        file = tree.path / "dvc.lock"
        made = dvc_lock.read(file)
        self._locks[tree.top] = file.read_text(encoding="utf-8")
        scores = [out["path"] for system in run.systems for out in made["stages"][f"evaluate@{system}"]["outs"]]
        names = dvc_lock.makers(made, scores, dvc_lock.outputs(made))
        stages = {**(self._lock.get("stages") or {}), **{name: made["stages"][name] for name in names}}
        tree.write("dvc.lock", lock_file.text({"schema": "2.0", **self._lock, "stages": stages}))

    def _keep(self, run: Planned, tree: Worktree) -> None:
        made = tree.tree([])
        title = f"{run.experiment}: {run.label}"
        commit = self._git("commit-tree", made, "-p", self.commit, "-m", title)
        self._git("update-ref", "-m", title, experiments.reference(self.commit, run.experiment), commit)


@contextlib.contextmanager
def studying(root: Path, commit: str, begun: Base, runs: Sequence[Planned], jobs: int, say: Say) -> Iterator[Studying]:
    """The runs that are to be made of the project `root`, `jobs` at a time; their worktrees are removed at the end.

    Another study of the project is waited for, and so is what a killed one has left.
    """

    def waiting(other: str) -> None:
        say(f"waiting for another study (PID {other}), or what it has left")

    with file_lock.lock(study_lock(root), waiting) as held:
        made = there(root, commit, runs)
        runs = [run for run in runs if run.experiment not in made]
        if made:
            say(f"made meanwhile by another study: {', '.join(made)}")
        count = min(jobs, len(runs))
        trees = [_tree(root, number, held) for number in range(1, count + 1)]
        try:
            yield Studying(root, commit, begun, runs, jobs, trees)
        finally:
            while (tree := _tree(root, count + 1, held)).top.exists():  # a killed study with more runs at a time
                trees.append(tree)
                count += 1
            for tree in trees:
                try:
                    tree.remove()
                except (InputError, OSError) as error:
                    say(f"{tree.top}: not removed: {error}")


def _tree(root: Path, number: int, *locks: int) -> Worktree:
    return Worktree(root, study_worktree(root, number).resolve(), *locks, owner=OWNER)


def there(root: Path, commit: str, runs: Sequence[Planned]) -> dict[str, str]:
    """The commits of those runs that are kept already, by their experiments: at this commit, scores in the cache."""
    git = Git(root)
    beginning = experiments.reference(commit, "")
    lines = git("for-each-ref", "--format=%(refname) %(objectname)", beginning).splitlines()
    kept = {name.removeprefix(f"{beginning}/"): found for name, found in (line.split(" ") for line in lines)}
    return {
        run.experiment: kept[run.experiment]
        for run in runs
        if run.experiment in kept and _has_scores(root, git, kept[run.experiment], run)
    }


def _has_scores(root: Path, git: Git, commit: str, run: Planned) -> bool:
    made = locks.files((git.file(commit, "dvc.lock") or "").encode())  # without parsing it, which takes long
    tables = [made.get(f"data/scores/{system}.parquet") for system in run.systems]
    return all(md5 is not None and cache.place(root, md5).is_file() for md5 in tables)


def outcomes(runs: Sequence[Planned], kept: dict[str, str], failed: dict[str, str]) -> list[Run]:
    """What has become of each arm's run for each seed."""
    return [
        Run(arm, run.seed, run.experiment, kept.get(run.experiment), failed.get(run.experiment))
        for run in runs
        for arm in run.arms
    ]
