"""The working copy's files as one Git commit that can be sent: what is committed, what is not yet, and what is new.

Taken with an index, references and objects of its own, so that the repository is only read.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from stages.runs.errors import InputError

REFERENCE = "refs/heads/palimpsest"
LIMIT = 100 << 20  # bytes of files that Git neither tracks nor ignores: more is data in the wrong place
OWN = (".dvc/tmp", ".dvc/cache", ".dvc/config.local")  # DVC's own: never carried, whatever .gitignore says

# Nothing but the files decides the commit: the same ones are the same commit on any day.
AUTHOR = {f"GIT_{who}_{what}": "palimpsest" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
DATES = {f"GIT_{who}_DATE": "2000-01-01T00:00:00Z" for who in ("AUTHOR", "COMMITTER")}


class Snapshot(NamedTuple):
    """`commit` has no history; `bundle` is what `git fetch` gets it from, under REFERENCE."""

    commit: str
    bundle: bytes


def take(root: Path) -> Snapshot:
    """The files under `root` as they are now, without those that Git ignores.

    Raises InputError where `root` is in no Git repository, or where new files would make it too large.
    """
    try:
        top = Path(_git(root, "rev-parse", "--show-toplevel"))
        objects = (root / _git(root, "rev-parse", "--git-path", "objects")).resolve()
        index = root / _git(root, "rev-parse", "--git-path", "index")
        exclude = root / _git(root, "rev-parse", "--git-path", "info/exclude")
        new = _git(root, "ls-files", "-z", "--others", "--exclude-standard").split("\0")
        _refuse_data(root, [name for name in new if name and not name.startswith(OWN)])
        with tempfile.TemporaryDirectory() as home:
            copy = Path(home, "copy.git")
            _git(root, "init", "--quiet", "--bare", str(copy))
            (copy / "objects" / "info" / "alternates").write_text(f"{objects}\n")
            (copy / "info").mkdir(exist_ok=True)
            theirs = exclude.read_bytes() if exclude.exists() else b""
            (copy / "info" / "exclude").write_bytes(theirs + "".join(f"\n/{path}" for path in OWN).encode())
            if index.exists() and top.samefile(root):
                shutil.copy2(index, copy / "index")  # it knows which files have not changed
            git = ("--git-dir", str(copy), "--work-tree", str(root))
            _git(root, *git, "add", "--all", "--", ".")
            commit = _git(root, *git, "commit-tree", _git(root, *git, "write-tree"), "-m", "palimpsest")
            _git(root, *git, "update-ref", REFERENCE, commit)
            _git(root, *git, "bundle", "create", "--quiet", str(copy / "bundle"), REFERENCE)
            return Snapshot(commit, (copy / "bundle").read_bytes())
    except subprocess.CalledProcessError as error:
        raise InputError(f"git: {error.stderr.strip()}") from error


def check_out(commit: str, bundle: bytes | None, home: Path) -> bool:
    """Make `home` a clone at `commit`, whatever stages and kills have left there; what Git ignores stays.

    False where it does not have the commit yet, and needs the bundle.
    Raises CalledProcessError or OSError where it cannot be made.
    """
    home.mkdir(parents=True, exist_ok=True)
    try:
        if bundle is not None:
            shutil.rmtree(home / ".git", ignore_errors=True)
            _git(home, "init", "--quiet")
            with tempfile.NamedTemporaryFile(suffix=".bundle") as file:
                file.write(bundle)
                file.flush()
                _git(home, "fetch", "--quiet", file.name, REFERENCE)
        elif not (home / ".git").is_dir():  # Git would look for one further up
            return False
        _git(home, "-c", "core.autocrlf=false", "checkout", "--quiet", "--force", "--detach", commit)
    except subprocess.CalledProcessError:
        if bundle is not None:
            raise
        return False
    for name in _git(home, "ls-files", "-z", "--others", "--exclude-standard").split("\0"):
        if name and not name.startswith((*OWN, ".palimpsest/")):
            (home / name).unlink()
    return True


def tracked(home: Path) -> list[str]:
    """The paths of the files that belong to the commit."""
    return [name for name in _git(home, "ls-files", "-z").split("\0") if name]


def _refuse_data(root: Path, names: list[str]) -> None:
    sizes = {name: (root / name).lstat().st_size for name in names}
    if (total := sum(sizes.values())) > LIMIT:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InputError(
            f"{largest}: among {total >> 20} MB of new files that Git neither tracks nor ignores, too much to send to "
            "every worker; ignore them, `dvc add` them, or move them out"
        )


def _git(folder: Path, *words: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    done = subprocess.run(
        ["git", *words],
        cwd=folder,
        env={**clean, **AUTHOR, **DATES},
        capture_output=True,
        check=True,
        text=True,
        errors="surrogateescape",
    )
    return done.stdout.rstrip("\n")
