"""The command `palimpsest`. What a subcommand needs is imported when it runs: help and refusals are quick."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import signal
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from flows.process.words import give_up
from flows.process.words import say as _say
from stages.runs.errors import InputError

STALE_AFTER = Annotated[
    str | None,
    typer.Option(
        envvar="PALIMPSEST_STALE_AFTER",
        help="Age at which the promoted model, or a command's last good run, is an alarm: 7d, 36h.",
    ),
]

REV = Annotated[
    str, typer.Option("--rev", envvar="PALIMPSEST_REV", help="The commit whose code and parameters are retrained.")
]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


audit = typer.Typer(no_args_is_help=True, help="Which data produced which checkpoint, and the reverse.")
app.add_typer(audit, name="audit")
key = typer.Typer(no_args_is_help=True, help="Who signs records, and whose signatures count.")
audit.add_typer(key, name="key")


@app.callback()
def palimpsest() -> None:
    """Palimpsest, an image-inpainting laboratory.

    Rebuild what changed, in parallel; retrain, and promote what is better; both by the clock; and see how it stands.
    """
    if sys.platform != "linux":  # whose /proc, process groups and locks the flows rest on
        _say(f"palimpsest: runs on Linux alone, not on {sys.platform}; Windows has WSL 2, others a container or a VM")
        raise typer.Exit(2)


@app.command()
def rebuild(
    targets: Annotated[list[str] | None, typer.Argument(help="Stages or dvc.yaml files, as for `dvc repro`.")] = None,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="Cores to fill; default: all.")] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Run every stage, changed or not.")] = False,
    dry: Annotated[bool, typer.Option("--dry", help="Say what would run, and run nothing.")] = False,
    runner: Annotated[
        str | None,
        typer.Option(envvar="PALIMPSEST_RUNNER", help="`dask=ADDRESS`: on the workers of that Dask scheduler."),
    ] = None,
) -> None:
    """Do what `dvc repro` does, independent stages at once."""
    with _for_people("rebuild"), contextlib.ExitStack() as stack:
        if runner and jobs:
            raise InputError(
                "--jobs: a Dask worker takes one stage at a time; start as many workers as you want at once"
            )
        from flows.checkout.root import working_copy
        from flows.engine.workspace import workspace
        from flows.operations import run_log, scheduler_state

        entry = None if dry else stack.enter_context(run_log.run(working_copy(), "rebuild"))
        with workspace(targets or (), force=force, say=_say) as work:
            plan = work.plan
            if not plan.stale:
                if entry:
                    entry.end("nothing changed", f"{len(plan.nodes)} stages are up to date")
                print(f"rebuild: nothing changed, {len(plan.nodes)} stages are up to date")
                return
            if not entry:
                affected = plan.affected()
                for node in plan.nodes.values():
                    if before := [name for name in node.upstream if name in affected]:
                        print(f"{node.name}: may run, after {', '.join(before)}")
                    elif node.name in affected:
                        print(f"{node.name}: would run")
                return
            from flows.prefect_server import server

            elsewhere = _dask().address(runner, work) if runner else None
            if not elsewhere and (slow := _slow_precision(plan.root)):
                _say(slow)  # the stages say it too, but into their logs
            ready = server.use(plan.root, scheduler_state.api(plan.root))
            from flows.rebuild import Rebuild, launch

            if elsewhere:
                ready()
                with _dask().connected(work, elsewhere, _say) as remote:
                    job = Rebuild(remote, room=remote.fits)
                    untold = launch(job, targets or [], ready)
            else:
                job = Rebuild(work, jobs)
                job.begin()
                untold = launch(job, targets or [], ready)
            _collect(plan.root, "rebuild")
            entry.end("failed" if job.failed else "completed", job.summary())
            if untold:
                _say(f"rebuild: {untold} does not tell the end, dvc.lock does")
            # The last line, behind all that the stages and Prefect say.
            _say(f"rebuild: {job.summary()}", sys.stdout)
            if job.failed:
                raise typer.Exit(1)


@app.command()
def retrain(
    rev: REV = "HEAD",
    worktree: Annotated[
        Path | None,
        typer.Option(envvar="PALIMPSEST_WORKTREE", help="Its own working copy; default: REPOSITORY-retrain beside it."),
    ] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Go back to the promotion before.")] = False,
) -> None:
    """Rebuild with new data in a worktree of its own, and promote the checkpoint where it is better."""
    with _for_people("retrain"):
        from flows.checkout.root import repository
        from flows.operations import run_log, scheduler_state
        from flows.registry import candidate, decisions, history

        root = repository()
        if rollback:
            with run_log.run(root, "retrain --rollback") as entry:
                said = decisions.rollback(root)
                entry.end("completed", said)
                _say(f"retrain: {said}", sys.stdout)
            return
        with run_log.run(root, "retrain") as entry, candidate.retraining(root, rev, worktree, _say) as job:
            job.do("refresh", _say)
            untold = None
            if job.news:
                from flows.prefect_server import server

                server.use(root, scheduler_state.api(root))()
                from flows.retrain import launch

                untold = launch(job, _say)
            if isinstance(job.error, InputError):
                raise job.error
            if job.ended and not job.news:
                said = f"nothing new since the last decision; {history.promoted_now(root)}"
                entry.end("failed" if job.trouble else "nothing changed", job.trouble or said)
                _say(f"retrain: {job.trouble or said}", sys.stdout)
                raise typer.Exit(int(bool(job.trouble)))
            _collect(root, "retrain")
            failed = bool(job.error or job.trouble)
            outcome = job.decision.outcome if job.decision and not failed else "failed"
            decision = dataclasses.asdict(job.decision) if job.decision else None
            entry.end(outcome, job.summary(), decision=decision, commit=job.commit)
            if untold:
                _say(f"retrain: {untold} does not tell the end, Git's log does")
            _say(f"retrain: {job.summary()}", sys.stdout)
            if failed:
                raise typer.Exit(1)


@app.command()
def schedule(
    cron: Annotated[
        str | None, typer.Option(help="When to retrain: minute, hour, day, month, weekday, as '0 3 * * *'.")
    ] = None,
    rebuild_cron: Annotated[str | None, typer.Option(help="When to rebuild the working copy itself.")] = None,
    audit_cron: Annotated[str | None, typer.Option(help="When to run `palimpsest audit verify`.")] = None,
    timezone: Annotated[
        str | None, typer.Option(help="Of these times, as Europe/Berlin; default: the machine's.")
    ] = None,
    rev: REV = "HEAD",
    hook: Annotated[
        str | None,
        typer.Option(envvar="PALIMPSEST_HOOK", help="A command or URL that gets failures and staleness, as JSON."),
    ] = None,
    stale_after: STALE_AFTER = None,
    host: Annotated[str | None, typer.Option(help="Where Prefect's page is served; default: 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="And at which port; default: 4200.")] = None,
    name: Annotated[
        str, typer.Option(help="Of the deployments retrain/NAME, rebuild/NAME and audit/NAME.")
    ] = "palimpsest",
) -> None:
    """Retrain, rebuild and verify by the clock: one run at a time, missed ones caught up once. SIGTERM ends it."""
    with _for_people("schedule"):
        from flows.checkout.git import Git
        from flows.checkout.root import working_copy
        from flows.operations import alerts
        from flows.prefect_server import settings

        root = working_copy()
        settings.prepare(root)  # before Prefect is imported
        settings.refuse_strangers(host or "127.0.0.1")
        after = alerts.span(stale_after) if stale_after else None
        if rev != "HEAD" and Git(root).commit(rev) is None:
            raise InputError(f"--rev: no commit '{rev}'")
        os.environ["PALIMPSEST_REV"] = rev  # for the runs, which are commands of their own
        from flows.schedule import Plan, checked, serve

        crons, zone = checked({"retrain": cron, "rebuild": rebuild_cron, "audit": audit_cron}, timezone)
        code = serve(root, Plan(crons, zone, name, host, port, hook, after), _say)
    raise typer.Exit(code)


@app.command()
def status(
    stale_after: STALE_AFTER = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What is promoted, what has run, what is stale and what disk is used, for who is on call.

    Exit code 1 where the last rebuild or retrain has failed, or where the promoted model or a command's last good run
    is older than --stale-after (default: the scheduler's); 0 otherwise.
    """
    with _for_people("status"):
        from datetime import timedelta

        from flows import status as state
        from flows.checkout.root import working_copy
        from flows.operations import alerts

        after: timedelta | None = alerts.span(stale_after) if stale_after else None
        found = state.look(working_copy(), after)
        if json:
            print(state.machine(found))
        else:
            state.show(found)
    raise typer.Exit(int(bool(found.alarms)))


@audit.command("checkpoint")
def audit_checkpoint(
    what: Annotated[
        str, typer.Argument(help="A checkpoint's file, NAME (in data/models/), NAME@VERSION or NAME@COMMIT.")
    ],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What a checkpoint comes from: its training, the pictures that were read, evaluations and decisions.

    Exit code 1 where something is not as it is recorded; 0 otherwise.
    """
    with _for_people("audit checkpoint"):
        from flows.audit import checkpoint, facts
        from flows.checkout.root import repository

        answer = checkpoint.ask(repository(), what)
        print(facts.machine(answer)) if json else checkpoint.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("collect")
def audit_collect(json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Bring the records of stage runs to the Git branch by which they travel, together with those of other clones.

    `rebuild` and `retrain` do so at their end; after a plain `dvc repro`, and after `git fetch`, this does.
    """
    with _for_people("audit collect"):
        from flows.audit import collect, facts
        from flows.checkout.root import repository

        done = collect.collect(repository(), _passphrase(ask=sys.stdin.isatty()))
        print(facts.machine(done)) if json else collect.show(done)


@audit.command("image")
def audit_image(
    what: Annotated[str, typer.Argument(help="A picture's file, the sha256 of one, or a folder of pictures.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Which checkpoints were trained on a picture, or on a copy of it: saved anew, resized, grey or mirrored.

    Exit code 1 where there are some, or where a picture, list or table that would tell cannot be read; 0 otherwise.
    """
    with _for_people("audit image"):
        from flows.audit import facts, image
        from flows.checkout.root import repository

        answer = image.ask(repository(), what)
        print(facts.machine(answer)) if json else image.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("rebuild")
def audit_rebuild(
    what: Annotated[str, typer.Argument(help="A checkpoint, named as for `audit checkpoint`.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Make a checkpoint again from the commit that has it, with an empty cache, and compare all that comes out.

    Exit code 0 where everything is identical; 1 where it is different, or not comparable.
    """
    with _for_people("audit rebuild"):
        from flows.audit import facts, rebuild
        from flows.checkout.root import repository

        answer = rebuild.ask(repository(), what, _say)
        print(facts.machine(answer)) if json else rebuild.show(answer)
        raise typer.Exit(int(answer.found))


@key.command("new")
def key_new(name: Annotated[str, typer.Argument(help="Whose key it is: `Ada Lovelace <ada@example.org>`.")]) -> None:
    """Make a key that signs your records; its public half goes into signers.yaml, to be committed.

    The passphrase is asked for, or taken from PALIMPSEST_PASSPHRASE; an empty one leaves the key unlocked.
    """
    with _for_people("audit key new"):
        from flows.checkout.root import repository
        from flows.lineage import keys

        passphrase = os.environ.get(keys.PASSPHRASE)
        if passphrase is None:
            passphrase = typer.prompt(
                "Passphrase", default="", hide_input=True, confirmation_prompt=True, show_default=False
            )
        file = keys.new(repository(), name, passphrase)
        print(
            f"{file}: keep it to yourself; `git add {keys.SIGNERS}` and commit, so that others can check what you sign"
        )


@key.command("trust")
def key_trust(
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: Annotated[Path, typer.Argument(help="The public key: PEM, or a file such as id_ed25519.pub.")],
) -> None:
    """Let somebody's signatures count: their public key goes into signers.yaml, to be committed."""
    with _for_people("audit key trust"):
        from flows.checkout.root import repository
        from flows.lineage import keys

        keys.trust(repository(), name, file)
        print(f"{name}: trusted; `git add {keys.SIGNERS}` and commit")


@key.command("list")
def key_list() -> None:
    """Whose signatures count, and where your own key is."""
    with _for_people("audit key list"):
        from flows.checkout.root import repository
        from flows.lineage import keys

        for name, public in keys.trusted(repository()).items():
            print(f"{name}: {public.keytype}, {public.keyid[:10]}")
        print(
            f"your key: {keys.place()}" if keys.place().exists() else "your key: none; `palimpsest audit key new NAME`"
        )


def _collect(root: Path, command: str) -> None:
    """Bring the records of what ran to their branch. A run does not fail for it."""
    from flows.checkout.git import Git, GitError
    from flows.lineage import signatures

    try:
        Git(root).top()
    except GitError:
        return  # a project without Git has no branches
    try:
        signatures.collect(root, _passphrase())
    except (InputError, OSError) as error:
        _say(f"{command}: not all records are on their branch and signed: {error}; later, `palimpsest audit collect`")


def _passphrase(ask: bool = False) -> str | None:
    """That of the user's key, by the environment; or asked for, where the key is locked; None where there is none."""
    from flows.lineage import keys

    if (given := os.environ.get(keys.PASSPHRASE)) is not None or not (ask and keys.locked()):
        return given
    return str(typer.prompt(f"Passphrase of {keys.place()}", hide_input=True))


@audit.command("file")
def audit_file(
    what: Annotated[str, typer.Argument(help="Any file: a checkpoint, a table, a picture sheet, code.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Where a file comes from, by its bytes alone: which stage made it, from what.

    Exit code 1 where something is not as it is recorded; 0 otherwise.
    """
    with _for_people("audit file"):
        from flows.audit import facts, file
        from flows.checkout.root import repository

        answer = file.ask(repository(), what)
        print(facts.machine(answer)) if json else file.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("diff")
def audit_diff(
    one: Annotated[str, typer.Argument(help="A checkpoint's file, NAME, NAME@VERSION or NAME@COMMIT.")],
    other: Annotated[str, typer.Argument(help="The same, of another.")],
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What differs between two checkpoints: pictures, parameters, code, environment, start.

    Exit code 1 where something differs; 0 otherwise.
    """
    with _for_people("audit diff"):
        from flows.audit import diff, facts
        from flows.checkout.root import repository

        answer = diff.ask(repository(), one, other)
        print(facts.machine(answer)) if json else diff.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("verify")
def audit_verify(json: Annotated[bool, typer.Option("--json", help="For machines.")] = False) -> None:
    """Hash and check all that stands under a promise: outputs, cache, tables, checkpoints, locks, records.

    Exit code 1 where there is a fault; 0 otherwise, also where something is missing and cannot be checked.
    """
    with _for_people("audit verify"):
        from flows.audit import facts, verify
        from flows.checkout.root import repository

        answer = verify.ask(repository())
        print(facts.machine(answer)) if json else verify.show(answer)
        raise typer.Exit(int(answer.found))


@audit.command("splits")
def audit_splits(
    dataset: Annotated[str | None, typer.Argument(help="Its name in params.yaml; default: all.")] = None,
    rev: Annotated[str | None, typer.Option("--rev", help="A commit; default: the working copy's dvc.lock.")] = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Whether train, val and test are disjoint: by bytes, pixels, near copies and identity.

    Exit code 1 where something is shared, or where a table is missing; 0 otherwise.
    """
    with _for_people("audit splits"):
        from flows.audit import facts, splits
        from flows.checkout.root import repository

        answer = splits.ask(repository(), dataset, rev)
        print(facts.machine(answer)) if json else splits.show(answer)
        raise typer.Exit(int(answer.found))


def _dask() -> ModuleType:
    """The module for `--runner dask=`. Raises InputError where what it needs is not installed."""
    if any(find_spec(name) is None for name in ("distributed", "prefect_dask")):
        raise InputError("--runner dask=: needs Dask; `pip install -c constraints.txt -e '.[dask]'`")

    from flows.cluster import dask

    return dask


def _slow_precision(root: Path) -> str | None:
    """One line where `runtime.precision` has no hardware here; of mistakes in params.yaml the stages tell."""
    from stages.runs import kernels, params

    with contextlib.suppress(InputError):
        runtime = params.section(params.load(root / "params.yaml"), "runtime", params.Runtime)
        return kernels.slow_precision(runtime.device, runtime.precision, runtime.kernels)
    return None


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextlib.contextmanager
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
        _say(f"{command}: {' '.join(text.split())}")
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


if __name__ == "__main__":
    app()
