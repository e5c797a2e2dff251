"""Checkpoints: safetensors with exactly one metadata key, the canonical JSON of what made them.

Nothing is pickled, and two trainings with the same inputs write the same bytes. A file may come from anywhere: its
header is compared with what is wanted of it before anything of the size that it claims is built or read.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, get_type_hints

from stages.runs.errors import InputError
from stages.runs.record import canonical

if TYPE_CHECKING:
    from torch import Tensor, nn

    Module = TypeVar("Module", bound=nn.Module)

KEY = "palimpsest"  # the one metadata key: several are written in no fixed order
DEEPEST = 20  # levels of the metadata; what is written has four
MAPPINGS = ("arguments", "params", "runtime")  # what metadata say of these is a mapping, wherever they say it
# How safetensors calls the types of number that torch has other names for.
TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class Form(NamedTuple):
    """What a tensor is but for its numbers."""

    kind: str  # torch's name: float32
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.kind} {' x '.join(map(str, self.shape)) or 'scalar'}"


def save(path: Path, tensors: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> None:
    """Write `tensors` with `inputs` (network, arguments, params, digests) as their metadata, atomically."""
    from safetensors.torch import save_file

    draft = path.with_name(path.name + ".draft")
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(ready, draft, metadata={KEY: canonical(inputs)})
    draft.replace(path)


class Checkpoint:
    """A checkpoint of which the header alone has been read: what made it, and the form of its tensors.

    `remedy` ends the line that says what is wrong with it.

    Raises InputError for a file that is missing, empty, cut short, a pickle or not the project's.
    """

    path: Path
    inputs: dict[str, Any]  # what made it; `arguments`, `params` and `runtime` are mappings where they are there
    forms: dict[str, Form]  # of every tensor, by name

    def __init__(self, path: Path, remedy: str = "remove it and run `dvc repro`"):
        from safetensors import SafetensorError, safe_open

        self.path, self._remedy = path, remedy
        try:
            with safe_open(path, "np") as file:  # the header needs no torch
                self.inputs = _inputs((file.metadata() or {})[KEY])
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise InputError(f"{path}: no such checkpoint; `dvc repro` or `dvc pull` makes it") from None
        except (SafetensorError, KeyError, ValueError, RecursionError, OSError) as error:
            raise InputError(f"{path}: not a checkpoint of Palimpsest ({_said(error)}); {remedy}") from None
        self.forms = {
            name: Form(TYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
            for name, part in slices.items()
        }

    def wrong(self, said: str) -> InputError:
        """To be raised: what it says that it is, and what it holds, differ."""
        network = self.inputs.get("network")
        noun = network if isinstance(network, str) else "checkpoint"
        return InputError(f"{self.path}: not a whole {noun[:40]} ({said}); {self._remedy}")

    def mapping(self, key: str) -> dict[str, Any]:
        """What the metadata say of `key`. Raises InputError where they say nothing."""
        if not isinstance(found := self.inputs.get(key), dict):
            raise self.wrong(f"its metadata have no {key}")
        return found

    def build(self, part: str, kind: type[Module], arguments: Mapping[str, Any]) -> Module:
        """`kind(**arguments)` on the CPU, with the weights that the file has under `part`.

        Raises InputError where `kind` does not take these arguments, or the file has other tensors than it.
        """
        import torch

        if fault := unfit(kind, arguments):
            raise self.wrong(fault)
        try:
            # On this device nothing takes memory. One tensor too few is to be named below: so not at once.
            with torch.device("meta"), at_most(len(self.forms) + 1000):
                module = kind(**arguments)
        except Exception as error:  # a constructor may stumble over foreign arguments in any way
            raise self.wrong(_said(error)) from None
        self.compare(part, module.state_dict())
        return self.fill(part, module.to_empty(device="cpu"))

    def fill(self, part: str, module: Module) -> Module:
        """`module` with the weights under `part`. Raises InputError where they are not its own, or not finite."""
        self.compare(part, module.state_dict())
        module.load_state_dict(self.tensors(part))
        return module

    def compare(self, part: str, wanted: Mapping[str, Tensor]) -> None:
        """Raise InputError unless the tensors under `part` are of exactly the names and forms of `wanted`."""
        there = {name[len(part) + 1 :]: form for name, form in self.forms.items() if name.startswith(part + ".")}
        forms = {
            name: Form(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for name, tensor in wanted.items()
        }
        for name in sorted(forms.keys() | there.keys()):
            if name not in there:
                raise self.wrong(f"it has no {part}.{name}")
            if name not in forms:
                raise self.wrong(f"{part}.{name[:80]} is none of the network's")
            if there[name] != forms[name]:
                raise self.wrong(f"{part}.{name} is {there[name]}, and the network's {forms[name]}")

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors under `part`, named without it: a module's state dict. Raises InputError as `tensor` does."""
        return {name[len(part) + 1 :]: self.tensor(name) for name in self.forms if name.startswith(part + ".")}

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU. Raises InputError where not all of its numbers are finite."""
        import torch
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise self.wrong(f"{name} is not finite")
        return tensor


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors (on the CPU) and the metadata of a checkpoint, whatever they are; raises InputError as it does."""
    found = Checkpoint(path)
    return {name: found.tensor(name) for name in found.forms}, found.inputs


def unfit(kind: type, arguments: Mapping[str, Any]) -> str | None:
    """Why a constructor does not take these arguments, by its annotations; None if it does."""
    from pydantic import TypeAdapter, ValidationError

    try:
        inspect.signature(kind).bind(**arguments)
    except TypeError as error:  # missing, or unheard of
        return f"arguments: {_said(error)}"
    hints = get_type_hints(kind.__init__)  # type: ignore[misc]
    for name, value in arguments.items():
        try:
            TypeAdapter(hints[name]).validate_json(json.dumps(value, allow_nan=False), strict=True)
        except ValidationError as error:
            return f"arguments: {name}: {error.errors()[0]['msg'].lower()}, not {short(value)}"
        except ValueError:  # 1e999 is read as infinity
            return f"arguments: {name} is {short(value)}"
    return None


@contextmanager
def at_most(count: int) -> Iterator[None]:
    """While this lasts, building a network of more than `count` parameters raises ValueError."""
    from torch.nn.modules.module import register_module_parameter_registration_hook

    left = count

    def registered(*_: object) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise ValueError("its arguments are of a network with far more tensors than the file has")

    hook = register_module_parameter_registration_hook(registered)
    try:
        yield
    finally:
        hook.remove()


def _inputs(text: str) -> dict[str, Any]:
    inputs = json.loads(text, parse_constant=_refuse)
    if not isinstance(inputs, dict):
        raise ValueError("its metadata are no mapping")
    for key in MAPPINGS:
        if not isinstance(inputs.get(key, {}), dict):
            raise ValueError(f"{key} in its metadata is no mapping")
    level: list[Any] = [inputs]
    for _ in range(DEEPEST):
        inner = [value.values() if isinstance(value, dict) else value for value in level]
        level = [value for values in inner for value in values if isinstance(value, dict | list)]
    if level:
        raise ValueError("its metadata are nested too deeply")
    return inputs


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} in its metadata")


def short(value: Any) -> str:
    """A value from a file, for a message: its first letters."""
    text = str(value)
    return text if len(text) <= 60 else text[:60] + "..."


def _said(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines and not isinstance(error, RecursionError) else type(error).__name__
