"""Find the folder of each subject in the paths of scans, by comparing all of them."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence

from c3s3_seg.dataset.name_markers import (
    MANY,
    NEUTRAL,
    SETS,
    SITE,
    SOME,
    STORES,
    SUBJECT,
    base_name,
    is_generic,
    kind_of_scan,
)
from c3s3_seg.dataset.prepare.pairing import ROLES, words


def subject_folders(paths: Sequence[tuple[str, ...]]) -> list[str]:
    """Return for each path the name of its subject's folder; empty if there is none."""
    possible = [possible_subjects(path) for path in paths]
    depths = _depths([tuple(path[at] for at in found) for path, found in zip(paths, possible, strict=True)])
    places = [found[depth] if found else None for found, depth in zip(possible, depths, strict=True)]
    beside: dict[tuple[str, ...], dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for path, at in zip(paths, places, strict=True):
        if at is not None:
            beside[path[:at]][path[at]].add(path[-1])
    alike = {above: _are_subjects(folders) for above, folders in beside.items()}
    found_names = []
    for path, at, folders in zip(paths, places, possible, strict=True):
        is_subject = (
            at is not None
            and (
                at != folders[-1]  # the folder holds folders of visits or series
                or alike[path[:at]]
                or _says_subject(path[at], path[-1], len(beside[path[:at]][path[at]]))
            )
        )
        found_names.append(path[at] if at is not None and is_subject else "")
    return found_names


def possible_subjects(path: tuple[str, ...]) -> list[int]:
    """Return the positions of folders that may be a subject's: no role, visit, date, site, set or store."""
    kinds = (NEUTRAL, SITE, SETS, STORES)
    return [
        at
        for at, part in enumerate(path[:-1])
        if not (_is_role(part) or any(kind.match(part) for kind in kinds))
    ]


def _depths(chains: Sequence[tuple[str, ...]]) -> list[int]:
    """Return for each chain of folders (`site, patient, visit`) the position of the subject's folder.

    This is the first folder whose siblings hold visits or series, see `_hold_visits`; else the last.
    """
    depths = [max(0, len(chain) - 1) for chain in chains]
    waiting = [(0, [n for n, chain in enumerate(chains) if chain])]
    while waiting:
        depth, members = waiting.pop()
        below: dict[str, list[int]] = defaultdict(list)
        for n in members:
            below[chains[n][depth]].append(n)
        deeper = {name: [n for n in held if len(chains[n]) > depth + 1] for name, held in below.items()}
        if _hold_visits([{chains[n][depth + 1] for n in held} for held in deeper.values()]):
            for n in members:
                depths[n] = depth
        else:
            waiting += [(depth + 1, held) for held in deeper.values() if held]
    return depths


def _hold_visits(folders: Sequence[Collection[str]]) -> bool:
    """Return whether sibling folders hold visits or series, by the names in each.

    Most names recur in other folders (`MILLER/2019`, `SMITH/2019`), or there are many folders with few
    names each (`LUNG1-001/study-69331`). Groups of subjects (`control/017`) are few, with many names each.
    """
    count, most = len(folders), max(map(len, folders), default=0)
    if count < 2 or not most:
        return False
    often = Counter(name for names in folders for name in names)
    if 2 * sum(times for times in often.values() if times > 1) > often.total():
        return most <= SOME or most < count
    return most <= SOME and often.total() <= count**2 and not any(map(SUBJECT.match, often))


def _is_role(folder: str) -> bool:
    return set(words(folder)) <= ROLES


def _says_subject(folder: str, stem: str, held: int) -> bool:
    """Return whether a folder is named like a subject (`patient001`), or a scan in it like the folder."""
    base = base_name(folder).text
    if SUBJECT.match(base):
        return len(words(base)[0]) > 2 or held <= MANY  # `p1` with many scans may be part 1 of a data set
    return base_name(stem).text == base


def _are_subjects(folders: Mapping[str, Collection[str]]) -> bool:
    """Return whether sibling folders hold the same few kinds of scans: `MILLER/ct`, `SMITH/ct`."""
    if len(folders) < 2:
        return False
    held = [{kind_of_scan(stem) for stem in stems} for stems in folders.values()]
    kinds = set().union(*held)
    of_kinds = all(is_generic(kind) for kind in kinds)
    if max(map(len, held)) <= SOME and (of_kinds or not re.search(r"\d", "".join(kinds))):
        return True
    return len(kinds) <= len(folders) and (of_kinds or len(kinds) < sum(map(len, held)))
