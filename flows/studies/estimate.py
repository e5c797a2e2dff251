"""What a study would run, how long that takes and how much disk it fills, by the records of earlier runs here.

A stage that has run on this machine with the same parameters takes as long again; one that differs in its seed, its
steps, or in what the study varies, as long for each step. What has never run here is said to be unknown.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import posixpath
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from flows.checkout.git import Git
from flows.lineage import cache, dvc_lock
from flows.studies.arms import Planned
from stages.runs import machine, params, record
from stages.runs.errors import InputError

OVERHEAD = 4.0  # seconds of a core that a run takes beyond its stages: its worktree, DVC's files, the experiment
LENGTHS = ("steps", "iterations")  # parameters in proportion to which a stage takes longer
NO_MATTER = ("seed", *LENGTHS)  # parameters that do not change how long a step takes
MODEL = "data/models/"


class Stage(NamedTuple):
    """A stage of a run, with all that decides what it makes but the commit and the original pictures."""

    name: str  # as `train_dmfn@dmfn`
    params: Mapping[str, Any]  # its sections of params.yaml, each filled with defaults
    before: tuple[str, ...]  # the keys of those that it reads
    key: str  # equal for two that make the same


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What the runs that are not there would take."""

    runs: int
    jobs: int
    cached: Counter[str]  # how many stages of a name the run-cache has
    new: Counter[str]  # how many would run
    unknown: Sequence[str]  # the names of those that have never run here
    seconds: float  # of the others, and of what each run takes beside its stages
    size: int  # bytes that they add to DVC's cache
    free: int  # bytes on its disk
    place: Path

    def lines(self) -> list[str]:
        """The estimate in words."""
        if not self.runs:
            return ["nothing to run"]
        ran = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in self.new.items()) or "none"
        word = "at least" if self.unknown else "about"
        return [
            f"stages: {self.cached.total()} from the run-cache, {self.new.total()} to run: {ran}",
            f"time: {word} {_length(self.seconds)}, {self.jobs} {'run' if self.jobs == 1 else 'runs'} at a time",
            f"disk: {word} {_size(self.size)}; {_size(self.free)} are free",
            *([f"not in time and disk, as they never ran here: {', '.join(self.unknown)}"] if self.unknown else []),
        ]

    def refuse_full_disk(self) -> None:
        """Raise InputError where there is less space than the runs would take."""
        if self.size > self.free:
            raise InputError(
                f"{self.place}: the study would take about {_size(self.size)}, and {_size(self.free)} are free; make "
                "room, or move DVC's cache (`dvc cache dir`)"
            )


class Records:
    """The records of a project whose stages ran on this machine, by the stage's name."""

    def __init__(self, root: Path) -> None:
        self._folder = root / record.home()
        self._known: dict[str, list[dict[str, Any]]] = {}

    def of(self, stage: str) -> list[dict[str, Any]]:
        """The stage's records, newest first."""
        if stage not in self._known:
            found = []
            for file in (self._folder / stage).glob("*.json"):
                with contextlib.suppress(InputError, OSError):  # a damaged one tells nothing
                    found.append(record.read(file))
            here = machine.processor()
            found = [one for one in found if (one.get("environment") or {}).get("processor") == here]
            self._known[stage] = sorted(found, key=lambda one: str(one.get("ended")), reverse=True)
        return self._known[stage]


def estimate(root: Path, commit: str, runs: Sequence[Planned], jobs: int) -> Estimate:
    """What the runs would take, `jobs` at a time."""
    git = Git(root)
    pipeline = dvc_lock.parse(git.file(commit, "dvc.yaml"), f"dvc.yaml of commit {commit[:10]}")
    code = _code(git, commit)
    records = Records(root)
    every: dict[str, Stage] = {}
    for run in runs:
        every |= {stage.key: stage for stage in stages(run.values, run.systems, pipeline)}
    varied = {key.rpartition(".")[2] for run in runs for key in run.changed}
    made: dict[str, Mapping[str, Any]] = {}  # by key, the record of a stage whose outputs the cache has
    cached: Counter[str] = Counter()
    new: Counter[str] = Counter()
    unknown: dict[str, None] = {}
    seconds, size = OVERHEAD * len(runs), 0
    for stage in every.values():
        before = [made.get(key) for key in stage.before]
        found = next((one for one in records.of(stage.name) if _repeats(root, one, stage, before, code)), None)
        if found is not None:
            made[stage.key] = found
            cached[stage.name] += 1
            continue
        new[stage.name] += 1
        like = next((one for one in records.of(stage.name) if _like(one, stage, varied)), None)
        if like is None:
            unknown[stage.name] = None
            continue
        seconds += float(like["seconds"]) * _longer(like["params"], stage.params)
        size += sum(_bytes(root, md5) for md5 in like["outputs"].values())
    place = cache.folder(root)
    free = shutil.disk_usage(next(folder for folder in (place, *place.parents) if folder.exists())).free
    return Estimate(len(runs), jobs, cached, new, [*unknown], seconds / max(1, min(jobs, len(runs))), size, free, place)


def stages(values: Mapping[str, Any], systems: Iterable[str], pipeline: Mapping[str, Any]) -> list[Stage]:
    """The stages that lead to the scores of systems, each after those that it reads.

    `pipeline` is what dvc.yaml says. DVC knows all this too, but only from files in a working copy.
    """
    found: dict[str, Stage] = {}

    def add(name: str, sections: Mapping[str, Any], before: Iterable[str]) -> str:
        if name not in found:
            keys = tuple(found[one].key for one in dict.fromkeys(before))
            told = record.canonical([name, sections, keys])
            found[name] = Stage(name, sections, keys, hashlib.sha256(told.encode()).hexdigest())
        return name

    def section(stage: str, dotted: str) -> dict[str, Any]:
        """The section with every default filled in, as records have it."""
        kind = params.Runtime if stage == "runtime" else import_module(f"stages.{stage}").Params
        return {dotted: json.loads(json.dumps(dataclasses.asdict(params.section(dict(values), dotted, kind))))}

    def dataset(name: str, last: str) -> list[str]:
        """The stages of a dataset up to `last`."""
        folder = str(values["datasets"][name]["ingest"].get("root"))
        drawn = _makers(values, pipeline, folder)
        before = [add(stage, section(stage.partition("@")[0], stage.replace("@", ".")), []) for stage in drawn]
        every = []
        for stage in params.DATASET:
            before = [add(f"{stage}@{name}", section(stage, f"datasets.{name}.{stage}"), before)]
            every += before
            if stage == last:
                break
        return every

    def training(name: str) -> list[str]:
        for stage in params.TRAININGS:
            if name in (values.get(stage) or {}):
                entry = values[stage][name]
                learned = [entry["dataset"], *_aligned(entry.get("also"))]
                before = [one for each in learned for one in dataset(each, "align")]
                before += checkpoint(entry.get("start"))
                return [add(f"{stage}@{name}", section(stage, f"{stage}.{name}") | runtime, before)]
        return []

    def checkpoint(path: Any) -> list[str]:
        return training(PurePosixPath(path).stem) if posixpath.normpath(str(path)).startswith(MODEL) else []

    runtime = section("runtime", "runtime")
    for system in systems:
        pictures = dataset(values["blend"][system]["dataset"], "mask")
        source = values["blend"][system]["system"]
        stage = "search" if source in (values.get("search") or {}) else "infer"
        entry = (values.get(stage) or {}).get(source) or {}
        network = training(entry["model"]) if "model" in entry else checkpoint(entry.get("checkpoint"))
        completed = add(f"{stage}@{source}", section(stage, f"{stage}.{source}") | runtime, [*network, *pictures])
        blended = add(f"blend@{system}", section("blend", f"blend.{system}"), [completed, *pictures])
        scored = section("evaluate", "evaluate") | runtime
        add(f"evaluate@{system}", scored, [blended, completed, *pictures])
    return [*found.values()]


def _makers(values: Mapping[str, Any], pipeline: Mapping[str, Any], folder: str) -> list[str]:
    """The stages of dvc.yaml that make a folder of pictures, or one that it lies in: `draw`, or `draw_shapes@NAME`."""
    found = []
    for stage, entry in pipeline["stages"].items():
        outs = entry.get("do", entry).get("outs", [])
        names = {f"{stage}@{key}": str(key) for key in values.get(stage) or {}} if "foreach" in entry else {stage: ""}
        for name, key in names.items():
            made = (posixpath.normpath(str(out).replace("${key}", key)) for out in outs)
            found += [name] if any(f"{posixpath.normpath(folder)}/".startswith(f"{out}/") for out in made) else []
    return found


def _aligned(table: Any) -> list[str]:
    """The dataset of a training's second table; none where there is no such table."""
    parts = PurePosixPath(str(table)).parts
    return [parts[2]] if parts[:2] == ("data", "aligned") else []


def _code(git: Git, commit: str) -> dict[str, str]:
    """sha256 of the files in `stages/` of a commit, by their paths from there, as records have them."""
    names = {}
    for entry in git.paths("ls-tree", "-r", commit, "--", "stages"):
        about, _, path = entry.partition("\t")
        names[path.removeprefix("stages/")] = about.split(" ")[2]
    blobs = git.blobs(set(names.values()))
    return {path: hashlib.sha256(blobs[name]).hexdigest() for path, name in names.items()}


def _repeats(
    root: Path,
    one: Mapping[str, Any],
    stage: Stage,
    before: Sequence[Mapping[str, Any] | None],
    code: Mapping[str, str],
) -> bool:
    """Whether a record is of a run with the same parameters, code and inputs, whose outputs the cache has."""
    if one.get("params") != stage.params or None in before:
        return False
    if any(code.get(path) != sha256 for path, sha256 in (one.get("sources") or {"": ""}).items()):
        return False
    made = {path: md5 for each in before if each for path, md5 in each["outputs"].items()}
    read = ((path, md5) for path, md5 in one["inputs"].items())
    if any(_made(root, made, path) not in (None, md5) for path, md5 in read):
        return False
    outs = [md5 for path, md5 in one["outputs"].items() if not path.endswith(".json")]  # those are Git's
    return all(cache.place(root, md5).is_file() for md5 in outs)


def _made(root: Path, made: Mapping[str, str], path: str) -> str | None:
    """The digest of a file, or a folder, as the stages before have made it; None where none of them has."""
    if path in made:
        return made[path]
    for folder in map(str, PurePosixPath(path).parents):
        if folder in made:
            return _listing(root, made[folder]).get(path.removeprefix(f"{folder}/"), "")
    return None


def _listing(root: Path, md5: str) -> dict[str, str]:
    with contextlib.suppress(OSError, InputError):
        return cache.listing(cache.place(root, md5))
    return {}


def _like(one: Mapping[str, Any], stage: Stage, varied: Iterable[str]) -> bool:
    """Whether a record is of a run whose every step took as long as one of this stage would."""
    skipped = {*NO_MATTER, *varied}
    return [*_kept(one.get("params") or {}, skipped)] == [*_kept(stage.params, skipped)]


def _kept(sections: Mapping[str, Any], skipped: set[str]) -> Iterator[tuple[str, str, str]]:
    for dotted in sorted(sections):
        for name, value in sorted(sections[dotted].items()):
            if name not in skipped:
                yield dotted, name, record.canonical(value)


def _longer(old: Mapping[str, Any], new: Mapping[str, Any]) -> float:
    """How many times as many steps there are."""
    for dotted, section in new.items():
        for name in LENGTHS:
            if section.get(name) and old.get(dotted, {}).get(name):
                return float(section[name]) / float(old[dotted][name])
    return 1.0


def _bytes(root: Path, md5: str) -> int:
    with contextlib.suppress(OSError):
        return cache.place(root, md5).stat().st_size + sum(
            cache.place(root, each).stat().st_size for each in set(_listing(root, md5).values()) if md5.endswith(".dir")
        )
    return 0


def _length(seconds: float) -> str:
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _size(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
