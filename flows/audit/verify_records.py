"""Records of runs against their own names, and against every lock that has their outputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from flows.audit.findings import Findings
from flows.audit.verify_locks import contradiction, overlooked, today
from flows.checkout.git import Git
from flows.lineage import public_keys, record_branch
from flows.lineage import signatures as attested
from flows.lineage.entries import Entry
from flows.lineage.public_keys import SIGNERS, Trusted
from flows.lineage.records import Records
from flows.registry import history
from stages.runs import record
from stages.runs.errors import InputError

PARTS = ("inputs", "outputs", "params")  # of a record, each a mapping


def check(root: Path, entries: list[Entry], findings: Findings) -> None:
    """Every record is what its name promises, and contradicts no lock that has its outputs."""
    making: dict[tuple[str, str], list[Entry]] = defaultdict(list)
    for entry in entries:
        for out in entry.outs.items():
            making[out].append(entry)
    whole = _whole(root, findings)
    agreed: set[int] = set()
    refuted: dict[int, list[str]] = defaultdict(list)
    against: dict[str, list[tuple[Entry, str]]] = {}
    alone = 0
    for file, about in whole.items():
        outs = about["outputs"].items()
        found = [entry for entry in making.get(next(iter(outs), ("", "")), []) if outs <= entry.outs.items()]
        said = [(entry, contradiction(about, entry)) for entry in found]
        for entry, wrong in said:
            if wrong:
                refuted[id(entry)].append(wrong)
            elif overlooked(entry).items() <= today(entry.stage, about["params"]).items():
                agreed.add(id(entry))
        alone += not found and bool(outs)  # what `audit rebuild` leaves has none
        if found and all(wrong for _, wrong in said):
            against[file] = [(entry, wrong) for entry, wrong in said if wrong]
    unproved = _overlooked([entry for entry in entries if id(entry) not in agreed], refuted, findings)
    for file, pairs in against.items():
        # Else it is of another run, with the same outputs.
        if not any(id(entry) in agreed | unproved for entry, _ in pairs):
            entry, wrong = pairs[0]
            findings.fault(file, f"contradicts dvc.lock on {entry.stage}: {wrong}; one of the two was altered")
    if alone:
        findings.remarks.append(("records", f"{alone} are of runs whose outputs no lock has"))


def _overlooked(entries: list[Entry], refuted: Mapping[int, list[str]], findings: Findings) -> set[int]:
    """Of entries that no record agrees with, those with a parameter that DVC overlooks: nothing shows its value.

    They are named, and those returned of which a record tells another value: neither of the two was altered.
    """
    wrong, unsaid, named = [], [], set()
    for entry in entries:
        keys = overlooked(entry)
        told = [said for said in refuted[id(entry)] if said.partition(":")[0] in keys]
        if told:
            wrong.append(f"{entry.stage} in {entry.lock.name}, made with {told[0]}")
            named.add(id(entry))
        elif keys:
            key, value = next(iter(keys.items()))
            unsaid.append(f"{entry.stage} in {entry.lock.name}, {key}: {value}")
    why = "DVC's run-cache does not see a parameter of this name (treeverse/dvc#10296), so"
    findings.gone(
        "parameters in dvc.lock", wrong, f"{why} it brought back what another value had made; trust the record"
    )
    more = "another value may have made this, and no record tells; `palimpsest audit rebuild` of a checkpoint shows it"
    findings.gone("parameters in dvc.lock", unsaid, f"{why} {more}")
    return named


def signatures(root: Path, findings: Findings) -> None:
    """Whether records are as they were signed, and every attestation is here that another one or a decision names."""
    git = Git(root)
    texts = {where: text.decode("utf-8", "surrogateescape") for where, text in Records(root).texts().items()}
    held = attested.on_branch(git)
    anchors = [name for entry in history.read(git, fetched=True) for name in entry.decision.attested]
    trusted = _trusted(git, findings)
    others = public_keys.elsewhere(git)
    checked = attested.check(texts, held.attestations, trusted, anchors, others)
    findings.checked["signed records"] = len(checked.signed)
    for fault in checked.faults:
        findings.fault(*fault.split(": ", 1))
    unsure: dict[str, list[str]] = defaultdict(list)
    for name, (who, why) in checked.unsure.items():
        unsure[why].append(f"{name[:10]} by {who}")
    for why, names in unsure.items():
        findings.gone("attestations", names, f"{why}, so the signature counts for nothing here")
    _named(root, git, held, findings)
    _branch(git, texts, held, checked, findings)
    for blob, path in attested.lost(git, held.attestations, trusted, others).items():
        said = (
            f"was on the branch, which only grows, and is gone; `git cat-file blob {blob[:10]}` shows it: put it into"
        )
        where = f"{record_branch.name(git)}:{path}"
        findings.fault(where, f"{said} {record.home() / path}, then `palimpsest audit collect`")
    findings.unsigned = checked.unsigned
    findings.gone(
        "signatures of records",
        checked.unsigned,
        "signed by nobody, so a forged one would not be seen; `palimpsest audit key new`, then `audit collect`",
    )


def _branch(
    git: Git, texts: Mapping[str, str], held: attested.Branch, checked: attested.Checked, findings: Findings
) -> None:
    """The branch has each signed record as it was signed."""
    branch, sent = record_branch.name(git), set(held.records.values())
    runs, second = {attested.run_of(where) for where in checked.signed}, []
    for where in checked.unsigned:
        # On the branch it would be as another run's, which another clone may have repeated.
        if (who := checked.signed.get(f"{branch}:{where}")) and texts[where] not in sent:
            said = (
                f"not as {who} has signed it, on branch '{branch}'; if it is of another run, `palimpsest audit collect`"
            )
            findings.fault(where, said)
        elif attested.run_of(where) in runs:
            second.append(where)
    why = "of runs whose other record is signed, and this one is not: of another clone, or forged"
    findings.gone("second records", second, why)
    for where, who in checked.signed.items():  # what is signed was on the branch
        if texts[where] not in sent:
            said = f"not as {who} has signed it, though the folder of records has it so; `palimpsest audit collect`"
            findings.fault(f"{branch}:{where}", said)


def _trusted(git: Git, findings: Findings) -> dict[str, Trusted]:
    """Whose signatures count. A change of that which is not committed is a fault; a first key is none."""
    if public_keys.changed(git):
        if public_keys.committed(git) is not None:
            said = f"differs from the committed one, which counts; `git diff {SIGNERS}`, then commit or restore it"
            findings.fault(SIGNERS, said)
        else:
            findings.cannot_tell(public_keys.SIGNERS, "is not committed, so anybody may have added a key; commit it")
    try:
        return public_keys.counted(git)
    except InputError as error:
        findings.fault(public_keys.SIGNERS, f"{error}; restore it")
        return {}


def _named(root: Path, git: Git, held: attested.Branch, findings: Findings) -> None:
    """Patches and attestations have the bytes that their names promise; attestations are on the branch, too."""
    home, branch = root / record.home(), record_branch.name(git)
    files = [*home.glob("diffs/*.patch"), *home.glob(f"{attested.FOLDER}/*{attested.END}")]
    here = {file.relative_to(home).as_posix(): file.read_bytes() for file in sorted(files)}
    there = {f"{branch}:{name}": data for name, data in record_branch.files(git, ".patch").items()}
    for where, data in {**there, **here}.items():
        signature = where.endswith(attested.END)
        findings.checked["attestations" if signature else "patches"] += 1
        if sha256(data).hexdigest() != Path(where).stem.partition(".")[0]:
            findings.fault(where, "has other bytes than its name promises: it was altered; remove it")
        elif signature and Path(where).stem not in held.attestations:
            said = f"was taken off branch '{branch}', which only grows; `palimpsest audit collect` puts it back"
            findings.fault(where, said)


def _whole(root: Path, findings: Findings) -> dict[str, dict[str, Any]]:
    """The records that are what their names promise, by where they are."""
    newer = []
    found: dict[str, dict[str, Any]] = {}
    for where, text in Records(root).texts().items():
        stage, _, name = where.rpartition(":")[2].rpartition("/")
        findings.checked["records"] += 1
        try:
            about = record.parse(text, where)
        except record.Newer:
            newer.append(where)
            continue
        except InputError:
            findings.fault(where, "is damaged; remove it")
            continue
        # On a branch of several clones, a second record of the same facts is named NAME.BLOB.json.
        if not record.whole(about) or (name.partition(".")[0], stage) != (about["digest"], about["stage"]):
            findings.fault(where, "says something else than its name promises: it was altered; remove it")
        elif record.text(about).encode() != text or not _of_parts(about):
            findings.fault(where, "is not spelled as a run writes it: it was altered; remove it")
        else:
            found[where] = about
    findings.gone("records", newer, "of a newer format; update Palimpsest")
    return found


def _of_parts(about: dict[str, Any]) -> bool:
    parts = [about.get(key) for key in PARTS]
    return all(isinstance(part, dict) for part in parts) and all(
        isinstance(md5, str) for md5 in about["outputs"].values()
    )
