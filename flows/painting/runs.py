"""Completions in the making: one at a time, in a thread of their own, with progress and an end."""

from __future__ import annotations

import sys
import threading
import time
import traceback
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from flows.painting.session import Answer, Session
from flows.restoration import detection
from flows.restoration.fill import Cancelled, fill
from flows.restoration.holes import COVERED, place, preset
from flows.restoration.system import System, open_system
from stages.images.decode.jpeg import SIGNATURE as JPEG
from stages.images.faces import Face
from stages.runs.errors import InputError

RUN_SECONDS = 600.0  # how long a completion may take
SYSTEMS = 3  # how many are kept ready

State = Literal["waiting", "running", "done", "cancelled", "failed"]


class Run:
    """A completion: how far it is, and how it ended."""

    def __init__(self) -> None:
        self.state: State = "waiting"
        self.progress = 0.0  # 0 to 1
        self.error = ""
        self.future: Future[None] | None = None
        self._stop = threading.Event()
        self._end = float("inf")

    @property
    def over(self) -> bool:
        return self.state in ("done", "cancelled", "failed")

    def begin(self) -> None:
        self.state, self._end = "running", time.monotonic() + RUN_SECONDS

    def cancel(self) -> None:
        self._stop.set()
        if self.future and self.future.cancel():  # it has not begun
            self.state = "cancelled"

    def stopped(self) -> bool:
        return self._stop.is_set() or time.monotonic() > self._end

    def stop(self) -> None:
        """It was cancelled, or took too long."""
        if self._stop.is_set():
            self.state = "cancelled"
        else:
            self.state, self.error = "failed", f"stopped after {RUN_SECONDS:.0f} s; paint a smaller hole"


@dataclass(frozen=True)
class Wanted:
    """How a hole is to be filled."""

    system: str
    answers: int = 1
    seed: int = 0  # of the first of several answers; a single one is the system's best
    grain: bool = True


class Runner:
    """Runs completions one after the other: each takes all cores. Opens systems, and finds faces."""

    def __init__(self, root: Path, detector: Path | None = None) -> None:
        self._root = root
        self._detect = detection.detector(root, detector)
        self.detector = self._detect.name
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="completion")
        self._open: dict[str, System] = {}
        self._lock = threading.Lock()  # neither a detector nor the opening of a system is for two threads at once
        self._runs: list[Run] = []

    def system(self, name: str) -> System:
        """Raises InputError where there is none of this name."""
        with self._lock:
            system = self._open.pop(name, None) or open_system(self._root, name)
            while len(self._open) >= SYSTEMS:
                del self._open[next(iter(self._open))]  # the one that was used longest ago
            self._open[name] = system
            return system

    def faces(self, session: Session, hole: np.ndarray | None = None) -> list[Face]:
        with self._lock:
            return session.faces(self._detect, hole)

    def preset(self, session: Session, kind: str, seed: int) -> np.ndarray:
        """A hole of a kind on the photo as it is now. Raises InputError where it cannot be placed."""
        if kind != COVERED:
            return preset(kind, session.pixels, self.faces(session), seed)
        with self._lock:
            jpeg = session.photo.data.startswith(JPEG)
            faces, hole, _ = place(kind, {}, session.pixels, self._detect, jpeg=jpeg)
            session.barred(faces)
            return hole

    def start(self, session: Session, hole: np.ndarray, wanted: Wanted) -> Run:
        """Fill `hole` (bool H x W); at the end the session has an edit more."""
        run = Run()
        self._runs = [*(one for one in self._runs if not one.over), run]
        run.future = self._pool.submit(self._complete, run, session, hole, wanted)
        return run

    def _complete(self, run: Run, session: Session, hole: np.ndarray, wanted: Wanted) -> None:
        run.begin()
        try:
            system = self.system(wanted.system)
            pixels, faces = session.pixels, self.faces(session, hole)
            count = wanted.answers if system.samples else 1
            answers = []
            for number in range(count):

                def tell(done: int, of: int, before: int = number) -> None:
                    run.progress = (before + done / of) / count

                filled = fill(
                    pixels, hole, system, faces=faces, seed=None if count == 1 else wanted.seed + number,
                    grain=wanted.grain, name=session.photo.name, progress=tell, cancelled=run.stopped,
                )  # fmt: skip
                answers.append(Answer(filled.pixels[hole], filled.record))
            if run.stopped():
                raise Cancelled
            session.add(hole, system, answers, faces)
            run.state = "done"
        except Cancelled:
            run.stop()
        except InputError as error:
            run.error, run.state = str(error), "failed"
        except Exception as error:  # the page must not wait for ever
            traceback.print_exc(file=sys.stderr)
            run.error, run.state = f"the system failed: {' '.join(str(error).split())}", "failed"

    def close(self) -> None:
        """Cancel what runs, and wait for it."""
        for run in self._runs:
            run.cancel()
        self._pool.shutdown()
