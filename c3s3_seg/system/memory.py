"""Memory that this process may take, and memory that it took."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from c3s3_seg.errors import InputError

CGROUPS = Path("/sys/fs/cgroup")
# For versions 2 and 1: files of a control group's limit and use, and the key of the droppable part.
CGROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def available_memory(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int | None:
    """Return the bytes that new arrays may take without swapping; None if the system does not report them.

    The control group of a container, or of a scheduler's job, may leave less than the free memory. So may
    a limit of the process (`ulimit -v`).

    Parameters
    ----------
    cgroups
        Folder where the control groups are mounted.
    own
        File that names the control groups of this process.
    """
    known = [_free_memory(), _left_by_limit(), *(_left_by(group) for group in _groups(cgroups, own))]
    return min((room for room in known if room is not None), default=None)


def free_bytes() -> float:
    """Return `available_memory`, or inf if the system does not report it."""
    free = available_memory()
    return math.inf if free is None else float(free)


def _free_memory() -> int | None:
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            found = re.search(r"^MemAvailable:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _left_by_limit() -> int | None:
    """Return the bytes that `ulimit -v` leaves; None if there is no such limit."""
    try:
        import resource
    except ImportError:
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return None
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            pages = int(file.read().split()[0])
    except OSError:
        return None
    return max(0, limit - pages * resource.getpagesize())


def _groups(cgroups: Path, own: Path) -> Iterator[Path]:
    """Yield the folders of this process's memory control groups, versions 1 and 2, and of their parents."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return
    for line in lines:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and "memory" not in controllers.split(","):
            continue
        base = cgroups / "memory" if controllers else cgroups
        # A container sees its own group as the root, whatever the path.
        yield from (base / part for part in (path.strip("/"), *map(str, Path(path.strip("/")).parents)))


def _left_by(group: Path) -> int | None:
    """Return the bytes that a control group leaves, droppable file cache included; None without a limit."""
    for limit, used, droppable in CGROUP_FILES:
        try:
            most, now = int((group / limit).read_text()), int((group / used).read_text())
            cached = re.search(rf"^{droppable} (\d+)$", (group / "memory.stat").read_text(), re.MULTILINE)
        except (OSError, ValueError):  # "max" is no limit
            continue
        return max(0, most - now + (int(cached[1]) if cached else 0))
    return None


def peak_memory() -> int:
    """Return the peak resident memory of this process in bytes; 0 if the system does not report it.

    `getrusage` is the last resort: on Linux it also counts the memory that the parent process had when it
    started this one.
    """
    try:
        with open("/proc/self/status", encoding="utf-8") as file:
            found = re.search(r"^VmHWM:\s+(\d+) kB", file.read(), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def parse_memory(text: str) -> int:
    """Parse a size: `4GB`, `512 MiB`, `2e9` -> bytes. GB is 10^9, GiB is 2^30.

    Raises
    ------
    InputError
        If the text is not a size of at least 1 byte.
    """
    match = re.fullmatch(r"\s*([0-9.]+(?:e[0-9]+)?)\s*([kmgt]i?|)b?\s*", text.lower())
    try:
        size = float(match[1]) * UNITS[match[2]] if match else 0.0
    except ValueError:
        size = 0.0
    if not 1 <= size < math.inf:
        raise InputError(f"found the memory {text!r}, wanted a size such as 4GB or 900MB")
    return int(size)
