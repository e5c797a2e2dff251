"""A system of one's own: an ONNX file that takes a picture and its hole. docs/restore.md says the contract."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows.restoration.system import System
from stages.runs.errors import InputError

if TYPE_CHECKING:
    from stages.images.batches import Batch

SIDE = 512  # px, where the file leaves its sides open
LEVELS = 2.0  # values above it are levels (0 to 255), not shares of white (0 to 1)


def opened(file: Path) -> System:
    """The system in an ONNX file, run on the CPU.

    Its first input is the picture, float32 1 x 3 x S x S, RGB from 0 to 1, zero under the hole; its second the hole,
    float32 1 x 1 x S x S, 1 = missing. Its first output is the whole picture, 1 x 3 x S x S, from 0 to 1 or from 0 to
    255. S is a number in the file, or left open: then SIDE is taken. Raises InputError where onnxruntime is not
    installed, and for a file that is none of this kind.
    """
    try:
        import onnxruntime
    except ImportError:
        raise InputError(f"{file}: needs onnxruntime: pip install -c constraints.txt -e '.[onnx]'") from None
    try:
        data = file.read_bytes()
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; give an .onnx file") from None
    except Exception as error:  # onnxruntime's own kinds, many of them
        raise InputError(f"{file}: not a usable ONNX file: {' '.join(str(error).split())[:200]}") from None
    inputs, side = session.get_inputs(), SIDE
    if [len(one.shape) for one in inputs] != [4, 4] or not session.get_outputs():
        told = ", ".join(f"{one.name} {one.shape}" for one in inputs)
        raise InputError(f"{file}: takes {told}; it must take a picture 1 x 3 x S x S and its hole 1 x 1 x S x S")
    fixed = {size for one in inputs for size in one.shape[2:] if isinstance(size, int)}
    if len(fixed) > 1:
        raise InputError(f"{file}: takes pictures of sides {sorted(fixed)}; they must be square and of one size")
    side = fixed.pop() if fixed else side
    picture, hole = (one.name for one in inputs)

    def complete(batch: Batch) -> np.ndarray:
        given = {
            picture: np.ascontiguousarray(batch.known.transpose(0, 3, 1, 2), dtype=np.float32) / 255,
            hole: batch.hole[:, None].astype(np.float32),
        }
        try:
            made = np.asarray(session.run(None, given)[0], dtype=np.float32)
        except Exception as error:
            raise InputError(f"{file}: cannot complete: {' '.join(str(error).split())[:200]}") from None
        if made.shape != (1, 3, side, side) or not np.isfinite(made).all():
            raise InputError(f"{file}: made {made.shape}, or numbers that are not finite; see docs/restore.md")
        scale = 1 if made.max() > LEVELS else 255
        return np.rint(made * scale).clip(0, 255).astype(np.uint8).transpose(0, 2, 3, 1)

    make: Callable[[int | None], Any] = lambda seed: complete  # noqa: E731
    facts = {
        "system": file.name,
        "chosen": "the file that was named",
        "network": "onnx",
        "checkpoint": {"path": file.name, "sha256": sha256(data).hexdigest()},
        "trained_on": None,
        "audit": "made elsewhere: this project does not know what it was trained on",
    }
    return System(file.name, side, False, facts, make, lambda holes: np.ones(len(holes), bool))
