"""Prefect's flow runs of one working copy, and what killed ones have left."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def tagged(flow: str, root: Path) -> Iterator[None]:
    """Tag the runs of `flow` that begin inside the block as this working copy's; first mark killed ones as crashed.

    Only the one process that may run the flow there now may call this. Take the tag from the tasks again: for each tag
    of a task, Prefect asks the server for a place.
    """
    from prefect import tags
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    tag = f"{socket.gethostname()}:{root}"  # others may use the same server
    _mark_crashed(flow, tag)
    # A heartbeat is for who watches from afar, and its thread takes up to a second to end.
    with tags(tag), temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


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
