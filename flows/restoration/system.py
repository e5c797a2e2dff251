"""Which system completes a photo, and what stands behind it: a checkpoint, its promotion, its training data."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.checkout.git import Git, GitError
from flows.process.command import Say
from flows.registry import history
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from flows.audit import checkpoint
    from stages.images.batches import Batch

CLASSICAL = {"telea": "fast marching from the border (Telea 2004)", "navier_stokes": "Navier-Stokes (Bertalmio 2001)"}
CLASSICAL_SIDE = 256  # px of the crops that these complete
MODELS, ENDING = "data/models/", ".safetensors"

Complete = Callable[["Batch"], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Choice:
    """A system that can be chosen."""

    name: str  # what `--model` takes
    title: str  # what it is, and why it stands where it does
    path: str = ""  # of its checkpoint; none: it has none
    md5: str = ""  # of that; empty: of whatever lies at the path


@dataclasses.dataclass(frozen=True, eq=False)
class System:
    """What completes crops of `side` x `side` pixels."""

    name: str
    side: int
    samples: bool  # whether another `seed` gives another answer
    facts: dict[str, Any]  # for the record: network, checkpoint, promotion, training pictures, terms
    make: Callable[[int | None], Complete]  # of the seed; None: the system's best single answer
    completes: Callable[[np.ndarray], np.ndarray]  # holes bool N x side x side -> bool N
    opened: dict[int | None, Complete] = dataclasses.field(default_factory=dict, repr=False)

    def complete(self, known: np.ndarray, hole: np.ndarray, name: str, seed: int | None = None) -> np.ndarray:
        """A whole picture, uint8 side x side x 3, of `known` (the same shape, zero under the hole: bool side x side).

        Raises InputError, with the photo's `name`, where what is made is not finite.
        """
        from stages.images.batches import Batch

        if seed not in self.opened:
            self.opened[seed] = self.make(seed)
        return self.opened[seed](Batch(known[None], hole[None], [("", name)], ["hole"]))[0]


# --- which ---


def choices(root: Path, kind: str | None = None) -> list[Choice]:
    """The systems that can be chosen here, the one that is taken by default first.

    That is the promoted one; where none is, the working copy's with the best score on holes of this `kind`.
    """
    found = []
    if (now := _promoted(root)) is not None:
        name = f"{now.artifact.rpartition(':')[2]}{f'@{now.version}' if now.version else ''}"
        found.append(Choice(name, f"promoted on {now.time:%Y-%m-%d}: {now.message}", now.path, now.md5))
    ranked = sorted(_scored(root, kind), key=lambda one: -one[0])
    of = f" on {kind}" if kind else ""
    found += [Choice(name, f"the working copy's, {psnr:.1f} dB in the hole{of}", path) for psnr, name, path in ranked]
    known = {choice.path for choice in found if not choice.md5}
    for file in sorted((root / MODELS).glob(f"*{ENDING}")):
        if (path := f"{MODELS}{file.name}") not in known:
            found.append(Choice(file.name.removesuffix(ENDING), "the working copy's, not scored", path))
    return [*found, *(Choice(name, f"classical, {title}") for name, title in CLASSICAL.items())]


def _promoted(root: Path) -> history.Promoted | None:
    with suppress(GitError):
        return history.current(root)
    return None


def _scored(root: Path, kind: str | None) -> list[tuple[float, str, str]]:
    """PSNR in the hole (dB), name and checkpoint of each system with a score and a checkpoint in the working copy."""
    from flows.registry import gate
    from stages.metrics.blends import of_systems
    from stages.runs import params

    try:
        values = params.load(root / "params.yaml")
        entries = of_systems(values.get("blend") or {})
    except (InputError, KeyError, TypeError, AttributeError):
        return []
    found = []
    for name in [*(values.get("search") or {}), *(values.get("infer") or {})]:
        with suppress(InputError, OSError, ValueError, KeyError, TypeError, AttributeError):
            path = gate.checkpoint(gate.system(values, name))
            scores = json.loads((root / "data" / "scores" / f"{entries[name][0]}.json").read_text())["psnr_hole"]
            some = [scores[kind]] if kind in scores else list(scores.values())
            if (root / path).is_file():
                found.append((float(np.mean([one.get("blended", one.get("raw")) for one in some])), name, path))
    return found


def open_system(root: Path, model: str | None, kind: str | None = None, say: Say = lambda words: None) -> System:
    """The system that `model` names: a checkpoint's file, an ONNX file, NAME, NAME@VERSION, NAME@COMMIT, or a classical
    one; None is the first of `choices`.

    Its checkpoint is read from the working copy, from DVC's cache or from a remote, by its digest. Raises InputError
    where there is none, or it cannot be opened.
    """
    if model in CLASSICAL:
        return _classical(model)
    if model and model.endswith(".onnx"):
        return _foreign(Path(model))
    if model and Path(model).is_file():
        return _learned(root, Path(model), Choice(Path(model).name.removesuffix(ENDING), "the file that was named"))
    if model:
        chosen = _named(root, model)
    else:
        chosen = choices(root, kind)[0]
        if not chosen.path:
            raise InputError(
                f"{root}: no checkpoint yet: nothing is promoted, and {MODELS} is empty; make one with `palimpsest "
                "rebuild`, or give --model: telea and navier_stokes need none"
            )
    return _learned(root, _bytes(root, chosen, say), chosen)


def _named(root: Path, model: str) -> Choice:
    from flows.audit import checkpoint

    file = root / MODELS / f"{model}{ENDING}"
    try:
        git = Git(root)
        md5, path = checkpoint.named(root, git, model, history.read(git, fetched=True))
    except InputError:  # a repository's lock may not know it yet
        if not file.is_file():
            names = ", ".join(choice.name for choice in choices(root))
            raise InputError(f"no system '{model}' here; one of {names}, or the file of a checkpoint") from None
        return Choice(model, "the working copy's", f"{MODELS}{file.name}")
    return Choice(model, "the one that was named", path, md5)


def _bytes(root: Path, chosen: Choice, say: Say) -> Path:
    """The file that holds a checkpoint: in the working copy, in the cache, or brought into that from a remote."""
    from flows.lineage import cache

    if not chosen.md5:
        return root / chosen.path
    if found := cache.find(root, chosen.md5, chosen.path):
        return found
    from flows.engine import commands

    commands.fetch(root, [chosen.md5], say)
    if found := cache.find(root, chosen.md5, chosen.path):
        return found
    raise InputError(
        f"{chosen.name}: its checkpoint {chosen.path} ({chosen.md5[:10]}) is neither in the working copy, in DVC's "
        "cache nor on a remote; `palimpsest rebuild` makes the working copy's, or choose another system"
    )


# --- opened ---


def _classical(name: str) -> System:
    from stages import infer

    settings = infer.Params(
        network="classical", dataset="photo", checkpoint="stages/models/no_checkpoint.txt",
        method=name,  # type: ignore[arg-type]
    )  # fmt: skip
    made = infer.baseline(settings, Path(), (CLASSICAL_SIDE,) * 2)
    complete: Callable[[Batch], np.ndarray] = made.complete
    facts = {"system": name, "network": "classical", "about": CLASSICAL[name], "checkpoint": None}
    return System(name, CLASSICAL_SIDE, False, facts, lambda seed: complete, infer.every)


def _foreign(file: Path) -> System:
    """A network from elsewhere."""
    from stages.infer import every
    from stages.models.onnx import Onnx

    found = Onnx(file)
    facts = {
        "system": file.name,
        "chosen": "the file that was named",
        "network": "onnx",
        "checkpoint": {"path": file.name, "sha256": sha256(file.read_bytes()).hexdigest()},
        "trained_on": None,
        "audit": "made elsewhere: what it was trained on is not known here",
    }
    complete: Complete = lambda batch: found.complete(batch.known, batch.hole)  # noqa: E731
    return System(file.name, found.side, False, facts, lambda seed: complete, every)


def _learned(root: Path, file: Path, chosen: Choice) -> System:
    """The system of a checkpoint, by what that says of itself and by the parameters that params.yaml has for it."""
    from flows.registry import gate
    from stages.runs import kernels, params

    values: dict[str, Any] = {}
    with suppress(InputError):
        values = params.load(root / "params.yaml")
    runtime = params.section(values, "runtime", params.Runtime) if "runtime" in values else params.Runtime()
    kernels.choose(runtime.kernels)  # before torch is imported
    from stages import infer, search

    shape = gate.shape(file, "name a checkpoint of this project, or another system, by --model")
    network, side = shape["network"], shape.get("size")
    if not isinstance(network, str) or not isinstance(side, int) or not 16 <= side <= 4096:
        raise InputError(f"{file}: its header names neither network nor size; give a checkpoint of this project")
    completes: Callable[[np.ndarray], np.ndarray] = infer.every
    if network == "dcgan":
        own = (values.get("search") or {}).get(chosen.name.partition("@")[0], {})
        given = {**{key: value for key, value in own.items() if key not in ("count", "kinds")}, "dataset": "photo"}
        base = params.section({"search": {**given, "model": "photo"}}, "search", search.Params)

        def make(seed: int | None) -> Complete:
            settings = base if seed is None else dataclasses.replace(base, seed=seed)
            searcher = search.searcher(file, (side, side), settings, runtime)
            return lambda batch: searcher(batch)[1]

        samples = True
    else:
        loaded = infer.load_network(file, network)

        def learned(**more: Any) -> infer.System:
            settings = infer.Params(network=network, dataset="photo", checkpoint=f"photo{ENDING}", **more)
            return infer.learned(settings, file, (side, side), runtime, loaded)

        def make(seed: int | None) -> Complete:
            return learned(sample_seed=seed).complete

        completes, samples = learned().completes, bool(getattr(loaded[0], "latent", 0))
    return System(chosen.name, side, samples, facts_of(root, file, chosen, shape), make, completes)


def facts_of(root: Path, file: Path, chosen: Choice, shape: Mapping[str, Any]) -> dict[str, Any]:
    """What the audit knows of a checkpoint, for a photo's record."""
    from stages.runs import record

    digest, md5 = record.digests(file, "sha256", "md5")
    found: dict[str, Any] = {
        "system": chosen.name,
        "chosen": chosen.title,
        "network": shape["network"],
        "arguments": {key: value for key, value in shape.items() if key != "network"},
        "checkpoint": {"path": chosen.path or file.name, "sha256": digest, "md5": md5},
    }
    try:
        from flows.audit import checkpoint

        answer = checkpoint.ask(root, str(file))
    except (GitError, InputError) as error:
        return {**found, "audit": f"cannot tell what it comes from: {error}"}
    promotion = next((one for one in reversed(answer.decisions) if one["outcome"] == "promoted"), None)
    pictures = {one["image_id"] for training in answer.trainings for one in training.pictures or []}
    trained = {
        "pictures": len(pictures) if all(training.pictures is not None for training in answer.trainings) else None,
        "datasets": {each.name: each.md5 for training in answer.trainings for each in training.datasets},
        "members": [training.members for training in answer.trainings if training.members],
        "terms": [fact.said for fact in answer.facts if fact.about == "terms"],
    }
    return {
        **found,
        "made_by": [f"{training.stage}, commit {training.commit}" for training in answer.trainings],
        "records": [training.run.where for training in answer.trainings if training.run.where],
        "promotion": promotion and {key: str(promotion[key]) for key in ("commit", "time", "who", "why")},
        "trained_on": trained if answer.trainings else None,
        "differs": [fact.said for fact in answer.facts if fact.word == "DIFFERS"],
        "ask": f"palimpsest audit checkpoint {_asked(answer, chosen, file)}",
    }


def _asked(answer: checkpoint.Checkpoint, chosen: Choice, file: Path) -> str:
    """What names a checkpoint to the audit for good: NAME@COMMIT, as far as a commit has it."""
    made = next(iter(answer.trainings), None)
    if made and made.commit:
        return f"{Path(made.checkpoint).name.removesuffix(ENDING)}@{made.commit[:10]}"
    return chosen.path or str(file)
