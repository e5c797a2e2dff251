"""A command that does not outlive the process that started it, and whose children do not either.

This file runs as a small process between the two: `Popen(tethered(words), stdin=PIPE, start_new_session=True)`. Its
standard input ends when the starter does, whatever killed that; then it kills its whole process group. (Linux's
parent-death signal reaches only the child itself: a shell dies, and what the shell had started goes on writing.)

SIGINT and SIGTERM to the group are for the command, which says when it has ended. One that a signal has killed leaves
128 + the signal's number, as in a shell.
"""

from __future__ import annotations

import os
import signal
import sys
import threading


def tethered(words: list[str]) -> list[str]:
    """The words that run a command on a tether."""
    return [sys.executable, "-I", "-S", __file__, *words]


def main() -> None:
    words = sys.argv[1:]
    patient = [signal.SIGINT, signal.SIGTERM]
    for number in patient:
        signal.signal(number, signal.SIG_IGN)
    nothing = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    try:
        child = os.posix_spawnp(words[0], words, os.environ, setsigdef=patient, file_actions=[nothing])
    except OSError as error:
        sys.exit(f"{words[0]}: {error.strerror}")

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


if __name__ == "__main__":
    main()
