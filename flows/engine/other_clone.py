"""Running a stage in another clone: its inputs are described here and laid out there, its outputs are sent back.

Inputs that a stage makes go by DVC's default remote; files that no remote keeps go in the order itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml

from flows.engine import run_cache
from flows.engine.graph import Node, Plan
from flows.engine.repository import opened
from flows.engine.workspace import StageError, forget


def describe(repo: Repo, plan: Plan, node: Node, stage: Stage) -> tuple[dict[str, Any], list[Stage]]:
    """What a clone of the same files has to know of a stage, whose deps are saved, to run it on the same inputs.

    Its own and its deps' digests; the entries of `dvc.lock` that brought its upstream stages' outputs; and the files
    that no remote keeps: uncached outputs and `.dvc` files. And these upstream stages: what they have made is to be
    sent to the remote (`run_cache.push`). To be called under DVC's repository lock.
    """
    locks: dict[str, dict[str, Any]] = {_lock(plan, node): {}}
    files: dict[str, str] = {}
    upstream: list[Stage] = []
    for name in node.upstream:
        before = plan.nodes[name]
        made = repo.stage.load_one(before.path, before.stage)
        upstream.append(made)
        if before.stage is None:
            files[_inside(plan, before.path)] = Path(before.path).read_text(encoding="utf-8")
        else:
            locks.setdefault(_lock(plan, before), {}).update(to_lockfile(made))
        for out in made.outs:
            if not out.use_cache:
                found = Path(out.fs_path)
                for file in filter(Path.is_file, [found, *found.rglob("*")]):
                    files[_inside(plan, str(file))] = file.read_bytes().decode("latin-1")
    order = {
        "stage": [_inside(plan, node.path), node.stage],
        "upstream": [[_inside(plan, plan.nodes[name].path), plan.nodes[name].stage] for name in node.upstream],
        "locks": {path: dumps_yaml({"schema": "2.0", "stages": stages}) for path, stages in locks.items()},
        "files": files,
        "inputs": digests(stage),
        "remote": list(run_cache.remote(repo)),
    }
    return order, upstream


def digests(stage: Stage) -> dict[str, Any]:
    """The digests of the stage's deps, as it has saved them, by their paths."""
    return {dep.def_path: dep.hash_info.to_dict() for dep in stage.deps}


def lay_out(order: Mapping[str, Any], tracked: list[str]) -> None:
    """Lay out the stage's inputs in the clone that is the current folder, and nothing else among them.

    `tracked` are the files that Git follows. Raises StageError where one is missing here or is another.
    """
    with opened(None) as repo:
        run_cache.adopt(repo, run_cache.Remote(*order["remote"]))
    for path, text in order["locks"].items():
        Path(path).write_text(text, encoding="utf-8")
    path, name = order["stage"]
    with opened(None) as repo:
        _clear(repo, repo.stage.load_one(path, name), [repo.stage.load_one(*one) for one in order["upstream"]], tracked)
        for file, text in order["files"].items():
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_bytes(text.encode("latin-1"))
    if order["upstream"]:
        run_cache.forget_lists(Path())
    with opened(None) as repo:  # as the files are now
        if order["upstream"]:
            repo.pull([address(*one) for one in order["upstream"]], force=True)
        with repo.lock:
            stage = repo.stage.load_one(path, name)
            for dep in stage.deps:
                if dep.protocol == "local" and not dep.exists:
                    raise StageError(
                        f"{dep}: not on this worker, which looks for it at {dep.fs_path}; put it there, or run "
                        f"`palimpsest rebuild {stage.addressing}` where it is"
                    )
            stage.save_deps()
            found = json.loads(json.dumps(digests(stage)))
            if other := [dep for dep, value in order["inputs"].items() if found.get(dep) != value]:
                raise StageError(f"{', '.join(other)}: not the same on this worker (or edited since the rebuild began)")
    if order["force"]:
        forget(Path(), name)


def node_of(plan: Plan, order: Mapping[str, Any]) -> Node:
    """The order's stage in the plan of this clone."""
    (node,) = [node for node in plan.nodes.values() if [_inside(plan, node.path), node.stage] == order["stage"]]
    return node


def send(order: Mapping[str, Any]) -> tuple[run_cache.Entry, dict[str, str]]:
    """Send what the stage has made to the remote, as an entry of the run-cache; and its outputs' md5, by path."""
    with opened(None) as repo, repo.lock:
        stage = repo.stage.load_one(*order["stage"])
        entry = run_cache.entry(stage)
        run_cache.push_entry(repo, entry)
        return entry, {out.def_path: out.hash_info.value for out in stage.outs}


def _clear(repo: Repo, stage: Stage, upstream: list[Stage], tracked: list[str]) -> None:
    """Remove what earlier stages have left beside the outputs that the stage reads as one folder."""
    kept = {Path(out.fs_path) for one in upstream for out in one.outs if out.use_cache}
    ours = {Path(repo.root_dir, name) for name in tracked}
    for dep in stage.deps:
        folder = Path(dep.fs_path)
        if any(folder in path.parents for path in kept):
            for file in folder.rglob("*"):
                if not file.is_dir() and file not in ours and not kept.intersection([file, *file.parents]):
                    file.unlink()


def _lock(plan: Plan, node: Node) -> str:
    return _inside(plan, str(Path(node.path).with_suffix(".lock")))


def _inside(plan: Plan, path: str) -> str:
    return os.path.relpath(path, plan.root)


def address(path: str, name: str | None) -> str:
    return path if name is None else f"{path}:{name}"
