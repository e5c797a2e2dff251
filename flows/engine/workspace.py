"""Running the stages of DVC's graph side by side, to the end state of plain `dvc repro`.

DVC runs one stage at a time, because a running stage holds what the next one may have to read: the repository's
objects, `dvc.lock` and the state database. Here a stage holds DVC's repository lock only before and after its command,
as `dvc repro` does, and the command runs as a process of its own. Around the command it holds DVC's read-write lock on
its deps and outs, so that a `dvc repro` of the user's own never writes the same files.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import errno
import os
import queue
import shutil
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.run import _enforce_cmd_list, _make_cmd, get_executable, prepare_kwargs

from flows.engine import graph, resources, run_cache
from flows.engine.graph import Node, Plan
from flows.engine.lock_file import LastWrites, LockFile, repair
from flows.engine.repository import POLL, open_repo, opened, read_write_lock, repair_read_write_lock, when_free
from flows.process import file_lock
from flows.process.command import Runner, Say, Stopped

LOGS = Path(".palimpsest/logs")
SHOWN = 500  # characters of a failed command's last line
FULL = 1_000_000  # bytes: a disk with fewer left is named when a stage fails


class Outcome(NamedTuple):
    """How a stage came to be up to date: it ran, came from the run-cache, or was unchanged."""

    state: Literal["Completed", "Cached", "Skipped"]
    message: str


class StageError(Exception):
    """A stage has failed; the message says how, in one line. `dvc.lock` does not record its outputs."""

    logged = False  # its command has run, and left a log


class Workspace:
    """Runs the stages of a plan in the current working copy; `workspace()` makes it."""

    def __init__(self, plan: Plan, lock_files: dict[str, LockFile], runner: Runner, force: bool) -> None:
        """`lock_files` are the `dvc.lock` beside each `dvc.yaml`, by the path of the latter."""
        self.plan = plan
        self.force = force
        self.lock_files = lock_files
        self.runner = runner
        self._affected = plan.affected()
        self._mutex = threading.RLock()  # DVC's objects and locks are not for threads
        self._early: dict[str, tuple[queue.SimpleQueue[str | None], Future[Outcome]]] = {}  # lines and end of a stage
        self._threads = ThreadPoolExecutor(max_workers=len(plan.nodes) or 1)
        self._logged: set[str] = set()  # stages that have written their log anew

    def log(self, name: str) -> Path:
        """Where the output of the stage's last run is."""
        return self.plan.root / LOGS / f"{name.replace(os.sep, '_')}.log"

    def begin(self, name: str, environment: dict[str, str]) -> None:
        """Begin to bring a stage up to date, in a thread. `run` waits for it and passes on what it has printed."""
        lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        future = self._threads.submit(self._bring, name, environment, lines.put)
        future.add_done_callback(lambda _: lines.put(None))
        self._early[name] = lines, future

    def settle(self) -> None:
        """Wait for the stages that have begun."""
        concurrent.futures.wait([future for _, future in self._early.values()])

    def run(self, name: str, environment: dict[str, str], say: Say) -> Outcome:
        """Bring one stage up to date, when those before it are; `say` gets each line of its output.

        Safe to call for several stages from as many threads.

        Raises StageError where its command fails, where it leaves an output out or changes its inputs, and where DVC
        refuses it.
        """
        if name not in self._affected:
            return Outcome("Skipped", "unchanged")
        if name in self._early:
            lines, future = self._early[name]
            for line in iter(lines.get, None):
                say(line)
            return future.result()
        return self._bring(name, environment, say)

    def _bring(self, name: str, environment: dict[str, str], say: Say) -> Outcome:
        try:
            return self._run(self.plan.nodes[name], environment, say)
        except (StageError, Stopped, DvcException, OSError, sqlite3.Error) as error:  # SQLite keeps DVC's state
            failure = StageError(self._message(error))
            failure.logged = name in self._logged
            raise failure from error

    def _message(self, error: Exception) -> str:
        """What went wrong, in one line; a full disk is named where DVC, or the stage, says something else."""
        text = " ".join(str(error).split())
        if isinstance(error, OSError) and error.strerror:
            text = f"{error.filename}: {error.strerror}" if error.filename else error.strerror
        full = os.strerror(errno.ENOSPC)
        if full not in text and shutil.disk_usage(self.plan.root).free < FULL:
            text = f"{full}: {text}"
        return text

    def stop(self, number: int = signal.SIGTERM) -> None:
        """Let no other command begin, and end those that run: by SIGTERM they save what they need to go on."""
        self.runner.stop(number)

    def finish(self) -> None:
        """Every stage of the plan is up to date: later rebuilds start from here."""
        for lock_file in self.lock_files.values():
            lock_file.close()

    def _run(self, node: Node, environment: dict[str, str], say: Say) -> Outcome:
        started = time.monotonic()
        with self._opened() as repo, _Turn() as turn, contextlib.ExitStack() as claims:
            while True:
                with self._loaded(repo, node, say) as stage:
                    if not self.force and not stage.changed():
                        return Outcome("Skipped", "unchanged")
                    if not stage.cmd or stage.frozen:  # data that `dvc add` or `dvc import` brought, and frozen stages
                        stage.reproduce(force=self.force)
                        self._record(node, stage)
                        return Outcome("Completed", "verified")
                    if missing := [dep.def_path for dep in stage.deps if dep.protocol == "local" and not dep.exists]:
                        raise StageError(
                            f"{', '.join(missing)}: not there, and no stage makes it; put it there, or mend its path "
                            f"in params.yaml or {os.path.relpath(node.path)}"
                        )
                    stage.remove_outs(ignore_remove=False, force=False)
                    if turn.take(self._shared(stage)):
                        if self._restored(stage):
                            self._save(node, stage)
                            return Outcome("Cached", "outputs from DVC's run-cache")
                        stage.save_deps()
                        before = _inputs(stage)
                        claims.enter_context(self._claim(stage))
                        break
                turn.wait(say, self.runner.check)  # without DVC's locks
            self._execute(node, stage, environment, say, turn.held)
            with self._locked(repo):
                stage.save_deps()
                moved = [path for path, value in _inputs(stage).items() if before.get(path) != value]
                if moved:
                    raise StageError(f"{', '.join(moved)}: changed while the stage ran; leave it alone and run again")
                claims.close()  # DVC's own methods take this lock themselves
                self._save(node, stage)
        return Outcome("Completed", f"{time.monotonic() - started:.1f} s")

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Repo]:
        """One for each stage: to load the stage takes longest of what is done under the locks, so it is done once."""
        with self._mutex:
            repo = open_repo(self.plan.root)
        try:
            yield repo
        finally:
            with self._mutex:
                repo.close()

    @contextlib.contextmanager
    def _locked(self, repo: Repo) -> Iterator[None]:
        with self._mutex, repo.lock, repo.scm_context(quiet=True):
            yield

    @contextlib.contextmanager
    def _loaded(self, repo: Repo, node: Node, say: Say) -> Iterator[Stage]:
        """The stage as it is now, under DVC's repository lock; waits while another DVC process uses its files."""

        def load() -> tuple[contextlib.ExitStack, Stage]:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._locked(repo))
                stage = repo.stage.load_one(node.path, node.stage)
                with read_write_lock(stage):
                    return stack.pop_all(), stage

        held, stage = when_free(load, say, self.runner.check)
        with held:
            yield stage

    @contextlib.contextmanager
    def _claim(self, stage: Stage) -> Iterator[None]:
        """DVC's read-write lock on the stage's files, while its command runs."""
        with self._mutex:
            held = read_write_lock(stage)
            held.__enter__()
        try:
            yield
        finally:
            with self._mutex:
                held.__exit__(None, None, None)

    def _shared(self, stage: Stage) -> Path | None:
        """What is locked while the stage is made, so that working copies with one cache do not make it twice."""
        return None if self.force else run_cache.turn(stage)

    def _restored(self, stage: Stage) -> bool:
        if self.force:
            return False
        try:
            stage.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
            return False
        except TypeError:
            if not run_cache.left_empty(stage):
                raise
            return False
        return True

    def _save(self, node: Node, stage: Stage) -> None:
        # As in dvc.stage.Stage.run: the run-cache cannot bring back what is neither cached nor a metric or plot.
        kept = all(out.use_cache or out.is_metric or out.is_plot for out in stage.outs)
        stage.save(run_cache=kept)
        stage.commit()
        self._record(node, stage)

    def _record(self, node: Node, stage: Stage) -> None:
        if node.stage is None:
            stage.dump(update_pipeline=False)
        else:
            self.lock_files[node.path].record(stage)
            stage.repo.scm_context.track_file(os.path.relpath(self.lock_files[node.path].path))

    def _execute(
        self, node: Node, stage: Stage, environment: dict[str, str], say: Say, held: Sequence[int] = ()
    ) -> None:
        """`held` are descriptors of locks that its command keeps."""
        options: dict[str, Any] = prepare_kwargs(stage, run_env={"PYTHONUNBUFFERED": "1", **environment})
        log = self.log(node.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            locks = [*held, *(stack.enter_context(resources.gpu(say, self.runner.check)) if node.gpu else [])]
            file = stack.enter_context(log.open("w", encoding="utf-8"))
            self._logged.add(node.name)

            def say_and_log(line: str) -> None:
                print(line, file=file, flush=True)
                say(line)

            for command in _enforce_cmd_list(stage.cmd):
                say(f"> {command}")
                code, last = self.runner.run(_make_cmd(get_executable(), command), say_and_log, locks, **options)
                number = -code if code < 0 else code - 128
                if number in set(signal.Signals):
                    raise StageError(f"killed by {signal.Signals(number).name}")
                if code:
                    last = last.removeprefix(f"{node.name}: ")
                    raise StageError(f"exit code {code}" + (f": {last[:SHOWN]}" if last else ""))


class _Turn:
    """The lock on what a stage is about to make; a `with` block ends it."""

    def __init__(self) -> None:
        self.held: list[int] = []  # its descriptor
        self._file: Path | None = None

    def take(self, file: Path | None) -> bool:
        """Whether it is this process's turn to make what `file` stands for; None: nobody else would."""
        if self._file != file:
            self._end()
            self._file = file
        if file is None or self.held:
            return True
        try:
            handle = file_lock.acquire(file)
        except OSError:  # a cache that is another user's: then the same may be made twice, as DVC does
            return True
        if handle is not None:
            self.held = [handle]
        return handle is not None

    def wait(self, say: Say, check: Callable[[], None]) -> None:
        """Until whoever has it is done. `check` is called meanwhile, and may raise to give up."""
        assert self._file is not None
        say("waiting for another working copy, which makes the same")
        while not self.take(self._file):
            check()
            time.sleep(POLL)

    def _end(self) -> None:
        if self._file and self.held:
            file_lock.release(self.held.pop(), self._file)

    def __enter__(self) -> _Turn:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()


@contextlib.contextmanager
def workspace(targets: Iterable[str] = (), *, force: bool = False, say: Say) -> Iterator[Workspace]:
    """The working copy that the current folder lies in, for this process alone until the block ends.

    Another rebuild is waited for, and so are commands that a killed one has left behind. A `dvc.lock`
    that a kill has cut off is mended.

    Raises InputError and DvcException as `graph.read` and `lock_file.repair` do.
    """
    with opened(None) as repo:
        root, tmp = Path(repo.root_dir), Path(repo.tmp_dir)

    def waiting(other: str) -> None:
        say(f"waiting for another rebuild here (PID {other}), or a command that it left")

    with file_lock.lock(tmp / "palimpsest.lock", waiting) as held:
        with opened(root) as repo, repo.lock:
            repair_read_write_lock(repo)
            for lock in {root / "dvc.lock", Path("dvc.lock").resolve(), *LastWrites(repo).paths()}:
                if torn := repair(repo, lock):
                    say(f"{lock.name} had been cut off by a killed process: mended; the torn one is {torn}")

        def plan() -> Plan:
            with opened(root) as repo, repo.lock:
                return graph.read(repo, targets, force)

        found = when_free(plan, say)
        orders: dict[str, list[str]] = {}
        for node in found.nodes.values():
            if node.stage is not None:
                orders.setdefault(node.path, []).append(node.stage)
        lock_files = {path: LockFile(repo, path, order) for path, order in orders.items()}
        yield Workspace(found, lock_files, Runner(held), force)


def forget(root: Path, name: str) -> None:
    """Remove what a killed training has kept to go on with: a forced one starts anew."""
    if entry := name.partition("@")[2]:
        home = root / os.environ.get("PALIMPSEST_STATE", ".palimpsest/state")
        for folder in home.glob(f"{entry}-{'[0-9a-f]' * 24}"):
            shutil.rmtree(folder)


def _inputs(stage: Stage) -> dict[str, object]:
    return {str(dep): dep.hash_info for dep in stage.deps}
