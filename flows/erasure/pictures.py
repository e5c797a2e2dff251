"""Which pictures are to be erased: those that are named, those of a person, and every copy that was taken in."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from flows.audit import copies
from flows.audit.facts import read_table
from flows.erasure import places
from flows.lineage import erasures, locks, tables
from flows.lineage.digests import Digests
from stages.runs.errors import InputError

DIGITS = 6  # of a sha256 that is cut short; fewer fit too many
COLUMNS = ("image_id", "path", "pixel_sha256", "identity")


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture that is to be erased."""

    image_id: str  # sha256 of its file
    pixel_sha256: str | None  # None: it could not be decoded
    phash: str | None  # hexadecimal; None: it is not known, or no copies are to be refused by their look
    why: str  # it was named, or what of it is like one that was
    identities: tuple[str, ...]
    names: tuple[tuple[str, str], ...]  # dataset and path, in every table that has it


@dataclasses.dataclass(frozen=True)
class Row:
    """What an ingested table says of a picture."""

    dataset: str
    image_id: str
    path: str | None  # None: it was withdrawn already
    pixel_sha256: str | None
    identity: str | None
    phash: bytes | None
    file: Path  # where the row stands, with its bytes where it was kept


def rows(root: Path, digest: Digests) -> list[Row]:
    """Every row of every ingested table that a `dvc.lock` which Git knows names, as far as the table is here."""
    every = [tables.among(lock.files()) for lock in locks.every(root)]
    parts, _ = tables.parts(root, {table: None for named in every for table in named.items()}, digest)
    found: dict[tuple[Any, ...], Row] = {}
    for part in parts:
        dataset = Path(part.path).parts[2]
        try:
            table = read_table(part.file, COLUMNS, ["phash"])
        except InputError:  # damaged: it has no rows, and its bytes are searched as those of any file
            continue
        for row in table.to_pylist():
            if row["image_id"]:
                key = (dataset, row["image_id"], row["path"])
                if key not in found or (row.get("phash") and not found[key].phash):
                    found[key] = Row(dataset, **{"phash": None, **row}, file=part.file)
    return list(found.values())


@dataclasses.dataclass(frozen=True)
class Person:
    """Somebody whose pictures are to be erased, by the name that ingested tables have."""

    identity: str
    dataset: str | None = None  # None: of the only one that has somebody of this name


def find(root: Path, asked: Sequence[str], person: Person | None, exact: bool, known: Sequence[Row]) -> list[Picture]:
    """The pictures that `asked` names (files, or a sha256, maybe cut short) and those of a person, with all copies.

    A copy has the same pixels or, unless `exact`, nearly the same look. `known` are the `rows`.

    Raises InputError for a sha256 that no table has, for one that fits several, and as `of_person` does.
    """
    from stages.images import phash
    from stages.images.decode.picture import BadPicture
    from stages.images.decode.read import decode

    reasons: dict[str, str] = {}  # by image_id
    pixels: dict[str, str | None] = {}
    hashes: dict[str, Any] = {}  # of what was named: `phash.Hashes`
    lying: dict[str, list[tuple[str, str]]] = {}  # of files among original pictures: dataset and path
    for name in asked:
        query = _query(name)
        if query is None:
            fitting = sorted({row.image_id for row in known if row.image_id.startswith(name.lower())})
            if len(fitting) > 1:
                some = ", ".join(one[: len(name) + 4] for one in fitting[:5])
                raise InputError(f"{name}: fits {len(fitting)} pictures ({some} ...); name more digits")
            if not fitting and (body := erasures.beginning(erasures.every(root), name.lower())):
                raise InputError(
                    f"{name}: was erased on {body['ended'][:10]}; --receipt FILE writes the letter, and to search "
                    "everything again, name the picture's file"
                )
            if not fitting:
                raise InputError(f"{name}: no picture with this sha256 is in a table that Git knows here; {LOOK}")
            reasons[fitting[0]] = "named"
        else:
            reasons[str(query.image_id)] = f"named ({name})"
            pixels[str(query.image_id)] = query.pixel_sha256
            hashes[str(query.image_id)] = query.hashes
            lying[str(query.image_id)] = _lying(root, Path(name))
    if person is not None:
        ids = {one for some in of_person(person, known).values() for one in some}
        reasons |= {one: f"of {person.identity}" for one in sorted(ids) if one not in reasons}
    _add_pixels(reasons, pixels, known)
    if not exact:
        for one, data in contents(root, [*reasons], known):
            with contextlib.suppress(BadPicture):
                hashes.setdefault(one, phash.hashes(decode(data)))
        _add_near(reasons, hashes, known)
        _add_pixels(reasons, pixels, known)
    found = [
        _picture(one, why, known, pixels, None if exact else hashes.get(one), lying.get(one, ()))
        for one, why in reasons.items()
    ]
    return found


def of_person(person: Person, known: Sequence[Row]) -> dict[str, set[str]]:
    """The image_ids of a person's pictures by the datasets that have them.

    Raises InputError where there are none. Several datasets may have one name for different people: raises InputError
    unless one is chosen, or they share a picture under that name.
    """
    found: dict[str, set[str]] = {}
    for row in known:
        if row.identity == person.identity and person.dataset in (None, row.dataset):
            found.setdefault(row.dataset, set()).add(row.image_id)
    if not found:
        where = f"dataset {person.dataset}" if person.dataset else "a table"
        raise InputError(f"--identity {person.identity}: nobody of this name is in {where} that Git knows here")
    people: list[set[str]] = []
    for ids in found.values():
        same = [one for one in people if one & ids]
        people = [*(one for one in people if not one & ids), ids.union(*same)]
    if len(people) > 1:
        counts = ", ".join(f"{dataset} ({len(ids)} pictures)" for dataset, ids in sorted(found.items()))
        raise InputError(
            f"--identity {person.identity}: several datasets have this name, maybe of different people: {counts}; "
            "choose one with --dataset"
        )
    return dict(sorted(found.items()))


def met(root: Path, found: Sequence[Picture], known: Sequence[Row]) -> bool:
    """Whether one of the pictures was ever taken in, or erased."""
    erased, ids = erasures.every(root), {row.image_id for row in known}
    return any(one.image_id in ids or erasures.of_picture(erased, one.image_id, one.pixel_sha256) for one in found)


LOOK = "`palimpsest audit image` looks further, also for possible copies"


def _query(name: str) -> copies.Query | None:
    """What a file is; None for a sha256. Raises InputError for anything else."""
    if (file := Path(name)).is_file():
        query = next(iter(copies.read([(name, file, None)])))
        if query.image_id is None:
            raise InputError(f"{name}: cannot be read ({query.why})")
        return query
    if not re.fullmatch("[0-9a-fA-F]{1,64}", name):
        raise InputError(f"{name}: neither a file nor the sha256 of a picture")
    if len(name) < DIGITS:
        raise InputError(f"{name}: name at least {DIGITS} digits of the sha256")
    return None


def _lying(root: Path, file: Path) -> list[tuple[str, str]]:
    """The datasets among whose original pictures a file lies, and its path there."""
    place = file.resolve()
    folders = {dataset: folder.resolve() for dataset, folder in places.originals(root).items()}
    return [
        (dataset, place.relative_to(folder).as_posix())
        for dataset, folder in folders.items()
        if place.is_relative_to(folder)
    ]


def _add_near(reasons: dict[str, str], hashes: dict[str, Any], known: Sequence[Row]) -> None:
    """Add the pictures that look nearly the same, as they are or mirrored."""
    from stages.images import phash

    queries = [(one, way) for one, each in hashes.items() if each for way in each]
    others = [row for row in known if row.phash and row.image_id not in reasons]
    if not queries or not others:
        return
    stacked = phash.stacked([row.phash for row in others if row.phash])
    for one, other, bits in phash.pairs(phash.stacked([way for _, way in queries]), stacked, phash.NEAR):
        for query, place, differ in zip(one.tolist(), other.tolist(), bits.tolist(), strict=True):
            why = f"a near copy of {queries[query][0][:10]} ({differ} of {8 * phash.BYTES} bits differ)"
            reasons.setdefault(others[place].image_id, why)


def _add_pixels(reasons: dict[str, str], pixels: dict[str, str | None], known: Sequence[Row]) -> None:
    same = {row.pixel_sha256: row.image_id for row in known if row.image_id in reasons and row.pixel_sha256}
    same |= {pixel: one for one, pixel in pixels.items() if pixel}
    for row in known:
        if row.pixel_sha256 in same:
            reasons.setdefault(row.image_id, f"the same pixels as {same[row.pixel_sha256][:10]}")


def _picture(
    image_id: str,
    why: str,
    known: Sequence[Row],
    pixels: dict[str, str | None],
    hashes: Any,
    lying: Sequence[tuple[str, str]],
) -> Picture:
    """`lying`: dataset and path of a file that was named, if it lies among original pictures."""
    mine = [row for row in known if row.image_id == image_id]
    pixel = next((row.pixel_sha256 for row in mine if row.pixel_sha256), pixels.get(image_id))
    hashed = next((row.phash for row in mine if row.phash), hashes.upright if hashes else None)
    names = sorted({(row.dataset, row.path) for row in mine if row.path} | set(lying))
    people = sorted({row.identity for row in mine if row.identity})
    return Picture(image_id, pixel, hashed.hex() if hashed else None, why, tuple(people), tuple(names))


def contents(root: Path, image_ids: Sequence[str], known: Sequence[Row]) -> Iterator[tuple[str, bytes]]:
    """The files' bytes by image_id, as ingested tables keep them.

    Of a picture that every table has rejected, the original, if it is where the dataset has its pictures.
    """
    from hashlib import sha256

    import pyarrow as pa
    import pyarrow.compute as pc

    done: set[str] = set()
    for file in {row.file: None for row in known if row.image_id in image_ids}:
        table = read_table(file, ["image_id", "image"])
        for row in table.filter(pc.is_in(table["image_id"], pa.array(image_ids, pa.string()))).to_pylist():
            if (data := (row["image"] or {}).get("bytes")) and row["image_id"] not in done:
                done.add(row["image_id"])
                yield row["image_id"], data
    folders = places.originals(root)
    for one in known:
        if one.image_id in image_ids and one.image_id not in done and one.path and one.dataset in folders:
            original = folders[one.dataset] / one.path
            kept = original.read_bytes() if original.is_file() else b""
            if sha256(kept).hexdigest() == one.image_id:
                done.add(one.image_id)
                yield one.image_id, kept
