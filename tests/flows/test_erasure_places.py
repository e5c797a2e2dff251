"""`palimpsest audit erase` in odd places: forms, names, links, databases, Git, and erasures that were interrupted."""

import base64
import bz2
import hashlib
import io
import json
import lzma
import shlex
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from ready_made import aligned, ingested
from safetensors.numpy import save_file
from test_erasure import Lab, array, git, lab, of, page, quiet, saved, scene

from flows.audit import rebuild
from flows.checkout.git import Git
from flows.checkout.root import retrain_lock, study_lock
from flows.erasure import erase, git_objects, lists, rewriting, turn
from flows.erasure.contents import Search
from flows.erasure.journal import Journal, pending
from flows.erasure.needles import Needles
from flows.erasure.pictures import Person
from flows.lineage import cache, erasures, keys, signatures
from flows.lineage.records import ERASED
from flows.process import file_lock
from flows.process.command import Say
from stages.ingest import pixel_digest
from stages.runs import record
from stages.runs.errors import InputError

__all__ = ["lab"]  # the fixture


def sha(seed: int) -> str:
    return hashlib.sha256(saved(scene(seed))).hexdigest()


def erased(lab: Lab, *asked: str, identity: str | None = None, say: Say = quiet) -> list[str]:
    """Erase: what is left."""
    person = Person(identity) if identity else None
    return [line for wanted in erase.all_of(lab.home, asked, person, False, say)
            for line in erase.do(lab.home, wanted, False, say).left]  # fmt: skip


# Forms.


def arrow(value: object, stream: bool = False) -> bytes:
    table, sink = pa.table({"image_id": ["x", "y"], "image": [value, None]}), io.BytesIO()
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def notebook(data: bytes) -> bytes:
    return json.dumps({"outputs": [{"data": {"image/png": base64.encodebytes(data).decode()}}]}).encode()


@pytest.mark.parametrize(
    "kept",
    [bz2.compress, lzma.compress, notebook, arrow, lambda data: arrow(data, stream=True),
     lambda data: arrow([{"path": "a" * 300, "bytes": data}]),
     lambda data: parquet(pa.table({"x": [["b"], ["a", page(data).decode()]]})),
     lambda data: parquet(pa.table({"x": pa.array([None, [*data]], pa.list_(pa.uint8()))}))],
    ids=["bz2", "xz", "notebook", "arrow", "arrow stream", "list of structs", "list of texts", "list of bytes"],
)  # fmt: skip
def test_it_is_found_in_forms_of_other_programs(kept: Callable[[bytes], bytes]) -> None:
    search = of(scene(1))
    assert search.array(array(kept(saved(scene(1), compress_level=1)))).pictures.keys() == {0}
    assert search.array(array(kept(saved(scene(2), compress_level=1)))).pictures == {}


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WebP", "PNG", "MPO"])
def test_it_is_found_in_a_later_frame(kind: str) -> None:
    """Pages, animations, and the second picture of a JPEG."""
    frames = [Image.fromarray(scene(seed)).quantize(250).convert("RGB") for seed in (2, 3, 1, 9)]  # as GIF has
    more = {"lossless": True} if kind == "WebP" else {}
    stored = saved(np.asarray(frames[0]), kind, save_all=True, append_images=frames[1:3], **more)
    last = Image.open(io.BytesIO(stored))
    last.seek(2)
    shown = np.asarray(last.convert("RGB"))
    assert kind == "MPO" or (shown == np.asarray(frames[2])).all()
    assert of(shown).array(array(stored)).pictures.keys() == {0}
    assert of(np.asarray(frames[3])).array(array(stored)).pictures == {}
    assert of(shown).array(array(stored[: len(stored) // 3])).pictures == {}  # cut off before it


@pytest.mark.parametrize("stream", [False, True])
def test_anybodys_table_loses_its_row_and_no_other(stream: bool, tmp_path: Path) -> None:
    file = tmp_path / "split=train" / "x.arrow"
    file.parent.mkdir()
    file.write_bytes(arrow(saved(scene(1)), stream))
    new = rewriting.without(file.read_bytes(), of(scene(1)).file(file).rows)
    assert new is not None
    left = (pa.ipc.open_stream if stream else pa.ipc.open_file)(new).read_all()
    assert left.to_pylist() == [{"image_id": "y", "image": None}]
    whole = pa.table({"image_id": ["x", "y"], "image": [{"path": "p" * 300, "bytes": saved(scene(n))} for n in (1, 2)]})
    file.write_bytes(parquet(whole))
    new = rewriting.without(file.read_bytes(), of(scene(1)).file(file).rows)
    assert new is not None
    assert pq.read_table(io.BytesIO(new)).equals(whole.slice(1))


def test_a_flat_picture_is_known_by_its_digests() -> None:
    """There is nothing in it to look for: its file and its pixels are compared as a whole."""
    flat = np.full((64, 64, 3), 255, np.uint8)
    flat[20:40, 20:40] = 200, 30, 30
    needles = Needles()
    needles.add_file(0, saved(flat, "BMP"))
    needles.add_pixels(0, "pixels", flat)
    needles.ready()
    search = Search(needles, [hashlib.sha256(saved(flat, "BMP")).hexdigest()], (1,), {pixel_digest(flat): 0})
    assert needles.found_in_others() == set()
    assert search.array(array(saved(flat, "BMP"))).pictures == {0: {"file", "pixels"}}
    assert search.array(array(saved(flat))).pictures == {0: {"pixels"}}
    assert search.array(array(saved(flat[::-1, ::2], "BMP"))).pictures == {}


def test_an_ingested_table_names_nobody_who_is_gone(tmp_path: Path) -> None:
    """The reason why a picture was moved names the picture of the same person that it follows."""
    pictures = {f"{seed}.png": ("train" if seed else "test", saved(scene(seed))) for seed in range(3)}
    ingested(tmp_path, pictures, identity={"0.png": "Ada", "1.png": "Ada"})
    file = tmp_path / "out" / "part-00000.parquet"
    before = pq.read_table(file).to_pylist()
    assert before[1]["reason"] == "moved from train to test: linked to 0.png"
    new = rewriting.without(file.read_bytes(), {0})
    assert new is not None
    after = pq.read_table(io.BytesIO(new)).to_pylist()
    assert after == [before[1] | {"reason": "moved from train to test"}, before[2]]


# Lists.


def test_lists_name_a_picture_in_any_column_and_any_spelling() -> None:
    text = b'identity,path\r\nAda,1.png\r\nBob,"a ""b"".png"\r\n"Eve\nMiller",2.png\r\nAda,3.png\r\n'
    gone = lists.lines(text, {"1.png", 'a "b".png', "2.png"})
    assert lists.without(text, gone) == b"identity,path\r\nAda,3.png\r\n"
    text = b"2\nmy photo.png 1 2\nphoto.png 3 4\n"
    assert lists.without(text, lists.lines(text, {"my photo.png"})) == b"1\nphoto.png 3 4\n"


def test_a_picture_of_the_same_name_in_another_folder_keeps_its_line(lab: Lab) -> None:
    (lab.home / "photos" / "b").mkdir()
    (lab.home / "photos" / "b" / "000.png").write_bytes(saved(scene(20)))
    with (lab.home / "photos" / "pictures.csv").open("a") as file:
        file.write("\nb/000.png,train,Bob\n")
    stones = (lab.home / "tombstones.txt").read_bytes()
    (lab.home / "tombstones.txt").write_bytes(b"\xff")  # stops it before anything is done
    with pytest.raises(InputError, match=r"tombstones.txt: cannot be read as UTF-8"):
        erased(lab, "photos/b/000.png")
    (lab.home / "tombstones.txt").write_bytes(stones)
    assert erased(lab, "photos/b/000.png") == []  # nobody has ingested it yet
    left = (lab.home / "photos" / "pictures.csv").read_text()
    assert "Bob" not in left
    assert "\n000.png,train,person 000.png\n" in left


# Git.


def test_a_stash_that_was_being_rewritten_is_whole_again(tmp_path: Path) -> None:
    """Killed between the two steps that Git needs; somebody has stashed something since."""
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("0")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    for number in range(3):
        (tmp_path / "a").write_text(f"{number + 1}")
        git(tmp_path, "stash", "push", "-qm", f"work {number}")
    before, one = git(tmp_path, "stash", "list", "--format=%gs").splitlines(), Git(tmp_path)
    notes = tmp_path / ".git" / "notes.json"
    every = [(commit, message) for commit, message in zip(git_objects.stashes(one), before, strict=True)]
    notes.write_text(json.dumps({"new": every, "replaced": {}}))
    git(tmp_path, "stash", "clear")
    git(tmp_path, "stash", "store", "-m", before[-1], every[-1][0])
    (tmp_path / "a").write_text("9")
    git(tmp_path, "stash", "push", "-qm", "since")
    git_objects.finish_stash(one, notes)
    assert git(tmp_path, "stash", "list", "--format=%gs").splitlines() == ["On master: since", *before]
    assert not notes.exists()


def test_what_is_to_be_done_about_git_spares_stashes_and_queued_experiments(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "a").write_text("0")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    for number in range(2):
        (tmp_path / "a").write_text(f"{number + 1}")
        git(tmp_path, "stash", "push", "-qm", f"work {number}")
        commit = git(tmp_path, "commit-tree", "HEAD^{tree}", "-m", f"queued {number}").strip()
        git(tmp_path, "update-ref", "--create-reflog", "-m", "queued", "refs/exps/stash", commit)
    (tmp_path / "look.png").write_bytes(saved(scene(1)))
    git(tmp_path, "add", "look.png")
    git(tmp_path, "commit", "-qm", "look")
    blob = git(tmp_path, "rev-parse", "HEAD:look.png").strip()
    git(tmp_path, "reset", "-q", "--hard", "HEAD~1")
    one = Git(tmp_path)
    assert blob not in git_objects.reachable(one)
    command = git_objects.UNREACHED.split("`")[1]
    subprocess.run(shlex.split(command), cwd=tmp_path, check=True, capture_output=True)
    assert git_objects.left(one, [blob]) == []
    assert len(git(tmp_path, "stash", "list").splitlines()) == 2
    assert len(git(tmp_path, "reflog", "refs/exps/stash").splitlines()) == 2


# All of it.


def test_odd_places(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links into the cache, a rejected picture, databases, a `.dvc` file alone, small crops on sheets, staged files."""
    for file in (lab.home / "data").rglob("*"):
        if file.is_file():
            kept = cache.place(lab.home, hashlib.md5(file.read_bytes()).hexdigest())
            file.unlink()
            file.symlink_to(kept)
    shutil.rmtree(lab.scratch)
    lab.scratch.mkdir()
    broken = saved(scene(31))[:2000]
    pictures = {"a.png": ("train", saved(scene(1))), "b.png": ("train", broken), "c.png": ("train", saved(scene(4)))}
    ingested(lab.scratch, pictures, identity={"a.png": "Ada", "b.png": "Ada", "c.png": "Bob"})
    shutil.copytree(lab.scratch / "root", lab.home / "more")
    lab.repository.folder("data/ingested/more", lab.scratch / "out")
    small = aligned(lab.scratch, 40)
    lab.repository.folder("data/aligned/more", small)
    lab.repository.commit()
    params = "datasets: {faces: {ingest: {root: photos}}, more: {ingest: {root: more}}}\n"
    (lab.home / "params.yaml").write_text(params)
    crops = pa.ipc.open_file(small / "train.arrow").read_all()
    crop = np.frombuffer(crops["pixels"][crops["path"].to_pylist().index("a.png")].as_py(), np.uint8)
    notes = lab.home / "notes ü #%20"
    notes.mkdir()
    (notes / "sheet\n.png").write_bytes(saved(np.repeat(np.repeat(crop.reshape(40, 40, 3), 3, 0), 3, 1)))
    for name, table in (("a.sqlite", "(k, x)"), ("b.db", "(k PRIMARY KEY, x) WITHOUT ROWID")):
        with sqlite3.connect(notes / name) as database:
            database.execute(f'CREATE TABLE "a b" {table}')
            values = [(1, page(saved(scene(1))).decode()), (2, "stays")]
            database.executemany('INSERT INTO "a b" VALUES (?, ?)', values)
    with sqlite3.connect(notes / "other.db") as database:
        database.execute("CREATE TABLE a (x)")
        database.executemany("INSERT INTO a VALUES (?)", [("y" * 4000,)] * 20)
        database.execute("DELETE FROM a WHERE rowid < 15")
    other = (notes / "other.db").read_bytes()
    (lab.home / "Ada at sea.png").write_bytes(saved(scene(1)))
    run = [sys.executable, "-m", "dvc", "add", "-q", "more", "Ada at sea.png"]
    subprocess.run(run, cwd=lab.home, check=True, capture_output=True)
    shutil.rmtree(lab.home / "more")  # not checked out
    (lab.home / "Ada.png").write_bytes(saved(scene(1), compress_level=2))
    lab.repository.git("add", "-f", "Ada.png")
    clone = lab.home / ".dvc" / "tmp" / "exps" / "x"
    lab.repository.git("clone", "-q", "--no-local", ".", str(clone))
    (clone / "params.yaml").write_text(page(saved(scene(1))).decode())
    git(clone, "stash", "push", "-q")
    state = lab.home.parent / "states" / "net-1"
    state.mkdir(parents=True)
    save_file({"seen": np.ones(crops.num_rows, bool)}, state / "state.safetensors")
    monkeypatch.setenv("PALIMPSEST_STATE", str(state.parent))

    assert erased(lab, identity="Ada") == []

    assert lab.showing({1, 6}) == []
    for name in ("a.sqlite", "b.db"):
        with sqlite3.connect(notes / name) as database:
            assert database.execute('SELECT * FROM "a b"').fetchall() == [(2, "stays")]
    assert (notes / "other.db").read_bytes() == other
    assert not (notes / "sheet\n.png").exists()
    tables = ["aligned/faces/test.arrow", "ingested/faces/part-00000.parquet", "models/read.members.arrow"]
    assert all((lab.home / "data" / name).is_file() for name in tables)
    assert not cache.place(lab.home, hashlib.md5(broken).hexdigest()).exists()
    assert not (lab.home / "Ada at sea.png.dvc").exists()
    listing = (lab.home / "more.dvc").read_text().split("md5: ")[1].split()[0]
    assert cache.listing(cache.place(lab.home, listing)).keys() == {"c.png", "pictures.csv"}
    (body,) = erasures.every(lab.home)
    remedies = {one["kind"]: one["remedy"] for one in body["notes"]["kept"]}
    assert remedies["Git"] == git_objects.IN_INDEX
    assert remedies["Git of another repository"] == git_objects.STASHED
    assert not state.exists()
    assert "Ada" not in json.dumps(body)


def test_what_is_asked_for_is_erased_also_after_another_that_was_interrupted(lab: Lab) -> None:
    with (lab.home / ".dvc" / "config").open("a") as file:
        file.write("['remote \"gone\"']\n    url = ssh://127.0.0.1:1/x\n")
    Journal(lab.home, [sha(1)]).begin(erase.seek(lab.home, [sha(1)], None, False))
    said: list[str] = []
    answer = erase.look(lab.home, [sha(5)], None, False, False, said.append)
    assert [one.image_id for one in answer.pictures] == [sha(5)]
    assert "1 pictures was interrupted" in said[0]
    left = erased(lab, sha(5))
    assert lab.showing({1, 5}) == []
    assert all(line.startswith("remote 'gone'") for line in left)
    assert [one.ids for one in pending(lab.home)] == [[sha(1)], [sha(5)]]  # as long as a remote cannot be searched
    assert [one.ids for one in erase.all_of(lab.home, [sha(1)[:8]], None, False, quiet)] == [[sha(5)], [sha(1)]]
    shutil.copy(lab.home / ".dvc" / "config", lab.home / "config")
    (lab.home / ".dvc" / "config").write_text((lab.home / "config").read_text().partition('[\'remote "gone"')[0])
    assert erased(lab) == []
    assert pending(lab.home) == []
    with pytest.raises(InputError, match="nothing to erase"):
        erased(lab)


def test_an_erasure_takes_turns_with_others_with_rebuilds_retrainings_and_studies(tmp_path: Path) -> None:
    """Also where DVC has not made its folder of locks yet."""
    git(tmp_path, "init", "-q")
    (tmp_path / ".dvc").mkdir()
    with turn.taken(tmp_path, quiet):
        own = tmp_path / ".dvc/tmp/palimpsest.lock"
        for file in (own, retrain_lock(tmp_path), study_lock(tmp_path), rebuild.lock_of(tmp_path)):
            assert file_lock.acquire(file) is None


@pytest.mark.parametrize(
    "notes",
    [{"pictures": "x"}, {"pictures": [{"image_id": 5}]}, {"checkpoints": [{"md5": [1]}]}, {"changed": ["x"]},
     {"changed": {"a" * 32: "../../x"}}, {"gone": [["x"]]}],
)  # fmt: skip
def test_a_strangers_record_of_an_erasure_that_makes_no_sense_is_none(notes: dict[str, object], tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    facts = {"inputs": {}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    record.write(tmp_path / record.home(), ERASED, facts, {"ended": "2026-11-27T10:00:00+00:00"})
    assert erasures.every(tmp_path) == []


def test_a_letter_rests_on_records_of_this_clone_or_on_signed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever can push a record could have a letter signed about an erasure that never was."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    git(tmp_path, "init", "-q")
    keys.new(tmp_path, "Grace", "")
    notes = {"pictures": [{"image_id": sha(1)}], "checkpoints": [], "changed": {}, "gone": []}
    facts = {"inputs": {}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    record.write(tmp_path / record.home(), ERASED, facts, {"ended": "2026-11-27T10:00:00+00:00"})
    assert len(erasures.known(tmp_path)) == 1
    keys.place().unlink()
    signatures.collect(tmp_path, None)
    shutil.rmtree(tmp_path / record.home())
    assert len(erasures.every(tmp_path)) == 1
    assert erasures.known(tmp_path) == []


def test_a_full_disk_is_one_line(lab: Lab) -> None:
    """Files may have 170 kB: DVC's own databases cannot be written, and nothing is begun."""
    before = lab.showing({1})
    code = (
        "import resource, signal, sys; from flows.cli import app\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (170_000, -1))\n"
        "sys.argv[0] = 'palimpsest'; app()\n"
    )
    words = [sys.executable, "-c", code, "audit", "erase", sha(1), "--purge", "--yes"]
    done = subprocess.run(words, cwd=lab.home, check=False, capture_output=True, text=True)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert pending(lab.home) == []
    assert lab.showing({1}) == before
