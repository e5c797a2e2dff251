"""Many files hashed at once: each byte once, by all cores, with a progress bar on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from stages.runs import record

Inode = tuple[int, int]  # device and number: of one file, whatever links lead to it


class Digests:
    """md5 of files as they are now. No file is trusted by its time: a changed byte need not change it."""

    def __init__(self, files: Iterable[Path]) -> None:
        """Hash `files`; those that are gone by then are left out."""
        self._inodes: dict[Path, Inode] = {}
        sizes: dict[Inode, tuple[int, int, Path]] = {}
        for file in files:
            try:
                about = file.stat()
            except OSError:
                continue
            inode = (about.st_dev, about.st_ino)
            self._inodes[file] = inode
            sizes.setdefault(inode, (about.st_size, about.st_mtime_ns, file))
        self.bytes = sum(size for size, _, _ in sizes.values())
        self.files = len(sizes)
        self.unread: dict[Path, str] = {}  # files of which nothing can be told, and why
        self._md5: dict[Inode, str] = {}
        self._hash(sizes)
        self._places: dict[str, Path] = {}
        for file, inode in self._inodes.items():
            if inode in self._md5:
                self._places.setdefault(self._md5[inode], file)

    def _hash(self, sizes: dict[Inode, tuple[int, int, Path]]) -> None:
        columns = (TextColumn("hashing"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        pool = ThreadPoolExecutor(os.cpu_count())
        try:
            with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
                task = bar.add_task("", total=self.bytes)
                largest = sorted(sizes.items(), key=lambda item: -item[1][0])  # first: none is left alone in the end
                jobs = {pool.submit(_digest, file): inode for inode, (_, _, file) in largest}
                for job in as_completed(jobs):
                    inode = jobs[job]
                    size, written, file = sizes[inode]
                    try:
                        md5, about = job.result(), file.stat()
                        if (about.st_size, about.st_mtime_ns) == (size, written):
                            self._md5[inode] = md5
                        else:
                            self.unread[file] = "is being written; ask again when that has ended"
                    except FileNotFoundError:
                        pass
                    except OSError as error:
                        self.unread[file] = f"cannot be read: {error.strerror}; mend its permissions or the disk"
                    bar.advance(task, size)
        finally:
            pool.shutdown(cancel_futures=True)

    def of(self, file: Path) -> str | None:
        """The md5 of a file; None where it is not there, cannot be read or is being written."""
        inode = self._inodes.get(file)
        return self._md5.get(inode) if inode else None

    def having(self, md5: str) -> Path | None:
        """A file with these bytes (of a folder: with its listing's), or None."""
        return self._places.get(md5.removesuffix(".dir"))


def _digest(file: Path) -> str:
    return record.digest(file)
