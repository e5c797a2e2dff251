"""The photos that are open on the page."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from starlette.exceptions import HTTPException

from flows.painting.runs import Run
from flows.painting.session import Session
from flows.restoration.photo import Photo

MOST = 4  # at once


@dataclass(eq=False)
class Open:
    """A photo that a tab has open."""

    session: Session
    run: Run | None = None

    @contextlib.contextmanager
    def changing(self) -> Iterator[Session]:
        """For one thread at a time. Raises HTTPException while the photo is being completed."""
        with self.session.lock:
            if self.run and not self.run.over:
                raise HTTPException(409, "this photo is being completed; wait, or cancel it")
            yield self.session


class Photos:
    """The photos that are open, by names that nobody can guess; the one used longest ago makes room."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, Open] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, photo: Photo) -> str:
        name = secrets.token_urlsafe(9)
        with self._lock:
            self._open[name] = Open(Session(photo))
            surplus = list(self._open)[:-MOST]
        for one in surplus:
            self.close(one)
        return name

    def close(self, name: str) -> None:
        with self._lock:
            closed = self._open.pop(name, None)
        if closed and closed.run:
            closed.run.cancel()

    def __getitem__(self, name: str) -> Open:
        """Raises HTTPException where it is not open."""
        with self._lock:
            if name not in self._open:
                raise HTTPException(404, "this photo is no longer open here; open it again")
            self._open.move_to_end(name)
            return self._open[name]
