"""What stages take of a machine: cores, which are counted, and the GPU, which one stage has at a time."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from flows.engine.graph import Node
from flows.process import file_lock
from flows.process.command import Say

POLL = 0.5  # seconds


def fits(node: Node, running: Sequence[Node], cores: int) -> bool:
    """Whether the stage may run beside `running`, on `cores` cores. Where none runs it may, whatever it takes."""
    if node.gpu and any(other.gpu for other in running):
        return False
    return not running or node.cores + sum(other.cores for other in running) <= cores


@contextlib.contextmanager
def gpu(say: Say, check: Callable[[], None]) -> Iterator[int]:
    """Keep the GPU for one stage of all the user's working copies; yields the descriptor of the lock.

    Another stage that has it is waited for. `check` is called meanwhile, and may raise to give up.
    """
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "all").replace(os.sep, "_")
    file = Path(tempfile.gettempdir(), f"palimpsest-{os.getuid()}-gpu-{which}.lock")

    def waiting(other: str) -> None:
        say(f"waiting for the GPU, which a rebuild elsewhere has (PID {other})")

    def pause() -> None:
        check()
        time.sleep(POLL)

    with file_lock.lock(file, waiting, pause) as held:
        yield held
