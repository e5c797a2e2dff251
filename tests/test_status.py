"""The journal of runs, the hook that is told of failures, and `palimpsest status`, which shows both."""

import contextlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows import hook, journal

ROOT = Path(__file__).parent.parent


def begun(root: Path, code: str, **environment: str) -> subprocess.Popen[str]:
    """A process that keeps a journal around `code`; it says "begun" inside."""
    program = f"""
import sys
from pathlib import Path
from flows import journal
with journal.run(Path(sys.argv[1]), "rebuild") as entry:
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
    with journal.run(tmp_path, "retrain") as entry:
        entry.end("rejected", "psnr_hole\n0.1 dB worse", sample=30)
        entry.end("completed", "what is noted first stands")
    with journal.run(tmp_path, "rebuild"):
        pass
    for error in (KeyboardInterrupt(), ZeroDivisionError("by\nzero")):
        with pytest.raises(type(error)), journal.run(tmp_path, "rebuild"):
            raise error
    rejected, *rest = journal.entries(tmp_path)
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
    (entry,) = journal.entries(tmp_path)
    assert (entry.id, entry.scheduled, entry.log, entry.outcome) == ("the-run", True, "its.log", "running")
    process.kill()
    process.communicate()
    (entry,) = journal.entries(tmp_path)
    assert entry.outcome == "killed"


def test_the_identity_is_for_one_run_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PALIMPSEST_RUN", "the-run")
    with journal.run(tmp_path, "retrain"):
        assert "PALIMPSEST_RUN" not in os.environ
        with journal.run(tmp_path, "rebuild"):
            pass
    first, second = journal.entries(tmp_path)
    assert (first.id, first.scheduled, second.scheduled) == ("the-run", True, False)


def test_many_write_at_once_and_torn_lines_are_left_out(tmp_path: Path) -> None:
    processes = [begun(tmp_path, "entry.end('completed', 'x' * 3000)") for _ in range(4)]
    for process in processes:
        process.communicate()
        assert process.returncode == 0
    with (tmp_path / journal.FILE).open("a") as file:
        file.write('{"begin": "torn')
    with journal.run(tmp_path, "rebuild"):
        pass
    assert [entry.outcome for entry in journal.entries(tmp_path)] == ["completed"] * 5


def test_a_journal_that_cannot_be_written_stops_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".palimpsest").write_text("a file where the folder should be")
    with journal.run(tmp_path, "rebuild"):
        pass
    assert "this run is missing in it" in capsys.readouterr().err
    assert journal.entries(tmp_path) == []


@contextlib.contextmanager
def webhook(status: int) -> Iterator[tuple[str, list[dict]]]:
    """A web server that answers `status`; its address, and what it has been sent."""
    got: list[dict] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
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
        hook.call(f"{url}/path?key=secret", event, said.append)
    assert got == [event]
    hook.call(f"cat > {tmp_path}/event; echo said", event, said.append)
    assert json.loads((tmp_path / "event").read_text()) == event
    assert said == []


def test_a_hook_that_fails_is_one_line_without_its_secrets() -> None:
    said: list[str] = []
    event = {"event": "failed"}
    with webhook(500) as (url, _):
        hook.call(f"{url}/secret", event, said.append)
    hook.call("http://user:secret@127.0.0.1:9/secret?key=secret", event, said.append)
    hook.call("http://secret@[bad/secret", event, said.append)
    hook.call("http://127.0.0.1:port/secret", event, said.append)
    hook.call("echo secret >&2; exit 3", event, said.append)
    hook.call("head -c 1; true secret", {"event": "failed", "long": "x" * 1_000_000}, said.append)  # stops reading
    assert len(said) == 5
    assert not any("secret" in line for line in said)
    assert "the webhook at 127.0.0.1: HTTP 500" in said[0]
    assert "Connection refused" in said[1]
    assert "exit code 3" in said[4]
