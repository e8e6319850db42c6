"""The allocator of the C library, told to keep what it has."""

import ctypes
import sys

# Parameters of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
PAD_BYTES = 64 * 2**20


def keep_pages() -> None:
    """Keep freed memory in the process instead of giving it back after every layer.

    A training step allocates and frees hundreds of maps of 10 to 50 MB, and so does a forward pass in
    torch (250,000 page faults at 112 x 112 x 80). By default each is a fresh mapping whose pages the
    kernel must clear one by one: on a busy virtual machine that has cost ten times the arithmetic.
    Does nothing where the C library is not glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD_BYTES), (ARENA_MAX, 1)):
        mallopt(parameter, value)
