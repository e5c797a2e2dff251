"""Serves `fork_client`: `fork_server.py SOCKET`. It has imported the libraries, and every process that it is asked for
is forked from it. It ends when nobody is connected any more.

It has imported no file of ours and computed nothing. What a process still has of it, and not from its own environment:
the command line that others see, Python's hash seed, and what a library reads once, at its import (OMP_NUM_THREADS,
HOME in Prefect's case).
"""

import atexit
import contextlib
import ctypes
import fcntl
import gc
import importlib
import io
import json
import logging
import multiprocessing.util
import os
import random
import runpy
import selectors
import signal
import socket
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

from fork_client import NAMESPACES

# Not `prefect.main`, which sets its logging up as the environment says, nor `distributed`, which alters how exceptions
# are pickled.
LIBRARIES = (
    "torch", "torch._dynamo", "torchvision", "lightning_fabric", "pyarrow.parquet", "pydantic", "scipy.stats",
    "scipy.ndimage", "scipy.sparse.linalg", "dvc.cli.parser", "dvc.repo", "dvc.scm", "networkx",
    "prefect.flows", "prefect.tasks", "prefect.deployments", "prefect.events", "prefect.server.api.server",
    "fastapi.encoders", "typer", "ruamel.yaml", "tabulate", "configobj", "psutil", "hypothesis",
    "securesystemslib.signer", "cryptography.hazmat.primitives.serialization",
)  # fmt: skip
MESSAGE = 1 << 20  # bytes


def serve(listener: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """In a process that was asked for: what it is to become, and the open files for it. None when nobody is left."""
    waking, woken = socket.socketpair()
    for end in (waking, woken):
        end.setblocking(False)
    signal.set_wakeup_fd(woken.fileno(), warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running: dict[int, socket.socket] = {}
    connected: set[socket.socket] = set()
    with selectors.DefaultSelector() as selector:
        for end in (listener, waking):
            selector.register(end, selectors.EVENT_READ)
        while True:
            events = selector.select(None if connected else 10)
            if not events:
                return None
            for key, _ in events:
                ready: socket.socket = key.fileobj  # type: ignore[assignment]
                if ready is listener:
                    connection, _ = listener.accept()
                    connected.add(connection)
                    selector.register(connection, selectors.EVENT_READ)
                elif ready is waking:
                    waking.recv(1000)
                    for pid, code in _ended():
                        with contextlib.suppress(OSError):
                            running.pop(pid).send(str(code).encode())
                elif (said := _received(ready))[0]:
                    request, fds = json.loads(said[0]), said[1]
                    if not (pid := os.fork()):
                        signal.set_wakeup_fd(-1)
                        for end in (listener, waking, woken, *connected):
                            end.close()
                        return request, fds
                    os.setpgid(pid, pid)  # signals are for all that it starts
                    running[pid] = ready
                    for fd in fds:
                        os.close(fd)
                    with contextlib.suppress(OSError):  # who has asked is gone, which is seen next
                        ready.send(str(pid).encode())
                else:  # who has asked is gone
                    selector.unregister(ready)
                    connected.discard(ready)
                    for pid in [pid for pid, asker in running.items() if asker is ready]:
                        with contextlib.suppress(ProcessLookupError, PermissionError):
                            os.kill(pid, signal.SIGKILL)
                            os.killpg(pid, signal.SIGKILL)
                    ready.close()


def _received(connection: socket.socket) -> tuple[bytes, list[int]]:
    try:
        message, fds, _, _ = socket.recv_fds(connection, MESSAGE, 250)
        return message, fds
    except OSError:
        return b"", []


def _ended() -> list[tuple[int, int]]:
    found = []
    with contextlib.suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG))[0]:
            found.append((ended[0], os.waitstatus_to_exitcode(ended[1])))
    return found


def become(request: dict[str, Any], fds: list[int]) -> None:
    """Run what was asked for, as a new interpreter would."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for kind, namespace in zip(NAMESPACES, fds, strict=False):
        elsewhere = os.fstat(namespace).st_ino != Path(f"/proc/self/ns/{kind}").stat().st_ino
        if elsewhere and ctypes.CDLL(None, use_errno=True).setns(namespace, 0):
            raise OSError(ctypes.get_errno(), f"setns {kind}")
        os.close(namespace)
    del fds[: len(NAMESPACES)]
    above = max(request["fds"]) + 1
    moved = [fcntl.fcntl(fd, fcntl.F_DUPFD, above) for fd in fds]
    for fd in fds:
        os.close(fd)
    for fd, number in zip(moved, request["fds"], strict=True):
        os.dup2(fd, number)
        os.close(fd)
    os.chdir(request["home"])
    env: dict[str, str] = request["env"]
    os.environ.clear()
    os.environ.update(env)
    if env.get("PYTHONUNBUFFERED"):
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", "strict", write_through=True)
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    own = Path(__file__).parent
    path = [request["home"], *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.path[:] = [*path, *(name for name in sys.path if not Path(name).is_relative_to(own))]
    if python := env.get("FORKED_PYTHON"):  # so are the processes that it starts
        sys.executable = python
        multiprocessing.set_executable(python)
    kind, what, *words = request["words"]
    sys.argv[:] = [kind, *words]
    if what.partition(".")[0] == "prefect":  # it knows the settings of its import
        sys.modules["prefect.context"].refresh_global_settings_context()
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        main = type(sys)("__main__")
        sys.modules["__main__"] = main
        exec(compile(what, "<string>", "exec"), main.__dict__)


def main() -> None:
    address = sys.argv[1]
    for name in LIBRARIES:
        importlib.import_module(name)
    # What the libraries would tidy up at their end is this process's; to do it in the others would copy it into each.
    for known in weakref.finalize._registry.values():  # type: ignore[attr-defined]
        known.atexit = False
    atexit._clear()
    for kept in (weakref.finalize._exitfunc, multiprocessing.util._exit_function, logging.shutdown):  # type: ignore[attr-defined]
        atexit.register(kept)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        draft = f"{address}.draft"
        Path(draft).unlink(missing_ok=True)
        listener.bind(draft)
        listener.listen(100)
        Path(draft).rename(address)
        gc.collect()
        gc.freeze()  # else each look of the garbage collector in a process would be at all this, and copy it
        asked = serve(listener)
    if not asked:
        os._exit(0)
    try:
        become(*asked)
        code: object = 0
    except SystemExit as ending:
        code = ending.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    _exit(code)


def _exit(code: object) -> None:
    """As an interpreter ends, but for taking itself to pieces: that would copy all that it shares with the others."""
    if code is not None and not isinstance(code, int):
        print(code, file=sys.stderr)
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit((code or 0) & 0xFF)


if __name__ == "__main__":
    main()
