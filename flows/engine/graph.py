"""DVC's graph as a plan: which stages there are, what each waits for, what it needs, and which are stale."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import time
from collections.abc import Iterable
from pathlib import Path

from dvc.repo import Repo
from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro
from dvc.stage import Stage
from networkx import DiGraph

from flows.engine.repository import open_repo
from stages.images.outside import link_outside
from stages.runs import params
from stages.runs.errors import InputError


@dataclasses.dataclass(frozen=True)
class Node:
    """A stage of the plan."""

    name: str  # as DVC addresses it: `train_dcgan@dcgan`, `data.csv.dvc`
    path: str  # of the dvc.yaml or .dvc file that defines it
    stage: str | None  # its name in dvc.yaml; None for a .dvc file
    upstream: tuple[str, ...]  # what has to be up to date before it
    height: int  # stages on the longest path that starts with it
    cores: int  # `meta: {cores: N}` of dvc.yaml
    gpu: bool  # `meta: {gpu: true}`, or the name of a device that is one
    here: bool  # `meta: {here: true}`: never on another machine


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `dvc repro` would visit, in its order."""

    root: Path
    nodes: dict[str, Node]
    stale: frozenset[str]  # changed now, or forced

    def affected(self) -> set[str]:
        """The stale stages and all that depend on them: only these have to be looked at again."""
        reached = set(self.stale)
        for node in self.nodes.values():  # upstream comes first
            if reached.intersection(node.upstream):
                reached.add(node.name)
        return reached


def read(repo: Repo, targets: Iterable[str] = (), force: bool = False) -> Plan:
    """The plan for `targets` (as `dvc repro` takes them; none: the `dvc.yaml` here). To be called under `repo.lock`.

    Raises InputError for a hint in `meta` that is not to be understood and for a `params.yaml` that `params.plain`
    refuses, DvcException for a target or
    a `dvc.yaml` that DVC refuses, and LockError where another DVC process runs a stage of the plan.
    """
    _check(repo)
    chosen = collect_stages(repo, list(targets) or ["dvc.yaml"])
    graph = get_active_graph(repo.index.graph)
    steps = plan_repro(graph, chosen)
    heights = _heights(graph.subgraph(steps), steps)
    nodes = {stage.addressing: _node(graph, stage, heights[stage]) for stage in steps}
    for stage in steps:
        for dep in stage.deps:
            if dep.protocol == "local":
                link_outside(Path(dep.def_path), Path(stage.wdir))
    stale = {stage.addressing for stage in steps if force or stage.changed()}
    return Plan(Path(repo.root_dir), nodes, frozenset(stale))


def stale(seconds: float) -> list[str] | None:
    """The stages of the `dvc.yaml` here that have changed, and those that depend on them; None if that takes longer.

    Raises InputError and DvcException as `read` does, and LockError where another DVC process is at work.
    """
    end = time.monotonic() + seconds
    with contextlib.closing(open_repo(wait=False)) as repo, repo.lock:
        _check(repo)
        graph = get_active_graph(repo.index.graph)
        reached: list[Stage] = []
        for stage in plan_repro(graph, collect_stages(repo, ["dvc.yaml"])):  # upstream comes first
            if time.monotonic() > end:
                return None
            if any(before in reached for before in graph.successors(stage)) or stage.changed():
                reached.append(stage)
        return [stage.addressing for stage in reached]


def _check(repo: Repo) -> None:
    """Before DVC reads `params.yaml`, which writes every alias out, and makes files of the names in it."""
    if (file := Path(repo.root_dir, "params.yaml")).exists():
        params.plain(Path(os.path.relpath(file)))


def _heights(graph: DiGraph, steps: list[Stage]) -> dict[Stage, int]:
    heights: dict[Stage, int] = {}
    for stage in reversed(steps):  # what depends on it comes first
        heights[stage] = 1 + max((heights[dependent] for dependent in graph.predecessors(stage)), default=0)
    return heights


def _node(graph: DiGraph, stage: Stage, height: int) -> Node:
    meta = stage.meta if isinstance(stage.meta, dict) else {}
    cores, gpu, here = meta.get("cores", 1), meta.get("gpu", False), meta.get("here", False)
    if isinstance(gpu, str):
        gpu = gpu.partition(":")[0] != "cpu"  # a torch device, as of params.yaml's runtime
    if type(cores) is not int or cores < 1:
        raise InputError(f"{stage.addressing}: `meta: cores` in {stage.relpath} is {cores!r}; give a number from 1")
    for hint, value in (("gpu", gpu), ("here", here)):
        if not isinstance(value, bool):
            raise InputError(f"{stage.addressing}: `meta: {hint}` in {stage.relpath} is {value!r}; give true or false")
    upstream = tuple(dependency.addressing for dependency in graph.successors(stage))
    return Node(stage.addressing, stage.path, getattr(stage, "name", None), upstream, height, cores, gpu, here)
