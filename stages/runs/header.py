"""What a checkpoint says of itself, read without torch and without the numbers in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from stages.runs.errors import InputError

KEY = "palimpsest"  # the one metadata key: several are written in no fixed order
DEEPEST = 20  # levels of the metadata; what is written has four
MAPPINGS = ("arguments", "params", "runtime")  # what metadata say of these is a mapping, wherever they say it
# How safetensors calls the types of number that torch has other names for.
TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class TensorSpec(NamedTuple):
    """A tensor's type and shape."""

    dtype: str  # torch's name: float32
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype} {' x '.join(map(str, self.shape)) or 'scalar'}"


class Header:
    """A checkpoint of which the header alone has been read: what made it, and the type and shape of its tensors.

    `remedy` ends the line that says what is wrong with it.

    Raises InputError for a file that is missing, empty, cut short, a pickle or not the project's.
    """

    path: Path
    inputs: dict[str, Any]  # what made it; `arguments`, `params` and `runtime` are mappings where they are there
    specs: dict[str, TensorSpec]  # of every tensor, by name

    def __init__(self, path: Path, remedy: str = "remove it and run `dvc repro`"):
        from safetensors import SafetensorError, safe_open

        self.path, self._remedy = path, remedy
        try:
            with safe_open(path, "np") as file:  # the header needs no torch
                self.inputs = _inputs((file.metadata() or {})[KEY])
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise InputError(f"{path}: no such checkpoint; `dvc repro` or `dvc pull` makes it") from None
        except KeyError:
            raise InputError(f"{path}: not a checkpoint of Palimpsest (no metadata '{KEY}'); {remedy}") from None
        except (SafetensorError, ValueError, RecursionError, OSError) as error:
            raise InputError(f"{path}: not a checkpoint of Palimpsest ({said_by(error)}); {remedy}") from None
        self.specs = {
            name: TensorSpec(TYPES.get(part.get_dtype(), part.get_dtype()), tuple(part.get_shape()))
            for name, part in slices.items()
        }

    def wrong(self, said: str) -> InputError:
        """To be raised: what it says that it is, and what it holds, differ."""
        network = self.inputs.get("network")
        noun = short(network) if isinstance(network, str) else "checkpoint"
        return InputError(f"{self.path}: not a whole {noun} ({said}); {self._remedy}")

    def mapping(self, key: str) -> dict[str, Any]:
        """What the metadata say of `key`. Raises InputError where they say nothing."""
        if not isinstance(found := self.inputs.get(key), dict):
            raise self.wrong(f"its metadata have no {key}")
        return found


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
    """A value from a file, for a message: its first letters, on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else text[:60] + "..."


def said_by(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0][:200] if lines and not isinstance(error, RecursionError) else type(error).__name__
