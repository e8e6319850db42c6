"""One mask file a structure: `CASE/ct.nii.gz` with `CASE/segmentations/liver.nii.gz`, `.../spleen.nii.gz`.

The files are merged by the labels that were asked for by name; without `--labels` nothing is merged.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from c3s3_seg.dataset.items import Mask, Part, Refused, Scan
from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.pairing import KEPT, ROLES, trail, words
from c3s3_seg.io.image import image_stem

LEFT_OUT = "mask files of structures that --labels does not name"


@dataclass
class Gathered:
    """Masks that were merged: number of the scan -> mask; and what is left for the usual pairing."""

    masks: dict[int, Mask] = field(default_factory=dict)
    rest: list[Mask] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    left_out: int = 0


def gather(
    scans: Sequence[Scan], masks: Sequence[Mask], labels: Labels, on_grid: Callable[[Mask], list[int]]
) -> Gathered:
    """Find the masks that hold one structure each, and give those that a label names to their scans.

    Parameters
    ----------
    scans, masks
        What was found.
    labels
        What is wanted.
    on_grid
        Numbers of the scans on the grid of a mask.
    """
    found: dict[int, dict[str, list[Mask]]] = defaultdict(lambda: defaultdict(list))
    rest, single = [], []
    for mask in masks:
        if mask.part.kind != "image" or len(mask.values or ()) > 1:
            rest.append(mask)
            continue
        near = on_grid(mask)
        hits = [(n, name) for n in near if (name := _structure(mask, scans[n], labels)) is not None]
        if len(hits) == 1:
            found[hits[0][0]][hits[0][1]].append(mask)
        else:
            single.append((mask, any(set(mask.trail) <= set(scans[n].trail) for n in near)))
    strangers = [mask for mask, akin in single if not akin]
    if not _is_structured(found, labels, bool(strangers), bool([m for m in rest if m.grid is not None])):
        return Gathered(rest=list(masks))
    gathered = Gathered(rest=rest + [mask for mask, akin in single if akin], left_out=len(strangers))
    for number, held in found.items():
        twice = next((name for name, files in held.items() if len(files) > 1), None)
        if twice is not None:
            places = ", ".join(mask.part.place for mask in held[twice])
            reason = f"{len(held[twice])} files hold its structure '{twice}': {places}. Leave one out.{KEPT}"
            gathered.refused.append(Refused(scans[number].part.place, reason))
        else:
            gathered.masks[number] = _merged({name: files[0] for name, files in held.items()})
    return gathered


def _is_structured(
    found: dict[int, dict[str, list[Mask]]], labels: Labels, strangers: bool, others: bool
) -> bool:
    """Whether masks are one file a structure, and not just named after what they hold."""
    names = {name for held in found.values() for name in held}
    if len(names) > 1 or (names and strangers):
        return True
    own = [(labels.values[name], mask) for held in found.values() for name in held for mask in held[name]]
    return not others and any(mask.values not in ((), (value,)) for value, mask in own)


def _structure(mask: Mask, scan: Scan, labels: Labels) -> str | None:
    """The label that a mask of this scan is named after; None if its name holds more than label and scan."""
    for name in sorted(labels.values, key=len, reverse=True):
        for rest in _without(_stem_path(mask.part.place), _form(name)):
            if set(rest) <= set(scan.trail):
                return name
    return None


def _without(path: PurePath, name: str) -> Iterator[tuple[str, ...]]:
    """What a path is called without the name of a structure, for each place where that may be."""
    folders, stem = trail(path.parent), _form(path.name)
    if stem == name:
        yield folders
    if stem.endswith(f"_{name}"):
        yield (*folders, stem.removesuffix(f"_{name}"))
    if stem.startswith(f"{name}_"):
        yield (*folders, stem.removeprefix(f"{name}_"))
    if name in folders:
        yield (*(folder for folder in folders if folder != name), *trail(PurePath(path.name)))


def _form(name: str) -> str:
    """A name as `trail` has it; one of mere role words stays."""
    found = words(name)
    return "_".join([word for word in found if word not in ROLES] or found)


def _stem_path(place: str) -> PurePath:
    return PurePath(place).parent / image_stem(Path(place))


def _merged(files: dict[str, Mask]) -> Mask:
    places = [mask.part.place for mask in files.values()]
    folder = os.path.commonpath([os.path.dirname(place) for place in places])
    place = places[0] if len(places) == 1 else f"{folder or '.'}: {len(places)} structures"
    parts = tuple(mask.part.files[0] for mask in files.values())
    part = Part("structures", place, parts, names=tuple(files))
    return Mask(part, next(iter(files.values())).grid, ())
