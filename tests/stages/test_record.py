"""A stage as a command, and the record it leaves: what the audit will stand on."""

import json
import os
import socket
import subprocess
import sys
from hashlib import sha256
from importlib import metadata
from pathlib import Path

import forked
import pytest

from stages.runs import git, record
from stages.runs.errors import InputError

ROOT = Path(__file__).parents[2]


def draw(
    home: Path, *, count: int = 2, out: str = "portraits", cwd: Path = ROOT, section: str = "draw", **variables: str
):
    (home / "params.yaml").write_text(json.dumps({section: {"count": count, "side": 64, "seed": 1}}))
    line = [sys.executable, "-m", "stages.draw", "--params", str(home / "params.yaml"), "--portraits", str(home / out)]
    env = {**os.environ, "PALIMPSEST_RECORDS": str(home / "records"), **variables}
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
    assert body["format"] == record.FORMAT
    assert body["sha256"] == {(tmp_path / "portraits").as_posix(): record.digests(tmp_path / "portraits", "sha256")[0]}
    assert body["sources"]["draw.py"] == sha256((ROOT / "stages" / "draw.py").read_bytes()).hexdigest()
    assert record.digest_of_code(body["sources"]) == body["code"]
    assert body["packages"]["imported"]["numpy"] == metadata.version("numpy")
    assert len(path.read_bytes()) < 10_000
    assert str(Path.home()) not in path.read_text().replace(str(tmp_path), "")
    assert socket.gethostname() not in path.read_text()
    first = path.read_bytes()
    assert draw(tmp_path, OMP_WAIT_POLICY="ACTIVE" if body["speed"] else "PASSIVE").returncode == 0
    assert records(tmp_path) == [path], "a repeated run adds nothing, nor does what changes speed alone"
    assert path.read_bytes() == first, "and a record is written once"
    assert draw(tmp_path, OMP_NUM_THREADS="3").returncode == 0
    assert len(records(tmp_path)) == 2, "what may change bytes counts"
    (other,) = set(records(tmp_path)) - {path}
    said = json.loads(other.read_text())["environment"]
    assert record.incomparable(body["environment"], said) == [], "and did not: torch was not used"
    assert said["variables"]["OMP_NUM_THREADS"] == "3"


def test_a_folders_sha256_is_that_of_its_files_listing(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, content in {"b/c": b"two", "a": bytes(range(256)) * 9000, "b.txt": b""}.items():
        (tmp_path / name).write_bytes(content)
    listing = [
        {"relpath": name, "sha256": sha256((tmp_path / name).read_bytes()).hexdigest()}
        for name in ("a", "b.txt", "b/c")
    ]
    assert record.digests(tmp_path, "md5", "sha256") == [
        record.digest(tmp_path),
        sha256(json.dumps(listing).encode()).hexdigest() + ".dir",
    ]


FACTS = {"inputs": {}, "outputs": {"out": "d41d8cd98f00b204e9800998ecf8427e"}, "code": "c", "params": {"lr": 0.1}}


def test_records_of_all_formats_but_newer_ones_are_read(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    written = record.write(tmp_path, "train@a", FACTS, {"ended": "2026-01-02"})
    body = json.loads(written.read_text())
    older = {key: value for key, value in body.items() if key not in ("format", "git")} | {"ended": "2026-01-01"}
    written.with_name("older.json").write_text(json.dumps(older))
    assert record.made(tmp_path, "train@a", tmp_path / "out") is None, "of another path"
    outputs = {str(tmp_path / "out"): FACTS["outputs"]["out"]}
    written.write_text(json.dumps(body | {"outputs": outputs}))
    written.with_name("older.json").write_text(json.dumps(older | {"outputs": outputs, "ended": "2026-01-03"}))
    assert record.made(tmp_path, "train@a", tmp_path / "out") == older | {"outputs": outputs, "ended": "2026-01-03"}
    written.write_text(json.dumps({"format": record.FORMAT + 1, "made_by": "a later version"}))
    with pytest.raises(InputError) as caught:
        record.made(tmp_path, "train@a", tmp_path / "out")
    said = f"a record of format {record.FORMAT + 1}, and this version reads up to {record.FORMAT}; update Palimpsest"
    assert str(caught.value) == f"{written}: {said}"


def test_a_fact_that_is_altered_shows(tmp_path: Path) -> None:
    body = json.loads(record.write(tmp_path, "train@a", FACTS, {"ended": "2026", "seconds": 1.5}).read_text())
    assert record.whole(body)
    assert record.whole(body | {"seconds": 2, "git": None}), "a circumstance is none"
    altered = [body | {key: "other"} for key in (*FACTS, "stage", "digest")]
    assert not any(record.whole(one) for one in [*altered, body | {"params": {"lr": 0.2}}, body | {"new": 1}, {}])


def test_what_is_not_committed_lies_beside_the_records(tmp_path: Path) -> None:
    """Once, however many stages ran with it."""
    state = git.State("c" * 40, ["stages/a.py"], b"a patch")
    for stage in ("train@a", "train@b"):
        body = json.loads(record.write(tmp_path, stage, FACTS, {"ended": "2026"}, state).read_text())
        diff = f"diffs/{sha256(b'a patch').hexdigest()}.patch"
        assert body["git"] == {"commit": "c" * 40, "dirty": ["stages/a.py"], "diff": diff}
        assert (tmp_path / diff).read_bytes() == b"a patch"
    assert len([*tmp_path.glob("diffs/*")]) == 1
    huge = git.State("c" * 40, ["stages/a.py"], bytes(record.LARGEST + 1))
    assert record.keep(tmp_path, huge) == {"commit": "c" * 40, "dirty": ["stages/a.py"], "diff": None}


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
    line = [forked.python(), "-m", "stages.mask", "portraits", "--aligned", "no/where", "--masks", str(tmp_path / "m")]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "mask@portraits: no/where: not found (--aligned); mend the path, or run `dvc repro`\n"


def test_a_newline_in_a_name_makes_no_second_line(tmp_path: Path) -> None:
    line = [forked.python(), "-m", "stages.mask", "portraits", "--aligned", "no\nwhere", "--masks", str(tmp_path / "m")]
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
    done = subprocess.run([forked.python(), "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    pages = ROOT / "stages" / "pages"
    expected = sorted(path.name for end in ("*.j2", "*.css", "*.js") for path in pages.glob(end)) if counts else []
    assert done.stdout.split() == expected


def test_code_from_elsewhere_is_refused(tmp_path: Path) -> None:
    """With an editable install any folder would import the main checkout's code, and the lock would lie."""
    done = draw(tmp_path, cwd=tmp_path)
    if "No module named" in done.stderr:
        pytest.skip("the package is not installed in this environment")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "from the project's root" in done.stderr
    assert not (tmp_path / "portraits").exists()
