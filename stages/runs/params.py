"""Reading `params.yaml`: strictly, so that a mistyped key is an error and never a silent default."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import CollectionNode, MappingNode

import stages
from stages.runs.errors import InputError

# The training stages, by their files' names: so a new one changes no file that other stages depend on.
TRAININGS = tuple(sorted(path.stem for path in Path(stages.__file__).parent.glob("train_*.py")))
# Every top-level section that some stage or flow reads; anything else in the file is a typing error.
SECTIONS = (
    "runtime",
    "draw",
    "draw_shapes",
    "datasets",
    *TRAININGS,
    "search",
    "infer",
    "blend",
    "evaluate",
    "report",
    "retrain",  # read by flows/retrain.py alone
)
# Those of entries whose names are yours. They become files, and keys of `dvc.yaml`'s stages.
NAMED = ("draw_shapes", "datasets", *TRAININGS, "search", "infer", "blend")
NAME = "[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"  # no dot, slash, space or quote: DVC, paths and shells read those
DATASET = ("ingest", "align", "mask")  # the sections of each entry of `datasets`: the stages that run for it

# A file of parameters is small: what is beyond this is another file, or made to fill the memory.
LARGEST = 256 << 10  # bytes
LONGEST = 20_000  # values, with every alias written out
DEEPEST = 32  # levels

# For the `Params` dataclass of every stage: `@dataclass(frozen=True, config=STRICT)`.
STRICT = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

Section = TypeVar("Section")
Name = Annotated[str, Field(pattern=f"^{NAME}$")]  # of an entry


@dataclass(frozen=True, config=STRICT)
class Runtime:
    """Where and how the numbers are computed; each of these changes output bytes."""

    device: str = "cpu"  # a torch device: cpu, cuda, cuda:1
    threads: Annotated[int, Field(ge=1)] = 2  # torch's intra-op threads; 1 and 2 give different bytes
    precision: Literal["fp32", "bf16"] = "fp32"  # bf16: autocast; weights stay float32
    # native: all that the CPU has; portable: the same bytes on every CPU with AVX2 and FMA
    kernels: Literal["native", "portable"] = "native"
    devices: Annotated[int, Field(ge=1)] = 1  # processes that train together, one a device; for training alone


def refuse_idle(section: Any, setting: str, names: Iterable[str]) -> None:
    """Raise ValueError for a parameter of `names` that asks for something, where `setting` leaves it nothing to do.

    A parameter's default asks for nothing, nor does what turns it off: 0, false, null, none, or no entries. For the
    `__post_init__` of a section.
    """
    defaults = {
        one.name: one.default if one.default_factory is MISSING else one.default_factory() for one in fields(section)
    }
    for name in names:
        value = getattr(section, name)
        if value and value not in (defaults[name], "none"):
            raise ValueError(f"{name} would do nothing with {setting}: leave it out")


def load(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """The whole file as plain dicts (YAML 1.2, as DVC reads it: `1e-4` is a number).

    `content` is what it holds, where that is not to be read from the disk.
    Raises InputError as `plain` does, and for an unknown section, of the file or of a dataset.
    """
    values = plain(path, content)
    _refuse_unknown(path, "section", values, SECTIONS)
    datasets = values.get("datasets")
    for name, entry in datasets.items() if isinstance(datasets, dict) else ():
        _refuse_unknown(path, f"section of datasets.{name}", entry, DATASET)
    return values


def plain(path: Path, content: bytes | None = None) -> dict[str, Any]:
    """What `load` returns, whatever its sections.

    Raises InputError for a missing or malformed file, for one whose aliases make more of it than the limits above, for
    what no parameter can be (a key that is no text, a date), and for an entry whose name is not made as `NAME` says.
    """
    values = read(path, content)
    if not isinstance(values, dict):
        raise InputError(f"{path}: must be a mapping of sections: {', '.join(SECTIONS)}")
    for section in NAMED:
        for name in values[section] if isinstance(values.get(section), dict) else ():
            if not re.fullmatch(NAME, name):
                raise InputError(
                    f"{path}: {section}: '{name}' is no name: take letters (a to z), digits, _ and -, 64 at the most"
                )
    return values


def read(path: Path, content: bytes | None = None) -> Any:
    """What a YAML file says, within the limits above. Raises InputError for all else."""
    try:
        if content is None:
            with path.open("rb") as file:
                content = file.read(LARGEST + 1)
    except FileNotFoundError:
        raise InputError(f"{path}: not found; run from the project's root") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if len(content) > LARGEST:
        raise InputError(f"{path}: larger than {LARGEST >> 10} KiB; is it the right file?")
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    try:
        root = YAML(typ="safe", pure=True).compose(text)
        _measure(path, root, (), {})
        values = YAML(typ="safe", pure=True).constructor.construct_document(root) if root else None
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise InputError(f"{path}: not valid YAML: {where}{error.problem or error.context}") from None
    except RecursionError:
        raise InputError(f"{path}: nested more than {DEEPEST} levels deep; write it flatter") from None
    except (YAMLError, ValueError, LookupError, ArithmeticError, TypeError) as error:  # `!!int x`, `2020-99-99`
        raise InputError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    _refuse_odd(path, values, ())
    return values


def _measure(path: Path, node: Any, above: tuple[int, ...], known: dict[int, int]) -> int:
    """How many values a YAML node is with every alias written out; counted without doing so.

    `above` are the nodes that it lies in, `known` what was counted already. Raises InputError for a node that lies in
    itself, and beyond the limits.
    """
    if id(node) in known:
        return known[id(node)]
    if id(node) in above:
        raise InputError(
            f"{path}: line {node.start_mark.line + 1}: an alias (*) lies in what it stands for; write it out"
        )
    if len(above) > DEEPEST:
        raise InputError(f"{path}: nested more than {DEEPEST} levels deep; write it flatter")
    children = node.value if isinstance(node, CollectionNode) else []
    if isinstance(node, MappingNode):
        children = [part for pair in children for part in pair]
    total = 1 + sum(_measure(path, child, (*above, id(node)), known) for child in children)
    if total > LONGEST:
        raise InputError(f"{path}: more than {LONGEST} values, with its aliases (*) written out; write fewer")
    known[id(node)] = total
    return total


def _refuse_odd(path: Path, value: Any, way: tuple[str, ...]) -> None:
    """Raise InputError for what no parameter can be."""
    said = None
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str):
                where = f"{'.'.join(way)}: " if way else ""
                raise InputError(f"{path}: {where}the key {key!r} is no text; write it in quotes")
            _refuse_odd(path, inner, (*way, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            _refuse_odd(path, inner, (*way, str(number)))
    elif isinstance(value, float) and not math.isfinite(value):
        said = f"input should be a finite number (got {value})"
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        said = "too large a number"
    elif isinstance(value, str) and re.search("[\0\ud800-\udfff]", value):
        said = "holds a letter that no text can have"
    elif value is not None and not isinstance(value, str | int | float):
        said = f"read as a {type(value).__name__}; write it in quotes"
    if said:
        raise InputError(f"{path}: {'.'.join(way)}: {said}")


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


def build(kind: type[Section], node: Any, dotted: str, file: str = "params.yaml") -> Section:
    """`node`, which stands at `dotted` (empty: the whole) in `file`, as the dataclass `kind`; see `section`."""
    try:
        # JSON mode: strict about types, yet a YAML list may become a tuple.
        return TypeAdapter(kind).validate_json(json.dumps(node))
    except ValidationError as error:
        faults = [_fault(dotted, dict(item)) for item in error.errors(include_url=False)]
        raise InputError(f"{file}: " + "; ".join(faults)) from None
    except TypeError as error:  # a date or another thing JSON has no word for
        raise InputError(f"{file}: {dotted}: {error}") from None


def _fault(dotted: str, item: dict[str, Any]) -> str:
    where = ".".join(filter(None, [dotted, *(str(part) for part in item["loc"])]))
    if item["type"] == "unexpected_keyword_argument":
        if re.fullmatch(r"(draw|draw_shapes\.[^.]+|datasets\.[^.]+\.align)\.size", where):
            return f"unknown key '{where}': it is called 'side' now, as DVC's run-cache overlooks parameters named size"
        return f"unknown key '{where}'"
    if item["type"] == "missing":
        return f"missing key '{where}'"
    message = str(item["msg"]).removeprefix("Value error, ")
    shown = item.get("input")
    got = f" (got {shown!r})" if isinstance(shown, str | int | float | bool | None) else ""
    return f"{where}: {message[:1].lower()}{message[1:]}{got}"
