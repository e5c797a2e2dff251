"""The wiring: dvc.yaml against the code, and the code against DVC."""

import ast
import json
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pretend
import pytest
from dvc.stage.cache import _get_cache_hash
from dvc_project import ENV
from PIL import Image
from ruamel.yaml import YAML

from flows.engine import code_deps
from flows.engine.code_deps import NETWORK
from stages.runs import command, params, record

ROOT = Path(__file__).parent.parent
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


def body(stage: str) -> dict:
    return PIPELINE[stage].get("do", PIPELINE[stage])


def code(deps: list[str]) -> set[str]:
    """The source files among the deps of a stage; a folder stands for all in it and below (`__init__.py` is empty)."""
    files = {dep for dep in deps if dep.endswith(record.SOURCES)} - {NETWORK}
    for folder in (ROOT / dep for dep in deps if dep.startswith("stages/") and (ROOT / dep).is_dir()):
        held = {path for path in folder.rglob("*") if path.is_file() and path.parent.name != "__pycache__"}
        # Whatever lies in the folder makes the stage stale, and has to be in the record's digest of the code.
        assert {path.suffix for path in held} <= set(record.SOURCES), folder
        files |= {path.relative_to(ROOT).as_posix() for path in held if path.stem != "__init__"}
    return files


@pytest.mark.parametrize("stage", PIPELINE)
def test_code_deps_are_exactly_the_files_imported(stage: str) -> None:
    deps = body(stage)["deps"]
    listed = code(deps)
    needed = {path.as_posix() for path in code_deps.needed(ROOT, stage, deps)}
    missing, surplus = needed - listed, listed - needed
    assert not missing and not surplus, f"{stage}: missing {sorted(missing)}, surplus {sorted(surplus)}"  # noqa: PT018


TRAININGS = {stage for stage in PIPELINE if stage.startswith("train_")}


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("stages/images/sources.py", {"ingest"}),
        ("stages/portraits/portrait.py", {"draw"}),
        ("stages/pages/scores.py", {"report"}),
        ("stages/pages/page.html.j2", {"report"}),
        ("stages/training/run.py", TRAININGS),
        ("stages/training/params.py", TRAININGS),
        ("stages/training/checkpoint.py", {*TRAININGS, "search", "infer"}),
    ],
)
def test_what_is_of_some_stages_alone_makes_no_other_stale(file: str, stale: set[str]) -> None:
    assert {stage for stage in PIPELINE if file in code(body(stage)["deps"])} == stale


@pytest.mark.parametrize("stage", [stage for stage in PIPELINE if stage.startswith("train_")])
def test_a_training_imports_its_code_before_its_state_is_looked_for(stage: str) -> None:
    """State is found by the code imported so far: what only a later step imports could change unnoticed."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    first = [n for n in tree.body if getattr(n, "name", stage) == stage]  # and no definition
    assert code_deps.imports(ROOT, [tree]) <= code_deps.closure(ROOT, *code_deps.imports(ROOT, first))


def test_package_files_are_empty() -> None:
    """They are imported too, and are no deps: so there must be nothing in them."""
    assert all(not path.read_text() for path in (ROOT / "stages").rglob("__init__.py"))


@pytest.mark.parametrize("stage", PIPELINE)
def test_one_name_everywhere(stage: str) -> None:
    """Stage = file = function = section of params.yaml (or of a dataset)."""
    tree = ast.parse((ROOT / "stages" / f"{stage}.py").read_text())
    assert stage in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert f"python -m stages.{stage}" in body(stage)["cmd"]
    values = params.load(ROOT / "params.yaml")
    sections = set(values) | {key for dataset in values["datasets"].values() for key in dataset}
    assert stage in sections


def test_every_stage_file_is_in_the_pipeline() -> None:
    assert {path.stem for path in (ROOT / "stages").glob("*.py")} - {"__init__"} == set(PIPELINE)


@pytest.mark.parametrize("stage", PIPELINE)
def test_command_names_every_dep_and_output(stage: str) -> None:
    """The command's paths and the listed deps and outs are the same: nothing is read unseen."""
    entry = body(stage)
    command = " ".join(str(entry["cmd"]).split())
    given = set(re.findall(r"--[a-z-]+ (\S+)", command))
    outs = entry.get("outs", []) + entry.get("metrics", []) + entry.get("plots", [])
    listed = {next(iter(out)) if isinstance(out, dict) else out for out in outs}
    listed |= {dep for dep in entry["deps"] if not dep.endswith(".py") and not (ROOT / dep / "__init__.py").exists()}
    # The stage fills in `{root}` with what DVC has for `${item.ingest.root}`.
    assert given == {
        re.sub(r"\$\{item\.(?:\w+\.)?(\w+)\}", r"{\1}", path.replace("${key}", "{name}")) for path in listed
    }


@pytest.mark.parametrize("stage", PIPELINE)
def test_a_command_is_the_same_words_whatever_params_say(stage: str) -> None:
    """DVC puts what it interpolates into the shell's line as it stands: so nothing is, in any command."""
    command = " ".join(str(body(stage)["cmd"]).split())
    name = ' "$DVC_STAGE"' if "foreach" in PIPELINE[stage] else ""
    assert re.fullmatch(rf"python -m stages\.{stage}{re.escape(name)}( --[a-z-]+ [\w./{{}}]+)+", command)


EVIL = "my \"pics\" $(touch pwned1) `touch pwned2`'; touch pwned3; ' & #{name}"


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project's code and pipeline in a repository of its own, with two pictures in a folder of an evil name."""
    home = tmp_path_factory.mktemp("scratch")
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    shutil.copytree(ROOT / "stages", home / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("dvc.yaml", "tombstones.txt", ".dvcignore", ".gitignore"):
        shutil.copy(ROOT / name, home)
    (home / ".dvc").mkdir()
    (home / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    (home / EVIL).mkdir()
    for number in range(2):
        Image.fromarray(pretend.picture(number, 80)).save(home / EVIL / f"{number}.png")
    return home


def reproduce(scratch: Path, name: str, *command: str) -> subprocess.CompletedProcess[str]:
    """`command ingest@name` on a `params.yaml` with the dataset `name`, whose root is the evil folder."""
    values = params.load(ROOT / "params.yaml")
    dataset = values["datasets"]["portraits"]
    dataset["ingest"] |= {"source": "folder", "root": EVIL, "split": {"val": 0.1, "test": 0.1}}
    values |= {section: {} for section in params.NAMED} | {"datasets": {name: dataset}}
    (scratch / "params.yaml").write_text(json.dumps(values))
    return subprocess.run(
        [*command, f"ingest@{name}"], cwd=scratch, env=ENV | {"PYTHONPATH": f"{scratch}:{ROOT}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_dvc_tells_runs_apart_by_every_parameter() -> None:
    """Its run-cache is blind to parameters named size or nfiles: it brings back what another value made (#10296)."""

    def run(name: str, value: int) -> str:
        return _get_cache_hash({"cmd": "", "params": {"params.yaml": {"section": {name: value}}}}, key=True)

    page = (ROOT / "docs" / "parameters.md").read_text(encoding="utf-8")
    names = set(re.findall(r"^\| `(\w+)` \|", page, re.M))
    assert {"side", "seed", "max_fraction", "precision"} <= names
    assert [name for name in sorted(names) if run(name, 1) == run(name, 2)] == []


def test_a_path_from_params_is_no_code_to_the_shell(scratch: Path) -> None:
    done = reproduce(scratch, "good", "dvc", "repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not list(scratch.glob("pwned*"))
    entry = YAML(typ="safe").load(scratch / "dvc.lock")["stages"]["ingest@good"]
    (record,) = (scratch / ".palimpsest" / "records" / "ingest@good").glob("*.json")
    inputs = json.loads(record.read_text())["inputs"]
    md5 = {dep["path"]: dep["md5"] for dep in entry["deps"]}
    assert inputs == {path: md5[path] for path in (EVIL, "tombstones.txt")}


@pytest.mark.parametrize(
    ("command", "name", "said"),
    [
        (("dvc", "repro"), "$(touch pwned)`touch pwned`", "params.yaml: datasets: '$(touch pwned)`touch pwned`' is no"),
        (("dvc", "repro"), '"; touch pwned; "', "params.yaml: datasets: '\"; touch pwned; \"' is no name"),
        (("dvc", "repro"), "a.b", "Parameters 'datasets.a.b.ingest' are missing from 'params.yaml'"),
        (("dvc", "repro"), "a/b", "params.yaml: datasets: 'a/b' is no name"),
        (
            (sys.executable, "-m", "flows.cli", "rebuild"),
            "../../docs",
            "params.yaml: datasets: '../../docs' is no name",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else value[-1],
)
def test_a_name_from_params_is_no_code_to_the_shell(
    command: tuple[str, ...], name: str, said: str, scratch: Path
) -> None:
    done = reproduce(scratch, name, *command)
    assert done.returncode != 0
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not list(scratch.rglob("pwned*"))


def test_a_hand_written_path_keeps_braces_that_name_nothing() -> None:
    fills = {"root": "my {name}", "size": 3, "name": "x"}
    assert command._filled(Path("{root}/{size}/{other}/{name}.png"), fills) == Path("my {name}/{size}/{other}/x.png")


@pytest.mark.parametrize("stage", PIPELINE)
def test_sections_listed_are_the_sections_read(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the stage's file asks `command.run` for when it is run, and what dvc.yaml says that it reads."""
    asked = {}
    monkeypatch.setattr(command, "run", lambda entry, **asks: asked.update({entry.__name__: asks["sections"]}))
    monkeypatch.delitem(sys.modules, f"stages.{stage}", raising=False)  # imported by another test: runpy would warn
    runpy.run_module(f"stages.{stage}", run_name="__main__")
    assert {entry.replace("${key}", "{name}") for entry in body(stage)["params"]} == set(asked[stage].values())


@pytest.mark.parametrize("name", ["draw", "draw_shapes", "mask", "blend", "report"])
def test_light_stages_do_not_import_torch(name: str) -> None:
    code = f"import sys, stages.{name}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    reached = code_deps.closure(ROOT, Path("stages", f"{name}.py"))
    torch = re.compile(r"^\s*(?:from|import)\s+torch\b", re.MULTILINE)
    assert not [path for path in reached if torch.search((ROOT / path).read_text())]


def test_altered_code_in_another_working_tree_is_the_code_that_runs(tmp_path: Path) -> None:
    subprocess.run(["git", "clone", "-q", "--shared", str(ROOT), str(tmp_path)], check=True)
    room = tmp_path / "stages" / "runs" / "command.py"  # a room: the stage file itself is found in any case
    room.write_text(room.read_text().replace("    stage = entry.__name__\n", "    raise SystemExit(77)\n"))
    line = [sys.executable, "-m", "stages.draw", "--portraits", "data/raw/portraits"]
    assert subprocess.run(line, cwd=tmp_path, check=False).returncode == 77
    # Run as a file, an editable install would import the main checkout's rooms: refused.
    by_file = subprocess.run(
        [sys.executable, "stages/mask.py", "portraits", "--aligned", ".", "--masks", "out"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert by_file.returncode != 0
    assert "from the project's root" in by_file.stderr or "No module named 'stages'" in by_file.stderr
