"""The log of runs, the hook that gets failures, and `palimpsest status`, which shows both."""

import base64
import contextlib
import http.server
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dvc_project
import pytest

from flows.engine import graph
from flows.engine.repository import opened
from flows.engine.workspace import workspace
from flows.lineage import cache
from flows.operations import alerts, notify, run_log, scheduler_state
from flows.registry import history

ROOT = Path(__file__).parents[2]


def begun(root: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that logs a run around `code`; it says "begun" inside."""
    program = f"""
import sys
from pathlib import Path
from flows.operations import run_log
with run_log.run(Path(sys.argv[1]), "rebuild") as entry:
    print("begun", flush=True)
    {code}
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program, str(root)],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


def test_the_journal_tells_how_each_run_ended(tmp_path: Path) -> None:
    with run_log.run(tmp_path, "retrain") as entry:
        entry.end("rejected", "psnr_hole\n0.1 dB worse", sample=30)
        entry.end("completed", "what is noted first stands")
    with run_log.run(tmp_path, "rebuild"):
        pass
    for error in (KeyboardInterrupt(), ZeroDivisionError("by\nzero")):
        with pytest.raises(type(error)), run_log.run(tmp_path, "rebuild"):
            raise error
    rejected, *rest = run_log.entries(tmp_path)
    assert (rejected.command, rejected.outcome, rejected.message) == ("retrain", "rejected", "psnr_hole 0.1 dB worse")
    assert rejected.details == {"sample": 30}
    assert rejected.ended is not None
    assert rejected.ended >= rejected.began
    assert [entry.outcome for entry in rest] == ["completed", "interrupted", "failed"]
    assert rest[-1].message == "by zero"
    with pytest.raises(ValueError, match="no outcome"):
        entry.end("well", "")


def test_a_killed_run_is_told_by_its_process(tmp_path: Path) -> None:
    process = begun(tmp_path, "sys.stdin.read()", PALIMPSEST_RUN="the-run", PALIMPSEST_LOG="its.log")
    (entry,) = run_log.entries(tmp_path)
    assert (entry.id, entry.scheduled, entry.log, entry.outcome) == ("the-run", True, "its.log", "running")
    process.kill()
    process.communicate()
    (entry,) = run_log.entries(tmp_path)
    assert entry.outcome == "killed"


def test_the_identity_is_for_one_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALIMPSEST_RUN", "the-run")
    with run_log.run(tmp_path, "retrain"):
        assert "PALIMPSEST_RUN" not in os.environ
        with run_log.run(tmp_path, "rebuild"):
            pass
    first, second = run_log.entries(tmp_path)
    assert (first.id, first.scheduled, second.scheduled) == ("the-run", True, False)


def test_many_write_at_once_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    processes = [begun(tmp_path, "entry.end('completed', 'x' * 3000)") for _ in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with (tmp_path / run_log.FILE).open("a") as file:
        file.write('{"begin": "torn')
    with run_log.run(tmp_path, "rebuild"):
        pass
    assert [entry.outcome for entry in run_log.entries(tmp_path)] == ["completed"] * 5


def test_a_journal_that_cannot_be_written_stops_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".palimpsest").write_text("a file where the folder should be")
    with run_log.run(tmp_path, "rebuild"):
        pass
    assert "this run is missing in it" in capsys.readouterr().err
    assert run_log.entries(tmp_path) == []


@contextlib.contextmanager
def webhook(status: int, location: str | None = None, account: str | None = None) -> Iterator[tuple[str, list[dict]]]:
    """A web server that answers `status`, or 401 to all but `account`; its address, and what it has been sent."""
    got: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            basic = f"Basic {base64.b64encode(account.encode()).decode()}" if account else None
            self.send_response(401 if basic and self.headers["Authorization"] != basic else status)
            if location:
                self.send_header("Location", location)
            self.end_headers()

        def do_GET(self) -> None:
            got.append(dict(self.headers))
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", got
        finally:
            server.shutdown()
            thread.join()


def test_the_hook_gets_the_event(tmp_path: Path) -> None:
    said: list[str] = []
    event = {"event": "failed", "message": "mid@b: exit code 1"}
    with webhook(200) as (url, got):
        notify.send(f"{url}/path?key=secret", event, said.append)
    assert got == [event]
    with webhook(200, account="user:sesame@home") as (url, got):
        notify.send(url.replace("//", "//user:sesame%40home@"), event, said.append)
    assert got == [event]
    notify.send(f"cat > '{tmp_path}/event'; echo said", event, said.append)
    assert json.loads((tmp_path / "event").read_text()) == event
    assert said == []


def test_a_hook_that_fails_is_one_line_without_its_secrets(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)  # as where PREFECT_LOGGING_ROOT_LEVEL says so
    said: list[str] = []
    event = {"event": "failed"}
    with webhook(500) as (url, _):
        notify.send(f"{url}/secret", event, said.append)
    with webhook(200) as (other, got), webhook(302, f"{other}/secret") as (url, _):
        notify.send(url.replace("//", "//user:secret@"), event, said.append)
    assert got == [], "nobody else gets it"
    assert "the webhook at 127.0.0.1: HTTP 302" in said.pop()
    notify.send("http://user:secret@127.0.0.1:9/secret?key=secret", event, said.append)
    notify.send("http://secret@[bad/secret", event, said.append)
    notify.send("http://127.0.0.1:port/secret", event, said.append)
    notify.send("echo secret >&2; exit 3", event, said.append)
    notify.send("head -c 1; true secret", {"event": "failed", "long": "x" * 1_000_000}, said.append)  # stops reading
    assert len(said) == 5
    assert not any("secret" in line for line in [*said, caplog.text])
    assert "the webhook at 127.0.0.1: HTTP 500" in said[0]
    assert "Connection refused" in said[1]
    assert "exit code 3" in said[4]


def said(home: Path, *words: str, command: str = "status", code: int = 0, **environment: str) -> str:
    """What `palimpsest status`, or another command, prints in `home`."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    process = dvc_project.command("flows.cli", [command, *words], home, env)
    text, _ = process.communicate()
    assert process.returncode == code, text
    return text


def git(home: Path, *words: str) -> None:
    account = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
    subprocess.run(["git", *account, *words], cwd=home, check=True, stdout=subprocess.DEVNULL)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A working copy with two stages, the second after the first; neither has run."""
    git(tmp_path, "init", "-q")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").touch()
    first = {"cmd": "echo 1 > first", "outs": ["first"]}
    second = {"cmd": "cat first > second", "deps": ["first"], "outs": ["second"]}
    (tmp_path / "dvc.yaml").write_text(json.dumps({"stages": {"first": first, "second": second}}))
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "begin")
    return tmp_path


def test_status_of_a_new_working_copy(home: Path) -> None:
    worktree = home.with_name(f"{home.name}-retrain")
    worktree.mkdir()
    (worktree / "checkpoint").write_bytes(bytes(2_000_000))
    page = said(home)
    assert "retrain's worktree 2.0 MB" in page
    assert "nothing is promoted yet" in page
    assert "none runs here" in page
    assert "none yet" in page
    assert "ALARM" not in page


@pytest.mark.parametrize("level", ["--system", "--global", "--project", "--local"])
def test_the_cache_is_where_dvc_has_it(home: Path, level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SYSTEM", "GLOBAL"):
        monkeypatch.setenv(f"DVC_{name}_CONFIG_DIR", str(home / name))
    place = home.parent / "a, b #1 %20 ü"
    with opened(home) as repo:
        assert cache.folder(home) == Path(repo.cache.local.path).parents[1]
        file = Path(repo.config.files[level.strip("-").replace("project", "repo")])
    file.parent.mkdir(exist_ok=True)
    file.write_text(f'[core]\nanalytics = false\n[cache]\ndir = "{place}"\n', encoding="utf-8")
    with opened(home) as repo:
        assert cache.folder(home) == Path(repo.cache.local.path).parents[1] == place


def ran(home: Path, command: str, outcome: str, message: str = "") -> None:
    with run_log.run(home, command) as entry:
        entry.end(outcome, message)


def test_status_names_the_failed_run_and_what_is_old(home: Path) -> None:
    with run_log.run(home, "rebuild"):
        pass
    with run_log.run(home, "retrain", "scheduled", "its.log") as entry:
        entry.end("failed", "train_dcgan@dcgan: exit code 1")
    with run_log.run(home, "rebuild"):
        page = said(home, code=1)  # a run that is going on does not hide the failure
    assert page.count("train_dcgan@dcgan: exit code 1") == 2, "as an alarm, and among the runs"
    assert "[its.log]" in page
    ran(home, "retrain", "rejected")
    state = json.loads(said(home, "--json", "--stale-after", "7d"))
    assert state["alarms"] == []
    assert [run["outcome"] for run in state["runs"]] == ["completed", "failed", "completed", "rejected"]
    state = json.loads(said(home, "--json", PALIMPSEST_STALE_AFTER="0.00001m", code=1))
    assert [alarm.rpartition(" is of ")[0] for alarm in state["alarms"]] == [
        "the last successful retrain",
        "the last successful rebuild",
    ]


def test_each_command_s_last_run_counts(home: Path) -> None:
    """What another command has done hides no failure, and neither does a run that was stopped or refused."""
    for night in ("first", "second", "third"):
        ran(home, "retrain", "failed", night)
    for command, outcome in [("rebuild", "nothing changed"), ("retrain --rollback", "completed")]:
        ran(home, command, outcome)
    ran(home, "retrain", "interrupted", "stopped")
    refused = {"rebuild": ["nosuch"], "retrain": ["--rev", "nosuch"]}
    for command, words in refused.items():
        said(home, *words, command=command, code=2)
    state = json.loads(said(home, "--json", code=1))
    (alarm,) = state["alarms"]
    assert alarm.startswith("the last retrain has failed, ")
    assert alarm.endswith(": third")
    assert [run["outcome"] for run in state["runs"][-2:]] == ["refused"] * 2
    assert [one.what for one in alerts.stale(home, timedelta(0))] == [
        "the first retrain, none having succeeded since,",
        "the last successful rebuild",
    ]

    ran(home, "retrain --rollback", "failed", "lost")
    assert [run.message for run in alerts.failing(home)] == ["third", "lost"]
    ran(home, "retrain", "rejected")
    assert alerts.failing(home) == []
    for command, words in refused.items():
        said(home, *words, command=command, code=2, PALIMPSEST_RUN=command, PALIMPSEST_LOG="its.log")
    assert [run.id for run in alerts.failing(home)] == ["retrain", "rebuild"], "by the clock it is a failure"
    crons = {"retrain": "0 3 * * *"}
    scheduler_state.write(home, scheduler_state.SchedulerState(1, None, None, "UTC", crons, {}, {}))
    assert [one.what for one in alerts.stale(home, timedelta(0))] == ["the last successful retrain"], "what has a clock"


def test_status_says_what_is_promoted(home: Path) -> None:
    """A promotion as retrain records it."""
    decision = {
        "outcome": "promoted", "why": "0.5 dB better", "system": "dcgan", "artifact": "dcgan",
        "path": "data/models/dcgan.safetensors", "md5": "0123456789abcdef", "rev": "HEAD",
    }  # fmt: skip
    faces = [{"path": "data/ingested/faces", "md5": "fedcba9876543210.dir"}]
    lock = {"stages": {"train": {"outs": [{"path": decision["path"]}], "deps": faces}}}
    (home / "dvc.lock").write_text(json.dumps(lock))
    git(home, "checkout", "-q", "-b", "candidates")
    git(home, "add", ".")
    git(home, "commit", "-qm", f"dcgan promoted\n\n{history.MARK}{json.dumps(decision)}")
    git(home, "branch", "promoted")
    page = said(home)
    assert "dcgan  since 20" in page
    assert "checkpoint 0123456789" in page
    assert "from the data faces fedcba9876" in page
    assert "0.5 dB better" in page
    state = json.loads(said(home, "--json", "--stale-after", "0.00001m", code=1))
    assert state["promoted"]["artifact"] == "dcgan"
    assert state["alarms"][0].startswith("the promoted model is of 20")


def test_what_is_stale_is_what_would_run(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    assert graph.stale(60) == ["first", "second"]
    assert graph.stale(-1) is None, "no time"
    with workspace(say=print) as work:
        for name in work.plan.nodes:
            work.run(name, {}, print)
    assert graph.stale(60) == []
    (home / "first").write_text("edited")
    assert graph.stale(60) == ["first", "second"]


def test_status_needs_neither_dvc_nor_prefect_nor_torch(home: Path) -> None:
    code = (
        "import sys; from flows.cli import app; app(['status'], standalone_mode=False); "
        "assert not {'dvc', 'prefect', 'torch'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=home,
        check=True,
        stdout=subprocess.DEVNULL,
    )


def test_status_outside_a_working_copy_is_one_line(tmp_path: Path) -> None:
    assert said(tmp_path, code=2) == f"status: {tmp_path}: no working copy (there is no folder .dvc here or above)\n"
