"""Prefect's flow runs of one working copy, and what killed ones have left."""

from __future__ import annotations

import contextlib
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from flows.prefect_server import server
from flows.process import atomic_file, file_lock, words

ID = Path(".palimpsest/id")  # a random number


@contextlib.contextmanager
def tagged(flow: str, root: Path) -> Iterator[None]:
    """Tag the runs of `flow` that begin inside the block as this working copy's; first mark killed ones as crashed.

    Only the one process that may run the flow there now may call this. Take the tags from the tasks again: for each tag
    of a task, Prefect asks the server for a place.
    """
    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    names = {f"{socket.gethostname()}:{root}"}  # for people; containers share such names
    try:
        names.add(mine := f"working-copy:{working_copy_id(root)}")
        _mark_crashed(flow, mine)
    except OSError as error:  # a full disk
        words.say(f"{root / ID}: {error.strerror}; what killed runs have left on Prefect's page stays as it is")
    # A heartbeat is for who watches a shared server from afar, and its thread takes up to a second to end.
    with tags(*names), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None} if server.ours() else {}):
        yield


def working_copy_id(root: Path) -> str:
    """What names this working copy, and no other on any machine.

    It comes from a random number, which is kept in ID, and from the path: a copy of the folder is another working copy.
    Raises OSError where the number cannot be kept.
    """
    return str(uuid.uuid5(_number(root / ID), str(root)))


def _number(file: Path) -> uuid.UUID:
    with contextlib.suppress(FileNotFoundError, ValueError):
        return uuid.UUID(file.read_text(encoding="utf-8").strip())
    with file_lock.lock(file.with_suffix(".lock")):  # two may begin at once
        with contextlib.suppress(FileNotFoundError, ValueError):
            return uuid.UUID(file.read_text(encoding="utf-8").strip())
        number = uuid.uuid4()
        atomic_file.write(file, f"{number}\n")
        return number


def _mark_crashed(flow: str, tag: str) -> None:
    """Mark the runs of the flow with this tag that have not ended as crashed."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowRunFilter, TaskRunFilter
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    living = {"any_": [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]}
    with get_client(sync_client=True) as client:
        of_flow = FlowFilter.model_validate({"name": {"any_": [flow]}})
        left = FlowRunFilter.model_validate({"tags": {"all_": [tag]}, "state": {"type": living}})
        for run in client.read_flow_runs(flow_filter=of_flow, flow_run_filter=left):
            in_run = FlowRunFilter.model_validate({"id": {"any_": [run.id]}})
            unfinished = TaskRunFilter.model_validate({"state": {"type": living}})
            for one in client.read_task_runs(flow_run_filter=in_run, task_run_filter=unfinished):
                client.set_task_run_state(one.id, Crashed(message=f"killed with its {flow}"), force=True)
            client.set_flow_run_state(run.id, Crashed(message="killed, or its server was"), force=True)
