"""What every training stage shares: devices, exact resume, history, sample sheets, members, clean endings.

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
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypeVar, get_type_hints

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from stages.images import png
from stages.images.table import Table
from stages.runs import checkpoint, command, kernels, record
from stages.runs.errors import InputError
from stages.runs.header import Form, short
from stages.runs.params import Runtime

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from stages.images.examples import Sampler
    from stages.runs.params import Training

    Module = TypeVar("Module", bound=nn.Module)

NO_CHECKPOINT = "no_checkpoint.txt"  # the file of stages/models that stands for none: DVC takes no empty dep
STATE = "PALIMPSEST_STATE"  # environment: where state is kept; default .palimpsest/state


def prepare(runtime: Runtime) -> torch.device:
    """Pin kernels, threads and algorithms; the device of `runtime`.

    A precision that the device has no hardware for is named in one line on standard error. Raises InputError if the
    device is not here, and if torch was imported before portable kernels were chosen.
    """
    kernels.choose(runtime.kernels)
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # saves a tenth
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        device = torch.device(runtime.device)
        torch.empty(1, device=device)
        torch.autocast(device.type, torch.bfloat16)  # `meta` is a device too, and computes nothing
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"params.yaml: runtime.device: {runtime.device}: {str(error).splitlines()[0]}") from None
    hardware = device.type != "cuda" or torch.cuda.is_bf16_supported(including_emulation=False)
    if slow := kernels.slow_precision(device.type, runtime.precision, runtime.kernels, hardware):
        _say_once(slow)
    return device


@functools.cache
def _say_once(words: str) -> None:
    print(words, file=sys.stderr)


def autocast(runtime: Runtime, device: torch.device) -> torch.autocast:
    """bfloat16 arithmetic where `runtime.precision` asks for it; weights stay float32."""
    import torch

    return torch.autocast(device.type, torch.bfloat16, enabled=runtime.precision == "bf16")


def generator(seed: int, *keys: int) -> torch.Generator:
    """A CPU generator keyed by (seed, *keys)."""
    import torch

    return torch.Generator().manual_seed(
        int(np.random.SeedSequence([seed, *keys]).generate_state(1, np.uint64)[0] >> 1)
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Initial weights drawn inside depend on `seed` alone, and disturb no other draw."""
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def training_split(aligned: Path, key: str) -> Table:
    """The training pictures of a dataset; `key` is the parameter that names it. Raises InputError if there are none."""
    table = Table(aligned / "train.arrow")
    if not len(table):
        raise InputError(f"{table.path}: holds no training pictures; name a dataset with use: train in {key}")
    return table


class Team:
    """The processes that train together, one a device; most often there is one.

    Each takes its part of every batch; `wrap` makes their gradients those of the whole batch
    (Lightning Fabric's distributed data parallel). Losses and statistics over a batch are each
    process's own: batch normalisation is joined on GPUs, where torch can.
    """

    def __init__(self, runtime: Runtime, fabric: Any = None):
        self.runtime, self._fabric = runtime, fabric
        chosen = prepare(runtime)
        self.rank: int = fabric.global_rank if fabric else 0
        self.size: int = fabric.world_size if fabric else 1
        self.device: torch.device = fabric.device if fabric else chosen

    def autocast(self) -> torch.autocast:
        return autocast(self.runtime, self.device)

    def place(self, module: Module) -> Module:
        """`module` on the device, channels last in memory, in training mode."""
        import torch

        if self.size > 1 and self.device.type == "cuda":
            module = torch.nn.SyncBatchNorm.convert_sync_batchnorm(module)
        return module.to(self.device).to(memory_format=torch.channels_last).train()

    def wrap(self, module: nn.Module) -> nn.Module:
        """What to call for passes that train `module`; `module` itself on one device."""
        return self._fabric.setup_module(module, move_to_device=False) if self._fabric else module

    def share(self, batch: Tensor) -> Tensor:
        """This process's part of something that has one row a picture of the whole batch."""
        return batch[self.rank :: self.size].to(self.device)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over the processes, number by number."""
        if not self._fabric:
            return list(values)
        import torch

        return self._fabric.all_reduce(torch.tensor(values, dtype=torch.float32, device=self.device)).tolist()

    def barrier(self) -> None:
        if self._fabric:
            self._fabric.barrier()


def launch(runtime: Runtime, function: Callable[..., Callable[[], None]], *arguments: Any) -> Callable[[], None]:
    """`function(team, *arguments)`, in this process or in `runtime.devices` new ones; what the first returned.

    Signals are passed on: each process ends its step, the state is saved, and this one leaves as asked.
    """
    if runtime.devices == 1:
        return function(Team(runtime), *arguments)
    device = prepare(runtime)
    import torch

    if device.type == "cuda" and runtime.devices > torch.cuda.device_count():
        raise InputError(f"params.yaml: runtime.devices: {runtime.devices}, and here are {torch.cuda.device_count()}")
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy

    fabric = Fabric(
        accelerator="gpu" if runtime.device.startswith("cuda") else "cpu",
        devices=runtime.devices,
        # Buffers, the running statistics, are the first process's; sent about, they would break a second backward.
        strategy=DDPStrategy(start_method="spawn", forward_sync_buffers=False),
    )

    def pass_on(signum: int, frame: object) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid, signum)  # type: ignore[arg-type]

    handlers = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        # Bound beforehand: Fabric would look for tensors in arguments, and refuses frozen dataclasses.
        outcome: Any = fabric.launch(functools.partial(_one_of_many, runtime, function, arguments))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def _one_of_many(runtime: Runtime, function: Callable[..., Any], arguments: Sequence[Any], fabric: Any) -> Any:
    try:
        return function(Team(runtime, fabric), *arguments)
    except (InputError, KeyboardInterrupt, SystemExit) as ending:  # all processes come here together
        return ending


class Inputs(NamedTuple):
    """What a training stage reads."""

    aligned: Path
    start: Path  # the checkpoint whose weights it goes on from, or NO_CHECKPOINT


class Outputs(NamedTuple):
    """What a training stage writes."""

    model: Path
    members: Path
    history: Path
    samples: Path


def run(stage: Callable[..., Callable[[], None]]) -> None:
    """Run a training stage from the command line: `stage(team, inputs, outputs, params, name)`, in every process.

    It trains on the pictures of `inputs.aligned`/train.arrow, from the weights of the checkpoint `inputs.start` or from
    random ones (NO_CHECKPOINT); it writes checkpoint, members, history (CSV) and sample sheets, and returns what
    forgets the resume state, to be called once these are in place. Its section of `params.yaml` has its name, and
    fits the annotation of `params`. For the options and exit codes see `command.run`.
    """

    def entry(
        aligned: Path,
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
        return launch(runtime, stage, Inputs(aligned, start), outputs, params, name)

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
        sampler: Sampler,
        team: Team,
    ):
        import torch

        if params.batch % team.size:
            raise InputError(f"params.yaml: batch: {params.batch} is no multiple of runtime.devices: {team.size}")
        if params.batch < 2 * team.size:  # of one picture a batch normalisation has no variance
            raise InputError(f"params.yaml: batch: {params.batch} is less than two for each of {team.size} devices")
        self.name, self.params, self.parts, self.sampler, self.team = name, params, parts, sampler, team
        self.table = Table(inputs.aligned / "train.arrow")
        self._start = None if inputs.start.name == NO_CHECKPOINT else inputs.start
        self.inputs = {
            "network": network,
            "arguments": dict(arguments),
            "params": dataclasses.asdict(params),
            "runtime": dataclasses.asdict(team.runtime),
            "data": record.digest(self.table.path),
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
        if self.team.rank == 0:
            self._lock()
            (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        self.team.barrier()
        self._handlers = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        self._load()
        self._say(f"step {self.step}; samples and history while it trains: {self.folder}")
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        if self.team.rank == 0:
            self._locked.close()

    def _say(self, words: str) -> None:
        if self.team.rank == 0:
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

        total, hidden = self.params.steps, self.team.rank > 0
        with tqdm(total=total, initial=self.step, desc=self.name, unit="step", mininterval=2, disable=hidden) as bar:
            while self.step < total:
                yield self.step
                self.step += 1
                bar.update()
                if self.history and not self._window:
                    bar.set_postfix({k: f"{v:.3g}" for k, v in self.history[-1].items() if k != "step"}, refresh=False)
                # All stop at one step, whoever was asked or has found a fault.
                stop, fault = self.team.mean([self._stop, bool(self._fault)])
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
        values = dict(zip(parts, self.team.mean([value.item() for value in parts.values()]), strict=True))
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise InputError(
                f"the loss is not finite at step {self.step}: {', '.join(bad)}; lower the rate or use fp32"
            )
        self._window.append(values)
        if (self.step + 1) % self.params.log_every == 0 or self.step + 1 == self.params.steps:
            means = {name: sum(row[name] for row in self._window) / len(self._window) for name in values}
            self.history.append({"step": self.step + 1, **means})
            self._window.clear()
            if self.team.rank == 0:
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
        return self.team.rank == 0 and (done % self.params.sample_every == 0 or done == self.params.steps)

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
            raise InputError(f"after the last step {bad[0]} is not finite; lower the rate or use fp32")
        self._save()
        if self.team.rank == 0:
            inputs = self.inputs | {"members": write_members(outputs.members, self.table, self.sampler.seen)}
            checkpoint.save(outputs.model, tensors, inputs)
            outputs.history.write_text(self.history_csv())
            shutil.copytree(self.folder / "samples", outputs.samples)
        return functools.partial(shutil.rmtree, self.folder)

    def _tensors(self) -> dict[str, Tensor]:
        import torch

        tensors = {"seen": torch.from_numpy(self.sampler.seen.view(np.uint8))}
        for name, thing in self.parts.items():
            state = thing.state_dict()
            if "param_groups" in state:  # an optimiser: tensors by parameter number
                state = {f"{i}.{key}": value for i, values in state["state"].items() for key, value in values.items()}
            tensors.update({f"{name}.{key}": value for key, value in state.items()})
        return tensors

    def _save(self) -> None:
        if self.team.rank == 0:
            progress = {"step": self.step, "history": self.history, "window": self._window}
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
        self.sampler.seen[:] = saved.tensor("seen").numpy().view(bool)
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
        if saved.forms.get("seen") != Form("uint8", self.sampler.seen.shape):
            raise saved.wrong(f"`seen` is not of the {len(self.sampler.seen)} training pictures")
        return saved.inputs


@dataclass(config=ConfigDict(strict=True, allow_inf_nan=False))
class Progress:
    """What a state's metadata say."""

    step: Annotated[int, Field(ge=0)]
    history: list[dict[str, float]]
    window: list[dict[str, float]]


def _wanted(name: str, thing: Any, saved: checkpoint.Checkpoint) -> dict[str, Tensor]:
    """What a state must have of a part: a module's state dict; of Adam, all three of each parameter that has any."""
    state = thing.state_dict()
    if "param_groups" not in state:
        return state
    import torch

    parameters = [parameter for group in thing.param_groups for parameter in group["params"]]
    begun = {key.split(".")[1] for key in saved.forms if key.startswith(f"{name}.")}
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
        names = {name.partition(".")[0] for name in found.forms}
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


def write_members(path: Path, table: Table, seen: np.ndarray) -> str:
    """Write the keys of the rows that the loader really read; returns the file's md5."""
    keys = [key for key, was in zip(table.keys(), seen, strict=True) if was]
    ids, paths = zip(*keys, strict=True) if keys else ((), ())
    rows = pa.table({"image_id": pa.array(ids, pa.string()), "path": pa.array(paths, pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return record.digest(path)


def decay(ema: float, step: int) -> float:
    """The average's decay at a step: lower at first, or it would keep the untrained weights for long."""
    return min(ema, (1 + step) / (10 + step)) if ema else 0.0


def average(average: nn.Module, module: nn.Module, decay: float) -> None:
    """Move every weight and buffer of `average` to decay * itself + (1 - decay) * `module`'s, in place."""
    import torch

    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)
