"""`python -m flows.engine.code_deps`: what a stage imports is found, and written into dvc.yaml."""

import difflib
import shutil
import subprocess
import sys
from pathlib import Path

from dvc_project import ENV, ROOT

from flows.engine import code_deps


def test_what_is_imported_is_found(tmp_path: Path) -> None:
    """At the top, inside of functions, from a package; by what is imported too; and not for type checking alone."""
    (tmp_path / "stages" / "room").mkdir(parents=True)
    for name, text in {
        "top": "import json",
        "inner": "from stages.room.deep import x",
        "deep": "x = 1",
        "typed": "",
        "unused": "",
    }.items():
        (tmp_path / "stages" / "room" / f"{name}.py").write_text(text)
    (tmp_path / "stages" / "draw.py").write_text(
        "import stages.room.top\n"
        "if TYPE_CHECKING:\n    from stages.room import typed\n"
        "def draw():\n    from stages.room import inner\n"
    )
    found = code_deps.needed(tmp_path, "draw", [])
    names = ["draw", "room/deep", "room/inner", "room/top"]
    assert sorted(found) == [Path("stages", f"{name}.py") for name in names]
    assert code_deps.shortened(tmp_path, found) == [f"stages/{name}.py" for name in names]
    for name in ("typed", "unused"):
        (tmp_path / "stages" / "room" / f"{name}.py").unlink()
    assert code_deps.shortened(tmp_path, found) == ["stages/draw.py", "stages/room"]


def test_one_command_writes_the_code_lists(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    before = (tmp_path / "dvc.yaml").read_text()

    def write(code: int, *words: str) -> list[str]:
        line = [sys.executable, "-m", "flows.engine.code_deps", *words]
        done = subprocess.run(
            line, cwd=tmp_path, env=ENV | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout.splitlines()

    (tmp_path / "stages" / "portraits" / "spare.py").touch()  # so draw no longer imports all of the folder
    with (tmp_path / "stages" / "draw.py").open("a") as file:
        file.write("import stages.images.table\n")
    portraits = [f"stages/portraits/{name}.py" for name in ("person", "portrait", "shell")]
    changes = ["- stages/portraits", *(f"+ {dep}" for dep in ["stages/images/table.py", *portraits])]
    assert write(1, "--check") == [f"dvc.yaml: draw: {change}" for change in changes]
    assert (tmp_path / "dvc.yaml").read_text() == before
    assert write(0) == [f"dvc.yaml: draw: {change}" for change in changes]
    assert write(0, "--check") == ["dvc.yaml: every stage lists what it imports"]
    lines = before.splitlines(), (tmp_path / "dvc.yaml").read_text().splitlines()
    changed = [line for line in difflib.ndiff(*lines) if line[0] in "+-"]  # comments and all else are as before
    assert sorted(f"{line[0]} {line[2:].strip().removeprefix('- ')}" for line in changed) == sorted(changes)


def test_a_planted_tag_in_dvc_yaml_is_never_executed(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "stages", tmp_path / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    planted = f'vars: [!!python/object/apply:os.mkdir ["{tmp_path / "executed"}"]]\n'
    (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text() + planted)
    line = [sys.executable, "-m", "flows.engine.code_deps"]
    done = subprocess.run(line, cwd=tmp_path, env=ENV | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
    assert not (tmp_path / "executed").exists()
