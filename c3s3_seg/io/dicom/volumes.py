"""Split a series that holds several volumes into its parts: planes, echoes, b-values, time points."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, compress

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.io.dicom.header import PLACE_MM, Slice

# Attributes that distinguish slices at one place, the likeliest first. Times are compared, never shown.
PHASES: dict[str | int, str] = {
    "EchoNumbers": "echo", "EchoTime": "TE", "DiffusionBValue": "b", 0x0019100C: "b", 0x20011003: "b",
    0x00431039: "b", "TemporalPositionIdentifier": "time point", "InversionTime": "TI", "FlipAngle": "flip",
    "ImageType": "type", "ComplexImageComponent": "component", "AcquisitionNumber": "acquisition",
    "TriggerTime": "trigger", "DiffusionGradientOrientation": "gradient", "AcquisitionTime": "",
}  # fmt: skip
# If each place holds all phases, but the times differ from place to place, their order separates them.
RANKED: dict[str | int, str] = {"TriggerTime": "trigger", "AcquisitionTime": "time"}
HALF_DAY, DAY = 120000, 240000  # as the number HHMMSS
# Cosine between normals. Planes below this are views of different directions, not a faulty slice.
OTHER_PLANE = 0.7


@dataclass(frozen=True)
class SeriesPart:
    """A volume of a series.

    Parameters
    ----------
    label
        Its label (`echo 2`); empty if the series has no other volume.
    slices
        Its slices.
    notes
        What the user must know of the way in which it was separated from the others.
    """

    label: str
    slices: tuple[Slice, ...]
    notes: tuple[str, ...] = ()


def split(slices: Sequence[Slice]) -> list[SeriesPart]:
    """Split the slices of one series into volumes.

    Parameters
    ----------
    slices
        Slices with one series UID.

    Returns
    -------
    list of SeriesPart
        The volumes; one part with the label "" if nothing has to be split, or no attribute distinguishes
        the slices at one place.
    """
    planes = _planes(slices)
    if len(planes) == 1:
        return _phases(slices)
    return [
        replace(part, label=f"plane {n}" + (f", {part.label}" if part.label else ""))
        for n, plane in enumerate(planes, 1)
        for part in _phases(plane)
    ]


def _planes(slices: Sequence[Slice]) -> list[tuple[Slice, ...]]:
    """Group slices by direction; slices without a valid direction join the first group."""
    if len({item.text("ImageOrientationPatient") for item in slices}) == 1:
        return [tuple(slices)]  # the usual case, and the fast way
    found: list[tuple[NDArray[np.float64], list[Slice]]] = []
    for item in slices:
        normal = _normal(item)
        home = next((p for n, p in found if normal is None or abs(n @ normal) > OTHER_PLANE), None)
        if home is None and normal is None:
            return [tuple(slices)]
        if home is None and normal is not None:
            home = []
            found.append((normal, home))
        if home is not None:
            home.append(item)
    return [tuple(plane) for _, plane in found]


def _phases(slices: Sequence[Slice]) -> list[SeriesPart]:
    whole = [SeriesPart("", tuple(slices))]
    places = _places(slices)
    if places is None or not _collide(zip(places, slices, strict=True)):
        return whole
    stack = _Placed(places, slices)
    values_of = {key: [item.text(key) for item in slices] for key in PHASES}
    values_of["AcquisitionTime"] = _moments(slices)
    distinguishing = [key for key, values in values_of.items() if len(set(values)) > 1]
    for count in (1, 2, 3):
        for keys in combinations(distinguishing, count):
            groups: dict[tuple[str, ...], list[tuple[int, Slice]]] = defaultdict(list)
            for n, place in enumerate(places):
                groups[tuple(values_of[key][n] for key in keys)].append((place, slices[n]))
            if stack.are_volumes(list(groups.values())):
                order = sorted(groups.items(), key=_order)
                labels = _labels(keys, [values for values, _ in order])
                return [stack.part(label, group) for label, (_, group) in zip(labels, order, strict=True)]
    return _ranked(stack, values_of) or whole


class _Placed:
    """The slices of a series by place, and how many of them lie at each."""

    def __init__(self, places: Sequence[int], slices: Sequence[Slice]) -> None:
        self.slices = slices
        self.places = places
        # Place -> instance -> positions in `slices`: of several copies of an instance all.
        self.at: dict[int, dict[object, list[int]]] = defaultdict(lambda: defaultdict(list))
        for n, (place, item) in enumerate(zip(places, slices, strict=True)):
            self.at[place][_instance(item)].append(n)

    @property
    def volumes(self) -> int:
        """The number of instances at each place, if it is the same at all places; else 0."""
        counts = {len(instances) for instances in self.at.values()}
        return counts.pop() if len(counts) == 1 else 0

    def are_volumes(self, groups: list[list[tuple[int, Slice]]]) -> bool:
        """Return whether each group is a volume of its own, and no group a mere part or rest of another.

        If all places have as many slices, each volume has a slice at every place: a group without is a part
        of a volume, as of a table that moves, of odd and even slices, or of one breath-hold.
        """
        sizes = [len({place for place, _ in group}) for group in groups]
        least = len(self.at) if self.volumes else max(sizes) / 2
        return min(sizes) >= max(2, least) and not any(_collide(group) for group in groups)

    def part(self, label: str, group: Sequence[tuple[int, Slice]]) -> SeriesPart:
        """Return a group as a volume, with a note if it does not have a slice at every place."""
        held, every = len({place for place, _ in group}), len(self.at)
        note = f"slices lie at {held} of the {every} places of the series: it may be a part of a volume"
        return SeriesPart(label, tuple(item for _, item in group), (note,) if held < every else ())


def _ranked(stack: _Placed, values_of: Mapping[str | int, Sequence[str]]) -> list[SeriesPart] | None:
    """Group the n-th slices of all places; None unless each place has as many, with different times.

    None also if that contradicts another attribute: if slices of one acquisition number, of which each place
    has one at most, came into two volumes, one was missing at some places.
    """
    count = stack.volumes
    if not count:
        return None
    others = [values for key, values in values_of.items() if key not in RANKED]
    for key, label in RANKED.items():
        times = _times(key, values_of[key])
        ranks = None if times is None else _ranks(stack, times)
        if ranks is None or any(_contradicts(ranks, values, stack.places) for values in others):
            continue
        note = f"the {count} slices at each place were assigned to volumes in the order of their {key}"
        return [
            SeriesPart(f"{label} {rank + 1} of {count}", tuple(compress(stack.slices, chosen)), (note,))
            for rank in range(count)
            if (chosen := [own == rank for own in ranks])
        ]
    return None


def _ranks(stack: _Placed, times: Sequence[float]) -> list[int] | None:
    """Return the rank of each slice among those at its place; None if two have one time, or one has none."""
    ranks = [0] * len(times)
    for instances in stack.at.values():
        rows = sorted((times[own[0]], own) for own in instances.values())
        if len({time for time, _ in rows if np.isfinite(time)}) < len(rows):
            return None
        for rank, (_, own) in enumerate(rows):
            for n in own:
                ranks[n] = rank
    return ranks


def _contradicts(ranks: Sequence[int], values: Sequence[str], places: Sequence[int]) -> bool:
    """Return whether an attribute whose values occur once at most at each place was spread over two ranks."""
    once = len(set(zip(values, places, ranks, strict=True))) == len(set(zip(values, places, strict=True)))
    return once and len(set(zip(values, ranks, strict=True))) > len(set(values))


def _times(key: str | int, texts: Sequence[str]) -> list[float] | None:
    """Return times as numbers; None if midnight may lie between them: they are of one date, or of none."""
    times = [_number(text) for text in texts]
    lost = key == "AcquisitionTime" and HALF_DAY < max(times) - min(times) < DAY
    return None if lost else times


def _moments(slices: Sequence[Slice]) -> list[str]:
    """Return date and time of acquisition (YYYYMMDDHHMMSS.F) of each slice; without dates, the time alone."""
    times = [item.text("AcquisitionTime").replace(":", "") for item in slices]
    if not all(times):
        both = [item.text("AcquisitionDateTime") for item in slices]
        return [re.split("[-+]", text)[0] for text in both] if all(both) else times  # without the time zone
    dates = [item.text("AcquisitionDate") for item in slices]
    dated = all(len(date) == 8 for date in dates)
    parts = [time.partition(".") for time in times]
    whole = [hour.ljust(6, "0") + point + fraction for hour, point, fraction in parts]  # also of HHMM
    return [date + time for date, time in zip(dates, whole, strict=True)] if dated else whole


def _collide(placed: Iterable[tuple[int, Slice]]) -> bool:
    """Return whether two instances lie at one place; copies of an instance do not count."""
    instances = {(place, _instance(item)) for place, item in placed}
    return len({place for place, _ in instances}) < len(instances)


def _instance(item: Slice) -> tuple[str, int | None]:
    return item.text("SOPInstanceUID") or item.name, item.frame


def _places(slices: Sequence[Slice]) -> list[int] | None:
    """Return the number of each slice's place along the normal; None if positions are missing."""
    normal = _normal(slices[0])
    points = [item.numbers("ImagePositionPatient", 3) for item in slices]
    if normal is None or any(point is None for point in points):
        return None
    heights = np.array([point @ normal for point in points if point is not None])
    order = np.argsort(heights, kind="stable")
    steps = np.diff(heights[order], prepend=heights[order[0]]) > PLACE_MM
    places = np.empty(len(slices), dtype=int)
    places[order] = np.cumsum(steps)
    return places.tolist()


def _normal(item: Slice) -> NDArray[np.float64] | None:
    cosines = item.numbers("ImageOrientationPatient", 6)
    if cosines is None:
        return None
    normal = np.cross(cosines[:3], cosines[3:])
    length = float(np.linalg.norm(normal))
    return normal / length if length > 0.5 else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("inf")


def _order(entry: tuple[tuple[str, ...], object]) -> list[tuple[float, str]]:
    return [(_number(value), value) for value in entry[0]]


def _labels(keys: Sequence[str | int], groups: Sequence[Sequence[str]]) -> list[str]:
    """Return a label for each group of values, each different, as a series is chosen by its label."""
    shown = [(n, PHASES[key]) for n, key in enumerate(keys) if PHASES[key]]
    short = [", ".join(f"{name} {_short(values[n])}" for n, name in shown) for values in groups]
    long = [", ".join(f"{name} {_long(values[n])}" for n, name in shown) for values in groups]
    labels = short if len(set(short)) == len(set(long)) else long
    seen: Counter[str] = Counter()
    unique = []
    for label in labels:
        seen[label] += 1
        time = f"time {seen[label]}" if labels.count(label) > 1 else ""
        unique.append(", ".join(filter(None, (label, time))))
    return unique


def _short(value: str) -> str:
    """Shorten a value for a label: `ORIGINAL\\PRIMARY\\M\\FFE` -> `M FFE`; numbers are kept."""
    words = value.split("\\")
    return " ".join(words[2:] if len(words) > 2 and not _number(words[0]) < float("inf") else words) or "-"


def _long(value: str) -> str:
    return value.replace("\\", " ") or "-"
