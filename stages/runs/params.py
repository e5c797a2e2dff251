"""Reading `params.yaml`: strictly, so that a mistyped key is an error and never a silent default."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from stages.runs.errors import InputError

# Every top-level section that some stage or flow reads; anything else in the file is a typing error.
SECTIONS = (
    "runtime",
    "draw",
    "datasets",
    "train_dcgan",
    "train_autoencoder",
    "train_partial_conv",
    "train_context_encoder",
    "train_dmfn",
    "search",
    "infer",
    "blend",
    "evaluate",
    "report",
    "retrain",  # read by flows/retrain.py alone
)
DATASET = ("ingest", "align", "mask")  # the sections of each entry of `datasets`: the stages that run for it

# For the `Params` dataclass of every stage: `@dataclass(frozen=True, config=STRICT)`.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Section = TypeVar("Section")


@dataclass(frozen=True, config=STRICT)
class Runtime:
    """Where and how the numbers are computed; each of these changes output bytes."""

    device: str = "cpu"  # a torch device: cpu, cuda, cuda:1
    threads: int = 2  # torch's intra-op threads; 1 and 2 give different bytes
    precision: str = "fp32"  # fp32 or bf16 (autocast; weights stay float32)
    kernels: str = "native"  # native: all that the CPU has; portable: the same bytes on every CPU with AVX2 and FMA
    devices: int = 1  # processes that train together, one a device; for training alone

    def __post_init__(self) -> None:
        if self.threads < 1 or self.devices < 1:
            raise ValueError("threads and devices must be at least 1")
        if self.precision not in ("fp32", "bf16"):
            raise ValueError("precision must be fp32 or bf16")
        if self.kernels not in ("portable", "native"):
            raise ValueError("kernels must be portable or native")


@dataclass(frozen=True, config=STRICT)
class Training:
    """What every training stage is told; each stage's `Params` adds its own."""

    dataset: str  # the dataset whose training split it learns
    start: str = "stages/models/no_checkpoint.txt"  # a checkpoint to go on from (a dep); that file: random weights
    steps: Annotated[int, Field(ge=1)] = 1000  # updates of the network
    batch: Annotated[int, Field(ge=2)] = 16  # pictures a step, over all devices
    rate: Annotated[float, Field(gt=0)] = 2e-4  # Adam's
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0  # decay of the averaged network that is saved; 0: the last weights
    mirror: bool = True  # half of the pictures mirrored
    seed: Annotated[int, Field(ge=0)] = 1
    log_every: Annotated[int, Field(ge=1)] = 10  # steps a row of history
    sample_every: Annotated[int, Field(ge=1)] = 200  # steps a sample sheet
    save_every: Annotated[int, Field(ge=1)] = 100  # steps between states for resuming

    # Parameters without which a part's weights mean nothing, beside its network's arguments: `start` compares them.
    shaping: ClassVar[Mapping[str, Sequence[str]]] = {}


def load(path: Path) -> dict[str, Any]:
    """The whole file as plain dicts (YAML 1.2, as DVC reads it: `1e-4` is a number).

    Raises InputError for a missing or malformed file and for an unknown section, of the file or of a dataset.
    """
    try:
        values = YAML(typ="safe", pure=True).load(path)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run from the project's root") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except YAMLError as error:
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping of sections: {', '.join(SECTIONS)}")
    _refuse_unknown(path, "section", values, SECTIONS)
    datasets = values.get("datasets")
    for name, entry in datasets.items() if isinstance(datasets, dict) else ():
        _refuse_unknown(path, f"section of datasets.{name}", entry, DATASET)
    return values


def _refuse_unknown(path: Path, noun: str, node: Any, known: tuple[str, ...]) -> None:
    for name in node if isinstance(node, dict) else ():
        if name not in known:
            raise InputError(f"{path}: unknown {noun} '{name}'; one of: {', '.join(known)}")


def section(values: dict[str, Any], dotted: str, kind: type[Section]) -> Section:
    """The section `dotted` ("datasets.portraits.align") of `values` as the dataclass `kind`.

    Raises InputError that names every key that is missing, unknown or of the wrong type.
    """
    node: Any = values
    walked: list[str] = []
    for name in dotted.split("."):
        walked.append(name)
        if not isinstance(node, dict) or name not in node:
            known = f"; there is: {', '.join(map(str, node))}" if isinstance(node, dict) else ""
            raise InputError(f"params.yaml: no '{'.'.join(walked)}'{known}")
        node = node[name]
    return build(kind, node, dotted)


def build(kind: type[Section], node: Any, dotted: str) -> Section:
    """`node` as the dataclass `kind`; see `section`."""
    try:
        # JSON mode: strict about types, yet a YAML list may become a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(node))
    except ValidationError as error:
        faults = [_fault(dotted, dict(item)) for item in error.errors(include_url=False)]
        raise InputError("params.yaml: " + "; ".join(faults)) from None
    except TypeError as error:  # a date or another thing JSON has no word for
        raise InputError(f"params.yaml: {dotted}: {error}") from None


def _fault(dotted: str, item: dict[str, Any]) -> str:
    where = ".".join([dotted, *(str(part) for part in item["loc"])])
    if item["type"] == "unexpected_keyword_argument":
        return f"unknown key '{where}'"
    if item["type"] == "missing":
        return f"missing key '{where}'"
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = item.get("input")
    got = f" (got {shown!r})" if isinstance(shown, str | int | float | bool | None) else ""
    return f"{where}: {message[:1].lower()}{message[1:]}{got}"
