"""Bring stages up to date one after the other, without a flow of their own: `python -m flows.studies.build TARGET...`.

A study begins this in each of its worktrees. A run is one task of the study's flow; to import Prefect, and to begin a
flow for each run, would take longer than many stages of a small study. SIGINT and SIGTERM let the stages save what
they need to go on. Exit code 0 where all is up to date, 1 where a stage has failed, 2 for a mistake of the user's.
"""

from __future__ import annotations

import collections
import logging
import signal
import sys
import threading
from collections.abc import Sequence

from flows.engine.repository import DvcException
from flows.engine.workspace import StageError, Workspace, workspace
from flows.process.words import say
from stages.runs.errors import InputError

WORDS = {"Completed": "ran", "Cached": "from the run-cache", "Skipped": "unchanged"}


def main(targets: Sequence[str]) -> int:
    """Bring `targets` and all before them up to date; the last line that is printed says what was done."""
    logging.getLogger("dvc").setLevel(logging.ERROR)  # what came from the run-cache is said here
    try:
        with workspace(targets, say=_print) as work:
            for number in (signal.SIGINT, signal.SIGTERM):
                # In a thread: what runs may have the lock that it needs.
                signal.signal(number, lambda *_: threading.Thread(target=work.stop).start())
            return _bring(work)
    except (InputError, DvcException, OSError) as error:
        _print(" ".join(str(error).split()))
        return 2


def _bring(work: Workspace) -> int:
    finished: collections.Counter[str] = collections.Counter()
    for name in work.plan.nodes:
        try:
            outcome = work.run(name, {}, lambda line, name=name: _print(f"{name} | {line}"))  # type: ignore[misc]
        except StageError as error:
            _print(f"{name}: {error}")
            return 1
        finished[outcome.state] += 1
        _print(f"{name}: {WORDS[outcome.state]}" + (f" ({outcome.message})" if outcome.state == "Completed" else ""))
    work.finish()
    _print(", ".join(f"{finished[state]} {word}" for state, word in WORDS.items() if finished[state]))
    return 0


def _print(line: str) -> None:
    say(line, sys.stdout)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
