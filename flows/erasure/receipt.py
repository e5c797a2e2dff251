"""A letter for the person whose pictures were erased: what was held, removed and trained anew, and what stays."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

from flows.audit.checkpoint import CHECKPOINT
from flows.lineage import bundle, cache, erasures, keys, locks
from flows.lineage.records import ERASED
from flows.process import atomic_file
from flows.process.command import Say
from flows.registry.history import MEMBERS
from stages.runs.errors import InputError

TITLE = "# Your pictures were taken out"


def check(root: Path, file: Path, passphrase: str | None) -> None:
    """Raise InputError where a letter could not be signed or written: before anything is erased."""
    if keys.own(root, passphrase) is None:
        raise InputError(
            f"{keys.place()}: a receipt is signed, and you have no key yet; `palimpsest audit key new NAME` makes one"
        )
    if file.is_dir() or not file.absolute().parent.is_dir():
        raise InputError(f"{file}: name a file in a folder that is there")
    if os.path.lexists(file) and not file.read_bytes().startswith(TITLE.encode()):
        raise InputError(f"{file}: exists, and is no receipt; name another file")


def write(root: Path, asked: Sequence[str], identity: str | None, file: Path, passphrase: str | None, say: Say) -> None:
    """Write the letter about pictures that were erased, and its signature in a file beside it.

    Raises InputError for a picture that was not erased, and as `check` does.
    """
    if identity is not None:
        raise InputError("--identity: an erasure keeps no names; name the pictures by their sha256 (tombstones.txt)")
    signer = keys.own(root, passphrase)
    if signer is None:
        check(root, file, passphrase)
    bodies = [_erasure(root, name) for name in asked]
    text = letter(root, list({body["digest"]: body for body in bodies}.values()))
    assert signer
    signature = bundle.sign(file.name, sha256(text.encode()).hexdigest(), signer)
    atomic_file.write(file, text)
    beside = file.with_name(file.name + bundle.END)
    atomic_file.write(beside, signature)
    say(f"{file}: the receipt, signed in {beside.name}")


def _erasure(root: Path, asked: str) -> Mapping[str, Any]:
    """The record of the erasure of a picture that is named by its file or the first digits of its sha256."""
    name = sha256(Path(asked).read_bytes()).hexdigest() if Path(asked).is_file() else asked.lower()
    erased = erasures.known(root)
    known = {one["image_id"] for body in erased for one in (body.get("notes") or {}).get("pictures", ())}
    fitting = [one for one in known if one.startswith(name)]
    if len(fitting) > 1:
        raise InputError(f"{asked}: fits {len(fitting)} erased pictures; name more digits")
    found = erasures.of_picture(erased, fitting[0]) if fitting else None
    if found is None:
        raise InputError(f"{asked}: no record says that this picture was erased; erase it with --purge first")
    return found


def letter(root: Path, bodies: Sequence[Mapping[str, Any]]) -> str:
    """The letter about these erasures, as Markdown."""
    lines = [TITLE, ""]
    for body in bodies:
        try:
            lines += _one(root, body["notes"], datetime.fromisoformat(body["ended"]))
        except (KeyError, TypeError, AttributeError):
            raise InputError(
                f"{ERASED}/{body['digest'][:10]}: not a record as an erasure leaves it; remove it"
            ) from None
    lines += [
        "## How this can be checked",
        "",
        "- Beside this letter lies its signature, a file that ends in `.sig`. Whether a word was changed, this says, "
        "with the signer's public key: `model_signing verify key LETTER --signature LETTER.sig --public_key KEY.pem`.",
        "- If you have the picture, hand its file to the laboratory: `palimpsest audit erase FILE` searches everything "
        "again, and shows what it finds.",
        "",
    ]
    return "\n".join(lines)


def _one(root: Path, notes: Mapping[str, Any], time: datetime) -> list[str]:
    pictures, searched = notes["pictures"], notes["searched"]
    count = f"{len(pictures)} picture{'s' * (len(pictures) != 1)}"
    held = ", ".join(f"{number} in the {kind}" for kind, number in notes["held"].items())
    lines = [
        f"On {time:%d %B %Y}, {count} of yours was removed." if len(pictures) == 1
        else f"On {time:%d %B %Y}, {count} of yours were removed.",
        "",
        "We know a picture by a fingerprint of its file (SHA-256). Yours:",
        "",
        *(f"- `{one['image_id']}`{_why(one['why'])}" for one in pictures),
        "",
        "## What was held, and what was removed",
        "",
        f"- Things that had a picture, part of one, or its name: {held or 'none'}.",
        f"- {notes['removed']} of them were deleted. {notes['rewritten']} tables that also have other people's "
        "pictures were written anew without yours.",
        f"- Then everything was searched: {searched['files']} files, {searched['objects']} further objects on remote "
        f"stores and {searched['blobs']} in the version history. Tables were read row by row and pictures decoded. "
        + ("Nothing of yours is left there." if not notes["left"] else f"Left: {'; '.join(notes['left'])}."),
        "- The fingerprints stay in a list of withdrawn pictures, together with 256 bits that describe roughly how "
        "each looks. By them a copy is refused if it comes back. The picture cannot be made from them.",
        "",
        "## Models",
        "",
        *_models(root, notes),
        "",
        "## What remains, and where",
        "",
        *dict.fromkeys(f"- {one['kind']}, `{one['digest']}`: {one['remedy']}." for one in notes["kept"]),
        "- Copies that were handed to others before: on backups, in other clones, on machines that were not reached.",
        "- In the version history: fingerprints in lists of what was measured. They name nobody.",
        "",
    ]  # fmt: skip
    return lines


def _why(why: str) -> str:
    """Why a picture was taken to be the person's, where they did not name it themselves."""
    return {"named": "", "of the person": " (by your name)"}.get(why, f" ({why})")


def _models(root: Path, notes: Mapping[str, Any]) -> list[str]:
    if not notes["checkpoints"]:
        return ["- No model was trained on it."]
    own = root / locks.NAME
    now = locks.files(own.read_bytes()) if own.is_file() else {}
    ids = {one["image_id"] for one in notes["pictures"]}
    lines = []
    for each in notes["checkpoints"]:
        name = f"`{Path(each['path']).stem}` (digest {each['md5'][:10]})"
        line = f"- {name} was trained on it, or has gone on from one that was, and was deleted."
        if each["current"]:
            line += f" {_again(root, now, each, ids)}"
        lines.append(line)
    if notes["withdrawn"]:
        count = len(notes["withdrawn"])
        lines.append(
            f"- Of these, {count} had been chosen for use. {'They are' if count > 1 else 'It is'} in use no more."
        )
    return lines


def _again(root: Path, now: Mapping[str, str], each: Mapping[str, Any], ids: set[str]) -> str:
    """Whether a model was trained anew, by the list of pictures that its training has left."""
    from flows.audit.facts import read_list

    new = now.get(each["path"])
    if new in (None, each["md5"]):
        return "It was not trained anew yet."
    path = each["path"].removesuffix(CHECKPOINT) + MEMBERS
    found = cache.find_table(root, now[path], path) if path in now else None
    if found is None:
        return f"It was trained anew (digest {new[:10] if new else ''}); the list of its pictures is not here."
    rows = read_list(found.file)
    left, count = ids.intersection(rows["image_id"].to_pylist()), rows.num_rows
    if left:
        return f"It was trained anew, on {len(left)} of yours again: this is a fault."
    return f"It was trained anew without yours, on {count} other pictures (digest {new[:10] if new else ''}; checked)."
