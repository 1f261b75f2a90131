"""Random streams: one seed in the config, one independent stream for each named use."""

from zlib import crc32

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """The random stream of (seed, names): the same on every machine, independent of every other stream."""
    return np.random.default_rng([seed, *(n if isinstance(n, int) else crc32(n.encode()) for n in names)])
