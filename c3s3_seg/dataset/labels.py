"""Names and values of the labels, which must mean the same in the masks of all cases."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.dataset.prepare.inventory import Mask
from c3s3_seg.errors import InputError, listed, shown
from c3s3_seg.io.dicom_objects.segmentation import MOST, Drawing
from c3s3_seg.system.names import folded

LARGEST = 65535  # 16 bits, in a mask that is written
TODO = "Say it with --labels NAME=VALUE,NAME=VALUE"


@dataclass(frozen=True)
class Labels:
    """The labels of a data set.

    Parameters
    ----------
    values
        Name -> value from 1. Several names may have one value: the first is the label's name, the others
        are its names in some drawings.

    Raises
    ------
    InputError
        If two names that differ only in upper and lower case have different values: neither drawings nor a
        bundle distinguish such names.
    """

    values: Mapping[str, int]

    def __post_init__(self) -> None:
        """Check the names."""
        known: dict[str, str] = {}
        for name, value in self.values.items():
            other = known.setdefault(folded(name), name)
            if self.values[other] != value:
                what = f"the labels '{other}' and '{name}' differ in upper and lower case alone"
                raise InputError(what, todo=f"{TODO}, with names of their own")

    @classmethod
    def parse(cls, text: str) -> Labels:
        """Parse `liver=1,tumour=2`.

        Raises
        ------
        InputError
            If the text has another form, a name occurs twice, or a value is not an integer in 1 to 65535.
        """
        values: dict[str, int] = {}
        for item in text.split(","):
            name, equals, value = (part.strip() for part in item.rpartition("="))
            if not (name and equals and _is_value(value)):
                what = f"found the label '{item}'; wanted NAME=VALUE, VALUE from 1 to {LARGEST}"
                raise InputError(what, todo=TODO)
            if name in values:
                raise InputError(f"found the label '{name}' twice; wanted each name once", todo=TODO)
            values[name] = int(value)
        return cls(values)

    @property
    def named(self) -> dict[str, int]:
        """The labels by their first names, in the order of their values."""
        first: dict[int, str] = {}
        for name, value in self.values.items():
            first.setdefault(value, name)
        return {first[value]: value for value in sorted(first)}

    def of_names(self, names: Sequence[str], where: Path) -> dict[str, int]:
        """Return name in a mask, or of one of its files -> value; upper and lower case are equal.

        The names are in the order in which the labels were given.

        Raises
        ------
        InputError
            If a label has no segment, region or file: the structure may be absent, or was not drawn.
        """
        known = {folded(name): value for name, value in self.values.items()}
        order = list(known)
        wanted = sorted((n for n in names if folded(n) in known), key=lambda n: order.index(folded(n)))
        found = {name: known[folded(name)] for name in wanted}
        missing = [name for name, value in self.named.items() if value not in found.values()]
        if missing:
            held = listed((f"'{name}'" for name in names), MOST) or "nothing"
            what = f"nothing in it is named '{missing[0]}'; it holds {held}"
            todo = f"Name it too, as a second name of that value: --labels '{missing[0]}=1,OTHER NAME=1'"
            raise InputError(what, where=where, todo=todo)
        return found

    def check_values(self, values: Iterable[int]) -> None:
        """Check that each foreground value has a label.

        Raises
        ------
        InputError
            If one has none; the message names the lowest.
        """
        unknown = set(values) - {0} - set(self.values.values())
        if unknown:
            raise InputError(f"it holds the value {min(unknown)}, which no label has")


def _is_value(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 9 and 0 < int(text) <= LARGEST


def agreed(given: Labels | None, masks: Sequence[Mask]) -> Labels:
    """Return the labels that all masks share.

    Parameters
    ----------
    given
        Labels from the user or the layout.
    masks
        Masks that were found.

    Returns
    -------
    Labels
        `given`; else the names in the drawings, numbered from 1; else `label_1`, `label_2`, ... for the
        values in the image files. Without masks there are no labels.

    Raises
    ------
    InputError
        If the masks do not agree and no labels were given.
    """
    if given is not None and given.values:
        return given
    drawings = [mask.part.drawing for mask in masks if mask.part.drawing is not None]
    images = [mask for mask in masks if mask.part.drawing is None]
    if drawings and images:
        what = f"{len(drawings)} masks have names for their labels, and {len(images)} have values alone"
        raise InputError(what, todo=TODO)
    return _by_names(drawings) if drawings else _by_values(images)


def _by_names(drawings: Sequence[Drawing]) -> Labels:
    kinds = Counter(frozenset(drawing.names) for drawing in drawings)
    if len(kinds) > 1:
        some = "; ".join(f"{count} with {', '.join(sorted(names))}" for names, count in kinds.most_common(4))
        raise InputError(f"the masks do not hold the same labels: {some}", todo=TODO)
    return Labels({name: number for number, name in enumerate(drawings[0].names, 1)})


def _by_values(masks: Sequence[Mask]) -> Labels:
    kinds = Counter(frozenset(mask.values or ()) for mask in masks)
    largest: frozenset[int] = max(kinds, key=lambda values: (len(values), kinds[values]), default=frozenset())
    odd = [values for values in kinds if not values <= largest]
    if odd:
        some = "; ".join(f"{shown(sorted(v))} in {kinds[v]}" for v in (largest, *odd[:3]))
        raise InputError(f"the masks do not hold the same values: {some}", todo=TODO)
    return Labels({f"label_{value}": value for value in sorted(largest)})
