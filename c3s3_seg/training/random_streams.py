"""Seeds of the random streams of an iteration: each is a function of seed, iteration and stream alone.

Streams from 0 are those of the crops of a batch; the last is that of the batch's box, and those before it are
those of the processes. No two draw the same numbers: the noise of a method must not be that of the
augmentation.
"""

from __future__ import annotations

STREAMS = 1_009  # of an iteration
BOX = STREAMS - 1


def of_process(rank: int) -> int:
    """Return the stream of a process: dropout, and the random numbers of a method."""
    return BOX - 1 - rank


def seed_of(seed: int, iteration: int, stream: int) -> int:
    """Return the seed of a stream."""
    return (seed * 1_000_003 + iteration) * STREAMS + stream
