"""Data outside of the repository, in DVC's temporary experiments."""

import os
import subprocess
from pathlib import Path

import pytest
from dvc_project import Project, dvc
from PIL import Image

from stages import ingest
from stages.images.outside import link_outside
from stages.runs.params import build


def project(top: Path, way: str = "") -> Path:
    """A Git repository at `top` with a DVC project in its folder `way`."""
    home = top / way
    (home / ".dvc").mkdir(parents=True)
    (top / ".git").mkdir()
    return home


@pytest.mark.parametrize("way", ["", "labs/one"])
@pytest.mark.parametrize("data", ["../photos", "../photos/mine/of 2024", "../../far/photos", "../x/../photos"])
def test_what_lies_outside_is_where_each_checkout_looks_for_it(way: str, data: str, tmp_path: Path) -> None:
    home = project(tmp_path / "a" / "repo", way)
    written = Path(os.path.relpath(tmp_path / "a" / "repo" / data, home))
    place = Path(os.path.normpath(home / written))
    place.mkdir(parents=True)
    (place / "one.jpg").write_text("one")
    link_outside(written, home)
    link_outside(written, home)
    for checkout in (".dvc/tmp/exps/standalone/tmp1", ".dvc/tmp/exps/tmp2"):
        seen = Path(os.path.normpath(home / checkout / way / written))  # as DVC joins it
        assert (seen / "one.jpg").read_text() == "one"


def test_other_paths_get_no_link(tmp_path: Path) -> None:
    home = project(tmp_path / "repo", "lab")
    for name in ("outside", "repo/inside", "run", "rwlock"):
        (tmp_path / name).mkdir()
    for data in (tmp_path / "outside", "../inside", "data", "../..", "../../run", "../../rwlock", "../../not there"):
        link_outside(Path(data), home)
    link_outside(Path("../outside"), tmp_path / "repo")  # no project of DVC's
    assert not (home / ".dvc" / "tmp").exists()


def test_a_link_beyond_dvc_s_own_folder_is_not_made(tmp_path: Path) -> None:
    """From `.dvc/tmp/exps/tmp1`, `../../../photos` would lie in `.dvc`, which Git follows."""
    home = project(tmp_path / "a" / "b" / "repo")
    (tmp_path / "photos").mkdir()
    link_outside(Path("../../../photos"), home)
    assert [*home.rglob("photos")] == [home / ".dvc" / "tmp" / "photos"]


def test_what_lies_there_is_kept_and_a_link_follows_the_data(tmp_path: Path) -> None:
    home = project(tmp_path / "repo")
    (tmp_path / "photos").mkdir()
    own = home / ".dvc" / "tmp" / "exps" / "photos"
    own.mkdir(parents=True)
    other = home / ".dvc" / "tmp" / "exps" / "standalone" / "photos"
    other.parent.mkdir()
    other.symlink_to(tmp_path / "moved away")
    link_outside(Path("../photos"), home)
    assert own.is_dir()
    assert not own.is_symlink()
    assert other.readlink() == tmp_path / "photos"


def test_an_experiment_elsewhere_reads_photos_beside_the_repository(tmp_path: Path) -> None:
    """Once any command of ours has read the graph, or `dvc repro` has ingested them."""
    one = Project(tmp_path / "repo")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("a")
    (one.home / "params.yaml").write_text("evaluate: {seed: 1}\n")
    stage = {"cmd": "cp ../photos/a.txt got", "deps": ["../photos"], "params": ["evaluate.seed"], "outs": ["got"]}
    one.pipeline({"ingest": stage})
    for words in (["add", "-A"], ["-c", "user.name=Ada", "-c", "user.email=a@example.org", "commit", "-qm", "first"]):
        subprocess.run(["git", *words], cwd=one.home, check=True)
    one.run("rebuild", "--dry")
    dvc(one.home, "exp", "run", "--temp", "-q", "-S", "evaluate.seed=2")
    shown = subprocess.run(
        ["git", "for-each-ref", "--format=%(objectname)", "refs/exps/*/*/*"],
        cwd=one.home,
        text=True,
        capture_output=True,
    )
    lock = subprocess.run(
        ["git", "show", f"{shown.stdout.strip()}:dvc.lock"], cwd=one.home, text=True, capture_output=True
    )
    assert "path: ../photos" in lock.stdout


def test_ingest_leaves_the_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = project(tmp_path / "repo")
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (40, 40), "red").save(tmp_path / "photos" / "a.png")
    (home / "tombstones.txt").touch()
    monkeypatch.chdir(home)
    terms = {"licence": "CC0-1.0", "consent": "not a person", "origin": "a test"}
    section = {"source": "folder", "root": "../photos", "use": "evaluate", "split": {"val": 0.1, "test": 0.1}, **terms}
    params = build(ingest.Params, section, "datasets.x.ingest")
    ingest.ingest(Path("../photos"), Path("tombstones.txt"), Path("made"), params, "x")
    assert (home / ".dvc" / "tmp" / "exps" / "standalone" / "photos" / "a.png").exists()
