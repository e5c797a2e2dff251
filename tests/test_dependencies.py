"""What the code imports, pyproject.toml declares, and the other way round; constraints.txt and the lock pin it."""

import ast
import re
import sys
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]

# Declared and not imported: what Prefect imports, held to versions with which it works; and programs, with what they
# import and do not declare.
NOT_IMPORTED = {"sqlalchemy"}
PROGRAMS = {"palimpsest", "pytest-xdist", "ruff", "mypy", "pre-commit", "uv", "model-signing", "pyopenssl"}

# Where constraints.txt was written.
PINNED_ON = {
    "python_full_version": "3.11.7",
    "python_version": "3.11",
    "implementation_name": "cpython",
    "platform_python_implementation": "CPython",
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
}


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
    there = declared([*PROJECT["dependencies"], *EXTRAS["dask"], *EXTRAS["heic"], *EXTRAS["onnx"], *EXTRAS["c2pa"]])
    assert undeclared(needed, there) == []
    assert there - set().union(*needed.values()) == NOT_IMPORTED


def test_what_the_tests_import_is_declared() -> None:
    needed = imported("tests") | imported("docs")
    there = declared([line for lines in (PROJECT["dependencies"], *EXTRAS.values()) for line in lines])
    assert undeclared(needed, there) == []
    assert declared(EXTRAS["dev"]) - set().union(*needed.values()) == PROGRAMS


def pinned(lines: list[str]) -> dict[str, Requirement]:
    return {spelled(one.name): one for one in map(Requirement, lines)}


CONSTRAINTS = pinned((ROOT / "constraints.txt").read_text().split())
LOCK = re.findall(
    r"^(\S.*?)((?: \\\n    --hash=sha256:[0-9a-f]{64})+)$", (ROOT / "requirements.lock").read_text(), re.M
)


def test_constraints_and_the_lock_pin_the_same() -> None:
    """The lock holds more, for other systems and Pythons alone."""
    locked = pinned([line for line, _ in LOCK])
    here = {name: one for name, one in locked.items() if not one.marker or one.marker.evaluate(PINNED_ON)}
    assert {name: str(one.specifier) for name, one in here.items()} == {
        name: str(one.specifier) for name, one in CONSTRAINTS.items()
    }


def test_each_line_of_the_lock_has_hashes_and_names_no_place() -> None:
    """`pip install --require-hashes` takes it on any machine, from the index that this machine uses."""
    text = (ROOT / "requirements.lock").read_text()
    comments = re.findall("^#.*\n", text, re.M)
    assert "".join(comments) + "".join(f"{line}{hashes}\n" for line, hashes in LOCK) == text
    assert all(re.fullmatch(r"[\w.-]+(\[[\w, -]+\])?==[\w.!+]+( ; .+)?", line) for line, _ in LOCK)
    assert "//" not in text


def test_what_is_declared_is_pinned_to_a_version_that_will_do() -> None:
    declarations = [*PROJECT["dependencies"], *(line for lines in EXTRAS.values() for line in lines)]
    for one in map(Requirement, declarations):
        if one.name != PROJECT["name"]:
            (pin,) = CONSTRAINTS[spelled(one.name)].specifier
            assert one.specifier.contains(pin.version), one
