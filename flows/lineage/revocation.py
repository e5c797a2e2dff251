"""Revoked keys: what they have signed counts if it was there before they were revoked.

Before and after are told by the chain of attestations, not by times, which a thief of the key can choose:
`signers.yaml` names the newest attestations of that moment, and these name those before them by digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flows.lineage import attestation
from flows.lineage.attestation import Attestation, Forged
from flows.lineage.keys import Trusted


class Revoked(Forged):
    """An attestation that was signed with a revoked key, and is none of those that still count."""


class Untold(Revoked):
    """The same, where attestations are missing that would tell whether it still counts."""


class Signers:
    """Who has signed an attestation, of those who are trusted."""

    def __init__(self, trusted: Mapping[str, Trusted], attestations: Iterable[Attestation]) -> None:
        """`attestations` are all that are here."""
        every = list(attestations)
        self._keys = {name: one.key for name, one in trusted.items()}
        self._here = {one.name for one in every}
        self._before = {
            one.key.keyid: attestation.reached(every, one.heads) for one in trusted.values() if one.heads is not None
        }

    def late(self, one: Attestation) -> bool:
        """Whether it says that it is signed with a revoked key, and is none of those that still count."""
        before = self._before.get(one.keyid)
        return before is not None and one.name not in before

    def of(self, one: Attestation, data: bytes) -> str:
        """Who has signed an attestation, whose bytes are `data`. Raises Forged where its signature does not count."""
        who = attestation.signed_by(data, self._keys)
        if not self.late(one):
            return f"{who} (key revoked)" if one.keyid in self._before else who
        said = f"attestation {one.name[:10]}: signed with a revoked key ({who}'s)"
        if gone := sorted(self._before[one.keyid] - self._here):
            raise Untold(
                f"{said}; whether before it was revoked cannot be told: attestation {gone[0][:10]} is missing; "
                "`git fetch` brings it"
            )
        raise Revoked(
            f"{said}; if record {one.record} is right, `palimpsest audit collect` by another signer, where it ran, "
            "vouches for it"
        )
