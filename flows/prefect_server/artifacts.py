"""What Prefect's page shows of a rebuild, beside its stages: the scores, the contact sheet and the lineage."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path

from prefect import get_run_logger
from prefect.artifacts import create_image_artifact, create_table_artifact

from flows.lineage import dvc_lock
from flows.prefect_server.server import answers

METRICS = ("psnr_hole", "ssim_hole", "l1_hole", "sharpness", "texture")


def publish(root: Path) -> None:
    """Show what lies under `data/`. Whatever fails is a warning: the stages' work is done and recorded by DVC."""
    if not answers():  # Prefect's own calls would wait long
        return
    try:
        if rows := list(scores(root / "data" / "scores")):
            create_table_artifact(table=rows, key="scores", description="Mean scores by system and kind of hole")
        if rows := list(dvc_lock.rows(dvc_lock.read(root / "dvc.lock"))):
            create_table_artifact(table=rows, key="lineage", description="What each stage made of what, as in dvc.lock")
        for page, sheet in enumerate(sheets(root / "data" / "report"), 1):
            picture = base64.b64encode(sheet.read_bytes()).decode()
            create_image_artifact(
                image_url=f"data:image/png;base64,{picture}",
                key=f"contact-sheet-{page}",
                description=f"{sheet.stem.removeprefix('sheet-')}: original, hole, and each system raw and blended",
            )
    except Exception as error:
        get_run_logger().warning("no artifacts: %s", " ".join(str(error).split()))


def scores(folder: Path) -> Iterator[dict[str, object]]:
    """A row per system, raw or blended, and kind of hole ("overall": all of them)."""
    from stages.metrics.means import OVERALL, SUFFIX, read_means

    for file in sorted(folder.glob(f"*{SUFFIX}")):
        for (blending, group, label), metrics in read_means(file).items():
            shown = {name: metrics[name].mean for name in METRICS if name in metrics}
            if shown and blending != "difference" and group in (OVERALL[0], "kind"):
                hole = label if group == "kind" else group
                yield {"system": file.name.removesuffix(SUFFIX), "variant": blending, "hole": hole, **shown}


def sheets(report: Path) -> list[Path]:
    """The pages of the first contact sheet."""
    every = sorted(report.glob("sheet-*.png"), key=lambda page: page.stem)
    return [page for page in every if page.stem.startswith(every[0].stem)]
