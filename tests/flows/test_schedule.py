"""`palimpsest schedule` on real DVC repositories, real processes and real Prefect servers."""

import contextlib
import json
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import dvc_project
import forked
import psutil
import pytest
from dvc_project import ENV, FILL, PATIENCE, Project, free_port, post, wait
from scheduler import NEVER, Scheduler
from test_rebuild import build

from flows.checkout.git import Git
from flows.operations import alerts, run_log, scheduler_state
from flows.prefect_server import runs, server
from flows.process import supervisor
from stages.runs.errors import InputError

ROOT = Path(__file__).parents[2]
PASSWORD = "sesame-open-up"


def gone(processes: list[psutil.Process]) -> bool:
    return all(dvc_project.gone(one.pid) for one in processes)


def line_of(process: psutil.Process) -> list[str]:
    """Its command line; none where it has ended meanwhile."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.cmdline()
    return []


def sockets(process: psutil.Process) -> list:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.net_connections()
    return []


def the(processes: list[psutil.Process], word: str) -> psutil.Process:
    """The process itself, not its supervisor."""
    (one,) = [
        process for process in processes if word in (line := line_of(process)) and supervisor.__file__ not in line
    ]
    return one


def status(project: Project, code: int) -> dict:
    return json.loads("\n".join(project.run("status", "--json", code=code)))


def test_unattended(project: Project, start: Callable[..., Scheduler], plain: str) -> None:
    """One at a time, on its own server with a password, through kill -9 of a run and of the server, to SIGTERM."""
    port = str(free_port())
    project.control("gen.hold").touch()
    nowhere = {"http_proxy": "http://127.0.0.1:9", "no_proxy": "", "NO_PROXY": "example.org"}
    words = ["--rebuild-cron", NEVER, "--port", port]
    scheduler = start(*words, PREFECT_SERVER_API_AUTH_STRING=f"user:{PASSWORD}", **nowhere)
    (line,) = [line for line in scheduler.lines if line.startswith("schedule: retrain: ")]
    api = f"PREFECT_API_URL=http://127.0.0.1:{port}/api"
    assert line == f"schedule: retrain: on demand only; now: {api} prefect deployment run retrain/palimpsest"
    first, second = scheduler.begin("rebuild"), scheduler.begin("rebuild")
    wait(lambda: "gen" in project.trace())
    scheduler.said("rebuild is due and waits for rebuild")
    assert [scheduler.state(run)["type"] for run in (first, second)] == ["RUNNING", "SCHEDULED"]

    family = scheduler.family()
    at = {at.laddr.ip for one in family for at in sockets(one) if at.status == psutil.CONN_LISTEN}
    assert at == {"127.0.0.1"}, "nothing listens elsewhere"
    assert not any(PASSWORD in word for one in family for word in line_of(one))
    now = status(project, 0)
    assert now["scheduler"]["pid"] == scheduler.process.pid
    assert [run["outcome"] for run in now["runs"]] == ["running"]
    (line,) = project.run("schedule", "--cron", NEVER, code=2)
    assert line == f"schedule: another scheduler runs here (PID {scheduler.process.pid})"

    the(family, "rebuild").kill()  # its slot is free at once
    wait(lambda: scheduler.state(second)["type"] == "RUNNING")
    assert scheduler.state(first)["message"].startswith("killed by SIGKILL; log: .palimpsest/logs/scheduled/rebuild-")
    wait(lambda: project.trace()["gen"][0] not in [str(one.pid) for one in family])  # the second's, not the first's
    the(family, "server").kill()
    scheduler.said("it is started again")
    project.control("gen.hold").unlink()
    scheduler.said("rebuild: completed: 5 ran")
    assert project.lock() == plain
    scheduler.said("Prefect's server answers again")
    assert (project.home / server.LOG).read_text().count(f"starts at port {port}") == 2, "the first's log is kept"
    wait(lambda: scheduler.state(second)["type"] == "COMPLETED")
    assert [run["outcome"] for run in status(project, 0)["runs"]] == ["killed", "completed"]
    scheduler.begin("audit")
    scheduler.said("audit: completed: nothing is altered, so far as can be told")

    (project.home / "seed").write_text("2")
    project.control("gen.hold").touch()
    third = scheduler.begin("rebuild")
    wait(lambda: scheduler.state(third)["type"] == "RUNNING")
    wait(lambda: len((project.home / ".palimpsest/trace").read_text().split("gen")) > 3)
    family = scheduler.family()
    scheduler.stop()
    assert scheduler.lines[-1] == "schedule: ended"
    wait(lambda: gone(family))
    assert run_log.entries(project.home)[-1].outcome == "interrupted"
    assert not any(PASSWORD in line for line in scheduler.lines)
    for file in [*(project.home / ".palimpsest").rglob("*"), project.home / "dvc.lock"]:
        if file.is_file():
            assert PASSWORD.encode() not in file.read_bytes(), file
    assert status(project, 0)["scheduler"] is None


def test_kill_of_the_scheduler(project: Project, api: str, plain: str, start: Callable[..., Scheduler]) -> None:
    """What came due while none was there is caught up once, and again if that was killed; nothing is left behind."""
    pipeline = (project.home / "dvc.yaml").read_text()
    long_ago = (datetime.now(UTC) - timedelta(days=9)).isoformat()
    crons = {"retrain": NEVER, "rebuild": "0 3 * * *"}
    table = scheduler_state.SchedulerState(1, None, None, "UTC", crons, dict.fromkeys(crons, long_ago), {})
    scheduler_state.write(project.home, table)
    words = ["--cron", NEVER, "--rebuild-cron", "0 3 * * *", "--timezone", "UTC"]
    project.control("a.hold").touch()
    killed = start(*words, name="killed", PREFECT_API_URL=api)
    wait(lambda: "a" in project.trace())
    (run,) = [entry.id for entry in run_log.entries(project.home)]
    family = killed.family()
    killed.process.kill()
    wait(lambda: gone(family))
    assert killed.state(run)["type"] == "RUNNING", "nobody was left to say otherwise"

    project.control("a.hold").unlink()
    scheduler = start(*words, name="killed", PREFECT_API_URL=api, PALIMPSEST_GRACE="1")
    wait(lambda: scheduler.state(run)["name"] == "Crashed")
    scheduler.said("rebuild: completed: ")
    assert project.lock() == plain

    cmd = "trap '' TERM; python stage.py deaf data/deaf || exit $?"
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": {"deaf": {"cmd": cmd, "outs": ["data/deaf"]}}}))
    project.control("deaf.hold").touch()
    run = scheduler.begin("rebuild")
    wait(lambda: "deaf" in project.trace())
    scheduler.ask(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})
    scheduler.said("schedule: rebuild did not end: it is killed")
    wait(lambda: scheduler.state(run)["type"] == "CANCELLED")
    wait(lambda: dvc_project.gone(int(project.trace()["deaf"][0])))
    (project.home / "dvc.yaml").write_text(pipeline)
    run = scheduler.begin("rebuild")
    wait(lambda: scheduler.state(run)["type"] == "COMPLETED")  # the slot is free
    assert scheduler.state(run)["name"] == "Nothing changed"
    scheduler.stop(signal.SIGINT, 130)
    assert [entry.outcome for entry in run_log.entries(project.home)] == [
        "killed", "completed", "killed", "nothing changed",
    ]  # fmt: skip


def test_a_failure_calls_the_hook_once(
    project: Project,
    api: str,
    start: Callable[..., Scheduler],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    events = project.home / ".palimpsest" / "events"
    project.control("b.fail").touch()
    git = Git(project.home)
    git("config", "user.name", "me")
    git("config", "user.email", "me@example.org")
    git("commit", "--quiet", "--allow-empty", "-m", "empty")
    git("tag", "before")
    words = ["--cron", NEVER, "--rev", "before", "--hook", f"cat >> '{events}'; echo >> '{events}'"]
    scheduler = start(*words, name="hook", PREFECT_API_URL=api)
    git("tag", "--delete", "before")
    run = scheduler.begin("rebuild")
    wait(lambda: events.exists() and events.read_text().endswith("\n"))
    (event,) = map(json.loads, events.read_text().splitlines())
    assert (event["event"], event["run"], event["working_copy"]) == ("failed", run, str(project.home))
    assert "failed: mid@b: exit code 1: b fails; log: .palimpsest/logs/mid@b.log" in event["message"]
    assert "b fails" in (project.home / event["log"]).read_text()
    wait(lambda: scheduler.state(run)["type"] == "FAILED")
    assert "failed: mid@b: exit code 1" in scheduler.state(run)["message"]

    def logged() -> str:
        query = {"logs": {"flow_run_id": {"any_": [run]}}}
        return str(scheduler.ask("logs/filter", query))

    wait(lambda: "mid@b | b fails" in logged())
    assert project.run("status", code=1)[0].startswith("ALARM      the last rebuild has failed, ")
    run = scheduler.begin("retrain")  # it does not get far here
    wait(lambda: scheduler.state(run)["type"] == "FAILED")
    assert scheduler.state(run)["message"].startswith("retrain: --rev: no commit 'before'; log: ")
    other = Project(tmp_path_factory.mktemp("other"))
    (line,) = other.run("schedule", "--cron", NEVER, "--name", "hook", code=2, PREFECT_API_URL=api)
    assert line.startswith(f"schedule: the deployment retrain/hook on Prefect's server is of {project.home}")
    scheduler.stop()
    alerts.send(project.home, words[-1], None, print)  # as the next scheduler does
    assert [json.loads(line)["command"] for line in events.read_text().splitlines()] == ["rebuild", "retrain"]


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            [],
            "schedule: --cron: say when to retrain, as '0 3 * * *'; or name --rebuild-cron or --audit-cron",
        ),
        (["--cron", NEVER, "--rev", "nosuch"], "schedule: --rev: no commit 'nosuch'"),
        (["--cron", "0 3 * *"], "schedule: --cron '0 3 * *': no cron line"),
        (["--cron", NEVER, "--host", "0.0.0.0"], "schedule: --host 0.0.0.0: others could reach Prefect's server"),
        (["--cron", NEVER, "--host", "example.org"], "schedule: --host example.org: others could reach"),
        (["--cron", NEVER, "--stale-after", "soon"], "schedule: 'soon' is no length of time"),
    ],
)
def test_mistakes_are_one_line(project: Project, words: list[str], line: str) -> None:
    shutil.rmtree(project.home / ".palimpsest")  # as in a fresh clone
    (said,) = project.run("schedule", *words, code=2)
    assert said.startswith(line)
    assert not (project.home / ".palimpsest" / "logs").exists(), "nothing has been started"


def test_times_are_checked() -> None:
    from flows.schedule import checked

    assert checked({"retrain": NEVER, "rebuild": None}, "Europe/Berlin") == ({"retrain": NEVER}, "Europe/Berlin")
    with pytest.raises(InputError, match="--rebuild-cron '61 "):
        checked({"retrain": NEVER, "rebuild": "61 * * * *"}, None)
    with pytest.raises(InputError, match="--cron '0 3 31 2 "):  # there is no such day
        checked({"retrain": "0 3 31 2 *"}, "UTC")
    with pytest.raises(InputError, match="--timezone 'Europe/Atlantis': no such time zone"):
        checked({"retrain": NEVER}, "Europe/Atlantis")


def test_of_missed_runs_the_last_is_done() -> None:
    from prefect.client.schemas.responses import FlowRunResponse

    from flows.schedule import outdated

    one, other = uuid.uuid4(), uuid.uuid4()
    noon = datetime(2026, 1, 1, 12, tzinfo=UTC)

    def run(deployment: uuid.UUID, hours: int, clock: bool) -> FlowRunResponse:
        return FlowRunResponse(
            id=uuid.uuid4(),
            name="run",
            flow_id=uuid.uuid4(),
            deployment_id=deployment,
            expected_start_time=noon + timedelta(hours=hours),
            auto_scheduled=clock,
            work_pool_id=None,
        )

    due = [run(one, 3, True), run(one, 1, True), run(one, 9, False), run(other, 0, True), run(one, 2, True)]
    assert outdated(due) == [due[1], due[4]], "those by hand and those of another command stay"


def test_when_it_was_last_due() -> None:
    from flows.schedule import last_due

    due = last_due("30 2 * * *", "Europe/Berlin")
    there = due.astimezone(ZoneInfo("Europe/Berlin"))
    assert timedelta(0) < datetime.now(UTC) - due <= timedelta(hours=25)
    assert (there.hour, there.minute) == (2, 30) or there.hour == 3, "3 where the clocks were put forward"
    assert last_due("@weekly", "UTC") == last_due("0 0 * * sun", "UTC")


def test_a_work_pool_does_the_same(project: Project, api: str) -> None:
    """What the head of prefect.yaml says, with a server that is there already."""
    build()
    (project.home / "flows").symlink_to(ROOT / "flows")
    shutil.copy(ROOT / "prefect.yaml", project.home)
    head = (ROOT / "prefect.yaml").read_text().partition("name:")[0].splitlines()
    lines = [line.split()[1:] for line in head if line.startswith("#   prefect ")]
    assert {words[0] for words in lines} == {"prefect"}
    _, pool, deploy, worker, run = ([forked.python(), "-m", *words] for words in lines)
    environment = {
        **ENV,
        "PREFECT_API_URL": api,
        "PREFECT_HOME": str(project.home / "home"),
        "FORKED_PYTHON": forked.python(),
        "PWD": str(project.home),  # as a shell has it there: deployments are of that folder
        "PALIMPSEST_HOOK": "cat >> told",
        "PALIMPSEST_STALE_AFTER": "0.00001m",
    }
    options = {"cwd": project.home, "env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}

    def states() -> list[str]:
        return [one["state_name"] for one in post(api, "flow_runs", {"deployments": {"name": {"any_": ["pool"]}}})]

    for words in (pool, deploy, run):
        done = subprocess.run(words, **options, timeout=PATIENCE, check=False)
        assert done.returncode == 0, done.stdout
    limits = [one["global_concurrency_limit"] for one in post(api, "deployments", {}) if one["name"] == "pool"]
    assert limits == [None] * 3, "whose holders a server forgets when it ends: it would then end long runs"
    with subprocess.Popen(worker, **options) as process:
        try:
            wait(lambda: "Nothing changed" in states())
        finally:
            for one in reversed(forked.family(psutil.Process(process.pid))):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
    (entry,) = run_log.entries(project.home)
    assert (entry.command, entry.scheduled, entry.outcome) == ("rebuild", True, "nothing changed")
    assert json.loads((project.home / "told").read_text())["what"] == "the last successful rebuild"


class Steps:
    """In place of the scheduler's signals: does one thing after each of its looks, and ends it after the last."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        self.got: int | None = None
        self.count = 0
        self._steps = [*steps]

    def wait(self, seconds: float) -> None:
        if self._steps:
            self._steps.pop(0)()
        else:
            self.got = signal.SIGTERM


def test_what_is_deleted_on_prefects_page_is_made_anew(
    tmp_path: Path, api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The deployments, for a run to come; a run that is deleted is not done, and nothing of this is a lost server."""
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows import schedule

    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setattr(schedule, "WATCH", 0)
    said: list[str] = []
    plan = schedule.Plan({"rebuild": NEVER}, "UTC", "deleted")
    with temporary_settings({PREFECT_API_URL: api}), get_client(sync_client=True) as client:

        def delete() -> None:
            there = client.read_deployment_by_name("rebuild/deleted")
            assert there.path == str(tmp_path)
            client.delete_deployment(there.id)

        scheduler = schedule.Scheduler(tmp_path, plan, Steps(delete, print), None, said.append)
        scheduler.register(client)
        scheduler.run(client)
        anew = client.read_deployment_by_name("rebuild/deleted")
        assert [one.schedule.cron for one in anew.schedules] == [NEVER]
        assert said == ["schedule: rebuild/deleted was deleted on Prefect's page: it is made anew"]

        (tmp_path / runs.ID).unlink()  # as on another machine, where the path is the same
        other = schedule.Scheduler(tmp_path, plan, Steps(), None, said.append)
        with pytest.raises(
            InputError, match=rf"is of {re.escape(str(tmp_path))} of another machine; choose another --name"
        ):
            other.register(client)


def test_a_full_disk_stops_no_scheduler(
    small: list[str],
    tmp_path: Path,
    api: str,
    project: Project,
    start: Callable[..., Scheduler],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is due then is done when there is room again."""

    def run(*words: str) -> None:
        assert not subprocess.run(
            [*small, *words], env={**ENV, "PYTHONPATH": str(ROOT / "tests")}, check=False
        ).returncode

    run(forked.python(), "-c", "from pathlib import Path; from dvc_project import Project; Project(Path())")
    environment = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_API_URL": api}
    monkeypatch.setattr(project, "words", small)
    scheduler = start("--cron", NEVER, name="full", **environment)
    run(sys.executable, "-c", FILL, "0")
    due = scheduler.begin("rebuild")
    scheduler.said(".log: No space left on device; trying again")
    assert scheduler.state(due)["type"] == "SCHEDULED"
    run("rm", "fill")
    scheduler.said("schedule: it goes on")
    scheduler.said("schedule: rebuild: completed: 5 ran")
    scheduler.stop()
    assert not any("does not answer" in line for line in scheduler.lines)


def test_staleness_is_told_once_until_it_is_over(project: Project) -> None:
    told = project.home / "told"
    hook = f"cat >> '{told}'; echo >> '{told}'"
    said: list[str] = []
    alerts.send(project.home, hook, timedelta(0), said.append)
    assert not told.exists(), "nothing has run yet"
    with run_log.run(project.home, "rebuild") as entry:
        entry.end("nothing changed", "")
    for after in (timedelta(0), timedelta(0), timedelta(hours=1), timedelta(0)):
        alerts.send(project.home, hook, after, said.append)
    events = list(map(json.loads, told.read_text().splitlines()))
    assert [event["what"] for event in events] == ["the last successful rebuild"] * 2
    assert said == []


def test_lengths_of_time() -> None:
    assert alerts.span("7d") == timedelta(days=7)
    assert alerts.span("90m") == timedelta(hours=1.5)
