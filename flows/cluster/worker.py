"""What a Dask worker does for a rebuild: one stage after the other, in a clone of its own that stays.

`hello` and `perform` are sent by `flows/cluster/dask.py` and run inside the worker; a stage runs in processes of its
own, tethered to the worker, so that nothing goes on when it is killed.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from distributed import Status, Worker, get_worker

from flows.checkout import snapshot
from flows.process import supervisor
from stages.runs import record
from stages.runs.errors import InputError

POLL = 0.2  # seconds
GRACE = 60  # seconds for a stage that is to end to save what it needs to go on

# Threads that a library takes: Dask sets them for its workers, and another number gives other bytes.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")

_turn = threading.Lock()  # a worker with several threads has still one clone


def hello(dask_worker: Worker) -> dict[str, Any]:
    """Who a worker is, for the machine that is to send it stages."""
    try:
        where = str(home())
    except (InputError, OSError) as error:
        return {"error": str(error)}
    return {"home": where, "program": program(), "environment": environment(), "gpus": gpus()}


def program() -> str:
    """A digest of what runs in the worker itself; all else comes with the clone."""
    files = (Path(__file__), Path(snapshot.__file__), Path(supervisor.__file__))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def environment() -> dict[str, Any]:
    """What another of can make a training end in other bytes, by name."""
    import dvc

    found = record.environment()
    return {
        "python": found["python"],
        "machine": found["machine"],
        "processor": found["processor"],
        "features": found["features"],
        "dvc": dvc.__version__,
        **found["libraries"],
    }


def gpus() -> list[str]:
    """The GPUs that this worker's stages use, by machine and number."""
    devices = [device.name[len("nvidia") :] for device in Path("/dev").glob("nvidia[0-9]*")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        devices = [name.strip() for name in chosen.split(",") if name.strip() not in ("", "-1")] if devices else []
    machine = Path("/proc/sys/kernel/random/boot_id").read_text().strip() if devices else ""
    return sorted(f"{machine}:{name}" for name in devices)


@functools.cache
def home() -> Path:
    """This process's own clone: $PALIMPSEST_WORKSPACES/N, the first that no other process has.

    Raises InputError where the folder is another user's.
    """
    base = Path(os.environ.get("PALIMPSEST_WORKSPACES") or Path(tempfile.gettempdir(), f"palimpsest-{os.getuid()}"))
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    base = base.resolve()
    if base.stat().st_uid != os.getuid():
        raise InputError(f"{base}: belongs to another user; name a folder of yours in PALIMPSEST_WORKSPACES")
    for number in itertools.count():
        handle = os.open(base / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(handle)
            continue
        _claims.append(handle)
        return base / str(number)
    raise AssertionError


_claims: list[int] = []  # open as long as this process lives, or any that it has started


def perform(order: Mapping[str, Any], commit: str, bundle: bytes | None, topic: str) -> dict[str, Any]:
    """Run one stage in this worker's clone and send what it made to the remote; its output goes to `topic` meanwhile.

    The answer of `flows/cluster/remote_stage.py`, with the number of lines that were said; or `{"needs": "bundle"}`
    where the clone does not have the commit.
    Ends the stage when nobody waits for it any more: the rebuild was interrupted, or killed.
    """
    worker = get_worker()
    key = str(worker.get_current_task())

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return worker.status in (Status.running, Status.paused) and task is not None and task.state == "executing"

    while not _turn.acquire(timeout=POLL):
        if not wanted():
            return {"error": "stopped before it began"}
    try:
        try:
            if not snapshot.check_out(commit, bundle, home()):
                return {"needs": "bundle"}
        except subprocess.CalledProcessError as error:
            return {"error": f"git: {error.stderr.strip()}"}
        except OSError as error:
            return {"error": f"{error.filename}: {error.strerror}"}
        said = 0
        with _started(order) as (process, answer):
            for lines in filter(None, _batches(process, wanted)):
                said += len(lines)
                worker.log_event(topic, {"key": key, "lines": lines})
            code = process.wait()
            if not answer.exists():
                return {"error": f"its process ended with code {code} and no answer", "said": said}
            return {**json.loads(answer.read_text(encoding="utf-8")), "said": said}
    finally:
        _turn.release()


@contextlib.contextmanager
def _started(order: Mapping[str, Any]) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """The process that does the order, and the file that its answer will be in."""
    folder = home().with_name(f"{home().name}.errand")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    (folder / "order.json").write_text(json.dumps(order), encoding="utf-8")
    own = {"PALIMPSEST_RECORDS", "PALIMPSEST_STATE", *THREADS}
    words = [
        sys.executable,
        "-m",
        "flows.cluster.remote_stage",
        str(folder / "order.json"),
        str(folder / "answer.json"),
    ]
    process = supervisor.start(
        words,
        cwd=home(),
        env={
            **{name: value for name, value in os.environ.items() if name not in own},
            **order["threads"],
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "DVC_NO_ANALYTICS": "1",
        },
        text=True,
        errors="replace",
        pass_fds=_claims,  # no other worker takes the clone before all that runs in it has ended
    )
    try:
        yield process, folder / "answer.json"
    finally:
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()  # the one ends what still runs
        process.wait()


def _batches(process: subprocess.Popen[str], wanted: Callable[[], bool]) -> Iterator[list[str]]:
    """What the process says, as it says it, until it ends; it is made to end when it is not wanted any more."""
    assert process.stdout is not None
    assert process.stdin is not None
    lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read(stream: Iterable[str] = process.stdout) -> None:
        with contextlib.suppress(ValueError):  # closed
            for line in stream:
                lines.put(line.rstrip("\n"))
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    limit = None
    while True:
        time.sleep(POLL)
        batch = [lines.get() for _ in range(lines.qsize())]
        yield [line for line in batch if line is not None]
        if None in batch:
            return
        if limit is None and not wanted():
            limit = time.monotonic() + GRACE
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
        if limit is not None and time.monotonic() > limit:
            process.stdin.close()
