"""Prefect, offline and for this machine alone: its settings, and a server where none is running.

To be used before Prefect is imported, which reads its settings once.
"""

from __future__ import annotations

import atexit
import contextlib
import http.client
import ipaddress
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from flows.operations import scheduler_state
from flows.process import supervisor
from stages.runs.errors import InputError

HOME = Path(".palimpsest/prefect")
FLOW = "palimpsest flow"  # the name of the thread that runs Prefect
LOG = Path(".palimpsest/logs/prefect-server.log")
PASSWORDS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")  # the server's, its clients'
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY")  # some read the one, some the other
LOGGED = 1_000_000  # bytes of a server's log from which on the next one begins another
PATIENCE = "PALIMPSEST_PATIENCE"  # names the seconds to wait for PREFECT_API_URL's server; a scheduler's run has some
START = 180  # seconds for a server to start, on a machine that is busy

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",  # GTO's
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_UI_API_URL": "/api",  # the page asks where it came from, not port 4200
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a lost server must not hold up the stages
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(task_run_name)s | %(message)s",
}


def use(root: Path) -> Callable[[], None]:
    """Point Prefect at the server that `PREFECT_API_URL` names, else at this working copy's scheduler's, else at one
    that runs while this process does. What is returned waits until it answers.

    Its runs are kept in `.palimpsest/prefect` of the working copy (or `PREFECT_HOME`).

    Raises InputError where the one does not answer or, when it is waited for, the other does not start.
    """
    if not elsewhere(root):
        served = scheduler_state.read(root)
        if served and served.alive and served.api:
            os.environ["PREFECT_API_URL"] = served.api
            if answers("admin/version"):  # and wants no password
                return lambda: None
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        process = launch(root, "127.0.0.1", port)
        import prefect.main  # noqa: F401 (its second of imports, while the server starts)

        return lambda: wait(process, root)
    return lambda: None


def prepare(root: Path) -> None:
    """Prefect's settings. Those that the user's environment has stand.

    Raises InputError where `PREFECT_API_URL` is no address.
    """
    home = Path(os.environ.setdefault("PREFECT_HOME", str((root / HOME).resolve()))).expanduser()
    with contextlib.suppress(OSError):  # Prefect makes the last folder alone; why it cannot is for it to say
        home.mkdir(parents=True, exist_ok=True)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    direct = [host for name in NO_PROXY for host in os.environ.get(name, "").split(",") if host]
    if "*" not in direct:  # a proxy has nothing to do with this machine's own servers
        os.environ.update(dict.fromkeys(NO_PROXY, ",".join(dict.fromkeys([*direct, *LOOPBACK]))))
    if "PREFECT_API_URL" in os.environ:
        _without_password()
    # A server that is told a password tells it to nobody, and a client needs it too: by the environment alone.
    if password := next((os.environ[name] for name in PASSWORDS if os.environ.get(name)), None):
        for name in PASSWORDS:
            os.environ.setdefault(name, password)


def _without_password() -> None:
    """Part `PREFECT_API_URL`, which many see, from the password that it may hold."""
    try:
        parts = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"])
    except ValueError:
        raise InputError("PREFECT_API_URL: no address; it is as http://127.0.0.1:4200/api") from None
    account, at, place = parts.netloc.rpartition("@")
    os.environ["PREFECT_API_URL"] = parts._replace(netloc=place, path=parts.path.rstrip("/")).geturl()
    if at:
        os.environ.setdefault(PASSWORDS[1], urllib.parse.unquote(account))


def elsewhere(root: Path) -> bool:
    """Set Prefect up; whether `PREFECT_API_URL` names a server. Raises InputError where that does not answer."""
    prepare(root)
    if "PREFECT_API_URL" not in os.environ:
        return False
    if not back():
        place = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"]).netloc
        if answers("api/health"):
            raise InputError(f"PREFECT_API_URL: the address of the Prefect server at {place} must end in /api")
        raise InputError(f"PREFECT_API_URL: no Prefect server answers at {place}; start it, or unset the variable")
    return True


def back() -> bool:
    """Whether the server that Prefect has been pointed at answers, or does so within PALIMPSEST_PATIENCE seconds."""
    end = time.monotonic() + float(os.environ.get(PATIENCE, 0))
    while not answers():
        if time.monotonic() > end:
            return False
        time.sleep(1)
    return True


def in_vain() -> bool:
    """Whether Prefect would hold up the end of this process: by a flow that has not ended, or without its server."""
    at_work = any(thread.name == FLOW for thread in threading.enumerate())
    return at_work or ("PREFECT_API_URL" in os.environ and not answers())


def beside(
    run: Callable[[], None],
    settled: Callable[[], bool],
    stop: Callable[[], None],
    kill: Callable[[], None] = lambda: None,
) -> bool:
    """Run Prefect in a thread of its own, so that nothing that it does in vain can hold up what is to end.

    Whether it has ended: it is left alone where all is `settled` and it wants to tell that to a server that is not
    there. At Ctrl-C and the like `stop` is called, a second time `kill`, and then it goes through.
    """
    logging.getLogger("prefect.task_runs").addFilter(_told)
    over = threading.Event()  # to join a thread is not to be interrupted: Python 3.11 then takes it for ended

    def work() -> None:
        try:
            run()
        finally:
            over.set()

    def wait() -> None:
        while not over.wait(1):
            if settled() and not answers():
                return

    thread = threading.Thread(target=work, name=FLOW, daemon=True)
    thread.start()
    try:
        wait()
    except KeyboardInterrupt:
        stop()
        try:
            wait()
        except KeyboardInterrupt:
            kill()
        raise
    finally:
        if over.is_set():
            thread.join()
    return over.is_set()


def _told(record: logging.LogRecord) -> bool:
    """Prefect logs a task that returns a failure with the exception that there is none of, as "NoneType: None"."""
    if record.exc_info and record.exc_info[0] is None:
        record.exc_info = None
    return True


@contextlib.contextmanager
def sole(flow: str, root: Path) -> Iterator[None]:
    """Runs of `flow` that begin inside are marked as this working copy's, and what killed ones have left, as crashed.

    For the one process that may run the flow there now. The tag is not for the tasks: for each tag of a task, Prefect
    asks the server for a place.
    """
    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    tag = f"{socket.gethostname()}:{root}"  # others may use the same server
    _bury(flow, tag)
    # A heartbeat is for who watches from afar, and its thread takes up to a second to end.
    with tags(tag), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _bury(flow: str, tag: str) -> None:
    """Mark the runs of the flow with this tag that have not ended as crashed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    living = {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}
    with get_client(sync_client=True) as client:
        of_flow = FlowFilter.model_validate({"name": {"any_": [flow]}})
        left = FlowRunFilter.model_validate({"tags": {"all_": [tag]}, "state": {"type": living}})
        for run in client.read_flow_runs(flow_filter=of_flow, flow_run_filter=left):
            in_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            unfinished = TaskRunFilter.model_validate({"state": {"type": living}})
            for one in client.read_task_runs(flow_run_filter=in_run, task_run_filter=unfinished):
                client.set_task_run_state(one.id, Crashed(message=f"killed with its {flow}"), force=True)
            client.set_flow_run_state(run.id, Crashed(message="killed, or its server was"), force=True)


def refuse_strangers(host: str) -> None:
    """Raise InputError where a server at `host` could be reached from other machines and asks nobody who they are."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name may mean anything
        loopback = False
    if not loopback and not any(os.environ.get(name) for name in PASSWORDS):
        raise InputError(
            f"--host {host}: others could reach Prefect's server, which runs code for whoever asks; set "
            f"{PASSWORDS[0]}=USER:PASSWORD in the environment, or leave --host out"
        )


def answers(what: str = "health") -> bool:
    """Whether the server that Prefect has been pointed at is there, and says `what` to anybody."""
    try:
        with urllib.request.urlopen(f"{os.environ['PREFECT_API_URL']}/{what}", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, http.client.HTTPException):
        return False


def launch(root: Path, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server that ends with this process, at the latest, and point Prefect at it."""
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
    end = time.monotonic() + START
    while time.monotonic() < end and process.poll() is None:
        if answers():
            return
        time.sleep(0.1)
    raise InputError(f"Prefect's server did not start; see {root / LOG}")


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
