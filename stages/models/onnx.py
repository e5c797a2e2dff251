"""A network from elsewhere, in an ONNX file that takes a picture and its hole. docs/restore.md has the contract."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np

from stages.runs.errors import InputError

SIDE = 512  # px, where the file leaves its sides open
LEVELS = 2.0  # a file that makes larger numbers of plain grey gives levels (0 to 255), not shares of white (0 to 1)


class Onnx:
    """An ONNX file, run on the CPU by onnxruntime.

    Its first input is the picture, float32 N x 3 x S x S, RGB from 0 to 1, zero under the hole; its second the hole,
    float32 N x 1 x S x S, 1 = missing. Its first output is the whole picture, N x 3 x S x S, from 0 to 1 or from 0 to
    255. Pictures are given one by one, so that none depends on the others. S is a number in the file; where it is left
    open, `side` is SIDE and any size is taken.

    Raises InputError where onnxruntime is not installed, and for a file that is none of this kind.
    """

    def __init__(self, path: Path):
        try:
            import onnxruntime
        except ImportError:
            raise InputError(f"{path}: needs onnxruntime: pip install -c constraints.txt -e '.[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # it would print lines of its own beside the one that is raised
        options.intra_op_num_threads = 2
        try:
            self._session = onnxruntime.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])
        except OSError as error:
            raise InputError(f"{path}: {error.strerror}; give an .onnx file") from None
        except Exception as error:  # onnxruntime's own kinds, many of them
            raise InputError(f"{path}: not a usable ONNX file ({' '.join(str(error).split())[:160]})") from None
        self._path, inputs = path, self._session.get_inputs()
        if [len(one.shape) for one in inputs] != [4, 4]:
            told = ", ".join(f"{one.name} {one.shape}" for one in inputs) or "nothing"
            raise InputError(f"{path}: takes {told}; it must take a picture N x 3 x S x S and its hole N x 1 x S x S")
        fixed = {size for one in inputs for size in one.shape[2:] if isinstance(size, int)}
        if len(fixed) > 1:
            raise InputError(f"{path}: takes pictures of sides {sorted(fixed)}; they must be square, and of one size")
        self.open = not fixed  # whether it takes any size
        self.side = fixed.pop() if fixed else SIDE
        self._names = [one.name for one in inputs]

    def complete(self, known: np.ndarray, hole: np.ndarray) -> np.ndarray:
        """Whole pictures, uint8 N x S x S x 3, of `known` (the same, zero under the hole; bool N x S x S).

        Raises InputError where the file fails, or makes something else than pictures of finite numbers.
        """
        return np.stack([self._one(*one) for one in zip(known, hole, strict=True)])

    def _one(self, known: np.ndarray, hole: np.ndarray) -> np.ndarray:
        picture = np.ascontiguousarray(known.transpose(2, 0, 1)[None], np.float32) / 255
        made = self._made(picture, hole[None, None].astype(np.float32))
        levels = made[0] * self._white
        return np.rint(levels).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)

    @cached_property
    def _white(self) -> float:
        """What the output is multiplied by: asked once, of grey, as a dark picture's levels may pass for shares."""
        grey = np.full((1, 3, self.side, self.side), 0.5, np.float32)
        hole = np.zeros((1, 1, self.side, self.side), np.float32)
        middle = slice(self.side // 4, self.side // 4 + max(1, self.side // 8))
        hole[..., middle, middle] = 1
        return 1.0 if self._made(grey * (1 - hole), hole).max() > LEVELS else 255.0

    def _made(self, picture: np.ndarray, hole: np.ndarray) -> np.ndarray:
        given = dict(zip(self._names, (picture, hole), strict=True))
        try:
            made = np.asarray(self._session.run(None, given)[0], np.float32)
        except Exception as error:
            raise InputError(f"{self._path}: cannot complete ({' '.join(str(error).split())[:160]})") from None
        if made.shape != picture.shape or not np.isfinite(made).all():
            raise InputError(f"{self._path}: made {made.shape}, or numbers that are not finite, of {picture.shape}")
        return made
