"""Prefect, offline and for this machine alone: its settings, and a server where none is running.

To be used before Prefect is imported, which reads its settings once.
"""

from __future__ import annotations

import atexit
import http.client
import os
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from flows.pipeline.run import LOGS, dying
from stages.runs.errors import InputError

HOME = Path(".palimpsest/prefect")
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

    Raises InputError where the server does not start.
    """
    os.environ.setdefault("PREFECT_HOME", str((root / HOME).resolve()))
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    if "PREFECT_API_URL" not in os.environ:
        os.environ["PREFECT_API_URL"] = _start(root)


def _start(root: Path) -> str:
    log = root / LOGS / "prefect-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
    with log.open("w") as file:
        # Its own session: Ctrl-C must not take it away from the flow that is ending.
        process = subprocess.Popen(
            [*dying(), *command], stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )

    def stop() -> None:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    atexit.register(stop)  # before Prefect registers its own, so after Prefect has sent its last words
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/health", timeout=5) as answer:
                if answer.status == 200:
                    return f"http://127.0.0.1:{port}/api"
        except (OSError, http.client.HTTPException):
            time.sleep(0.1)
    raise InputError(f"Prefect's server did not start; see {log}")
