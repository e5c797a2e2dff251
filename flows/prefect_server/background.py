"""A Prefect flow in a thread of its own, so that a lost server cannot hold up the end of a command."""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable

from flows.prefect_server.server import answers

FLOW = "palimpsest flow"  # the name of the thread that runs Prefect
LOST = 3  # looks in a row at which a server does not answer, and counts as lost


def run_in_background(
    flow: Callable[[], None],
    settled: Callable[[], bool],
    stop: Callable[[], None],
    kill: Callable[[], None] = lambda: None,
) -> bool:
    """Run a Prefect flow in a thread, and return whether it has ended.

    It is left running where `settled` says that the work is done and the server does not answer: then the flow only
    tries in vain to report its end. At Ctrl-C and SIGTERM `stop` is called, at a second one `kill`, and
    KeyboardInterrupt is raised. A flow that is left running logs nothing more: the command has the last word.
    """
    for name in ("prefect.task_runs", "prefect.flow_runs"):
        logging.getLogger(name).addFilter(_without_exception)
    over = threading.Event()  # to join a thread is not to be interrupted: Python 3.11 then takes it for ended

    def work() -> None:
        try:
            flow()
        finally:
            over.set()

    def wait() -> None:
        unanswered = 0
        while unanswered < LOST and not over.wait(1):
            unanswered = unanswered + 1 if settled() and not answers() else 0

    thread = threading.Thread(target=work, name=FLOW, daemon=True)
    try:
        thread.start()
        wait()
    except KeyboardInterrupt:
        try:
            stop()
            wait()
        except KeyboardInterrupt:
            kill()
        raise
    finally:
        if over.is_set():
            thread.join()
        else:
            logging.disable()
    return over.is_set()


def _without_exception(record: logging.LogRecord) -> bool:
    """Prefect logs a task that returns a failure with an exception of nothing, "NoneType: None".

    And its own trouble with its server with a page of traceback, of which the record's line is enough.
    """
    from flows.prefect_server.errors import OF_PREFECT

    if record.exc_info and (record.exc_info[0] is None or isinstance(record.exc_info[1], OF_PREFECT)):
        record.exc_info = None
    return True


def in_vain() -> bool:
    """Whether Prefect would delay the end of this process: a flow has not ended, or its server does not answer."""
    at_work = any(thread.name == FLOW for thread in threading.enumerate())
    return at_work or ("prefect" in sys.modules and bool(os.environ.get("PREFECT_API_URL")) and not answers())
