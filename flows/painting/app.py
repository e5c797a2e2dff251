"""The server behind the page: photos come in once, holes after them; boxes of filled pixels go back.

Every path under /api/ needs the key (see guard.py). What goes wrong is answered as {"error": one line}.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from flows.painting.guard import HOSTS, Guard, body
from flows.painting.photos import Open, Photos
from flows.painting.runs import Runner, Wanted
from flows.painting.session import mask, patch
from flows.restoration.holes import from_bytes
from flows.restoration.photo import BYTES, read_photo
from flows.restoration.system import choices
from stages.images.decode.jpeg import SIGNATURE as JPEG
from stages.runs.errors import InputError

HOLE_BYTES = 32 << 20
PRESETS = {"eye_bar": "Bar over the eyes", "covered": "Eyes covered already", "centre": "Centre", "lines": "Lines"}
TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

Answers = Annotated[int, Query(ge=1, le=8)]
Seed = Annotated[int, Query(ge=0, lt=1 << 32)]


def create(
    root: Path,
    key: str,
    models: Sequence[str] = (),
    detector: Path | None = None,
    signer: Any = None,
) -> FastAPI:
    """The app for the project in `root`.

    `models` stand first among the systems, and the first of them is chosen; they and `detector` are as those of
    `palimpsest restore`. `signer` (securesystemslib's) signs records; None: they are not signed. Raises InputError
    where the detector cannot be used.
    """
    runner = Runner(root, detector)
    photos = Photos()

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(runner.close)

    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(Guard, key=key)
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=HOSTS, www_redirect=False)
    _errors(app)
    _files(app)

    def state(photo: str) -> dict[str, Any]:
        return {"id": photo, **_state(photos[photo])}

    @app.get("/api/start")
    def start() -> dict[str, Any]:
        titles = {one.name: one.title for one in reversed(choices(root))}
        names = dict.fromkeys([*models, *reversed(titles)])
        systems = [{"name": name, "title": titles.get(name, "")} for name in names]
        return {"systems": systems, "presets": PRESETS, "photo_bytes": BYTES, "signed": signer is not None}

    @app.get("/api/system")
    def system(name: str) -> dict[str, Any]:
        found = runner.system(name)
        return {"name": found.name, "side": found.side, "samples": found.samples, "facts": found.facts}

    @app.post("/api/photos", status_code=201)
    async def add(request: Request, name: Annotated[str, Query(max_length=255)] = "photo") -> dict[str, Any]:
        read = await run_in_threadpool(read_photo, await body(request, BYTES), name)
        return state(photos.add(read))

    @app.get("/api/photos/{photo}")
    def look(photo: str) -> dict[str, Any]:
        return state(photo)

    @app.delete("/api/photos/{photo}", status_code=204)
    def close(photo: str) -> None:
        photos.close(photo)

    @app.get("/api/photos/{photo}/view.jpg")
    def view(photo: str) -> Response:
        """For photos that the browser cannot show, or shows on their side; only looked at."""
        from stages.images.opencv import cv2

        pixels = photos[photo].session.photo.view
        shown = cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        return Response(shown, media_type="image/jpeg")

    @app.get("/api/photos/{photo}/preset")
    def make_preset(photo: str, kind: str, seed: Seed = 0) -> Response:
        if kind not in PRESETS:
            raise InputError(f"no such hole: {kind}; one of: {', '.join(PRESETS)}")
        session = photos[photo].session
        return Response(mask(runner.preset(session, kind, seed)), media_type="image/png")

    @app.post("/api/photos/{photo}/run", status_code=202)
    async def complete(
        photo: str, request: Request, system: str, answers: Answers = 1, seed: Seed = 0, grain: bool = True
    ) -> dict[str, Any]:
        here, data = photos[photo], await body(request, HOLE_BYTES)

        def begin() -> None:
            hole = from_bytes(data, here.session.size, "the hole", smaller=True)
            with here.changing() as session:
                here.run = runner.start(session, hole, Wanted(system, answers, seed, grain))

        await run_in_threadpool(begin)
        return state(photo)

    @app.delete("/api/photos/{photo}/run")
    def cancel(photo: str) -> dict[str, Any]:
        if run := photos[photo].run:
            run.cancel()
        return state(photo)

    @app.put("/api/photos/{photo}/applied")
    def step(photo: str, edits: int) -> dict[str, Any]:
        with photos[photo].changing() as session:
            session.step(edits)
        return state(photo)

    @app.put("/api/photos/{photo}/answer")
    def choose(photo: str, number: int) -> dict[str, Any]:
        with photos[photo].changing() as session:
            session.choose(number)
        return state(photo)

    @app.get("/api/photos/{photo}/edits/{number}/hole.png")
    def edit_hole(photo: str, number: int) -> Response:
        session = photos[photo].session
        edit, hole = session.edit(number), np.zeros(session.size, bool)
        hole[edit.box] = edit.hole
        return Response(mask(hole), media_type="image/png")

    @app.get("/api/photos/{photo}/edits/{number}/{answer}.png")
    def filled(photo: str, number: int, answer: int) -> Response:
        return Response(patch(photos[photo].session.edit(number), answer), media_type="image/png")

    @app.get("/api/photos/{photo}/picture.png")
    def picture(photo: str) -> Response:
        return Response(photos[photo].session.png(), media_type="image/png")

    @app.get("/api/photos/{photo}/hole.png")
    def hole(photo: str) -> Response:
        return Response(mask(photos[photo].session.hole), media_type="image/png")

    @app.get("/api/photos/{photo}/record.json")
    def record(photo: str) -> Response:
        return Response(photos[photo].session.record(runner.detector), media_type="application/json")

    @app.get("/api/photos/{photo}/record.json.sig")
    def signature(photo: str) -> Response:
        from flows.lineage import bundle

        if signer is None:
            raise HTTPException(404, "you have no key: `palimpsest audit key new NAME` makes one")
        session = photos[photo].session
        digest = sha256(session.record(runner.detector)).hexdigest()
        return Response(bundle.sign(f"{session.stem}.json", digest, signer), media_type="application/json")

    return app


def _state(photo: Open) -> dict[str, Any]:
    """What the page shows."""
    session, run = photo.session, photo.run
    height, width = session.size
    edits = []
    for edit in session.edits:
        rows, columns = edit.box
        box = [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start]
        edits.append({"number": edit.number, "system": edit.system.name, "facts": edit.system.facts, "box": box,
                      "pixels": edit.pixels, "answers": len(edit.answers), "chosen": edit.chosen})  # fmt: skip
    going = {"state": run.state, "progress": run.progress, "error": run.error} if run else None
    shown = not session.photo.turned or session.photo.data.startswith(JPEG)  # few browsers turn other formats
    return {"name": session.photo.name, "width": width, "height": height, "shown": shown, "edits": edits,
            "applied": session.applied, "run": going}  # fmt: skip


def _errors(app: FastAPI) -> None:
    @app.exception_handler(InputError)
    def mistake(request: Request, error: InputError) -> Response:
        return JSONResponse({"error": str(error)}, 400)

    @app.exception_handler(HTTPException)
    def refused(request: Request, error: HTTPException) -> Response:
        return JSONResponse({"error": str(error.detail)}, error.status_code)

    @app.exception_handler(RequestValidationError)
    def unfit(request: Request, error: RequestValidationError) -> Response:
        said = "; ".join(f"{item['loc'][-1]}: {item['msg']}" for item in error.errors())
        return JSONResponse({"error": said}, 400)


def _files(app: FastAPI) -> None:
    """The page itself, which holds nothing private."""
    files = {f"/{file.name}": file for file in Path(__file__).parent.glob("page/*")}
    files["/"] = files.pop("/page.html")

    def file(request: Request) -> Response:
        found = files[request.url.path]
        return Response(found.read_bytes(), media_type=TYPES[found.suffix])

    for path in files:
        app.get(path)(file)
