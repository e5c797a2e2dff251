"""Prefect's server: the one that the user's set-up of Prefect names, or one that runs while this process does."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from flows.prefect_server import database, settings
from flows.process import supervisor, words
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.context import SettingsContext
    from prefect.settings import Settings

LOG = Path(".palimpsest/logs/prefect-server.log")
LOGGED = 1_000_000  # bytes of a server's log from which on the next one begins another
PATIENCE = "PALIMPSEST_PATIENCE"  # names the seconds to wait for PREFECT_API_URL's server; a scheduler's run has some
OURS = "PALIMPSEST_SERVER"  # names the address of a server that palimpsest has started, here and in what it starts
START = 180  # seconds for a server to start, on a machine that is busy
TIMEOUT = 5  # seconds for an answer
_once: list[Settings] = []  # Prefect's settings, and those made from them by which nothing is asked again


def use(root: Path, scheduler: str | None) -> Callable[[], None]:
    """Point Prefect at the server that the user's set-up names, else at `scheduler`, the address of this working copy's
    scheduler's, else at one that runs while this process does. What is returned waits until it answers.

    Its runs are kept in `.palimpsest/prefect` of the working copy (or `PREFECT_HOME`).

    Raises InputError where the one does not answer or, when it is waited for, the other does not start.
    """
    if elsewhere(root):
        return lambda: None
    if scheduler:
        os.environ["PREFECT_API_URL"] = os.environ[OURS] = scheduler
        settings.reread()
        if trouble() is None:  # and its password is known, where it wants one
            return lambda: None
    held = socket.socket()  # so that nobody else is given the port until the server has it
    held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does, else it could not have it
    held.bind(("127.0.0.1", 0))
    process = launch(root, "127.0.0.1", held.getsockname()[1])
    import prefect.main  # noqa: F401 (its second of imports, while the server starts)

    def ready() -> None:
        with held:
            wait(process, root)

    return ready


def elsewhere(root: Path) -> bool:
    """Set Prefect up; whether the user's set-up names a server.

    That is `PREFECT_API_URL`, or Prefect's profile and files of settings (`settings.prepare`). An empty
    `PREFECT_API_URL` is none. Raises InputError where the server does not answer, or refuses.
    """
    in_files = "PREFECT_API_URL" not in os.environ
    settings.prepare(root)
    api = os.environ.get("PREFECT_API_URL")
    if not api:
        return False
    from flows.prefect_server import errors

    error = trouble()
    if error is None or (errors.gone(error) and answers_again()):
        return True
    parts = urllib.parse.urlsplit(api)
    if in_files and parts.hostname in settings.LOOPBACK and errors.gone(error):
        # Prefect's usual profile for a machine's own server, which does not run: `palimpsest schedule` may be it.
        words.say(f"Prefect's settings name a server at {parts.netloc}, where none answers: one is started")
        os.environ["PREFECT_API_URL"] = ""
        return False
    if errors.refuses(error):
        raise InputError(f"PREFECT_API_URL: {parts.netloc}: {errors.words(error)}")
    if _ask(_health, f"{api}/api") is None:
        raise InputError(f"PREFECT_API_URL: the address of the Prefect server at {parts.netloc} must end in /api")
    raise InputError(f"PREFECT_API_URL: no Prefect server answers at {parts.netloc}; start it, or unset the variable")


def ours() -> bool:
    """Whether palimpsest has started the server, which nobody else then watches."""
    return os.environ.get(OURS) == os.environ.get("PREFECT_API_URL")


def answers_again() -> bool:
    """Whether Prefect's server answers, now or within PALIMPSEST_PATIENCE seconds."""
    return _within(float(os.environ.get(PATIENCE, 0)), answers)


def answers() -> bool:
    """Whether Prefect's server, at `PREFECT_API_URL`, answers at all."""
    return _ask(_health) is None


def trouble() -> Exception | None:
    """What keeps Prefect's server from doing as it is asked; None where nothing does."""
    return _ask(lambda client: client.read_flows(limit=1))


def _health(client: SyncPrefectClient) -> None:
    client.request("GET", "/health")


def _ask(question: Callable[[SyncPrefectClient], object], api: str | None = None) -> Exception | None:
    """What goes wrong with a question, by Prefect's own client: it knows the key, the password, the certificates."""
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_KEY

    try:
        with (
            _without_retries(),
            SyncPrefectClient(
                api or os.environ["PREFECT_API_URL"],
                auth_string=PREFECT_API_AUTH_STRING.value(),
                api_key=PREFECT_API_KEY.value(),
                httpx_settings={"timeout": TIMEOUT},
            ) as client,
        ):
            question(client)
    except Exception as error:
        return error
    return None


def _without_retries() -> SettingsContext:
    """Prefect's settings, but that a question is asked once. To make them takes longer than most answers."""
    from prefect.context import SettingsContext, get_settings_context
    from prefect.settings import PREFECT_CLIENT_MAX_RETRIES

    now = get_settings_context()
    if not _once or _once[0] is not now.settings:
        _once[:] = now.settings, now.settings.copy_with_update({PREFECT_CLIENT_MAX_RETRIES: 0})
    return SettingsContext(profile=now.profile, settings=_once[1])


def launch(root: Path, host: str, port: int) -> subprocess.Popen[bytes]:
    """Start a server, which ends with this process at the latest, and set `PREFECT_API_URL` to its address."""
    log = root / LOG
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    if log.exists() and log.stat().st_size > LOGGED:
        log.replace(log.with_suffix(".old.log"))
    variables, locks = database.environment()
    with log.open("a") as file:  # why the one before has ended stands there
        print(f"--- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC: starts at port {port}", file=file, flush=True)
        # Its own session: Ctrl-C must not take it away from the flow that is ending.
        process = supervisor.start(command, stdout=file, env={**os.environ, **variables}, pass_fds=locks)
    # Registered before Prefect registers its own, so run after Prefect has sent its last words.
    atexit.register(stop, process)
    near = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    os.environ["PREFECT_API_URL"] = os.environ[OURS] = f"http://{f'[{near}]' if ':' in near else near}:{port}/api"
    settings.reread()
    return process


def wait(process: subprocess.Popen[bytes], root: Path) -> None:
    """Until the server that `launch` has started answers. Raises InputError where it does not."""
    place = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"])

    def ready() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((place.hostname, place.port), TIMEOUT):
            return answers()  # which costs more than to knock
        return False

    if not _within(START, ready, lambda: process.poll() is None):
        raise InputError(f"Prefect's server did not start; see {root / LOG}")


def _within(seconds: float, reached: Callable[[], bool], alive: Callable[[], bool] = lambda: True) -> bool:
    end = time.monotonic() + seconds
    while not reached():
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
