"""Taking turns with DVC: what runs stages is waited for, and nothing of DVC's begins, until a block ends."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import psutil

from flows.engine.repository import POLL, opened
from flows.process.command import Say

RUN_STAGES = {"repro", "run", "exec-run", "queue-worker"}  # `dvc repro`, and what `dvc exp` and `dvc queue` start
SHOWN = 3  # words of a command


def running(folders: Iterable[Path]) -> list[str]:
    """This user's processes that run stages in one of these folders, in words.

    DVC's own locks do not tell: while a command runs, an experiment holds none, and between two of its stages none on
    its files. A stage is told by itself, because it goes on when its DVC is killed.
    """
    tops = [folder.resolve() for folder in folders]
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):  # it has ended, or is another user's
            if (said := _said(process.cmdline())) and process.pid != os.getpid():
                place = Path(process.cwd())
                if any(place.is_relative_to(top) for top in tops):
                    found.append(f"`{said}` (PID {process.pid}) in {place}")
    return found


def _said(words: Sequence[str]) -> str | None:
    """The command of a process that runs stages; None for any other."""
    for number, word in enumerate(words):
        rest = words[number + 1 :]
        if Path(word).name == "dvc" and RUN_STAGES.intersection(rest):
            return " ".join(["dvc", *rest[:SHOWN]])
        if word == "-m" and rest and rest[0].startswith("stages."):
            return " ".join(["python", "-m", *rest[:SHOWN]])
    return None


@contextlib.contextmanager
def alone(copies: Sequence[Path], folders: Sequence[Path], say: Say) -> Iterator[None]:
    """DVC's locks on the working copies, so that no DVC command works there, while nothing runs stages in `folders`.

    What runs is waited for, and `say` is told of it.
    """
    told: set[str] = set()
    while True:
        with contextlib.ExitStack() as stack:
            for copy in copies:
                stack.enter_context(stack.enter_context(opened(copy)).lock)
            busy = running(folders)
            if not busy:
                yield
                return
        for one in busy:  # without the locks, which it may need
            if one not in told:
                say(f"waiting for {one} to end")
        told.update(busy)
        time.sleep(POLL)
