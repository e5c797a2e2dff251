"""Revoked keys: what they have signed counts if it was there before they were revoked.

Before and after are told by the chain of attestations, not by times, which a thief of the key can choose:
`signers.yaml` names the newest attestations of that moment, and these name those before them by digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from flows.lineage import attestation
from flows.lineage.attestation import Attestation, Forged, Stranger
from flows.lineage.keys import SIGNERS, Trusted

if TYPE_CHECKING:
    from securesystemslib.signer import Key


class Revoked(Forged):
    """An attestation that was signed with a revoked key, and is none of those that still count."""


class Untold(Revoked):
    """The same, where attestations are missing that would tell whether it still counts."""


class Elsewhere(Forged):
    """An attestation of which it cannot be told whether it counts: the commit that is checked out lacks the key."""

    def __init__(self, name: str, who: str) -> None:
        """`who` has signed it, as far as is known."""
        super().__init__(f"attestation {name[:10]}: signed by {who}; {SIGNERS} of this commit does not have the key")
        self.who = who


class Signers:
    """Who has signed an attestation, of those who are trusted."""

    def __init__(
        self,
        trusted: Mapping[str, Trusted],
        attestations: Iterable[Attestation],
        elsewhere: Mapping[str, Key] | None = None,
    ) -> None:
        """`attestations` are all that are here, `elsewhere` keys that other commits have."""
        self._elsewhere = elsewhere or {}
        every = list(attestations)
        self._keys = {name: one.key for name, one in trusted.items()}
        self._here = {one.name for one in every}
        self._before = {
            one.key.keyid: set.intersection(*(attestation.reached(every, heads) for heads in one.revoked))
            for one in trusted.values()
            if one.revoked
        }

    def late(self, one: Attestation) -> bool:
        """Whether it says that it is signed with a revoked key, and is none of those that still count."""
        before = self._before.get(one.keyid)
        return before is not None and one.name not in before

    def of(self, one: Attestation, data: bytes) -> str:
        """Who has signed an attestation, whose bytes are `data`. Raises Forged where its signature does not count."""
        try:
            who = attestation.signed_by(data, self._keys)
        except Stranger:
            try:
                raise Elsewhere(one.name, attestation.signed_by(data, self._elsewhere)) from None
            except Stranger:
                if not self._keys:
                    raise Elsewhere(one.name, "somebody") from None
                raise
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
