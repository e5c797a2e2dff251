"""Data outside of the repository, as DVC's temporary experiments see them.

`dvc exp run --temp` and `--queue` work in a checkout of their own: a folder in `.dvc/tmp/exps/standalone`, or in
`.dvc/tmp/exps`. From there `../photos` is another place than from the project. A link at that place leads to the
photos.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

CHECKOUTS = ("exps/standalone", "exps")  # the folders in .dvc/tmp in which DVC makes them
# What DVC, and `palimpsest rebuild`, make in these folders and in .dvc/tmp: no link may take their place.
TAKEN = ("btime", "celery", "exps", "lock", "palimpsest.lock", "run", "rwlock", "rwlock.lock", "standalone", "updater")


def link_outside(data: Path, base: Path) -> None:
    """Link `data` for DVC's temporary experiments, if it lies outside of the repository and is there.

    `data` is the path as it is written, seen from the folder `base` of a DVC project. An absolute one needs no link.
    What lies at the link's place and is no link is left alone, and in a folder that cannot be written no link is made.
    """
    base = base.absolute()
    folders = (base, *base.parents)
    top = next((folder for folder in folders if (folder / ".git").exists()), None)
    project = next((folder for folder in folders if (folder / ".dvc").is_dir()), None)
    if data.is_absolute() or top is None or project is None:
        return
    parts = Path(os.path.relpath(os.path.normpath(base / data), top)).parts
    ups = parts.count(os.pardir)
    if not 0 < ups < len(parts):
        return
    first = parts[: ups + 1]  # as `..`, `photos` of `../photos/mine`
    target = Path(os.path.normpath(top.joinpath(*first)))
    home = project / ".dvc" / "tmp"
    for folder in CHECKOUTS:
        link = Path(os.path.normpath(home.joinpath(folder, *first[1:])))
        if home in link.parents and link.name not in TAKEN and target.exists():
            with contextlib.suppress(OSError):
                _link(link, target)


def _link(link: Path, target: Path) -> None:
    link.parent.mkdir(parents=True, exist_ok=True)
    if link.is_symlink() and link.readlink() != target:
        link.unlink()  # of a project that has been moved, for one
    if not os.path.lexists(link):
        link.symlink_to(target)
