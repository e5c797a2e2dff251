"""`palimpsest rebuild`: DVC's graph as a Prefect flow, one task per stage, independent stages at once."""

from __future__ import annotations

import collections
import logging
import os
import queue
import signal
from collections.abc import Callable
from graphlib import TopologicalSorter

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TagsContext
from prefect.futures import PrefectFuture
from prefect.states import Cancelled, Completed, Failed, State

from flows.engine import resources
from flows.engine.graph import Node
from flows.engine.workspace import StageError, Workspace, forget
from flows.prefect_server import artifacts, errors, runs, server
from flows.prefect_server.background import run_in_background
from stages.runs.errors import InputError

TRIES = 3  # to begin the flow, where its server is lost meanwhile


class Rebuild:
    """One rebuild: which stage runs when, and what has become of each."""

    def __init__(
        self, work: Workspace, jobs: int | None = None, room: Callable[[Node, list[Node]], bool] | None = None
    ) -> None:
        """`jobs` is the number of cores to fill, by default all; a stage takes one unless its `meta` says more.

        `room` decides instead, where stages run elsewhere: whether there is any for a stage while others run.
        """
        self.work = work
        self._room = room
        self.jobs = jobs or len(os.sched_getaffinity(0))
        self.failed: dict[str, str] = {}  # stage -> what happened and where its log is
        self.blocked: list[str] = []  # stages that depend on a failed one
        self.finished: collections.Counter[str] = collections.Counter()  # by state: Completed, Cached, Skipped
        self.entered = False  # the flow has begun
        self.ended = False  # nothing more will be done
        self._done: queue.SimpleQueue[PrefectFuture[State] | None] = queue.SimpleQueue()
        self._affected = work.plan.affected()
        self._begun: dict[str, Node] = {}

    def begin(self) -> None:
        """Begin the first stages, before the flow does: Prefect's server takes its time to start."""
        self._forget()
        first = [node for name, node in self.work.plan.nodes.items() if name in self._affected]
        for node in sorted(first, key=_urgent):
            if not self._affected.intersection(node.upstream) and self._fits(node, self._begun):
                self._begun[node.name] = node
                self.work.begin(node.name, self._environment(node))

    def run(self) -> State:
        """Run every stage of the plan, inside a flow: those that the most work waits for first."""
        self.entered = True
        nodes = self.work.plan.nodes
        if not self._begun:
            self._forget()
        begun = {**self._begun}  # and not yet a task
        sorter = TopologicalSorter({name: node.upstream for name, node in nodes.items()})
        sorter.prepare()
        futures: dict[str, PrefectFuture[State]] = {}
        names: dict[PrefectFuture[State], str] = {}
        ready: list[Node] = []
        running: dict[str, Node] = {}
        try:
            while sorter.is_active():
                ready += [nodes[name] for name in sorter.get_ready()]
                ready.sort(key=_urgent)
                for node in [*ready]:
                    if node.name in begun or self._fits(node, begun | running):
                        ready.remove(node)
                        begun.pop(node.name, None)
                        running[node.name] = node
                        future = stage.with_options(name=node.name).submit(
                            node.name,
                            self.work,
                            self._environment(node),
                            return_state=False,
                            wait_for=[futures[name] for name in node.upstream],
                        )
                        futures[node.name] = future
                        names[future] = node.name
                        future.add_done_callback(self._done.put)
                ended = self._done.get()
                if ended is None:
                    return self._cut_short(running)
                ended.wait()
                name = names[ended]
                self._note(name, ended.state)
                del running[name]
                sorter.done(name)
        except BaseException:
            self.work.stop()
            raise
        self.ended = True
        if self.finished["Completed"] or self.finished["Cached"]:
            artifacts.publish(self.work.plan.root)
        if self.failed:
            return Failed(message=self.summary())
        self.work.finish()
        return Completed(message=self.summary())

    def _forget(self) -> None:
        if self.work.force:
            for name in self.work.plan.nodes:
                forget(self.work.plan.root, name)

    def stop(self) -> None:
        """Begin nothing more; the stages that run are told to save what they need to go on. For another thread."""
        self.work.stop()
        self._done.put(None)

    def summary(self) -> str:
        """One line: what was done; and, where a stage failed, which one and where its log is."""
        words = {"Completed": "ran", "Cached": "from the run-cache", "Skipped": "unchanged"}
        parts = [f"{self.finished[state]} {word}" for state, word in words.items() if self.finished[state]]
        if self.blocked:
            parts.append(f"not run, as they depend on a failed one: {', '.join(self.blocked)}")
        parts += [f"failed: {name}: {message}" for name, message in self.failed.items()]
        return "; ".join(parts)

    def _cut_short(self, running: dict[str, Node]) -> State:
        while running:
            if (ended := self._done.get()) is not None:
                ended.wait()
                running.popitem()
        self.ended = True
        return Cancelled(message="interrupted")

    def _fits(self, node: Node, running: dict[str, Node]) -> bool:
        if not self._works(node):
            return True
        others = [other for other in running.values() if self._works(other)]
        return self._room(node, others) if self._room else resources.fits(node, others, self.jobs)

    def _environment(self, node: Node) -> dict[str, str]:
        """Spinning threads make two stages at once five times slower, and one alone quicker; the bytes are the same."""
        return {"OMP_WAIT_POLICY": "PASSIVE"} if node.cores < self.jobs else {}

    def _works(self, node: Node) -> bool:
        stopped = self.failed.keys() | set(self.blocked)
        return node.name in self._affected and not stopped.intersection(node.upstream)

    def _note(self, name: str, state: State) -> None:
        if state.is_completed():
            self.finished[state.name or "Completed"] += 1
        elif state.is_pending():  # NotReady
            self.blocked.append(name)
        else:
            self.failed[name] = state.message or state.name or "crashed"


def _urgent(node: Node) -> tuple[int, int]:
    """Sorts stages: first those that the most work waits for, and that find no room later."""
    return -node.height, -node.cores


def _settle(job: Rebuild) -> None:
    """Until all that has begun has ended; what the flow did not come to is told to end, and killed at Ctrl-C."""
    try:
        if not job.ended:
            job.work.stop()
        job.work.settle()
    except KeyboardInterrupt:
        job.work.stop(signal.SIGKILL)
        job.work.settle()
        raise


# A stage's own record of what it is to make is DVC's: Prefect keeps no results.
@task(task_run_name="{name}", cache_policy=NO_CACHE, persist_result=False)
def stage(name: str, work: Workspace, environment: dict[str, str]) -> State:
    """One stage of DVC's graph; its final state says whether it ran, came from the run-cache or was unchanged."""
    try:
        outcome = work.run(name, environment, get_run_logger().info)
    except StageError as error:
        log = work.log(name)
        return Failed(message=f"{error}; log: {os.path.relpath(log)}" if error.logged else str(error))
    return Completed(name=outcome.state, message=outcome.message)


def launch(job: Rebuild, targets: list[str], ready: Callable[[], None], early: bool = True) -> str | None:
    """Run a rebuild as a flow when Prefect's server is `ready`; what becomes of it is noted in `job`.

    With `early` its first stages begin before that.

    Returns why Prefect's page does not show how the run ended, or None if it does show it. That is no failure: DVC has
    recorded what every stage made.
    On Ctrl-C or SIGTERM the stages save what they need to resume; then the exception goes on. A second one kills them.

    Raises InputError where Prefect, or what it runs, fails before every stage has been dealt with.
    """
    failures: list[BaseException] = []
    logging.getLogger("dvc").propagate = False  # DVC prints its lines itself; Prefect would print them again

    @flow(name="rebuild", persist_result=False)
    def rebuild(targets: list[str], jobs: int, force: bool) -> State:
        """Bring `targets` (none: everything in `dvc.yaml`) to the end state of `dvc repro`, independent stages at once.

        The parameters are for Prefect's page.
        """
        with TagsContext(current_tags=set()):  # see runs.tagged
            return job.run()

    def run() -> None:
        for _ in range(TRIES):
            failures.clear()
            try:
                with runs.tagged(rebuild.name, job.work.plan.root):
                    state = rebuild(targets, job.jobs, job.work.force, return_state=True)
                if not job.ended:
                    failures.append(RuntimeError(state.message or state.name or "crashed"))
            except BaseException as error:
                failures.append(error)
            if job.entered or not server.answers_again():  # else its server was lost before it could begin
                return

    try:
        if early:
            job.begin()
        ready()
        over = run_in_background(run, lambda: job.ended, job.stop, lambda: job.work.stop(signal.SIGKILL))
    finally:
        _settle(job)
    if failures and not job.ended:
        raise InputError(errors.words(failures[0]))
    return None if over and not failures else errors.lost(failures[0] if failures else None)
