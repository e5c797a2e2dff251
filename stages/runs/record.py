"""What a stage run leaves for the audit: which bytes went in, which came out, by which code, and where it ran.

A record is a JSON file, STAGE/NAME.json. NAME is a digest of its facts: what went in, what came out, and what decided
that. So a run that repeats another adds nothing. The other keys are circumstances (`CIRCUMSTANCES`): they tell of the
first run that had these facts, and no byte depends on them.

Digests under `inputs` and `outputs` are those that `dvc.lock` holds (md5, and DVC's `.dir` form for folders), so that a
record joins a lock by path and digest. What was not committed of the code lies beside the records, once for all of
them: `diffs/SHA256.patch`.

Format 2 has added `sha256`, `sources`, `weights`, `git`, `packages`, `threads` and `speed`, and `driver` and
`variables` of the environment. A record without `format` is of format 1.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import stages
from stages.runs import git, kernels, machine
from stages.runs.errors import InputError

FORMAT = 2
CIRCUMSTANCES = frozenset(
    ("digest", "ended", "format", "git", "packages", "peak_memory_mib", "seconds", "speed", "started", "threads")
)
DIFFS = "diffs"  # the folder of patches beside those of the stages
LARGEST = 1 << 20  # bytes of a patch: what is larger is not code
BLOCK = 256 << 10  # bytes that are read at once: what a cache holds

# The libraries whose version can change an output's bytes.
LIBRARIES = (
    "cholespy",
    "imagehash",
    "jinja2",
    "lightning-fabric",
    "lpips",
    "matplotlib",
    "numpy",
    "onnxruntime",
    "opencv-python",
    "pillow",
    "pillow-heif",
    "pyarrow",
    "safetensors",
    "scipy",
    "simplejpeg",
    "torch",
    "torchvision",
)


SOURCES = (".py", ".j2", ".css", ".js")  # how the names of source files end: code, templates, styles, scripts


def canonical(value: Any) -> str:
    """`value` as JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(path: Path) -> str:
    """md5 of a file, or of a folder's listing, as `dvc.lock` writes it; see `digests`."""
    return digests(path, "md5")[0]


def digests(path: Path, *kinds: str) -> list[str]:
    """The digest of each kind ("md5", "sha256") of a file, or of a folder's listing; every file is read once.

    A folder's is that of the JSON list of its files' digests and relative paths, sorted by path, with `.dir` behind it:
    `[{"md5": "...", "relpath": "..."}, ...]`. `__pycache__` is left out, as `.dvcignore` does.
    """
    if not path.is_dir():
        totals = [hashlib.new(kind) for kind in kinds]
        buffer = bytearray(BLOCK)
        with path.open("rb", buffering=0) as stream:
            while size := stream.readinto(buffer):
                for total in totals:
                    total.update(memoryview(buffer)[:size])
        return [total.hexdigest() for total in totals]
    files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    rows = sorted((file.relative_to(path).as_posix(), digests(file, *kinds)) for file in files)
    found = []
    for number, kind in enumerate(kinds):
        listing = [{kind: each[number], "relpath": name} for name, each in rows]
        found.append(hashlib.new(kind, json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir")
    return found


def sources() -> dict[Path, str]:
    """sha256 of every source file of the project as it lies there now."""
    root = Path(stages.__file__).resolve().parent
    files = sorted(path for path in root.rglob("*") if path.suffix in SOURCES)
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def imported(found: Mapping[Path, str] | None = None) -> dict[str, str]:
    """sha256 of those source files of the project that this process has imported, by their paths from `stages/`.

    Python imports no template or style: they count where a module of their folder was imported.
    `found` are the `sources` when the process began: what is edited during a long run did not run.
    """
    root = Path(stages.__file__).resolve().parent
    # `python -m stages.x` leaves the stage itself in sys.modules as `__main__`. All others are the libraries'.
    own = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in ("stages", "__main__")]
    loaded = {Path(file).resolve() for module in own if (file := getattr(module, "__file__", None))}
    folders = {path.parent for path in loaded}
    return {
        path.relative_to(root).as_posix(): sha256
        for path, sha256 in (found or sources()).items()
        if path in loaded or (path.suffix != ".py" and path.parent in folders)
    }


def code_digest(found: Mapping[Path, str] | None = None) -> str:
    """One sha256 over what `imported` gives."""
    return digest_of_code(imported(found))


def digest_of_code(files: Mapping[str, str]) -> str:
    """The `code` of a record from its `sources`: sha256 of a line "PATH SHA256" each, sorted folder by folder."""
    ordered = sorted(files.items(), key=lambda item: item[0].split("/"))
    return hashlib.sha256("".join(f"{name} {sha256}\n" for name, sha256 in ordered).encode()).hexdigest()


_weights: dict[str, str] = {}


def note_weights(name: str, sha256: str) -> None:
    """A stage has read weights that the project has not made: the record will name them."""
    _weights[name] = sha256


def weights() -> dict[str, str]:
    """sha256 by file name of the foreign weights that this process, and those it trains with, have read."""
    return dict(_weights)


def environment() -> dict[str, Any]:
    """Interpreter, machine and library versions; no host name, no user, no path."""
    versions: dict[str, str | None] = {}
    for name in LIBRARIES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "python": platform.python_version(),
        "system": platform.system(),
        "libc": " ".join(platform.libc_ver()),  # its sines and powers are Python's and, partly, NumPy's
        "machine": platform.machine(),
        "processor": machine.processor(),
        "features": " ".join(sorted(kernels.features())),
        "kernels": kernels.in_use(),
        "accelerator": machine.accelerator(),
        "driver": machine.driver(),
        "cores": os.cpu_count(),
        "libraries": versions,
        "variables": machine.variables(machine.DECIDING),
    }


def incomparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of two `environment`s can make equal inputs end in other bytes; empty: equal inputs should give equal bytes.

    Where this names anything, two outputs that differ are not comparable, rather than proof of another input. It is for
    the audit, and for whoever compares two records by hand. The CPU counts only where torch computed, and not where
    both were held to portable kernels. What a record of an older version does not say counts as a difference.
    """
    used = [env.get("kernels", {"torch": "unknown"}) for env in (one, other)]
    names = ["system", "machine", "python", "libc", "accelerator", "libraries"]
    if one.get("accelerator") or other.get("accelerator"):
        names.append("driver")
    if any(each["torch"] for each in used):
        names += ["kernels", "variables"]
        if not all(kernels.held(each) for each in used):
            names += ["processor", "features"]
    found = []
    for name in names:
        ours, theirs = one.get(name, "unknown"), other.get(name, "unknown")
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            keys = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
            found += [f"{name}: {key}: {ours.get(key)}, {theirs.get(key)}" for key in keys]
        elif ours != theirs or ours == "unknown":
            found.append(f"{name}: {ours}, {theirs}")
    return found


def home() -> Path:
    """Where records lie: $PALIMPSEST_RECORDS, or .palimpsest/records.

    DVC runs an experiment (`dvc exp run --temp`, `--queue`) in a checkout that it removes afterwards, inside of the
    project's own `.dvc/tmp/exps`: its records go to the project.
    """
    folder = Path(os.environ.get("PALIMPSEST_RECORDS", ".palimpsest/records"))
    here = Path.cwd()
    for parent in here.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2] / folder
    return folder


def read(path: Path) -> dict[str, Any]:
    """A record. Raises InputError for a file that is damaged, and for a record of a newer format."""
    return parse(path.read_bytes(), str(path))


class Newer(InputError):
    """A record of a format that this version does not know."""


def parse(content: bytes, what: str) -> dict[str, Any]:
    """The record in a file's bytes. Raises InputError, naming `what`, as `read` does."""
    try:
        found = json.loads(content)
        if not isinstance(found, dict) or not isinstance(found.get("format", 1), int):
            raise ValueError("not what a run leaves")
        if found.get("format", 1) <= FORMAT and not (
            isinstance(found["outputs"], dict) and isinstance(found["ended"], str)
        ):
            raise ValueError("not what a run leaves")
    except (ValueError, KeyError, RecursionError) as error:
        said = str(error).splitlines()[0] if isinstance(error, ValueError) else type(error).__name__
        raise InputError(f"{what}: not a record ({said}); remove it") from None
    if (newer := found.get("format", 1)) > FORMAT:
        raise Newer(f"{what}: a record of format {newer}, and this version reads up to {FORMAT}; update Palimpsest")
    return found


def made(folder: Path, stage: str, output: Path) -> dict[str, Any] | None:
    """The record of the run of `stage` that made `output` as it lies there; of several the one that ended last."""
    wanted = {output.as_posix(): digest(output)}.items()
    records = [read(path) for path in sorted(folder.glob(f"{stage}/*.json"))]
    return max((r for r in records if wanted <= r["outputs"].items()), key=lambda r: r["ended"], default=None)


def name_of(stage: str, facts: Mapping[str, Any]) -> str:
    """The digest that names the record of a run of `stage` with these facts."""
    return hashlib.sha256(canonical({"stage": stage, **facts}).encode()).hexdigest()[:32]


def facts_of(body: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of a record: `name_of(body["stage"], facts_of(body))` is its `digest`."""
    return {key: value for key, value in body.items() if key not in CIRCUMSTANCES and key != "stage"}


def whole(body: Mapping[str, Any]) -> bool:
    """Whether a record's facts are those that its name was made of; of its circumstances this says nothing."""
    try:
        return name_of(body["stage"], facts_of(body)) == body["digest"]
    except (KeyError, ValueError):
        return False


def write(
    folder: Path, stage: str, facts: dict[str, Any], circumstances: dict[str, Any], state: git.State | None = None
) -> Path:
    """Write one record, whole, to `folder/<stage>/<digest>.json`; an existing one is left as it is.

    `facts` (inputs, outputs, parameters, code, weights, environment, and the `notes` of a stage that has some) name
    the file. `circumstances` (times, memory, packages, what changes speed alone) do not, and neither does the `state`
    of Git: the code itself is among the facts, and which commit has it is not for the bytes to say.
    """
    name = name_of(stage, facts)
    path = folder / stage / f"{name}.json"
    if path.exists():
        return path
    told = {"git": keep(folder, state)}
    body = {"format": FORMAT, "stage": stage, "digest": name, **facts, **circumstances, **told}
    _write(path, text(body).encode())
    return path


def text(body: Mapping[str, Any]) -> str:
    """A record as its file has it: JSON with a line for each key; in format 1, indented."""
    if body.get("format", 1) == 1:
        return json.dumps(body, indent=1, sort_keys=True) + "\n"
    lines = (f"{canonical(key)}: {canonical(value)}" for key, value in sorted(body.items()))
    return "{\n" + ",\n".join(lines) + "\n}\n"


def keep(folder: Path, state: git.State | None) -> dict[str, Any] | None:
    """What a record in `folder` says of Git; the patch goes into a file beside the records.

    `commit`, `dirty` (paths) and `diff`, the name of that file; None where nothing differs, or where it is too large.
    """
    if state is None:
        return None
    diff = None
    if state.patch and len(state.patch) <= LARGEST:
        diff = f"{DIFFS}/{hashlib.sha256(state.patch).hexdigest()}.patch"
        if not (folder / diff).exists():
            _write(folder / diff, state.patch)
    return {"commit": state.commit, "dirty": state.dirty, "diff": diff}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.stem}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)
