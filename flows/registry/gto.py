"""GTO's tags of an artifact: `name@v2.0.0`, a version of it, and `name#prod#3`, the version that is in use."""

from __future__ import annotations

import time
from typing import Any, Literal

from flows.checkout.git import Git
from stages.runs.errors import InputError

STAGE = "prod"  # GTO's, of the version that is promoted


def versions(git: Git, artifact: str, commit: str) -> list[str]:
    """GTO's versions of the artifact at the commit, the last one first."""
    names = git("for-each-ref", "--points-at", commit, "--sort=-version:refname", "--format=%(refname:strip=2)",
                f"refs/tags/{artifact}@v*").split()  # fmt: skip
    return [name.rpartition("@")[2] for name in names if not name.endswith("!")]


def assigned(git: Git, artifact: str) -> str | None:
    """The commit that GTO's last tag puts into the stage, or None."""
    patterns = [f"refs/tags/{artifact}#{STAGE}{end}#*" for end in ("", "!")]
    lines = git("for-each-ref", "--format=%(refname:strip=2) %(*objectname)", *patterns).splitlines()
    tags = {int(name.rpartition("#")[2]): (name, commit) for name, commit in (line.split() for line in lines)}
    if not tags:
        return None
    name, commit = tags[max(tags)]
    return None if "!" in name else commit


def call(git: Git, action: Literal["register", "assign", "unassign"], artifact: str, **options: Any) -> None:
    from gto import api
    from gto.exceptions import GTOException

    # GTO orders an artifact's tags by the second in which they were made.
    dates = git("for-each-ref", "--format=%(creatordate:unix)", f"refs/tags/{artifact}#*").split()
    if dates:
        time.sleep(max(0.0, min(1.0, max(map(int, dates)) + 1 - time.time())))
    name, _, address = git("var", "GIT_COMMITTER_IDENT").rpartition("> ")[0].partition(" <")
    try:
        getattr(api, action)(git.home, artifact, author=name, author_email=address, **options)
    except GTOException as error:
        raise InputError(f"gto {action} {artifact}: {' '.join(str(error).split())}") from None
