"""The lists beside original pictures, without the lines of those that are erased."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from flows.erasure import places
from flows.erasure.pictures import Picture
from flows.process import atomic_file

ENDS = ("csv", "txt")
PLACES = ("", "Anno", "Eval")  # in a dataset's root, where CelebA has its lists


def without(home: Path, pictures: Sequence[Picture]) -> list[Path]:
    """Take the lines of pictures out of `pictures.csv` and other lists of datasets inside of the project `home`.

    A line is a picture's if its first field is the picture's path, or the name of its file. The count that begins some
    of CelebA's lists is lowered. Returns the lists that were changed.
    """
    changed = []
    for dataset, root in places.originals(home).items():
        names = {name for one in pictures for where, path in one.names if where == dataset for name in _both(path)}
        if not names or not root.resolve().is_relative_to(home.resolve()):
            continue
        for file in sorted(
            file for place in PLACES for end in ("csv", "txt") for file in (root / place).glob(f"*.{end}")
        ):
            lines = file.read_bytes().splitlines(keepends=True)
            kept = [line for line in lines if _first(line) not in names]
            if len(kept) < len(lines):
                if kept and kept[0].strip().isdigit():
                    fewer = int(kept[0]) - (len(lines) - len(kept))
                    kept[0] = kept[0].replace(kept[0].strip(), str(max(fewer, 0)).encode())
                atomic_file.write(file, b"".join(kept))
                changed.append(file)
    return changed


def _both(path: str) -> tuple[str, str]:
    return path, Path(path).name


def _first(line: bytes) -> str:
    text = line.decode("utf-8-sig", "replace").strip()
    if text.startswith('"'):
        return text[1:].partition('"')[0]
    return text.replace(",", " ").split(" ")[0] if "," not in text else text.partition(",")[0]
