"""SQLite databases, as Prefect keeps its runs in: their long values, rows that are deleted, and files written anew."""

from __future__ import annotations

import contextlib
import errno
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

MAGIC = b"SQLite format 3"
LONG = 200  # bytes: no picture is in less
PATIENCE = 30  # seconds to wait for another program that writes


def is_one(file: Path) -> bool:
    """Whether a file is such a database."""
    with file.open("rb") as stream:
        return stream.read(len(MAGIC)) == MAGIC


def values(file: Path) -> Iterator[bytes]:
    """All long values of a database. It is read where it lies: its newest rows may be in another file.

    Raises BlockingIOError where another program does not let it be read. Of a damaged one, what can be read.
    """
    try:
        with contextlib.closing(_opened(f"{file.absolute().as_uri()}?mode=ro")) as database:
            for table in _tables(database):
                for row in database.execute(f"SELECT * FROM {_quoted(table)}"):
                    yield from filter(_long, row)
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise BlockingIOError(errno.EBUSY, "in use; stop the program that uses it, and run this again") from None
    except sqlite3.Error:  # damaged
        pass


def clean(file: Path, shows: Callable[[bytes], bool]) -> None:
    """Delete the rows that have a value which `shows` a picture, and write the file anew. Raises sqlite3.Error."""
    with contextlib.closing(_opened(file.absolute().as_uri())) as database:
        for table in _tables(database):
            keys = _keys(database, table)
            gone = [
                row[: len(keys)]
                for row in database.execute(f"SELECT {', '.join(keys)}, * FROM {_quoted(table)}")
                if any(map(shows, filter(_long, row[len(keys) :])))
            ]
            same = " AND ".join(f"{key} IS ?" for key in keys)
            database.executemany(f"DELETE FROM {_quoted(table)} WHERE {same}", gone)
        database.commit()
        _compact(database)


def compact(file: Path) -> str | None:
    """Write a database anew, so that nothing is left of rows that were deleted: what is to be done if that fails."""
    try:
        with contextlib.closing(_opened(file.absolute().as_uri())) as database:
            busy = _compact(database)
    except sqlite3.OperationalError as error:
        return f"{file}: {error}; stop Prefect's server that uses it, and run this again"
    except sqlite3.Error as error:
        return f"{file}: {error}; it is damaged: remove it, and run this again"
    return f"{file}: in use; stop Prefect's server that uses it, and run this again" if busy else None


def _opened(address: str) -> sqlite3.Connection:
    database = sqlite3.connect(address, uri=True, timeout=PATIENCE)
    database.text_factory = bytes
    return database


def _compact(database: sqlite3.Connection) -> bool:
    """Whether another program has kept it from being written whole into its one file."""
    database.execute("VACUUM")
    return bool(database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0])


def _tables(database: sqlite3.Connection) -> list[str]:
    return [name.decode() for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type='table'")]


def _long(value: object) -> bool:
    return isinstance(value, bytes) and len(value) >= LONG


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _keys(database: sqlite3.Connection, table: str) -> list[str]:
    """The columns by which SQLite knows a table's rows: `rowid`, or the primary key where there is none."""
    try:
        database.execute(f"SELECT rowid FROM {_quoted(table)} LIMIT 0")
        return ["rowid"]
    except sqlite3.OperationalError:
        columns = database.execute(f"PRAGMA table_info({_quoted(table)})").fetchall()
        return [_quoted(column[1].decode()) for column in columns if column[5]]
