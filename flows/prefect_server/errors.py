"""What goes wrong with Prefect's server: it is gone, it refuses, or what is asked for was deleted there."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx
from prefect.exceptions import ObjectNotFound, PrefectException

from flows.prefect_server.settings import PASSWORDS

OF_PREFECT = (httpx.HTTPError, PrefectException)  # what Prefect's client raises
DENIED = (401, 403)  # HTTP statuses of a missing or wrong key or password
BUSY = (408, 429)  # HTTP statuses by which a server asks for patience


def gone(error: BaseException) -> bool:
    """Whether the server does not answer, or only that it cannot: waiting may help."""
    if isinstance(error, httpx.HTTPStatusError):
        return error.response.status_code >= 500 or error.response.status_code in BUSY
    return isinstance(error, httpx.TransportError) and not _untrusted(error)


def refuses(error: BaseException) -> bool:
    """Whether there is a server that knows what it is asked for, and wants a key, a password or trust first."""
    denied = isinstance(error, httpx.HTTPStatusError) and error.response.status_code in DENIED
    return denied or not isinstance(error, httpx.HTTPError) or _untrusted(error)


def words(error: BaseException) -> str:
    """One line for people, with its remedy."""
    if _untrusted(error):
        return "the certificate of Prefect's server is not trusted; PREFECT_API_SSL_CERT_FILE names its authority's"
    if isinstance(error, httpx.HTTPStatusError):
        status = error.response.status_code
        if status in DENIED:
            return f"Prefect's server refuses (HTTP {status}); set PREFECT_API_KEY, or {PASSWORDS[1]} to its password"
        if gone(error):
            return f"Prefect's server does not do as it is asked (HTTP {status})"
        return f"Prefect's server refuses (HTTP {status}): {' '.join(error.response.text.split())[:200]}"
    if isinstance(error, httpx.TransportError):
        return f"Prefect's server does not answer ({type(error).__name__})"
    if isinstance(error, ObjectNotFound):
        return "what is asked for was deleted on Prefect's page"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return " ".join(str(error).split()) or type(error).__name__


def lost(error: BaseException | None) -> str:
    """Where Prefect's page does not tell the end of a run: why, as the begin of a sentence about that page."""
    if isinstance(error, ObjectNotFound):
        return "the run was deleted there: Prefect's page"
    return "Prefect's server was lost on the way: its page"


def _untrusted(error: BaseException) -> bool:
    return any(isinstance(one, ssl.SSLCertVerificationError) for one in _causes(error))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
