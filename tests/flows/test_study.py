"""`palimpsest study` on real DVC and Git repositories, real processes and a real Prefect server.

The project's one training writes what its parameters say, so that a test sees which run made what.
"""

import contextlib
import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dvc_project import ENV, Process, command, dvc, end, wait
from hypothesis import given, settings
from hypothesis import strategies as st
from test_study_file import ROOT

from flows.checkout.git import Git
from flows.checkout.root import study_lock
from flows.engine import graph
from flows.engine.repository import edit_yaml, opened
from flows.lineage import dvc_lock
from flows.process import file_lock
from flows.studies import arms, estimate, idle, study
from stages.runs import machine, params, record
from stages.runs.errors import InputError

IDENTITY = {f"GIT_{role}_{what}": value for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))}  # fmt: skip
STAGE = """
import json, os, sys, time
from pathlib import Path
name, out, section, *inputs = sys.argv[1:]
control = Path(os.environ["CONTROL"])
values = json.loads(json.dumps(__import__("ruamel.yaml").yaml.YAML(typ="safe").load(Path("params.yaml"))))
for key in filter(None, section.split(".")):
    values = values[key]
if name == "train":
    name = f"train-{values['d_matching']}-{values.get('seed')}"
with open(control / "trace", "a") as trace:
    trace.write(f"{name} {os.environ['PALIMPSEST_STATE']}\\n")
while (control / (name + ".hold")).exists():
    time.sleep(0.02)
if (control / (name + ".fail")).exists():
    sys.exit(f"{name} fails")
Path(out).parent.mkdir(parents=True, exist_ok=True)
Path(out).write_text(json.dumps([name, values]) + "".join(Path(i).read_text() for i in inputs))
if "scores" in out:
    Path(out).with_suffix(".json").write_text(json.dumps({"length": len(Path(out).read_text())}))
"""
PIPELINE = {
    "stages": {
        "draw": {
            "cmd": "python stage.py draw data/raw/portraits draw",
            "params": ["draw"],
            "deps": ["stage.py", "photos"],
            "outs": ["data/raw/portraits"],
        },
        "train_dmfn": {
            "foreach": "${train_dmfn}",
            "do": {
                "cmd": "python stage.py train data/models/${key}.safetensors train_dmfn.${key} data/raw/portraits",
                "params": ["train_dmfn.${key}"],
                "deps": ["stage.py", "data/raw/portraits"],
                "outs": ["data/models/${key}.safetensors"],
            },
        },
        "evaluate": {
            "foreach": "${blend}",
            "do": {
                "cmd": "python stage.py evaluate data/scores/${key}.parquet evaluate data/models/dmfn.safetensors",
                "params": ["evaluate"],
                "deps": ["stage.py", "data/models/dmfn.safetensors"],
                "outs": ["data/scores/${key}.parquet"],
                "metrics": [{"data/scores/${key}.json": {"cache": False}}],
            },
        },
    }
}
PARAMS = """# what Ada has found to be good
runtime: {device: cpu, threads: 1}
draw: {count: 2, side: 64, seed: 1}
datasets:
  portraits:
    ingest:
      source: portraits
      root: data/raw/portraits
      use: train
      licence: CC0-1.0
      consent: none
      origin: drawn
      split: {val: 0.1, test: 0.1}
    align: {mode: face, side: 64, detector: annotations, detector_model: none.txt}
    mask: {seed: 7, train_sample: 1, kinds: {eye_bar: {}}}
train_dmfn:
  dmfn: {dataset: portraits, steps: 100, d_matching: 1}  # by hand
infer:
  dmfn: &net {network: dmfn, dataset: portraits, checkpoint: data/models/dmfn.safetensors}
  telea: *net
blend:
  dmfn: &exact {system: dmfn, dataset: portraits, method: exact}
  telea: {<<: *exact, system: telea}
evaluate: {lpips: none, perceptual_weights: none, bootstrap: 10, seed: 5}
"""
STUDY: dict[str, Any] = {
    "question": "Does matching help?",
    "report": "report 3",
    "scales": {"small": {"base": "params.yaml", "seeds": 2, "set": {"train_dmfn.dmfn.steps": 10}}},
    "seed": ["train_dmfn.dmfn.seed"],
    "grid": {"train_dmfn.dmfn.d_matching": [0, 5]},
    "arms": {"as 5, of telea": {"set": {"train_dmfn.dmfn.d_matching": 5}, "system": "telea"}},
    "system": "dmfn",
    "measures": {"psnr": {"metric": "psnr_hole", "kind": "eye_bar"}},
    "findings": [{"claim": "It helps", "better": "d_matching=5", "worse": "d_matching=0", "measure": "psnr"}],
}
BLEND = {"dataset": "portraits", "method": "exact", "system": "dmfn"}
TRAININGS = ["train-0-1", "train-0-2", "train-5-1", "train-5-2"]


class Lab:
    """A repository `lab` in `home`, with a folder of photos that Git ignores, and work of the user's in it."""

    def __init__(self, home: Path) -> None:
        self.home, self.root, self.control = home, home / "lab", home / "control"
        self.git = Git(self.root)

    def start(self, *words: str, **environment: str) -> Process:
        env = {**ENV, **IDENTITY, "CONTROL": str(self.control), **environment}
        return command("flows.cli", ["study", *words], self.root, env)

    def run(self, *words: str, code: int = 0, **environment: str) -> list[str]:
        """The lines that `palimpsest study` prints."""
        return end(self.start(*words, **environment), code)

    def trace(self) -> list[str]:
        """The stages that have begun, in order."""
        file = self.control / "trace"
        return [line.split(" ", 1)[0] for line in file.read_text().splitlines()] if file.exists() else []

    def hold(self, *names: str) -> None:
        for name in names:
            (self.control / f"{name}.hold").touch()

    def let_go(self) -> None:
        for file in self.control.glob("*.hold"):
            file.unlink()

    def change(self, **changed: Any) -> None:
        """Change keys of the study's file."""
        (self.root / "studies" / "eta.yaml").write_text(json.dumps({**STUDY, **changed}))

    def experiments(self) -> dict[str, str]:
        """The trees of all experiments, by their names."""
        lines = self.git("for-each-ref", "--format=%(refname:lstrip=4) %(tree)", "refs/exps").splitlines()
        return dict(line.split(" ") for line in lines)

    @contextlib.contextmanager
    def untouched(self) -> Iterator[None]:
        """Nothing of the user's own changes meanwhile: files, index, HEAD, branches, stash."""
        before = self._state()
        yield
        assert self._state() == before

    def _state(self) -> dict[str, Any]:
        results = self.root / "data" / "studies"
        files = [path for path in self.root.rglob("*") if path.is_file() and results not in path.parents]
        own = [path for path in files if path.relative_to(self.root).parts[0] not in (".git", ".dvc", ".palimpsest")]
        kept = ["index", "HEAD", "logs/HEAD", "logs/refs/stash", "refs/stash"]
        return {
            "refs": self.git("for-each-ref", "refs/heads", "refs/tags", "refs/stash", "refs/exps/exec"),
            "git": {name: (self.root / ".git" / name).read_bytes() for name in kept},
            "files": {path: path.read_bytes() for path in own},
        }


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("template")
    root = home / "lab"
    for folder in (".dvc", "photos", "studies"):
        (root / folder).mkdir(parents=True)
    (home / "control").mkdir()
    for name, text in {
        ".dvc/config": "[core]\n    analytics = false\n", ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/data/*\n!/data/scores/\n/data/scores/*.parquet\n/.palimpsest/\n/photos/\n",
        "stage.py": STAGE, "dvc.yaml": json.dumps(PIPELINE), "params.yaml": PARAMS, "photos/one": "1",
        "studies/eta.yaml": json.dumps(STUDY),
    }.items():  # fmt: skip
        (root / name).write_text(text)

    def git(*words: str) -> None:
        subprocess.run(["git", *words], cwd=root, env={**ENV, **IDENTITY}, check=True)

    git("init", "-q", "-b", "main")
    git("add", "-A")
    git("commit", "-q", "-m", "The lab")
    (root / "stage.py").write_text("for later")
    git("stash", "-q")
    (root / "chapter").write_text("staged")
    git("add", "chapter")
    (root / "stage.py").write_text("half an edit")
    (root / "note").write_text("untracked")
    return home


def copied(template: Path, home: Path) -> Lab:
    shutil.copytree(template, home, dirs_exist_ok=True)
    lab = Lab(home)
    lab.git("status")  # the index gets to know the copied files
    return lab


@pytest.fixture
def environment(api: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", api)
    monkeypatch.setitem(ENV, "PREFECT_API_URL", api)
    for name, value in IDENTITY.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def lab(template: Path, tmp_path: Path, environment: None) -> Lab:
    return copied(template, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(template: Path, tmp_path_factory: pytest.TempPathFactory, api: str) -> tuple[Lab, list[str]]:
    """A study that nothing has disturbed, and what it has said."""
    lab = copied(template, tmp_path_factory.mktemp("undisturbed"))
    with lab.untouched():
        said = lab.run("eta", "--jobs", "2", PREFECT_API_URL=api)
        assert not list(lab.home.glob("lab-study-*")), "its worktrees are removed"
        assert lab.git("worktree", "list").count("\n") == 0
    return lab, said


@pytest.fixture(scope="module")
def unbroken(undisturbed: tuple[Lab, list[str]]) -> dict[str, str]:
    """The experiments of a study that nothing has disturbed."""
    return undisturbed[0].experiments()


def test_a_dry_run_names_the_runs_and_makes_none(lab: Lab) -> None:
    with lab.untouched():
        dry = lab.run("eta", "--dry")
    assert "6 runs" not in dry
    assert dry[:2] == ["d_matching=0 (seed 1): would run", "d_matching=5; as 5, of telea (seed 1): would run"]
    assert "4 runs of eta at scale small; 4 to make" in dry
    assert lab.trace() == []


@pytest.mark.usefixtures("environment")
def test_each_run_is_an_experiment_and_the_users_work_stays_as_it_is(
    undisturbed: tuple[Lab, list[str]], unbroken: dict[str, str]
) -> None:
    lab, said = undisturbed
    assert "not committed, so without what has changed in: stage.py" not in said, "that is no file of the project's"
    assert sorted(lab.trace()) == ["draw", *["evaluate"] * 6, *TRAININGS], "a shared stage has run once"
    found = unbroken
    assert [name.rpartition("-")[0] for name in found] == [
        "eta-small-d_matching=0-s1", "eta-small-d_matching=0-s2", "eta-small-d_matching=5-s1",
        "eta-small-d_matching=5-s2",
    ]  # fmt: skip
    first, _, name, _ = found
    assert said[-1] == "written: data/studies/eta/index.html"
    assert (lab.root / "data/studies/eta/index.html").is_file()
    assert "is no table of scores" in "".join(said), "the stages of this project write none"
    assert {
        f"d_matching=0 (seed 1): {first}, commit {short(lab, first)}",
        f"d_matching=5 (seed 1): {name}, commit {short(lab, name)}",
    } <= {*said}
    rows = json.loads("\n".join(lab.run("eta", "--show", "--json")))["runs"]
    shared = {(arm, 1, name) for arm in ("d_matching=5", "as 5, of telea")}
    assert shared <= {(row["arm"], row["seed"], row["experiment"]) for row in rows}
    assert all(row["commit"] and row["failure"] is None for row in rows)

    # Again, and with a name that is not in the file any more: nothing is run anew.
    before = lab.trace()
    with lab.untouched():
        assert "4 runs of eta at scale small; 0 to make" in lab.run("eta")
    assert lab.trace() == before
    assert not (lab.root / ".palimpsest" / "state" / name).exists()

    # DVC's own commands take it as theirs.
    shown = dvc(lab.root, "exp", "show", "--csv", "--hide-workspace")
    assert all(each in shown for each in found)
    subprocess.run(["git", "init", "-q", "--bare", str(lab.home / "there")], check=True)
    lab.git("remote", "add", "origin", "../there")
    dvc(lab.root, "exp", "push", "--no-cache", "origin", name)
    assert Git(lab.home / "there")("for-each-ref", "refs/exps").endswith(name)
    lab.git("rm", "-q", "--cached", "chapter")
    lab.git("checkout", "-q", "stage.py")
    dvc(lab.root, "exp", "apply", name)
    own = (lab.root / "params.yaml").read_text()
    assert own == PARAMS.replace("steps: 100", "steps: 10").replace(
        "d_matching: 1}  # by hand", "d_matching: 5, seed: 1} # by hand"
    )
    assert dvc(lab.root, "status", "evaluate@dmfn", "evaluate@telea") == "Data and pipelines are up to date."
    assert json.loads((lab.root / "data/scores/telea.json").read_text())["length"] > 0
    dvc(lab.root, "exp", "remove", name)
    assert name not in lab.experiments()


def short(lab: Lab, name: str) -> str:
    (line,) = [line for line in lab.git("for-each-ref", "refs/exps").splitlines() if line.endswith(f"/{name}")]
    return line[:10]


def test_a_study_that_is_killed_goes_on_to_the_same_experiments(lab: Lab, unbroken: dict[str, str]) -> None:
    def broken(number: int, *held: str) -> None:
        lab.hold(*held)
        with lab.untouched():
            process = lab.start("eta", "--jobs", "2")
            wait(lambda: set(held) <= set(lab.trace()))
            process.send_signal(number)
            end(process, -number if number == signal.SIGKILL else 128 + number)
            with file_lock.lock(study_lock(lab.root)):  # what it has left has ended, too
                lab.let_go()

    broken(signal.SIGKILL, "draw")
    assert lab.experiments() == {}
    broken(signal.SIGKILL, "train-0-1", "train-5-1")
    broken(signal.SIGINT, "train-0-2", "train-5-2")
    assert len(lab.experiments()) == 2
    left = lab.root / "data" / "studies" / ".eta.half"  # by a kill while the results were written
    left.mkdir(parents=True)
    with lab.untouched():
        lab.run("eta", "--jobs", "2")
    assert lab.experiments() == unbroken
    assert not list(lab.home.glob("lab-study-*"))
    assert not left.exists()
    assert lab.trace().count("draw") == 2, "once before the kill, and once after"
    again = [lab.trace().count(name) for name in TRAININGS]
    assert max(again) <= 2


def test_a_study_that_has_waited_for_another_keeps_its_runs(lab: Lab) -> None:
    lab.hold("train-0-1")
    first = lab.start("eta", "--only", "d_matching=0", "--seeds", "1")
    wait(lambda: "train-0-1" in lab.trace())
    second = lab.start("eta", "--only", "d_matching=0", "--seeds", "1")
    waiting = next(line for line in second.stdout if line.startswith("waiting for another study"))
    assert f"(PID {first.pid})" in waiting
    lab.let_go()
    end(first)
    (kept,) = [name for name in lab.experiments() if "d_matching=0-s1" in name]
    assert f"made meanwhile by another study: {kept}" in end(second)


def test_a_failed_run_is_named_and_the_others_go_on(lab: Lab, unbroken: dict[str, str]) -> None:
    (lab.control / "train-5-1.fail").touch()
    lines = lab.run("eta", "--seeds", "1", code=1)
    (missing,) = [line for line in lines if line.startswith("d_matching=5 (seed 1): missing: ")]
    assert "train_dmfn@dmfn: exit code 1: train-5-1 fails; log: .palimpsest/logs/studies/eta-small-d_" in missing
    assert "train-5-1 fails" in Path(lab.root, missing.rpartition("; log: ")[2]).read_text()
    assert len(lab.experiments()) == 1
    shown = lab.run("eta", "--seeds", "1", "--show")
    assert "as 5, of telea (seed 1): missing: it has not been run at this commit" in shown
    (lab.control / "train-5-1.fail").unlink()
    before = len(lab.trace())
    lab.run("eta", "--seeds", "1", "--only", "as *")
    assert lab.trace()[before:] == ["train-5-1", "evaluate", "evaluate"]
    assert lab.experiments() == {name: tree for name, tree in unbroken.items() if "-s1-" in name}
    # What the cache has lost is made again.
    (table,) = {md5 for path, md5 in dvc_lock.outputs(made_by(lab, "d_matching=0-s1")).items() if "dmfn.parq" in path}
    (lab.root / ".dvc/cache/files/md5" / table[:2] / table[2:]).unlink()
    assert "d_matching=0 (seed 1): missing: it has not been run at this commit" in lab.run(
        "eta", "--seeds", "1", "--show"
    )


def made_by(lab: Lab, run: str) -> dict[str, Any]:
    (name,) = [name for name in lab.experiments() if run in name]
    (commit,) = [line[:40] for line in lab.git("for-each-ref", "refs/exps").splitlines() if line.endswith(name)]
    return dvc_lock.parse(lab.git.file(commit, "dvc.lock"), "dvc.lock")


def test_an_experiment_has_the_lock_that_dvc_would_leave(lab: Lab, unbroken: dict[str, str]) -> None:
    """Beside what its stages have made, what the commit has of others."""
    lab.git("checkout", "-q", "stage.py")
    (lab.root / "params.yaml").write_text(PARAMS.replace("evaluate:", "  mean: *exact\nevaluate:"))
    dvc_env = {"CONTROL": str(lab.control), "PALIMPSEST_STATE": "x"}
    end(command("dvc", ["repro", "-q", "evaluate@mean"], lab.root, {**ENV, **dvc_env}))
    lab.git("add", "params.yaml", "dvc.lock", "data/scores/mean.json")
    lab.git("commit", "-q", "-m", "What is there")
    lab.run("eta", "--only", "d_matching=5", "--seeds", "1")
    (name,) = lab.experiments()
    lab.git("reset", "-q", "--hard")
    ours = made_by(lab, "d_matching=5-s1")
    values = params.load(lab.root / "params.yaml")
    values["train_dmfn"]["dmfn"] |= {"steps": 10, "d_matching": 5, "seed": 1}
    (lab.root / "params.yaml").write_text(json.dumps(values))
    end(command("dvc", ["repro", "-q", "evaluate@dmfn", "evaluate@telea"], lab.root, {**ENV, **dvc_env}))
    assert ours == dvc_lock.read(lab.root / "dvc.lock")
    assert name.startswith("eta-small-d_matching=5-s1-")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "name a study; `palimpsest study --list` says which there are"),
        (["beta"], "no study 'beta'; there is: eta; or name a file, as ./mine.yaml"),
        (["./mine.yaml"], "mine.yaml: not found"),
        (["eta", "--scale", "report"], "studies/eta.yaml: no scale 'report'; there is: small"),
        (["eta", "--seeds", "0"], "--seeds 0: a study needs one at least"),
        (["eta", "--only", "d_matching=[12]"], "--only d_matching=[12]: no such arm; there is: 'd_matching=0', "),
        (["eta", "--data", "portraits"], "--data portraits: must be NAME=ROOT"),
        (["eta", "--data", "portraits=/no/such"], "--data portraits=/no/such: /no/such is not there"),
        (["eta", "--data", "portraits=params.yaml"], "params.yaml is a file, and no folder"),
        (["eta", "--show", "--dry"], "--list, --show and --dry: take one of them"),
        (["eta", "--data", "photos=photos"], "there is no dataset 'photos'; there is: portraits"),
        (["eta", "--json"], "--json: goes with --list or --show"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(lab: Lab, words: list[str], said: str) -> None:
    lines = lab.run(*words, code=2)
    assert len(lines) == 1
    assert lines[0].startswith("study: ")
    assert said in lines[0]
    assert lab.trace() == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"scales": {"small": {"base": "profiles/no.yaml", "seeds": 1}}}, "base: commit .* has no profiles/no.yaml"),
        ({"scales": {"small": {"base": "params.yaml", "seeds": 1, "set": {"train_dcgan.dcgan.lr": 1}}}},
         r"scale small, arm 'd_matching=0': train_dcgan.dcgan.lr: params.yaml has no 'train_dcgan'; there is: runtime"),
        ({"grid": {"train_dmfn.dmfn.d_matching": [0, -5]}}, r"train_dmfn.dmfn.d_matching: .* \(got -5\)"),
        ({"grid": {"train_dmfn.dmfn.d_matching": [0, 5], "train_dmfn.dmfn.colour": [1]}}, "unknown key 'train_dmfn.dm"),
        ({"grid": {"datasets.portraits": [1, 2]}}, "datasets.portraits: must have ingest, align, mask, and no more"),
        ({"grid": {"datasets.portraits.crop": [1, 2]}}, "datasets.portraits: must have ingest, align, mask, "),
        ({"grid": {"infer.dmfn.dataset": ["dogs", "cats"]}}, "infer.dmfn.dataset: there is no 'dogs'; there is: "),
        ({"grid": {"blend.dmfn.system": ["vae", "gan"]}}, "blend.dmfn.system: there is no 'vae'; there is: dmfn"),
        ({"grid": {"train_dmfn.dmfn.also": ["data/aligned/dogs/train.arrow", "x"]}}, "dmfn.also: there is no 'dogs'"),
        ({"grid": {"train_dmfn.dmfn.start": ["data/models/dmfn.safetensors", "x"]}}, r"start: goes on from itself \("),
        ({"measures": {"psnr": {"metric": "psnr_hole", "split": "train"}}},
         "measures.psnr: no training pictures are completed; set the system's train_count"),
        ({"arms": {"as 5, of telea": {"split": "train"}, "plain": {}}}, "arm 'as 5, of telea': no training pictures"),
        ({"system": "dcgan"}, "blend: there is no 'dcgan'; there is: dmfn, telea"),
        ({"measures": {"psnr": {"metric": "psnr_hole", "kind": "lines"}}}, "no hole 'lines' is drawn; there is: eye_b"),
        ({"seed": ["evaluate.seed"], "grid": {"train_dmfn.dmfn.d_matching": [0, 5]},
          "arms": {"plain": {}, "as 5, of telea": {}}},
         "arm 'd_matching=0': `seed` names no seed of a stage that this arm runs, so all its runs would be the "),
        ({"seed": ["train_dmfn.dmfn.seed", "draw.seed"], "scales": {"small": {
            "base": "params.yaml", "seeds": 1, "set": {"datasets.portraits.ingest.root": "photos"}}}},
         "eta.yaml: seed: draw.seed does nothing: no stage reads it; leave it out"),
        ({"arms": {"as 5, of telea": {}, "plain": {"set": {"blend.third": BLEND}}}},
         "arm 'plain': blend.third does nothing: no stage of its run reads it; leave it out"),
    ],
)  # fmt: skip
def test_a_study_that_cannot_be_run_is_refused_before_it_begins(
    lab: Lab, changed: dict[str, Any], said: str, tmp_path: Path
) -> None:
    lab.change(**{"findings": [{**STUDY["findings"][0], "worse": "as 5, of telea", "better": "plain"}],
                  "arms": {**STUDY["arms"], "plain": {}}, **changed})  # fmt: skip
    found = study.load(lab.root, "eta")
    scale = study.scale(found, "small")

    def prepare() -> None:
        begun = arms.base(lab.git, "HEAD", found, scale)
        arms.plan(found, "small", scale, begun, {})
        idle.refuse(found, "small", scale, begun, PIPELINE)

    with pytest.raises(InputError, match=said) as refused:
        prepare()
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "changed",
    [
        {"seed": ["train_dmfn.dmfn.seed", "draw.seed"]},
        {"seed": ["datasets.portraits.mask.seed"]},  # the same training, other holes
        {"seed": ["train_dmfn.dmfn.seed"], "scales": {"small": {"base": "params.yaml", "seeds": 1, "set": {
            "datasets.portraits.ingest.root": "./data/raw/portraits/", "draw.count": 3}}}},
    ],
)  # fmt: skip
def test_what_changes_something_is_not_refused(lab: Lab, tmp_path: Path, changed: dict[str, Any]) -> None:
    lab.change(**changed)
    found = study.load(lab.root, "eta")
    scale = study.scale(found, "small")
    begun = arms.base(lab.git, "HEAD", found, scale)
    idle.refuse(found, "small", scale, begun, PIPELINE)
    # Nor is a seed of the drawn pictures when --data names others.
    assert arms.plan(found, "small", scale, begun, {"portraits": tmp_path})


def test_a_folder_may_be_named_for_a_dataset_that_the_study_adds(lab: Lab, tmp_path: Path) -> None:
    entry = params.load(lab.root / "params.yaml")["datasets"]["portraits"]
    lab.change(scales={"small": {**STUDY["scales"]["small"], "set": {"datasets.mine": entry}}})
    found = study.load(lab.root, "eta")
    scale = study.scale(found, "small")
    begun = arms.base(lab.git, "HEAD", found, scale)
    runs = arms.plan(found, "small", scale, begun, {"mine": tmp_path})
    assert {run.values["datasets"]["mine"]["ingest"]["root"] for run in runs} == {str(tmp_path)}
    with pytest.raises(InputError, match=r"--data yours=.*: there is no dataset 'yours'; there is: portraits, mine"):
        arms.plan(found, "small", scale, begun, {"yours": tmp_path})


def test_arms_that_share_a_run_each_need_a_seed_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps({
        **STUDY, "scales": {"small": {"base": "params.yaml", "seeds": 2}}, "grid": {}, "seed": ["train_dmfn.dmfn.seed"],
        "arms": {"d_matching=0": {"system": "dmfn"}, "d_matching=5": {"system": "vae"}},
    }))  # fmt: skip
    found = study.read(tmp_path / "mine.yaml")
    begun = arms.Base("params.yaml", "", params.load(ROOT / "params.yaml"))
    with pytest.raises(InputError, match=r"arm 'd_matching=5': `seed` names no .*; add train_context_encoder.vae.seed"):
        idle.refuse(found, "small", found.scales["small"], begun, dvc_lock.read(ROOT / "dvc.yaml"))


def test_pictures_that_are_not_there_are_named_before_anything_runs(lab: Lab) -> None:
    one = {**STUDY["scales"]["small"], "set": {"datasets.portraits.ingest.root": "../photographs"}}
    lab.change(scales={"small": one})
    (said,) = lab.run("eta", code=2)
    assert (
        "scale small, params.yaml: datasets.portraits.ingest.root: ../photographs is not there; give --data port"
        in said
    )
    assert not (lab.root / "data" / "studies").exists()
    assert "4 runs of eta" in "".join(lab.run("eta", "--dry")), "what it would take can be asked without them"


def test_studies_are_listed(lab: Lab) -> None:
    assert lab.run("--list") == ["eta: Does matching help?", "    report 3; 3 arms; 2 seeds at scale small"]
    (one,) = json.loads("\n".join(lab.run("--list", "--json")))
    assert (one["name"], one["arms"]) == ("eta", ["d_matching=0", "d_matching=5", "as 5, of telea"])
    (lab.root / "studies" / "half.yaml").write_text("question: [")
    lines = lab.run("--list")
    assert "eta: Does matching help?" in lines
    (broken,) = [line for line in lines if line.startswith("study: ")]
    assert "half.yaml: not valid YAML: line 1" in broken


def test_other_pictures_are_other_runs(lab: Lab, tmp_path: Path) -> None:
    found = study.load(lab.root, "eta")
    scale = study.scale(found, "small")
    begun = arms.base(lab.git, "HEAD", found, scale)
    plain = arms.plan(found, "small", scale, begun, {})
    other = arms.plan(found, "small", scale, begun, arms.data_folders([f"portraits={tmp_path}"]))
    assert {run.experiment for run in plain}.isdisjoint(run.experiment for run in other)
    assert {run.values["datasets"]["portraits"]["ingest"]["root"] for run in other} == {str(tmp_path)}
    assert plain[0].values["blend"] == begun.values["blend"]


@given(st.text(min_size=1, max_size=64), st.integers(1, 1000))
@settings(max_examples=40)
def test_any_arm_has_a_name_that_git_takes(arm: str, seed: int) -> None:
    name = arms.experiment_name("my-study", "small", arm, seed, "0123456789")
    subprocess.run(["git", "check-ref-format", f"refs/exps/ab/cd/{name}"], check=True)
    assert name.endswith(f"-s{seed}-012345")


# --- The estimate ---


@pytest.mark.parametrize("file", ["params.yaml", "profiles/report3.yaml", "profiles/report1.yaml"])
def test_the_stages_of_a_run_are_those_that_dvc_knows(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "project"
    shutil.copytree(ROOT / "stages", home / "stages", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", home)
    shutil.copy(ROOT / file, home / "params.yaml")
    with edit_yaml(str(home / "params.yaml")) as values:
        values["draw_shapes"] = {"fruit": {"count": 2, "side": 64, "seed": 1}}
        [*values["datasets"].values()][-1]["ingest"]["root"] = "data/raw/fruit"
    subprocess.run(["git", "init", "-q", str(home)], check=True)
    (home / ".dvc").mkdir()
    (home / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
    monkeypatch.chdir(home)
    values, pipeline = params.load(home / "params.yaml"), dvc_lock.read(home / "dvc.yaml")
    with opened(home) as repo, repo.lock:
        for system in values["blend"]:
            found = [stage.name for stage in estimate.stages(values, [system], pipeline)]
            assert sorted(found) == sorted(graph.read(repo, [f"evaluate@{system}"]).nodes), system


def test_an_estimate_goes_by_the_records_of_this_machine(tmp_path: Path) -> None:
    """A training that took 40 s for 100 steps takes 80 s for 200; what never ran here is said to be unknown."""
    home = tmp_path
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / name, home)
    (home / "stages").mkdir()
    (home / "stages" / "a.py").write_text("code")
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=home, env={**ENV, **IDENTITY}, check=True)
    values = params.load(home / "params.yaml")
    values["train_dmfn"]["dmfn"] |= {"steps": 100, "seed": 1}
    pipeline = dvc_lock.read(home / "dvc.yaml")

    def planned(seed: int, **more: Any) -> arms.Planned:
        mine = json.loads(json.dumps(values))
        mine["train_dmfn"]["dmfn"] |= {"seed": seed, **more}
        return arms.Planned(f"run-{seed}", ("a",), seed, ("dmfn",), mine, dict.fromkeys(["x.y.seed", "x.y.d_matching"]))

    inputs: dict[str, str] = {}
    for number, one in enumerate(estimate.stages(values, ["dmfn"], pipeline)):
        md5 = f"{number:032x}"
        file = home / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(bytes(1_000_000))
        facts = {
            "inputs": dict(inputs), "outputs": {f"data/{one.name}": md5}, "params": one.params,
            "sources": {"a.py": "5694d08a2e53ffcae0c3103e5ad6f6076abd960eb1f8a56577040bc1028f702b"},  # sha256 of `code`
            "environment": {"processor": machine.processor()},
        }  # fmt: skip
        inputs[f"data/{one.name}"] = md5
        seconds = 40 if one.name.startswith("train") else 5
        record.write(home / record.home(), one.name, facts, {"ended": "2026-11-27T10:00:00+00:00", "seconds": seconds})

    def asked(*runs: arms.Planned) -> estimate.Estimate:
        return estimate.estimate(home, "HEAD", runs, 1)

    same = asked(planned(1))
    assert (same.cached.total(), same.new.total(), same.unknown) == (8, 0, [])
    assert same.seconds == estimate.OVERHEAD
    assert same.size == 0
    longer = asked(planned(2, steps=200, d_matching=7))
    assert dict(longer.new) == dict.fromkeys(["train_dmfn@dmfn", "infer@dmfn", "blend@dmfn", "evaluate@dmfn"], 1)
    assert longer.seconds == estimate.OVERHEAD + 80 + 3 * 5
    assert longer.size == 4_000_000
    assert longer.free > longer.size
    both = asked(planned(2), planned(3))
    assert both.cached.total() == 4, "draw, ingest, align and mask, once for both"
    assert both.seconds == 2 * (estimate.OVERHEAD + 40 + 3 * 5)
    assert both.lines()[1] == "time: about 118 s, 1 run at a time"
    wider = asked(planned(1, width=99))
    assert wider.unknown == ["train_dmfn@dmfn"]
    assert wider.lines()[-1] == "not in time and disk, as they never ran here: train_dmfn@dmfn"
    (home / "stages" / "a.py").write_text("other code")
    subprocess.run(["git", "commit", "-qam", "second"], cwd=home, env={**ENV, **IDENTITY}, check=True)
    assert asked(planned(1)).cached.total() == 0, "other code may make something else"
    full = estimate.Estimate(1, 1, same.cached, same.new, [], 1.0, 10**18, 5_000_000, home)
    with pytest.raises(InputError, match=r"would take about 1000000000.0 GB, and 5 MB are free; make room"):
        full.refuse_full_disk()
