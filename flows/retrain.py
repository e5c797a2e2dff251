"""`palimpsest retrain`: refresh the data, rebuild, decide whether it is better, and record that; as a Prefect flow."""

from __future__ import annotations

import contextlib

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.states import Completed, Failed, State

from flows.checkout.worktree import StepError
from flows.prefect_server import errors, runs, server
from flows.prefect_server.background import run_in_background
from flows.process.command import Say
from flows.registry.candidate import STEPS, Retraining
from stages.runs.errors import InputError


# What a step leaves is DVC's and Git's: Prefect keeps no results.
@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def step(name: str, job: Retraining) -> State:
    """One step of a retraining."""
    try:
        return Completed(message=job.do(name, get_run_logger().info))
    except (InputError, StepError) as error:
        return Failed(message=str(error))


def _steps(job: Retraining) -> State:
    for name in STEPS:
        state = step(name, job, return_state=True)
        if job.error:
            return Failed(message=job.summary())
        if not state.is_completed():
            return state
        if job.ended and not job.news:
            return Completed(message="nothing new")
    return Completed(message=job.summary()) if not job.trouble else Failed(message=job.summary())


def launch(job: Retraining, say: Say) -> str | None:
    """Run a retraining that is prepared already as a flow; what becomes of it is noted in `job`.

    What is returned says why Prefect's page does not tell the end; None where it does. What was left to be done when
    Prefect's server was lost is done without it.
    At Ctrl-C and the like the command that runs is told to stop, and then it goes through.

    Raises what a step has raised that is no matter of the user's.
    """
    failures: list[BaseException] = []

    @flow(name="retrain", persist_result=False)
    def retrain() -> State:
        """Make a candidate in a worktree of its own, and promote it where it is better."""
        with TagsContext(current_tags=set()):  # see runs.tagged
            return _steps(job)

    def run() -> None:
        try:
            with runs.tagged(retrain.name, job.root):
                retrain(return_state=True)
        except BaseException as error:
            failures.append(error)

    over = run_in_background(run, lambda: bool(job.ended or job.error or job.failure), job.worktree.stop)
    if job.failure:
        raise job.failure
    if not job.ended and not job.error:
        of_prefect = failures and isinstance(failures[0], errors.OF_PREFECT)  # the run was deleted there, for one
        if not of_prefect and server.answers():
            raise failures[0] if failures else RuntimeError("Prefect has ended the flow before its last step")
        with contextlib.suppress(InputError, StepError):  # `job` knows
            job.finish(say)
    return None if over and not failures else errors.lost(failures[0] if failures else None)
