"""`palimpsest schedule`: rebuild and retrain by the clock, as Prefect deployments, one at a time and unattended.

Prefect's server keeps the deployments, their cron lines and the runs; here is what takes a run that is due and does
it. Prefect's own `serve` would do, but it gives up, and ends the run that is going on, when its server has not
answered three times; it does ten missed runs ten times; and what it started outlives its kill.

A run is the command line (`palimpsest retrain`) in a process of its own on a tether: it runs the code that lies there
now, does the same by hand and by the clock, goes on where the server is lost, and ends when whatever started it ends.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import fcntl
import math
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import httpx
import prefect.runtime.flow_run
from prefect import flow, get_run_logger
from prefect._vendor.croniter import croniter
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterDeploymentId,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import FlowRunResponse
from prefect.client.schemas.schedules import CronSchedule
from prefect.context import refresh_global_settings_context
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.states import Cancelled, Completed, Crashed, Failed, Pending, Running, State
from pydantic import ValidationError
from tzlocal import get_localzone_name

from flows.engine.workspace import root as here
from flows.operations import alerts, run_log, scheduler_state
from flows.prefect_server import server
from flows.process import supervisor
from stages.runs.errors import InputError

LOGS = Path(".palimpsest/logs/scheduled")
KEPT = 200  # logs of scheduled runs
LOCK = Path(".palimpsest/scheduled.lock")  # held by the scheduled run that is going on
SOLE = Path(".palimpsest/schedule.lock")  # held by the scheduler
LOOPBACK, PORT = "127.0.0.1", 4200
POLL = 2.0  # seconds between two looks
WATCH = 60  # seconds between two looks at what has grown old
PAUSE = 30  # seconds between two starts of a server that ends
# Seconds that a run has to save what it needs to go on; systemd gives a service 90.
GRACE = float(os.environ.get("PALIMPSEST_GRACE", 60))
GONE = (httpx.HTTPError, PrefectException, OSError)  # how it shows that Prefect's server is not there

Say = Callable[[str], None]


# --- One run ---


class Job:
    """A command that runs in the working copy, on a tether."""

    def __init__(self, root: Path, command: str, identity: str, held: int, hear: Say) -> None:
        """Start it. `hear` gets every line that it says, from another thread; `held` is a lock that it keeps."""
        self.command = command
        self.id = identity
        self.log = LOGS / f"{command}-{datetime.now(UTC):%Y%m%dT%H%M%S}-{identity[:8]}.log"
        self.stopped = False  # it has been told to end
        self.bereft = False  # it has lost Prefect's server on the way, which may be why it fails
        self._root = root
        self._last = ""
        self._limit = math.inf  # when it has to have ended
        (root / LOGS).mkdir(parents=True, exist_ok=True)
        for old in sorted((root / LOGS).iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
        self._process = supervisor.start(
            [sys.executable, "-m", "flows.cli", command],
            cwd=root,
            # What Prefect tells the process of a flow is not for the flows that the command runs.
            env={
                **{name: value for name, value in os.environ.items() if not name.startswith("PREFECT__")},
                "PALIMPSEST_RUN": identity,
                "PALIMPSEST_LOG": str(self.log),
                "PYTHONUNBUFFERED": "1",
                server.PATIENCE: str(server.START),  # the scheduler is starting a lost server again
            },
            text=True,
            errors="replace",
            pass_fds=[held],
        )
        self._reader = threading.Thread(target=self._read, args=(hear,), daemon=True)
        self._reader.start()

    def ended(self) -> bool:
        return self._process.poll() is not None

    def late(self) -> bool:
        """Whether it has been told to end, and had the time to."""
        return time.monotonic() > self._limit

    def stop(self) -> None:
        """Tell it to end: it ends its stages, which save what they need to go on."""
        self.stopped = True
        self._limit = time.monotonic() + GRACE
        self._signal(signal.SIGINT)

    def wait(self, seconds: float | None = None) -> bool:
        """Whether it has ended within that time."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)
        return self.ended()

    def close(self) -> State[Any]:
        """What has become of it. What is left of it is killed."""
        assert self._process.stdin is not None
        self._process.stdin.close()  # its tether kills what has left the group, too
        code = self._process.wait()
        self._signal(signal.SIGKILL)
        self._reader.join(5)
        entry = next((run for run in run_log.entries(self._root) if run.id == self.id), None)
        if entry is None and code and not self.stopped:  # it did not get as far as its journal
            with run_log.run(self._root, self.command, self.id, str(self.log)) as run:
                run.end("failed", self._last or f"exit code {code}")
        if code == 0:
            words = entry.outcome.capitalize() if entry and entry.outcome in run_log.SUCCESSES else "Completed"
            return Completed(name=words, message=entry.message if entry else self._last)
        if self.stopped:
            return Cancelled(message="stopped; the next run goes on")
        if code - 128 in set(signal.Signals):
            return Failed(message=f"killed by {signal.Signals(code - 128).name}; log: {self.log}")
        return Failed(message=f"{self._last or f'exit code {code}'}; log: {self.log}")

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self, hear: Say) -> None:
        assert self._process.stdout is not None
        with (self._root / self.log).open("w", encoding="utf-8", errors="backslashreplace") as file:
            for line in self._process.stdout:
                file.write(line)
                file.flush()
                if line.strip():
                    self._last = line.strip()
                    hear(self._last)


@contextlib.contextmanager
def _lock(file: Path, wait: bool = False) -> Iterator[int | None]:
    """An flock, which ends with whoever holds its descriptor; None where another process has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield None
        else:
            yield handle
    finally:
        os.close(handle)


# --- For a work pool: `prefect deploy` of prefect.yaml, and a worker ---


@flow(name="retrain", persist_result=False)
def retrain() -> State[Any]:
    """`palimpsest retrain` in the working copy."""
    return _work("retrain")


@flow(name="rebuild", persist_result=False)
def rebuild() -> State[Any]:
    """`palimpsest rebuild` in the working copy."""
    return _work("rebuild")


def _work(command: str) -> State[Any]:
    root, say = here(), get_run_logger().info
    age = os.environ.get("PALIMPSEST_STALE_AFTER")
    after = alerts.span(age) if age else None
    with contextlib.ExitStack() as stack:
        held = stack.enter_context(_lock(root / LOCK))
        if held is None:
            say("waiting for the scheduled run that is going on here")
            held = stack.enter_context(_lock(root / LOCK, wait=True))
        assert held is not None
        job = Job(root, command, prefect.runtime.flow_run.id, held, say)
        try:
            job.wait()
        except BaseException:  # the worker ends, or the run is cancelled: in 30 seconds it kills
            job.stop()
            job.wait(20)
            job.close()
            raise
        state = job.close()
    if target := os.environ.get("PALIMPSEST_HOOK"):
        alerts.sound(root, target, after, say)
    return state


# --- The scheduler ---


class Stopped(BaseException):
    """SIGTERM or SIGINT, while nothing runs yet."""


class Signals:
    """SIGTERM and SIGINT, which end the scheduler when it comes to it: not in the middle of something."""

    def __init__(self) -> None:
        self.got: int | None = None  # the first
        self.count = 0
        self.patient = False  # else they are raised
        self._ear, self._mouth = socket.socketpair()
        self._ear.setblocking(False)
        self._mouth.setblocking(False)
        signal.set_wakeup_fd(self._mouth.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._hear)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # the end of a run is news as well

    def wait(self, seconds: float) -> None:
        """Until a signal comes, or a child ends, or the time is over."""
        select.select([self._ear], [], [], seconds)
        with contextlib.suppress(BlockingIOError):
            while self._ear.recv(4096):
                pass

    def close(self) -> None:
        """No signal is of interest any more: this process ends by itself."""
        self.patient = True
        signal.set_wakeup_fd(-1)
        self._ear.close()
        self._mouth.close()

    def _hear(self, number: int, _: object) -> None:
        self.got = self.got or number
        self.count += 1
        if not self.patient:
            raise Stopped


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the scheduler has been told."""

    crons: dict[str, str]  # command -> cron line
    zone: str  # of the cron lines
    name: str  # of the deployments
    host: str | None = None  # of a server of its own
    port: int | None = None
    hook: str | None = None
    stale_after: timedelta | None = None


class Scheduler:
    """Takes the runs that are due, one at a time, until it is told to end."""

    def __init__(self, root: Path, plan: Plan, signals: Signals, own: subprocess.Popen[bytes] | None, say: Say) -> None:
        self._root = root
        self._plan = plan
        self._signals = signals
        self._server = own  # None: somebody else's
        self._say = say
        self._commands: dict[UUID, str] = {}  # by deployment
        self._job: Job | None = None
        self._locked = contextlib.ExitStack()  # the lock of the run that is going on
        self._lines: collections.deque[tuple[str, datetime, str]] = collections.deque(maxlen=5000)  # for Prefect
        self._unsaid: dict[str, State[Any]] = {}  # run -> a state that Prefect has not been told
        self._alarm: threading.Thread | None = None
        self._waiting: set[UUID] = set()  # runs that have been said to wait
        self._again = 0.0  # when the server may be started again
        self._look = 0.0  # when there may be something to call the hook for
        self._told: set[str] = set()
        self._bereft: set[str] = set()  # runs that failed and had lost the server
        old = scheduler_state.read(root)
        now = datetime.now(UTC).isoformat()
        kept = {
            command: old.since[command]
            for command, cron in plan.crons.items()
            if old and old.crons.get(command) == cron and old.zone == plan.zone and command in old.since
        }
        self._table = scheduler_state.Timetable(
            pid=os.getpid(),
            process=run_log.process(os.getpid()),
            api=os.environ["PREFECT_API_URL"] if own else None,
            zone=plan.zone,
            crons=plan.crons,
            since={command: kept.get(command, now) for command in plan.crons},
            next={},
            stale_after=plan.stale_after.total_seconds() if plan.stale_after else None,
        )

    def register(self, client: SyncPrefectClient) -> None:
        """Make the deployments, or change them to this plan.

        Raises InputError where they are another working copy's.
        """
        for command in scheduler_state.COMMANDS:
            if not self._server:
                with contextlib.suppress(ObjectNotFound):
                    there = client.read_deployment_by_name(f"{command}/{self._plan.name}")
                    if there.path != str(self._root):
                        raise InputError(
                            f"the deployment {command}/{self._plan.name} on Prefect's server is of {there.path}; "
                            "choose another --name"
                        )
            cron = self._plan.crons.get(command)
            schedule = CronSchedule(cron=cron, timezone=self._plan.zone) if cron else None
            deployment = client.create_deployment(
                client.create_flow_from_name(command),
                self._plan.name,
                schedules=[DeploymentScheduleCreate(schedule=schedule, active=True)] if schedule else [],
                path=str(self._root),
                entrypoint=f"flows/schedule.py:{command}",
                description=f"`palimpsest {command}` in the working copy of `palimpsest schedule`",
                paused=False,
            )
            self._commands[deployment] = command
        scheduler_state.write(self._root, self._table)

    def run(self, client: SyncPrefectClient) -> None:
        """Until SIGTERM or SIGINT."""
        lost = True  # as if: what a killed scheduler has left is put right
        missed = met = False
        while not self._signals.got:
            try:
                if lost:
                    self._settle(client, all_of_them=self._server is not None and not met)
                    self._catch_up(client)
                    if missed:
                        self._say("schedule: Prefect's server answers again")
                    lost, missed, met = False, False, True
                self._tick(client)
            except GONE as error:
                lost = True
                if self._job:
                    self._job.bereft = True
                if not missed:
                    self._say(f"schedule: Prefect's server does not answer ({type(error).__name__}); trying again")
                    missed = True
                self._collect()
            self._keep_server()
            self._sound()
            self._signals.wait(POLL)
        self._end(client)

    def _tick(self, client: SyncPrefectClient) -> None:
        self._collect()
        self._report(client)
        if self._job and not self._job.stopped:
            state = client.read_flow_run(UUID(self._job.id)).state
            if state and (state.is_cancelling() or state.is_cancelled()):
                self._say(f"schedule: {self._job.command} is cancelled on Prefect's page")
                self._job.stop()
                since = {**self._table.since, self._job.command: datetime.now(UTC).isoformat()}
                self._table = dataclasses.replace(self._table, since=since)  # it is dealt with
                scheduler_state.write(self._root, self._table)
        runs = client.get_scheduled_flow_runs_for_deployments(list(self._commands))
        now = datetime.now(UTC)
        due = [run for run in runs if _time(run) <= now]
        for run in outdated(due):
            due.remove(run)
            message = "another that is due as well does for all that were missed"
            client.set_flow_run_state(run.id, Cancelled(name="Skipped", message=message), force=True)
        for run in due:
            if self._job is None:
                self._begin(client, run)
            elif run.id not in self._waiting:
                self._waiting.add(run.id)
                self._say(f"schedule: {self._command(run)} is due and waits for {self._job.command}")
        ahead: dict[str, str] = {}
        for run in sorted(runs, key=_time):
            if _time(run) > now:
                ahead.setdefault(self._command(run), _time(run).isoformat())
        if ahead != self._table.next:
            self._table = dataclasses.replace(self._table, next=ahead)
            scheduler_state.write(self._root, self._table)

    def _begin(self, client: SyncPrefectClient, run: FlowRunResponse) -> None:
        held = self._locked.enter_context(_lock(self._root / LOCK))
        if held is None:  # a worker of prefect.yaml, or what a killed scheduler has left for the moment
            self._locked.close()
            if run.id not in self._waiting:
                self._waiting.add(run.id)
                self._say(f"schedule: {self._command(run)} is due and waits for the scheduled run that is going on")
            return
        command, identity = self._command(run), str(run.id)
        try:
            client.set_flow_run_state(run.id, Pending(), force=True)
            client.set_flow_run_state(run.id, Running(), force=True)
            self._waiting.discard(run.id)

            def hear(line: str) -> None:
                self._lines.append((identity, datetime.now(UTC), line))

            self._job = Job(self._root, command, identity, held, hear)
        except BaseException:
            self._locked.close()
            raise
        self._say(f"schedule: {command} begins; log: {self._job.log}")

    def _collect(self, now: bool = False) -> None:
        """Note the end of the run that is going on, once it has come: at the latest GRACE after it was told to."""
        if self._job and (now or self._job.ended() or self._job.late()):
            if not self._job.ended():
                self._say(f"schedule: {self._job.command} did not end: it is killed")
            state = self._job.close()
            self._say(f"schedule: {self._job.command}: {(state.name or '').lower()}: {state.message}")
            self._unsaid[self._job.id] = state
            if state.is_failed() and (self._job.bereft or not server.answers()):
                self._bereft.add(self._job.id)
            self._look = 0.0
            self._job = None
            self._locked.close()

    def _report(self, client: SyncPrefectClient) -> None:
        """Tell Prefect what it has not been told: lines, and how runs have ended."""
        while self._lines:
            batch = [self._lines.popleft() for _ in range(min(200, len(self._lines)))]
            client.create_logs(
                [
                    {
                        "name": "palimpsest.schedule",
                        "level": 20,
                        "message": line,
                        "timestamp": at.isoformat(),
                        "flow_run_id": identity,
                    }
                    for identity, at, line in batch
                ]
            )
        for identity, state in [*self._unsaid.items()]:
            with contextlib.suppress(ObjectNotFound):  # somebody has deleted the run
                client.set_flow_run_state(UUID(identity), state, force=True)
            del self._unsaid[identity]

    def _settle(self, client: SyncPrefectClient, all_of_them: bool) -> None:
        """Runs that a killed scheduler has left as running are not: mark them.

        And those of the commands themselves where this server has only just started: they were of its last life.
        """
        types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        live = {str(self._job.id)} if self._job else set()
        live |= self._unsaid.keys()
        mine: FlowRunFilterDeploymentId | None = FlowRunFilterDeploymentId(any_=list(self._commands))
        if all_of_them and not any(run.outcome == "running" for run in run_log.entries(self._root)):
            mine = None
        query = FlowRunFilter(deployment_id=mine, state=FlowRunFilterState(type=FlowRunFilterStateType(any_=types)))
        for run in client.read_flow_runs(flow_run_filter=query):
            ours = run.deployment_id is None or run.deployment_id in self._commands  # not a work pool's
            if ours and str(run.id) not in live:
                client.set_flow_run_state(run.id, Crashed(message="its scheduler was killed"), force=True)

    def _catch_up(self, client: SyncPrefectClient) -> None:
        """One run for all that came due while nobody was there, or that did not come to an end."""
        runs = client.get_scheduled_flow_runs_for_deployments(list(self._commands), scheduled_before=datetime.now(UTC))
        queued = {self._command(run) for run in runs} | ({self._job.command} if self._job else set())
        done = {
            run.command: run.began
            for run in run_log.entries(self._root)
            if run.outcome in (*run_log.SUCCESSES, "failed") and run.id not in self._bereft
        }
        for deployment, command in self._commands.items():
            if command not in self._plan.crons or command in queued:
                continue
            due = last_due(self._plan.crons[command], self._plan.zone)
            since = datetime.fromisoformat(self._table.since[command])
            if due > max(since, done.get(command, since)):
                self._say(f"schedule: {command} was due at {due:%Y-%m-%d %H:%M} UTC and has not been done: it is now")
                client.create_flow_run_from_deployment(deployment, tags=["caught up"])

    def _keep_server(self) -> None:
        if self._server and self._server.poll() is not None and time.monotonic() > self._again:
            self._again = time.monotonic() + PAUSE
            self._say("schedule: Prefect's server has ended: it is started again")
            self._server = server.launch(self._root, self._plan.host or LOOPBACK, self._plan.port or PORT)

    def _sound(self) -> None:
        calm = time.monotonic() < self._look
        if self._plan.hook and not calm and not (self._alarm and self._alarm.is_alive()):
            self._look = time.monotonic() + WATCH
            words = (self._root, self._plan.hook, self._plan.stale_after, self._say, self._told)
            self._alarm = threading.Thread(target=alerts.sound, args=words, daemon=True)
            self._alarm.start()

    def _end(self, client: SyncPrefectClient) -> None:
        if self._job:
            self._say(f"schedule: {self._job.command} is told to save and end")
            self._job.stop()
            heard = self._signals.count
            while not self._job.ended() and not self._job.late() and self._signals.count == heard:
                self._signals.wait(0.1)
            self._collect(now=True)
        with contextlib.suppress(*GONE):
            self._report(client)
        self._sound()
        if self._alarm:
            self._alarm.join()

    def _command(self, run: FlowRunResponse) -> str:
        assert run.deployment_id is not None
        return self._commands[run.deployment_id]


def serve(root: Path, plan: Plan, say: Say) -> int:
    """Schedule until SIGTERM or SIGINT, and return the exit code for it: 0 or 130.

    Raises InputError where another scheduler runs here, or where Prefect's server is not to be had.
    """
    signals = Signals()
    try:
        with _lock(root / SOLE) as held, contextlib.ExitStack() as stack:
            if held is None:
                there = scheduler_state.read(root)
                raise InputError(f"another scheduler runs here{f' (PID {there.pid})' if there else ''}")
            own = None
            if server.elsewhere(root):
                if plan.host or plan.port:
                    raise InputError("--host and --port are for a server of the scheduler's own, not PREFECT_API_URL's")
            else:
                own = _own(root, plan)
            api = os.environ["PREFECT_API_URL"]
            refresh_global_settings_context()  # Prefect read its settings before the server was there
            client = stack.enter_context(get_client(httpx_settings={"timeout": 10}, sync_client=True))
            scheduler = Scheduler(root, plan, signals, own, say)
            _patiently(lambda: scheduler.register(client))
            for command in scheduler_state.COMMANDS:
                say(
                    f"schedule: {command}: {plan.crons.get(command, 'on demand only')}; now: "
                    f"PREFECT_API_URL={api} prefect deployment run {command}/{plan.name}"
                )
            say(f"schedule: times are of {plan.zone}; Prefect's page is {api.removesuffix('/api')}")
            signals.patient = True
            scheduler.run(client)
    except Stopped:
        pass
    finally:
        signals.close()
    say("schedule: ended")
    return 0 if signals.got == signal.SIGTERM else 130


def _own(root: Path, plan: Plan) -> subprocess.Popen[bytes]:
    host, port = plan.host or LOOPBACK, plan.port or PORT
    server.refuse_strangers(host)
    try:
        socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET).close()
    except OSError as error:
        raise InputError(f"port {port} of {host}: {error.strerror}; choose another --port") from None
    process = server.launch(root, host, port)
    server.wait(process, root)
    return process


def _patiently(ask: Callable[[], None], times: int = 5) -> None:
    """A server that has only just started may be too busy to do as it is asked."""
    for left in reversed(range(times)):
        try:
            return ask()
        except GONE as error:
            if not left:
                raise InputError(
                    f"Prefect's server does not do as it is asked ({type(error).__name__}); where it wants a password, "
                    f"set {server.PASSWORDS[1]}"
                ) from None
        time.sleep(POLL)


def _time(run: FlowRunResponse) -> datetime:
    assert run.expected_start_time is not None
    return run.next_scheduled_start_time or run.expected_start_time


def outdated(due: Sequence[FlowRunResponse]) -> list[FlowRunResponse]:
    """Of the runs that are due: those made by the clock for which a later one of the same command will do."""
    last = {run.deployment_id: run.id for run in sorted(due, key=_time) if run.auto_scheduled}
    return [run for run in due if run.auto_scheduled and last[run.deployment_id] != run.id]


def last_due(cron: str, zone: str) -> datetime:
    """When the cron line was last due."""
    return cast(datetime, croniter(cron, datetime.now(ZoneInfo(zone))).get_prev(datetime)).astimezone(UTC)


def checked(crons: dict[str, str | None], zone: str | None) -> tuple[dict[str, str], str]:
    """The cron lines that there are, and the time zone's name: by default the machine's.

    Raises InputError for a cron line or a zone that there is not, and where there is no cron line at all.
    """
    if not any(crons.values()):
        raise InputError("--cron: say when to retrain, as '0 3 * * *', or by --rebuild-cron when to rebuild")
    zone = zone or get_localzone_name()
    try:
        ZoneInfo(zone)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise InputError(f"--timezone {zone!r}: no such time zone; names are as Europe/Berlin") from None
    for command, cron in crons.items():
        option = "--cron" if command == "retrain" else f"--{command}-cron"
        if cron is None:
            continue
        try:
            CronSchedule(cron=cron, timezone=zone)
        except ValidationError:
            raise InputError(
                f"{option} {cron!r}: no cron line; five fields are minute, hour, day, month, weekday: '0 3 * * *'"
            ) from None
    return {command: cron for command, cron in crons.items() if cron}, zone
