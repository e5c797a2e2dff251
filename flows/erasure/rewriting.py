"""Tables and listings written anew without some rows: the same rows always give the same bytes."""

from __future__ import annotations

import io
import json
from collections.abc import Collection, Mapping
from typing import Any

from flows.erasure import lists
from flows.erasure.contents import STREAM, arrow_batches
from flows.lineage import cache

INGESTED = {"image", "image_id", "path", "near", "reason"}  # columns by which an ingested table is known


def without(data: bytes, rows: Collection[int]) -> bytes | None:
    """A table in Arrow or Parquet without these rows, in the form in which the stages write it; None: none is left.

    Of anything else, without these lines.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not data.startswith((b"ARROW1", STREAM, b"PAR1")):
        return lists.without(data, rows)
    arrow = not data.startswith(b"PAR1")
    buffer = pa.py_buffer(data)
    table = pa.Table.from_batches(arrow_batches(buffer)) if arrow else pq.ParquetFile(pa.BufferReader(buffer)).read()
    kept = table.take(pa.array([row for row in range(table.num_rows) if row not in rows], pa.int64()))
    if not kept.num_rows:
        return None
    if {*kept.column_names} >= INGESTED:
        kept = _nameless(kept, table.take(pa.array(sorted(rows), pa.int64())))
    return _arrow(kept, data.startswith(STREAM)) if arrow else _parquet(kept, buffer)


def _nameless(table: Any, gone: Any) -> Any:
    """An ingested table whose rows name no picture that is gone: as near, or in a reason."""
    import pyarrow as pa
    import pyarrow.compute as pc

    from stages.ingest import kind

    near = pc.if_else(pc.is_in(table["near"], gone["image_id"]), pa.scalar(None, pa.string()), table["near"])
    table = table.set_column(table.column_names.index("near"), "near", near)
    names = tuple(f" {path}" for path in gone["path"].to_pylist() if path)
    reasons = [
        reason and "; ".join(kind(part) if part.endswith(names) else part for part in reason.split("; "))
        for reason in table["reason"].to_pylist()
    ]
    return table.set_column(table.column_names.index("reason"), "reason", pa.array(reasons, pa.string()))


def _arrow(table: Any, as_stream: bool) -> bytes:
    import pyarrow as pa

    from stages.images.table import ROWS

    stream = io.BytesIO()
    with (pa.ipc.new_stream if as_stream else pa.ipc.new_file)(stream, table.schema) as writer:
        writer.write_table(table.combine_chunks(), max_chunksize=ROWS)
    return stream.getvalue()


def _parquet(table: Any, like: Any) -> bytes:
    """As the buffer before was written: its compression, its dictionaries and its statistics, column by column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from stages.ingest import SCHEMA

    if {*table.column_names} >= INGESTED:  # ingested: reading has renamed what is in its lists
        table = table.cast(pa.schema([SCHEMA.field(f.name) if f.name in SCHEMA.names else f for f in table.schema]))
    before = pq.ParquetFile(pa.BufferReader(like)).metadata
    group = before.row_group(0)
    columns = [group.column(number) for number in range(group.num_columns)]
    names = {column.path_in_schema: column for column in columns}
    stream = io.BytesIO()
    pq.write_table(
        table,
        stream,
        row_group_size=max(before.row_group(number).num_rows for number in range(before.num_row_groups)),
        compression={name: one.compression.replace("UNCOMPRESSED", "NONE") for name, one in names.items()},
        use_dictionary=[name for name, column in names.items() if column.has_dictionary_page],
        write_statistics=[name for name, column in names.items() if column.is_stats_set],
    )
    return stream.getvalue()


def listing(data: bytes, gone: Collection[str], changed: Mapping[str, str]) -> bytes | None:
    """DVC's listing of a folder without files (md5), and with others in place of some; None where it stays as it is.

    Raises InputError where it is no such listing.
    """
    found = cache.listed(data, "an object that ends in .dir")
    if not any(md5 in gone or md5 in changed for md5 in found.values()):
        return None
    entries = [
        {"md5": changed.get(md5, md5), "relpath": path}
        for path, md5 in found.items()
        if md5 in changed or md5 not in gone
    ]
    return json.dumps(entries, sort_keys=True).encode()  # as DVC writes it
