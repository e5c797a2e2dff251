"""Revoked keys: what they have signed counts if it was there before they were revoked.

Before and after are told by the chain of attestations, not by times, which a thief of the key can choose:
`signers.yaml` names the newest attestations of that moment, and these name those before them by digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flows.lineage import attestation, public_keys
from flows.lineage.attestation import Attestation, Forged, Stranger
from flows.lineage.public_keys import SIGNERS, Trusted

ABSENT = f"{SIGNERS} of this commit does not have the key"


class Revoked(Forged):
    """An attestation that was signed with a revoked key, and is none of those that still count."""


class Untold(Revoked):
    """The same, where attestations are missing that would tell whether it still counts."""


class Elsewhere(Forged):
    """An attestation of which it cannot be told whether it counts.

    The commit that is checked out lacks the key, or the key is revoked in a commit that is not in its history.
    """

    def __init__(self, name: str, who: str, why: str) -> None:
        """`who` has signed it, as far as is known."""
        super().__init__(f"attestation {name[:10]}: signed by {who}; {why}")
        self.who, self.why = who, why


class Signers:
    """Who has signed an attestation, of those who are trusted."""

    def __init__(
        self,
        trusted: Mapping[str, Trusted],
        attestations: Iterable[Attestation],
        elsewhere: public_keys.Others | None = None,
    ) -> None:
        """`attestations` are all that are here, `elsewhere` is what other commits say of keys."""
        every = list(attestations)
        others, revoked = elsewhere or public_keys.Others({}, {})
        self._keys = {name: one.key for name, one in trusted.items()}
        self._elsewhere = others
        self._here = {one.name for one in every}
        before: dict[str, list[set[str]]] = {}  # what each revocation lets count, by the key's id
        self._unsure: dict[str, list[tuple[str, set[str]]]] = {}  # the same of commits that are not before this one
        for one in trusted.values():
            before[one.key.keyid] = [attestation.reached(every, heads) for heads in one.revoked]
        for keyid, revocations in revoked.items():
            for each in revocations:
                found = attestation.reached(every, each.heads)
                if each.before:
                    before.setdefault(keyid, []).append(found)
                else:
                    self._unsure.setdefault(keyid, []).append((each.commit, found))
        self._before = {keyid: set.intersection(*found) for keyid, found in before.items() if found}

    def late(self, one: Attestation) -> bool:
        """Whether it says that it is signed with a revoked key, and is none of those that still count."""
        before = self._before.get(one.keyid)
        return before is not None and one.name not in before

    def right(self, one: Attestation, data: bytes, unsure: bool = False) -> bool:
        """Whether its signature counts; where that cannot be told, `unsure`, or true where nobody is trusted."""
        try:
            self.of(one, data)
        except Elsewhere:
            return unsure or not self._keys
        except Forged:
            return False
        return True

    def of(self, one: Attestation, data: bytes) -> str:
        """Who has signed an attestation, whose bytes are `data`. Raises Forged where its signature does not count."""
        why = None  # it cannot be told whether it counts
        try:
            who = attestation.signed_by(data, self._keys)
        except Stranger:
            try:
                who, why = attestation.signed_by(data, self._elsewhere), ABSENT
            except Stranger:
                if not self._keys:
                    raise Elsewhere(one.name, "somebody", ABSENT) from None
                raise
        if not self.late(one):
            for commit, before in self._unsure.get(one.keyid, []):
                if one.name not in before:
                    why = (
                        f"the key is revoked in commit {commit[:10]}, which the one that is checked out does not "
                        "contain (merge it, or ask there)"
                    )
            if why:
                raise Elsewhere(one.name, who, why)
            return f"{who} (key revoked)" if one.keyid in self._before else who
        said = f"attestation {one.name[:10]}: signed with a revoked key ({who})"
        if gone := sorted(self._before[one.keyid] - self._here):
            raise Untold(
                f"{said}; whether before it was revoked cannot be told: attestation {gone[0][:10]} is missing; "
                "`git fetch` brings it"
            )
        raise Revoked(
            f"{said}; if record {one.record} is right, `palimpsest audit collect` by another signer, where it ran, "
            "vouches for it"
        )
