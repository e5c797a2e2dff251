"""Stages on other machines: a Dask cluster's workers, each with a clone of its own.

What is planned, looked up and recorded stays with the rebuild that asks; only a stage's command goes out, and the state
of every stage is Prefect's here. (prefect-dask's task runner would send out the Prefect tasks, and each worker would
have to reach Prefect's API, which listens on this machine alone; so it lends its client.)

A worker gets the working copy's files as a Git commit (`snapshot`), the stage's inputs from the default DVC remote,
and checks that they are the ones that are here. It sends what the stage made to the remote, as an entry of DVC's
run-cache; that is brought home and recorded as if the command had run here, so `dvc.lock` ends as ever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import distributed

from flows.checkout import snapshot
from flows.cluster import worker
from flows.engine import other_clone, run_cache
from flows.engine.graph import Node
from flows.engine.repository import DvcException, Repo, opened
from flows.engine.workspace import Outcome, Stage, StageError, Workspace
from flows.lineage import records
from flows.process.command import Say
from stages.runs import git, kernels, params, record
from stages.runs.errors import InputError

PREFIX = "dask="
CONNECT = 10  # seconds
POLL = 0.5  # seconds
RETURN = 60  # seconds in which a lost worker may be replaced, where it was the last
TRIES = 3  # workers that one stage may lose: it may be what kills them


class WorkerLost(Exception):
    """A worker has gone, and with it the stage that it was running."""


def address(runner: str, work: Workspace) -> str:
    """The scheduler's address in `dask=ADDRESS`, when `work` can be sent to its workers.

    Raises InputError where no Dask scheduler with workers answers there, or where there is no default DVC remote.
    """
    if not runner.startswith(PREFIX) or runner == PREFIX:
        raise InputError(f"--runner {runner}: not known; `--runner {PREFIX}HOST:PORT` names a Dask scheduler")
    where = runner.removeprefix(PREFIX)

    async def identity() -> dict[str, Any]:
        secrets = distributed.Security().get_connection_args("client")  # of DASK_DISTRIBUTED__COMM__TLS__*
        async with distributed.rpc(where, timeout=CONNECT, connection_args=secrets) as scheduler:
            return dict(await asyncio.wait_for(scheduler.identity(), CONNECT))

    try:
        with contextlib.suppress(NotImplementedError):  # a kind of address without a port
            socket.create_connection(distributed.comm.get_address_host_port(where), CONNECT).close()  # else it retries
        found = asyncio.run(identity())
    except (OSError, ValueError, TypeError, TimeoutError):  # nobody there, no address, or another program
        found = {}
    if found.get("type") != "Scheduler":
        raise InputError(f"--runner: no Dask scheduler answers at {where}; `dask scheduler` starts one")
    if not found["workers"]:
        raise InputError(f"--runner: the Dask scheduler at {where} has no workers; `dask worker {where}` starts one")
    with opened(work.plan.root) as repo:
        run_cache.remote(repo)
    return where


class ClusterWorkspace(Workspace):
    """A rebuild whose stages run on the workers of a Dask cluster, one at a time on each; `connected()` makes it."""

    def __init__(self, work: Workspace, client: distributed.Client, taken: snapshot.Snapshot, say: Say) -> None:
        super().__init__(work.plan, work.lock_files, work.runner, work.force)
        self._client = client
        self._say = say
        self._snapshot = taken
        self._state = git.state(self.plan.root, record.SOURCES)  # what the clones are of, which have no history
        self._topic = f"palimpsest-{uuid.uuid4()}"
        self._streams: dict[str, queue.SimpleQueue[list[str] | None]] = {}  # of the stages that workers run
        self._workers: dict[str, dict[str, Any]] = {}  # by address: what `hello` says
        self._unfit: dict[str, str] = {}  # by address: why
        self._busy: dict[str, Node] = {}
        self._change = threading.Condition()
        self._transfers = threading.Lock()  # with the remote: one at a time, and without DVC's lock: they may take long
        client.subscribe_topic(self._topic, self._on_event)
        self._update_workers()
        if not self._workers:
            raise InputError("; ".join(f"worker {name}: {why}" for name, why in self._unfit.items()))

    def fits(self, node: Node, others: list[Node]) -> bool:
        """Whether a worker is free for the stage while `others` run."""
        out = [other for other in others if not other.here]
        if node.here:
            return len(out) == len(others)  # one at a time at home
        if not out:
            return True
        sets = {tuple(one["gpus"]) for one in self._workers.values() if one["gpus"]}
        if node.gpu and sets and sum(other.gpu for other in out) >= len(sets):
            return False
        return len(out) < len(self._workers)

    def _run(self, node: Node, environment: dict[str, str], say: Say) -> Outcome:
        if not self.force:
            with self._opened() as repo:
                stage = self._sought(repo, node)
                if stage is not None:
                    with self._transfers:
                        run_cache.fetch(stage)
        return super()._run(node, environment, say)

    def _sought(self, repo: Repo, node: Node) -> Stage | None:
        """The stage, if it has changed and the remote's run-cache may have what it would make now."""
        with self._locked(repo), contextlib.suppress(DvcException):  # an input is missing: that is told of later
            stage = repo.stage.load_one(node.path, node.stage)
            if stage.cmd and not stage.frozen and stage.changed():
                stage.save_deps()
                return stage if run_cache.portable(stage) else None
        return None

    def _shared(self, stage: Stage) -> Path | None:
        return None  # who runs the stage takes the turn, perhaps with the same cache

    def _execute(
        self, node: Node, stage: Stage, environment: dict[str, str], say: Say, held: Sequence[int] = ()
    ) -> None:
        if node.here or not run_cache.portable(stage):
            say("runs here: " + ("`meta: here`" if node.here else "the run-cache cannot carry what it makes"))
            super()._execute(node, stage, environment, say, held)
            return
        with self._opened() as repo:
            with self._locked(repo):
                inputs, upstream = other_clone.describe(repo, self.plan, node, stage)
            order = {
                **inputs,
                "force": self.force,
                # Workers may share a machine: idle threads are not to spin.
                "environment": {"OMP_WAIT_POLICY": "PASSIVE", **environment},
                "threads": {name: os.environ[name] for name in worker.THREADS if name in os.environ},
            }
            with self._transfers:
                for before in upstream:
                    run_cache.push(before)
        answer, where = self._performed(node, order, say)
        self._keep(node, answer)
        if "error" in answer:
            raise StageError(f"{answer['error']} (on {where})")
        with self._opened() as repo:
            one = run_cache.Entry(*answer["entry"])
            with self._transfers:
                here = run_cache.fetch_entry(repo, one)
            if not here:
                raise StageError(f"{where} has sent it to the DVC remote, where it is not: is that the same one there?")
            with self._locked(repo):
                run_cache.check_out(repo.stage.load_one(node.path, node.stage), one)

    def _performed(self, node: Node, order: dict[str, Any], say: Say) -> tuple[dict[str, Any], str]:
        """Run the stage on a worker: the answer, and the worker's address. A lost worker's stage goes to another."""
        for _ in range(TRIES):
            with self._taken(node) as where:
                try:
                    say(f"on {where}: {self._workers[where]['home']}")
                    answer = self._sent(where, node, order, None, say)
                    if "needs" in answer:
                        answer = self._sent(where, node, order, self._snapshot.bundle, say)
                    return answer, where
                except WorkerLost:
                    say(f"{where} was lost, and the stage with it")
        raise StageError(f"{TRIES} workers were lost while they ran it")

    def _sent(self, where: str, node: Node, order: dict[str, Any], bundle: bytes | None, say: Say) -> dict[str, Any]:
        key = f"palimpsest-{node.name}-{uuid.uuid4()}"
        stream = self._streams[key] = queue.SimpleQueue()
        count = 0
        log = self.log(node.name)
        log.parent.mkdir(parents=True, exist_ok=True)
        future = self._client.submit(
            worker.perform, order, self._snapshot.commit, bundle, self._topic, key=key, workers=[where], pure=False
        )
        future.add_done_callback(lambda _: stream.put(None))

        def pass_on(lines: list[str]) -> int:
            for line in lines:
                file.write(f"{line}\n")
                say(line)
            file.flush()
            return len(lines)

        try:
            with log.open("w", encoding="utf-8", errors="backslashreplace") as file:
                while True:
                    try:
                        lines = stream.get(timeout=POLL)
                    except queue.Empty:
                        if self.runner.stopped:
                            raise StageError("stopped") from None
                        if where not in self._present():
                            raise WorkerLost from None
                        continue
                    if lines is None:
                        break
                    count += pass_on(lines)
                answer = self._result(future, where)
                while count < answer.get("said", 0):
                    try:
                        count += pass_on(stream.get(timeout=POLL) or [])
                    except queue.Empty:
                        break  # the whole log comes with the answer
                return answer
        finally:
            future.cancel()  # the worker ends what it still runs
            del self._streams[key]

    def _result(self, future: distributed.Future, where: str) -> dict[str, Any]:
        try:
            return dict(future.result(timeout=CONNECT))
        except distributed.KilledWorker:
            raise WorkerLost from None
        except (distributed.CancelledError, asyncio.CancelledError):
            raise StageError("stopped" if self.runner.stopped else "the Dask scheduler was lost") from None
        except Exception as error:  # of the worker itself
            raise StageError(f"{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error

    def _keep(self, node: Node, answer: dict[str, Any]) -> None:
        """Write the run's log and records where a run on this machine leaves them."""
        if "log" in answer:
            self.log(node.name).write_text(answer["log"], encoding="utf-8", errors="backslashreplace")
        records.add(self.plan.root / record.home(), answer.get("records", {}), self._state)

    @contextlib.contextmanager
    def _taken(self, node: Node) -> Iterator[str]:
        """A worker for this stage alone, waited for; for a stage with a GPU, one whose GPU no other stage has."""
        limit = time.monotonic() + RETURN
        while True:
            if self.runner.stopped:
                raise StageError("stopped before it began")
            self._update_workers()
            with self._change:
                if (where := self._free(node)) is not None:
                    self._busy[where] = node
                    break
                if self._workers:
                    limit = time.monotonic() + RETURN
                elif time.monotonic() > limit:
                    raise StageError("no worker is left")
                self._change.wait(POLL)
        try:
            yield where
        finally:
            with self._change:
                del self._busy[where]
                self._change.notify_all()

    def _free(self, node: Node) -> str | None:
        free = [where for where in self._workers if where not in self._busy]
        if node.gpu and any(one["gpus"] for one in self._workers.values()):
            out = [where for where, other in self._busy.items() if other.gpu and where in self._workers]
            used = {gpu for where in out for gpu in self._workers[where]["gpus"]}
            free = [w for w in free if self._workers[w]["gpus"] and used.isdisjoint(self._workers[w]["gpus"])]
        return free[0] if free else None

    def _update_workers(self) -> None:
        """Ask the scheduler which workers there are, and new ones whether they are fit and on which hardware."""
        present = self._present()
        with self._change:
            for gone in self._workers.keys() - present:
                del self._workers[gone]
            new = sorted(present - self._workers.keys() - self._unfit.keys())
            if not new:
                return
            ours = worker.environment()
            portable = self._portable()
            for where, said in self._client.run(worker.hello, workers=new, on_error="return").items():
                if isinstance(said, ModuleNotFoundError):
                    said = {"error": f"{said}; `pip install -c constraints.txt -e '.[dask]'` there"}
                elif isinstance(said, BaseException):
                    said = {"error": f"{type(said).__name__}: {' '.join(str(said).split())}"}
                elif "error" not in said and said["program"] != worker.program():
                    said = {"error": "another palimpsest is installed there; install this one and start it again"}
                if "error" in said:
                    self._unfit[where] = said["error"]
                    self._say(f"worker {where}: {said['error']}")
                    continue
                self._workers[where] = said
                theirs = said["environment"]
                # Where both can be held to portable kernels, the CPU decides no bytes.
                able = portable and all(set(env["features"].split()) >= kernels.NEEDED for env in (ours, theirs))
                if other := [
                    f"{name} {theirs.get(name)} (here {one})"
                    for name, one in ours.items()
                    if theirs.get(name) != one and not (able and name in ("processor", "features"))
                ]:
                    self._say(f"worker {where} may give other bytes than this machine: {', '.join(other)}")

    def _portable(self) -> bool:
        with contextlib.suppress(InputError):  # some project without these parameters
            values = params.load(self.plan.root / "params.yaml")
            return params.section(values, "runtime", params.Runtime).kernels == "portable"
        return False

    def _present(self) -> set[str]:
        try:
            return set(self._client.nthreads())
        except (OSError, RuntimeError, TimeoutError, distributed.CancelledError) as error:
            raise StageError("the Dask scheduler was lost") from error

    def _on_event(self, event: tuple[float, dict[str, Any]]) -> None:
        message = event[1]
        if (stream := self._streams.get(message["key"])) is not None:
            stream.put(message["lines"])


@contextlib.contextmanager
def connected(work: Workspace, where: str, say: Say) -> Iterator[ClusterWorkspace]:
    """`work` on the workers of the Dask scheduler at `where`. Prefect's settings have to be made before.

    The workers get the files of the working copy as they are now, committed or not.

    Raises InputError where the files cannot be sent, and where no worker is fit.
    """
    from prefect_dask import DaskTaskRunner

    taken = snapshot.take(work.plan.root)
    with DaskTaskRunner(address=where) as runner:
        yield ClusterWorkspace(work, runner.client, taken, say)
