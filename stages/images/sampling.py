"""The first of a dataset's pictures, in an order of their own that no other picture moves.

There is one order: so the training pictures that `mask` draws holes for are among those that a training limited to the
first `pictures` has learned.
"""

from __future__ import annotations

from collections.abc import Sequence

from stages.images.holes import keyed_hash
from stages.images.table import Key


def sample(keys: Sequence[Key], count: int | None) -> list[Key]:
    """`count` of the keys (None: all), in their order: those of the smallest hash of their image_id.

    A smaller sample is part of a larger one, and a picture added or withdrawn moves at most one other.
    """
    if count is None or count >= len(keys):
        return list(keys)
    # Equal pictures under two paths hash alike; the path decides between them.
    ranked = sorted(keys, key=lambda key: (keyed_hash(0, "sample", key[0]), key[1]))
    chosen = set(ranked[:count])
    return [key for key in keys if key in chosen]
