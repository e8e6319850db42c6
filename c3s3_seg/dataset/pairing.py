"""Which mask belongs to which scan: by what DICOM says, by the grid, by the names. Never by a guess."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePath

import numpy as np

from c3s3_seg.dataset.items import Mask, Pair, Refused, Scan
from c3s3_seg.io.drawing import MOST
from c3s3_seg.io.turn import turn_between
from c3s3_seg.volume import Geometry

MASK_WORDS = {
    "label", "labels", "labelstr", "labelsts", "mask", "masks", "seg", "segs", "segmentation",
    "segmentations", "dseg", "gt", "truth", "groundtruth", "annotation", "annotations", "contour", "contours",
}  # fmt: skip
SCAN_WORDS = {
    "image", "images", "imagestr", "imagests", "img", "imgs", "scan", "scans", "volume", "volumes", "raw",
    "data",
}  # fmt: skip
ROLES = MASK_WORDS | SCAN_WORDS
KEPT = " The scan is taken without a mask"


def words(name: str) -> list[str]:
    """The words of a file or folder name; `label001` is two."""
    parts = re.split(r"[\s_.\-]+", name.casefold())
    return [word for part in parts for word in re.findall(r"^[a-z]+(?=\d+$)|\d+$|.+", part)]


def says(path: PurePath) -> str:
    """`mask`, `scan` or nothing, by the name (without suffix) and then by each folder, the nearest first."""
    for part in reversed(path.parts):
        found = set(words(part))
        if found & MASK_WORDS:
            return "mask"
        if found & SCAN_WORDS:
            return "scan"
    return ""


def trail(path: PurePath) -> tuple[str, ...]:
    """What a path (without suffix) is called, without the words for scans and masks.

    `imagesTr/p1_0000`, `labelsTr/p1`, `p1/image` and `masks/p1_seg` all are ("p1",).
    """
    parts = []
    for part in path.parts:
        kept = [word for word in words(part.removesuffix("_0000")) if word not in ROLES]
        parts += ["_".join(kept)] if kept else []
    return tuple(parts)


def pair(
    scans: Sequence[Scan], masks: Sequence[Mask], merged: Mapping[int, Mask] | None = None
) -> tuple[list[Pair], list[Refused]]:
    """Give each mask to its scan.

    Parameters
    ----------
    scans, masks
        What was found.
    merged
        Number of a scan -> the mask that it has already, see `structures`.

    Returns
    -------
    tuple
        A pair for each scan, in their order, and a refusal for each mask that fits none or several, and
        for the masks of a scan that has several. A scan whose masks are refused stays, without one.
    """
    given: dict[int, list[tuple[Mask, str]]] = defaultdict(list)
    for number, mask in (merged or {}).items():
        given[number].append((mask, ""))
    refused = []
    shapes = _by_shape(scans)
    for mask in masks:
        if mask.grid is None:
            hits, why = _by_reference(mask, scans)
        else:
            hits, why = _by_grid(mask, mask.grid, scans, shapes[tuple(sorted(mask.grid.shape))])
        if len(hits) == 1:
            given[hits[0]].append((mask, why))
        else:
            refused.append(Refused(mask.part.place, _why_not(hits, scans, why)))
    pairs = []
    for number, scan in enumerate(scans):
        own = given[number]
        if len(own) > 1:
            refused.append(Refused(scan.part.place, _several([mask.part.place for mask, _ in own])))
        pairs.append(Pair(scan, *own[0]) if len(own) == 1 else Pair(scan))
    return pairs, refused


def on_grids(scans: Sequence[Scan]) -> Callable[[Mask], list[int]]:
    """A function that gives the numbers of the scans on the grid of a mask."""
    shapes = _by_shape(scans)

    def near(mask: Mask) -> list[int]:
        if mask.grid is None:
            return []
        candidates = shapes[tuple(sorted(mask.grid.shape))]
        return [n for n in candidates if (own := scans[n].grid) is not None and turn_between(mask.grid, own)]

    return near


def _by_shape(scans: Sequence[Scan]) -> defaultdict[tuple[int, ...], list[int]]:
    found = defaultdict(list)
    for number, scan in enumerate(scans):
        if scan.grid is not None:
            found[tuple(sorted(scan.grid.shape))].append(number)
    return found


def _by_reference(mask: Mask, scans: Sequence[Scan]) -> tuple[list[int], str]:
    """The scans whose slices, or else whose series, a drawing names."""
    drawing = mask.part.drawing
    if drawing is None or not (drawing.series or drawing.slices):
        return [], "it names no series that it was drawn on"
    of_series = [n for n, scan in enumerate(scans) if scan.series and scan.series in drawing.series]
    hits = [n for n in of_series or range(len(scans)) if not scans[n].slices.isdisjoint(drawing.slices)]
    hits = hits or of_series
    return hits, "" if hits else "it was drawn on a series that is not among the scans that are taken"


def _by_grid(
    mask: Mask, grid: Geometry, scans: Sequence[Scan], candidates: Iterable[int]
) -> tuple[list[int], str]:
    """The scans on a mask's grid; of several, the one that is called like it."""
    same = [n for n in candidates if (own := scans[n].grid) is not None and turn_between(grid, own)]
    named = _akin(mask, scans, same)
    if named:
        return named, ""
    if len(same) == 1 and _is_telling(grid):
        return same, "paired with its mask by the grid alone: their names are not alike"
    if len(same) == 1:
        what = (
            f"it has the size of {scans[same[0]].part.place}, but another name, and its place in the patient"
        )
        return [], f"{what} is not known: name them alike"
    if same:
        return same, "their names do not say which"
    others = [scans[n] for n in _akin(mask, scans, range(len(scans)))]
    if not others:
        return [], "it lies on the grid of no scan, and is named like none"
    theirs = f"; wanted {others[0].grid}" if others[0].grid is not None else ""
    return [], f"it is named like {others[0].part.place} and lies on another grid: {grid}{theirs}"


def _akin(mask: Mask, scans: Sequence[Scan], among: Iterable[int]) -> list[int]:
    """Those that are called as the mask is; else those in whose path all of the mask's names are."""
    among = list(among)
    same = [n for n in among if scans[n].trail == mask.trail]
    if same or not mask.trail:
        return same
    held = [n for n in among if set(mask.trail) <= set(scans[n].trail)]
    return held or _derived(mask, scans, among)


def _derived(mask: Mask, scans: Sequence[Scan], among: Iterable[int]) -> list[int]:
    """In BIDS a derivative has the name of its scan and more: `sub-01_T1w`, `sub-01_T1w_dseg`."""
    name = PurePath(mask.part.place).name
    if not name.startswith("sub-"):
        return []
    stems = {n: PurePath(scans[n].part.place).name.partition(".")[0] for n in among}
    hits = [n for n, stem in stems.items() if stem.startswith("sub-") and name.startswith(f"{stem}_")]
    if hits:
        return hits
    # Or the entities of its subject and session, without the kind of image: `sub-01_ses-1_dseg`.
    return [
        n for n, stem in stems.items() if stem.rpartition("_")[0] == name.partition(".")[0].rpartition("_")[0]
    ]


def _is_telling(grid: Geometry) -> bool:
    """Whether a grid has a place of its own: at the origin lies everything that has lost its place."""
    return bool(np.abs(grid.origin_mm).max() > 0)


def _why_not(hits: Sequence[int], scans: Sequence[Scan], why: str) -> str:
    if not hits:
        return why
    some = ", ".join(scans[n].part.place for n in hits[:3]) + (", ..." if len(hits) > 3 else "")
    return f"it fits {len(hits)} scans ({some})" + (f": {why}" if why else "") + "; they are taken without it"


def _several(places: Sequence[str]) -> str:
    named = ", ".join(places[:MOST]) + (f" and {len(places) - MOST} more" if len(places) > MOST else "")
    todo = "Keep one with --leave-out PATTERN, or name those that hold one structure each with --labels"
    return f"{len(places)} masks fit this scan: {named}. {todo} (liver=1,spleen=2).{KEPT}"
