"""What a stage run leaves for the audit: which bytes went in, which came out, and where it ran.

A record's file name is a digest of inputs, outputs, parameters, code and environment; digests of
files and folders are the ones that `dvc.lock` holds (md5, and DVC's `.dir` form for folders), so
that a record joins a lock by output digest.
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
from stages.runs import kernels
from stages.runs.errors import InputError

# The libraries whose version can change an output's bytes.
LIBRARIES = (
    "cholespy",
    "imagehash",
    "jinja2",
    "lightning-fabric",
    "lpips",
    "matplotlib",
    "numpy",
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


SOURCES = (".py", ".j2", ".css")  # how the names of source files end: code, templates and styles


def canonical(value: Any) -> str:
    """`value` as JSON with one spelling: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(path: Path) -> str:
    """md5 of a file, or of a folder's listing, as `dvc.lock` writes it.

    A folder's digest is the md5 of the JSON list of its files' md5 and relative path, sorted by
    path, with `.dir` behind it. `__pycache__` is left out, as `.dvcignore` does.
    """
    if path.is_dir():
        files = sorted(p for p in path.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
        listing = [{"md5": digest(p), "relpath": p.relative_to(path).as_posix()} for p in files]
        listing.sort(key=lambda entry: entry["relpath"])
        return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def sources() -> dict[Path, str]:
    """sha256 of every source file of the project as it lies there now."""
    root = Path(stages.__file__).resolve().parent
    files = sorted(path for path in root.rglob("*") if path.suffix in SOURCES)
    return {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def code_digest(found: Mapping[Path, str] | None = None) -> str:
    """sha256 over the project's source files that this process has imported, by relative path.

    Python imports no template or style: they count where a module of their folder was imported.
    `found` are the `sources` when the process began: what is edited during a long run did not run.
    """
    root = Path(stages.__file__).resolve().parent
    # `python -m stages.x` leaves the stage itself in sys.modules as `__main__`.
    loaded = {Path(f).resolve() for m in list(sys.modules.values()) if (f := getattr(m, "__file__", None))}
    folders = {path.parent for path in loaded}
    total = hashlib.sha256()
    for path, sha256 in (found or sources()).items():
        if path in loaded or (path.suffix != ".py" and path.parent in folders):
            total.update(f"{path.relative_to(root).as_posix()} {sha256}\n".encode())
    return total.hexdigest()


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
        "processor": _processor(),
        "features": " ".join(sorted(kernels.features())),
        "kernels": kernels.in_use(),
        "accelerator": _accelerator(),
        "cores": os.cpu_count(),
        "libraries": versions,
    }


def incomparable(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What of two `environment`s can make equal inputs end in other bytes; empty: equal inputs should give equal bytes.

    Where this names anything, two outputs that differ are not comparable, rather than proof of another input. It is for
    the audit, and for whoever compares two records by hand. The CPU counts only where torch computed, and not where
    both were held to portable kernels. What a record of an older version does not say counts as a difference.
    """
    used = [env.get("kernels", {"torch": "unknown"}) for env in (one, other)]
    names = ["system", "machine", "python", "libc", "accelerator", "libraries"]
    if any(each["torch"] for each in used):
        names.append("kernels")
        if not all(kernels.held(each) for each in used):
            names += ["processor", "features"]
    found = []
    for name in names:
        ours, theirs = one.get(name, "unknown"), other.get(name, "unknown")
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            found += [f"{name}: {key}: {ours[key]}, {theirs.get(key)}" for key in ours if ours[key] != theirs.get(key)]
        elif ours != theirs or ours == "unknown":
            found.append(f"{name}: {ours}, {theirs}")
    return found


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        if line.startswith(("model name", "CPU part")):
            return line.partition(":")[2].strip()
    return platform.processor()


def _accelerator() -> str | None:
    """The GPU's name, where this process has computed on one."""
    torch = sys.modules.get("torch")  # a stage without torch does not pay for its import
    return torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else None


def home() -> Path:
    """Where records lie: $PALIMPSEST_RECORDS, or .palimpsest/records."""
    return Path(os.environ.get("PALIMPSEST_RECORDS", ".palimpsest/records"))


def read(path: Path) -> dict[str, Any]:
    """A record. Raises InputError for a file that is damaged."""
    try:
        found = json.loads(path.read_bytes())
        if not isinstance(found, dict) or not isinstance(found["outputs"], dict) or not isinstance(found["ended"], str):
            raise ValueError("not what a run leaves")
    except (ValueError, KeyError, RecursionError) as error:
        said = str(error).splitlines()[0] if isinstance(error, ValueError) else type(error).__name__
        raise InputError(f"{path}: not a record ({said}); remove it") from None
    return found


def made(folder: Path, stage: str, output: Path) -> dict[str, Any] | None:
    """The record of the run of `stage` that made `output` as it lies there; of several the one that ended last."""
    wanted = {output.as_posix(): digest(output)}.items()
    records = [read(path) for path in sorted(folder.glob(f"{stage}/*.json"))]
    return max((r for r in records if wanted <= r["outputs"].items()), key=lambda r: r["ended"], default=None)


def write(folder: Path, stage: str, facts: dict[str, Any], circumstances: dict[str, Any]) -> Path:
    """Write one record, whole, to `folder/<stage>/<digest>.json`; an existing one is left as it is.

    `facts` (inputs, outputs, params, code, environment, and the `notes` of a stage that has some) name
    the file; `circumstances` (times, memory) do not, so that a run that repeats another adds nothing.
    """
    name = hashlib.sha256(canonical({"stage": stage, **facts}).encode()).hexdigest()[:32]
    path = folder / stage / f"{name}.json"
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{name}.{os.getpid()}")
    body = {"stage": stage, "digest": name, **facts, **circumstances}
    draft.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")
    draft.replace(path)
    return path
