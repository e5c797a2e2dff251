"""What a user can get wrong: real command lines, really damaged files, real signals.

Always one line that names the file or key and the remedy, exit code 2, and the outputs as they were. Bad pictures
are proved in test_decode.py and test_ingest.py, each parameter's own range in its stage's file.
"""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forked
import numpy as np
import pretend
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pretend import NO_CHECKPOINT, NO_TABLE
from ruamel.yaml import YAML
from safetensors.numpy import save_file
from test_decode import bomb

from stages import align, blend, evaluate, infer, ingest, mask, report, search, train_dcgan
from stages.images import table
from stages.runs import command, params
from stages.runs.errors import InputError
from stages.runs.params import Runtime
from stages.training.device import prepare
from stages.training.distributed import DistributedContext
from stages.training.run import STATE, Inputs, Outputs

ROOT = Path(__file__).parents[2]
PIPELINE = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

INGEST = {"source": "folder", "root": "pictures", "use": "train", "split": {"val": 0.1, "test": 0.1}}
INGEST |= {"licence": "CC0-1.0", "consent": "not a person", "origin": "a test"}
SECTIONS: dict[str, Any] = {
    "runtime": {"device": "cpu", "threads": 1, "precision": "fp32"},
    "draw": {"count": 2, "side": 64, "seed": 1},
    "draw_shapes": {"x": {"count": 2, "side": 32, "seed": 1}},
    "datasets": {
        "x": {
            "ingest": INGEST,
            "align": {"mode": "centre", "side": 32, "detector": "annotations", "detector_model": "none"},
            "mask": {"seed": 7, "train_sample": 2, "kinds": {"centre": {}, "pixels": {}, "lines": {}}},
        }
    },
    "train_dcgan": {"x": {"dataset": "x", "steps": 1, "batch": 2, "width": 4}},
    "train_autoencoder": {"x": {"dataset": "x", "steps": 1, "batch": 2, "width": 2}},
    "train_partial_conv": {"x": {"dataset": "x", "steps": 1, "batch": 2, "width": 2}},
    "train_context_encoder": {"x": {"dataset": "x", "steps": 1, "batch": 2, "width": 2}},
    "train_dmfn": {"x": {"dataset": "x", "steps": 1, "batch": 2, "width": 4}},
    "search": {"x": {"model": "x", "dataset": "x", "iterations": 1, "starts": 2}},
    "infer": {"x": pretend.classical("nearest")},
    "blend": {"x": {"system": "x", "dataset": "x"}},
    "evaluate": {"lpips": "none", "perceptual_weights": "none", "bootstrap": 10, "seed": 1},
    "report": {"pictures": 2},
}


def body(stage: str) -> dict[str, Any]:
    return PIPELINE[stage].get("do", PIPELINE[stage])


def line(stage: str, home: Path, name: str = "x", **paths: Path) -> list[str]:
    """The stage's command with the options that dvc.yaml gives it: `paths`, or files of `home` named as the option."""
    options = re.findall(r"--([a-z-]+)", str(body(stage)["cmd"]))
    given = {option: paths.get(option.replace("-", "_"), home / option) for option in options}
    words = [f"--{option}={path}" for option, path in {"params": home / "params.yaml", **given}.items()]
    return [f"stages.{stage}", *([name] if "foreach" in PIPELINE[stage] else []), *words]


def environment(home: Path) -> dict[str, str]:
    return {**os.environ, "PALIMPSEST_RECORDS": str(home / "records"), "PYTHONPATH": str(home / "path")}


def spawned(words: list[str]) -> list[str]:
    """For a new interpreter, which is told of limits and groups of processes."""
    return [sys.executable, "-m", *words]


def run(words: list[str], home: Path) -> subprocess.CompletedProcess[str]:
    return forked.run(words[0], words[1:], ROOT, environment(home))


def said(done: subprocess.CompletedProcess[str]) -> str:
    """The one line."""
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1), done.stdout + done.stderr
    return done.stderr


def write_params(home: Path, sections: dict[str, Any] = SECTIONS) -> None:
    (home / "params.yaml").write_text(json.dumps(sections))


def changed(dotted: str, change: Callable[[Any], Any]) -> dict[str, Any]:
    """SECTIONS with another value at `dotted`."""
    sections = json.loads(json.dumps(SECTIONS))
    *way, last = dotted.split(".")
    node = sections
    for name in way:
        node = node[name]
    node[last] = change(node[last])
    return sections


# ---- parameters -------------------------------------------------------------------------------------------------

READ = [
    (stage, section.replace("${key}", "x"))
    for stage in PIPELINE
    for section in body(stage)["params"]
    if stage != "report" or section in ("report", "datasets", "search")
]


@pytest.mark.parametrize(("stage", "section"), READ, ids=lambda value: value)
def test_unknown_and_wrongly_typed_keys_of_every_section_of_every_stage(
    stage: str, section: str, tmp_path: Path
) -> None:
    if stage == "report" and section != "report":  # it reads the other stages' sections as they stand
        write_params(tmp_path, changed(section, lambda _: {"x": 3}))
        expected = {f"{section}.x"}
    else:
        key = next(iter(params.load(ROOT / "params.yaml")["runtime"] if section == "runtime" else _node(section)))
        write_params(tmp_path, changed(section, lambda values: {**values, "unheard_of": 1, key: ["no", "list"]}))
        expected = {f"unknown key '{section}.unheard_of'", f"{section}.{key}: "}
    words = line(stage, tmp_path)
    paths = [Path(word.partition("=")[2]) for word in words if word.startswith("--") and "params.yaml" not in word]
    for path in paths:
        path.write_text("what was there")
    message = said(run(words, tmp_path))
    assert "params.yaml" in message
    for part in expected:
        assert part in message
    assert {path.read_text() for path in paths} == {"what was there"}


def _node(dotted: str) -> Any:
    node = SECTIONS
    for name in dotted.split("."):
        node = node[name]
    return node


@pytest.mark.parametrize("stage", [stage for stage in PIPELINE if "foreach" in PIPELINE[stage]])
def test_a_name_that_params_has_not(stage: str, tmp_path: Path) -> None:
    write_params(tmp_path)
    message = said(run(line(stage, tmp_path, "y"), tmp_path))
    if stage == "evaluate":  # one section for all systems: the name is blend's
        assert "not found (--aligned)" in message
    else:
        assert re.search(r"no '[a-z_.]*\by'; there is: x", message)


def test_without_params_yaml(tmp_path: Path) -> None:
    message = said(run(line("draw", tmp_path), tmp_path))
    assert message == f"draw: {tmp_path}/params.yaml: not found; run from the project's root\n"


def test_a_device_that_is_not_here() -> None:
    for device in ("banana", "cuda:99"):
        with pytest.raises(InputError, match=rf"^params\.yaml: runtime\.device: {device}: .*\Z"):
            prepare(Runtime(device=device, threads=1))


# ---- pictures, through the command ---------------------------------------------------------------------------------


def test_every_odd_picture_is_kept_or_rejected_and_none_is_lost(tmp_path: Path) -> None:
    """The decoder's own tests are in test_decode.py; here each kind goes through the stage, next to the others."""
    root, colour = tmp_path / "root", Image.fromarray(pretend.picture(1, 40))
    root.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    for number, (name, mode) in enumerate({"grey": "L", "palette": "P", "cmyk": "CMYK", "alpha": "RGBA"}.items(), 2):
        kind = "tif" if mode == "CMYK" else "png"
        Image.fromarray(pretend.picture(number, 40)).convert(mode).save(root / f"{name}.{kind}")
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40) * 40).save(root / "16-bit.png")
    colour.crop((0, 0, 40, 30)).save(root / "turned.jpg", exif=exif)
    colour.save(root / "a name\nof two lines, Žofie 日本.png")
    whole = (root / "turned.jpg").read_bytes()
    (root / "cut.jpg").write_bytes(whole[:-100])  # behind its header
    (root / "empty.png").touch()
    (root / "text.jpg").write_text("I am no picture")
    (root / "bomb.png").write_bytes(bomb())
    colour.resize((1, 1)).save(root / "speck.png")
    colour.rotate(90).save(tmp_path / "elsewhere.png")
    (root / "link.png").symlink_to(tmp_path / "elsewhere.png")
    (tmp_path / "tombstones").touch()
    write_params(tmp_path)

    done = run(line("ingest", tmp_path), tmp_path)

    assert done.returncode == 0, done.stderr
    rows = {row["path"]: row for row in pq.read_table(tmp_path / "ingested").to_pylist()}
    assert set(rows) == {path.name for path in root.iterdir()}
    assert {path: row["reason"] for path, row in rows.items() if row["status"] == "rejected"} == {
        "cut.jpg": "truncated",
        "empty.png": "empty file",
        "text.jpg": "not a picture",
        "bomb.png": "too large: 30000 x 30000",
        "speck.png": "too small: 1 x 1",
        "link.png": "outside the root (symlink)",
    }
    assert (rows["turned.jpg"]["width"], rows["turned.jpg"]["height"]) == (30, 40)


# ---- files that are not what a stage expects ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every stage reads, whole, as data/ has it; each test puts back what it damages."""
    home = tmp_path_factory.mktemp("data")
    pretend.dataset(home, "x")
    pretend.system(home, "x", noise=20)
    (home / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(pretend.picture(number, 40)).save(home / "pictures" / f"{number}.jpg")
    for name in ("tombstones.txt", "no model"):
        (home / name).touch()
    pictures = params.build(ingest.Params, INGEST, "ingest")
    ingest.ingest(home / "pictures", home / "tombstones.txt", home / "ingested" / "x", pictures, "x")
    none = pa.table({"path": pa.array([], pa.string()), "reason": pa.array([], pa.string())})
    pq.write_table(none, home / "aligned" / "x" / "rejected.parquet")
    with table.writing_pictures(home / "aligned" / "x" / "train.arrow", (32, 32), table.ALIGNED) as writer:
        for number in range(10, 14):
            writer.append(pretend.picture(number, 32), *pretend.key(number), None, None)
    pretend.model(home, "x", {"network": "dcgan"})
    pretend.curves(home, "x")
    (home / "scores").mkdir()
    call("evaluate", home, home)
    for end in (".json", ".parquet", ".means.parquet"):
        shutil.move(home / f"scores{end}", home / "scores" / f"x{end}")
    return home


def call(stage: str, data: Path, out: Path) -> None:
    """The stage's function, on `data` and SECTIONS."""

    def built(kind: Any, dotted: str) -> Any:
        return params.section(SECTIONS, dotted, kind)

    aligned, masks, inpainted, blended = (data / room / "x" for room in ("aligned", "masks", "inpainted", "blended"))
    runtime = built(Runtime, "runtime")
    match stage:
        case "align":
            section = built(align.Params, "datasets.x.align")
            align.align(data / "ingested" / "x", data / "no model", out / "aligned", section, "x")
        case "mask":
            mask.mask(aligned, out / "masks", built(mask.Params, "datasets.x.mask"), "x")
        case "train_dcgan":
            inputs = Inputs(aligned / "train.arrow", NO_TABLE, NO_CHECKPOINT)
            outputs = Outputs(*(out / name for name in ("x.safetensors", "x.arrow", "x.csv", "samples")))
            section = built(train_dcgan.Params, "train_dcgan.x")
            train_dcgan.train_dcgan(DistributedContext(runtime), inputs, outputs, section, "x")
        case "search":
            model, section = data / "models" / "x.safetensors", built(search.Params, "search.x")
            search.search(model, aligned, masks, out / "inpainted", section, runtime, "x")
        case "infer":
            section = built(infer.Params, "infer.x")
            infer.infer(Path(section.checkpoint), aligned, masks, out / "inpainted", section, runtime, "x")
        case "blend":
            blend.blend(aligned, masks, inpainted, out / "blended", built(blend.Params, "blend.x"), "x")
        case "evaluate":
            section = built(evaluate.Params, "evaluate")
            outputs = (out / f"scores{end}" for end in (".json", ".parquet", ".means.parquet"))
            evaluate.evaluate(aligned, masks, inpainted, blended, *outputs, section, runtime, "x")
        case "report":
            sections = {name: SECTIONS[name] for name in ("datasets", "train_dcgan", "search", "infer", "blend")}
            sections |= {name: {} for name in SECTIONS if name.startswith("train_") and name != "train_dcgan"}
            rooms = (data / room for room in report.Folders._fields)
            report.report(*rooms, out / "report", built(report.Params, "report"), **sections, evaluate={})


TABLES = {  # what each stage reads of other stages
    "align": ["ingested/x/part-00000.parquet"],
    "mask": ["aligned/x/test.arrow", "aligned/x/train.arrow"],
    "train_dcgan": ["aligned/x/train.arrow"],
    "search": ["models/x.safetensors"],
    "infer": ["aligned/x/test.arrow", "aligned/x/train.arrow", "masks/x/test.arrow"],
    "blend": ["aligned/x/test.arrow", "masks/x/test.arrow", "inpainted/x/guide.arrow"],
    "evaluate": [
        *("aligned/x/test.arrow", "masks/x/test.arrow", "inpainted/x/completed.arrow", "blended/x/blended.arrow")
    ],
    "report": [
        *("ingested/x/part-00000.parquet", "aligned/x/rejected.parquet", "inpainted/x/completed.arrow"),
        *("inpainted/x/curves.parquet", "models/x.safetensors", "models/x.members.arrow", "scores/x.means.parquet"),
        "scores/x.parquet",
    ],
}


def another(path: Path) -> None:
    """A whole file of the same format that holds something else."""
    foreign = pa.table({"number": [1, 2]})
    match path.suffix:
        case ".parquet":
            pq.write_table(foreign, path)
        case ".safetensors":
            save_file({"a": np.zeros(3)}, path, metadata={"palimpsest": '{"network": "dcgan"}'})
        case _:
            kind = table.writing_pictures if "masks" in path.parts else table.writing_holes
            options = ({"number": pa.int64()},) if "masks" in path.parts else ()
            with kind(path, (32, 32), *options) as writer:
                writer.append(*((bytes(3072), 1) if "masks" in path.parts else (bytes(128), "a", "a", "centre", 0.5)))


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no table"),
    "half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "folder": folder,
    "another": another,
}


@pytest.mark.parametrize(("stage", "file"), [(stage, file) for stage in TABLES for file in TABLES[stage]])
def test_a_damaged_or_foreign_file_is_named(
    stage: str, file: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(STATE, str(tmp_path / "state"))
    path, kept = data / file, tmp_path / "kept"
    shutil.copy(path, kept)
    for damage, harm in DAMAGES.items():
        if stage == "report" and damage != "text":
            continue  # each page takes long, and there is one reader for each format
        out = tmp_path / damage
        out.mkdir()
        harm(path)
        try:
            with pytest.raises(InputError) as caught:
                call(stage, data, out)
        finally:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            shutil.copy(kept, path)
        message = str(caught.value)
        assert "\n" not in message
        assert path.name in message or str(path.parent) in message or f"{stage}.x" in message, message
        assert "run ingest" in message or "`dvc repro`" in message, message


def test_a_dataset_without_training_pictures_trains_nothing(data: Path, tmp_path: Path) -> None:
    """infer's mean and nearest: test_infer.py."""
    train, kept = data / "aligned" / "x" / "train.arrow", tmp_path / "kept"
    shutil.copy(train, kept)
    with table.writing_pictures(train, (32, 32), table.ALIGNED):
        pass
    with pytest.raises(InputError, match="no training pictures"):
        call("train_dcgan", data, tmp_path)
    shutil.copy(kept, train)


# ---- a machine that cannot ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home on whose Python path OpenCV is as on a bare server."""
    home = tmp_path_factory.mktemp("bare")
    (home / "path" / "cv2").mkdir(parents=True)
    (home / "path" / "cv2" / "__init__.py").write_text(
        "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')\n"
    )
    write_params(home, changed("infer.x.method", lambda _: "telea"))
    return home


@pytest.mark.parametrize("stage", ["draw", "align", "mask", "infer", "evaluate"])
def test_opencv_that_cannot_be_loaded_is_named_with_its_remedy(
    stage: str, bare: Path, data: Path, tmp_path: Path
) -> None:
    paths = {room: data / room / "x" for room in ("ingested", "aligned", "masks", "inpainted", "blended")}
    made = {"align": "aligned", "mask": "masks", "infer": "inpainted"}.get(stage)
    paths |= {"root": data / "pictures", "tombstones": data / "tombstones.txt", "detector_model": data / "no model"}
    paths |= {made: tmp_path / "out"} if made else {}
    paths |= {"checkpoint": ROOT / "stages" / "models" / "no_checkpoint.txt"} if stage == "infer" else {}
    message = said(run([*line(stage, tmp_path, **paths), f"--params={bare / 'params.yaml'}"], bare))
    assert "OpenCV cannot be loaded (libGL.so.1: cannot open" in message
    assert "apt-get install libgl1 libglib2.0-0" in message
    assert "pip install 'opencv-python-headless" in message
    assert not list(tmp_path.iterdir())


def test_what_needs_no_opencv_runs_without_it(bare: Path, data: Path, tmp_path: Path) -> None:
    paths = {room: data / room / "x" for room in ("aligned", "masks", "inpainted")}
    done = run([*line("blend", tmp_path, **paths), f"--params={bare / 'params.yaml'}"], bare)
    assert done.returncode == 0, done.stderr
    assert len(table.Table(tmp_path / "blended" / "blended.arrow")) == 12


def draw_many(home: Path, count: int) -> list[str]:
    write_params(home, changed("draw.count", lambda _: count))
    return line("draw", home)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """An output of an earlier run, which a failing stage must leave alone."""
    (tmp_path / "portraits").mkdir()
    (tmp_path / "portraits" / "old.png").write_text("old")
    return tmp_path


def untouched(home: Path, process: int | None = None) -> bool:
    """Whether the old output stands alone, and no scratch is left (of one process, or of any that is gone)."""
    scratch = ROOT / ".palimpsest" / "tmp"
    assert not list(scratch.glob(f"draw.{process}" if process else "none"))
    return [path.name for path in home.rglob("*.png")] == ["old.png"] and not list(home.rglob(".portraits*"))


def test_a_disk_that_is_full_leaves_what_was_there(old: Path) -> None:
    """A file of more than 2 kB cannot be written here; no portrait takes less."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, 2048))

    words = spawned(draw_many(old, 3))
    message = said(
        subprocess.run(words, cwd=ROOT, env=environment(old), capture_output=True, text=True, preexec_fn=limit)
    )
    assert re.search(r"^draw: .*File too large; make room or mend the permissions", message)
    assert untouched(old)


def test_a_disk_that_fills_up_while_outputs_are_moved_leaves_what_was_there(tmp_path: Path) -> None:
    """evaluate's second output cannot be placed: its first, which could, must not replace the old one."""
    home = tmp_path / "scores"
    home.mkdir()
    moves = {tmp_path / "a.json": home / "a.json", tmp_path / "b.parquet": home / "file" / "b.parquet"}
    for path in (*moves, home / "a.json", home / "file"):
        path.write_text("old" if path.parent == home else "new")
    with pytest.raises(FileExistsError):
        command._publish(moves)
    assert {path.name: path.read_text() for path in home.iterdir()} == {"a.json": "old", "file": "old"}


def test_an_output_that_cannot_be_is_named_before_the_work(old: Path) -> None:
    (old / "file").touch()
    message = said(run([*draw_many(old, 100_000), f"--portraits={old / 'file' / 'deep' / 'portraits'}"], old))
    assert message.startswith(f"draw: {old / 'file'}: a file, where ")
    assert untouched(old)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stage_that_is_stopped_leaves_what_was_there(number: signal.Signals, old: Path) -> None:
    words = spawned(draw_many(old, 100_000))
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    scratch = ROOT / ".palimpsest" / "tmp" / f"draw.{process.pid}"
    wait_for(lambda: list(scratch.rglob("*.png")), process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number]
    assert "Traceback" not in stderr
    assert untouched(old, process.pid)


def wait_for(happened: Callable[[], Any], process: subprocess.Popen[str], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not happened():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_aligns_worker_processes_end_with_it(number: signal.Signals, data: Path, tmp_path: Path) -> None:
    """Ctrl-C goes to the whole group, as a terminal sends it; SIGTERM to the stage alone."""
    shard = pq.read_table(data / "ingested" / "x")
    (tmp_path / "ingested").mkdir()
    pq.write_table(pa.concat_tables([shard] * 3000), tmp_path / "ingested" / "part-00000.parquet")
    write_params(tmp_path)
    words = spawned(line("align", tmp_path, detector_model=data / "no model"))
    process = subprocess.Popen(words, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    scratch = ROOT / ".palimpsest" / "tmp" / f"align@x.{process.pid}"
    # Its first rows are written when its workers work; the tracker of shared memory is a third child.
    wait_for(lambda: any(path.stat().st_size > 10_000 for path in scratch.rglob("*.arrow")), process)
    wait_for(lambda: len(children(process.pid)) == 3 and all(map(deaf, children(process.pid))), process)
    workers = children(process.pid)
    os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], stderr
    assert "Traceback" not in stderr
    assert not (tmp_path / "aligned").exists()
    assert not scratch.exists()
    end = time.monotonic() + 20
    while any(alive(worker) for worker in workers):
        assert time.monotonic() < end
        time.sleep(0.05)


def children(process: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{process}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, (task / "children").read_text().split())
    return found


def deaf(process: int) -> bool:
    """Whether Ctrl-C does not reach it: ignored or blocked, as a worker has it from its start."""
    masks = re.findall(r"Sig(?:Ign|Blk):\s*([0-9a-f]+)", Path(f"/proc/{process}/status").read_text())
    return any(int(mask, 16) >> (signal.SIGINT - 1) & 1 for mask in masks)


def alive(process: int) -> bool:
    try:
        return bool(Path(f"/proc/{process}/cmdline").read_bytes())  # empty where nobody has asked for its exit code
    except (FileNotFoundError, ProcessLookupError):
        return False
