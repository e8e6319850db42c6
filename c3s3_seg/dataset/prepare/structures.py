"""Merge one mask file a structure: `CASE/ct.nii.gz`, `CASE/segmentations/liver.nii.gz`, `.../spleen.nii.gz`.

The files are merged by the labels that were requested by name; without `--labels` nothing is merged.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from c3s3_seg.dataset.labels import Labels
from c3s3_seg.dataset.prepare.inventory import Mask, Part, RefusedFile
from c3s3_seg.dataset.prepare.pairing import KEPT, ROLES, Shelf, trail, words
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.image.files import image_stem

LEFT_OUT = "mask files of structures that --labels does not name"


@dataclass
class Gathered:
    """The merged masks, as number of the scan -> mask, and the masks left for the usual pairing."""

    masks: dict[int, Mask] = field(default_factory=dict)
    rest: list[Mask] = field(default_factory=list)
    refused: list[RefusedFile] = field(default_factory=list)
    left_out: int = 0


def gather(shelf: Shelf, masks: Sequence[Mask], labels: Labels) -> Gathered:
    """Find the masks that hold one structure each, and assign those that a label names to their scans.

    Parameters
    ----------
    shelf, masks
        Scans and masks that were found.
    labels
        Requested labels.
    """
    found: dict[int, dict[str, list[Mask]]] = defaultdict(lambda: defaultdict(list))
    forms = {name: _spec(name) for name in sorted(labels.values, key=len, reverse=True)}
    rest, single = [], []
    for mask in masks:
        if mask.part.kind != "image" or mask.grid is None or len(mask.values or ()) > 1:
            rest.append(mask)
            continue
        hits = _structure(mask, mask.grid, shelf, forms)
        if len(hits) == 1:
            ((number, name),) = hits.items()
            found[number][name].append(mask)
        else:
            single.append((mask, bool(shelf.holding(mask.trail, mask.grid))))
    strangers = [mask for mask, akin in single if not akin]
    if not _is_structured(found, labels, bool(strangers), bool([m for m in rest if m.grid is not None])):
        return Gathered(rest=list(masks))
    lost = [mask for mask in strangers if _spec(_stem_path(mask.part.place).name) in forms.values()]
    left_out = len(strangers) - len(lost)
    gathered = Gathered(rest=rest + [mask for mask, akin in single if akin], left_out=left_out)
    for mask in lost:
        reason = "it is named like a label, and is on the grid of no scan that its path names, or of several"
        gathered.refused.append(RefusedFile(mask.part.place, reason))
    for number, held in found.items():
        twice = next((name for name, files in held.items() if len(files) > 1), None)
        if twice is not None:
            places = ", ".join(mask.part.place for mask in held[twice])
            reason = f"{len(held[twice])} files hold its structure '{twice}': {places}. Leave one out.{KEPT}"
            gathered.refused.append(RefusedFile(shelf.scans[number].part.place, reason))
        else:
            gathered.masks[number] = _merged({name: files[0] for name, files in held.items()})
    return gathered


def _is_structured(
    found: dict[int, dict[str, list[Mask]]], labels: Labels, strangers: bool, others: bool
) -> bool:
    """Return whether masks are one file per structure, and not just named after their content."""
    names = {name for held in found.values() for name in held}
    if len(names) > 1 or (names and strangers):
        return True
    own = [(labels.values[name], mask) for held in found.values() for name in held for mask in held[name]]
    return not others and any(mask.values not in ((), (value,)) for value, mask in own)


def _structure(mask: Mask, grid: Geometry, shelf: Shelf, forms: Mapping[str, str]) -> dict[int, str]:
    """Return scan on the grid -> label in the mask's name, if that name holds only label and scan.

    Of several scans only two are returned, as two already make the mask ambiguous.
    """
    found: dict[int, str] = {}
    path = _stem_path(mask.part.place)
    folders, stem, last = trail(path.parent), _spec(path.name), trail(PurePath(path.name))
    for name, form in forms.items():
        for rest in _without(folders, stem, last, form):
            for number in shelf.holding(rest, grid):
                found.setdefault(number, name)
                if len(found) > 1:
                    return found
    return found


def _without(
    folders: tuple[str, ...], stem: str, last: tuple[str, ...], name: str
) -> Iterator[tuple[str, ...]]:
    """Yield the names in a path without that of a structure, for each place where that name may be."""
    if stem == name:
        yield folders
    if stem.endswith(f"_{name}"):
        yield (*folders, stem.removesuffix(f"_{name}"))
    if stem.startswith(f"{name}_"):
        yield (*folders, stem.removeprefix(f"{name}_"))
    if name in folders:
        yield (*(folder for folder in folders if folder != name), *last)


def _spec(name: str) -> str:
    """Return a name in the form of `trail`; a name of only role words stays."""
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
