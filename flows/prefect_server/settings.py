"""Prefect's settings: offline, and for this machine alone.

To be made before Prefect is imported, which reads them once.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import sys
import urllib.parse
from pathlib import Path

from stages.runs.errors import InputError

HOME = Path(".palimpsest/prefect")
PASSWORDS = ("PREFECT_SERVER_API_AUTH_STRING", "PREFECT_API_AUTH_STRING")  # the server's, its clients'
PROFILES = Path("~/.prefect/profiles.toml")
# Other files with Prefect's settings, in the current folder, and a word that they then have.
FILES = {Path(".env"): "prefect_", Path("prefect.toml"): "url", Path("pyproject.toml"): "tool.prefect"}
PRIVATE = ("PREFECT_HOME", "PREFECT_PROFILE", "PREFECT_SERVER_")  # for a server of the user's, or settled here
LOOPBACK = ("127.0.0.1", "localhost", "::1")
NO_PROXY = ("no_proxy", "NO_PROXY")  # some read the one, some the other

SETTINGS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "ITERATIVE_DO_NOT_TRACK": "1",  # GTO's
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_ENABLED": "false",
    "PREFECT_SERVER_UI_API_URL": "/api",  # the page asks where it came from, not port 4200
    "PREFECT_CLI_PROMPT": "false",
    "PREFECT_CLIENT_MAX_RETRIES": "2",  # a lost server must not hold up the stages
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(task_run_name)s | %(message)s",
}


def prepare(root: Path) -> None:
    """Prefect's settings. Those that the user's environment has stand.

    So do those of the user's profile of Prefect and of the files of settings that Prefect reads in this folder, where
    they name a server, or `PREFECT_API_URL` does: they become variables here, for all that this process starts.

    Raises InputError where `PREFECT_API_URL` is no address, or where Prefect cannot read its settings.
    """
    ours = str((root / HOME).resolve())
    if os.environ.get("PREFECT_API_URL") != "" and (found := _in_files(ours)):
        for name, value in found.items():
            os.environ.setdefault(name, value)
    if "PREFECT_HOME" not in os.environ and "PREFECT_PROFILES_PATH" not in os.environ:
        os.environ.pop("PREFECT_PROFILE", None)  # there are no profiles here
    home = Path(os.environ.setdefault("PREFECT_HOME", ours)).expanduser()
    with contextlib.suppress(OSError):  # Prefect makes the last folder alone; why it cannot is for it to say
        home.mkdir(parents=True, exist_ok=True)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    direct = [host for name in NO_PROXY for host in os.environ.get(name, "").split(",") if host]
    if "*" not in direct:  # a proxy has nothing to do with this machine's own servers
        os.environ.update(dict.fromkeys(NO_PROXY, ",".join(dict.fromkeys([*direct, *LOOPBACK]))))
    if os.environ.get("PREFECT_API_URL"):
        _without_password()
    # A server that is told a password tells it to nobody, and a client needs it too: by the environment alone.
    if password := next((os.environ[name] for name in PASSWORDS if os.environ.get(name)), None):
        for name in PASSWORDS:
            os.environ.setdefault(name, password)
    reread()


def reread() -> None:
    """Let Prefect read the environment again, where it has been imported already."""
    if "prefect" in sys.modules:
        from prefect.context import refresh_global_settings_context

        refresh_global_settings_context()


def _in_files(home: str) -> dict[str, str]:
    """The variables that stand for what Prefect's files of settings say; none where they name no server.

    Prefect itself reads them. Its import takes a second, in which its server could start: so only where there is
    something to read.
    """
    profiles = Path(os.environ.get("PREFECT_PROFILES_PATH") or PROFILES).expanduser()
    if "PREFECT_HOME" in os.environ and not os.environ.get("PREFECT_PROFILES_PATH"):
        profiles = Path(os.environ["PREFECT_HOME"]).expanduser() / PROFILES.name
    if not any(word in _text(file) for file, word in {**FILES, profiles: "prefect_"}.items()):
        return {}
    if not profiles.exists():
        os.environ.setdefault("PREFECT_HOME", home)  # else Prefect makes the user's
    try:
        from prefect.settings import Settings

        found = Settings().to_environment_variables(exclude_unset=True)
    except Exception as error:
        raise InputError(f"Prefect's settings: {' '.join(str(error).split())}") from None
    if "PREFECT_API_URL" not in found:
        return {}
    return {name: value for name, value in found.items() if not name.startswith(PRIVATE)}


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace").lower()
    except OSError:
        return ""


def _without_password() -> None:
    """Part `PREFECT_API_URL`, which many see, from the password that it may hold."""
    try:
        parts = urllib.parse.urlsplit(os.environ["PREFECT_API_URL"])
    except ValueError:
        raise InputError("PREFECT_API_URL: no address; it is as http://127.0.0.1:4200/api") from None
    account, at, place = parts.netloc.rpartition("@")
    os.environ["PREFECT_API_URL"] = parts._replace(netloc=place, path=parts.path.rstrip("/")).geturl()
    if at:
        os.environ.setdefault(PASSWORDS[1], urllib.parse.unquote(account))


def refuse_strangers(host: str) -> None:
    """Raise InputError where a server at `host` could be reached from other machines and asks nobody who they are."""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name may mean anything
        loopback = False
    if not loopback and not any(os.environ.get(name) for name in PASSWORDS):
        raise InputError(
            f"--host {host}: others could reach Prefect's server, which runs code for whoever asks; set "
            f"{PASSWORDS[0]}=USER:PASSWORD in the environment, or leave --host out"
        )
