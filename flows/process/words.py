"""Words for people. Where they cannot be said, on a full disk or into a closed pipe, the work goes on without them."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO


def say(line: str, stream: TextIO | None = None) -> None:
    """Print a line to `stream`, by default standard error."""
    with contextlib.suppress(OSError, ValueError):  # ValueError: it is closed
        print(line, file=stream or sys.stderr, flush=True)


def give_up() -> None:
    """Drop what standard output and error still hold and cannot write: Python would end with exit code 120 for it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        except ValueError:  # closed
            pass
