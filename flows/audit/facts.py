"""What answers are made of: lines, each with the word that says what it rests on.

- claimed: the checkpoint's own metadata say so;
- recorded: a `dvc.lock` in Git's history, or the record of a stage run, says so;
- verified: the bytes were hashed now, and have the digest that is recorded;
- cannot tell: what would say it is not here; a remedy is named;
- DIFFERS: the bytes are others than recorded, metadata and `dvc.lock` contradict each other, or a record was altered.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from flows.lineage import cache
from flows.lineage.cache import FoundTable
from flows.lineage.public_keys import ODD
from stages.runs import record
from stages.runs.errors import InputError

HERE = "bring it with `dvc fetch --all-commits` and `git fetch --all --tags`"

Word = Literal["claimed", "recorded", "verified", "cannot tell", "DIFFERS"]


@dataclasses.dataclass(frozen=True)
class Fact:
    """One line of an answer."""

    about: str
    said: str
    word: Word


def find_table(
    root: Path, md5: str, path: str, about: str, digest: Callable[[Path], str] = record.digest
) -> FoundTable | Fact:
    """A recorded table or list, hashed by `digest`; or why nothing can be told by it."""
    try:
        found = cache.find_table(root, md5, path, digest)
    except cache.Altered as error:
        return Fact(about, str(error), "DIFFERS")
    return found or Fact(about, absent(md5, path), "cannot tell")


def absent(md5: str, path: str) -> str:
    """That a recorded file is not here, and the remedy."""
    return f"{path} {md5[:10]} is neither in DVC's cache nor in the working copy; {HERE}"


def left_out(damaged: str) -> str:
    """That what a `dvc.lock` says is not in the answer, as it is `damaged`."""
    return f"{damaged}; what it says is left out"


def read_list(file: Path) -> Any:
    """A list of pictures as a table of Arrow: `image_id` and `path`. Raises InputError where it is none."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(file)) as source:
            found = pa.ipc.open_file(source).read_all().select(["image_id", "path"])
        found.validate(full=True)  # texts too
        for column in found.schema:
            if not pa.types.is_string(column.type) or found[column.name].null_count:
                raise ValueError(f"'{column.name}' has other things than texts")
        return found
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a list of pictures ({' '.join(str(error).split())[:100]})") from None


def read_table(file: Path, columns: Iterable[str], more: Collection[str] = ()) -> Any:
    """Columns of a table in Parquet, and `more` where it has them. Raises InputError where it is no such table."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        there = pq.read_schema(file).names
        wanted = [*columns, *(name for name in more if name in there)]
        return pq.read_table(file, columns=wanted).select(wanted)  # Parquet leaves out what is not there
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        raise InputError(f"{file}: not a table of pictures ({' '.join(str(error).split())[:100]})") from None


def read_scores(file: Path, columns: Iterable[str], more: Collection[str] = ()) -> Any:
    """`read_table` of a table of scores: its rows of test pictures, without those of training pictures."""
    import pyarrow.compute as pc

    rows = read_table(file, columns, [*more, "split"])  # a table of an older version has test pictures alone
    if "split" not in rows.column_names:
        return rows
    return rows.filter(pc.equal(rows["split"], "test")).drop_columns("split")


def listed(found: FoundTable | Fact, about: str) -> Any:
    """A list of pictures as `read_list` has it, of what `find_table` has found; or why there is none."""
    try:
        return found if isinstance(found, Fact) else read_list(found.file)
    except InputError as error:
        return Fact(about, str(error), "cannot tell")


def since(commit: str | None, time: datetime | None) -> str:
    """Whose `dvc.lock` has something first."""
    if commit is None or time is None:
        return "dvc.lock of the working copy, not committed"
    return f"dvc.lock of commit {commit[:10]}, {time:%Y-%m-%d %H:%M} UTC"


def machine(answer: Any) -> str:
    """An answer as JSON: a dataclass, or a list of some."""
    plain = [dataclasses.asdict(one) for one in answer] if isinstance(answer, list) else dataclasses.asdict(answer)
    return json.dumps(plain, default=lambda value: value.isoformat(), indent=1)


def printed(text: str) -> str:
    """A text without what a terminal would act on: it may be from a stranger's record."""
    return ODD.sub("\N{REPLACEMENT CHARACTER}", text)


def page(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print lines, each of what it is about, its word and what is said."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    for column in range(3):
        table.add_column(overflow="fold", no_wrap=column < 2)
    for about, word, said in rows:
        table.add_row(Text(printed(about), "bold"), Text(word, "red" if word == "DIFFERS" else ""), Text(printed(said)))
    _console().print(table)


def paragraphs(rows: Iterable[tuple[str, str, str]]) -> None:
    """Print the same where what it is about is long, as a path is: in a line of its own, before what is said."""
    console = _console()
    for about, word, said in rows:
        style = "red" if word == "DIFFERS" else ""
        console.print(Padding(Text.assemble((printed(about), "bold"), "  ", (word, style)), (0, 2)))
        console.print(Padding(Text(printed(said)), (0, 4)))


def _console() -> Console:
    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)
