"""Work cut into shards, for as many jobs, that give together the bytes that one job gives.

The last bits of a matrix product depend on what is multiplied together. So examples are always taken in blocks of the
same size, one block at a time, and a shard is some of the blocks. Blocks of examples, not of heads or layers: an
example is captured once for all that is done to it.
"""

from __future__ import annotations

from math import ceil

BLOCK = 50  # examples


def most_shards(rows: int) -> int:
    """As many as there are blocks."""
    return ceil(rows / BLOCK)


def blocks(rows: int, shard: int = 0, shards: int = 1) -> list[slice]:
    """The blocks of one shard, in order; shards differ by one block at most."""
    starts = range(0, rows, BLOCK)
    return [slice(start, min(start + BLOCK, rows)) for start in share(starts, shard, shards)]


def share(items: range, shard: int, shards: int) -> range:
    """Consecutive items that fall to one shard."""
    return items[len(items) * shard // shards : len(items) * (shard + 1) // shards]
