"""Work shared among threads, a few items ahead of whoever takes the results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

In = TypeVar("In")
Out = TypeVar("Out")


def in_order(work: Callable[[In], Out], items: Iterable[In], workers: int) -> Iterator[Out]:
    """`work` of every item, in their order, by several threads that run at most a few items ahead."""
    with ThreadPoolExecutor(workers) as pool:
        window: deque[Future[Out]] = deque()
        for item in items:
            window.append(pool.submit(work, item))
            if len(window) > 4 * workers:
                yield window.popleft().result()
        while window:
            yield window.popleft().result()
