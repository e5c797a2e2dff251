"""One training: exact resume, history, sample sheets, members, clean endings.

Randomness is keyed by (seed, step) and the order of pictures by (seed, epoch), so that nothing
random has to be saved: a training that was killed goes on from its last state and ends in the same
bytes as one that never stopped. The state lies outside DVC's outputs, in a folder named after a
fingerprint of everything that the result depends on.
"""

from __future__ import annotations

import csv
import dataclasses
import fcntl
import functools
import hashlib
import inspect
import io
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, get_type_hints

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.images import png
from stages.images.table import Key
from stages.runs import command, record
from stages.runs.errors import InputError
from stages.runs.header import TensorSpec, short
from stages.runs.params import Runtime
from stages.training import checkpoint
from stages.training.distributed import DistributedContext, launch

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stages.training.examples import Examples
    from stages.training.params import Training

NO_CHECKPOINT = "no_checkpoint.txt"  # the file of stages/models that stands for none: DVC takes no empty dep
SEEN = "seen"  # part of a state: of each table, which of its rows were read; an erasure looks there
STATE = "PALIMPSEST_STATE"  # environment: where state is kept; default .palimpsest/state


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside depend on `seed` alone, and disturb no other draw."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


class Inputs(NamedTuple):
    """What a training stage reads."""

    train: Path  # the table of training pictures
    also: Path  # a second one, or NO_TABLE of params.py
    start: Path  # the checkpoint whose weights it goes on from, or NO_CHECKPOINT


class Outputs(NamedTuple):
    """What a training stage writes."""

    model: Path
    members: Path
    history: Path
    samples: Path


def run(stage: Callable[..., Callable[[], None]]) -> None:
    """Run a training stage from the command line: `stage(context, inputs, outputs, params, name)`, in every process.

    It trains on the pictures of the tables `inputs.train` and `inputs.also`, from the weights of the checkpoint
    `inputs.start` or from random ones (NO_CHECKPOINT); it writes checkpoint, members, history (CSV) and sample sheets,
    and returns what forgets the resume state, to be called once these are in place. Its section of `params.yaml` has
    its name, and fits the annotation of `params`. For the options and exit codes see `command.run`.
    """

    def entry(
        train: Path,
        also: Path,
        start: Path,
        model: Path,
        members: Path,
        history: Path,
        samples: Path,
        params: Any,
        runtime: Runtime,
        name: str,
    ) -> Callable[[], None]:
        outputs = Outputs(model, members, history, samples)
        return launch(runtime, stage, Inputs(train, also, start), outputs, params, name)

    entry.__name__, entry.__doc__ = stage.__name__, stage.__doc__
    entry.__annotations__["params"] = get_type_hints(stage)["params"]
    sections = {"params": f"{stage.__name__}.{{name}}", "runtime": "runtime"}
    command.run(entry, sections=sections, inputs=Inputs._fields, outputs=Outputs._fields)


class Run:
    """One training: its state folder, history and samples, and at last its outputs.

    `parts` are the modules and optimisers whose state makes the run. The checkpoint says what made
    it: `network` (a file of stages/models), its constructor's `arguments`, the parameters and the data.
    Use as a context; iterate over `steps()`, and call `log` once a step.
    """

    def __init__(
        self,
        name: str,
        network: str,
        arguments: Mapping[str, Any],
        params: Training,
        inputs: Inputs,
        parts: Mapping[str, Any],
        examples: Examples,
        context: DistributedContext,
    ):
        import torch

        if params.batch % context.size:
            raise InputError(f"params.yaml: batch: {params.batch} is no multiple of runtime.devices: {context.size}")
        if params.batch < 2 * context.size:  # of one picture a batch normalisation has no variance
            raise InputError(f"params.yaml: batch: {params.batch} is less than two for each of {context.size} devices")
        self.name, self.params, self.parts, self.context = name, params, parts, context
        self.pictures, self.sampler = examples.pictures, examples.sampler
        self._start = None if inputs.start.name == NO_CHECKPOINT else inputs.start
        self.inputs = {
            "network": network,
            "arguments": dict(arguments),
            "params": dataclasses.asdict(params),
            "runtime": dataclasses.asdict(context.runtime),
            **self.pictures.digests,
            "start": record.digest(self._start) if self._start else None,
        }
        facts = {"name": name, "inputs": self.inputs, "code": record.code_digest(), "torch": torch.__version__}
        self.fingerprint = hashlib.sha256(record.canonical(facts).encode()).hexdigest()[:24]
        self.folder = Path(os.environ.get(STATE, ".palimpsest/state")) / f"{name}-{self.fingerprint}"
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._window: list[dict[str, float]] = []  # the steps since the last row of history
        self._stop: int = 0
        self._fault: InputError | None = None  # what ends the run, once every process knows

    def __enter__(self) -> Self:
        if self.context.rank == 0:
            self._lock()
            (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        self.context.barrier()
        self._handlers = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        self._load()
        self._say(f"step {self.step}; samples and history while it trains: {self.folder}")
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.context.rank == 0:
            self._locked.close()

    def _say(self, words: str) -> None:
        if self.context.rank == 0:
            print(f"{self.name}: {words}", file=sys.stderr)

    def _lock(self) -> None:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._locked = (self.folder.parent / f"{self.name}.lock").open("w")
        try:
            fcntl.flock(self._locked, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._say("waiting for another training of this name to end")
            fcntl.flock(self._locked, fcntl.LOCK_EX)

    def _ask_to_stop(self, signum: int, frame: object) -> None:
        self._stop = signum

    def steps(self) -> Iterator[int]:
        """The steps still to do, counted from 0, with a progress bar.

        State is saved every `save_every` steps, and when SIGINT or SIGTERM arrives: the step in
        hand is finished and saved, then KeyboardInterrupt or SystemExit(143) is raised.
        """
        from tqdm import tqdm

        total, hidden = self.params.steps, self.context.rank > 0
        with tqdm(total=total, initial=self.step, desc=self.name, unit="step", mininterval=2, disable=hidden) as bar:
            while self.step < total:
                yield self.step
                self.step += 1
                bar.update()
                if self.history and not self._window:
                    bar.set_postfix({k: f"{v:.3g}" for k, v in self.history[-1].items() if k != "step"}, refresh=False)
                # All stop at one step, whoever was asked or has found a fault.
                stop, fault = self.context.all_reduce_mean([self._stop, bool(self._fault)])
                if fault:
                    raise self._fault or InputError("another process of the training has found a fault")
                if stop:
                    self._save()
                    if stop == signal.SIGINT or self._stop == signal.SIGINT:
                        raise KeyboardInterrupt
                    raise SystemExit(128 + signal.SIGTERM)
                if self.step % self.params.save_every == 0 and self.step < total:
                    self._save()

    def log(self, parts: Mapping[str, Tensor]) -> None:
        """Keep this step's loss parts; every `log_every` steps their means become a row of history.

        The last row is the last step's, of fewer steps where `log_every` does not divide them.

        Raises InputError that names every part that is not finite: training stops there.
        """
        values = dict(zip(parts, self.context.all_reduce_mean([value.item() for value in parts.values()]), strict=True))
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise InputError(f"the loss is not finite at step {self.step}: {', '.join(bad)}; lower the lr or use fp32")
        self._window.append(values)
        if (self.step + 1) % self.params.log_every == 0 or self.step + 1 == self.params.steps:
            means = {name: sum(row[name] for row in self._window) / len(self._window) for name in values}
            self.history.append({"step": self.step + 1, **means})
            self._window.clear()
            if self.context.rank == 0:
                (self.folder / "history.csv").write_text(self.history_csv())

    def history_csv(self) -> str:
        """The history as CSV, values to 6 significant digits."""
        text = io.StringIO()
        names = ["step", *sorted({name for row in self.history for name in row} - {"step"})]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in self.history:
            writer.writerow([f"{row[name]:.6g}" if name in row else "" for name in names])
        return text.getvalue()

    def sheet_due(self) -> bool:
        """Whether this step is one of every `sample_every`, or the last; for the first process alone."""
        done = self.step + 1
        return self.context.rank == 0 and (done % self.params.sample_every == 0 or done == self.params.steps)

    def sheet(self, rows: Sequence[Tensor]) -> None:
        """Save rows of pictures, each N x 3 x H x W in [-1, 1], as one PNG of this step.

        A value that is not finite ends the run after this step: `steps` raises InputError in every process.
        """
        import torch
        from torchvision.utils import make_grid

        from stages.images.tensors import to_pictures

        grid = make_grid(torch.cat([row.float().cpu() for row in rows]), nrow=len(rows[0]), padding=1, pad_value=-1)
        path = self.folder / "samples" / f"{self.step + 1:07d}.png"
        try:
            pictures = to_pictures(grid[None], lambda _: f"the sample sheet of step {self.step + 1}")
        except InputError as fault:
            self._fault = fault
            return
        path.write_bytes(png.encode(pictures[0]))

    def finish(self, outputs: Outputs, networks: Mapping[str, nn.Module]) -> Callable[[], None]:
        """Write checkpoint (each network under its name), members, history and samples.

        Returns what forgets the state, for `command` to call once the outputs are in place: a kill
        before then loses no step. Raises InputError for a weight that is not finite.
        """
        tensors = {f"{name}.{key}": value for name, n in networks.items() for key, value in n.state_dict().items()}
        if bad := [name for name, value in tensors.items() if not value.isfinite().all()]:
            raise InputError(f"after the last step {bad[0]} is not finite; lower the lr or use fp32")
        self._save()
        if self.context.rank == 0:
            inputs = self.inputs | {"members": write_members(outputs.members, self.pictures.keys(), self.sampler.seen)}
            checkpoint.save(outputs.model, tensors, inputs)
            outputs.history.write_text(self.history_csv())
            shutil.copytree(self.folder / "samples", outputs.samples)
        return functools.partial(shutil.rmtree, self.folder)

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        seen = self.pictures.by_table(self.sampler.seen)
        tensors = {f"{SEEN}.{name}": torch.from_numpy(marks.view(np.uint8)) for name, marks in seen.items()}
        for name, thing in self.parts.items():
            state = thing.state_dict()
            if "param_groups" in state:  # an optimiser: tensors by parameter number
                state = {f"{i}.{key}": value for i, values in state["state"].items() for key, value in values.items()}
            tensors.update({f"{name}.{key}": value for key, value in state.items()})
        return tensors

    def _save(self) -> None:
        if self.context.rank == 0:
            progress = {"step": self.step, "history": self.history, "window": self._window}
            progress["start"] = self.inputs["start"]  # an erasure that removes it removes this state
            checkpoint.save(self.folder / "state.safetensors", self._tensors(), progress)

    def _load(self) -> None:
        path = self.folder / "state.safetensors"
        if not path.exists():
            if self._start:
                load_weights(self._start, self.inputs, self.parts, self.params)
            return
        saved = checkpoint.Checkpoint(path, "remove it, and the training begins anew")
        progress = self._progress(saved)
        for name, thing in self.parts.items():
            saved.compare(name, _wanted(name, thing, saved))
        seen = {name: tensor.numpy().view(bool) for name, tensor in saved.tensors(SEEN).items()}
        self.sampler.seen[:] = self.pictures.joined(seen)
        for name, thing in self.parts.items():
            state: dict[str, Any] = saved.tensors(name)
            if "param_groups" in (empty := thing.state_dict()):
                moments: dict[int, dict[str, Tensor]] = {}
                for key, value in state.items():
                    number, _, kind = key.partition(".")
                    moments.setdefault(int(number), {})[kind] = value
                state = {"state": moments, "param_groups": empty["param_groups"]}
            thing.load_state_dict(state)
            if "param_groups" in state:
                _lay_out(thing)
        self.step, self.history, self._window = progress["step"], progress["history"], progress["window"]

    def _progress(self, saved: checkpoint.Checkpoint) -> dict[str, Any]:
        """How far the training was. Raises InputError for what no training of this kind has saved."""
        try:
            TypeAdapter(Progress).validate_json(record.canonical(saved.inputs))
        except ValidationError as error:
            fault = error.errors()[0]
            raise saved.wrong(f"{'.'.join(map(str, fault['loc']))}: {fault['msg'].lower()}") from None
        if saved.inputs["step"] > self.params.steps:
            raise saved.wrong(f"step {saved.inputs['step']} of {self.params.steps}")
        for name, table in self.pictures.tables.items():
            if saved.specs.get(f"{SEEN}.{name}") != TensorSpec("uint8", (len(table),)):
                raise saved.wrong(f"`{SEEN}.{name}` is not of the {len(table)} pictures of {table.path}")
        return saved.inputs


@dataclass(config=ConfigDict(strict=True, allow_inf_nan=False))
class Progress:
    """What a state's metadata say."""

    step: Annotated[int, Field(ge=0)]
    history: list[dict[str, float]]
    window: list[dict[str, float]]
    start: str | None  # md5 of the checkpoint that it has gone on from


def _wanted(name: str, thing: Any, saved: checkpoint.Checkpoint) -> dict[str, Tensor]:
    """What a state must have of a part: a module's state dict; of Adam, all three of each parameter that has any."""
    state = thing.state_dict()
    if "param_groups" not in state:
        return state
    import torch

    parameters = [parameter for group in thing.param_groups for parameter in group["params"]]
    begun = {key.split(".")[1] for key in saved.specs if key.startswith(f"{name}.")}
    wanted = {}
    for number, parameter in enumerate(parameters):
        if str(number) in begun:
            wanted[f"{number}.step"] = torch.empty((), dtype=torch.float32)
            wanted |= {f"{number}.{moment}": parameter for moment in ("exp_avg", "exp_avg_sq")}
    return wanted


def _lay_out(adam: torch.optim.Optimizer) -> None:
    """Moments in their parameters' memory format, as they were: fused Adam walks both without looking at strides."""
    import torch

    for parameter, moments in adam.state.items():
        for name, value in moments.items():
            if value.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter, requires_grad=False).copy_(value)


def load_weights(path: Path, inputs: Mapping[str, Any], parts: Mapping[str, Any], params: Training) -> None:
    """The weights of a checkpoint into those networks of `parts` that it has; an average begins at its network.

    Raises InputError where it is no checkpoint, and where it is of another network, of other arguments of it, or of
    other parameters that shape a part's weights (`params.shaping()`), by the keys that differ.
    """
    try:
        found = checkpoint.Checkpoint(path, f"get it anew, or start from {NO_CHECKPOINT}")
        names = {name.partition(".")[0] for name in found.specs}
        main = "generator" if "generator" in parts else "network"
        # What an older version did not write is its default.
        defaults = {key: p.default for key, p in inspect.signature(type(parts[main])).parameters.items()}
        theirs = {**defaults, "network": found.inputs.get("network"), **found.inputs.get("arguments", {})}
        ours = {"network": inputs["network"], **inputs["arguments"]}
        usual = {item.name: item.default for item in dataclasses.fields(params)}
        shaping = params.shaping()
        for part in shaping.keys() & parts.keys() & names:
            for key in shaping[part]:
                given = {**usual, **found.inputs.get("params", {})}[key], inputs["params"][key]
                if given != (None, None):  # null: as `width`, which is compared anyway
                    for side, value in zip((theirs, ours), given, strict=True):
                        side[key] = side.get("width") if value is None else value
        if other := [key for key, value in ours.items() if theirs.get(key) != value]:
            said = ", ".join(f"{key} {short(theirs.get(key))} (here {ours[key]})" for key in other)
            raise InputError(
                f"{path}: of another network: {said}; set these to the checkpoint's, or start from {NO_CHECKPOINT}"
            )
        sources = {name: main if name == "averaged" else name for name in parts}
        wanted = {name: source for name, source in sources.items() if source in names or source == main}
        for name, source in wanted.items():
            found.compare(source, parts[name].state_dict())
        for name, source in wanted.items():
            found.fill(source, parts[name])
    except InputError as error:
        raise InputError(f"start: {error}") from None


def write_members(path: Path, keys: Sequence[Key], seen: np.ndarray) -> str:
    """Write those of the pictures' keys that the loader really read, each once; returns the file's md5."""
    read = [*dict.fromkeys(key for key, was in zip(keys, seen, strict=True) if was)]
    ids, paths = zip(*read, strict=True) if read else ((), ())
    rows = pa.table({"image_id": pa.array(ids, pa.string()), "path": pa.array(paths, pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return record.digest(path)
