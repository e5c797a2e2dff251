"""How many pictures came in, and why some went."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from stages.images.table import SPLITS, Table
from stages.pages.results import Folders, read

REASONS = 20  # rejections named apart a dataset; the rest are counted together


class Data(NamedTuple):
    """Tables of plain values, a list of cells for each row."""

    head: list[str]  # of `counts`
    counts: list[list[object]]  # a row for each dataset
    reasons: list[list[object]]  # dataset, stage, reason, pictures rejected for it
    remarks: list[list[object]]  # dataset, stage, remark, kept pictures of which it was made


def count_pictures(folders: Folders, datasets: Mapping[str, Any]) -> Data:
    """Counts per dataset, and how often each reason for a rejection and each remark on a kept file was given."""
    counts, reasons, remarks = [], [], []
    for name, entry in datasets.items():
        ingested = read(folders.ingested / name, ["status", "reason", "licence", "consent"])
        status = ingested["status"].to_pylist()
        of = Counter(status)
        splits = [len(Table(folders.aligned / name / f"{split}.arrow")) for split in SPLITS]
        unaligned = read(folders.aligned / name / "rejected.parquet", ["reason"])
        terms = [", ".join(sorted({v for v in ingested[c].to_pylist() if v})) for c in ("licence", "consent")]
        use = entry.get("ingest", {}).get("use", "")
        numbers = [ingested.num_rows, of["kept"], of["rejected"], unaligned.num_rows, *splits]
        counts.append([name, use, *terms, *numbers])
        said = list(zip(status, ingested["reason"].to_pylist(), strict=True))
        reasons += ranked(name, "ingest", [reason for kind, reason in said if kind == "rejected"])
        reasons += ranked(name, "align", unaligned["reason"].to_pylist())
        remarks += ranked(name, "ingest", [remark for kind, remark in said if kind == "kept"])
    head = ["dataset", "use", "licence", "consent", "pictures", "kept", "rejected", "not aligned", *SPLITS]
    return Data(head, counts, reasons, remarks)


def ranked(name: str, stage: str, reasons: list[str | None]) -> list[list[object]]:
    """Rows of a dataset's most frequent reasons, and one for the rest; None is no reason."""
    found = sorted(Counter(filter(None, reasons)).items(), key=lambda item: (-item[1], item[0]))
    rows: list[list[object]] = [[name, stage, reason, n] for reason, n in found[:REASONS]]
    if rest := sum(n for _, n in found[REASONS:]):
        rows.append([name, stage, f"{len(found) - REASONS} other reasons", rest])
    return rows
