"""Which checkpoints were trained on a picture, or on a copy of it; of one picture, or of all in a folder."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

from flows.audit import copies, crop_hashes, crops, members, sheet
from flows.audit.copies import BYTES, CROP_NEAR, CROP_PIXELS, NEAR, PIXELS, POSSIBLE, Copy, Query
from flows.audit.facts import page, since
from flows.lineage import entries, erasures, locks
from flows.lineage.digests import FILE, Digests
from flows.lineage.tables import ALIGNED
from flows.registry import history
from stages.runs.errors import InputError

SHOWN = 5  # copies that people see; `--json` has all
CROPS = (
    "a picture that is cropped by more than a few per cent in another way than `align` does, or turned, is often missed"
)
WEIGHTS = (
    "; less often, if the face detector's weights {} could be used: they must be here as they were, and params.yaml or "
    "dvc.lock here must name them"
)
HOW = {
    BYTES: "",
    PIXELS: ", the same pixels as {path}",
    CROP_PIXELS: ", the same pixels as the crop of {path}",
    NEAR: ", a near copy of {path}",
    CROP_NEAR: ", a near copy of the crop of {path}",
}


@dataclasses.dataclass(frozen=True)
class Erased:
    """That a picture was erased."""

    image_id: str  # of its tombstone
    time: str | None  # None: no record is here; tombstones.txt says that it is withdrawn
    checkpoints: list[str]  # that were trained on it and were removed: path and md5
    bits: int  # of 256 in which what was asked differs from it; 0 where its file or its pixels are the same


@dataclasses.dataclass(frozen=True)
class Image:
    """Where a picture has been used."""

    asked: str
    image_id: str | None  # sha256 of the file; None: it cannot be read
    pixel_sha256: str | None  # of its pixels; None: only its bytes were looked for
    why: str | None  # it cannot be decoded
    copies: list[Copy]  # pictures that it is, or looks like, or whose crop it is; the surest first
    uses: list[dict[str, Any]]  # `checkpoint`, `md5`, `kind` and `path` of the picture, `commit`, `time`
    erased: Erased | None = None  # it, or a picture that it is a copy of


@dataclasses.dataclass(frozen=True)
class Answer:
    """What there is to say of a picture, or of each in a folder."""

    asked: str
    folder: bool
    pictures: list[Image]
    lists: int  # lists of training pictures that locks name
    tables: int  # ingested tables that locks name
    compared: int  # kept pictures in them
    aligned: int  # aligned tables that locks name
    crops: int  # in them, that were compared
    kept: int  # of these, by hashes that an earlier answer has made
    weights: list[str]  # of face detectors that `align` has used, and that could not be used
    remembered: int  # files that are as they were when they were hashed, and so were not hashed now
    rewritten: int  # lists and tables from which pictures were erased: what is left was searched
    missing: list[dict[str, str]]  # lists and tables that are not here or altered, damaged locks: `md5`, `path`, `why`
    sheet: str | None  # a PNG that shows near and possible copies beside what was asked

    @property
    def found(self) -> bool:
        return bool(self.missing or any(image.uses or image.why for image in self.pictures))


def ask(root: Path, asked: str) -> Answer:
    """Which checkpoints were trained on a picture: a file, the sha256 of one, or each picture in a folder.

    Of a sha256, exactly these bytes are looked for; of a file, its pixels too, and pictures and crops that look nearly
    the same.

    Raises InputError where `asked` is none of them, a folder without pictures, or a file that cannot be read as a
    picture and whose bytes no training has read.
    """
    place = Path(asked)
    damaged = locks.cut_off(root)
    every = [(lock, entries.files(lock, damaged)) for lock in locks.every(root)]
    digest = Digests(root)
    if place.is_dir():
        queries = _folder(place)
    elif place.is_file():
        queries = list(copies.read([(asked, place, None)]))
    elif re.fullmatch("[0-9a-fA-F]{64}", asked):
        queries = [Query(asked, None, asked.lower())]
    else:
        raise InputError(
            f"{asked}: neither a file nor a folder nor the sha256 of a file, which has 64 digits of 0-9 and a-f"
        )
    if any(query.pixel_sha256 for query in queries):
        seen = copies.search(root, [files for _, files in every], queries, digest)
        crops.search(root, every, queries, digest, seen)
    else:
        seen = copies.Search([{} for _ in queries])
    seen.unread(damaged)
    near = [sorted(found.values(), key=lambda copy: copy.rank) for found in seen.found]
    wanted = {query.image_id for query in queries if query.image_id}
    wanted |= {copy.image_id for found in near for copy in found if copy.kind != POSSIBLE}
    trained = members.search(root, every, wanted, digest)
    digest.save()
    gone = _erased(root, queries)
    images = [_image(*each, trained) for each in zip(queries, near, gone, strict=True)]
    answer = Answer(
        asked, place.is_dir(), images, trained.lists, seen.tables, seen.pictures, seen.aligned, seen.crops,
        seen.kept, seen.weights, digest.remembered, trained.rewritten + len(seen.rewritten),
        [*trained.missing, *seen.missing], _sheet(root, queries, images, seen),
    )  # fmt: skip
    if place.is_file() and (why := images[0].why) and not (images[0].uses or answer.missing):
        raise InputError(
            f"{asked}: no training has read these bytes, and they are no picture ({why}); name another file"
        )
    return answer


def _folder(place: Path) -> list[Query]:
    from tqdm import tqdm

    from stages.images import sources

    files = sorted((item.path, item.content, item.reason) for item in sources.files(place))
    if not files:
        raise InputError(f"{place}: no pictures in this folder; name one that has some")
    named = [(path, Path(str(content)), reason) for path, content, reason in files]
    return list(tqdm(copies.read(named), "read", len(named), unit="picture", mininterval=1, disable=None))


def _erased(root: Path, queries: list[Query]) -> list[Erased | None]:
    """Of each query, the erased picture that it is or looks like."""
    from stages.images import withdrawn

    records = erasures.every(root)
    with contextlib.suppress(InputError):
        stones = withdrawn.read(root / erasures.TOMBSTONES)
        near = stones.near([query.hashes for query in queries])
        found = []
        for query, copy in zip(queries, near, strict=True):
            same = [one for one in (query.image_id, query.pixel_sha256) if one in stones.digests]
            name, bits = (same[0], 0) if same else copy or (None, 0)
            body = erasures.of_picture(records, name) if name else None
            notes = (body or {}).get("notes") or {}
            models = [f"{one['path']} {one['md5'][:10]}" for one in notes.get("checkpoints") or ()]
            found.append(Erased(name, body["ended"] if body else None, models, bits) if name else None)
        return found
    return [None] * len(queries)


def _image(query: Query, found: list[Copy], erased: Erased | None, trained: members.Search) -> Image:
    sure = [copy for copy in found if copy.kind != POSSIBLE]
    uses: dict[str, dict[str, Any]] = {}  # by the checkpoint's md5, for the surest copy
    for image_id, kind in [(query.image_id, BYTES), *((copy.image_id, copy.kind) for copy in sure)]:
        for use in trained.uses.get(image_id or "", []):
            uses.setdefault(use["md5"], {**use, "kind": kind})
    return Image(query.asked, query.image_id, query.pixel_sha256, query.why, sure or found, list(uses.values()), erased)


def _sheet(root: Path, queries: list[Query], images: list[Image], seen: copies.Search) -> str | None:
    rows = [
        (query, alike)
        for query, image in zip(queries, images, strict=True)
        if (alike := [copy for copy in image.copies if copy.bits is not None])
    ]
    return sheet.write(root, rows, seen.files) if rows else None


def show(answer: Answer) -> None:
    """An answer on the terminal: in one line first, then what it rests on."""
    absent = sum(gone["path"].endswith(history.MEMBERS) for gone in answer.missing)
    searched = f"{answer.lists - absent} of {answer.lists} lists of training pictures were searched"
    first = answer.pictures[0]
    if answer.folder:
        used = sum(bool(image.uses) for image in answer.pictures)
        print(f"{answer.asked}: {used} of {len(answer.pictures)} pictures were trained on ({searched})")
    elif first.uses:
        how = HOW[first.uses[0]["kind"]].format(**first.uses[0])
        count = len(first.uses)
        print(f"{answer.asked}{how}: trained on by {count} checkpoint{'s' * (count != 1)} ({searched})")
    elif answer.missing:
        print(f"{answer.asked}: cannot tell ({searched})")
    else:
        what = "it or a near copy" if first.pixel_sha256 else "these bytes"
        print(f"{answer.asked}: no checkpoint was trained on {what} ({searched})")
    rows = _of_folder(answer) if answer.folder else _of_picture(first)
    rows += [("erased", "recorded", _gone(one)) for one in answer.pictures if one.erased]
    if any(one.pixel_sha256 and not one.uses for one in answer.pictures):
        more = WEIGHTS.format(" and ".join(answer.weights)) if answer.weights else ""
        rows.append(("crops", "cannot tell", CROPS + more))
    if answer.sheet:
        rows.append(("sheet", "", f"{answer.sheet} shows them side by side"))
    word = "recorded" if answer.rewritten else "verified"
    if answer.rewritten:
        said = f"pictures were erased from {answer.rewritten} lists and tables: what is left was searched"
        rows.append(("erased", "recorded", said))
    if answer.compared:
        tables = f"{answer.tables} ingested table{'s' * (answer.tables != 1)}"
        rows.append(("compared with", word, f"{answer.compared} pictures of {tables}"))
    if answer.crops:
        tables = f"{answer.aligned} aligned table{'s' * (answer.aligned != 1)}"
        rows.append(("compared with", word, f"{answer.crops} crops of {tables}"))
    if answer.remembered:
        said = f"{answer.remembered} files of lists and tables, which are as they were when they were hashed ({FILE})"
        rows.append(("not hashed", "recorded", said))
    if answer.kept:
        said = (
            f"{answer.kept} crops, by hashes that an earlier answer has made of the same files ({crop_hashes.FOLDER})"
        )
        rows.append(("not hashed", "recorded", said))
    rows += _missing(answer)
    page(rows)


def _gone(image: Image) -> str:
    assert image.erased
    erased = image.erased
    when = f"on {erased.time[:10]}" if erased.time else "no record of that is here, but tombstones.txt has it"
    what = "it" if not erased.bits else f"its original ({erased.bits} of 256 bits differ)"
    models = f"; removed with it: {', '.join(erased.checkpoints[:SHOWN])}" if erased.checkpoints else ""
    return f"{image.asked}: {what}, tombstone {erased.image_id[:10]}, {when}{models}"


def _missing(answer: Answer) -> list[tuple[str, str, str]]:
    """A line per list and ingested table that is missing or altered, and one for all aligned tables."""
    aligned = [gone for gone in answer.missing if gone["path"].startswith(ALIGNED)]
    shown = [*(gone for gone in answer.missing if gone not in aligned), *aligned[:1]]
    rows = [(_what(gone), "cannot tell", gone["why"]) for gone in shown]
    if len(aligned) > 1:
        rows.append(("and", "", f"{len(aligned) - 1} more aligned tables (--json lists them)"))
    return rows


def _what(gone: dict[str, str]) -> str:
    if gone["path"] == locks.NAME:
        return locks.NAME
    return f"{'list' if gone['path'].endswith(history.MEMBERS) else 'table'} {gone['md5'][:10]}"


def _of_picture(image: Image) -> list[tuple[str, str, str]]:
    rows = []
    for use in image.uses:  # the list was hashed; that it is this one's, the lock says
        how = "" if use["kind"] == BYTES else f" ({use['kind']})"
        said = f"{use['md5'][:10]}, as {use['path']}{how}; {since(use['commit'], use['time'])}"
        rows.append((use["checkpoint"], "recorded", said))
    for copy in image.copies[:SHOWN]:
        if copy.kind == POSSIBLE:
            rows.append((copy.kind, "cannot tell", f"look: {copy.said()}"))
        else:
            rows.append((copy.kind, "verified", copy.said()))
    if len(image.copies) > SHOWN:
        rows.append(("and", "", f"{len(image.copies) - SHOWN} more (--json lists them)"))
    if image.why:
        rows.append(("copies", "cannot tell", f"it is no picture ({image.why}): only its bytes were looked for"))
    return rows


def _of_folder(answer: Answer) -> list[tuple[str, str, str]]:
    """A line per picture that was trained on, lies in an ingested table or cannot be read; the others are counted."""
    rows: list[tuple[str, str, str]] = []
    possible = []
    for image in answer.pictures:
        sure = [f"{copy.kind}: {copy.said()}" for copy in image.copies if copy.kind != POSSIBLE]
        if image.uses:
            named = ", ".join(sorted({use["checkpoint"] for use in image.uses}))
            rows.append((image.asked, "recorded", "; ".join([f"trained on by {named}", *sure[:1]])))
        elif sure:
            rows.append((image.asked, "verified", f"trained on by none; {sure[0]}"))
        elif image.why:
            rows.append((image.asked, "cannot tell", f"cannot be read as a picture ({image.why})"))
        elif image.copies:
            possible.append(image.asked)
    if rest := len(answer.pictures) - len(rows) - len(possible):
        rows.append((f"{rest} others", "", "no copy was found"))
    if possible:
        more = f" and {len(possible) - SHOWN} more" * (len(possible) > SHOWN)
        rows.append((f"{len(possible)} possible", "cannot tell", f"look: {', '.join(possible[:SHOWN])}{more}"))
    return rows
