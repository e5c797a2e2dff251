"""A stage's command as a process of its own that need not import torch: it is forked from one that has.

Importing torch takes longer than a small training. The process that is forked has imported no file of ours and
computed nothing, so a stage begins in it as in a new interpreter.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["torch", "lightning_fabric", "pyarrow", "pydantic"])


def start(stage: str, words: Sequence[str], home: Path, said: Path, env: Mapping[str, str]) -> ForkServerProcess:
    """`python -m stages.STAGE WORDS` in the folder `home`; what it prints goes to the file `said`."""
    process = CONTEXT.Process(target=_become, args=(stage, list(words), home, said, dict(env)))
    process.start()
    return process


def run(stage: str, words: Sequence[str], home: Path, said: Path, env: Mapping[str, str]) -> int | None:
    """The same to its end: the exit code."""
    process = start(stage, words, home, said, env)
    process.join()
    return process.exitcode


def _become(stage: str, words: list[str], home: Path, said: Path, env: dict[str, str]) -> None:
    os.chdir(home)
    os.environ.clear()
    os.environ.update(env)
    with said.open("w") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    sys.argv[1:] = words
    sys.path.insert(0, "")
    runpy.run_module(f"stages.{stage}", run_name="__main__", alter_sys=True)
