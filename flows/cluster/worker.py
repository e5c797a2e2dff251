"""What a Dask worker does for a rebuild: one stage after the other, in a clone of its own that stays.

`hello` and `perform` are sent by `flows/cluster/dask.py` and run inside the worker; a stage runs in processes of its
own, supervised by the worker's, so that nothing goes on when it is killed.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import os
import queue
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from distributed import Status, Worker, get_worker

from flows.checkout import git, snapshot
from flows.engine import resources
from flows.process import command, file_lock, private_folder, supervisor, words
from flows.process.command import Command
from stages.runs import record
from stages.runs.errors import InputError

POLL = 0.2  # seconds
GRACE = 60  # seconds for a stage that is to end to save what it needs to go on

# Threads that a library takes: Dask sets them for its workers, and another number gives other bytes.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_mutex = threading.Lock()  # a worker with several threads has still one clone


def hello(dask_worker: Worker) -> dict[str, Any]:
    """A worker's clone, program, environment and GPUs; or the `error` for which it cannot run stages."""
    try:
        where = str(home())
    except (InputError, OSError) as error:
        return {"error": str(error)}
    return {"home": where, "program": program(), "environment": environment(), "gpus": gpus()}


def program() -> str:
    """A digest of what runs in the worker itself; all else comes with the clone."""
    modules = (command, file_lock, git, private_folder, resources, snapshot, supervisor, words)
    files = (__file__, *(module.__file__ for module in modules))
    return hashlib.sha256(b"".join(Path(str(file)).read_bytes() for file in files)).hexdigest()


def environment() -> dict[str, Any]:
    """The versions and the hardware that can change the bytes of a training, by name."""
    found = record.environment()
    return {
        "python": found["python"],
        "machine": found["machine"],
        "processor": found["processor"],
        "features": found["features"],
        "dvc": metadata.version("dvc"),
        **found["libraries"],
    }


def gpus() -> list[str]:
    """The GPUs that this worker's stages use, by machine and number."""
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return [f"{machine}:{name}" for name in resources.gpus()]


@functools.cache
def home() -> Path:
    """The folder of this process's own clone: $PALIMPSEST_WORKSPACES/N, the first that no other process has.

    Raises InputError where the folder is another user's.
    """
    base = Path(os.environ.get("PALIMPSEST_WORKSPACES") or Path(tempfile.gettempdir(), f"palimpsest-{os.getuid()}"))
    try:
        private_folder.make(base)
    except PermissionError as error:
        raise InputError(f"{base}: {error.strerror}; name a folder of yours in PALIMPSEST_WORKSPACES") from None
    base = base.resolve()
    for number in itertools.count():
        if (lock := file_lock.acquire(base / f"{number}.lock")) is not None:
            _locks.append(lock)
            return base / str(number)
    raise AssertionError


_locks: list[int] = []  # open as long as this process lives, or any that it has started


def perform(order: Mapping[str, Any], commit: str, bundle: bytes | None, topic: str) -> dict[str, Any]:
    """Run one stage in this worker's clone and send what it made to the remote; its output goes to `topic` meanwhile.

    Returns the answer of `flows/cluster/remote_stage.py`, with the number of lines that were sent (`said`); or
    `{"needs": "bundle"}` where the clone does not have the commit. Ends the stage when its Dask task is cancelled or
    forgotten: the rebuild was interrupted, or killed.
    """
    worker = get_worker()
    key = str(worker.get_current_task())

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in (Status.running, Status.paused) and task is not None and task.state == "executing"

    while not _mutex.acquire(timeout=POLL):
        if not wanted():
            return {"error": "stopped before it began"}
    try:
        try:
            if not snapshot.check_out(commit, bundle, home()):
                return {"needs": "bundle"}
        except git.GitError as error:
            return {"error": str(error)}
        except OSError as error:
            return {"error": f"{error.filename}: {error.strerror}"}
        folder = home().with_name(f"{home().name}.stage")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
        said = 0
        with _started(order, folder) as process:
            for lines in _batches(process, wanted):
                said += len(lines)
                worker.log_event(topic, {"key": key, "lines": lines})
            code = process.wait()
        if not (folder / "answer.json").exists():
            return {"error": f"its process ended with code {code} and no answer", "said": said}
        return {**json.loads((folder / "answer.json").read_text(encoding="utf-8")), "said": said}
    finally:
        _mutex.release()


def _started(order: Mapping[str, Any], folder: Path) -> Command:
    """The process that runs the stage; it reads `order.json` in `folder` and writes `answer.json` there."""
    own = {"PALIMPSEST_RECORDS", "PALIMPSEST_STATE", *THREADS}
    module = [sys.executable, "-m", "flows.cluster.remote_stage"]
    return Command(
        [*module, str(folder / "order.json"), str(folder / "answer.json")],
        cwd=home(),
        env={
            **{name: value for name, value in os.environ.items() if name not in own},
            **order["threads"],
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "DVC_NO_ANALYTICS": "1",
        },
        pass_fds=_locks,  # no other worker takes the clone before all that runs in it has ended
    )


def _batches(process: Command, wanted: Callable[[], bool]) -> Iterator[list[str]]:
    """The lines that the process prints, a list at a time. It is told to end when it is not wanted any more."""
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    process.listen(lines.put)
    limit = math.inf
    ended = False
    while not ended:
        ended = process.silent(POLL)
        if batch := [lines.get() for _ in range(lines.qsize())]:
            yield batch
        if limit == math.inf and not ended and not wanted():
            limit = time.monotonic() + GRACE
            process.signal(signal.SIGTERM)
        if time.monotonic() > limit:
            process.kill()
