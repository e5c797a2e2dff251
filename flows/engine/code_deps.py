"""Write into `dvc.yaml` which files of `stages/` each stage imports: `python -m flows.engine.code_deps`.

Run it from the project's root after a change to a stage's imports. It prints what it changed. With `--check` it changes
nothing, and its exit code is 1 where something is to be changed.

A stage is stale if a file that it lists has changed: so it lists the files that it imports, those that these import,
and so on, and no others. Where these are all that a folder holds, it lists the folder. `__init__.py` files are empty.
"""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from stages.runs import record

NETWORK = "stages/models/${item.network}.py"  # a dep of `infer`, which imports the network that its entry names


def imports(root: Path, nodes: Iterable[ast.AST]) -> set[Path]:
    """The project's files that code imports when it runs, inside of functions too; not those for type checking alone.

    The files are relative to `root`, the project's root.
    """
    found: set[Path] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING":
            todo.extend(node.orelse)
            continue
        todo.extend(ast.iter_child_nodes(node))
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        paths = [Path(name.replace(".", "/") + ".py") for name in names if name.startswith("stages.")]
        found.update(path for path in paths if (root / path).exists())
    return found


def closure(root: Path, *files: Path) -> set[Path]:
    """`files`, what they import, what that imports, and so on; relative to `root`."""
    reached: set[Path] = set()
    todo = set(files)
    while todo:
        path = todo.pop()
        reached.add(path)
        todo |= imports(root, [ast.parse((root / path).read_text(encoding="utf-8"))]) - reached
    return reached


def networks(root: Path) -> set[Path]:
    """What an entry of `infer` may name: the files with a class `Network`, the baselines, and ONNX files."""
    paths = (root / "stages" / "models").glob("*.py")
    named = {path for path in paths if re.search(r"^Network = ", path.read_text(encoding="utf-8"), re.MULTILINE)}
    return {path.relative_to(root) for path in named} | {
        Path("stages/models/classical.py"),
        Path("stages/models/onnx.py"),
    }


def needed(root: Path, stage: str, deps: Iterable[str]) -> set[Path]:
    """The files of the project that a stage runs, but for the network that an entry of `infer` names itself.

    Python imports no template, style sheet or script: these count, as in a record, where a file of their folder is
    imported.
    """
    reached = closure(root, Path("stages", f"{stage}.py"))
    if NETWORK in deps:
        named = networks(root)
        reached = (reached | closure(root, *named)) - named
    beside = (
        path.relative_to(root) for folder in {path.parent for path in reached} for path in (root / folder).iterdir()
    )
    return reached | {path for path in beside if path.suffix in record.SOURCES and path.suffix != ".py"}


def shortened(root: Path, files: set[Path]) -> list[str]:
    """`files` as a list of deps: a folder stands for all that it holds, where nothing is in it but files of these."""
    found: set[Path] = set()
    for path in files:
        folders = [folder for folder in reversed(path.parents) if len(folder.parts) > 1]  # below `stages/`
        found.add(next((folder for folder in folders if _held(root, folder) <= files), path))
    stage = [path for path in found if len(path.parts) == 2 and path.suffix]
    return [path.as_posix() for path in [*sorted(stage), *sorted(found - {*stage})]]


def _held(root: Path, folder: Path) -> set[Path]:
    """The files in a folder and below that DVC sees, but for the empty `__init__.py`."""
    held = (path.relative_to(root) for path in (root / folder).rglob("*") if path.is_file())
    return {path for path in held if path.name != "__init__.py" and "__pycache__" not in path.parts}


def is_code(root: Path, dep: str) -> bool:
    """Whether a dep is a source file or a folder of such, whichever the stage."""
    return dep.startswith("stages/") and dep != NETWORK and (dep.endswith(".py") or (root / dep).is_dir())


def rewrite(root: Path, pipeline: dict[str, Any]) -> list[str]:
    """Correct the code lists of all stages in a `dvc.yaml` that was read; a line for each dep added or removed."""
    changes = []
    for stage, entry in pipeline["stages"].items():
        deps = entry.get("do", entry)["deps"]
        old = [dep for dep in deps if is_code(root, dep)]
        new = shortened(root, needed(root, stage, deps))
        if old != new:
            data = [dep for dep in deps if dep not in old and dep != NETWORK]
            deps[:] = [*data, *new, *(dep for dep in deps if dep == NETWORK)]
            lines = [f"- {dep}" for dep in old if dep not in new] + [f"+ {dep}" for dep in new if dep not in old]
            changes += [f"dvc.yaml: {stage}: {line}" for line in lines or ["sorted"]]
    return changes


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m flows.engine.code_deps", description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 where something would be")
    check = parser.parse_args().check
    root = Path.cwd()
    round_trip = YAML(typ="rt", pure=True)  # it keeps comments, and makes plain values alone, whatever the tags
    round_trip.preserve_quotes = True
    round_trip.width = 1 << 20  # a line that is long stays one
    round_trip.indent(mapping=2, sequence=4, offset=2)
    pipeline = round_trip.load(root / "dvc.yaml")
    changes = rewrite(root, pipeline)
    print("\n".join(changes) or "dvc.yaml: every stage lists what it imports")
    if changes and not check:
        round_trip.dump(pipeline, root / "dvc.yaml")
    return int(check and bool(changes))


if __name__ == "__main__":
    sys.exit(main())
