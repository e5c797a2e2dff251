"""`palimpsest audit erase`: what is erased is in nothing that is left, and nothing else is touched."""

import base64
import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from ready_made import Repository, aligned, ingested

from flows.audit import image, verify
from flows.checkout.git import Git
from flows.erasure import erase, git_objects, lists, pictures, places, receipt, rewriting
from flows.erasure.contents import Search
from flows.erasure.needles import Needles
from flows.erasure.pictures import Person
from flows.lineage import cache, erasures, keys, signatures
from flows.lineage.records import ERASED
from flows.registry import decisions, history
from flows.registry.history import Decision
from stages.images import phash, table
from stages.images import withdrawn as tombstones
from stages.runs import record
from stages.runs.errors import InputError

SIDE = 64


def scene(seed: int) -> np.ndarray:
    """A smooth picture that no other one looks like, uint8 SIDE x SIDE x 3."""
    coarse = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), np.uint8)
    return np.array(Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def saved(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **options)
    return stream.getvalue()


def of(*pictures: np.ndarray) -> Search:
    """A search for these pictures, by their files and pixels."""
    needles = Needles()
    for number, pixels in enumerate(pictures):
        needles.add_file(number, saved(pixels))
        needles.add_pixels(number, "crop", pixels)
    needles.ready()
    return Search(needles, [hashlib.sha256(saved(pixels)).hexdigest() for pixels in pictures], (1, 2))


def array(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


# Finding.


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 5000), st.integers(0, SIDE - 12), st.integers(0, SIDE - 16), st.booleans())
def test_a_part_of_a_picture_is_found_at_any_place_of_any_bytes(at: int, y: int, x: int, mirrored: bool) -> None:
    """The visible part of a hole of 12 x 16 pixels is enough, and no other picture is taken for it."""
    pixels, others = scene(1), [scene(seed) for seed in range(2, 8)]
    part = pixels[y : y + 12, x : x + 16][:, :: -1 if mirrored else 1]
    sheet = np.zeros((SIDE, SIDE, 3), np.uint8)
    sheet[y : y + 12, x : x + 16] = part
    search = of(pixels)
    around = np.concatenate([other.reshape(-1) for other in others])
    data = np.concatenate([around[:at], sheet.reshape(-1), around[at:]])
    assert search.array(data).pictures.keys() == {0}
    assert search.array(around).pictures == {}


def zipped(data: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", data)
    return stream.getvalue()


def tarred(data: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        archive.addfile((lambda info: setattr(info, "size", len(data)) or info)(tarfile.TarInfo("a")), io.BytesIO(data))
    return stream.getvalue()


def page(data: bytes) -> bytes:
    return f'<img src="data:image/png;base64,{base64.b64encode(data).decode()}">'.encode()


def database(data: bytes) -> bytes:
    with sqlite3.connect(":memory:") as one:
        one.execute('CREATE TABLE "a b" (x, y)')
        one.execute('INSERT INTO "a b" VALUES (1, ?)', [page(data).decode()])
        one.commit()
        return one.serialize()


def parquet(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"image_id": ["x"], "image": [{"bytes": data, "path": "p"}]}), sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def batch(data: bytes) -> bytes:
    """As CIFAR-10 keeps pictures: the colours one after the other."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return b"\0" * 77 + pixels.transpose(2, 0, 1).tobytes()


def bgr(data: bytes) -> bytes:
    """As OpenCV keeps pictures in memory: blue first."""
    pixels = np.asarray(Image.open(io.BytesIO(data)).resize((SIDE, SIDE), Image.Resampling.NEAREST))
    return b"\0" * 77 + pixels[..., ::-1].tobytes()


@pytest.mark.parametrize(
    "kept",
    [lambda data: data, zipped, tarred, gzip.compress, page, database, parquet, batch, bgr,
     lambda data: zipped(tarred(page(data)))],
    ids=["file", "zip", "tar.gz", "gz", "page", "database", "parquet", "planes", "BGR", "one in the other"],
)  # fmt: skip
@pytest.mark.parametrize("again", [lambda pixels: saved(pixels), lambda pixels: saved(pixels, compress_level=1),
                                   lambda pixels: saved(np.repeat(np.repeat(pixels, 2, 0), 2, 1))],
                         ids=["same file", "packed anew", "twice as large"])  # fmt: skip
def test_it_is_found_inside_of_whatever_keeps_it(
    kept: Callable[[bytes], bytes], again: Callable[[np.ndarray], bytes]
) -> None:
    search = of(scene(1))
    assert search.array(array(kept(again(scene(1))))).pictures.keys() == {0}
    assert search.array(array(kept(again(scene(2))))).pictures == {}


def test_what_other_pictures_have_too_is_not_looked_for() -> None:
    """Two pictures before one curtain."""
    curtain, one, other = scene(1), scene(2), scene(3)
    one[: SIDE // 2] = other[: SIDE // 2] = curtain[: SIDE // 2]
    search = of(one)
    assert search.array(array(other.tobytes())).pictures.keys() == {0}
    search._needles.drop(other.reshape(-1))
    assert search.array(array(other.tobytes())).pictures == {}
    assert search.array(array(one.tobytes())).pictures.keys() == {0}


def test_tables_without_rows_are_those_that_stages_write_without_the_pictures(tmp_path: Path) -> None:
    """Ingested, aligned: byte for byte."""
    pictures = {f"{seed}.png": ("train", saved(scene(seed))) for seed in range(5)}
    for name, some in (("all", pictures), ("fewer", {k: v for k, v in pictures.items() if k != "3.png"})):
        (tmp_path / name).mkdir()
        ingested(tmp_path / name, some)
        aligned(tmp_path / name)
    for inside in ("out/part-00000.parquet", "aligned 64/train.arrow"):
        before, after = (tmp_path / name / inside for name in ("all", "fewer"))
        assert rewriting.without(before.read_bytes(), {3}) == after.read_bytes()
        assert rewriting.without(before.read_bytes(), set()) == before.read_bytes()
        assert rewriting.without(before.read_bytes(), set(range(5))) is None


def test_lists_lose_the_lines_of_pictures_alone(tmp_path: Path) -> None:
    text = b'3\nname x\n1.png 7\n"a, b.png",8\n11.png 9\n'
    gone = lists.lines(text, {"1.png", "a, b.png"})
    assert lists.without(text, gone) == b"1\nname x\n11.png 9\n"


# Git.


def git(home: Path, *words: str) -> str:
    identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
    return subprocess.run(["git", *identity, *words], cwd=home, check=True, capture_output=True, text=True).stdout


def test_stashes_lose_a_blob_and_nothing_else(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q")
    (tmp_path / "code.py").write_text("a = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-qm", "all")
    for number in range(3):
        (tmp_path / "code.py").write_text(f"a = {number + 2}\n")
        (tmp_path / "new").mkdir()
        (tmp_path / "new" / f"{number}.txt").write_text(f"thought {number}\n")
        if number == 1:
            (tmp_path / "new" / "look.png").write_bytes(saved(scene(1)))
        git(tmp_path, "stash", "push", "-q", "--include-untracked", "-m", f"work {number}")
    before = git(tmp_path, "stash", "list").splitlines()
    one = Git(tmp_path)
    (sha,) = (blob.sha for blob, data in git_objects.blobs(one) if data == saved(scene(1)))
    old = git_objects.stashes(one)
    git_objects.rewrite_stash(one, {sha}, tmp_path / ".git" / "notes.json")
    assert git_objects.left(one, [sha]) == []
    assert git(tmp_path, "stash", "list").splitlines() == before
    new = git_objects.stashes(one)
    assert [a == b for a, b in zip(old, new, strict=True)] == [True, False, True]
    for number in range(3):
        shown = git(tmp_path, "stash", "show", "--include-untracked", "-p", f"stash@{{{2 - number}}}")
        assert f"thought {number}" in shown
        assert f"a = {number + 2}" in shown
        assert "look.png" not in shown
    assert "missing" not in git(tmp_path, "fsck", "--full")


# All of it.


class Lab:
    """A repository with photos of two people, a training that has read them, a remote and a page."""

    def __init__(self, folder: Path) -> None:
        self.home = folder / "project"
        self.scratch = folder / "scratch"
        self.scratch.mkdir()
        self.pictures = {f"{seed:03}.png": ("train" if seed < 6 else "test", saved(scene(seed))) for seed in range(8)}
        people = {name: "Ada" if name in ("001.png", "006.png") else f"person {name}" for name in self.pictures}
        self.repository = Repository(self.home)
        self.rows = ingested(self.scratch, self.pictures, identity=people)
        shutil.copytree(self.scratch / "root", self.home / "photos")
        (self.home / ".gitignore").write_text("/photos\n/data\n/.palimpsest\n/.dvc/cache\n/.dvc/tmp\n")
        remote = f'[\'remote "store"\']\n    url = "{folder}/store"\n'
        (self.home / ".dvc" / "config").write_text(f"[core]\n    remote = store\n{remote}")
        (self.home / "tombstones.txt").write_text("# none yet\n")
        (self.home / "params.yaml").write_text("datasets: {faces: {ingest: {root: photos}}}\n")
        for path, made in (
            ("data/ingested/faces", self.scratch / "out"),
            ("data/aligned/faces", aligned(self.scratch)),
        ):
            self.repository.folder(path, made)
            shutil.copytree(made, self.home / path)
        self.repository.training("read", [data for split, data in self.pictures.values() if split == "train"])
        self.repository.training("never", [data for name, (split, data) in self.pictures.items() if name == "000.png"])
        sheet = np.concatenate([scene(seed) for seed in range(4)], 1)
        self.repository.keep("data/samples/sheet.png", saved(sheet))
        other = np.concatenate([scene(seed) for seed in (2, 3, 4)], 1)
        self.repository.keep("data/samples/other.png", saved(other))
        for path, md5 in self.repository.outs.items():
            if not (self.home / path).exists():
                (self.home / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(cache.place(self.home, md5), self.home / path)
        self.repository.git("add", "-A")
        self.repository.commit()
        self.store = folder / "store"
        shutil.copytree(self.home / ".dvc/cache/files", self.store / "files")

    def files(self) -> Iterator[Path]:
        for top in (self.home, self.store):
            yield from (file for file in sorted(top.rglob("*")) if file.is_file() and ".git" not in file.parts)

    def showing(self, seeds: set[int]) -> list[Path]:
        """The files that have one of these pictures, by another search: every row of 16 pixels of it, decoded."""
        pieces = {scene(seed)[y, 8:24].tobytes() for seed in seeds for y in range(0, SIDE, 3)}
        ids = {hashlib.sha256(saved(scene(seed))).hexdigest() for seed in seeds}
        return [file for file in self.files() if _shows(file.read_bytes(), pieces, ids)]


def _shows(data: bytes, pieces: set[bytes], ids: set[str]) -> bool:
    if data[:6] == b"ARROW1":
        rows = pa.ipc.open_file(data).read_all()
        return bool(ids & set(rows["image_id"].to_pylist())) or any(piece in data for piece in pieces)
    if data[:4] == b"PAR1":
        rows = pq.read_table(io.BytesIO(data)).to_pylist()
        return any(row["image_id"] in ids for row in rows)
    if data[:4] == b"\x89PNG":
        data = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tobytes()
    return any(piece in data for piece in pieces)


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cached"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("PALIMPSEST_WORKSPACES", str(tmp_path / "workers"))
    made = Lab(tmp_path)
    monkeypatch.chdir(made.home)
    return made


def quiet(_: str) -> None:
    """Nobody listens."""


def test_a_person_is_taken_out_of_everything_and_nothing_else_is(lab: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    before = {file: file.read_bytes() for file in lab.files()}
    showing = lab.showing({1, 6})
    assert len(showing) == 14
    faults = verify.ask(lab.home).faults  # this repository was made without stages, and has some
    answer = erase.look(lab.home, [], Person("Ada"), False, False, quiet)
    assert {file: file.read_bytes() for file in before if file.exists()} == before  # it has only looked
    assert {path for one in answer.pictures for _, path in one.names} == {"001.png", "006.png"}
    assert answer.datasets == {"faces": 2}
    assert [each.path for each in answer.checkpoints] == ["data/models/read.safetensors"]

    wanted = erase.seek(lab.home, [], Person("Ada"), False)
    done = erase.do(lab.home, wanted, False, quiet)

    assert done.left == []
    assert lab.showing({1, 6}) == []
    untouched = set(before) - set(showing)
    for file in untouched:
        names = ("photos/pictures.csv", "tombstones.txt", "read.safetensors", "never.safetensors")
        if file.name.endswith(".dir") or str(file).endswith(names):
            continue
        if before[file] == before.get(lab.home / "data/models/read.safetensors"):
            assert not file.exists()
            continue
        assert file.read_bytes() == before[file], file
    assert (lab.home / "data/models/never.safetensors").exists()
    assert not (lab.home / "data/models/read.safetensors").exists()
    left = (lab.home / "photos/pictures.csv").read_text().splitlines()
    assert len(left) == 1 + 6
    assert not any("Ada" in line for line in left)
    # The table that stays is that of a folder that never had them.
    shutil.rmtree(lab.scratch)
    lab.scratch.mkdir()
    people = {name: f"person {name}" for name in lab.pictures}
    ingested(lab.scratch, {k: v for k, v in lab.pictures.items() if k not in ("001.png", "006.png")}, identity=people)
    part = lab.home / "data/ingested/faces/part-00000.parquet"
    assert part.read_bytes() == (lab.scratch / "out/part-00000.parquet").read_bytes()
    # What is refused from now on.
    stones = tombstones.read(lab.home / "tombstones.txt")
    mirrored = phash.hashes(np.ascontiguousarray(scene(1)[:, ::-1]))
    assert stones.near([mirrored, phash.hashes(scene(2))])[1] is None
    assert stones.near([mirrored])[0] is not None
    # Later questions.
    sha = hashlib.sha256(saved(scene(1))).hexdigest()
    (asked,) = image.ask(lab.home, sha).pictures
    assert asked.erased
    assert [one.split()[0] for one in asked.erased.checkpoints] == ["data/models/read.safetensors"]
    assert not asked.uses
    left = image.ask(lab.home, str(lab.home / "photos" / "000.png"))
    assert left.rewritten == 3  # a list, an ingested and an aligned table
    image.show(left)
    shown = " ".join(capsys.readouterr().out.split())
    assert "pictures were erased from 3 lists and tables: what is left was searched" in shown
    assert "compared with recorded 6 pictures of 1 ingested table" in shown
    assert [fault for fault in verify.ask(lab.home).faults if fault not in faults] == []
    text = json.dumps(erasures.every(lab.home))
    assert "Ada" not in text
    assert "001.png" not in text
    with pytest.raises(InputError, match="nobody of this name"):
        erase.look(lab.home, [], Person("Ada"), False, False, quiet)
    with pytest.raises(InputError, match=f"{sha[:12]}: was erased on 2"):
        erase.look(lab.home, [sha[:12]], None, False, False, quiet)
    (lab.home.parent / "it.png").write_bytes(saved(scene(1)))
    assert erase.look(lab.home, [str(lab.home.parent / "it.png")], None, False, False, quiet).held == []
    assert not (lab.home / places.STATE).exists()


def completed(folder: Path, file: str, *pictures: np.ndarray) -> None:
    """A table of two completed pictures, of two people."""
    folder.mkdir(exist_ok=True)
    with table.writing_pictures(folder / f"{file}.arrow", (SIDE, SIDE), table.COMPLETED) as writer:
        for name, pixels in zip("xy", pictures, strict=True):
            writer.append(pixels, name * 64, f"{name}.png", "lines", "test")


@pytest.mark.parametrize("name", ["nearest", "softly"])
def test_a_hole_that_was_filled_from_a_picture_goes_however_narrow_it_is(lab: Lab, name: str) -> None:
    """As the nearest neighbour fills it: its guide is the whole picture; of that, lines of four pixels are seen.

    Its blended pictures go, too, whatever the name of the entry of `blend`.
    """
    filled = scene(20)
    for x in range(0, SIDE, 12):
        filled[:, x : x + 4] = scene(1)[:, x : x + 4]
    brighter = np.clip(filled.astype(int) + 20, 0, 255).astype(np.uint8)
    for folder, files in {"inpainted": {"guide": scene(1), "completed": filled}, name: {"blended": brighter}}.items():
        for file, pixels in files.items():
            completed(lab.scratch / folder, file, pixels, scene(30 + len(file)))
    lab.repository.folder("data/inpainted/nearest", lab.scratch / "inpainted")
    lab.repository.blended(name, "nearest", lab.scratch / name)
    lab.repository.commit()
    shutil.copytree(lab.home / ".dvc/cache/files", lab.store / "files", dirs_exist_ok=True)
    sha = hashlib.sha256(saved(scene(1))).hexdigest()
    done = erase.do(lab.home, erase.seek(lab.home, [sha], None, False), False, quiet)
    assert done.left == []
    tables = [table.Table(file) for file in lab.files() if file.read_bytes()[:6] == b"ARROW1" and _kinds(file)]
    assert len(tables) == 6  # here and on the remote
    assert {name[0] for one in tables for name in one.column("image_id")} == {"y"}


def _kinds(file: Path) -> bool:
    return "kind" in pa.ipc.open_file(file.read_bytes()).schema.names


def test_what_others_may_use_stays_unless_it_is_said(lab: Lab, tmp_path: Path) -> None:
    shared = tmp_path / "shared cache"
    (lab.home / ".dvc/cache").rename(shared)
    with (lab.home / ".dvc/config").open("a") as file:
        file.write(f'[cache]\n    dir = "{shared}"\n')
    before = {file: file.read_bytes() for file in shared.rglob("*") if file.is_file()}
    sha = hashlib.sha256(saved(scene(1))).hexdigest()
    done = erase.do(lab.home, erase.seek(lab.home, [sha], None, False), False, quiet)
    assert {file for file in before if not file.exists()} == set()
    assert any("--shared removes it there, too" in one["remedy"] for one in done.kept)
    (lab.home.parent / "it.png").write_bytes(saved(scene(1)))  # its row is in no table any more
    again = erase.seek(lab.home, [str(lab.home.parent / "it.png")], None, False)
    done = erase.do(lab.home, again, True, quiet)
    assert not any("--shared" in one["remedy"] for one in done.kept)
    assert len([file for file in before if not file.exists()]) > 5


def test_an_erasure_that_is_killed_goes_on(lab: Lab) -> None:
    """Killed for real, again and again, at another moment each time; the last run ends it."""
    sha = hashlib.sha256(saved(scene(1))).hexdigest()
    code = (
        "import os, signal, sys; from pathlib import Path; from flows.erasure import erase, turn\n"
        "root = Path.cwd(); quiet = lambda _: None; sha, gone, *cached = sys.argv[1:]\n"
        "def kill(event, _):\n"
        "    if event == 'os.remove' and sum(not Path(file).exists() for file in cached) >= int(gone):\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "with turn.taken(root, quiet):\n"
        "    sys.addaudithook(kill)\n"
        "    erase.do(root, erase.seek(root, [sha], None, False), False, quiet)\n"
    )
    cached = [str(file) for file in lab.showing({1}) if ".dvc" in file.parts]
    for gone in (1, 3):
        words = [sys.executable, "-c", code, sha, str(gone), *cached]
        environment = {**os.environ, "PYTHONPATH": str(Path(erase.__file__).parents[2])}
        assert subprocess.run(words, env=environment, check=False).returncode == -signal.SIGKILL
        assert sum(not Path(file).exists() for file in cached) >= gone
    (wanted,) = erase.all_of(lab.home, [], None, False, quiet)
    done = erase.do(lab.home, wanted, False, quiet)
    assert done.left == []
    assert lab.showing({1}) == []
    assert (lab.home / "tombstones.txt").read_text().count(sha) == 1
    assert not (lab.home / places.STATE).exists()


def test_the_receipt_says_what_was_done_and_is_signed(lab: Lab) -> None:
    letter = lab.home.parent / "letter.md"
    with pytest.raises(InputError, match="you have no key yet"):
        receipt.check(lab.home, letter, None)
    keys.new(lab.home, "Grace", "")
    receipt.check(lab.home, letter, "")
    sha = hashlib.sha256(saved(scene(1))).hexdigest()
    with pytest.raises(InputError, match="no record says that this picture was erased"):
        receipt.write(lab.home, [sha], None, letter, "", quiet)
    erase.do(lab.home, erase.seek(lab.home, [sha], None, False), False, quiet)
    receipt.write(lab.home, [sha], None, letter, "", quiet)
    text = letter.read_text()
    assert f"`{sha}`" in text
    assert "Nothing of yours is left there." in text
    assert "`read` (digest" in text
    assert "It was not trained anew yet." in text
    assert "Ada" not in text
    payload = json.loads(
        base64.b64decode(json.loads(letter.with_name("letter.md.sig").read_text())["dsseEnvelope"]["payload"])
    )
    assert payload["predicate"]["resources"][0]["digest"] == hashlib.sha256(text.encode()).hexdigest()
    letter.write_text("something else")
    with pytest.raises(InputError, match="exists, and is no receipt"):
        receipt.check(lab.home, letter, "")


def test_a_forged_erasure_hides_no_fault(lab: Lab) -> None:
    """Whoever alters a file, and writes a record that it was an erasure: where signatures count, it has none."""
    keys.new(lab.home, "Grace", "")
    file = lab.home / "data/models/never.members.arrow"
    old = hashlib.md5(file.read_bytes()).hexdigest()
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    new = hashlib.md5(file.read_bytes()).hexdigest()
    cache.place(lab.home, old).unlink()
    notes = {"pictures": [], "checkpoints": [], "changed": {old: new}, "gone": []}
    facts = {"inputs": {}, "outputs": {}, "params": {}, "environment": {}, "notes": notes}
    record.write(lab.home / record.home(), ERASED, facts, {"ended": "2026-11-27T10:00:00+00:00"})
    path = "data/models/never.members.arrow"

    def found() -> tuple[list[str], cache.FoundTable | None]:
        erasures.replaced.cache_clear()
        return [fault.file for fault in verify.ask(lab.home).faults], cache.find_table(lab.home, old, path)

    faults, there = found()
    assert path in faults
    assert there is None
    signatures.collect(lab.home, "")  # Grace vouches for it
    faults, there = found()
    assert path not in faults
    assert there == (file, True)


def test_bad_names_are_one_line_each(lab: Lab, tmp_path: Path) -> None:
    def refused(*asked: str) -> str:
        with pytest.raises(InputError) as caught:
            erase.look(lab.home, asked, None, False, False, quiet)
        return str(caught.value)

    assert "name at least 6 digits" in refused("abc")
    assert "neither a file nor the sha256" in refused("portrait.png")
    assert "no picture with this sha256" in refused("0" * 64)
    (tmp_path / "stranger.png").write_bytes(saved(scene(99)))
    assert "never taken in" in refused(str(tmp_path / "stranger.png"))
    assert "nothing to erase" in refused()


def test_a_prefix_that_fits_several_is_named() -> None:
    rows = [pictures.Row("x", f"abcdef{digit}" + "0" * 57, None, None, None, None, Path()) for digit in "12"]
    with pytest.raises(InputError, match=r"abcdef: fits 2 pictures \(abcdef1000, abcdef2000 \.\.\.\)"):
        pictures.find(Path(), ["abcdef"], None, False, rows)


def test_one_name_in_two_datasets_may_be_that_of_two_people() -> None:
    def row(dataset: str, image_id: str) -> pictures.Row:
        return pictures.Row(dataset, image_id, f"{image_id}.png", None, "7", None, Path())

    known = [row("dogs", "c"), row("faces", "a"), row("faces", "b"), row("small", "b")]
    with pytest.raises(InputError) as caught:
        pictures.of_person(Person("7"), known)
    assert str(caught.value) == (
        "--identity 7: several datasets have this name, maybe of different people: dogs (1 pictures), faces (2 "
        "pictures), small (1 pictures); choose one with --dataset"
    )
    assert pictures.of_person(Person("7", "faces"), known) == {"faces": {"a", "b"}}
    assert pictures.of_person(Person("7"), known[1:]) == {"faces": {"a", "b"}, "small": {"b"}}  # one picture is in both
    with pytest.raises(InputError, match="--identity 7: nobody of this name is in dataset cats that Git knows here"):
        pictures.of_person(Person("7", "cats"), known)
    found = pictures.find(Path(), [], Person("7", "dogs"), True, known)
    assert [one.image_id for one in found] == ["c"]


def test_a_withdrawn_promotion_stands_no_more_and_is_never_returned_to(lab: Lab) -> None:
    for key, value in {"user.name": "Ada", "user.email": "ada@example.org"}.items():
        lab.repository.git("config", key, value)
    git_ = Git(lab.home)
    for md5 in ("a" * 32, "b" * 32, "c" * 32):
        log = history.read(git_)
        head = git_.commit("HEAD")
        assert head
        decision = Decision("promoted", "better", "dcgan", "net", "data/models/net.safetensors", md5, head)
        decisions.record(git_, git_("rev-parse", "HEAD^{tree}"), decision, log, head)
        decisions.settle(lab.home)
    assert len(decisions.withdraw(lab.home, {"c" * 32, "a" * 32}, "erased")) == 2
    now = history.current(lab.home)
    assert now
    assert now.md5 == "b" * 32
    with pytest.raises(InputError, match="no other promotion stands"):
        decisions.rollback(lab.home)
    assert decisions.withdraw(lab.home, {"c" * 32}, "erased") == []
    decisions.withdraw(lab.home, {"b" * 32}, "erased")
    assert history.current(lab.home) is None
