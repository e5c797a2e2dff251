"""The command `palimpsest`. What a subcommand needs is imported when it runs: help and refusals are quick."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from stages.runs.errors import InputError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def palimpsest() -> None:
    """Palimpsest, an image-inpainting laboratory: rebuild what changed, in parallel."""


@app.command()
def rebuild(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages or dvc.yaml files, as for `dvc repro`.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Cores to fill; default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run every stage, changed or not.")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="Say what would run, and run nothing.")] = False,
) -> None:
    """Do what `dvc repro` does, independent stages at once."""
    with _for_people("rebuild"):
        from flows.pipeline.run import workspace

        with workspace(targets or (), force=force, say=_say) as work:
            plan = work.plan
            if not plan.stale:
                print(f"rebuild: nothing changed, {len(plan.nodes)} stages are up to date")
                return
            if dry:
                affected = plan.affected()
                for node in plan.nodes.values():
                    if before := [name for name in node.upstream if name in affected]:
                        print(f"{node.name}: may run, after {', '.join(before)}")
                    elif node.name in affected:
                        print(f"{node.name}: would run")
                return
            from flows import server

            server.use(plan.root)
            from flows.rebuild import Rebuild, launch

            job = Rebuild(work, jobs)
            if not launch(job, targets or []):
                _say("rebuild: Prefect's server was lost on the way: its page does not tell the end, dvc.lock does")
            # The last line, behind all that the stages and Prefect say.
            print(f"rebuild: {job.summary()}", flush=True)
            if job.failed:
                raise typer.Exit(1)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Terminated(KeyboardInterrupt):
    """SIGTERM: to be heeded as Ctrl-C is."""


@contextmanager
def _for_people(command: str) -> Iterator[None]:
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
        _say(f"{command}: {'terminated' if isinstance(stop, Terminated) else 'interrupted'}; run it again to go on")
    except Exception as error:
        from dvc.exceptions import DvcException

        text = str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"{error.filename}: {error.strerror}" if error.filename else os.strerror(error.errno)
        elif not isinstance(error, InputError | DvcException):
            raise
        code = 2
        _say(f"{command}: {' '.join(text.split())}")
    _leave(code)


def _leave(code: int) -> None:
    """End; at once where Prefect is still at work, or would try for minutes to reach a server that is not there."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    server = sys.modules.get("flows.server")
    if server is not None and server.in_vain():
        sys.stdout.flush()
        os._exit(code)
    if code:
        raise typer.Exit(code)


if __name__ == "__main__":
    app()
