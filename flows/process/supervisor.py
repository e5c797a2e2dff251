"""Supervises a command, so that neither it nor anything that it has started outlives the process that started it.

This file runs as a small process between the two, the supervisor, in a session of its own. Its standard input ends
when the process that started it ends, whatever killed that; then it kills its process group and all that descends from
it. (Linux's parent-death signal reaches only the child itself: a shell dies, and what the shell had started goes on
writing.) Processes that have left the group and lost their parent, as torchrun's workers and daemons do, become the
supervisor's children, and are found too.

SIGINT and SIGTERM to the group are for the command and for what it has started; the supervisor ends when the last of
them has ended. Its exit code is the command's, or 128 + the number of the signal that killed the command, as in a
shell. What a failed command leaves is killed; a daemon that a successful one leaves lives on, as without a supervisor.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False  # the supervisor's process imports as little as it can
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import Any

PR_SET_CHILD_SUBREAPER = 36


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen(words, **options)`, supervised: it ends with this process, or when its `stdin` is closed.

    The process ID is also the group's, for signals. Standard error goes to `stdout`, a pipe unless `options` say else.
    """
    import subprocess

    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, *words],
        **{"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, **options},
        stdin=subprocess.PIPE,
        start_new_session=True,
    )


def main() -> None:
    words = sys.argv[1:]
    received: list[int] = []
    passed_on: list[int] = [signal.SIGINT, signal.SIGTERM]
    ignored_here: list[int] = [signal.SIGPIPE, signal.SIGXFSZ]  # by Python; other programs are to end by them
    for number in passed_on:
        signal.signal(number, lambda number, _: received.append(number))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        child = os.posix_spawnp(
            words[0], words, os.environ, setsigdef=[*passed_on, *ignored_here], file_actions=[nothing]
        )
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")
    for number in received:  # that came before there was a child to get it
        os.kill(child, number)

    orphaned = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        orphaned.set()
        _kill_descendants()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if received:  # all of them were told to end, and some may be saving still
        while _descendants():
            time.sleep(0.02)
    elif code:  # what a failed command has left is not to go on writing
        _kill_descendants()
    if orphaned.is_set():
        threading.Event().wait()  # until `watch` has killed this process too
    os._exit(code if code >= 0 else 128 - code)


def _kill_descendants() -> None:
    while others := _descendants():  # more may be born while these are killed
        for other in others:
            with contextlib.suppress(ProcessLookupError):
                os.kill(other, signal.SIGKILL)
        time.sleep(0.01)


def _descendants() -> set[int]:
    """The processes, zombies aside, that descend from this one."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208 (to import pathlib takes as long as all of this)
        if entry.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", encoding="latin-1") as file:  # noqa: PTH123
                state, parent = file.read().rpartition(")")[2].split()[:2]
                children.setdefault(int(parent), []).append(int(entry) if state != "Z" else -int(entry))
    found: set[int] = set()
    todo = [os.getpid()]
    while todo:
        for child in children.get(todo.pop(), []):
            if child > 0:  # a zombie has no children: they have been handed on
                found.add(child)
                todo.append(child)
    return found


if __name__ == "__main__":
    main()
