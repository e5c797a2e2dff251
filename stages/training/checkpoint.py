"""Checkpoints: safetensors with exactly one metadata key, the canonical JSON of what made them.

Nothing is pickled, and two trainings with the same inputs write the same bytes. A file may come from anywhere: its
header is compared with what is wanted of it before anything of the size that it claims is built or read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from stages.runs.header import KEY, Header, TensorSpec, said_by, short
from stages.runs.params import STRICT
from stages.runs.record import canonical

if TYPE_CHECKING:
    from torch import Tensor, nn

    Module = TypeVar("Module", bound=nn.Module)


def save(path: Path, tensors: Mapping[str, Tensor], inputs: Mapping[str, Any]) -> None:
    """Write `tensors` with `inputs` (network, arguments, params, digests) as their metadata, atomically."""
    from safetensors.torch import save_file

    draft = path.with_name(path.name + ".draft")
    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(ready, draft, metadata={KEY: canonical(inputs)})
    draft.replace(path)


class Checkpoint(Header):
    """A checkpoint of which the header alone has been read. Raises InputError as `Header` does."""

    def build(self, part: str, kind: type[Module], arguments: Mapping[str, Any]) -> Module:
        """`kind(**arguments)` on the CPU, with the weights that the file has under `part`.

        Raises InputError where `kind` does not take these arguments, or the file has other tensors than it.
        """
        import torch
        from pydantic import ValidationError, validate_call

        # Strict: where a whole number is wanted, neither `true` nor 16.0 will do.
        initialise = validate_call(config=STRICT)(kind.__init__)
        module = kind.__new__(kind)
        try:
            # On this device nothing takes memory. One tensor too few is to be named below: so not at once.
            with torch.device("meta"), at_most(len(self.specs) + 1000):
                initialise(module, **arguments)
        except ValidationError as error:
            fault = error.errors()[0]
            name, absent = fault["loc"][0], fault["type"] in ("missing_argument", "unexpected_keyword_argument")
            given = "" if absent else f", not {short(fault['input'])}"
            raise self.wrong(f"arguments: {short(name)}: {fault['msg'].lower()}{given}") from None
        except Exception as error:  # a constructor may stumble over foreign arguments in any way
            raise self.wrong(said_by(error)) from None
        self.compare(part, module.state_dict())
        return self.fill(part, module.to_empty(device="cpu"))

    def fill(self, part: str, module: Module) -> Module:
        """`module` with the weights under `part`. Raises InputError where they are not its own, or not finite."""
        self.compare(part, module.state_dict())
        module.load_state_dict(self.tensors(part))
        return module

    def compare(self, part: str, wanted: Mapping[str, Tensor]) -> None:
        """Raise InputError unless the tensors under `part` are of exactly the names, types and shapes of `wanted`."""
        there = {name[len(part) + 1 :]: spec for name, spec in self.specs.items() if name.startswith(part + ".")}
        specs = {
            name: TensorSpec(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
            for name, tensor in wanted.items()
        }
        for name in sorted(specs.keys() | there.keys()):
            if name not in there:
                raise self.wrong(f"it has no {part}.{name}")
            if name not in specs:
                raise self.wrong(f"{part}.{short(name)} is none of the network's")
            if there[name] != specs[name]:
                raise self.wrong(f"{part}.{name} is {there[name]}, and the network's {specs[name]}")

    def tensors(self, part: str) -> dict[str, Tensor]:
        """The tensors under `part`, named without it: a module's state dict. Raises InputError as `tensor` does."""
        return {name[len(part) + 1 :]: self.tensor(name) for name in self.specs if name.startswith(part + ".")}

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU. Raises InputError where not all of its numbers are finite."""
        import torch
        from safetensors import safe_open

        with safe_open(self.path, "pt") as file:
            tensor: Tensor = file.get_tensor(name)
        try:
            finite = not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
        except NotImplementedError:  # types of a few bits, with which torch cannot compute
            raise self.wrong(f"{short(name)} is of a type that no network here has") from None
        if not finite:
            raise self.wrong(f"{short(name)} is not finite")
        return tensor


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
