"""What stages take of a machine: cores, which are counted, and the GPU, which one stage has at a time."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.process import file_lock, private_folder
from flows.process.command import Say

if TYPE_CHECKING:  # a Dask worker needs none of DVC
    from flows.engine.graph import Node

POLL = 0.5  # seconds
SHARED_MEMORY = Path("/dev/shm")  # one for each machine, whatever TMPDIR says, and empty when it starts
DEVICES = Path("/dev")
DRIVER = Path("/proc/driver/nvidia/gpus")


def fits(node: Node, running: Sequence[Node], cores: int) -> bool:
    """Whether the stage may run beside `running`, on `cores` cores. Where none runs it may, whatever it takes."""
    if node.gpu and any(other.gpu for other in running):
        return False
    return not running or node.cores + sum(other.cores for other in running) <= cores


@contextlib.contextmanager
def gpu(say: Say, check: Callable[[], None]) -> Iterator[list[int]]:
    """Keep the GPUs that this process sees for one stage of all the user's working copies; yields the locks.

    Another stage that has it is waited for. `check` is called meanwhile, and may raise to give up.
    Raises OSError where the folder of the locks is another user's.
    """
    home = SHARED_MEMORY / f"palimpsest-{os.getuid()}"
    private_folder.make(home)

    def waiting(other: str) -> None:
        say(f"waiting for the GPU, which a rebuild elsewhere has (PID {other})")

    def pause() -> None:
        check()
        time.sleep(POLL)

    with contextlib.ExitStack() as stack:
        yield [
            # In one order, so that two stages never wait for each other.
            stack.enter_context(file_lock.lock(home / f"gpu-{name.replace(os.sep, '_')}.lock", waiting, pause))
            for name in gpus() or ["0"]
        ]


def gpus() -> list[str]:
    """The GPUs that CUDA shows to this process, each by one name however CUDA_VISIBLE_DEVICES writes it; sorted."""
    every = [device.name.removeprefix("nvidia") for device in DEVICES.glob("nvidia[0-9]*")]
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is None or not every:
        return sorted(every)
    names = [name.strip() for name in chosen.split(",")]
    return sorted({_number(name) for name in names if name and name != "-1"})


def _number(name: str) -> str:
    """The number of a GPU that is named by (the beginning of) its UUID; any other name as it is."""
    for file in DRIVER.glob("*/information") if name.startswith("GPU-") else ():
        lines = (line.partition(":") for line in file.read_text().splitlines())
        about = {key.strip(): value.strip() for key, _, value in lines}
        if about.get("GPU UUID", "").startswith(name):
            return about["Device Minor"]
    return name
