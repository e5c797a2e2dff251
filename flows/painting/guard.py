"""Who may ask this server: the page that it has sent itself, and nobody else on the machine or in the browser.

The key is in the address's fragment, which browsers send to no server, and comes back as a header, which no other
site's page may set. So neither a page of another site (CSRF) nor another user of the machine can use the server. A name
that an attacker lets point to 127.0.0.1 (DNS rebinding) is refused by the Host header.
"""

from __future__ import annotations

import asyncio
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

HOSTS = ("127.0.0.1", "localhost")
KEY = "x-palimpsest-key"
PRIVATE = "/api/"  # paths below need the key; the others hold the program alone
BODY_SECONDS = 120.0

# What a browser lets the page do: load from this server alone, and show pictures that its script has loaded.
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class Guard:
    """ASGI middleware: checks origin and key, and adds the headers above to each answer."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self._app, self._key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        headers = Headers(scope=scope)
        origin = headers.get("origin")
        given = headers.get(KEY, "").encode("utf-8", "replace")
        if origin is not None and origin != f"http://{headers.get('host')}":
            await JSONResponse({"error": "another site asks"}, 403)(scope, receive, guarded)
        elif scope["path"].startswith(PRIVATE) and not secrets.compare_digest(given, self._key):
            said = "the key is missing or wrong; open the address that `palimpsest restore --serve` has printed"
            await JSONResponse({"error": said}, 403)(scope, receive, guarded)
        else:
            await self._app(scope, receive, guarded)


async def body(request: Request, limit: int) -> bytes:
    """The request's body, of at most `limit` bytes.

    Raises HTTPException: 413 for more, 408 for one that is slow, 400 for one that breaks off.
    """
    too_large = HTTPException(413, f"too large: more than {limit >> 20} MiB")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > limit:
        raise too_large
    found = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in request.stream():
                found += chunk
                if len(found) > limit:  # a chunked body announces no size
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, f"the file did not arrive within {BODY_SECONDS:.0f} s") from None
    except ClientDisconnect:
        raise HTTPException(400, "the file broke off") from None
    return bytes(found)
