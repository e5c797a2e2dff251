"""A stage as a command, and the record it leaves: what the audit will stand on."""

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from stages.runs import record
from stages.runs.errors import InputError

ROOT = Path(__file__).parents[2]


def draw(home: Path, *, count: int = 2, out: str = "portraits", cwd: Path = ROOT, section: str = "draw"):
    (home / "params.yaml").write_text(json.dumps({section: {"count": count, "size": 64, "seed": 1}}))
    line = [sys.executable, "-m", "stages.draw", "--params", str(home / "params.yaml"), "--portraits", str(home / out)]
    env = {**os.environ, "PALIMPSEST_RECORDS": str(home / "records")}
    return subprocess.run(line, env=env, cwd=cwd, capture_output=True, text=True, check=False)


def records(home: Path) -> list[Path]:
    return sorted((home / "records" / "draw").glob("*.json"))


def test_a_run_leaves_one_record_that_names_its_bytes(tmp_path: Path) -> None:
    assert draw(tmp_path).returncode == 0
    (path,) = records(tmp_path)
    body = json.loads(path.read_text())
    assert body["digest"] == path.stem
    assert body["outputs"] == {(tmp_path / "portraits").as_posix(): record.digest(tmp_path / "portraits")}
    assert body["params"]["draw"]["count"] == 2
    assert body["environment"]["python"] == sys.version.split()[0]
    assert {"started", "ended", "seconds", "peak_memory_mib", "code", "inputs"} <= set(body)
    first = path.read_bytes()
    assert draw(tmp_path).returncode == 0
    assert records(tmp_path) == [path], "a repeated run adds nothing"
    assert path.read_bytes() == first, "and a record is written once"
    assert draw(tmp_path, count=3).returncode == 0
    assert len(records(tmp_path)) == 2


def test_digests_are_dvcs(tmp_path: Path) -> None:
    from dvc.repo import Repo

    repo = Repo.init(str(tmp_path), no_scm=True)
    folder = tmp_path / "folder"
    (folder / "b" / "ä").mkdir(parents=True)
    (folder / "b.txt").write_text("one")
    (folder / "b" / "c.txt").write_text("two")
    (folder / "b" / "ä" / "ü\n.txt").write_text("three")
    (tmp_path / "single").write_bytes(bytes(range(256)) * 300)
    for name in ("folder", "single"):
        (stage,) = repo.add(str(tmp_path / name))
        assert stage.outs[0].hash_info.value == record.digest(tmp_path / name)
    repo.close()


def test_a_mistake_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    assert draw(tmp_path).returncode == 0
    before = record.digest(tmp_path / "portraits")
    done = draw(tmp_path, section="drow")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert done.stderr.startswith("draw: ")
    assert "unknown section 'drow'" in done.stderr
    assert record.digest(tmp_path / "portraits") == before
    assert len(records(tmp_path)) == 1


def test_a_missing_input_is_one_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "stages.mask", "portraits", "--aligned", "no/where", "--masks", str(tmp_path / "m")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mask@portraits: no/where: not found (--aligned); mend the path, or run `dvc repro`\n"


def test_a_newline_in_a_name_makes_no_second_line(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "stages.mask", "portraits", "--aligned", "no\nwhere", "--masks", str(tmp_path / "m")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mask@portraits: no where: not found (--aligned); mend the path, or run `dvc repro`\n"


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"outputs": {}}', b'{"outputs": [], "ended": "x"}'],
    ids=lambda content: repr(content[:30]),
)
def test_a_damaged_record_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "draw").mkdir()
    (tmp_path / "out").touch()
    file = tmp_path / "draw" / "0.json"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"0\.json: not a record \(.*\); remove it\Z") as caught:
        record.made(tmp_path, "draw", tmp_path / "out")
    assert str(caught.value).startswith(f"{file}: ")


def test_every_library_that_makes_bytes_is_recorded() -> None:
    """All that the stages import, but for those that only read parameters or draw progress bars."""
    found = {
        line.split()[1].partition(".")[0]
        for path in (ROOT / "stages").rglob("*.py")
        for line in path.read_text().splitlines()
        if line.strip().startswith(("import ", "from ")) and len(line.split()) > 1
    }
    packages = metadata.packages_distributions()  # not every line of a docstring that begins so names a module
    foreign = (found & packages.keys()) - {"palimpsest", "stages", "pydantic", "ruamel", "tqdm"}
    names = {packages[module][0].lower().replace("_", "-") for module in foreign}
    assert names == set(record.LIBRARIES)


@pytest.mark.parametrize(("module", "counts"), [("stages.report", True), ("stages.mask", False)])
def test_a_template_is_code_of_the_stage_that_imports_its_folder(module: str, counts: bool) -> None:
    code = f"""
import {module}
from stages.runs.record import code_digest, sources
found = sources()
others = [path for path in found if path.suffix != ".py"]
print(*sorted({{path.name for path in others if code_digest({{**found, path: "altered"}}) != code_digest(found)}}))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    pages = ROOT / "stages" / "pages"
    expected = sorted(path.name for end in ("*.j2", "*.css") for path in pages.glob(end)) if counts else []
    assert done.stdout.split() == expected


def test_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """With an editable install any folder would import the main checkout's code, and the lock would lie."""
    done = draw(tmp_path, cwd=tmp_path)
    if "No module named" in done.stderr:
        pytest.skip("the package is not installed in this environment")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "from the project's root" in done.stderr
    assert not (tmp_path / "portraits").exists()
