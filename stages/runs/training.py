"""What every training stage shares: exact resume, history, sample sheets, members, clean endings.

Randomness is keyed by (seed, step) and the order of pictures by (seed, epoch), so that nothing
random has to be saved: a training that was killed goes on from its last state and ends in the same
bytes as one that never stopped. The state lies outside DVC's outputs, in a folder named after a
fingerprint of everything that the result depends on.
"""

from __future__ import annotations

import csv
import fcntl
import functools
import hashlib
import io
import math
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa

from stages.runs import checkpoint, record
from stages.runs.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from stages.images.table import Table
    from stages.runs.params import Runtime

STATE = "PALIMPSEST_STATE"  # environment: where state is kept; default .palimpsest/state


def prepare(runtime: Runtime) -> torch.device:
    """Pin threads and algorithms; the device of `runtime`. Raises InputError if it is not here."""
    import torch

    torch.set_num_threads(runtime.threads)
    torch.use_deterministic_algorithms(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    try:
        device = torch.device(runtime.device)
        torch.empty(1, device=device)
        torch.autocast(device.type, torch.bfloat16)  # `meta` is a device too, and computes nothing
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"params.yaml: runtime.device: {runtime.device}: {str(error).splitlines()[0]}") from None
    return device


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


def training_split(aligned: Path, key: str) -> Table:
    """The training pictures of a dataset; `key` is the parameter that names it. Raises InputError if there are none."""
    from stages.images.table import Table

    table = Table(aligned / "train.arrow")
    if not len(table):
        raise InputError(f"{table.path}: holds no training pictures; name a dataset with use: train in {key}")
    return table


class Sampler:
    """Batches of row numbers: every picture once an epoch, in an order keyed by (seed, epoch).

    A last batch that would be short takes its missing rows from the next epoch. `seen` marks every
    row ever handed out.
    """

    def __init__(self, count: int, batch: int, seed: int):
        self.count, self.batch, self.seed = count, batch, seed
        self.seen = np.zeros(count, bool)
        self._orders: dict[int, np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        """The row numbers (int64, `batch` of them) of a step, counted from 0."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs, offsets = np.divmod(places, self.count)
        for epoch in {int(epoch) for epoch in epochs} - set(self._orders):
            self._orders = {e: order for e, order in self._orders.items() if e == epoch - 1}
            self._orders[epoch] = np.random.default_rng([self.seed, epoch]).permutation(self.count)
        rows = np.array([self._orders[int(epoch)][offset] for epoch, offset in zip(epochs, offsets, strict=True)])
        self.seen[rows] = True
        return rows


class Run:
    """One training: its state folder, history and samples.

    `parts` are the modules and optimisers whose state makes the run; `inputs` is everything that
    the result depends on (params, data digest, runtime), to which code and torch version are added.
    Use as a context; iterate over `steps(total)`, and call `log` once a step.
    """

    def __init__(
        self, name: str, parts: Mapping[str, Any], sampler: Sampler, inputs: Mapping[str, Any], save_every: int
    ):
        import torch

        self.name, self.parts, self.sampler, self.save_every = name, parts, sampler, save_every
        facts = {"name": name, "inputs": inputs, "code": record.code_digest(), "torch": torch.__version__}
        self.fingerprint = hashlib.sha256(record.canonical(facts).encode()).hexdigest()[:24]
        self.folder = Path(os.environ.get(STATE, ".palimpsest/state")) / f"{name}-{self.fingerprint}"
        self.step = 0
        self.history: list[dict[str, float]] = []
        self._window: list[dict[str, float]] = []  # the steps since the last row of history
        self._stop: int | None = None

    def __enter__(self) -> Self:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = (self.folder.parent / f"{self.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"{self.name}: waiting for another training of this name to end", file=sys.stderr)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        (self.folder / "samples").mkdir(parents=True, exist_ok=True)
        self._handlers = {s: signal.signal(s, self._ask_to_stop) for s in (signal.SIGINT, signal.SIGTERM)}
        self._load()
        print(f"{self.name}: step {self.step}; samples and history while it trains: {self.folder}", file=sys.stderr)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        self._lock.close()

    def _ask_to_stop(self, signum: int, frame: object) -> None:
        self._stop = signum

    def steps(self, total: int) -> Iterator[int]:
        """The steps still to do, counted from 0, with a progress bar.

        State is saved every `save_every` steps, and when SIGINT or SIGTERM arrives: the step in
        hand is finished and saved, then KeyboardInterrupt or SystemExit(143) is raised.
        """
        from tqdm import tqdm

        with tqdm(total=total, initial=self.step, desc=self.name, unit="step", mininterval=2) as bar:
            while self.step < total:
                yield self.step
                self.step += 1
                bar.update()
                if self.history and not self._window:
                    bar.set_postfix({k: f"{v:.3g}" for k, v in self.history[-1].items() if k != "step"}, refresh=False)
                if self._stop is not None:
                    self._save()
                    if self._stop == signal.SIGINT:
                        raise KeyboardInterrupt
                    raise SystemExit(128 + self._stop)
                if self.step % self.save_every == 0 and self.step < total:
                    self._save()

    def log(self, parts: Mapping[str, Tensor], every: int) -> None:
        """Keep this step's loss parts; every `every` steps their means become a row of history.

        Raises InputError that names every part that is not finite: training stops there.
        """
        values = {name: value.item() for name, value in parts.items()}
        bad = [f"{name} = {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise InputError(
                f"the loss is not finite at step {self.step}: {', '.join(bad)}; lower the rate or use fp32"
            )
        self._window.append(values)
        if (self.step + 1) % every == 0:
            means = {name: sum(row[name] for row in self._window) / len(self._window) for name in values}
            self.history.append({"step": self.step + 1, **means})
            self._window.clear()
            (self.folder / "history.csv").write_text(self.history_csv())

    def history_csv(self) -> str:
        """The history as CSV, values to 6 significant digits."""
        text = io.StringIO()
        names = ["step", *sorted({name for row in self.history for name in row} - {"step"})]
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(names)
        for row in self.history:
            writer.writerow([f"{row[name]:.6g}" for name in names])
        return text.getvalue()

    def sheet(self, pictures: Tensor, columns: int = 8) -> None:
        """Save N x 3 x H x W pictures in [-1, 1] as one PNG of this step."""
        from torchvision.utils import save_image

        path = self.folder / "samples" / f"{self.step + 1:07d}.png"
        save_image((pictures.float().cpu() + 1) / 2, path, nrow=columns, padding=1)

    def finish(self, history: Path, samples: Path) -> Callable[[], None]:
        """Hand over history and sample sheets; returns what forgets the state.

        That is for `command` to call once the outputs are in place: a kill before then loses no step.
        """
        self._save()
        history.write_text(self.history_csv())
        shutil.copytree(self.folder / "samples", samples)
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
        progress = {"step": self.step, "history": self.history, "window": self._window}
        checkpoint.save(self.folder / "state.safetensors", self._tensors(), progress)

    def _load(self) -> None:
        path = self.folder / "state.safetensors"
        if not path.exists():
            return
        tensors, progress = checkpoint.load(path)
        self.sampler.seen[:] = tensors["seen"].numpy().view(bool)
        for name, thing in self.parts.items():
            state: dict[str, Any] = checkpoint.part(tensors, name)
            if "param_groups" in (empty := thing.state_dict()):
                moments: dict[int, dict[str, Tensor]] = {}
                for key, value in state.items():
                    number, _, kind = key.partition(".")
                    moments.setdefault(int(number), {})[kind] = value
                state = {"state": moments, "param_groups": empty["param_groups"]}
            thing.load_state_dict(state)
        self.step, self.history, self._window = progress["step"], progress["history"], progress["window"]


def write_members(path: Path, table: Table, seen: np.ndarray) -> str:
    """Write the keys of the rows that the loader really read; returns the file's md5."""
    keys = [key for key, was in zip(table.keys(), seen, strict=True) if was]
    ids, paths = zip(*keys, strict=True) if keys else ((), ())
    rows = pa.table({"image_id": pa.array(ids, pa.string()), "path": pa.array(paths, pa.string())})
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, rows.schema) as writer:
        writer.write_table(rows)
    return record.digest(path)


def average(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    """Move every weight and buffer of `average` to decay * itself + (1 - decay) * `module`'s, in place."""
    import torch

    with torch.no_grad():
        for kept, new in zip(average.state_dict().values(), module.state_dict().values(), strict=True):
            if kept.is_floating_point():
                kept.lerp_(new, 1 - decay)
            else:
                kept.copy_(new)
