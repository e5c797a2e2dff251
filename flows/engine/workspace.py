"""Running the stages of DVC's graph side by side, to the end state of plain `dvc repro`.

DVC runs one stage at a time, since each holds what the next may read: the repository's objects, `dvc.lock`
and the state database. Here a stage holds DVC's repository lock only before and after its command, as
`dvc repro` does, and the command runs as a process of its own. Around the command it holds DVC's read-write lock on
its deps and outs, so that a `dvc repro` of the user's own never writes the same files.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import io
import json
import math
import os
import queue
import select
import shutil
import signal
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from dvc.exceptions import DvcException
from dvc.lock import LockError, make_lock
from dvc.repo import Repo
from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK, rwlock
from dvc.stage import Stage
from dvc.stage.cache import RunCacheNotFoundError
from dvc.stage.run import _enforce_cmd_list, _make_cmd, get_executable, prepare_kwargs

from flows.engine import graph
from flows.engine.graph import Node, Plan
from flows.engine.lock_file import Journal, Ledger, mend
from flows.process import supervisor
from flows.process.file_lock import alone

LOGS = Path(".palimpsest/logs")
POLL = 0.5  # seconds, as DVC's own lock
PROGRESS = 10  # seconds
LONGEST = 10_000  # characters
SHOWN = 500  # characters of a failed command's last line
FULL = 1_000_000  # bytes: a disk with fewer left is named when a stage fails

Say = Callable[[str], None]


class Outcome(NamedTuple):
    """How a stage has come to be up to date."""

    state: Literal["Completed", "Cached", "Skipped"]
    message: str


class StageError(Exception):
    """A stage has failed; the message says how, in one line. What it should have made is not recorded."""

    logged = False  # its command has run, and left a log


class Workspace:
    """One rebuild of the stages of a plan in the current working copy; `workspace()` makes it."""

    def __init__(self, plan: Plan, ledgers: dict[str, Ledger], held: int, force: bool) -> None:
        self.plan = plan
        self.force = force
        self._affected = plan.affected()
        self._ledgers = ledgers
        self._held = held  # the descriptor that keeps other rebuilds out while it is open anywhere
        self._mutex = threading.RLock()  # DVC's objects and locks are not for threads
        self._begun: dict[str, Begun] = {}
        self._logged: set[str] = set()  # stages that have written their log anew
        self._door = threading.Lock()  # for the two that follow; never held for long
        self._running: set[subprocess.Popen[bytes]] = set()
        self._stopped = False

    def log(self, name: str) -> Path:
        """Where the output of the stage's last run is."""
        return self.plan.root / LOGS / f"{name.replace(os.sep, '_')}.log"

    def begin(self, name: str, environment: dict[str, str]) -> None:
        """Begin to bring a stage up to date before there is anybody to listen: `run` tells what it has said."""
        self._begun[name] = Begun(lambda say: self._bring(name, environment, say))

    def settle(self) -> None:
        """Wait for the stages that have begun."""
        for begun in self._begun.values():
            begun.thread.join()

    def run(self, name: str, environment: dict[str, str], say: Say) -> Outcome:
        """Bring one stage up to date, when those before it are; `say` gets each line of its output.

        Safe to call for several stages from as many threads.

        Raises StageError where its command fails, where it leaves an output out or changes its inputs, and where DVC
        refuses it.
        """
        if name not in self._affected:
            return Outcome("Skipped", "unchanged")
        if begun := self._begun.get(name):
            return begun.told(say)
        return self._bring(name, environment, say)

    def _bring(self, name: str, environment: dict[str, str], say: Say) -> Outcome:
        try:
            return self._run(self.plan.nodes[name], environment, say)
        except (StageError, DvcException, OSError, sqlite3.Error) as error:  # SQLite keeps DVC's state
            told = StageError(self._told(error))
            told.logged = name in self._logged
            raise told from error

    def _told(self, error: Exception) -> str:
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
        with self._door:
            self._stopped = True
            for process in self._running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, number)

    def finish(self) -> None:
        """Every stage of the plan is up to date: later rebuilds start from here."""
        for ledger in self._ledgers.values():
            ledger.close()

    def _run(self, node: Node, environment: dict[str, str], say: Say) -> Outcome:
        started = time.monotonic()
        with self._opened() as repo, contextlib.ExitStack() as claims:
            with self._dvc(repo, node, say) as stage:
                if not self.force and not stage.changed():
                    return Outcome("Skipped", "unchanged")
                if not stage.cmd or stage.frozen:  # data that `dvc add` or `dvc import` brought, and frozen stages
                    stage.reproduce(force=self.force)
                    self._record(node, stage)
                    return Outcome("Completed", "verified")
                if missing := [dep.def_path for dep in stage.deps if dep.protocol == "local" and not dep.exists]:
                    raise StageError(
                        f"{', '.join(missing)}: not there, and no stage makes it; put it there, or mend its path in "
                        f"params.yaml or {os.path.relpath(node.path)}"
                    )
                stage.remove_outs(ignore_remove=False, force=False)
                if self._restored(stage):
                    self._save(node, stage)
                    return Outcome("Cached", "outputs from DVC's run-cache")
                stage.save_deps()
                before = _inputs(stage)
                claims.enter_context(self._claim(stage))
            self._execute(node, stage, environment, say)
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
            repo = Repo(str(self.plan.root), _wait_for_lock=True)
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
    def _dvc(self, repo: Repo, node: Node, say: Say) -> Iterator[Stage]:
        """The stage as it is now, under DVC's repository lock; waits while another DVC process uses its files."""
        warned = False
        while True:
            with self._locked(repo):
                stage = repo.stage.load_one(node.path, node.stage)
                blocker = _blocker(stage)
                if blocker is None:
                    yield stage
                    return
            if not warned:
                say(f"waiting for another DVC process: {blocker}")
                warned = True
            if self._stopped:
                raise StageError("stopped before it began")
            time.sleep(POLL)

    @contextlib.contextmanager
    def _claim(self, stage: Stage) -> Iterator[None]:
        """DVC's read-write lock on the stage's files. The name makes it this stage's own: DVC tells holders by it."""
        with self._mutex:
            held = _rwlocked(stage, f"palimpsest rebuild: stage {stage.addressing}")
            held.__enter__()
        try:
            yield
        finally:
            with self._mutex:
                held.__exit__(None, None, None)

    def _restored(self, stage: Stage) -> bool:
        if self.force:
            return False
        try:
            stage.repo.stage_cache.restore(stage)
        except RunCacheNotFoundError:
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
            self._ledgers[node.path].record(stage)
            stage.repo.scm_context.track_file(os.path.relpath(self._ledgers[node.path].path))

    def _execute(self, node: Node, stage: Stage, environment: dict[str, str], say: Say) -> None:
        options: dict[str, Any] = prepare_kwargs(stage, run_env={"PYTHONUNBUFFERED": "1", **environment})
        log = self.log(node.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        with self._gpu(node, say) as held, log.open("w", encoding="utf-8") as file:
            self._logged.add(node.name)
            for command in _enforce_cmd_list(stage.cmd):
                say(f"> {command}")
                last = ""
                with self._started(_make_cmd(get_executable(), command), held, options) as process:
                    for line in lines(io.BufferedReader(Output(process))):
                        print(line, file=file, flush=True)
                        say(line)
                        last = line.strip() or last
                    code = process.wait()
                number = -code if code < 0 else code - 128
                if number in set(signal.Signals):
                    raise StageError(f"killed by {signal.Signals(number).name}")
                if code:
                    last = last.removeprefix(f"{node.name}: ")
                    raise StageError(f"exit code {code}" + (f": {last[:SHOWN]}" if last else ""))

    @contextlib.contextmanager
    def _gpu(self, node: Node, say: Say) -> Iterator[list[int]]:
        """The GPU for this stage alone, whichever of the user's working copies others run in."""
        if not node.gpu:
            yield []
            return
        which = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(os.sep, "_")
        file = Path(tempfile.gettempdir(), f"palimpsest-{os.getuid()}-gpu-{which}.lock")

        def pause() -> None:
            if self._stopped:
                raise StageError("stopped before it began")
            time.sleep(POLL)

        with alone(
            file, lambda other: say(f"waiting for the GPU, which a rebuild elsewhere has (PID {other})"), pause
        ) as held:
            yield [held]

    @contextlib.contextmanager
    def _started(self, words: list[str], held: list[int], options: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
        with self._door:
            if self._stopped:
                raise StageError("stopped before it began")
            # A session of its own: Ctrl-C reaches it through `stop`, once, and its children with it.
            process = supervisor.start(words, pass_fds=[self._held, *held], **options)
            self._running.add(process)
        try:
            with process:
                yield process
        finally:
            with self._door:
                self._running.discard(process)


def root() -> Path:
    """The working copy that the current folder lies in. Raises DvcException outside one."""
    return Path(Repo.find_root())


class Begun:
    """A stage that runs in a thread of its own, and is listened to later."""

    def __init__(self, work: Callable[[Say], Outcome]) -> None:
        self._said: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._end: Future[Outcome] = Future()
        self.thread = threading.Thread(target=self._run, args=(work,), daemon=True)
        self.thread.start()

    def _run(self, work: Callable[[Say], Outcome]) -> None:
        try:
            self._end.set_result(work(self._said.put))
        except BaseException as error:
            self._end.set_exception(error)
        self._said.put(None)

    def told(self, say: Say) -> Outcome:
        """Tell what it has said and will say; how it ends. To be called once."""
        for line in iter(self._said.get, None):
            say(line)
        return self._end.result()


class Output(io.RawIOBase):
    """What a command prints until it has ended, even where something that it leaves running could print on."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        self._process, self._pipe = process, process.stdout.fileno()
        self._news = select.poll()  # `select` knows no descriptor above 1023
        self._news.register(self._pipe, select.POLLIN)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        ended = False
        while not self._news.poll(0 if ended else 1000 * POLL):
            if ended:
                return 0
            ended = self._process.poll() is not None  # and then one look more
        data = os.read(self._pipe, len(buffer))
        buffer[: len(data)] = data
        return len(data)


def lines(output: IO[bytes]) -> Iterator[str]:
    """What a command prints, as lines for a log, each as soon as it is there.

    Of a progress bar, which is written over and over (`\\r`), one state in PROGRESS seconds and the last. Bytes that
    are no UTF-8, and zeros, are escaped; a line of more than LONGEST characters is broken.
    """
    shown, bar = -math.inf, ""
    with io.TextIOWrapper(output, encoding="utf-8", errors="backslashreplace", newline="") as text:
        for piece in iter(functools.partial(text.readline, LONGEST), ""):
            line = piece.rstrip("\r\n").replace("\0", "\\x00")
            if not piece.endswith("\r"):
                bar = ""
                yield line
            elif line and time.monotonic() - shown >= PROGRESS:
                shown, bar = time.monotonic(), ""
                yield line
            elif line:
                bar = line
    if bar:
        yield bar


@contextlib.contextmanager
def workspace(targets: Iterable[str] = (), *, force: bool = False, say: Say) -> Iterator[Workspace]:
    """The working copy that the current folder lies in, for this process alone until the block ends.

    Another rebuild is waited for, and so are commands that a killed one has left behind. A `dvc.lock`
    that a kill has cut off is mended.

    Raises InputError and DvcException as `graph.read` and `mend` do.
    """
    with opened(None) as repo:
        root, tmp = Path(repo.root_dir), Path(repo.tmp_dir)

    def waiting(other: str) -> None:
        say(f"waiting for another rebuild here (PID {other}), or a command that it left")

    with alone(tmp / "palimpsest.lock", waiting) as held:
        with opened(root) as repo, repo.lock:
            mend_rwlock(repo)
            for lock in {root / "dvc.lock", Path("dvc.lock").resolve(), *Journal(repo).paths()}:
                if mend(repo, lock):
                    say(f"{lock.name} had been cut off by a killed process: mended")
        plan = _planned(root, targets, force, say)
        orders: dict[str, list[str]] = {}
        for node in plan.nodes.values():
            if node.stage is not None:
                orders.setdefault(node.path, []).append(node.stage)
        ledgers = {path: Ledger(repo, path, order) for path, order in orders.items()}
        yield Workspace(plan, ledgers, held, force)


def forget(root: Path, name: str) -> None:
    """Remove what a killed training has kept to go on with: a forced one starts anew."""
    if entry := name.partition("@")[2]:
        home = root / os.environ.get("PALIMPSEST_STATE", ".palimpsest/state")
        for folder in home.glob(f"{entry}-{'[0-9a-f]' * 24}"):
            shutil.rmtree(folder)


def _planned(root: Path, targets: Iterable[str], force: bool, say: Say) -> Plan:
    warned = False
    while True:
        with opened(root) as repo, repo.lock:
            try:
                return graph.read(repo, targets, force)
            except LockError as error:
                blocker = " ".join(str(error).split())
        if not warned:
            say(f"waiting for another DVC process: {blocker}")
            warned = True
        time.sleep(POLL)


@contextlib.contextmanager
def opened(root: Path | None) -> Iterator[Repo]:
    """DVC's view of the working copy at `root` (None: that of the current folder), until the block ends."""
    repo = Repo(None if root is None else str(root), _wait_for_lock=True)
    try:
        yield repo
    finally:
        repo.close()


def mend_rwlock(repo: Repo) -> None:
    """DVC rewrites this file in place: a kill inside the write cuts it off, and then every DVC command refuses."""
    file = Path(repo.tmp_dir, RWLOCK_FILE)
    hardlink = repo.config["core"].get("hardlink_lock", False)
    with make_lock(str(file.with_name(RWLOCK_LOCK)), tmp_dir=repo.tmp_dir, hardlink_lock=hardlink):  # nobody writes now
        try:
            if file.exists():
                json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            file.write_text("{}", encoding="utf-8")


def _rwlocked(stage: Stage, holder: str) -> contextlib.AbstractContextManager[None]:
    repo = stage.repo
    reads = [dep.fs_path for dep in stage.deps if dep.protocol == "local"]
    writes = [out.fs_path for out in stage.outs if out.protocol == "local"]
    return rwlock(repo.tmp_dir, repo.fs, holder, reads, writes, repo.config["core"].get("hardlink_lock", False))


def _blocker(stage: Stage) -> str | None:
    """The other process that uses the stage's files, or None."""
    try:
        with _rwlocked(stage, f"palimpsest rebuild: stage {stage.addressing}"):
            return None
    except LockError as error:
        return " ".join(str(error).split("If there are no processes")[0].split())


def _inputs(stage: Stage) -> dict[str, object]:
    return {str(dep): dep.hash_info for dep in stage.deps}
