"""Start the server for a browser on this machine, and say where it is."""

from __future__ import annotations

import contextlib
import secrets
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from flows.process.words import say as _say
from stages.runs.errors import InputError

HOST = "127.0.0.1"


def serve(
    root: Path,
    port: int = 0,
    models: Sequence[str] = (),
    detector: Path | None = None,
    signer: Any = None,
    say: Callable[[str], None] = _say,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM; `port` 0 takes a free one, the rest is as for `create`.

    Photos and edits lie in memory alone, and are gone at the end. Raises InputError where the port is taken, and as
    `create` does.
    """
    import uvicorn

    from flows.painting.app import create

    key = secrets.token_urlsafe(24)
    app = create(root, key, models, detector, signer)
    try:
        listening = socket.create_server((HOST, port))
    except OSError as error:
        raise InputError(f"port {port}: {error.strerror}; choose another one, or 0 for a free one") from None
    settings = uvicorn.Config(app, log_level="warning", access_log=False, server_header=False, proxy_headers=False,
                              ws="none", limit_concurrency=64, timeout_keep_alive=75,
                              timeout_graceful_shutdown=3)  # fmt: skip
    with listening:
        say(f"restore: open http://{HOST}:{listening.getsockname()[1]}/#{key}")
        say("restore: Ctrl-C ends it; then photos and edits that were not saved are gone")
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn raises it again after a clean end
            uvicorn.Server(settings).run(sockets=[listening])
