"""How a command ends: in one line for a user's mistake, and with an exit code that says what came of it."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import typer

from flows.process.words import give_up, say
from stages.runs.errors import InputError


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextlib.contextmanager
def for_people(command: str) -> Iterator[None]:
    """A user's mistake ends in one line and exit code 2, Ctrl-C in one line and 130, SIGTERM in one line and 143."""

    def terminate(number: int, frame: object) -> None:
        raise Terminated

    signal.signal(signal.SIGTERM, terminate)
    code = 0
    try:
        yield
    except typer.Exit as leave:
        code = leave.exit_code
    except KeyboardInterrupt as stop:
        code = 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)
        say(f"{command}: {'terminated' if isinstance(stop, Terminated) else 'interrupted'}; run it again to go on")
    except Exception as error:
        from flows.engine.repository import DvcException

        text = str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            file = f"{error.filename}: " if error.filename else ""
            text = f"{file}{os.strerror(error.errno)}; make room and run it again"
        elif isinstance(error, DvcException):
            text = f"{text}: {error.__cause__}" if error.__cause__ else text  # where in a file, most often
        elif not isinstance(error, InputError):
            raise
        code = 2
        say(f"{command}: {' '.join(text.split())}")
    _leave(code)


def _leave(code: int) -> None:
    """End; at once where Prefect is still at work, or would try for minutes to reach a server that is not there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    give_up()
    if "flows.prefect_server.server" in sys.modules:
        from flows.prefect_server.background import in_vain

        if in_vain():
            os._exit(code)
    logging.getLogger("EventsWorker").setLevel(logging.ERROR)  # the last word is ours, not Prefect's
    if code:
        raise typer.Exit(code)


def key_passphrase(ask: bool = False) -> str | None:
    """That of the user's key, by the environment; or asked for, where the key is locked; None where there is none."""
    from flows.lineage import keys

    if (given := os.environ.get(keys.PASSPHRASE)) is not None or not (ask and keys.locked()):
        return given
    return str(typer.prompt(f"Passphrase of {keys.place()}", hide_input=True))


def share_records(root: Path, command: str) -> None:
    """Bring the records of what ran to their branch, signed if the user has a key. A run does not fail for it."""
    from flows.checkout.git import Git, GitError
    from flows.lineage import signatures

    try:
        Git(root).top()
    except GitError:
        return  # a project without Git has no branches
    try:
        signatures.collect(root, key_passphrase())
    except (InputError, OSError) as error:
        say(f"{command}: not all records are on their branch and signed: {error}; later, `palimpsest audit collect`")
