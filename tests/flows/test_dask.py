"""`palimpsest rebuild --runner dask=`: a real scheduler, two workers with clones of their own, a folder remote."""

import contextlib
import http.server
import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import distributed
import psutil
import pytest
from dvc_project import ENV, FOLDER, STAGE, Project, end, gone, wait
from forked import family, python

from flows.checkout import snapshot
from flows.cluster import dask as crews
from flows.engine import run_cache
from flows.engine.repository import open_repo
from flows.engine.workspace import StageError, workspace
from stages.runs import record
from stages.runs.errors import InputError

RECORD = """
import hashlib, json
made = {"ended": "today", "outputs": {out: hashlib.md5(Path(out).read_bytes()).hexdigest()}}
file = Path(os.environ.get("PALIMPSEST_RECORDS", ".palimpsest/records"), name, "one.json")
file.parent.mkdir(parents=True, exist_ok=True)
file.write_text(json.dumps(made))
"""


class Cluster:
    """A Dask scheduler and two workers; the stages that these run are watched and held in `home`, the project."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "project"
        self.clones = folder / "clones"
        self.folder = folder
        self.processes: list[subprocess.Popen] = []
        file = folder / "scheduler.json"
        self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        wait(lambda: file.exists() and file.read_text().endswith("}"))
        self.address = json.loads(file.read_text())["address"]
        self.client: distributed.Client | None = None
        self.workers = [self.worker(), self.worker()]

    def _start(self, *words: str) -> subprocess.Popen:
        with (self.folder / "log").open("a") as log:
            process = subprocess.Popen(
                [python(), "-m", "distributed.cli.dask_" + words[0], *words[1:], "--no-dashboard"],
                env={
                    **ENV,
                    "FORKED_PYTHON": python(),
                    "PALIMPSEST_WORKSPACES": str(self.clones),
                    "PROJECT": str(self.home),
                },
                stdout=log,
                stderr=log,
            )
        self.processes.append(process)
        return process

    def worker(self) -> subprocess.Popen:
        words = ("--no-nanny", "--nthreads", "2", "--host", "127.0.0.1", "--local-directory", str(self.folder))
        return self._start("worker", self.address, *words)

    def project(self) -> Project:
        """A new project, of which no worker knows anything."""
        for stale in [self.home, *self.clones.glob("*/.dvc/cache"), *self.clones.glob("*/.palimpsest")]:
            shutil.rmtree(stale, ignore_errors=True)
        project = Project(self.home)
        remote = (
            f"[core]\n    analytics = false\n    remote = store\n['remote \"store\"']\n    url = {self.home}.remote\n"
        )
        shutil.rmtree(f"{self.home}.remote", ignore_errors=True)
        (self.home / ".dvc" / "config").write_text(remote)
        subprocess.run(["git", "add", "-A"], cwd=self.home, check=True)
        subprocess.run(
            ["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"], cwd=self.home, check=True
        )
        return project

    def end(self) -> None:
        for process in reversed(self.processes):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    try:
        with distributed.Client(cluster.address, set_as_default=False) as client:
            cluster.client = client
            client.wait_for_workers(2, timeout=120)
            yield cluster
    finally:
        cluster.end()


@pytest.fixture
def project(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> Project:
    project = cluster.project()
    monkeypatch.chdir(project.home)
    monkeypatch.setenv("PATH", ENV["PATH"])
    return project


def build(cluster: Cluster, *targets: str, say: Callable[[str], None] = print) -> dict[str, str]:
    """The stages one after the other on the workers, without Prefect: the state of each."""
    with workspace(targets, say=say) as work:
        crew = crews.ClusterWorkspace(work, cluster.client, snapshot.take(work.plan.root), say)
        done = {name: crew.run(name, {}, say).state for name in work.plan.nodes}
        crew.finish()
    return done


def test_others_may_use_dvc_while_files_are_sent_and_fetched(
    cluster: Cluster, project: Project, plain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transfer may take hours, and DVC's lock keeps every other DVC command out."""
    seen: list[str] = []

    def free(name: str) -> None:
        transfer = getattr(run_cache, name)

        def watched(*given: Any) -> Any:
            with contextlib.closing(open_repo(project.home, wait=False)) as other, other.lock:  # else LockError
                seen.append(name)
            return transfer(*given)

        monkeypatch.setattr(run_cache, name, watched)

    for name in ("push", "fetch_entry"):
        free(name)
    build(cluster)
    assert project.lock() == plain
    assert {"push", "fetch_entry"} == set(seen)

    for made in (".dvc/cache", "data"):  # as where a rebuild was killed before it had brought anything home
        shutil.rmtree(project.home / made)
    for made in ("dvc.lock", ".palimpsest/trace"):
        (project.home / made).unlink()
    seen.clear()
    assert set(build(cluster).values()) == {"Cached"}, "the remote has it"
    assert set(seen) == {"fetch_entry"}
    assert not project.trace()
    assert project.lock() == plain


def status(project: Project) -> str:
    words = ["git", "status", "--porcelain", "--untracked-files=all"]
    return subprocess.run(words, cwd=project.home, capture_output=True, text=True, check=True).stdout


def test_two_workers_end_as_plain_repro_does(cluster: Cluster, project: Project, api: str, plain: str) -> None:
    home = project.home
    (home / "seed").write_text("0")  # committed
    subprocess.run(["git", "-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qam", "0"], cwd=home, check=True)
    (home / "seed").write_text("1")  # not committed, and what is to be built
    (home / "stage.py").write_text(STAGE + RECORD)
    project.run("repro")
    expected = project.lock()
    for made in (".dvc/cache", "data", ".palimpsest", "dvc.lock"):
        path = home / made
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    (home / ".palimpsest").mkdir()
    before, index = status(project), (home / ".git" / "index").read_bytes()

    for name in "abc":
        project.control(f"{name}.hold").touch()
    process = project.start("rebuild", "--runner", f"dask={cluster.address}", PREFECT_API_URL=api)
    wait(lambda: len(project.trace()) == 3)  # gen has ended; two of its dependents are at work and cannot end
    for name in "abc":
        project.control(f"{name}.hold").unlink()
    lines = end(process)
    assert lines[-1] == "rebuild: 5 ran"
    assert any(line.endswith("mid@a | a begins") for line in lines), "its output is on the terminal"
    assert project.lock() == expected
    trace = project.trace()
    assert {folder for _, _, folder in trace.values()} == {str(cluster.clones / "0"), str(cluster.clones / "1")}
    assert {policy for _, policy, _ in trace.values()} == {"PASSIVE"}
    assert project.run("repro")[-1] == "Data and pipelines are up to date."
    assert (home / ".palimpsest/logs/mid@a.log").read_text() == "a begins\n"
    records = {file.parent.name: json.loads(file.read_text()) for file in (home / record.home()).glob("*/*.json")}
    assert set(records) == {"gen", "a", "b", "c", "report"}
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=home, check=True, capture_output=True, text=True)
    assert {body["git"]["commit"] for body in records.values()} == {head.stdout.strip()}, "not that of a worker's clone"
    assert status(project) == before + "?? dvc.lock\n"
    assert (home / ".git" / "index").read_bytes() == index

    again = project.run("rebuild", "--runner", "dask=127.0.0.1:9")  # where nobody answers
    assert again == ["rebuild: nothing changed, 5 stages are up to date"]


def test_a_stage_of_a_killed_worker_goes_to_another(cluster: Cluster, project: Project, plain: str) -> None:
    project.control("gen.hold").touch()
    said: list[str] = []

    def kill() -> None:
        wait(lambda: "gen" in project.trace())
        stage = psutil.Process(int(project.trace()["gen"][0]))
        (victim,) = [one for one in cluster.workers if stage in family(psutil.Process(one.pid))]
        victim.kill()
        victim.wait()
        cluster.workers.remove(victim)
        wait(lambda: not stage.is_running() or stage.status() == psutil.STATUS_ZOMBIE)  # it writes no more
        project.control("gen.hold").unlink()

    killer = threading.Thread(target=kill)
    killer.start()
    assert build(cluster, "gen", say=said.append) == {"gen": "Completed"}
    killer.join()
    assert any("was lost, and the stage with it" in line for line in said)
    assert plain.startswith(project.lock())
    cluster.workers.append(cluster.worker())
    cluster.client.wait_for_workers(2, timeout=120)


def test_interrupt_ends_what_runs_on_the_workers(cluster: Cluster, project: Project, api: str, plain: str) -> None:
    project.control("gen.hold").touch()
    process = project.start("rebuild", PALIMPSEST_RUNNER=f"dask={cluster.address}", PREFECT_API_URL=api)
    wait(lambda: "gen" in project.trace())
    process.send_signal(signal.SIGINT)
    assert end(process, 130)[-1] == "rebuild: interrupted; run it again to go on"
    wait(lambda: gone(int(project.trace()["gen"][0])))
    project.control("gen.hold").unlink()
    assert not (project.home / "dvc.lock").exists()
    assert build(cluster, "gen") == {"gen": "Completed"}
    assert plain.startswith(project.lock())


def test_a_killed_rebuild_ends_what_runs_on_the_workers(cluster: Cluster, project: Project, plain: str) -> None:
    project.control("gen.hold").touch()
    process = subprocess.Popen([python(), "-c", CODE.format(address=cluster.address)], cwd=project.home, env=ENV)
    wait(lambda: "gen" in project.trace())
    process.kill()
    process.wait()
    wait(lambda: gone(int(project.trace()["gen"][0])))
    project.control("gen.hold").unlink()
    assert build(cluster, "gen") == {"gen": "Completed"}
    assert plain.startswith(project.lock())


CODE = """
import distributed
from flows.cluster import dask
from flows.checkout import snapshot
from flows.engine.workspace import workspace
with distributed.Client("{address}") as client, workspace(say=print) as work:
    dask.ClusterWorkspace(work, client, snapshot.take(work.plan.root), print).run("gen", {{}}, print)
"""


def test_only_what_changed_leaves(cluster: Cluster, project: Project, plain: str) -> None:
    """And what a worker needs of the rest is sent to the remote first; what another stage left with it is not there."""
    project.run("repro")  # nothing of it is on the remote
    (project.home / ".palimpsest/trace").unlink()
    made = (project.home / "data/b").read_bytes()
    shutil.rmtree(project.home / ".dvc/cache/runs")
    for lost in [project.home / "data/b", *(project.home / ".dvc/cache").rglob("*")]:
        if lost.is_file() and lost.read_bytes() == made:
            lost.unlink()
    states = build(cluster)
    assert states == {
        "gen": "Skipped",
        "mid@a": "Skipped",
        "mid@b": "Completed",
        "mid@c": "Skipped",
        "report": "Skipped",
    }
    assert project.trace().keys() == {"b"}
    assert project.lock() == plain


def test_folders_and_metrics_are_the_same_there(cluster: Cluster, project: Project) -> None:
    """A stage reads a folder that holds others' outputs, a score among them that DVC does not cache."""
    write = "python -c \"from pathlib import Path; Path('data/parts').mkdir(parents=True, exist_ok=True); {}\""
    part = write.format("Path('data/parts/${key}').write_text('${key}')")
    score = write.format("Path('data/parts/score.json').write_text('1')")
    listing = write.format("Path('data/all').write_text(str(sorted(p.name for p in Path('data/parts').iterdir())))")

    def pipeline(parts: str) -> None:
        stages = {
            "part": {
                "foreach": {k: {} for k in parts},
                "do": {"cmd": part, "deps": ["seed"], "outs": ["data/parts/${key}"]},
            },
            "score": {"cmd": score, "deps": ["seed"], "metrics": [{"data/parts/score.json": {"cache": False}}]},
            "all": {"cmd": listing, "deps": ["data/parts"], "outs": ["data/all"]},
        }
        (project.home / "dvc.yaml").write_text(json.dumps({"stages": stages}))

    pipeline("x")
    build(cluster)
    assert (project.home / "data/all").read_text() == "['score.json', 'x']"
    pipeline("y")
    (project.home / "data/parts/x").unlink()  # an entry that the user has removed
    assert build(cluster)["all"] == "Completed"
    assert (project.home / "data/all").read_text() == "['score.json', 'y']"
    assert project.run("repro")[-1] == "Data and pipelines are up to date."


def test_a_worker_gets_the_folder_that_a_stages_input_lies_in(cluster: Cluster, project: Project) -> None:
    project.pipeline(FOLDER)
    for name in ("train", "test"):
        (project.home / name).write_text("1")
    assert build(cluster) == {"align": "Completed", "train": "Completed"}
    assert (project.home / "data/model").read_text() == "train1"
    (project.home / "test").write_text("2")
    assert build(cluster) == {"align": "Completed", "train": "Skipped"}
    (project.home / "train").write_text("2")
    assert build(cluster) == {"align": "Completed", "train": "Completed"}
    assert (project.home / "data/model").read_text() == "train2"
    assert project.run("repro")[-1] == "Data and pipelines are up to date."


def test_a_dataset_that_a_worker_does_not_have_is_named(cluster: Cluster, project: Project) -> None:
    photos = cluster.folder / "photos"  # beside the project, not beside the clones
    photos.write_text("pictures")
    late = {"cmd": "python stage.py late data/late ../photos", "deps": ["../photos"], "outs": ["data/late"]}
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": {"late": late}}))
    missing = cluster.clones / "photos"
    with pytest.raises(StageError, match=f"photos: not on this worker, which looks for it at {missing}"):
        build(cluster)
    missing.write_text("others")
    with pytest.raises(StageError, match="photos: not the same on this worker"):
        build(cluster)
    missing.write_text("pictures")
    assert build(cluster) == {"late": "Completed"}


def test_a_failure_brings_its_log_home(cluster: Cluster, project: Project) -> None:
    project.control("gen.fail").touch()
    with pytest.raises(StageError, match=r"exit code 1: \w+ fails \(on tcp://127.0.0.1:\d+\)"):
        build(cluster)
    assert (project.home / ".palimpsest/logs/gen.log").read_text() == "gen begins\ngen fails\n"
    assert not (project.home / "dvc.lock").exists()


def test_refusals_are_one_line(cluster: Cluster, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (line,) = project.run("rebuild", "--runner", "dask=127.0.0.1:9", code=2)
    assert line.startswith("rebuild: --runner: no Dask scheduler answers at 127.0.0.1:9; `dask scheduler`")
    with workspace(say=print) as work:
        assert crews.address(f"dask={cluster.address}", work) == cluster.address
        other = next(iter(cluster.client.nthreads()))
        with http_server() as web, monkeypatch.context() as impatient:
            impatient.setattr(crews, "CONNECT", 1)
            for runner, why in {
                "spark=1": "--runner spark=1: not known; `--runner dask=HOST:PORT`",
                f"dask={other}": "no Dask scheduler answers",  # a worker
                f"dask={web}": "no Dask scheduler answers",
                "dask=rubbish": "no Dask scheduler answers",
            }.items():
                with pytest.raises(InputError, match=why):
                    crews.address(runner, work)
        (project.home / ".dvc" / "config").write_text("[core]\n    analytics = false\n")
        with pytest.raises(InputError, match=r"no default DVC remote.*`dvc remote add -d NAME URL`"):
            crews.address(f"dask={cluster.address}", work)
    assert not project.trace()


def test_a_cluster_with_tls_is_spoken_to(project: Project, tmp_path: Path) -> None:
    secrets = distributed.Security.temporary().get_tls_config_for_role("scheduler")
    names = {
        "CA_FILE": "ca_file",
        **{f"{role}__{part.upper()}": part for role in ("CLIENT", "SCHEDULER") for part in ("key", "cert")},
    }
    environment = {"DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "true"}
    for name, part in names.items():
        (tmp_path / part).write_text(secrets[part])
        environment[f"DASK_DISTRIBUTED__COMM__TLS__{name}"] = str(tmp_path / part)
    words = ["--host", "127.0.0.1", "--port", "0", "--protocol", "tls", "--no-dashboard"]
    file = tmp_path / "scheduler.json"
    scheduler = subprocess.Popen(
        [python(), "-m", "distributed.cli.dask_scheduler", *words, "--scheduler-file", str(file)],
        env={**ENV, **environment},
        stderr=subprocess.DEVNULL,
    )
    try:
        wait(lambda: file.exists() and file.read_text().endswith("}"))
        address = json.loads(file.read_text())["address"]
        (line,) = project.run("rebuild", "--runner", f"dask={address}", code=2, **environment)
        assert line.startswith(f"rebuild: --runner: the Dask scheduler at {address} has no workers")
    finally:
        scheduler.kill()
        scheduler.wait()


@contextlib.contextmanager
def http_server() -> Iterator[str]:
    """The address of another program than Dask's."""
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


def test_without_dask_the_extra_is_named(project: Project) -> None:
    code = "import sys; sys.modules['prefect_dask'] = None; from flows.cli import app; app()"
    done = subprocess.run(
        [sys.executable, "-c", code, "rebuild", "--runner", "dask=127.0.0.1:9"],
        cwd=project.home,
        env=ENV,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (
        2, "rebuild: --runner dask=: needs Dask; `pip install -c constraints.txt -e '.[dask]'`\n",
    )  # fmt: skip


def test_a_large_new_folder_is_refused(project: Project) -> None:
    with (project.home / "photo.raw").open("wb") as file:
        file.truncate(snapshot.LIMIT + 1)
    with pytest.raises(InputError, match=r"photo\.raw: among 100 MB of new files"):
        snapshot.take(project.home)
