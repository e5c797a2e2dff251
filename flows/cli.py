"""The command `palimpsest`. What a subcommand needs is imported when it runs: help and refusals are quick."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Annotated

import typer

from flows.audit.commands import audit
from flows.dossier.commands import dossier, handover, sign_tests
from flows.erasure.commands import erase
from flows.exports.commands import export
from flows.operations.command_line import for_people, share_records
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
audit.add_typer(export, name="export")
for command in (dossier, erase, handover, sign_tests):
    audit.command()(command)
app.add_typer(audit, name="audit")


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
    with for_people("rebuild"), contextlib.ExitStack() as stack:
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
                    untold = launch(job, targets or [], ready, early=False)
            else:
                job = Rebuild(work, jobs)
                untold = launch(job, targets or [], ready)
            share_records(plan.root, "rebuild")
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
    with for_people("retrain"):
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
            share_records(root, "retrain")
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
def study(
    name: Annotated[str | None, typer.Argument(help="A study in studies/, or a file of your own: ./mine.yaml.")] = None,
    scale: Annotated[str, typer.Option(help="A scale that the study has: small, photos, report.")] = "small",
    data: Annotated[
        list[str] | None, typer.Option("--data", help="NAME=ROOT: the folder of a dataset's pictures; repeatable.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="How many seeds; by default as many as the scale has.")] = None,
    jobs: Annotated[
        int | None, typer.Option("--jobs", "-j", min=1, help="Runs at a time; by default as many as fill the cores.")
    ] = None,
    only: Annotated[str | None, typer.Option(help="Only the runs of these arms: a name, or a pattern with *.")] = None,
    dry: Annotated[
        bool, typer.Option("--dry", help="Say what would run and how long it takes, and run nothing.")
    ] = False,
    show: Annotated[bool, typer.Option("--show", help="Print the results so far, and run nothing.")] = False,
    list: Annotated[bool, typer.Option("--list", help="List the studies, and run nothing.")] = False,
    json: Annotated[bool, typer.Option("--json", help="For machines; with --list or --show.")] = False,
) -> None:
    """Repeat a report's experiment, or one of your own, with several seeds, and say whether its claims hold.

    Each run is kept as a DVC experiment. After an interruption, call it again: what is there is not run anew. Exit
    code 1 where a run has failed.
    """
    with for_people("study"):
        from flows.checkout.root import repository
        from flows.studies import commands, estimate, runs

        if json and not (list or show):
            raise InputError("--json: goes with --list or --show")
        if list + show + dry > 1:
            raise InputError("--list, --show and --dry: take one of them")
        root = repository()
        if list:
            print(commands.listed(root, json, _say))
            return
        if name is None:
            raise InputError("name a study; `palimpsest study --list` says which there are")
        asked = commands.prepared(root, name, scale, seeds=seeds, only=only, data=data or (), jobs=jobs, say=_say)
        if show:
            print(commands.shown(commands.outcome(asked, {}), json))
            return
        commands.refuse_idle(asked)
        expected = estimate.estimate(root, asked.commit, asked.missing, asked.jobs)
        if dry:
            print(commands.dry(asked, expected))
            return
        expected.refuse_full_disk()
        if asked.missing:
            commands.ready(asked)
        for line in (commands.first(asked), *expected.lines()):
            _say(line)
        from flows.operations import run_log, scheduler_state

        failed: dict[str, str] = {}
        if asked.missing:
            from flows.prefect_server import server

            with run_log.run(root, f"study {asked.study.name}") as entry:
                with runs.studying(root, asked.commit, asked.base, asked.missing, asked.jobs, _say) as job:
                    untold = None
                    if job.runs:  # another study may have made them meanwhile
                        server.use(root, scheduler_state.api(root))()
                        from flows.study import launch

                        untold = launch(job, asked.study.name, _say)
                failed = job.failed
                share_records(root, "study")
                entry.end("failed" if failed else "completed", job.summary())
                if untold:
                    _say(f"study: {untold} does not tell the end, Git's references do")
        found = commands.outcome(asked, failed)
        print(commands.shown(found, False))
        print(f"written: {commands.write(asked, found)}")
        raise typer.Exit(int(bool(failed)))


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
    with for_people("schedule"), contextlib.ExitStack() as stack:
        from flows.checkout.git import Git
        from flows.checkout.root import working_copy
        from flows.operations import alerts, scheduler_state
        from flows.prefect_server import settings

        root = working_copy()
        stack.enter_context(scheduler_state.alone(root))  # before Prefect's imports, which take seconds
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
def restore(
    photos: Annotated[list[Path] | None, typer.Argument(help="Photos, or folders of photos.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="The folder for the results; it is made.")] = None,
    hole: Annotated[
        str,
        typer.Option(
            help="What is missing: a mask picture (white is missing), or a kind, placed on each face: eye_bar, covered "
            "(a bar that is there already), centre, lines, strokes, random_box, half, pixels."
        ),
    ] = "eye_bar",
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model",
            help="NAME, NAME@VERSION, a checkpoint's file, an .onnx file, telea or navier_stokes; repeatable.",
        ),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, max=64, help="Answers of each system, and a sheet of them.")] = 1,
    face: Annotated[
        str | None, typer.Option(help="One face alone: its number (1: the largest), or a point X,Y.")
    ] = None,
    detector: Annotated[Path | None, typer.Option(help="YuNet's .onnx file; default: that of params.yaml.")] = None,
    format: Annotated[str, typer.Option(help="png, or jpg, which changes pixels outside the hole a little.")] = "png",
    seed: Annotated[int, typer.Option(min=0, help="Of drawn holes, and of the first of several answers.")] = 0,
    grain: Annotated[bool, typer.Option(help="Give what is filled in the photo's own grain.")] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace results that are there.")] = False,
    c2pa: Annotated[
        Path | None, typer.Option(help="Your certificate chain (PEM): Content Credentials go into the pictures.")
    ] = None,
    c2pa_key: Annotated[Path | None, typer.Option(help="The private key of --c2pa (PEM).")] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Paint holes by hand, on a page in the browser.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of that page; default: a free one.")] = 0,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Complete photos by the promoted checkpoint. Pixels outside the hole stay as they are, bit for bit.

    Each photo gets NAME.png, NAME.hole.png and NAME.json, the record of what was done. A folder is restored as a flow,
    goes on where it was interrupted, and rejects what cannot be restored. Exit code 1 where a photo was rejected.
    """
    with for_people("restore"):
        from flows import restore as restoring
        from flows.restoration.encode import FORMATS
        from flows.restoration.restorer import Settings

        if format not in FORMATS:
            raise InputError(f"--format {format}: one of {', '.join(FORMATS)}")
        root = restoring.root_for(model or [])
        if serve:
            if photos or out:
                raise InputError("--serve: photos are opened, and results saved, on its page; name neither here")
            from flows.painting.serve import serve as serve_page

            serve_page(root, port, model or [], detector, restoring.signer(root))
            return
        if not photos or not out:
            raise InputError("name photos, and a folder for the results with -o; or paint holes by hand with --serve")
        settings = Settings(hole, face, samples, format, seed, grain, force)
        credentials = restoring.credentials_in(c2pa, c2pa_key)
        work = restoring.Restoring.prepared(root, photos, out, model or [], detector, settings, credentials, _say)
        restoring.run(work, root)
        print(restoring.machine(work)) if json else restoring.show(work)
        raise typer.Exit(int(bool(work.rejected)))


@app.command()
def status(
    stale_after: STALE_AFTER = None,
    json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """What is promoted, what has run, what is stale and what disk is used, for whoever is on call.

    Exit code 1 where the last rebuild or retrain has failed, or where the promoted model or a command's last good run
    is older than --stale-after (default: the scheduler's); 0 otherwise.
    """
    with for_people("status"):
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


if __name__ == "__main__":
    app()
