"""Prefect's server: the one that `PREFECT_API_URL` names, or one that runs while this process does."""

from __future__ import annotations

import atexit
import http.client
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flows.prefect_server.settings import prepare
from flows.process import supervisor
from stages.runs.errors import InputError

LOG = Path(".palimpsest/logs/prefect-server.log")
LOGGED = 1_000_000  # bytes of a server's log from which on the next one begins another
PATIENCE = "PALIMPSEST_PATIENCE"  # names the seconds to wait for PREFECT_API_URL's server; a scheduler's run has some
START = 180  # seconds for a server to start, on a machine that is busy


def use(root: Path, scheduler: str | None) -> Callable[[], None]:
    """Point Prefect at the server that `PREFECT_API_URL` names, else at `scheduler`, the address of this working copy's
    scheduler's, else at one that runs while this process does. What is returned waits until it answers.

    Its runs are kept in `.palimpsest/prefect` of the working copy (or `PREFECT_HOME`).

    Raises InputError where the one does not answer or, when it is waited for, the other does not start.
    """
    if elsewhere(root):
        return lambda: None
    if scheduler:
        os.environ["PREFECT_API_URL"] = scheduler
        if answers("admin/version"):  # and wants no password
            return lambda: None
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = launch(root, "127.0.0.1", port)
    import prefect.main  # noqa: F401 (its second of imports, while the server starts)

    return lambda: wait(process, root)


def elsewhere(root: Path) -> bool:
    """Set Prefect up; whether `PREFECT_API_URL` names a server. Raises InputError where that does not answer."""
    prepare(root)
    if "PREFECT_API_URL" not in os.environ:
        return False
    if not answers_again():
        place = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"]).netloc
        if answers("api/health"):
            raise InputError(f"PREFECT_API_URL: the address of the Prefect server at {place} must end in /api")
        raise InputError(f"PREFECT_API_URL: no Prefect server answers at {place}; start it, or unset the variable")
    return True


def answers_again() -> bool:
    """Whether Prefect's server answers, now or within PALIMPSEST_PATIENCE seconds."""
    return _answers_within(float(os.environ.get(PATIENCE, 0)))


def answers(what: str = "health") -> bool:
    """Whether Prefect's server, at `PREFECT_API_URL`, answers the request for `what` without a password."""
    try:
        with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/{what}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def launch(root: Path, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server, which ends with this process at the latest, and set `PREFECT_API_URL` to its address."""
    log = root / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    if log.exists() and log.stat().st_size > LOGGED:
        log.replace(log.with_suffix(".old.log"))
    with log.open("a") as file:  # why the one before has ended stands there
        print(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: starts at port {port}", file=file, flush=True)
        # Its own session: Ctrl-C must not take it away from the flow that is ending.
        process = supervisor.start(command, stdout=file)
    # Registered before Prefect registers its own, so run after Prefect has sent its last words.
    atexit.register(stop, process)
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    os.environ["PREFECT_API_URL"] = f"http://{f'[{near}]' if ':' in near else near}:{port}/api"
    return process


def wait(process: subprocess.Popen[bytes], root: Path) -> None:
    """Until the server that `launch` has started answers. Raises InputError where it does not."""
    if not _answers_within(START, lambda: process.poll() is None):
        raise InputError(f"Prefect's server did not start; see {root / LOG}")


def _answers_within(seconds: float, alive: Callable[[], bool] = lambda: True) -> bool:
    end = time.monotonic() + seconds
    while not answers():
        if time.monotonic() > end or not alive():
            return False
        time.sleep(0.1)
    return True


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server that `launch` has started."""
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
