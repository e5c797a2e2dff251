"""A stage as a command: `python -m stages.X [NAME] --input PATH ... --output PATH ...`.

Paths come from the command in `dvc.yaml`, the one place of wiring; parameters from `params.yaml`. What a user writes
there may be anything, and a shell runs the command: so no shell sees it. `{name}` in a path is filled in here with the
NAME, `{root}` and the like with that parameter of the stage's section.
Outputs are written aside and moved into place when the stage has succeeded: they appear whole or
not at all. Every success leaves a record (`stages/runs/record.py`).
"""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_type_hints

import stages
from stages.runs import git, kernels, machine, params, record
from stages.runs.errors import InputError

SCRATCH = Path(".palimpsest/tmp")

# A disk that is full or may not be written: the user's to mend, wherever in a stage it shows.
UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def run(
    entry: Callable[..., Callable[[], None] | dict[str, Any] | None],
    *,
    sections: Mapping[str, str],
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    wiring: str = "",
    argv: Sequence[str] | None = None,
) -> None:
    """Run the stage function `entry` from the command line.

    `sections` maps a parameter of `entry` to its section of `params.yaml` ("train_dcgan.{name}");
    the parameter's annotation is the dataclass that the section must fit. `inputs` and `outputs`
    name its path parameters, each an option of the command. If `entry` returns a function, it is
    called once the outputs are in place; if a dict, that goes into the record as `notes`. Where
    `{name}` occurs, or `entry` has a parameter `name`, the command takes the variant's name as its
    argument; DVC's `STAGE@NAME` will do. `wiring` is the section whose values fill `{...}` in paths;
    by default the first of `sections`.

    Exits 2 with one line for an InputError and where outputs cannot be written, 130 for Ctrl-C, 143 for SIGTERM.
    """
    stage = entry.__name__
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage}", description=entry.__doc__)
    hints = get_type_hints(entry)
    named = "name" in hints or any("{name}" in dotted for dotted in sections.values())
    if named:
        parser.add_argument("name", help="the entry of params.yaml to run")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    for option in (*inputs, *outputs):
        parser.add_argument(f"--{option.replace('_', '-')}", type=Path, required=True)
    arguments = parser.parse_args(argv)
    if named:
        arguments.name = arguments.name.rpartition("@")[2]
    label = f"{stage}@{arguments.name}" if named else stage
    signal.signal(signal.SIGTERM, _terminate)
    try:
        _run(entry, label, arguments, hints, sections, inputs, outputs, wiring)
    except InputError as error:
        print(" ".join(f"{label}: {error}".splitlines()), file=sys.stderr)  # a name may hold a newline
        sys.exit(2)
    except OSError as error:
        if error.errno not in UNWRITABLE:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"{label}: {where}{os.strerror(error.errno)}; make room or mend the permissions", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{label}: interrupted", file=sys.stderr)
        sys.exit(130)
    finally:
        shutil.rmtree(_scratch_path(label), ignore_errors=True)


def _run(
    entry: Callable[..., Callable[[], None] | dict[str, Any] | None],
    label: str,
    arguments: argparse.Namespace,
    hints: Mapping[str, Any],
    sections: Mapping[str, str],
    inputs: Sequence[str],
    outputs: Sequence[str],
    wiring: str,
) -> None:
    _refuse_foreign_code()
    started, clock = datetime.now(UTC), time.monotonic()
    sources = record.sources()
    state = git.state(Path.cwd(), record.SOURCES)
    name = getattr(arguments, "name", None)
    values = params.load(arguments.params)
    built = {
        parameter: params.section(values, dotted.format(name=name), hints[parameter])
        for parameter, dotted in sections.items()
    }
    for runtime in built.values():
        if isinstance(runtime, params.Runtime):
            kernels.choose(runtime.kernels)  # before the stage imports torch
    paths: dict[str, Path] = {option: getattr(arguments, option) for option in (*inputs, *outputs)}
    fills = _plain(next(iter(built.values())))
    if wiring and any("{" in str(path) for path in paths.values()):
        fills = params.section(values, wiring.format(name=name), dict[str, Any])
    paths = {option: _filled(path, {**fills, "name": name}) for option, path in paths.items()}
    given = {option: paths[option] for option in inputs}
    for option, path in given.items():
        if not path.exists():
            raise InputError(f"{path}: not found (--{option.replace('_', '-')}); mend the path, or run `dvc repro`")
    read = {path.as_posix(): record.digest(path) for path in given.values()}  # now, not what lies there afterwards
    wanted = {option: paths[option] for option in outputs}
    for path in wanted.values():
        _check_room(path)
    scratch = _scratch(label)
    drafts = {option: scratch / option / path.name for option, path in wanted.items()}
    for draft in drafts.values():
        draft.parent.mkdir()

    extra = {"name": name} if "name" in hints else {}
    done = entry(**given, **drafts, **built, **extra)

    _publish({draft: wanted[option] for option, draft in drafts.items()})
    made = {path.as_posix(): record.digests(path, "md5", "sha256") for path in wanted.values()}
    code = record.imported(sources)
    facts = {
        "inputs": read,
        "outputs": {path: md5 for path, (md5, _) in made.items()},
        "sha256": {path: sha256 for path, (_, sha256) in made.items()},
        "params": {dotted.format(name=name): _plain(built[parameter]) for parameter, dotted in sections.items()},
        "code": record.digest_of_code(code),
        "sources": code,
        "weights": record.weights(),
        "environment": record.environment(),
        **({"notes": done} if isinstance(done, dict) else {}),
    }
    circumstances = {
        "started": started.isoformat(timespec="seconds"),
        "ended": datetime.now(UTC).isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - clock, 3),
        "peak_memory_mib": _peak_memory() // 1024,
        "threads": machine.threads(),
        "speed": machine.variables(machine.OF_SPEED),
        "packages": machine.packages(),
    }
    record.write(record.home(), label, facts, circumstances, state)
    if callable(done):
        done()


def _filled(path: Path, fills: Mapping[str, Any]) -> Path:
    """`path` with what `fills` has for each `{key}` in it; a brace that names none of them stays as it is."""

    def fill(found: re.Match[str]) -> str:
        value = fills.get(found[1])
        return value if isinstance(value, str) else found[0]

    return Path(re.sub(r"\{(\w+)\}", fill, str(path)))


def _plain(section: Any) -> Any:
    """A section as plain values: a dataclass, or a dict where a stage reads a whole section as it stands."""
    return dataclasses.asdict(section) if dataclasses.is_dataclass(section) else section  # type: ignore[arg-type]


def _refuse_foreign_code() -> None:
    # With an editable install, a Git worktree could run the main checkout's code and the lock would lie.
    home = Path(stages.__file__).resolve().parent.parent
    if home != Path.cwd().resolve():
        raise InputError(
            f"the code of {home} would run in {Path.cwd()}: use `python -m stages.X` from the project's root"
        )


def _scratch_path(label: str) -> Path:
    return SCRATCH / f"{label}.{os.getpid()}"


def _scratch(label: str) -> Path:
    """A new folder of this process's own; what killed runs of the stage have left is removed."""
    for left in SCRATCH.glob(f"{label}.*"):
        if not Path("/proc", left.suffix[1:]).exists():
            shutil.rmtree(left, ignore_errors=True)
    scratch = _scratch_path(label)
    scratch.mkdir(parents=True)
    return scratch


def _check_room(path: Path) -> None:
    """Raise InputError where the output `path` could not be written: before the work, not behind it."""
    home = next(folder for folder in path.parents if folder.exists())
    if not home.is_dir():
        raise InputError(f"{home}: a file, where {path} needs a folder; move it away")
    if not os.access(home, os.W_OK):
        raise InputError(f"{home}: cannot be written, and {path} should go there; mend its permissions")


def _publish(moves: Mapping[Path, Path]) -> None:
    """Move every draft to its place, all or none: what can fail does so before anything old goes."""
    for draft, path in moves.items():
        if not draft.exists():
            raise FileNotFoundError(f"the stage ended without writing {path}")
    beside = {path: path.with_name(f".{path.name}.{os.getpid()}") for path in moves.values()}
    try:
        for draft, path in moves.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(draft, beside[path])  # a copy where `path` lies on another disk
        for number in (signal.SIGINT, signal.SIGTERM):  # the work is done: stopping now would mix old and new
            signal.signal(number, signal.SIG_IGN)
        for path, ready in beside.items():
            _remove(path)
            ready.replace(path)
    finally:
        for ready in beside.values():
            _remove(ready)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    elif path.exists() or path.is_symlink():
        path.unlink()


def _peak_memory() -> int:
    """KiB, the larger of this process's peak and its children's."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    status = Path("/proc/self/status")
    if not status.exists():
        return max(children, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    # Linux starts a child's ru_maxrss at its parent's: under DVC it would tell of DVC.
    own = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
    return max(children, int(own))


def _terminate(signum: int, frame: object) -> None:
    sys.exit(128 + signum)
