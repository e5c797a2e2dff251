"""Notifications: a JSON event to a command or a webhook that the user names (`--hook`).

The target may hold a secret, so nothing that is said or raised here repeats it.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable
from typing import Any

PATIENCE = 10  # seconds, for a webhook's answer; a command may take six times as long


def send(target: str, event: dict[str, Any], say: Callable[[str], None] | None = None) -> None:
    """Send `event` to `target`: a URL gets it as a JSON POST, a shell command on its standard input.

    Never raises: what goes wrong is one line to `say` (by default standard error).
    """
    say = say or (lambda line: print(line, file=sys.stderr, flush=True))
    body = json.dumps(event).encode()
    web = target.lower().startswith(("http://", "https://"))
    try:
        trouble = _post(target, body) if web else _run(target, body)
    except Exception as error:  # whatever it is, the caller goes on
        trouble = type(error).__name__  # its text may repeat the target
    if trouble:
        what = f"the webhook at {_host(target)}" if web else "the hook's command"
        say(f"hook: {what}: {trouble}; the event was {event.get('event', 'untold')}")


def _post(url: str, body: bytes) -> str | None:
    parts = urllib.parse.urlsplit(url)
    headers = {"Content-Type": "application/json", "User-Agent": "palimpsest"}
    account, at, host = parts.netloc.rpartition("@")
    if at:  # as every browser and curl understand it, but not urllib
        headers["Authorization"] = f"Basic {base64.b64encode(urllib.parse.unquote(account).encode()).decode()}"
    request = urllib.request.Request(parts._replace(netloc=host).geturl(), body, headers)
    try:
        with urllib.request.build_opener(_Straight).open(request, timeout=PATIENCE):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return f"HTTP {error.code}"
    except urllib.error.URLError as error:
        # The reason's text may repeat the address where the name is unknown; an OSError's own words do not.
        return getattr(error.reason, "strerror", None) or type(error.reason).__name__


class _Straight(urllib.request.HTTPRedirectHandler):
    """Goes nowhere else: another host would get the password, by a request without the event."""

    def redirect_request(self, *_: Any) -> None:
        return None


def _run(command: str, body: bytes) -> str | None:
    process = subprocess.Popen(
        command,
        shell=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    with process:
        try:
            process.communicate(body, timeout=6 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return f"took more than {6 * PATIENCE} seconds"
    return f"exit code {process.returncode}" if process.returncode else None


def _host(url: str) -> str:
    try:
        return urllib.parse.urlsplit(url).hostname or "?"  # not the password, path or query, which may be secrets
    except ValueError:
        return "?"
