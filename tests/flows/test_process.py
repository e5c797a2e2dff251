"""What every command, lock and shared file of the flows rests on, with real processes."""

import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from dvc_project import ENV, FILL, gone, wait

from flows.process import atomic_file, file_lock, private_folder, supervisor
from flows.process.command import LONGEST, Command, Runner, Stopped, lines


def test_a_lock_lasts_as_long_as_any_process_that_has_its_descriptor(tmp_path: Path) -> None:
    file = tmp_path / "new" / "lock"
    held = file_lock.acquire(file)
    assert held is not None
    child = subprocess.Popen(["sleep", "900"], pass_fds=[held])
    os.close(held)
    waited_for: list[str] = []

    def pause() -> None:
        assert file_lock.acquire(file) is None
        child.kill()
        child.wait()

    with file_lock.lock(file, waited_for.append, pause) as mine:
        assert mine is not None
        assert file_lock.acquire(file) is None
    assert waited_for == [str(os.getpid())], "the PID of whoever took it"
    again = file_lock.acquire(file)
    assert again is not None
    os.close(again)


def test_a_lock_that_is_released_leaves_no_file_and_no_second_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    first = file_lock.acquire(file)
    assert first is not None
    late = os.open(file, os.O_RDWR)  # of a process that has opened it, and comes to lock it after the release
    file_lock.release(first, file)
    assert not file.exists()
    fcntl.flock(late, fcntl.LOCK_EX | fcntl.LOCK_NB)  # of a file that is gone: it keeps nobody out
    second = file_lock.acquire(file)
    assert second is not None
    assert file_lock.acquire(file) is None
    os.close(late)
    file_lock.release(second, file)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    file = tmp_path / "new" / "file"
    atomic_file.write(file, "old")
    with pytest.raises(OSError, match="No space left"):
        atomic_file.write(file, "new", draft=Path("/dev/full"))
    assert Path("/dev/full").is_char_device()
    assert file.read_text() == "old"
    atomic_file.write(file, "new")
    assert {path: path.read_text() for path in file.parent.iterdir()} == {file: "new"}


def test_a_command_ends_with_its_last_word_though_a_daemon_could_print_on(tmp_path: Path) -> None:
    said: list[str] = []
    daemon = f"""setsid sh -c 'echo $$ > "{tmp_path}/pid"; exec sleep 900' & """
    runner = Runner()
    code, last = runner.run(
        ["sh", "-c", f"{daemon} echo one; echo; until [ -s '{tmp_path}/pid' ]; do :; done"], said.append
    )
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # it lives on after a success
    assert (code, last, said) == (0, "one", ["one", ""])
    assert runner.run(["sh", "-c", "echo two >&2; kill -9 $$"], said.append) == (128 + signal.SIGKILL, "two")


def test_a_runner_that_is_stopped_ends_what_runs_and_begins_nothing() -> None:
    runner, said = Runner(), []
    ends: list[int] = []
    words = ["sh", "-c", "trap 'exit 7' INT; echo begun; while :; do sleep 0.05; done"]
    thread = threading.Thread(target=lambda: ends.append(runner.run(words, said.append)[0]))
    thread.start()
    wait(lambda: said)
    runner.stop(signal.SIGINT)
    thread.join()
    assert ends == [7]
    with pytest.raises(Stopped):
        runner.run(["true"], said.append)


def test_what_listens_hears_every_line_before_the_end() -> None:
    said: list[str] = []
    with Command(["seq", "1000"]) as command:
        command.listen(said.append)
        assert command.wait() == 0
        wait(lambda: command.silent(1))
    assert said == [str(number) for number in range(1, 1001)]
    with Command(["sleep", "900"]) as deaf:
        deaf.listen(said.append)
        assert deaf.wait(0) is None
    assert deaf.wait(0) == -signal.SIGKILL, "the block's end has killed it"


def test_a_command_ends_by_the_signals_that_python_itself_ignores() -> None:
    """A pipe that nobody reads ends what writes into it, as in a shell."""
    said: list[str] = []
    code, _ = Runner().run(["sh", "-c", "grep '^Sig[I]gn' /proc/self/status"], said.append)
    assert code == 0
    ignored = int(said[-1].split()[1], 16)
    assert [number for number in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGINT) if ignored >> (number - 1) & 1] == []


def test_what_a_command_has_started_ends_with_the_rebuild(tmp_path: Path) -> None:
    """Even what has left its process group and lost its parent, as daemons do."""
    written = tmp_path / "pids"
    script = (
        f"""setsid sh -c 'echo $$ >> "{written}"; exec sleep 900' & """
        f"""(sh -c 'echo $$ >> "{written}"; exec sleep 900' &); wait"""
    )
    process = supervisor.start(["sh", "-c", script], stdout=subprocess.DEVNULL)
    assert process.stdin is not None
    wait(lambda: written.exists() and len(written.read_text().split()) == 2)
    process.stdin.close()  # as the end of its starter does
    process.wait()
    for pid in map(int, written.read_text().split()):
        wait(lambda pid=pid: gone(pid))


def test_output_is_made_of_lines() -> None:
    bar = "".join(f"\r{percent}%" for percent in range(101))
    printed = f"begins\n{bar}\nénd\r\n".encode() + b"\xff\0" + b"x" * (LONGEST + 3) + b"\n\n\r5%\r7%"
    assert [*lines(io.BytesIO(printed))] == [
        "begins", "0%", "100%", "énd", "\\xff\\x00" + "x" * (LONGEST - 5), "x" * 8, "", "7%",
    ]  # fmt: skip


def test_a_listener_that_fails_stops_no_command(capsys: pytest.CaptureFixture[str]) -> None:
    """The command prints more than a pipe holds, and would wait for ever for a reader that has died."""

    def say(line: str) -> None:
        raise OSError(28, "No space left on device")

    with Command(["seq", "50000"]) as command:
        command.listen(say)
        assert command.wait(30) == 0
        wait(lambda: command.silent(1))
    assert command.last == "50000"
    assert capsys.readouterr().err == "lines of a command are lost: [Errno 28] No space left on device\n"


def test_words_that_cannot_be_said_stop_nothing(tmp_path: Path) -> None:
    """Not a line for people, not the run's entry, not the end: Python makes exit code 120 of what it cannot flush."""
    code = """
import sys
from pathlib import Path
from flows import cli
from flows.operations.command_line import for_people
from flows.operations import run_log

with for_people("rebuild"), run_log.run(Path("/proc/nowhere"), "rebuild"):
    cli._say("one")
    cli._say("two", sys.stdout)
"""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=full, stderr=full, env=ENV, check=False)
    assert done.returncode == 0


LEFT = """
import logging, os, signal, sys, threading

from flows.prefect_server.background import run_in_background

logging.basicConfig(format="%(message)s")
killed, said, logged = threading.Event(), threading.Event(), threading.Event()


def flow():
    logging.warning("begins")
    os.kill(os.getpid(), signal.SIGINT)
    killed.wait(10)
    said.wait()
    logging.warning("ends")
    logged.set()
    threading.Event().wait()


try:
    run_in_background(flow, lambda: False, lambda: os.kill(os.getpid(), signal.SIGINT), killed.set)
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr, flush=True)
    said.set()
    logged.wait(10)
    os._exit(0)
"""


def test_a_flow_that_is_left_running_does_not_have_the_last_word() -> None:
    done = subprocess.run([sys.executable, "-c", LEFT], stderr=subprocess.PIPE, text=True, env=ENV, check=True)
    assert done.stderr.splitlines() == ["begins", "interrupted"]


LOGGED = """
import sys, threading
from pathlib import Path

root = Path.cwd()
sys.path.remove("")
from flows.operations.scheduled_run import LOGS, Log, ScheduledRun
from flows.process import file_lock

said = []
run = ScheduledRun(root, "rebuild", "12345678")
fill = sys.argv[1]
exec(fill.replace("sys.argv[1]", "0"))
assert (lock := file_lock.acquire(root / "lock")), "the lock's number is for people alone"
run.start(lock, said.append)
while "full" not in said:
    threading.Event().wait(0.02)
try:
    Log(root / LOGS / "another.log")
except OSError as error:
    print(error.filename, error.strerror)
(root / "fill").unlink()
(root / "room").touch()
print(run.wait(60), run.close().name)
print([line for line in said if "missing" in line])
print((root / run.log).read_text().splitlines()[-2:])
print([file.name for file in (root / LOGS).iterdir()] == [Path(run.log).name])
"""


def test_a_scheduled_run_outlives_a_full_disk(small: list[str], tmp_path: Path) -> None:
    """It prints more than a pipe holds while nothing can be written; then there is room again."""
    command = """
import time
from pathlib import Path
print("x" * 999 + chr(10), end="")
for _ in range(200):
    print("x" * 999)
print("full")
while not Path("room").exists():
    time.sleep(0.02)
print("the end")
"""
    make = f"mkdir flows && touch flows/__init__.py && cat > flows/cli.py <<'end'\n{command}\nend"
    assert not subprocess.run([*small, "sh", "-c", make], check=False).returncode
    done = subprocess.run(
        [*small, sys.executable, "-c", LOGGED, FILL], env=ENV, capture_output=True, text=True, timeout=100, check=False
    )
    lines = done.stdout.splitlines()
    assert lines[0].endswith("another.log No space left on device"), done
    assert lines[1] == "True Completed"
    assert lines[2].endswith(".log: No space left on device; lines are missing in it']")
    assert lines[3].endswith(" lines are missing: the disk was full', 'the end']")
    assert lines[4] == "True", "a log that could not be begun is not left there"


@pytest.mark.skipif(os.getuid() != 0, reason="only root may give a folder to another user")
def test_a_folder_or_link_of_another_users_is_not_taken(tmp_path: Path) -> None:
    private_folder.make(tmp_path / "new" / "mine")
    assert (tmp_path / "new" / "mine").stat().st_mode & 0o777 == 0o700
    (tmp_path / "theirs").mkdir()
    os.chown(tmp_path / "theirs", 1, 1)
    (tmp_path / "link").symlink_to("new/mine")
    os.chown(tmp_path / "link", 1, 1, follow_symlinks=False)
    for name in ("theirs", "link"):
        with pytest.raises(PermissionError, match="belongs to another user"):
            private_folder.make(tmp_path / name)
