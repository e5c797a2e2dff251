"""The house's floors: who may import whom, read from the source of every file."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parent.parent
FILES = sorted(path.relative_to(ROOT) for floor in ("stages", "flows") for path in (ROOT / floor).rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, at its top and inside of its functions, by their full names."""
    for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            assert node.module is not None
            # `from flows.engine import graph` is of a module, `from flows.engine.graph import Node` of a name in one.
            yield from (f"{node.module}.{name.name}" for name in node.names)


def room(module: str) -> str | None:
    """The room that a module lies in, as `flows.engine`; None for one that lies in no room, or is not ours."""
    floor, name, *_ = [*module.split("."), ""]
    return f"{floor}.{name}" if floor in ("stages", "flows") and (ROOT / floor / name).is_dir() and name else None


def name(path: Path) -> str:
    return ".".join(path.with_suffix("").parts)


def test_the_packages_own_files_are_empty() -> None:
    """So to import one module of a room is to import that one alone."""
    inits = [path for path in FILES if path.name == "__init__.py"]
    assert len(inits) > 10
    assert [path for path in inits if (ROOT / path).read_text()] == []


def test_every_room_is_a_package() -> None:
    assert {path.parent for path in FILES} == {path.parent for path in FILES if path.name == "__init__.py"}


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[0] == "stages"], ids=str)
def test_stages_know_neither_dvc_nor_prefect_nor_flows(path: Path) -> None:
    assert {"dvc", "prefect", "flows"}.isdisjoint(module.split(".")[0] for module in imports(path))


@pytest.mark.parametrize("path", [path for path in FILES if room(name(path)) and path.stem != "__init__"], ids=str)
def test_a_room_imports_no_file_above_it(path: Path) -> None:
    """Neither a stage in `stages/`, nor a command in `flows/`; a room of flows may import stages, which lie below."""
    floor = path.parts[0]
    above = {module for module in imports(path) if module.startswith(f"{floor}.") and not room(module)}
    assert above == set()


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[:1] == ("stages",) and len(path.parts) == 2])
def test_no_stage_imports_another(path: Path) -> None:
    others = {module for module in imports(path) if module.startswith("stages.") and not room(module)}
    assert others == set()


@pytest.mark.parametrize(
    ("stage", "allowed"),
    [("infer", {"checkpoint", "device"}), ("search", {"checkpoint", "device"}), ("evaluate", {"device"})],
)
def test_what_completes_and_scores_imports_no_training_code(stage: str, allowed: set[str]) -> None:
    """So a change to how networks are trained makes none of these stages stale."""
    deps = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"][stage]["do"]["deps"]  # test_dvc_yaml.py proves them
    assert {dep for dep in deps if dep.startswith("stages/training")} == {
        f"stages/training/{name}.py" for name in allowed
    }


@pytest.mark.parametrize("floor", ["stages", "flows"])
def test_rooms_form_no_circle(floor: str) -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        if path.parts[0] == floor and (here := room(name(path))):
            there = {found for module in imports(path) if (found := room(module)) and found.startswith(floor)}
            graph.setdefault(here, set()).update(there - {here})
    assert len(graph) > 3
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the rooms


@pytest.mark.parametrize("path", [path for path in FILES if path.parts[:2] != ("flows", "engine")], ids=str)
def test_only_the_engine_imports_dvc(path: Path) -> None:
    assert {module for module in imports(path) if module.split(".")[0] in ("dvc", "dvc_data", "scmrepo")} == set()


def test_prefect_is_imported_where_it_is_used_alone() -> None:
    """It takes seconds: help, refusals and `palimpsest status` do without."""
    users = {path for path in FILES if any(module.split(".")[0] == "prefect" for module in imports(path))}
    commands = {Path("flows", f"{command}.py") for command in ("rebuild", "restore", "retrain", "schedule", "study")}
    assert {path for path in users if path.parent.name != "prefect_server"} == {
        *commands,
        Path("flows/operations/scheduled_run.py"),
    }
