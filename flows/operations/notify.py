"""Notifications: a JSON event to a command or a webhook that the user names (`--hook`).

The target may hold a secret, so nothing that is said or raised here repeats it.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import urllib.parse
from collections.abc import Callable
from typing import Any

PATIENCE = 10  # seconds, for a webhook's answer; a command may take six times as long


def send(target: str, event: dict[str, Any], say: Callable[[str], None]) -> None:
    """Send `event` to `target`: a URL gets it as a JSON POST, a shell command on its standard input.

    Never raises: what goes wrong is one line to `say`.
    """
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
    import httpx  # here, so that `palimpsest status` does not wait for it

    logging.getLogger("httpx").setLevel(logging.WARNING)  # below, it logs the address
    headers = {"Content-Type": "application/json", "User-Agent": "palimpsest"}
    authorities = ssl.create_default_context()  # this machine's, not those that come with httpx
    try:
        # It follows no redirect: another host would get the password, by a request without the event.
        answer = httpx.post(url, content=body, headers=headers, timeout=PATIENCE, verify=authorities)
    except httpx.ConnectError as error:
        return str(error)  # the system's words; those of other errors may repeat the address
    return None if answer.is_success else f"HTTP {answer.status_code}"


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
