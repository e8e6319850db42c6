"""Split a series that holds several volumes into its parts: planes, echoes, b-values, time points."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.io.dicom.header import Slice

# Attributes that distinguish slices at one place, the likeliest first. Times are compared, never shown.
PHASES: dict[str | int, str] = {
    "EchoNumbers": "echo", "EchoTime": "TE", "DiffusionBValue": "b", 0x0019100C: "b", 0x20011003: "b",
    0x00431039: "b", "TemporalPositionIdentifier": "time point", "InversionTime": "TI", "FlipAngle": "flip",
    "ImageType": "type", "ComplexImageComponent": "component", "AcquisitionNumber": "acquisition",
    "TriggerTime": "trigger", "DiffusionGradientOrientation": "gradient", "AcquisitionTime": "",
}  # fmt: skip
# If each place holds all phases, but the times differ from place to place, their order separates them.
RANKED: dict[str | int, str] = {"TriggerTime": "trigger", "AcquisitionTime": "time"}
PLACE_MM = 0.005
# Cosine between normals. Planes below this are views of different directions, not a faulty slice.
OTHER_PLANE = 0.7

Part = tuple[str, tuple[Slice, ...]]


def split(slices: Sequence[Slice]) -> list[Part]:
    """Split the slices of one series into volumes.

    Parameters
    ----------
    slices
        Slices with one series UID.

    Returns
    -------
    list of (str, tuple of Slice)
        The label of each part (`echo 2`) and its slices; one part with "" if nothing has to be split, or
        no attribute distinguishes the slices at one place.
    """
    planes = _planes(slices)
    if len(planes) == 1:
        return _phases(slices)
    return [
        (f"plane {n}" + (f", {label}" if label else ""), part)
        for n, plane in enumerate(planes, 1)
        for label, part in _phases(plane)
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


def _phases(slices: Sequence[Slice]) -> list[Part]:
    whole: list[Part] = [("", tuple(slices))]
    places = _places(slices)
    if places is None or not _collide(zip(places, slices, strict=True)):
        return whole
    values_of = {key: [item.text(key) for item in slices] for key in PHASES}
    distinguishing = [key for key, values in values_of.items() if len(set(values)) > 1]
    for count in (1, 2, 3):
        for keys in combinations(distinguishing, count):
            groups: dict[tuple[str, ...], list[tuple[int, Slice]]] = defaultdict(list)
            for n, place in enumerate(places):
                groups[tuple(values_of[key][n] for key in keys)].append((place, slices[n]))
            if _good(list(groups.values())):
                order = sorted(groups.items(), key=_order)
                labels = _labels(keys, [values for values, _ in order])
                stacks = [tuple(s for _, s in group) for _, group in order]
                return list(zip(labels, stacks, strict=True))
    return _ranked(places, slices) or whole


def _ranked(places: Sequence[int], slices: Sequence[Slice]) -> list[Part] | None:
    """Group the n-th slices of all places; None unless each place has as many, with different times."""
    at: dict[int, list[Slice]] = defaultdict(list)
    for place, item in zip(places, slices, strict=True):
        at[place].append(item)
    count = len(next(iter(at.values())))
    if any(len(items) != count for items in at.values()):
        return None
    for key, label in RANKED.items():
        times = [sorted((_number(s.text(key)), n) for n, s in enumerate(items)) for items in at.values()]
        apart = [len({t for t, _ in row if np.isfinite(t)}) == count for row in times]
        if all(apart):
            stacks = [[items[row[n][1]] for items, row in zip(at.values(), times, strict=True)]
                      for n in range(count)]  # fmt: skip
            return [(f"{label} {n + 1} of {count}", tuple(stack)) for n, stack in enumerate(stacks)]
    return None


def _good(groups: list[list[tuple[int, Slice]]]) -> bool:
    """Return whether each group is a stack of its own, and no group a mere rest of the others."""
    sizes = [len({place for place, _ in group}) for group in groups]
    return min(sizes) >= max(2, max(sizes) / 2) and not any(_collide(group) for group in groups)


def _collide(placed: Iterable[tuple[int, Slice]]) -> bool:
    """Return whether two instances lie at one place; copies of an instance do not count."""
    instances = {(place, item.text("SOPInstanceUID") or item.name, item.frame) for place, item in placed}
    return any(count > 1 for count in Counter(place for place, *_ in instances).values())


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
