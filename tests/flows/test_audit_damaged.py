"""What is damaged or missing in Git's history and DVC's cache ends no answer: it is left out, and named."""

import json
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path

import pytest

from flows.lineage import cache, dvc_lock, entries, tables
from flows.lineage.locks import Lock
from flows.lineage.upstream import upstream
from stages.runs.errors import InputError

Files = dict[str, str]  # md5 by path
TABLE, ALIGNED, READ, NET = (
    "data/ingested/x",
    "data/aligned/x",
    "data/aligned/x/train.arrow",
    "data/models/n.safetensors",
)


def digest(text: str) -> str:
    return md5(text.encode()).hexdigest()


def listing(version: str) -> str:
    """What DVC's cache has of a version of the aligned folder."""
    return json.dumps([{"md5": digest(f"arrow {version}"), "relpath": "train.arrow"}])


def lock(number: int, *stages: tuple[str, Files, Files]) -> Lock:
    """A lock as DVC writes it: each stage by its name, with what it has read and made."""
    text = "schema: '2.0'\nstages:\n"
    for name, *files in stages:
        text += f"  {name}:\n    cmd: x\n"
        for key, named in zip(("deps", "outs"), files, strict=True):
            text += f"    {key}:\n" if named else ""
            text += "".join(f"    - path: {path}\n      hash: md5\n      md5: {one}\n" for path, one in named.items())
    return Lock(f"{number:040}", datetime(2026, 1, number, tzinfo=UTC), text.encode())


def version(name: str) -> tuple[tuple[str, Files, Files], ...]:
    """Stages that make a version of the aligned folder."""
    table = {TABLE: f"{digest(f'table {name}')}.dir"}
    return ("align@x", table, {ALIGNED: f"{digest(listing(name))}.dir"}), ("ingest@x", {}, table)


TRAINING = ("train@n", {READ: digest("arrow A")}, {NET: digest("net")})  # has read version A


@pytest.mark.parametrize(
    "text", ["a: !!bool x\n", "a: !!int ''\n", "a: !!float ''\n", "a: !!timestamp x\n", "a: &a [*b]\n"]
)
def test_whatever_is_wrong_with_yaml_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"\Asigners\.yaml: not valid YAML: .*; mend or restore it\Z"):
        dvc_lock.parse(text, "signers.yaml")


def test_which_of_two_folders_was_read_is_not_guessed(tmp_path: Path) -> None:
    """Version A was made and committed; then B alone, which the training beside it has not read."""
    before, after = lock(1, *version("A")), lock(2, *version("B"), TRAINING)
    training = next(entries.making([before, after], digest("net")))

    def told(*locks: Lock) -> tuple[list[str], Files]:
        found = upstream(tmp_path, list(locks), training)
        return [md5 for entry in found.entries for md5 in entry.outs.values()], found.unknown

    made = [md5 for _, _, outs in version("A") for md5 in outs.values()]
    assert told(before, after) == ([], {READ: digest("arrow A")})
    assert told(before, lock(2, *version("A"), TRAINING)) == (made, {}), "there is one version of the folder alone"
    kept = cache.place(tmp_path, made[0])
    kept.parent.mkdir(parents=True)
    kept.write_text(listing("A"))
    assert told(before, after) == (made, {})


@pytest.mark.parametrize(
    "content", ['{"a": 1}', '[{"relpath": "train.arrow"}]', '[{"relpath": "a", "md5": null}]', "[1"]
)
def test_a_table_whose_listing_is_none_is_named(content: str, tmp_path: Path) -> None:
    md5 = f"{digest(content)}.dir"
    kept = cache.place(tmp_path, md5)
    kept.parent.mkdir(parents=True)
    kept.write_text(content)
    assert tables.parts(tmp_path, [(ALIGNED, md5)]) == (
        [], [tables.Gone(md5, ALIGNED, f"{kept}: not a listing of a folder")],
    )  # fmt: skip
