"""Prefect, offline and for this machine alone: its settings, and a server where none is running.

To be used before Prefect is imported, which reads its settings once.
"""

from __future__ import annotations

import atexit
import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from pathlib import Path

from flows.pipeline.run import LOGS
from flows.pipeline.tether import tethered
from stages.runs.errors import InputError

HOME = Path(".palimpsest/prefect")
FLOW = "palimpsest flow"  # the name of the thread that runs Prefect
START = 180  # seconds for a server to start, on a machine that is busy

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a lost server must not hold up the stages
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(task_run_name)s | %(message)s",
}


def use(root: Path) -> None:
    """Point Prefect at the server that `PREFECT_API_URL` names, else at one that runs while this process does.

    Its runs are kept in `.palimpsest/prefect` of the working copy (or `PREFECT_HOME`).

    Raises InputError where the one does not answer or the other does not start.
    """
    os.environ.setdefault("PREFECT_HOME", str((root / HOME).resolve()))
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        _start(root)
    elif not answers():
        address = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"]).hostname  # not the password that it may hold
        raise InputError(f"PREFECT_API_URL: no Prefect server answers at {address}; start it, or unset the variable")


def in_vain() -> bool:
    """Whether Prefect would hold up the end of this process: by a flow that has not ended, or without its server."""
    at_work = any(thread.name == FLOW for thread in threading.enumerate())
    return at_work or ("PREFECT_API_URL" in os.environ and not answers())


def answers() -> bool:
    """Whether the server that Prefect has been pointed at is there."""
    try:
        with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _start(root: Path) -> None:
    """Start a server that ends with this process."""
    log = root / LOGS / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    api = f"http://127.0.0.1:{port}/api"
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        # Its own session: Ctrl-C must not take it away from the flow that is ending.
        process = subprocess.Popen(
            tethered(command),
            env={**os.environ, "PREFECT_UI_API_URL": api},  # its page would ask at Prefect's usual port
            stdin=subprocess.PIPE,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )

    def stop() -> None:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    atexit.register(stop)  # before Prefect registers its own, so after Prefect has sent its last words
    os.environ["PREFECT_API_URL"] = api
    import prefect.main  # noqa: F401 (its second of imports, while the server starts)

    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        if answers():
            return
        time.sleep(0.1)
    raise InputError(f"Prefect's server did not start; see {log}")
