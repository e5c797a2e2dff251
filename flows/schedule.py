"""`palimpsest schedule`: rebuild, retrain and verify by the clock, as Prefect deployments, one at a time.

Prefect's server keeps the deployments, their cron lines and the runs. The scheduler here takes runs that are due and
does them. (Prefect's own worker, tried with 3.8.8, keeps its place through a lost server, but SIGTERM makes it kill its
run unsaved within five seconds; what it started outlives its kill; after a power cut the lost run takes the pool's one
place for ever; and of ten missed runs it does six or more. `serve` also ends the run after minutes without a server.)

A run is the command line (`palimpsest retrain`) in a supervised process of its own: it runs the code that lies there
now, does the same by hand and by the clock, goes on where the server is lost, and ends when whatever started it ends.
"""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import os
import queue
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import prefect.runtime.flow_run
from cronsim import CronSim, CronSimError
from prefect import flow, get_run_logger
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
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled, Crashed, Pending, Running, State
from pydantic import ValidationError
from tzlocal import get_localzone_name

from flows.checkout.root import working_copy
from flows.operations import alerts, run_log, scheduler_state
from flows.operations.scheduled_run import ScheduledRun
from flows.operations.scheduler_state import COMMANDS, SchedulerState
from flows.prefect_server import errors, server, settings
from flows.prefect_server.runs import working_copy_id
from flows.process import file_lock
from flows.process.command import Say
from flows.process.identity import process_name
from stages.runs.errors import InputError

RUN_LOCK = Path(".palimpsest/scheduled.lock")  # held by the scheduled run that is going on
LOOPBACK, PORT = "127.0.0.1", 4200
ALIASES = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
           "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}  # fmt: skip
POLL = 2.0  # seconds between two looks
WATCH = 60  # seconds between two looks for alerts
PAUSE = 30  # seconds between two starts of a server that ends
OWNER = "scheduled-by:"  # begins a deployment's tag, which ends with the ID of its working copy
GONE = "gone"  # the trouble that Prefect's server does not answer, by whichever sign
TROUBLE = (*errors.OF_PREFECT, OSError)  # ends no scheduler

# --- For a work pool: `prefect deploy` of prefect.yaml, and a worker ---


@flow(name="retrain", persist_result=False)
def retrain() -> State[Any]:
    """`palimpsest retrain` in the working copy."""
    return _work("retrain")


@flow(name="rebuild", persist_result=False)
def rebuild() -> State[Any]:
    """`palimpsest rebuild` in the working copy."""
    return _work("rebuild")


@flow(name="audit", persist_result=False)
def audit() -> State[Any]:
    """`palimpsest audit verify` in the working copy."""
    return _work("audit")


def _work(command: str) -> State[Any]:
    root, say = working_copy(), get_run_logger().info
    age = os.environ.get("PALIMPSEST_STALE_AFTER")
    after = alerts.span(age) if age else None
    with file_lock.lock(root / RUN_LOCK, lambda _: say("waiting for the scheduled run that is going on here")) as held:
        run = ScheduledRun(root, command, prefect.runtime.flow_run.id)
        run.start(held, say)
        try:
            run.wait()
        except BaseException:  # the worker ends, or the run is cancelled: in 30 seconds it kills
            run.stop()
            run.wait(20)
            run.close()
            raise
        state = run.close()
    if target := os.environ.get("PALIMPSEST_HOOK"):
        alerts.send(root, target, after, say)
    return state


# --- The scheduler ---


class Signals:
    """SIGTERM and SIGINT are noted and end the scheduler between two steps; before it runs, they end it at once."""

    def __init__(self) -> None:
        self.got: int | None = None  # the first
        self.count = 0
        self.deferred = False  # until then they raise KeyboardInterrupt
        self._news: queue.SimpleQueue[None] = queue.SimpleQueue()  # its `put` may be called in a signal handler
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)
        signal.signal(signal.SIGCHLD, lambda *_: self._news.put(None))  # so that the end of a run ends `wait`

    def wait(self, seconds: float) -> None:
        """Until a signal comes, or a child ends, or the time is over."""
        with contextlib.suppress(queue.Empty):
            self._news.get(timeout=seconds)
            while True:
                self._news.get_nowait()

    def _handle(self, number: int, _: object) -> None:
        self.got = self.got or number
        self.count += 1
        self._news.put(None)
        if not self.deferred:
            raise KeyboardInterrupt


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the scheduler is to do."""

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
        self._running: ScheduledRun | None = None
        self._lock = contextlib.ExitStack()  # the lock of the run that is going on
        self._lines: collections.deque[tuple[str, datetime, str]] = collections.deque(maxlen=5000)  # for Prefect
        self._unreported: dict[str, State[Any]] = {}  # run -> a final state that Prefect does not know yet
        self._alerts: threading.Thread | None = None
        self._waiting: set[UUID] = set()  # runs that have been said to wait
        self._again = 0.0  # when the server may be started again
        self._look = 0.0  # when alerts are looked for again
        self._sent: set[str] = set()  # alerts
        self._lost_server: set[str] = set()  # runs that failed and had lost the server
        self._behind = True  # things are to be put right: what a killed scheduler or a loss of the server has left
        self._met = False  # the server has answered once
        self._told: set[str] = set()  # troubles that have been told, and are not over
        self._deleted: set[str] = set()  # runs that go on though somebody has deleted them on Prefect's page
        self._unsaved = False  # `_state` is newer than its file
        self._search = 0.0  # when deleted deployments are searched for again
        old = scheduler_state.read(root)
        now = datetime.now(UTC).isoformat()
        kept = {
            command: old.since[command]
            for command, cron in plan.crons.items()
            if old and old.crons.get(command) == cron and old.zone == plan.zone and command in old.since
        }
        self._state = SchedulerState(
            pid=os.getpid(),
            process=process_name(os.getpid()),
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
        for command in COMMANDS:
            self._make(client, command)
        scheduler_state.write(self._root, self._state)

    def _make(self, client: SyncPrefectClient, command: str) -> None:
        mine = OWNER + working_copy_id(self._root)
        if not self._server:
            with contextlib.suppress(ObjectNotFound):
                there = client.read_deployment_by_name(f"{command}/{self._plan.name}")
                owners = [tag for tag in there.tags if tag.startswith(OWNER)]
                if there.path != str(self._root) or owners not in ([], [mine]):
                    place = " of another machine" if there.path == str(self._root) else ""
                    raise InputError(
                        f"the deployment {command}/{self._plan.name} on Prefect's server is of {there.path}{place}; "
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
            description=f"`palimpsest {' '.join(COMMANDS[command])}` in the working copy of `palimpsest schedule`",
            tags=[mine],
            paused=False,
        )
        self._commands[deployment] = command

    def run(self, client: SyncPrefectClient) -> None:
        """Until SIGTERM or SIGINT."""
        while not self._signals.got:
            self._attend(self._collect)
            self._attend(lambda: self._step(client))
            self._attend(self._keep_server)
            self._send_alerts()
            self._signals.wait(POLL)
        self._end(client)

    def _step(self, client: SyncPrefectClient) -> None:
        if self._behind or time.monotonic() >= self._search:
            self._search = time.monotonic() + WATCH
            self._restore(client)
        if self._behind:
            self._settle(client, all_of_them=self._server is not None and not self._met)
            self._catch_up(client)
            self._behind, self._met = False, True
        self._tick(client)
        if self._told:
            self._say("schedule: Prefect's server answers again" if GONE in self._told else "schedule: it goes on")
            self._told.clear()

    def _attend(self, do: Callable[[], None]) -> None:
        """Do something; what troubles it is told, once, and put right when it is over."""
        try:
            do()
        except TROUBLE as error:
            gone = errors.gone(error)
            if gone and self._running:
                self._running.lost_server = True
            self._behind = True
            line = errors.words(error)
            trouble = GONE if gone else line
            # What was deleted is looked for in the next step, and told there.
            if trouble not in self._told and not isinstance(error, ObjectNotFound):
                self._say(f"schedule: {line}; trying again")
                self._told.add(trouble)

    def _restore(self, client: SyncPrefectClient) -> None:
        """Make the deployments anew that somebody has deleted on Prefect's page."""
        for deployment, command in [*self._commands.items()]:
            try:
                client.read_deployment(deployment)
            except ObjectNotFound:
                self._say(f"schedule: {command}/{self._plan.name} was deleted on Prefect's page: it is made anew")
                self._make(client, command)
                del self._commands[deployment]
                self._behind = True

    def _cancelled(self, client: SyncPrefectClient, run: ScheduledRun) -> bool:
        try:
            state = client.read_flow_run(UUID(run.id)).state
        except ObjectNotFound:
            if run.id not in self._deleted:
                self._deleted.add(run.id)
                self._say(f"schedule: {run.command} was deleted on Prefect's page; it goes on all the same")
            return False
        return state is not None and (state.is_cancelling() or state.is_cancelled())

    def _tick(self, client: SyncPrefectClient) -> None:
        self._report(client)
        if self._running and not self._running.stopped and self._cancelled(client, self._running):
            self._say(f"schedule: {self._running.command} is cancelled on Prefect's page")
            self._running.stop()
            since = {**self._state.since, self._running.command: datetime.now(UTC).isoformat()}
            self._state, self._unsaved = dataclasses.replace(self._state, since=since), True  # it is dealt with
        runs = client.get_scheduled_flow_runs_for_deployments(list(self._commands))
        now = datetime.now(UTC)
        due = [run for run in runs if _time(run) <= now]
        for run in outdated(due):
            due.remove(run)
            message = "another that is due as well does for all that were missed"
            client.set_flow_run_state(run.id, Cancelled(name="Skipped", message=message), force=True)
        for run in due:
            if self._running is None:
                self._begin(client, run)
            elif run.id not in self._waiting:
                self._waiting.add(run.id)
                self._say(f"schedule: {self._command(run)} is due and waits for {self._running.command}")
        ahead: dict[str, str] = {}
        for run in sorted(runs, key=_time):
            if _time(run) > now:
                ahead.setdefault(self._command(run), _time(run).isoformat())
        if ahead != self._state.next:
            self._state, self._unsaved = dataclasses.replace(self._state, next=ahead), True
        if self._unsaved:
            scheduler_state.write(self._root, self._state)
            self._unsaved = False

    def _begin(self, client: SyncPrefectClient, run: FlowRunResponse) -> None:
        held = file_lock.acquire(self._root / RUN_LOCK)
        if held is None:  # a worker of prefect.yaml, or what a killed scheduler has left for the moment
            if run.id not in self._waiting:
                self._waiting.add(run.id)
                self._say(f"schedule: {self._command(run)} is due and waits for the scheduled run that is going on")
            return
        self._lock.callback(os.close, held)
        command, identity = self._command(run), str(run.id)
        with contextlib.ExitStack() as undo:  # where the disk is full, or the server gone, the run stays due
            undo.callback(self._lock.close)
            next_run = ScheduledRun(self._root, command, identity)
            undo.callback(next_run.discard)
            client.set_flow_run_state(run.id, Pending(), force=True)
            client.set_flow_run_state(run.id, Running(), force=True)
            self._waiting.discard(run.id)

            def forward(line: str) -> None:
                self._lines.append((identity, datetime.now(UTC), line))

            next_run.start(held, forward)
            undo.pop_all()
        self._running = next_run
        self._say(f"schedule: {command} begins; log: {self._running.log}")

    def _collect(self, now: bool = False) -> None:
        """Note the end of the run that is going on, once it has come: at the latest GRACE after it was told to."""
        if self._running and (now or self._running.ended() or self._running.late()):
            if not self._running.ended():
                self._say(f"schedule: {self._running.command} did not end: it is killed")
            state = self._running.close()
            self._say(f"schedule: {self._running.command}: {(state.name or '').lower()}: {state.message}")
            self._unreported[self._running.id] = state
            if state.is_failed() and (self._running.lost_server or not server.answers()):
                self._lost_server.add(self._running.id)
            self._look = 0.0
            self._running = None
            self._lock.close()

    def _report(self, client: SyncPrefectClient) -> None:
        """Send Prefect the lines of runs, and how they have ended, as far as it does not know."""
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
        for identity, state in [*self._unreported.items()]:
            with contextlib.suppress(ObjectNotFound):  # somebody has deleted the run
                client.set_flow_run_state(UUID(identity), state, force=True)
            del self._unreported[identity]

    def _settle(self, client: SyncPrefectClient, all_of_them: bool) -> None:
        """Mark the runs that a killed scheduler has left as running as crashed.

        And those of the commands themselves where this server has only just started: they were of its last life.
        """
        types = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
        live = {str(self._running.id)} if self._running else set()
        live |= self._unreported.keys()
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
        queued = {self._command(run) for run in runs} | ({self._running.command} if self._running else set())
        done = {
            run.command: run.began
            for run in run_log.entries(self._root)
            if run.outcome in (*run_log.SUCCESSES, "failed") and run.id not in self._lost_server
        }
        for deployment, command in self._commands.items():
            if command not in self._plan.crons or command in queued:
                continue
            due = last_due(self._plan.crons[command], self._plan.zone)
            since = datetime.fromisoformat(self._state.since[command])
            if due > max(since, done.get(command, since)):
                self._say(f"schedule: {command} was due at {due:%Y-%m-%d %H:%M} UTC and has not been done: it is now")
                client.create_flow_run_from_deployment(deployment, tags=["caught up"])

    def _keep_server(self) -> None:
        if self._server and self._server.poll() is not None and time.monotonic() > self._again:
            self._again = time.monotonic() + PAUSE
            self._say("schedule: Prefect's server has ended: it is started again")
            self._server = server.launch(self._root, self._plan.host or LOOPBACK, self._plan.port or PORT)

    def _send_alerts(self) -> None:
        busy = self._alerts and self._alerts.is_alive()
        if self._plan.hook and not busy and time.monotonic() >= self._look:
            self._look = time.monotonic() + WATCH
            words = (self._root, self._plan.hook, self._plan.stale_after, self._say, self._sent)
            self._alerts = threading.Thread(target=alerts.send, args=words, daemon=True)
            self._alerts.start()

    def _end(self, client: SyncPrefectClient) -> None:
        if self._running:
            self._say(f"schedule: {self._running.command} is told to save and end")
            self._running.stop()
            count = self._signals.count
            while not self._running.ended() and not self._running.late() and self._signals.count == count:
                self._signals.wait(0.1)
            self._collect(now=True)
        with contextlib.suppress(*TROUBLE):
            self._report(client)
        self._send_alerts()
        if self._alerts:
            self._alerts.join()

    def _command(self, run: FlowRunResponse) -> str:
        assert run.deployment_id is not None
        return self._commands[run.deployment_id]


def serve(root: Path, plan: Plan, say: Say) -> int:
    """Schedule until SIGTERM or SIGINT, and return the exit code for it: 0 or 130. For the one scheduler here
    (`scheduler_state.alone`).

    Raises InputError where Prefect's server is not to be had.
    """
    signals = Signals()
    try:
        with contextlib.ExitStack() as stack:
            own = None
            if server.elsewhere(root):
                if plan.host or plan.port:
                    raise InputError("--host and --port are for a server of the scheduler's own, not PREFECT_API_URL's")
            else:
                own = _own(root, plan)
            api = os.environ["PREFECT_API_URL"]
            client = stack.enter_context(get_client(httpx_settings={"timeout": 10}, sync_client=True))
            scheduler = Scheduler(root, plan, signals, own, say)
            _patiently(lambda: scheduler.register(client))
            for command in COMMANDS:
                say(
                    f"schedule: {command}: {plan.crons.get(command, 'on demand only')}; now: "
                    f"PREFECT_API_URL={api} prefect deployment run {command}/{plan.name}"
                )
            say(f"schedule: times are of {plan.zone}; Prefect's page is {api.removesuffix('/api')}")
            signals.deferred = True
            scheduler.run(client)
    except KeyboardInterrupt:
        pass
    finally:
        signals.deferred = True  # this process ends by itself
    say("schedule: ended")
    return 0 if signals.got == signal.SIGTERM else 130


def _own(root: Path, plan: Plan) -> subprocess.Popen[bytes]:
    host, port = plan.host or LOOPBACK, plan.port or PORT
    settings.refuse_strangers(host)
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
        except TROUBLE as error:
            if not left or not errors.gone(error):
                raise InputError(errors.words(error)) from None
        time.sleep(POLL)


def _time(run: FlowRunResponse) -> datetime:
    assert run.expected_start_time is not None
    return run.next_scheduled_start_time or run.expected_start_time


def outdated(due: Sequence[FlowRunResponse]) -> list[FlowRunResponse]:
    """Of the runs that are due: those made by the clock for which a later one of the same command will do."""
    last = {run.deployment_id: run.id for run in sorted(due, key=_time) if run.auto_scheduled}
    return [run for run in due if run.auto_scheduled and last[run.deployment_id] != run.id]


def last_due(cron: str, zone: str) -> datetime:
    """When the cron line was last due. Raises CronSimError for one that never is, or that is none."""
    return next(CronSim(ALIASES.get(cron, cron), datetime.now(ZoneInfo(zone)), reverse=True)).astimezone(UTC)


def checked(crons: dict[str, str | None], zone: str | None) -> tuple[dict[str, str], str]:
    """The cron lines that there are, and the time zone's name: by default the machine's.

    Raises InputError for a cron line or a zone that there is not, and where there is no cron line at all.
    """
    if not any(crons.values()):
        raise InputError("--cron: say when to retrain, as '0 3 * * *'; or name --rebuild-cron or --audit-cron")
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
            last_due(cron, zone)
        except (ValidationError, CronSimError):
            raise InputError(
                f"{option} {cron!r}: no cron line; five fields are minute, hour, day, month, weekday: '0 3 * * *'"
            ) from None
    return {command: cron for command, cron in crons.items() if cron}, zone
