"""Pair masks with scans by their DICOM references, by the grid and by names, never by a guess."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import PurePath

import numpy as np

from c3s3_seg.dataset.prepare.inventory import Mask, RefusedFile, Scan, ScanMaskPair
from c3s3_seg.errors import listed
from c3s3_seg.geometry.axis_order import permutation_between
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.cases import CHANNEL
from c3s3_seg.io.dicom_objects.segmentation import MOST

MASK_WORDS = {
    "label", "labels", "labelstr", "labelsts", "mask", "masks", "seg", "segs", "segmentation",
    "segmentations", "dseg", "gt", "truth", "groundtruth", "annotation", "annotations", "contour", "contours",
}  # fmt: skip
SCAN_WORDS = {
    "image", "images", "imagestr", "imagests", "img", "imgs", "scan", "scans", "volume", "volumes", "raw",
    "data",
}  # fmt: skip
ROLES = MASK_WORDS | SCAN_WORDS
NEAR_MM = 0.05  # more than the distance of voxels that `Geometry.matches` tolerates
KEPT = " The scan is taken without a mask"
ORIGINS = {
    "": "",
    "prediction": "its mask is a prediction that was not corrected",
    "correction": "its mask is the correction of a prediction",
}


def words(name: str) -> list[str]:
    """Return the words of a file or folder name; `label001` is two words."""
    parts = re.split(r"[\s_.\-]+", name.casefold())
    return [word for part in parts for word in re.findall(r"^[a-z]+(?=\d+$)|\d+$|.+", part)]


def says(path: PurePath) -> str:
    """Return `mask`, `scan` or an empty string by the name (without suffix), else by the nearest folder."""
    for part in reversed(path.parts):
        found = set(words(part))
        if found & MASK_WORDS:
            return "mask"
        if found & SCAN_WORDS:
            return "scan"
    return ""


def trail(path: PurePath) -> tuple[str, ...]:
    """Return the names in a path (without suffix), without the words for scans and masks.

    `imagesTr/p1_0000`, `labelsTr/p1`, `p1/image` and `masks/p1_seg` all give ("p1",).
    """
    parts = []
    for part in path.parts:
        kept = [word for word in words(part.removesuffix(CHANNEL)) if word not in ROLES]
        parts += ["_".join(kept)] if kept else []
    return tuple(parts)


def pair(
    scans: Sequence[Scan], masks: Sequence[Mask], merged: Mapping[int, Mask] | None = None
) -> tuple[list[ScanMaskPair], list[RefusedFile]]:
    """Pair each mask with its scan.

    Parameters
    ----------
    scans, masks
        Scans and masks that were found.
    merged
        Number of a scan -> the mask that it already has, see `structures`.

    Returns
    -------
    tuple
        A pair for each scan, in order, and a refusal for each mask that fits no scan or several scans, and
        for each scan that several masks fit. A scan whose masks are refused is kept without a mask.
    """
    given: dict[int, list[tuple[Mask, str]]] = defaultdict(list)
    for number, mask in (merged or {}).items():
        given[number].append((mask, ""))
    refused = []
    shelf = Shelf(scans)
    for mask in masks:
        if mask.grid is None:
            hits, why = _by_reference(mask, shelf)
        else:
            hits, why = _by_grid(mask, mask.grid, shelf)
        if len(hits) == 1:
            given[hits[0]].append((mask, why))
        else:
            refused.append(RefusedFile(mask.part.place, _why_not(hits, scans, why)))
    pairs = []
    for number, scan in enumerate(scans):
        own = _corrected(given[number])
        if len(own) > 1:
            refused.append(RefusedFile(scan.part.place, _several([mask.part.place for mask, _ in own])))
        pairs.append(ScanMaskPair(scan, *own[0]) if len(own) == 1 else ScanMaskPair(scan))
    return pairs, refused


def _corrected(given: list[tuple[Mask, str]]) -> list[tuple[Mask, str]]:
    """Drop the predictions of a scan if exactly one other mask is there, as it is their correction."""
    others = [(mask, why) for mask, why in given if mask.origin != "prediction"]
    if len(others) == 1 and len(given) > 1:
        (mask, why) = others[0]
        others = [(replace(mask, origin="correction"), why)]
    kept = others if len(others) == 1 else given
    return [(mask, _joined(why, ORIGINS[mask.origin])) for mask, why in kept]


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


class Grids:
    """An index of grids, to look up those with the same voxels as another grid, in any axis order.

    Parameters
    ----------
    grids
        Any number of grids; None is never found. The time of a lookup grows with the number of different
        grids of one size at one place, not with the number of all grids.
    """

    def __init__(self, grids: Iterable[Geometry | None]) -> None:
        self.group: list[int] = []  # number of each grid among the different ones
        self.members: list[list[int]] = []
        self._grids: list[Geometry] = []
        self._at: dict[tuple[int, ...], list[int]] = defaultdict(list)
        known: dict[tuple[object, ...], int] = {}
        for number, grid in enumerate(grids):
            if grid is None:
                self.group.append(-1)
                continue
            key = (grid.shape, grid.affine.tobytes())
            if key not in known:
                known[key] = len(self._grids)
                self._at[next(iter(_places(grid, 0.0)))].append(known[key])
                self._grids.append(grid)
                self.members.append([])
            self.group.append(known[key])
            self.members[known[key]].append(number)
        self._seen: dict[tuple[object, ...], list[int]] = {}

    def same(self, grid: Geometry) -> list[int]:
        """Return the numbers of the different grids that have the voxels of this grid."""
        key = (grid.shape, grid.affine.tobytes())
        if key not in self._seen:
            near = {n for place in _places(grid, NEAR_MM) for n in self._at.get(place, ())}
            self._seen[key] = [n for n in sorted(near) if permutation_between(grid, self._grids[n])]
        return self._seen[key]


def _places(grid: Geometry, slack_mm: float) -> set[tuple[int, ...]]:
    """Return sorted size and middle in whole mm, which no axis order changes; both sides near an edge."""
    middle = grid.to_mm((np.array(grid.shape) - 1) / 2)
    ends = [{int(np.floor(m - slack_mm)), int(np.floor(m + slack_mm))} for m in middle]
    return {(*sorted(grid.shape), *place) for place in product(*ends)}


class Shelf:
    """An index of the scans by grid, names, series and slices."""

    def __init__(self, scans: Sequence[Scan]) -> None:
        self.scans = scans
        self.grids = Grids(scan.grid for scan in scans)
        self.trails: dict[tuple[str, ...], list[int]] = defaultdict(list)
        self.names: dict[str, list[int]] = defaultdict(list)
        self.series: dict[str, list[int]] = defaultdict(list)
        self.slices: dict[str, list[int]] = defaultdict(list)
        self.stems: dict[str, list[int]] = defaultdict(list)  # of BIDS names
        self.entities: dict[str, list[int]] = defaultdict(list)
        for number, scan in enumerate(scans):
            self.trails[scan.trail].append(number)
            for name in set(scan.trail):
                self.names[name].append(number)
            if scan.series:
                self.series[scan.series].append(number)
            for uid in scan.slices:
                self.slices[uid].append(number)
            stem = PurePath(scan.part.place).name.partition(".")[0]
            if stem.startswith("sub-"):
                self.stems[stem].append(number)
                self.entities[stem.rpartition("_")[0]].append(number)

    def akin(self, mask: Mask) -> Iterator[list[int]]:
        """Yield scans named like the mask, scans with all of its names in their path, and BIDS matches."""
        yield self.trails.get(mask.trail, [])
        if mask.trail:
            yield self._named(mask.trail)
        yield from self._derived(PurePath(mask.part.place).name)

    def holding(self, names: Collection[str], grid: Geometry) -> Sequence[int]:
        """Return the scans on a grid with all of the names in their path; without names, all on the grid."""
        groups = self.grids.same(grid)
        if names:
            return [n for n in self._named(names) if self.grids.group[n] in groups]
        members = [self.grids.members[n] for n in groups]
        return members[0] if len(members) == 1 else sorted(n for some in members for n in some)

    def _named(self, names: Collection[str]) -> list[int]:
        fewest = min((self.names.get(name, []) for name in names), key=len)
        return [n for n in fewest if set(names) <= set(self.scans[n].trail)]

    def _derived(self, name: str) -> Iterator[list[int]]:
        """Yield scans whose BIDS name begins that of the mask: `sub-01_T1w`, `sub-01_T1w_dseg`."""
        if name.startswith("sub-"):
            ends = [at for at, sign in enumerate(name) if sign == "_"]
            yield sorted(n for at in ends for n in self.stems.get(name[:at], ()))
            # Or with the same subject and session, without the kind of image: `sub-01_ses-1_dseg`.
            entities = name.partition(".")[0].rpartition("_")[0]
            yield self.entities.get(entities, []) if entities else []


def _by_reference(mask: Mask, shelf: Shelf) -> tuple[Sequence[int], str]:
    """Return the scans whose slices, or else whose series, a drawing names; and why there are none."""
    drawing = mask.part.drawing
    if drawing is None or not (drawing.series or drawing.slices):
        return [], "it names no series that it was drawn on"
    of_series = sorted({n for uid in drawing.series for n in shelf.series.get(uid, ())})
    of_slices = {n for uid in drawing.slices for n in shelf.slices.get(uid, ())}
    hits = [n for n in of_series if n in of_slices] if of_series else sorted(of_slices)
    hits = hits or of_series
    return hits, "" if hits else "it was drawn on a series that is not among the scans that are taken"


def _by_grid(mask: Mask, grid: Geometry, shelf: Shelf) -> tuple[Sequence[int], str]:
    """Return the scans on a mask's grid, of several those named like it, and a note on the match."""
    scans, groups = shelf.scans, shelf.grids.same(grid)
    akin = list(shelf.akin(mask))
    for named in akin:
        on_it = [n for n in named if shelf.grids.group[n] in groups]
        if on_it:
            return on_it, ""
    same = shelf.holding((), grid)
    if len(same) == 1 and _is_distinctive(grid):
        return same, "paired with its mask by the grid alone: their names are not alike"
    if len(same) == 1:
        what = (
            f"it has the size of {scans[same[0]].part.place}, but another name, and its place in the patient"
        )
        return [], f"{what} is not known: name them alike"
    if same:
        return same, "their names do not say which"
    others = [scans[n] for n in next(filter(None, akin), [])]
    if not others:
        return [], "it lies on the grid of no scan, and is named like none"
    wanted = others[0].grid
    theirs = f"; wanted {wanted}{grid.distance_note(wanted)}" if wanted is not None else ""
    return [], f"it is named like {others[0].part.place} and lies on another grid: {grid}{theirs}"


def _is_distinctive(grid: Geometry) -> bool:
    """Return whether a grid has its own place: images that have lost their place lie at the origin."""
    return bool(np.abs(grid.origin_mm).max() > 0)


def _why_not(hits: Sequence[int], scans: Sequence[Scan], why: str) -> str:
    if not hits:
        return why
    some = ", ".join(scans[n].part.place for n in hits[:3]) + (", ..." if len(hits) > 3 else "")
    return f"it fits {len(hits)} scans ({some})" + (f": {why}" if why else "") + "; they are taken without it"


def _several(places: Sequence[str]) -> str:
    named = listed(places, MOST)
    todo = "Keep one with --leave-out PATTERN, or name those that hold one structure each with --labels"
    return f"{len(places)} masks fit this scan: {named}. {todo} (liver=1,spleen=2).{KEPT}"
