"""`palimpsest study`: the runs of a study as a Prefect flow, one task a run, several at a time."""

from __future__ import annotations

import contextlib

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.futures import wait
from prefect.states import Completed, Failed, State
from prefect.task_runners import ThreadPoolTaskRunner

from flows.checkout.worktree import StepError
from flows.prefect_server import errors, runs, server
from flows.prefect_server.background import run_in_background
from flows.process.command import Say
from flows.studies.arms import Planned
from flows.studies.runs import Studying


# What a run leaves is DVC's and Git's: Prefect keeps no results.
@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def run_of_study(name: str, run: Planned, job: Studying, say: Say) -> State:
    """One run of a study."""
    try:
        return Completed(message=job.do(run, say))
    except StepError as error:
        return Failed(message=str(error))


def launch(job: Studying, name: str, say: Say) -> str | None:
    """Make the runs of the study `name` as a flow; what becomes of them is noted in `job`.

    What is returned says why Prefect's page does not tell the end; None where it does. What was left to be done when
    Prefect's server was lost is done without it. At Ctrl-C and the like the runs are told to save what they need to go
    on, and then it goes through.

    Raises what a run has raised that is no matter of the user's.
    """
    failures: list[BaseException] = []

    @flow(name="study", persist_result=False, task_runner=ThreadPoolTaskRunner(max_workers=job.jobs))  # type: ignore[arg-type]
    def study(name: str) -> State:
        """Make the runs of a study, each in a worktree of its own, and keep them as DVC's experiments."""
        with TagsContext(current_tags=set()):  # see runs.tagged
            wait([run_of_study.submit(run.label, run, job, say) for run in job.runs])
        return Failed(message=job.summary()) if job.failed else Completed(message=job.summary())

    def run() -> None:
        try:
            with runs.tagged(study.name, job.root):
                study(name, return_state=True)
        except BaseException as error:
            failures.append(error)

    over = run_in_background(run, lambda: bool(job.ended or job.failure), job.stop)
    if job.failure:
        raise job.failure
    if not job.ended:
        of_prefect = failures and isinstance(failures[0], errors.OF_PREFECT)  # the run was deleted there, for one
        if not of_prefect and server.answers():
            raise failures[0] if failures else RuntimeError("Prefect has ended the flow before its last run")
        with contextlib.suppress(StepError):  # `job` knows
            job.finish(say)
    return None if over and not failures else errors.lost(failures[0] if failures else None)
