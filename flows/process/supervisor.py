"""A command that does not outlive the process that started it, and nothing that it has started does either.

This file runs as a small process between the two, in a session of its own. Its standard input ends when the starter
does, whatever killed that; then it kills its process group and all that descends from it. (Linux's parent-death signal
reaches only the child itself: a shell dies, and what the shell had started goes on writing.) What has left the group,
as torchrun's workers and daemons do, and has lost its parent becomes this process's child, and is found too.

SIGINT and SIGTERM to the group are for the command and for what it has started: it has ended when the last of them
has. One that a signal has killed leaves 128 + the signal's number, as in a shell. What a failed command leaves is
killed; a daemon that one leaves on success lives on after it, as without the tether.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
import time

TYPE_CHECKING = False  # the tether itself imports as little as it can
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Sequence
    from typing import Any

PR_SET_CHILD_SUBREAPER = 36


def start(words: Sequence[str], **options: Any) -> subprocess.Popen[Any]:
    """`subprocess.Popen(words, **options)` on a tether: it ends with this process, or when its `stdin` is closed.

    Its process ID is its group's, for signals. It says everything on `stdout`, a pipe unless `options` have another.
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
    heard: list[int] = []
    patient: list[int] = [signal.SIGINT, signal.SIGTERM]
    for number in patient:
        signal.signal(number, lambda number, _: heard.append(number))
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        child = os.posix_spawnp(words[0], words, os.environ, setsigdef=patient, file_actions=[nothing])
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")
    for number in heard:  # before there was anybody to hear it
        os.kill(child, number)

    alone = threading.Event()

    def watch() -> None:
        while os.read(0, 1):
            pass
        alone.set()
        _kill_descendants()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if heard:  # all of them were told to end, and some may be saving still
        while _descendants():
            time.sleep(0.02)
    elif code:  # what a failed command has left is not to go on writing
        _kill_descendants()
    if alone.is_set():
        threading.Event().wait()  # for the end that `watch` makes of all
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
