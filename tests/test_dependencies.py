"""What the code imports, pyproject.toml declares, and the other way round."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Declared and not imported: what Prefect imports, held to versions with which it works; and programs.
NOT_IMPORTED = {"fastapi", "sqlalchemy"}
PROGRAMS = {"palimpsest", "pytest-xdist", "ruff", "mypy", "pre-commit"}


def imported(folder: str) -> dict[str, set[str]]:
    """Each module that the files of a folder import, inside functions too, and the distributions that may bring it.

    Those of Python and of the project are left out.
    """
    packages = metadata.packages_distributions()
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names.add(node.module.partition(".")[0])
    ours = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"stages", "flows", "tests", "docs"}
    foreign = names - ours - sys.stdlib_module_names
    return {name: {spelled(brings) for brings in packages[name]} for name in foreign if name in packages}


def spelled(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(requirements: list[str]) -> set[str]:
    return {spelled(re.match(r"[A-Za-z0-9._-]+", line)[0]) for line in requirements}  # type: ignore[index]


def undeclared(modules: dict[str, set[str]], there: set[str]) -> list[str]:
    return sorted(name for name, brings in modules.items() if not brings & there)


def test_what_is_imported_is_declared_and_nothing_else() -> None:
    needed = imported("stages") | imported("flows")
    there = declared([*PROJECT["dependencies"], *EXTRAS["dask"], *EXTRAS["heic"]])
    assert undeclared(needed, there) == []
    assert there - set().union(*needed.values()) == NOT_IMPORTED


def test_what_the_tests_import_is_declared() -> None:
    needed = imported("tests") | imported("docs")
    there = declared([line for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines])
    assert undeclared(needed, there) == []
    assert declared(EXTRAS["dev"]) - set().union(*needed.values()) == PROGRAMS
