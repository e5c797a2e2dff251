"""One stage in a clone on another machine: `python -m flows.cluster.remote_stage ORDER ANSWER`, from the clone's root.

ORDER is a JSON file with what `read` gives, and `force` and `environment`. ANSWER is the one that is written: the
run-cache's `entry` and the `records` of the run, or the `error`; and the `log`. What the stage says goes to standard
output as well. SIGTERM lets it save what it needs to go on.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage import Stage
from dvc.stage.serialize import to_lockfile
from dvc.utils.serialize import dumps_yaml

from flows.checkout import snapshot
from flows.engine import run_cache
from flows.engine.graph import Node, Plan
from flows.engine.workspace import StageError, forget, workspace
from stages.runs.errors import InputError

RECORDS = Path(".palimpsest/records")


def read(repo: Repo, plan: Plan, node: Node, stage: Stage) -> dict[str, Any]:
    """What a clone of the same files has to know of a stage, whose deps are saved, to run it on the same inputs.

    Its own and its deps' digests; the entries of `dvc.lock` that brought its upstream stages' outputs, which
    are sent to the remote first; and the files that no remote keeps: uncached outputs and `.dvc` files.
    """
    locks: dict[str, dict[str, Any]] = {_lock(plan, node): {}}
    files: dict[str, str] = {}
    for name in node.upstream:
        before = plan.nodes[name]
        made = repo.stage.load_one(before.path, before.stage)
        run_cache.push(made)
        if before.stage is None:
            files[_inside(plan, before.path)] = Path(before.path).read_text(encoding="utf-8")
        else:
            locks.setdefault(_lock(plan, before), {}).update(to_lockfile(made))
        for out in made.outs:
            if not out.use_cache:
                found = Path(out.fs_path)
                for file in filter(Path.is_file, [found, *found.rglob("*")]):
                    files[_inside(plan, str(file))] = file.read_bytes().decode("latin-1")
    return {
        "stage": [_inside(plan, node.path), node.stage],
        "upstream": [[_inside(plan, plan.nodes[name].path), plan.nodes[name].stage] for name in node.upstream],
        "locks": {path: dumps_yaml({"schema": "2.0", "stages": stages}) for path, stages in locks.items()},
        "files": files,
        "inputs": digests(stage),
        "remote": list(run_cache.remote(repo)),
    }


def digests(stage: Stage) -> dict[str, Any]:
    """Of each dep that the stage has saved, what DVC knows it by."""
    return {dep.def_path: dep.hash_info.to_dict() for dep in stage.deps}


def main() -> None:
    order = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    answer: dict[str, Any]
    try:
        answer = _run(order)
    except (StageError, InputError, DvcException) as error:
        answer = {"error": " ".join(str(error).split())}
    except OSError as error:
        answer = {"error": f"{error.filename or 'DVC'}: {error.strerror}"}
    Path(sys.argv[2]).write_text(json.dumps(answer), encoding="utf-8")


def _run(order: Mapping[str, Any]) -> dict[str, Any]:
    path, name = order["stage"]
    with Repo() as repo:
        run_cache.adopt(repo, run_cache.Remote(*order["remote"]))
    _prepare(order)
    with workspace([_address(path, name)], force=order["force"], say=_say) as work:
        signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=work.stop).start())
        (node,) = [
            node for node in work.plan.nodes.values() if [_inside(work.plan, node.path), node.stage] == [path, name]
        ]
        log = work.log(node.name)
        log.unlink(missing_ok=True)
        answer: dict[str, Any] = {}
        try:
            work.run(node.name, order["environment"], _say)
            with Repo() as repo, repo.lock:
                stage = repo.stage.load_one(path, name)
                one = run_cache.entry(stage)
                run_cache.push_entry(repo, one)
                answer["entry"] = list(one)
                answer["records"] = _records({out.def_path: out.hash_info.value for out in stage.outs})
        except StageError as error:
            answer["error"] = str(error)
        if log.exists():
            answer["log"] = log.read_text(encoding="utf-8")
        return answer


def _prepare(order: Mapping[str, Any]) -> None:
    """Lay out the stage's inputs as they are on the machine that asks, and nothing else among them.

    Raises StageError where one is missing here or is another.
    """
    for path, text in order["locks"].items():
        Path(path).write_text(text, encoding="utf-8")
    path, name = order["stage"]
    with Repo() as repo:
        _clear(repo, repo.stage.load_one(path, name), [repo.stage.load_one(*one) for one in order["upstream"]])
        for file, text in order["files"].items():
            Path(file).parent.mkdir(parents=True, exist_ok=True)
            Path(file).write_bytes(text.encode("latin-1"))
    if order["upstream"]:
        run_cache.forget_lists(Path())
    with Repo() as repo:  # as the files are now
        if order["upstream"]:
            repo.pull([_address(*one) for one in order["upstream"]], force=True)
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


def _clear(repo: Repo, stage: Stage, upstream: list[Stage]) -> None:
    """Remove what earlier errands have left beside the outputs that the stage reads as one folder."""
    kept = {Path(out.fs_path) for one in upstream for out in one.outs if out.use_cache}
    tracked = {Path(repo.root_dir, name) for name in snapshot.tracked(Path(repo.root_dir))}
    for dep in stage.deps:
        folder = Path(dep.fs_path)
        if any(folder in path.parents for path in kept):
            for file in folder.rglob("*"):
                if not file.is_dir() and file not in tracked and not kept.intersection([file, *file.parents]):
                    file.unlink()


def _records(outputs: Mapping[str, str]) -> dict[str, str]:
    """The records, by their place, of the runs that made these outputs: this one's, or an earlier one's."""
    found = {file: file.read_text(encoding="utf-8") for file in sorted(RECORDS.glob("*/*.json"))}
    return {
        file.relative_to(RECORDS).as_posix(): text
        for file, text in found.items()
        if json.loads(text).get("outputs", {}).items() >= outputs.items()
    }


def _lock(plan: Plan, node: Node) -> str:
    return _inside(plan, str(Path(node.path).with_suffix(".lock")))


def _inside(plan: Plan, path: str) -> str:
    return os.path.relpath(path, plan.root)


def _address(path: str, name: str | None) -> str:
    return path if name is None else f"{path}:{name}"


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    main()
