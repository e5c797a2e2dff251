"""A fixed sample of pictures: an order of their own, which no other picture moves."""

from __future__ import annotations

from collections.abc import Sequence

from stages.images.holes import keyed_hash
from stages.images.table import Key

# The seed of the order in which pictures are taken wherever some of a dataset are enough. One for all: the training
# pictures with frozen holes are among the first n that a training of n learns, if they are no more than n.
ORDER = 0


def sample(keys: Sequence[Key], count: int | None, seed: int) -> list[Key]:
    """`count` of the keys (None: all), in their order: those of the smallest hash keyed by (seed, image_id).

    A smaller sample is part of a larger one, and a picture added or withdrawn moves at most one other.
    """
    if count is None or count >= len(keys):
        return list(keys)
    # Equal pictures under two paths hash alike; the path decides between them.
    ranked = sorted(keys, key=lambda key: (keyed_hash(seed, "sample", key[0]), key[1]))
    chosen = set(ranked[:count])
    return [key for key in keys if key in chosen]
