"""GTO's tags of an artifact: `name@v2.0.0`, a version of it, and `name#prod#3`, the version that is in use.

An artifact of a project in folder `sub` is `sub:name` to GTO and DVC, and `sub=name` in its tags. Git makes the tags:
GTO 1.10 would sign them where `tag.gpgSign` is set, for which nobody may be there.
"""

from __future__ import annotations

import re
import time

from flows.checkout.git import Git
from stages.runs.errors import InputError

STAGE = "prod"  # GTO's, of the version that is promoted


def check(artifact: str) -> None:
    """Raise InputError for a name in `dvc.yaml` that GTO does not take."""
    from gto.constants import check_string_is_valid

    if not check_string_is_valid(artifact):
        raise InputError(
            f"dvc.yaml: artifacts: '{artifact}' cannot be tagged; take letters, digits and, between them, / _ -"
        )


def versions(git: Git, artifact: str, commit: str) -> list[str]:
    """GTO's versions of the artifact at the commit, the last one first."""
    names = git("for-each-ref", "--points-at", commit, "--sort=-version:refname", "--format=%(refname:strip=2)",
                f"refs/tags/{_tagged(artifact)}@v*").split()  # fmt: skip
    return [name.rpartition("@")[2] for name in names if not name.endswith("!")]


def assigned(git: Git, artifact: str) -> str | None:
    """The commit that GTO's last tag puts into the stage, or None."""
    patterns = [f"refs/tags/{_tagged(artifact)}#{STAGE}{end}#*" for end in ("", "!")]
    lines = git("for-each-ref", "--format=%(refname:strip=2) %(*objectname)", *patterns).splitlines()
    tags = {int(name.rpartition("#")[2]): (name, commit) for name, commit in (line.split() for line in lines)}
    if not tags:
        return None
    name, commit = tags[max(tags)]
    return None if "!" in name else commit


def register(git: Git, artifact: str, commit: str, message: str) -> None:
    """Tag the commit as the artifact's next major version."""
    majors = [int(major) for tag in _tags(git, artifact, "@") for major in re.findall(r"@v(\d+)\.", tag)]
    _make(git, artifact, f"@v{max(majors, default=0) + 1}.0.0", commit, message)


def assign(git: Git, artifact: str, commit: str, message: str) -> None:
    """Tag the commit as the one that is in the stage."""
    _make(git, artifact, f"#{STAGE}#{_next(git, artifact)}", commit, message)


def unassign(git: Git, artifact: str, commit: str, message: str) -> None:
    """Tag the commit as the one that is in the stage no more."""
    _make(git, artifact, f"#{STAGE}!#{_next(git, artifact)}", commit, message)


def _next(git: Git, artifact: str) -> int:
    """The number of the artifact's next tag of a stage."""
    numbers = [int(end) for tag in _tags(git, artifact, "#") for end in re.findall(r"#(\d+)$", tag)]
    return max(numbers, default=0) + 1


def _make(git: Git, artifact: str, end: str, commit: str, message: str) -> None:
    # GTO orders an artifact's tags by the second in which they were made.
    dates = git("for-each-ref", "--format=%(creatordate:unix)", f"refs/tags/{_tagged(artifact)}#*").split()
    if dates and end.startswith("#"):
        time.sleep(max(0.0, min(1.0, max(map(int, dates)) + 1 - time.time())))
    name = f"{_tagged(artifact)}{end}"
    git("tag", "--annotate", "--no-sign", "--cleanup=verbatim", "-F", "-", "--", name, commit, stdin=message)


def _tags(git: Git, artifact: str, mark: str) -> list[str]:
    return git("for-each-ref", "--format=%(refname:strip=2)", f"refs/tags/{_tagged(artifact)}{mark}*").split()


def _tagged(artifact: str) -> str:
    return artifact.replace(":", "=")
