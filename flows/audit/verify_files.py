"""Bytes against digests: outputs in the working copy, and objects in DVC's cache.

DVC takes a file for unchanged while its size and time are the same, and a cache object for whole while it is
write-protected: so it says "up to date" over damaged files (iterative/dvc#9652). Here every byte is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from flows.audit.findings import Findings
from flows.audit.hashing import Digests
from flows.lineage import cache, dvc_lock
from flows.lineage.sources import Sources
from stages.runs.errors import InputError

Known = Mapping[tuple[str, str], str]  # by path and digest, the commit whose lock says so
FETCH = "`dvc fetch --all-commits` brings what a remote has"


class Output:
    """An output of the working copy, with the digest that `dvc.lock` or a `.dvc` file has of it."""

    def __init__(
        self, root: Path, path: str, md5: str, size: int | None, tracked: bool = False, source: str = "dvc.lock"
    ) -> None:
        """`tracked`: Git keeps it, not DVC. `source`: the file that has its digest."""
        self.path, self.md5, self.size, self.tracked, self.source = path, md5, size, tracked, source
        self.place = root / path
        folder = self.place.is_dir()
        inside = (file for file in self.place.rglob("*") if "__pycache__" not in file.parts and file.is_file())
        self.files = sorted(inside) if folder else [self.place] * self.place.is_file()
        self.folder = folder


def pointers(root: Path, findings: Findings) -> list[Output]:
    """The outputs of the `.dvc` files that Git tracks in the working copy."""
    found = []
    for name in Sources(root).git.paths("ls-files", "--", "*.dvc"):
        file = root / name
        if not file.is_file():
            continue
        try:
            for out in dvc_lock.read(file).get("outs", []):
                path = (file.parent / out["path"]).relative_to(root).as_posix()
                found.append(Output(root, path, str(out["md5"]), out.get("size"), source=name))
        except (InputError, KeyError, TypeError, AttributeError, ValueError):
            findings.fault(name, f"not a .dvc file; `git checkout {name}` restores it")
    return found


def outputs(root: Path, outs: list[Output], digests: Digests, known: Known, findings: Findings) -> None:
    """The working copy's outputs against their digests. `known` says where a file has had a digest."""
    absent = []
    for out in outs:
        if not out.files and not out.folder:
            if not digests.having(out.md5) and not findings.erased(out.md5):
                absent.append(f"{out.path} {out.md5[:10]}")
            continue
        if any(file in digests.unread for file in out.files):
            continue
        findings.checked["outputs"] += 1
        if out.folder:
            _folder(root, out, digests, known, findings)
        elif (found := digests.of(out.place)) and found != out.md5:
            if out.tracked:
                said = f"has other bytes than dvc.lock says; `git checkout {out.path}` or `dvc repro` restores it"
                findings.fault(out.path, said, out.md5, found)
            else:
                _differs(out.path, out.md5, found, digests, known, findings)
        elif found and out.size not in (None, out.place.stat().st_size):
            findings.fault(out.source, f"says that {out.path} has {out.size} bytes; it has {out.place.stat().st_size}")
    findings.gone("outputs", absent, f"neither in the working copy nor in DVC's cache; {FETCH}, `dvc repro` makes it")


def _differs(path: str, should: str, found: str, digests: Digests, known: Known, findings: Findings) -> None:
    whose = f", which are those of {known[path, found]}" if (path, found) in known else ""
    mend = f"`dvc checkout {path}` restores it" if digests.having(should) else f"{FETCH}, or `dvc repro` makes it"
    findings.altered(path, f"has other bytes than dvc.lock says{whose}; {mend}", should, found)


def _folder(root: Path, out: Output, digests: Digests, known: Known, findings: Findings) -> None:
    has = {file.relative_to(out.place).as_posix(): digests.of(file) or "" for file in out.files}
    found = _listed(has)
    if found == out.md5:
        sizes = sum(file.stat().st_size for file in out.files)
        if out.size not in (None, sizes):
            findings.fault(out.source, f"says that {out.path} has {out.size} bytes; it has {sizes}")
        return
    listing = digests.having(out.md5)
    if listing is None:
        said = f"has other bytes than dvc.lock says; which of its {len(has)} files differ cannot be told without the "
        findings.altered(out.path, f"{said}cache's listing of it; {FETCH}, or `dvc repro` makes it", out.md5, found)
        return
    try:
        wanted = cache.listing(listing)
    except InputError as error:
        findings.fault(out.path, f"dvc.lock says that this is a folder with another listing: {error}", out.md5, found)
        return
    for name, md5 in wanted.items():
        if name not in has:
            findings.altered(f"{out.path}/{name}", f"is missing; `dvc checkout {out.path}` restores it", md5)
        elif has[name] != md5:
            _differs(f"{out.path}/{name}", md5, has[name], digests, known, findings)
    more = [out.place / name for name in has if name not in wanted]
    if more:
        from flows.engine import remotes

        for file in sorted(set(more) - remotes.ignored(root, more)):
            name = file.relative_to(out.place).as_posix()
            findings.fault(f"{out.path}/{name}", "is no part of the output; move it away", None, has[name])


def _listed(md5s: dict[str, str]) -> str:
    listing = [{"md5": md5, "relpath": name} for name, md5 in sorted(md5s.items())]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode()).hexdigest() + ".dir"


def objects(
    root: Path, present: Mapping[str, Path], digests: Digests, named: dict[str, str], findings: Findings
) -> None:
    """Every object of the cache, `present` by its name, against this name. `named` says which output has a digest."""
    for md5, file in present.items():
        found = digests.of(file)
        if found is None:
            continue
        findings.checked["cache objects"] += 1
        if found != md5.removesuffix(".dir"):
            name = _short(root, file)
            what = f" ({named[md5]})" if md5 in named else ""
            said = f"the cache's object has other bytes than its name promises{what}; remove it, then {FETCH}"
            findings.altered(name, said, md5, found)


def absent(root: Path, named: dict[str, str], answered: set[str], digests: Digests, findings: Findings) -> None:
    """Count what locks name and nothing here has; `answered` are the digests of what the lines above speak of."""
    gone = {
        md5: path
        for md5, path in named.items()
        if md5 not in answered and not digests.having(md5) and not findings.erased(md5)
    }
    erased = [f"{path} {md5[:10]}" for md5, path in named.items() if findings.erased(md5)]
    findings.gone("erased", erased, "pictures that they had were erased, so nothing is to be fetched")
    in_git = Sources(root).versions(sorted(set(gone.values()))) if gone else {}  # DVC leaves some outputs to Git
    gone = {md5: path for md5, path in gone.items() if md5 not in in_git}
    findings.gone(
        "older outputs",
        [f"{path} {md5[:10]}" for md5, path in gone.items()],
        f"named by locks of Git's history, and not in DVC's cache; {FETCH}",
    )


def unread(root: Path, digests: Digests, findings: Findings) -> None:
    """Files that could not be read are no faults, and no silence."""
    for file, why in digests.unread.items():
        findings.cannot_tell(_short(root, file), why)


def _short(root: Path, file: Path) -> str:
    with contextlib.suppress(ValueError):
        return file.relative_to(root).as_posix()
    return str(file)
