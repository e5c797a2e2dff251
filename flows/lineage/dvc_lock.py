"""What a `dvc.lock` says: which stage made which output, from what."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from ruamel.yaml import YAML

from stages.runs.errors import InputError

INGESTED = "data/ingested/"
MOST = 300_000  # values in a YAML text; a large lock has ten thousand


def parse(text: str | None, what: str, remedy: str = "; mend or restore it") -> dict[str, Any]:
    """The mapping in a YAML text; an empty one for None. Raises InputError, naming `what`, for a damaged text."""
    try:
        found = YAML(typ="safe").load(text or "") or {}
        if not isinstance(found, dict):
            raise ValueError("must be a mapping")
        _bounded(found)
    except Exception as error:  # of a bad scalar (`!!bool x`), ruamel raises KeyError, IndexError and others
        raise InputError(f"{what}: not valid YAML: {' '.join(str(error).split())}{remedy}") from None
    return found


def _bounded(found: Any) -> None:
    """Raise ValueError where aliases (`*name`) make endless or billions of values of a short text."""
    todo, count = [found], 0
    while todo:
        value = todo.pop()
        if isinstance(value, dict | list):
            todo += value.values() if isinstance(value, dict) else value
            count += len(value)
            if count > MOST:
                raise ValueError(f"more than {MOST:,} values")


def read(file: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty one where there is no file. Raises InputError as `parse` does."""
    return parse(file.read_bytes().decode(errors="replace") if file.exists() else None, file.name)


def outputs(content: dict[str, Any]) -> dict[str, str]:
    """Of a `dvc.lock`, the md5 of every output by its path."""
    stages = content.get("stages") or {}
    return {out["path"]: out.get("md5", "") for stage in stages.values() for out in stage.get("outs", [])}


def upstream(content: dict[str, Any], path: str) -> dict[str, str]:
    """Of a `dvc.lock`, all that the output at `path` comes from, and what was made along with it: md5 by path."""
    stages = (content.get("stages") or {}).values()
    found: dict[str, str] = {}
    todo = [path]
    while todo:
        wanted = todo.pop()
        for stage in stages:
            outs, deps = stage.get("outs", []), stage.get("deps", [])
            if any(_meet(wanted, out["path"]) for out in outs):
                todo += [dep["path"] for dep in deps if dep["path"] not in found]
                found |= {file["path"]: file.get("md5", "") for file in [*outs, *deps]}
    return found


def makers(content: dict[str, Any], paths: Iterable[str], gone: Collection[str]) -> list[str]:
    """Of a `dvc.lock`, the stages that make files, and those before them whose outputs are among `gone`, in order."""
    stages = content.get("stages") or {}
    order: dict[str, None] = {}

    def visit(path: str) -> None:
        for name, stage in stages.items():
            if name not in order and any(_meet(path, out["path"]) for out in stage.get("outs", [])):
                for dep in stage.get("deps", []):
                    if any(_meet(dep["path"], other) for other in gone):
                        visit(dep["path"])
                order[name] = None

    for path in paths:
        visit(path)
    return [*order]


def _meet(one: str, other: str) -> bool:
    return PurePosixPath(one).is_relative_to(other) or PurePosixPath(other).is_relative_to(one)


def ingested(content: dict[str, Any], checkpoint: str) -> dict[str, str]:
    """Of a `dvc.lock`, the md5 of every ingested dataset that the checkpoint comes from."""
    found = upstream(content, checkpoint)
    return {path.removeprefix(INGESTED): md5 for path, md5 in found.items() if path.startswith(INGESTED)}


def rows(content: dict[str, Any]) -> Iterator[dict[str, object]]:
    """A row per output: its digest, the stage that made it, and the digests of what went in."""
    for stage, entry in (content.get("stages") or {}).items():
        made_from = ", ".join(f"{dep['path']} {dep.get('md5', '')[:8]}" for dep in entry.get("deps", []))
        for out in entry.get("outs", []):
            yield {"output": out["path"], "md5": out.get("md5", ""), "stage": stage, "from": made_from}
