"""`palimpsest rebuild` on real DVC repositories, real processes and a real Prefect server."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from dvc_project import (
    ENV,
    FILL,
    FOLDER,
    PATIENCE,
    PIPELINE,
    ROOT,
    Process,
    Project,
    end,
    gone,
    of,
    post,
    server_of,
    states,
    wait,
)
from forked import family, python

from flows.engine import resources
from flows.engine.lock_file import FILE
from flows.engine.repository import copy_configuration, opened, private_site_cache, repair_read_write_lock
from flows.engine.workspace import StageError, Workspace, workspace
from flows.process import file_lock
from flows.rebuild import Rebuild
from stages.metrics.means import OVERALL, SUFFIX, Interval, write_means
from stages.runs import record
from stages.runs.errors import InputError

IDENTITY = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
NAMESPACE = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")  # its first process has PID 1


def build(say: Callable[[str], None] = print, **options: bool) -> dict[str, str]:
    """The stages one after the other, without Prefect: the state of each."""
    with workspace(say=say, **options) as work:
        done = {name: work.run(name, {}, say).state for name in work.plan.nodes}
        work.finish()
    return done


def test_a_rebuild_ends_as_plain_repro_does(project: Project, api: str, plain: str) -> None:
    facts = {"inputs": {}, "outputs": {}}
    noted = record.write(project.home / ".palimpsest/records", "gen", facts, {"ended": "2026-11-27"})
    for name in "abc":
        project.control(f"{name}.hold").touch()
    process = project.start("rebuild", "--jobs", "2", PREFECT_API_URL=api, OMP_WAIT_POLICY="ACTIVE")
    wait(lambda: "c" in project.trace())
    assert not {"a", "b"} & project.trace().keys(), "it takes both cores, and would find no room later"
    project.control("c.hold").unlink()
    wait(lambda: {"a", "b"} <= project.trace().keys())  # at once: neither can end
    assert any("is busy" in line for line in project.run("repro", "-s", "mid@a", code=255)), "a user's own is kept out"
    for name in "ab":
        project.control(f"{name}.hold").unlink()
    lines = end(process)
    assert lines[-1] == "rebuild: 5 ran"
    said = ["git", "show", f"palimpsest/records:gen/{noted.name}"]
    assert subprocess.run(said, cwd=project.home, check=True, capture_output=True).stdout == noted.read_bytes()
    assert any(line.endswith("mid@a | a begins") for line in lines), "its output is on the terminal"
    assert project.lock() == plain
    policies = {name: policy for name, (_, policy, _) in project.trace().items()}
    assert policies == {**dict.fromkeys(("gen", "a", "b", "report"), "PASSIVE"), "c": "ACTIVE"}, "it has both cores"
    assert project.run("repro")[-1] == "Data and pipelines are up to date."

    again = project.run("rebuild", PREFECT_API_URL="http://127.0.0.1:9/api")  # where nobody answers
    assert again == ["rebuild: nothing changed, 5 stages are up to date"]

    (project.home / "data" / "b").unlink()
    assert project.run("rebuild", PREFECT_API_URL=api)[-1] == "rebuild: 1 from the run-cache; 4 unchanged"
    ended = {"gen": "Skipped", "mid@a": "Skipped", "mid@b": "Cached", "mid@c": "Skipped", "report": "Skipped"}
    wait(lambda: states(api, project.home) == ended)
    assert {one["key"] for one in post(api, "artifacts", of(project.home))} == {"lineage"}, "there are no scores here"
    assert project.lock() == plain


def test_a_failure_stops_what_depends_on_it_and_nothing_else(project: Project, api: str, plain: str) -> None:
    project.control("b.fail").touch()
    lines = project.run("rebuild", code=1, PREFECT_API_URL=f"{api.replace('//', '//user:secret@')}/")
    assert not [line for line in lines if "NoneType" in line or "secret" in line]
    assert lines[-1] == (
        "rebuild: 3 ran; not run, as they depend on a failed one: report; "
        "failed: mid@b: exit code 1: b fails; log: .palimpsest/logs/mid@b.log"
    )
    assert (project.home / ".palimpsest/logs/mid@b.log").read_text() == "b begins\nb fails\n"
    project.control("b.fail").unlink()
    assert build() == {
        "gen": "Skipped", "mid@a": "Skipped", "mid@b": "Completed", "mid@c": "Skipped", "report": "Completed",
    }  # fmt: skip
    assert project.lock() == plain, "as if nothing had failed"


def suspended_server(process: Process) -> psutil.Process:
    """The server that a command has started for itself, before it answers; it never will."""
    servers: list[psutil.Process] = []

    def stopped() -> bool:
        with contextlib.suppress(ValueError):  # it is not there yet
            servers.append(server_of(process))
            servers[0].suspend()
        return bool(servers)

    wait(stopped)
    return servers[0]


def test_the_first_stage_does_not_wait_for_the_server(project: Project, plain: str) -> None:
    project.control("gen.hold").touch()
    process = project.start("rebuild", "--jobs", "2")  # with a server of its own
    server = suspended_server(process)
    wait(lambda: "gen" in project.trace())
    process.send_signal(signal.SIGINT)
    assert end(process, 130)[-1] == "rebuild: interrupted; run it again to go on"
    assert gone(int(project.trace()["gen"][0]))
    wait(lambda: gone(server.pid))
    project.control("gen.hold").unlink()
    build()
    assert project.lock() == plain


def test_a_killed_server_loses_no_work(project: Project, plain: str) -> None:
    project.control("a.hold").touch()
    process = project.start("rebuild")  # with a server of its own
    wait(lambda: "a" in project.trace())
    server = server_of(process)
    (at,) = [at.laddr for at in server.net_connections() if at.status == psutil.CONN_LISTEN]
    assert at.ip == "127.0.0.1"
    with urllib.request.urlopen(f"http://{at.ip}:{at.port}/ui-settings", timeout=30) as answer:
        assert json.load(answer)["api_url"] == "/api", "its page asks where it comes from"
    server.kill()
    project.control("a.hold").unlink()
    assert end(process)[-1] == "rebuild: 5 ran"
    assert project.lock() == plain


def test_kill_of_the_flow_leaves_nothing_behind(project: Project, api: str, plain: str) -> None:
    project.control("a.hold").touch()
    process = project.start("rebuild", "--jobs", "2", PREFECT_API_URL=api)
    wait(lambda: "a" in project.trace() and states(api, project.home).get("mid@a") == "Running")
    children = family(psutil.Process(process.pid))[1:]
    process.kill()
    process.communicate()
    wait(lambda: all(gone(child.pid) for child in children))
    project.control("a.hold").unlink()
    project.run("rebuild", PREFECT_API_URL=api)
    assert project.lock() == plain
    runs = post(api, "flow_runs", of(project.home))
    assert sorted(run["state_name"] for run in runs) == ["Completed", "Crashed"]
    (killed,) = [run["id"] for run in runs if run["state_name"] == "Crashed"]
    tasks = post(api, "task_runs", {"flow_runs": {"id": {"any_": [killed]}}})
    assert "Crashed" in {task["state_name"] for task in tasks}
    assert "Running" not in {task["state_name"] for task in tasks}


def test_a_kill_may_leave_an_entry_of_the_run_cache_empty(project: Project, api: str, plain: str) -> None:
    """DVC makes the entry's folder, then the entry."""
    project.run("rebuild", PREFECT_API_URL=api)
    entries = [file for file in (project.home / ".dvc" / "cache" / "runs").glob("*/*/*") if file.is_file()]
    assert len(entries) == 5
    for file in (*entries, project.home / "dvc.lock"):
        file.unlink()
    assert project.run("rebuild", PREFECT_API_URL=api)[-1] == "rebuild: 5 ran"
    assert project.lock() == plain


def test_a_full_disk_is_named(small: list[str], tmp_path: Path, api: str, plain: str) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        env = {**ENV, "PREFECT_API_URL": api, "PREFECT_HOME": str(tmp_path / "prefect"), "FORKED_PYTHON": python()}
        return subprocess.run([*small, *words], env=env, capture_output=True, text=True, timeout=PATIENCE)

    rebuild = (python(), "-m", "flows.cli", "rebuild")
    make = "from pathlib import Path; from dvc_project import Project; Project(Path())"
    assert not run("env", f"PYTHONPATH={ROOT / 'tests'}", python(), "-c", make).returncode
    run(sys.executable, "-c", FILL, "0")
    at_first = run(*rebuild)
    assert at_first.returncode == 2
    assert at_first.stderr.splitlines()[-1] == "rebuild: No space left on device; make room and run it again"
    run("rm", "fill")
    run(sys.executable, "-c", FILL, "36000")
    midway = run(*rebuild)
    assert midway.returncode == 1
    assert "No space left on device" in midway.stdout.splitlines()[-1]
    run("rm", "fill")
    assert run(*rebuild).returncode == 0
    assert run("cat", "dvc.lock").stdout == plain


@pytest.mark.parametrize("victim", ["stage", "shell"])
def test_kill_of_a_stage_fails_that_stage(project: Project, plain: str, victim: str) -> None:
    project.control("gen.hold").touch()

    def kill() -> None:
        wait(lambda: "gen" in project.trace())
        stage = psutil.Process(int(project.trace()["gen"][0]))
        (stage if victim == "stage" else stage.parent()).kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with workspace(say=print) as work, pytest.raises(StageError, match="killed by SIGKILL"):
        work.run("gen", {}, print)
    assert gone(int(project.trace()["gen"][0])), "nothing of it goes on writing"
    killer.join()
    project.control("gen.hold").unlink()
    build()
    assert project.lock() == plain


def test_two_rebuilds_take_turns(project: Project, plain: str) -> None:
    project.control("gen.hold").touch()
    said: list[str] = []
    first = threading.Thread(target=build)
    first.start()
    wait(lambda: "gen" in project.trace())
    second = threading.Thread(target=lambda: said.append(str(build(said.append))))
    second.start()
    wait(lambda: said)
    assert said[0].startswith(f"waiting for another rebuild here (PID {os.getpid()})")
    project.control("gen.hold").unlink()
    first.join()
    second.join()
    assert "Completed" not in said[-1]
    assert project.lock() == plain


def test_a_rebuild_waits_for_a_repro(project: Project, plain: str) -> None:
    project.control("a.hold").touch()
    repro = project.start("repro")
    wait(lambda: "a" in project.trace())
    rebuild = project.start("rebuild")
    assert rebuild.stdout is not None
    assert rebuild.stdout.readline().startswith("waiting for another DVC process")
    project.control("a.hold").unlink()
    end(repro)
    assert end(rebuild) == ["rebuild: nothing changed, 5 stages are up to date"]
    assert project.lock() == plain


@pytest.mark.parametrize("known", [True, False], ids=["built here", "built by dvc repro"])
def test_a_torn_lock_is_mended(project: Project, plain: str, known: bool) -> None:
    if known:
        build()
    else:
        project.run("repro")
    said: list[str] = []
    for torn in ("", plain[: len(plain) // 2], plain[: plain.index("  mid@b")], "schema: '2.0'\nstages:\n  gen:\n"):
        (project.home / "dvc.lock").write_text(torn)
        states = build(said.append)
        assert set(states.values()) <= {"Cached", "Skipped"}
        assert project.lock() == plain
    kept = project.home / ".dvc" / "tmp" / "dvc.lock.torn"
    assert f"dvc.lock had been cut off by a killed process: mended; the torn one is {kept}" in said
    assert kept.read_text() == torn


def test_a_lock_that_was_merged_by_hand_is_nobody_elses(project: Project, plain: str) -> None:
    build()
    entry = plain[plain.index("  mid@a") : plain.index("  mid@b")]
    for merged in (
        plain + entry,  # twice
        plain.replace("  mid@a:\n", "  mid@a:\n    size\n"),
        plain.replace("    cmd", "   cmd", 1),
        "mine\n",
    ):
        (project.home / "dvc.lock").write_text(merged)
        (said,) = project.run("rebuild", code=2)
        assert said.startswith("rebuild: dvc.lock: not a lock file (")
        assert said.endswith("`git checkout HEAD -- dvc.lock`, and run it again: what the cache has is not made anew")
        assert project.lock() == merged


def test_a_merge_of_two_branches_locks_goes_on_from_one_side(project: Project) -> None:
    """dvc#8233: Git merges the two texts line by line, and no command of DVC's reads the result."""

    def git(*words: str) -> int:
        return subprocess.run(["git", *IDENTITY, *words], cwd=project.home, check=False, capture_output=True).returncode

    build()
    git("add", "."), git("commit", "-m", "base"), git("branch", "other")
    for branch, seed in (("HEAD", "2"), ("other", "3")):
        git("switch", "other") if branch == "other" else None
        (project.home / "seed").write_text(seed)
        build()
        git("commit", "-am", seed)
    assert git("merge", "--no-commit", "-"), "both have changed the same lines"
    (said,) = project.run("rebuild", code=2)
    assert "dvc.lock: a merge has left conflicts in it; take one side, `git checkout --ours -- dvc.lock`" in said
    for file in ("dvc.lock", "seed"):
        git("checkout", "--ours", "--", file)
    assert set(build().values()) == {"Skipped"}
    git("checkout", "--theirs", "--", "seed")
    assert set(build().values()) == {"Cached"}, "what the other side has made comes from DVC's cache"


@pytest.mark.parametrize("content", ["", "[]", '{"dvc.lock": 3}', "[" * 100_000], ids=lambda text: text[:20])
def test_a_damaged_memory_of_locks_is_one_line(content: str, project: Project) -> None:
    journal = project.home / ".dvc" / "tmp" / FILE
    journal.parent.mkdir(exist_ok=True)
    journal.write_text(content)
    (said,) = project.run("rebuild", "--dry", code=2)
    assert said.startswith(f"rebuild: {journal}: damaged (")
    assert said.endswith("remove it and run it again")


def test_a_bomb_in_params_is_one_line_before_dvc_reads_it(project: Project) -> None:
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n"
    text += "\n".join(f"s{n}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]" for n in range(20))
    (project.home / "params.yaml").write_text(text)
    (said,) = project.run("rebuild", "--dry", code=2)
    assert said.startswith("rebuild: params.yaml: more than 20000 values, with its aliases (*) written out")


@pytest.mark.parametrize("where", ["write", "read"])
def test_locks_of_killed_processes_hold_nobody_up(project: Project, plain: str, where: str) -> None:
    """A container gives the same PIDs again: the one that a lock names may be this very rebuild's, or another's."""
    (project.home / ".dvc" / "tmp").mkdir()
    file = project.home / ".dvc" / "tmp" / "rwlock"
    path = str(project.home / "data" / "gen")
    dead = {"pid": os.getpid(), "cmd": "palimpsest rebuild: stage gen (4f7a 17)"}
    for holder in (dead, {**dead, "cmd": "dvc repro"}, {"pid": os.getppid(), "cmd": dead["cmd"]}):
        file.write_text(json.dumps({where: {path: [holder] if where == "read" else holder}}))
        build()
        assert project.lock() == plain
        assert not any(json.loads(file.read_text()).values())
        (project.home / "data" / "gen").unlink()


def test_dvcs_own_locks_are_told_by_their_processes(project: Project) -> None:
    """One that began before the lock was taken has it; one that began after, by another command, does not."""
    (project.home / ".dvc" / "tmp").mkdir()
    file = project.home / ".dvc" / "tmp" / "rwlock"
    child = subprocess.Popen(["sleep", "900"])
    there = {"write": {"/data/gen": {"pid": child.pid, "cmd": "dvc repro"}}, "read": {}}
    file.write_text(json.dumps(there))
    try:
        with opened(project.home) as repo:
            repair_read_write_lock(repo)
            assert json.loads(file.read_text()) == there
            os.utime(file, (0, 0))  # as if it had been there before the process
            repair_read_write_lock(repo)
        assert json.loads(file.read_text()) == {"write": {}, "read": {}}
    finally:
        child.kill()
        child.wait()


@pytest.mark.skipif(
    subprocess.run([*NAMESPACE, "true"], check=False, capture_output=True).returncode != 0, reason="no PID namespaces"
)
def test_a_killed_container_does_not_hold_up_the_next(project: Project, api: str, plain: str) -> None:
    """`docker kill` and `docker run`: the second rebuild has the first one's PID."""
    project.control("gen.hold").touch()
    words = [*NAMESPACE, sys.executable, "-m", "flows.cli", "rebuild"]
    options: dict[str, Any] = {"cwd": project.home, "env": {**ENV, "PREFECT_API_URL": api}}
    first = subprocess.Popen(words, **options, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait(lambda: "gen" in project.trace())
    first.kill()
    first.wait()
    project.control("gen.hold").unlink()
    done = subprocess.run(words, **options, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "waiting" not in done.stderr
    assert project.lock() == plain


def test_dvcs_site_cache_is_private(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DVC reads pickles from it, and its own default is a folder that all users of the machine may write."""
    home = tmp_path_factory.mktemp("home")
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(home))
    with opened(project.home) as repo:
        assert Path(repo.site_cache_dir).is_relative_to(home / ".cache" / "palimpsest" / "dvc")
    assert (home / ".cache" / "palimpsest" / "dvc").stat().st_mode & 0o777 == 0o700
    monkeypatch.delenv("DVC_SITE_CACHE_DIR")
    (home / "config").write_text(f"[core]\n    site_cache_dir = {home}/mine\n")
    with opened(project.home) as repo:
        assert Path(repo.site_cache_dir).is_relative_to(home / "mine")
    assert "DVC_SITE_CACHE_DIR" not in os.environ
    (home / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "file"))
    with pytest.raises(InputError, match="name a folder of your own in DVC_SITE_CACHE_DIR"):
        private_site_cache()


def test_what_dvc_is_told_for_all_repositories_holds_in_a_worktree(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path_factory.mktemp("home")
    worktree = home / "worktree"
    for words in (["add", "."], ["commit", "-qm", "first"], ["worktree", "add", "-q", "--detach", str(worktree)]):
        subprocess.run(["git", *IDENTITY, *words], cwd=project.home, check=True)
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(home))
    (home / "config").write_text(
        f"[core]\n    remote = far\n    site_cache_dir = {home}/site\n[cache]\n    dir = {home}/cache\n"
        f"    type = symlink\n['remote \"far\"']\n    url = {home}/far\n"
    )

    def told(root: Path) -> dict[str, Any]:
        with opened(root) as repo:
            return {**repo.config["core"], **repo.config["cache"], **repo.config["remote"]["far"]}

    copy_configuration(project.home, worktree)
    assert told(worktree) == told(project.home)
    assert told(worktree)["dir"] == f"{home}/cache"
    (home / "config").unlink()
    copy_configuration(project.home, worktree)
    with opened(project.home) as ours, opened(worktree) as theirs:
        assert (
            theirs.cache.local.path == ours.cache.local.path == str(project.home / ".dvc" / "cache" / "files" / "md5")
        )


def test_a_torn_rwlock_of_dvc_is_mended(project: Project, plain: str) -> None:
    (project.home / ".dvc" / "tmp").mkdir()
    (project.home / ".dvc" / "tmp" / "rwlock").write_text('{"write": {"dat')
    build()
    assert project.lock() == plain


def test_new_stages_go_where_repro_puts_them(project: Project, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = Project(tmp_path_factory.mktemp("other"))
    late = {"cmd": "python stage.py late data/late seed", "deps": ["seed"], "outs": ["data/late"]}
    build()
    other.run("repro")
    for home in (project.home, other.home):
        (home / "dvc.yaml").write_text(json.dumps({"stages": {"late": late, **PIPELINE}}))
    build()
    other.run("repro")
    assert project.lock() == other.lock()


GEN = PIPELINE["gen"]
LATE = {"cmd": "python stage.py late data/late data/gen", "deps": ["stage.py", "data/gen"], "outs": ["data/late"]}
KINDS_OF_STAGE: dict[str, dict[str, dict]] = {  # file -> its stages
    "frozen": {"dvc.yaml": {"gen": {**GEN, "frozen": True}, "late": LATE}},
    "always changed": {"dvc.yaml": {"gen": {**GEN, "always_changed": True}, "late": LATE}},
    "without deps": {"dvc.yaml": {"gen": {"cmd": "python stage.py gen data/gen", "outs": ["data/gen"]}, "late": LATE}},
    "wdir": {
        "dvc.yaml": {
            "gen": {**GEN, "cmd": "mkdir -p data && cp seed data/gen"},
            "late": {"wdir": "data", "cmd": "cat gen > late", "deps": ["gen"], "outs": ["late"]},
        }
    },
    "a subfolder's dvc.yaml": {
        "dvc.yaml": {"gen": GEN},
        "deep/er/dvc.yaml": {
            "late": {"cmd": "cat ../../data/gen > late", "deps": ["../../data/gen"], "outs": ["late"]}
        },
    },
    "in git, not in the cache": {"dvc.yaml": {"gen": {**GEN, "outs": [{"data/gen": {"cache": False}}]}, "late": LATE}},
    "kept between runs": {"dvc.yaml": {"gen": {**GEN, "outs": [{"data/gen": {"persist": True}}]}, "late": LATE}},
}


@pytest.mark.parametrize("kind", KINDS_OF_STAGE)
def test_every_kind_of_stage_ends_as_with_repro(
    project: Project, kind: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At first, after a change, and where nothing has changed: the same locks and outputs, and as many runs."""
    ours, theirs = project, Project(tmp_path_factory.mktemp("plain"))
    for one in (ours, theirs):
        for file, stages in KINDS_OF_STAGE[kind].items():
            (one.home / file).parent.mkdir(parents=True, exist_ok=True)
            (one.home / file).write_text(json.dumps({"stages": stages}))
        if kind == "frozen":  # it is only verified
            (one.home / "data").mkdir()
            (one.home / "data" / "gen").write_text("by hand")
    files = [*KINDS_OF_STAGE[kind]]

    def left(one: Project) -> dict[str, str]:
        found = [file for name in ("*.lock", "data/*", "late") for file in one.home.rglob(name) if file.is_file()]
        return {str(file.relative_to(one.home)): file.read_text() for file in found if ".dvc" not in file.parts}

    for seed in ("1", "2", "2"):
        for one in (ours, theirs):
            (one.home / "seed").write_text(seed)
            (one.home / ".palimpsest" / "trace").unlink(missing_ok=True)
        with workspace(files, say=print) as work:
            for name in work.plan.nodes:
                work.run(name, {}, print)
            work.finish()
        with contextlib.chdir(theirs.home), opened(theirs.home) as repo:  # `dvc repro`, without its start
            repo.reproduce(files)
        assert left(ours) == left(theirs)
        assert ours.trace().keys() == theirs.trace().keys()


def test_of_a_folder_that_a_stage_makes_another_may_read_one_file(project: Project) -> None:
    """As a training reads its split's table: what changes beside that file leaves it alone, in DVC and here."""
    home = project.home
    project.pipeline(FOLDER)
    for name in ("train", "test"):
        (home / name).write_text("1")
    assert project.run("repro")[-1] != "Data and pipelines are up to date."
    plain, cache = project.lock(), home / ".dvc" / "cache"
    for path in (home / "data", cache):
        shutil.rmtree(path)
    (home / "dvc.lock").unlink()
    assert build() == {"align": "Completed", "train": "Completed"}
    assert project.lock() == plain
    assert project.run("repro")[-1] == "Data and pipelines are up to date."

    (home / "test").write_text("2")
    assert build() == {"align": "Completed", "train": "Skipped"}
    assert (home / "data/aligned/test").read_text() == "2"
    (home / "test").write_text("3")
    assert "Stage 'train' didn't change, skipping" in project.run("repro")

    (home / "train").write_text("2")
    assert build() == {"align": "Completed", "train": "Completed"}
    assert (home / "data/model").read_text() == "train2"
    shutil.rmtree(home / "data")
    assert build() == {"align": "Cached", "train": "Cached"}
    assert (home / "data/model").read_text() == "train2"


def test_a_stage_that_changes_its_inputs_is_caught(project: Project) -> None:
    project.control("gen.edit").touch()
    (project.home / "dvc.yaml").write_text(
        json.dumps({"stages": {"gen": {**PIPELINE["gen"], "cmd": "python stage.py gen data/gen seed"}}})
    )
    with workspace(say=print) as work, pytest.raises(StageError, match="seed: changed while the stage ran"):
        work.run("gen", {}, print)
    assert not (project.home / "dvc.lock").exists()


def test_an_input_that_nobody_makes_is_named(project: Project) -> None:
    (project.home / "seed").unlink()
    with (
        workspace(say=print) as work,
        pytest.raises(StageError, match="seed: not there, and no stage makes it") as error,
    ):
        work.run("gen", {}, print)
    assert not error.value.logged


def test_a_daemon_that_a_stage_leaves_holds_nothing_up(project: Project) -> None:
    cmd = "sleep 900 & echo $! > data/gen; echo made"
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": {"gen": {"cmd": cmd, "outs": ["data/gen"]}}}))
    (project.home / "data").mkdir()
    said: list[str] = []
    assert build(said.append) == {"gen": "Completed"}
    daemon = psutil.Process(int((project.home / "data" / "gen").read_text()))
    assert daemon.status() != psutil.STATUS_ZOMBIE, "it prints where the stage did, and lives on"
    daemon.kill()
    assert "made" in said


def test_a_gpu_is_one_stages_at_a_time(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"a": "cpu", "b": "cuda", "c": "cuda:1"}
    mid = {**PIPELINE["mid"], "foreach": {key: {"device": device} for key, device in places.items()}}
    mid["do"] = {**PIPELINE["mid"]["do"], "meta": {"gpu": "${item.device}"}}
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": {**PIPELINE, "mid": mid}}))
    monkeypatch.setattr(resources, "SHARED_MEMORY", tmp_path)
    build()
    with workspace(force=True, say=print) as work:
        job, (a, b, c) = Rebuild(work, 8), (work.plan.nodes[f"mid@{key}"] for key in "abc")
        assert job._fits(c, {"mid@a": a})
        assert not job._fits(c, {"mid@b": b})
        # And beside whatever another working copy has on it.
        (file,) = tmp_path.glob("palimpsest-*/gpu-*.lock")
        said: list[str] = []
        with file_lock.lock(file):
            thread = threading.Thread(target=work.run, args=("mid@b", {}, said.append))
            thread.start()
            wait(lambda: said)
            assert work.run("mid@a", {}, print).state == "Completed"
            assert said == [f"waiting for the GPU, which a rebuild elsewhere has (PID {os.getpid()})"]
        thread.join()
        assert said[-1] == "b begins"


def test_a_gpu_has_one_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However CUDA_VISIBLE_DEVICES writes it, and wherever temporary files go."""
    monkeypatch.setattr(resources, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(resources, "DEVICES", tmp_path / "dev")
    monkeypatch.setattr(resources, "DRIVER", tmp_path / "driver")
    for number, uuid in ((0, "GPU-5ad1"), (1, "GPU-77c0")):
        (tmp_path / "driver" / uuid).mkdir(parents=True)
        (tmp_path / "driver" / uuid / "information").write_text(f"GPU UUID: \t {uuid}\nDevice Minor: \t {number}\n")

    def seen(value: str | None) -> list[str]:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if value is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
        return resources.gpus()

    assert seen(None) == seen("0") == [], "no GPU is here"
    (tmp_path / "dev").mkdir()
    for name in ("nvidia0", "nvidia1", "nvidiactl"):
        (tmp_path / "dev" / name).touch()
    assert seen(None) == seen("0,1") == seen(" 1, 0") == seen("GPU-77,GPU-5ad1") == ["0", "1"]
    assert seen("1") == seen("GPU-77c0") == ["1"]
    assert seen("") == seen("-1") == []
    assert seen("MIG-1/2") == ["MIG-1/2"]

    def give_up() -> None:
        raise InterruptedError

    seen("GPU-77c0")
    with resources.gpu(print, give_up) as held:
        assert len(held) == 1
        monkeypatch.setenv("TMPDIR", str(tmp_path / "other"))
        seen("0,1")
        with pytest.raises(InterruptedError), resources.gpu(print, give_up):
            pass
        seen("0")
        with resources.gpu(print, give_up):
            pass


def test_force_runs_every_stage_anew(project: Project, api: str, plain: str) -> None:
    build()
    (project.home / "data" / "scores").mkdir()
    scores = {("raw", *OVERALL): 20.5, ("blended", "kind", "centre"): 21.5}
    scores |= {("difference", "kind", "centre"): 1, ("raw", "ratio", "10-20"): 20}  # on the report's page alone
    means = {
        group: {"psnr_hole": Interval(6, mean, 0, 99), "l1": Interval(6, 0, 0, 0)} for group, mean in scores.items()
    }
    write_means({"test": means}, project.home / "data" / "scores" / f"net{SUFFIX}")
    kept = [project.home / ".palimpsest" / "state" / f"{entry}-{'0a' * 12}" for entry in ("a", "of_none")]
    for state in kept:
        state.mkdir(parents=True)
    assert project.run("rebuild", "--force", PREFECT_API_URL=api)[-1] == "rebuild: 5 ran"
    assert [state.exists() for state in kept] == [False, True]
    assert project.lock() == plain
    (table,) = [one for one in post(api, "artifacts", of(project.home)) if one["key"] == "scores"]
    assert json.loads(table["data"]) == [
        {"system": "net", "variant": "raw", "hole": "overall", "psnr_hole": 20.5},
        {"system": "net", "variant": "blended", "hole": "centre", "psnr_hole": 21.5},
    ]


@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_the_stages_and_a_rerun_goes_on(
    project: Project, api: str, plain: str, number: int, code: int, word: str
) -> None:
    project.control("a.hold").touch()
    process = project.start("rebuild", PREFECT_API_URL=api)
    wait(lambda: "a" in project.trace())
    process.send_signal(number)
    assert end(process, code)[-1] == f"rebuild: {word}; run it again to go on"
    wait(lambda: gone(int(project.trace()["a"][0])))  # its shell may have gone first
    project.control("a.hold").unlink()
    build()
    assert project.lock() == plain


@pytest.mark.parametrize("answers", [True, False], ids=["a server that answers", "a server that starts"])
def test_a_second_interrupt_kills_a_stage_that_does_not_end(project: Project, api: str, answers: bool) -> None:
    cmd = "(trap '' TERM; python stage.py deaf data/deaf) & trap 'touch control/told' TERM; wait; wait"
    deaf = {"cmd": cmd, "outs": ["data/deaf"]}
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": {"deaf": deaf}}))
    project.control("deaf.hold").touch()
    process = project.start("rebuild", **{"PREFECT_API_URL": api} if answers else {})
    if not answers:
        suspended_server(process)
    wait(lambda: "deaf" in project.trace())
    process.send_signal(signal.SIGINT)
    wait(project.control("told").exists)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)  # it waits for the stage
    process.send_signal(signal.SIGINT)
    assert end(process, 130)[-1] == "rebuild: interrupted; run it again to go on"
    wait(lambda: gone(int(project.trace()["deaf"][0])))


def test_a_server_that_does_not_answer_is_named(project: Project, api: str) -> None:
    (line,) = project.run("rebuild", code=2, PREFECT_API_URL="http://user:secret@127.0.0.1:9/api")
    assert line.startswith("rebuild: PREFECT_API_URL: no Prefect server answers at 127.0.0.1:9; ")
    address = api.removesuffix("/api")
    (line,) = project.run("rebuild", code=2, PREFECT_API_URL=address)
    place = address.removeprefix("http://")
    assert line == f"rebuild: PREFECT_API_URL: the address of the Prefect server at {place} must end in /api"
    (line,) = project.run("rebuild", code=2, PREFECT_API_URL="http://user:secret@[bad/api")
    assert line.startswith("rebuild: PREFECT_API_URL: no address")
    assert not project.trace()


def test_dry_says_what_would_run(project: Project) -> None:
    build()
    (project.home / "data" / "a").unlink()
    assert project.run("rebuild", "--dry") == ["mid@a: would run", "report: may run, after mid@a"]
    assert not (project.home / "data" / "a").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["nothing"], "rebuild: Stage 'nothing' not found inside 'dvc.yaml'"),
        (["gen"], "rebuild: gen: `meta: cores` in dvc.yaml is 'many'; give a number from 1"),
    ],
)
def test_mistakes_are_one_line(project: Project, words: list[str], line: str) -> None:
    spoilt = {"gen": {**PIPELINE["gen"], "meta": {"cores": "many"}}}
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": spoilt}))
    (said,) = project.run("rebuild", *words, code=2)
    assert said.startswith(line)


def test_a_broken_dvc_yaml_is_named_with_its_line(project: Project) -> None:
    (project.home / "dvc.yaml").write_text("stages:\n  gen: [cmd\n")
    (said,) = project.run("rebuild", code=2)
    assert said.startswith("rebuild: unable to read: 'dvc.yaml', YAML file structure is corrupted: ")
    assert "line 2" in said


def test_another_system_than_linux_is_one_line(project: Project) -> None:
    """Whose libraries are not here to run: what the command itself says, before it imports any."""
    script = "import sys, zoneinfo, flows.cli; sys.platform = 'darwin'; flows.cli.app(['status'])"
    done = subprocess.run([sys.executable, "-c", script], env=ENV, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("palimpsest: runs on Linux alone, not on darwin;")


def test_help_imports_neither_dvc_nor_prefect() -> None:
    code = (
        "import sys; from flows.cli import app; app(['--help'], standalone_mode=False); "
        "assert not {'dvc', 'prefect', 'torch'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], env=ENV, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)


def test_a_stage_that_saves_is_waited_for(project: Project) -> None:
    """Though its shell has died of the signal that told both to end."""
    saver = "import signal, sys, time; from pathlib import Path; from threading import Event; "
    saver += "signal.signal(15, lambda *_: (time.sleep(1), Path('saved').touch(), sys.exit())); "
    saver += "Path('data/begun').touch(); Event().wait()"
    gen = {"cmd": f'python -c "{saver}" || exit $?', "outs": ["data/gen"]}
    (project.home / "dvc.yaml").write_text(json.dumps({"stages": {"gen": gen}}))
    (project.home / "data").mkdir()
    with workspace(say=print) as work:
        stopper = threading.Thread(target=lambda: (wait((project.home / "data" / "begun").exists), work.stop()))
        stopper.start()
        with pytest.raises(StageError, match="killed by SIGTERM"):
            work.run("gen", {}, print)
        assert (project.home / "saved").exists()
        stopper.join()


def test_stopping_ends_what_runs(project: Project) -> None:
    project.control("gen.hold").touch()
    with workspace(say=print) as work:

        def stop(work: Workspace = work) -> None:
            wait(lambda: "gen" in project.trace())
            work.stop()

        stopper = threading.Thread(target=stop)
        stopper.start()
        with pytest.raises(StageError, match="killed by SIGTERM"):
            work.run("gen", {}, print)
        stopper.join()
        with pytest.raises(StageError, match="stopped before it began"):
            work.run("gen", {}, print)


def test_a_cache_in_which_no_turn_can_be_taken_is_one_all_the_same(project: Project, plain: str) -> None:
    (project.home / ".dvc" / "cache").mkdir()
    (project.home / ".dvc" / "cache" / "running").write_text("not a folder")
    assert build() == dict.fromkeys(["gen", "mid@a", "mid@b", "mid@c", "report"], "Completed")
    assert project.lock() == plain


BUILD = """
import functools
from flows.engine.workspace import workspace
say = functools.partial(print, flush=True)
with workspace(say=say) as work:
    for name in work.plan.nodes:
        say(work.run(name, {}, say).state)
"""


def test_working_copies_with_one_cache_make_a_stage_once(project: Project) -> None:
    """Two at once: the second waits for the first, and takes what that has made from the run-cache."""
    project.pipeline({"gen": PIPELINE["gen"]})
    other = project.home / "other"
    shutil.copytree(project.home, other, ignore=shutil.ignore_patterns("other", "prefect"))
    (other / ".dvc" / "config.local").write_text("[cache]\n    dir = ../../.dvc/cache\n")
    project.control("gen.hold").touch()

    def start(home: Path) -> subprocess.Popen[str]:
        environment = {**ENV, "PROJECT": str(project.home)}
        return subprocess.Popen([python(), "-c", BUILD], cwd=home, env=environment, stdout=subprocess.PIPE, text=True)

    first = start(project.home)
    wait(lambda: "gen" in project.trace())
    before = project.trace()
    (running,) = (project.home / ".dvc" / "cache" / "running").iterdir()
    second = start(other)
    assert second.stdout is not None
    assert second.stdout.readline() == "waiting for another working copy, which makes the same\n"
    project.control("gen.hold").unlink()
    assert end(first)[-1] == "Completed"
    assert end(second)[-1] == "Cached"
    assert project.trace() == before, "it has run once"
    assert (other / "dvc.lock").read_text() == project.lock()
    assert not running.exists()
