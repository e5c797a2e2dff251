"""A small laboratory for the audit: real tables, checkpoints, records and locks, made by `dvc repro` in seconds."""

import json
import shutil
import subprocess
from pathlib import Path

from dvc_project import ENV, Project, command, dvc, end

IDENTITY = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]

# Pictures whose names begin with r are rejected, with t they are for tests; a training reads the others.
STAGE = """
import json, sys
from hashlib import sha256
from pathlib import Path
import numpy, pyarrow, pyarrow.parquet, yaml
from safetensors.numpy import save_file
from stages.images import table
from stages.runs import record

label, source, start, *outs = sys.argv[1:]
outs = [Path(out) for out in outs]
values = yaml.safe_load(Path("params.yaml").read_text())
source = Path(source)
for out in outs:
    out.parent.mkdir(parents=True, exist_ok=True)
stage, _, name = label.partition("@")
if stage == "ingest":
    files = sorted(source.iterdir())
    kinds = [file.name[0] for file in files]
    outs[0].mkdir()
    pyarrow.parquet.write_table(pyarrow.table({
        "image_id": [sha256(file.read_bytes()).hexdigest() for file in files],
        "path": [file.name for file in files],
        "status": ["rejected" if kind == "r" else "kept" for kind in kinds],
        "split": pyarrow.array([{"r": None, "t": "test"}.get(kind, "train") for kind in kinds], pyarrow.string()),
    }), outs[0] / "part-00000.parquet")
elif stage == "align":
    rows = pyarrow.parquet.read_table(source / "part-00000.parquet").to_pylist()
    outs[0].mkdir()
    for split in ("train", "test"):
        with table.writing_pictures(outs[0] / f"{split}.arrow", (4, 4), table.ALIGNED) as writer:
            for row in rows:
                if row["split"] == split:
                    pixels = numpy.full((4, 4, 3), len(row["path"]), numpy.uint8)
                    writer.append(pixels, row["image_id"], row["path"], [1.0, 0, 0, 0, 1, 0], None)
elif stage == "train_net":
    keys = table.Table(source).keys()
    rows = pyarrow.table({"image_id": [key[0] for key in keys], "path": [key[1] for key in keys]})
    with pyarrow.OSFile(str(outs[1]), "wb") as sink, pyarrow.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    params = values["train_net"][name]
    inputs = {"network": "net", "params": params, "data": record.digest(source), "members": record.digest(outs[1]),
              "start": record.digest(Path(start)) if start.endswith(".safetensors") else None}
    weights = numpy.frombuffer(json.dumps([label, inputs]).encode(), numpy.uint8)
    save_file({"w": weights}, str(outs[0]), {"palimpsest": record.canonical(inputs)})
else:
    outs[0].write_text(json.dumps({"score": len(source.read_bytes())}))
sections = {"ingest": f"datasets.{name}.ingest", "align": f"datasets.{name}.align", "train_net": f"train_net.{name}"}
params = values
for key in sections.get(stage, "evaluate").split("."):
    params = params[key]
record.write(record.home(), label, {
    "inputs": {str(path): record.digest(Path(path)) for path in (source, start)},
    "outputs": {str(out): record.digest(out) for out in outs},
    "params": {sections.get(stage, "evaluate"): params},
    "code": "none", "environment": record.environment(),
}, {"started": "2026-11-27T10:00:00+00:00", "ended": "2026-11-27T10:00:01+00:00", "seconds": 1, "peak_memory_mib": 9})
"""

NONE = "none.txt"  # stands for no checkpoint to start from


def _stage(label: str, source: str, start: str, outs: list[str], params: list[str], **more: object) -> dict:
    words = " ".join([label, source, start, *outs])
    return {
        "cmd": f"python stage.py {words}",
        "deps": ["stage.py", source, start],
        "params": params,
        "outs": outs,
        **more,
    }


def _train(name: str, start: str) -> dict:
    outs = [f"data/models/{name}.safetensors", f"data/models/{name}.members.arrow"]
    return _stage(f"train_net@{name}", "data/aligned/faces/train.arrow", start, outs, [f"train_net.{name}"])


STAGES = {
    "ingest": {
        "foreach": ["faces"],
        "do": _stage("ingest@faces", "pictures", NONE, ["data/ingested/faces"], ["datasets.faces.ingest"]),
    },
    "align": {
        "foreach": ["faces"],
        "do": _stage("align@faces", "data/ingested/faces", NONE, ["data/aligned/faces"], ["datasets.faces.align"]),
    },
    "train_net": {
        "foreach": {"net": NONE, "more": "data/models/net.safetensors"},
        "do": json.loads(json.dumps(_train("${key}", "${item}"))),
    },
    "evaluate": {
        "foreach": ["net"],
        "do": _stage("evaluate@net", "data/models/net.safetensors", NONE, [], ["evaluate"]),
    },
}
STAGES["evaluate"]["do"]["cmd"] += " data/scores/net.json"
STAGES["evaluate"]["do"]["metrics"] = [{"data/scores/net.json": {"cache": False}}]

PARAMS = {
    "datasets": {"faces": {"ingest": {"use": "train"}, "align": {"side": 4}}},
    "train_net": {"net": {"lr": 0.5, "steps": 3}, "more": {"lr": 0.5, "steps": 1}},
    "evaluate": {"seed": 1},
}


class Laboratory:
    """Two commits: of pictures a, b, r, t; then with c, without b, another lr, another size and other code.

    `bare.safetensors` beside it is the first commit's checkpoint.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.old = home.parent / "bare.safetensors"

    @property
    def commits(self) -> list[str]:
        return self.git("log", "--reverse", "--format=%H").split()

    def copy(self, to: Path) -> None:
        """Its folder, to be altered. Other processes may ask here, and write what they remember."""
        drafts = shutil.ignore_patterns(".digests.json.*", ".members.npz.*")
        shutil.copytree(self.home, to, symlinks=True, ignore=drafts)

    def run(self, *words: str, code: int = 0) -> list[str]:
        """The lines that `palimpsest WORDS` prints there."""
        return end(command("flows.cli", words, self.home, ENV), code)

    def make(self) -> None:
        Project(self.home).pipeline(STAGES)
        (self.home / "stage.py").write_text(STAGE)
        (self.home / NONE).write_text("")
        (self.home / ".gitignore").write_text("/data/*\n!/data/scores\n/.palimpsest/\n/control/\n/pictures/\n")
        (self.home / "pictures").mkdir()
        for name in ("a", "b", "r", "t"):
            (self.home / "pictures" / f"{name}.png").write_text(f"picture {name}")
        self.params(PARAMS)
        self.commit("first")
        shutil.copy(self.home / "data/models/net.safetensors", self.old)
        (self.home / "pictures" / "b.png").unlink()
        (self.home / "pictures" / "c.png").write_text("picture c")
        faces = {"ingest": {"use": "train"}, "align": {"side": 8}}
        trainings = {"net": {"lr": 0.25, "steps": 3}, "more": {"lr": 0.5, "steps": 1}}
        self.params({**PARAMS, "datasets": {"faces": faces}, "train_net": trainings})
        (self.home / "stage.py").write_text(f"# edited\n{STAGE}")
        self.commit("second")

    def params(self, values: dict) -> None:
        (self.home / "params.yaml").write_text(json.dumps(values))

    def commit(self, message: str) -> None:
        self.dvc("repro", "-q")
        self.git("add", "-A")
        self.git(*IDENTITY, "commit", "-qm", message)

    def dvc(self, *words: str) -> None:
        dvc(self.home, *words)

    def git(self, *words: str) -> str:
        done = subprocess.run(["git", *words], cwd=self.home, env=ENV, check=True, capture_output=True, text=True)
        return done.stdout.strip()
