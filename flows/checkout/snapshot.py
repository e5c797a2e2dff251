"""The working copy's files as one Git commit that can be sent: what is committed, what is not yet, and what is new.

Taken with an index, references and objects of its own, so that the repository is only read.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from flows.checkout import submodules
from flows.checkout.git import Git, GitError
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
    git = Git(root)
    top = Path(git("rev-parse", "--show-toplevel"))
    objects = (root / git("rev-parse", "--git-path", "objects")).resolve()
    index = root / git("rev-parse", "--git-path", "index")
    exclude = root / git("rev-parse", "--git-path", "info/exclude")
    new = git.paths("ls-files", "--others", "--exclude-standard")
    refuse_data(root, [name for name in new if not name.startswith(OWN)])
    with tempfile.TemporaryDirectory() as home:
        copy = Path(home, "copy.git")
        kind = f"--object-format={git('rev-parse', '--show-object-format')}"
        git("init", "--quiet", "--bare", "--template=", kind, str(copy))
        (copy / "objects" / "info" / "alternates").write_text(f"{objects}\n")
        (copy / "info").mkdir(exist_ok=True)
        theirs = exclude.read_bytes() if exclude.exists() else b""
        (copy / "info" / "exclude").write_bytes(theirs + "".join(f"\n/{path}" for path in OWN).encode())
        # It knows which files have not changed; but not how they lie here, where Git rewrites their ends of lines.
        if index.exists() and top.samefile(root) and git.setting("core.autocrlf") in (None, "false"):
            shutil.copy2(index, copy / "index")
            for part in index.parent.glob("sharedindex.*"):
                shutil.copy2(part, copy / part.name)
        git = Git(root, GIT_DIR=str(copy), GIT_WORK_TREE=str(root), **AUTHOR, **DATES)
        git("-c", "core.autocrlf=false", "add", "--all", "--", ".")
        _carry_submodules(git, root, copy)
        commit = git("commit-tree", git("write-tree"), "-m", "palimpsest")
        git("update-ref", REFERENCE, commit)
        git("bundle", "create", "--quiet", str(copy / "bundle"), REFERENCE)
        return Snapshot(commit, (copy / "bundle").read_bytes())


def check_out(commit: str, bundle: bytes | None, home: Path) -> bool:
    """Make `home` a clone at `commit`, whatever stages and kills have left there; what Git ignores stays.

    False where it does not have the commit yet, and needs the bundle.
    Raises GitError or OSError where it cannot be made.
    """
    home.mkdir(parents=True, exist_ok=True)
    git = Git(home)
    try:
        if bundle is not None:
            shutil.rmtree(home / ".git", ignore_errors=True)
            git("init", "--quiet", "--template=")
            with tempfile.NamedTemporaryFile(suffix=".bundle") as file:
                file.write(bundle)
                file.flush()
                git("fetch", "--quiet", file.name, REFERENCE)
        elif not (home / ".git").is_dir():  # Git would look for one further up
            return False
        git("-c", "core.autocrlf=false", "checkout", "--quiet", "--force", "--detach", commit)
    except GitError:
        if bundle is not None:
            raise
        return False
    for name in git.paths("ls-files", "--others", "--exclude-standard"):
        if not name.startswith((*OWN, ".palimpsest/")):
            (home / name).unlink()
    return True


def _carry_submodules(git: Git, root: Path, copy: Path) -> None:
    """Put the files of submodules into the index of `git` as files of the project: a bundle has none of theirs."""
    for path, _ in [*submodules.commits(git)]:
        home = root / path
        git("update-index", "--force-remove", "--", path)
        if (home / ".git").exists():
            index = copy / f"index.{len(home.parts)}"  # another than that of the one around it
            index.unlink(missing_ok=True)
            its = Git(home, GIT_DIR=str(copy), GIT_WORK_TREE=str(home), GIT_INDEX_FILE=str(index), **AUTHOR, **DATES)
            its("-c", "core.autocrlf=false", "add", "--all", "--", ".")
            _carry_submodules(its, home, copy)
            git("read-tree", f"--prefix={path}/", its("write-tree"))


def refuse_data(root: Path, names: list[str]) -> None:
    """Raise InputError where new files are so large that they are data in the wrong place."""
    sizes = {name: (root / name).lstat().st_size for name in names}
    if (total := sum(sizes.values())) > LIMIT:
        largest = max(sizes, key=lambda name: sizes[name])
        raise InputError(
            f"{largest}: among {total >> 20} MB of new files that Git neither tracks nor ignores, too much to "
            "copy; ignore them, `dvc add` them, or move them out"
        )
