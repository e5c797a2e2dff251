"""Attestations attacked: `python tests/soak/soak_attestations.py [ATTACKS] [SEED]`, 50 and 1.

Ada and Bob sign ten records in two clones of a hub; a decision of retrain names the newest attestations. Then somebody
who can write to the repository, but has no trusted key, attacks a copy of Ada's clone, which has the folder of her
records, or a fresh clone, which has the branch alone. (Where a key of Ada's or Bob's is used, the one or the other
plays foul.) The branch is written anew, without a trace in Git's reflog, or with a commit on top. `audit verify` must
name what was attacked: as a fault, or, where a second record could be another clone's, as what cannot be told.

What nothing can tell is tried as well, and counted apart: the newest attestations taken off a fresh clone, where
neither a later one nor a decision names them. Exits 1 where an attack was missed, or where an untouched clone had a
fault.
"""

import base64
import dataclasses
import json
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from hashlib import md5, sha256
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "flows"))
sys.path.insert(0, str(Path(__file__).parents[2]))  # before tests/, which has folders of the same names

from ready_made import Repository
from securesystemslib.signer import CryptoSigner

from flows.audit import verify
from flows.checkout.git import Git
from flows.lineage import attestation, keys, public_keys, record_branch, signatures
from flows.lineage.attestation import Attestation
from flows.registry import history
from stages.runs import record
from stages.runs.errors import InputError

BRANCH = record_branch.BRANCH
ANCHORED = 7  # of the ten records, those that were signed when retrain decided


def git(home: Path, *words: str) -> str:
    return Git(home, **record_branch.WRITER)(*words)


def leave(home: Path, number: int) -> None:
    """A record of a run."""
    facts = {"inputs": {}, "outputs": {f"out{number}": md5(str(number).encode()).hexdigest()}, "params": {}}
    when = f"2026-11-27T00:00:{number:02}+00:00"
    record.write(home / record.home(), f"train@{number}", facts, {"ended": when, "seconds": number})


def sign(home: Path, key: Path) -> None:
    """Fetch, sign and push."""
    git(home, "fetch", "-q")
    os.environ[keys.KEY] = str(key)
    signatures.collect(home)
    git(home, "push", "-q", "origin", BRANCH)


class World:
    """The hub, Ada's clone and a fresh one, as they are before an attack."""

    def __init__(self, home: Path) -> None:
        self.ada, self.fresh, hub = home / "ada", home / "fresh", home / "hub"
        self.ada.mkdir(parents=True)
        repository = Repository(self.ada)
        (self.ada / ".gitignore").write_text(".palimpsest/\n.dvc/cache/\n")
        self.keys = {name: home / f"{name}.pem" for name in ("Ada", "Bob", "Eve")}
        for name in ("Ada", "Bob"):
            os.environ[keys.KEY] = str(self.keys[name])
            keys.new(self.ada, name, "")
        os.environ[keys.KEY] = str(self.keys["Eve"])
        keys.new(home, "Eve", "")
        git(self.ada, "add", "-A")
        repository.training("net", [b"picture"])
        repository.commit()
        git(home, "init", "-q", "--bare", str(hub))
        git(self.ada, "remote", "add", "origin", str(hub))
        git(self.ada, "push", "-q", "origin", "HEAD")
        bob = home / "bob"
        git(home, "clone", "-q", str(hub), str(bob))
        for number in range(10):
            who = "Bob" if number in (3, 4, 6, 8) else "Ada"
            clone = bob if who == "Bob" else self.ada
            leave(clone, number)
            sign(clone, self.keys[who])
            if number == ANCHORED - 1:
                self._decide()
        git(self.ada, "fetch", "-q")
        signatures.collect(self.ada)
        git(home, "clone", "-q", str(hub), str(self.fresh))
        shutil.copytree(self.ada / ".dvc", self.fresh / ".dvc", dirs_exist_ok=True)
        held = signatures.on_branch(Git(self.fresh))
        self.records = held.records
        every = {name: attestation.read(data, name) for name, data in held.attestations.items()}
        self.order = sorted(every.values(), key=lambda one: one.record)  # as they were signed
        self.bytes = held.attestations

    def _decide(self) -> None:
        git(self.ada, "fetch", "-q")
        newest = signatures.newest(Git(self.ada))
        decision = history.Decision(
            "promoted", "the first", "net", "net", "data/models/net.safetensors", "0" * 32, "HEAD", attested=newest
        )
        said = f"promoted\n\n{history.MARK}{json.dumps(dataclasses.asdict(decision))}"
        commit = git(self.ada, "commit-tree", "HEAD^{tree}", "-p", "HEAD", "-m", said)
        git(self.ada, "update-ref", "refs/heads/candidates", commit)
        git(self.ada, "push", "-q", "origin", "candidates")

    def signer(self, name: str) -> CryptoSigner:
        os.environ[keys.KEY] = str(self.keys[name])
        found = keys.signer(None)
        assert found is not None
        return found

    def signed_again(self, one: Attestation, who: str, previous: list[str], text: str | None = None) -> bytes:
        return attestation.sign(one.record, text or self.records[one.record], previous, self.signer(who))


def file_of(name: str) -> str:
    return f"{signatures.FOLDER}/{name}{signatures.END}"


def edit(victim: Path, changes: Mapping[str, bytes | None], on_top: bool = False) -> None:
    """Write the branch anew wherever the clone has it: files by path, None where one is removed."""
    apart = Git(victim)
    references = apart("for-each-ref", "--format=%(refname)", f"refs/heads/{BRANCH}", f"refs/remotes/*/{BRANCH}")
    for reference in references.splitlines():
        with tempfile.TemporaryDirectory() as folder:
            here = Git(victim, GIT_INDEX_FILE=f"{folder}/index", **record_branch.WRITER)
            here("read-tree", reference)
            for path, data in changes.items():
                if data is None:
                    here("update-index", "--force-remove", path)
                    continue
                (Path(folder) / "file").write_bytes(data)
                blob = here("hash-object", "-w", "--no-filters", f"{folder}/file")
                here("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
            parents = ("-p", reference) if on_top else ()
            apart("update-ref", reference, here("commit-tree", here("write-tree"), *parents, "-m", "records"))
        forget(victim, reference)


def forget(victim: Path, reference: str) -> None:
    (victim / ".git" / "logs" / reference).unlink(missing_ok=True)


# An attack changes a clone; what it gives is named by the fault that it must end in.
Attack = Callable[[World, Path, random.Random], str]


def removed(world: World, victim: Path, rng: random.Random) -> str:
    """One of the older ones; the newest, or all, where that can be known."""
    which = rng.choice(["middle", "anchored", "all", "newest"])
    names = [one.name for one in world.order]
    gone = {"middle": [rng.choice(names[:-1])], "anchored": names[ANCHORED - 1 :], "all": names, "newest": names[-1:]}
    in_folder = (victim / record.home()).exists()  # nothing else tells that the newest one was there
    edit(victim, dict.fromkeys(map(file_of, gone[which])), on_top=which == "newest" and not in_folder)
    return " ".join(gone[which][: len(names) if which == "all" else 1])


def reordered(world: World, victim: Path, rng: random.Random) -> str:
    """Two that change places; or one that names others before it, signed again by the same one or by the other."""
    at = rng.randrange(1, len(world.order) - 1)
    one, other = world.order[at], world.order[rng.randrange(at)]
    if rng.random() < 0.3:
        edit(victim, {file_of(one.name): world.bytes[other.name], file_of(other.name): world.bytes[one.name]})
        return one.name
    data = world.signed_again(one, rng.choice(["Ada", "Bob"]), [] if rng.random() < 0.5 else other.previous)
    edit(victim, {file_of(one.name): None, file_of(attestation.name_of(data)): data})
    return one.name


def replayed(world: World, victim: Path, rng: random.Random) -> str:
    """An old signature for a new record; or an old record in the place of the one that was signed."""
    one = rng.choice(world.order)
    old = json.loads(world.records[one.record])
    if rng.random() < 0.5:  # an earlier run's circumstances
        text = record.text(old | {"ended": "2026-11-20T00:00:00+00:00"})
        edit(victim, {one.record: text.encode()})
        file = victim / record.home() / one.record
        if file.exists():
            file.write_text(text)
        return one.record
    facts = record.facts_of(old) | {"outputs": {"new": "0" * 32}}
    name = record.name_of(old["stage"], facts)
    path, text = f"{old['stage']}/{name}.json", record.text(old | facts | {"digest": name})
    envelope = json.loads(world.bytes[one.name])
    if rng.random() < 0.5:  # the signed words are changed
        payload = attestation.canonical(attestation.statement(path, text, one.previous)).encode()
        envelope["payload"] = base64.b64encode(payload).decode()
        data = f"{attestation.canonical(envelope)}\n".encode()
        name = attestation.name_of(data)
    else:
        data, name = world.bytes[one.name], sha256(text.encode()).hexdigest()
    edit(victim, {path: text.encode(), file_of(name): data})
    return name


def by_a_stranger(world: World, victim: Path, rng: random.Random) -> str:
    """Signed again by somebody who is not trusted, who may say to be Ada."""
    one = rng.choice(world.order)
    data = world.signed_again(one, "Eve", one.previous)
    if rng.random() < 0.5:
        lie = json.loads(data)
        lie["signatures"][0]["keyid"] = world.signer("Ada").public_key.keyid
        data = f"{attestation.canonical(lie)}\n".encode()
    edit(victim, {file_of(one.name): None, file_of(attestation.name_of(data)): data})
    return attestation.name_of(data)


def a_strangers_key(world: World, victim: Path, rng: random.Random) -> str:
    """A stranger's key in signers.yaml, under a name of its own or under Ada's; the newest is signed with it."""
    one, file = world.order[-1], victim / public_keys.SIGNERS
    if rng.random() < 0.5:
        eve = (world.ada.parent / public_keys.SIGNERS).read_text()
        file.write_text(eve.replace("Eve", "Ada") if rng.random() < 0.5 else file.read_text() + eve)
        data = world.signed_again(one, "Eve", one.previous)
        edit(victim, {file_of(one.name): None, file_of(attestation.name_of(data)): data})
    else:
        file.write_text(file.read_text().replace("Ada", "Eve"))
    return public_keys.SIGNERS


def a_second_text(world: World, victim: Path, rng: random.Random) -> str:
    """Another text of a signed record, with other times: in its place, or beside it."""
    one = rng.choice(world.order)
    text = record.text(json.loads(world.records[one.record]) | {"seconds": 99}).encode()
    file = victim / record.home() / one.record
    if file.exists() and rng.random() < 0.5:
        file.write_bytes(text)
        return one.record
    if rng.random() < 0.5:
        edit(victim, {one.record: text})
        return one.record
    path = one.record.replace(".json", ".0123456789.json")
    edit(victim, {path: text}, on_top=True)
    return path


def a_record_removed(world: World, victim: Path, rng: random.Random) -> str:
    one = rng.choice(world.order)
    edit(victim, {one.record: None})
    (victim / record.home() / one.record).unlink(missing_ok=True)
    return one.record


def renamed(world: World, victim: Path, rng: random.Random) -> str:
    """An attestation and its record moved aside, then removed, and another record put into that one's place."""
    one = rng.choice(world.order)
    aside: dict[str, bytes | None] = {"old/a": world.bytes[one.name], "old/b": world.records[one.record].encode()}
    edit(victim, {**aside, file_of(one.name): None, one.record: None}, on_top=True)
    if rng.random() < 0.5:
        edit(victim, dict.fromkeys(aside), on_top=True)
    forged = record.text(json.loads(world.records[one.record]) | {"seconds": 99}).encode()
    edit(victim, {one.record: forged}, on_top=True)
    shutil.rmtree(victim / record.home(), ignore_errors=True)  # which would tell as well
    return one.name


def planted(world: World, victim: Path, rng: random.Random) -> str:
    """A signature with a stolen key that comes after the key was revoked; before, a stranger or the key named it."""
    one = rng.choice(world.order)
    text = record.text(json.loads(world.records[one.record]) | {"seconds": 99})
    late = world.signed_again(one, "Ada", [], text)
    name = attestation.name_of(late)
    by = rng.choice(["Ada", "Eve"])
    names_it = world.signed_again(world.order[-1], by, [world.order[-1].name, name])
    edit(victim, {file_of(attestation.name_of(names_it)): names_it}, on_top=True)
    try:
        signatures.revoke(Git(victim), "Ada", every=False)
        if by == "Ada":
            return "not refused"
    except InputError:
        signatures.revoke(Git(victim), "Ada", every=True)
    git(victim, "commit", "-qam", "revoked")
    edit(victim, {file_of(attestation.name_of(names_it)): None, file_of(name): late, one.record: text.encode()}, True)
    return name


def rewound(world: World, victim: Path, rng: random.Random) -> str:
    """The branch put back to an earlier commit."""
    names = {one.name for one in world.order}
    in_folder = (victim / record.home()).exists()
    hidden = in_folder or rng.random() < 0.5  # with a trace in the reflog any step is seen
    commits = git(victim, "log", "--first-parent", "--format=%H", f"refs/remotes/origin/{BRANCH}").split()
    earlier = []
    for commit in commits:
        there = git(victim, "ls-tree", "-r", "--name-only", commit)
        gone = sorted(name for name in names if name not in there)
        anchored = world.order[ANCHORED - 1].name in gone
        adas = in_folder and any(file_of(name) and (victim / record.home() / file_of(name)).exists() for name in gone)
        if gone and (anchored or adas or not hidden):
            earlier.append((commit, gone))
    commit, gone = rng.choice(earlier)
    for reference in (f"refs/heads/{BRANCH}", f"refs/remotes/origin/{BRANCH}"):
        if Git(victim).reference(reference):
            git(victim, "update-ref", "-m", "rewound", "--create-reflog", reference, commit)
            if hidden:
                forget(victim, reference)
    return " ".join(gone)  # any of them


def unknowable(world: World, victim: Path, rng: random.Random) -> str:
    """The newest ones, that nothing names: gone from a fresh clone without a trace."""
    names = [one.name for one in world.order][rng.randrange(ANCHORED, len(world.order)) :]
    edit(victim, dict.fromkeys(map(file_of, names)))
    return names[0]


ATTACKS: list[Attack] = [
    removed, reordered, replayed, by_a_stranger, a_strangers_key, a_second_text, a_record_removed, rewound, renamed,
    planted,
]  # fmt: skip


def named(answer: verify.Verification, wanted: str) -> str | None:
    """How an answer names what was attacked: "fault", "cannot tell", or not at all."""
    keys_of = [name if "/" in name or name.endswith(".yaml") else name[:10] for name in wanted.split()]
    if any(key in fault.file for fault in answer.faults for key in keys_of):
        return "fault"
    if any(key in about + why for about, why in answer.unknown for key in keys_of):
        return "cannot tell"
    return None


def untouched(world: World, home: Path) -> int:
    """The faults in clones as their users leave them."""
    before = home / "before-the-keys"
    shutil.copytree(world.ada, before, symlinks=True)
    git(before, "rm", "-q", "--cached", public_keys.SIGNERS)
    (before / public_keys.SIGNERS).unlink()
    git(before, "commit", "-qm", "no keys")
    without_bob = home / "without-bob"
    shutil.copytree(world.ada, without_bob, symlinks=True)
    text = (without_bob / public_keys.SIGNERS).read_text()
    (without_bob / public_keys.SIGNERS).write_text(text[: text.index("'Bob'")])
    git(without_bob, "commit", "-qam", "Ada alone")
    revoked, older = home / "revoked", home / "before-it-was-revoked"
    shutil.copytree(world.ada, revoked, symlinks=True)
    signatures.revoke(Git(revoked), "Bob", every=False)
    git(revoked, "commit", "-qam", "Bob has left")
    shutil.copytree(revoked, older, symlinks=True)
    git(older, "checkout", "-q", "--detach", "HEAD~1")
    alarms = 0
    for place in (world.ada, world.fresh, home / "bob", before, without_bob, revoked, older):
        answer = verify.ask(place)
        alarms += len(answer.faults)
        print(f"{place.name}: {len(answer.faults)} faults, cannot tell {answer.unknown}, {answer.checked}")
        for fault in answer.faults:
            print(f"false alarm, {place.name}: {fault}")
    return alarms


def main(attacks: int = 50, seed: int = 1) -> int:
    rng = random.Random(seed)
    tried, found = Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="attestations-") as folder:
        home = Path(folder).resolve()
        world = World(home)
        alarms = untouched(world, home)
        begun = time.monotonic()
        for number in range(attacks + 5):
            beyond = number >= attacks
            attack = unknowable if beyond else ATTACKS[number % len(ATTACKS)]
            place = world.fresh if beyond or rng.random() < 0.5 else world.ada
            victim = home / "victim"
            shutil.copytree(place, victim, symlinks=True)
            wanted = attack(world, victim, rng)
            how = named(verify.ask(victim), wanted)
            what = attack.__name__.replace("_", " ")
            tried[what] += 1
            found[what] += how is not None
            if how != "fault" and not beyond:
                print(f"{how or 'missed'}: {what} in {place.name}, {wanted}", flush=True)
            shutil.rmtree(victim)
        print(f"{(time.monotonic() - begun) / (attacks + 5):.2f} s an attack")
    for what, count in tried.items():
        print(f"{what}: {found[what]} of {count} named")
    known = tried.total() - tried["unknowable"], found.total() - found["unknowable"]
    print(f"all that can be known: {known[1]} of {known[0]} named; {alarms} faults in untouched clones")
    return int(bool(alarms) or known[0] != known[1])


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
