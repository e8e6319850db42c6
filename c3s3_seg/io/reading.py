"""Options for reading a scan: which of several series, and which faults may be repaired."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from c3s3_seg.errors import InputError
from c3s3_seg.geometry.arguments import instances_of
from c3s3_seg.geometry.orthonormalize import REPAIRED
from c3s3_seg.system.choices import Repair

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

LONGEST_RULE, LONGEST_VALUE = 500, 64  # characters; DICOM limits a description to 64
KEYS = ("description", "modality", "sequence", "type")
FORM = "modality=MR,description~lge"
GAPS_REPAIRED = f"{REPAIRED} (gaps)"  # beginning of the note on a scan with slices that were not acquired
_CONDITION = re.compile(r"\s*([^=~!\s]*)\s*(!=|!~|=|~)\s*(.*?)\s*", re.DOTALL)
_UID = re.compile(r"[0-9][\w.-]*(#.+)?|#.+", re.DOTALL)  # the series of a part (#...) may have no UID


@dataclass(frozen=True)
class SeriesAttributes:
    """The attributes that a rule is compared with, from the headers of a series.

    Parameters
    ----------
    description, modality
        SeriesDescription and Modality.
    sequence
        All values of SequenceName, ProtocolName, ScanningSequence and PulseSequenceName.
    type
        The values of ImageType.
    """

    description: str = ""
    modality: str = ""
    sequence: tuple[str, ...] = ()
    type: tuple[str, ...] = ()

    def values(self, key: str) -> tuple[str, ...]:
        """Return the values for a key of a rule, case-folded and shortened for the comparison."""
        found = getattr(self, key)
        values = (found,) if isinstance(found, str) else found
        return tuple(value[:LONGEST_VALUE].strip().casefold() for value in values)


@dataclass(frozen=True)
class Condition:
    """One condition of a rule: `description~lge|late`.

    Parameters
    ----------
    key
        One of `KEYS`.
    negated
        Whether no value may fit one of the patterns.
    whole
        Whether a value has to equal the pattern (`=`), or to contain it (`~`).
    patterns
        Patterns in folded case; with `~`, `*` stands for any characters and `?` for one.
    text
        The condition as it was written.
    """

    key: str
    negated: bool
    whole: bool
    patterns: tuple[str, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse a condition such as `description~lge|late`.

        Raises
        ------
        ValueError
            If `text` is not a condition.
        """
        found = _CONDITION.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text.strip()}' is no condition: wanted one of =, !=, ~, !~ after a key")
        key, operator, values = found[1].casefold(), found[2], found[3].casefold()
        if key not in KEYS:
            raise ValueError(f"there is no key '{found[1]}', allowed: {', '.join(KEYS)}")
        patterns = tuple(value.strip() for value in values.split("|"))
        if not all(patterns):
            raise ValueError(f"'{text.strip()}' has no value")
        return cls(key, operator[0] == "!", operator[-1] == "=", patterns, text.strip())

    def holds(self, attributes: SeriesAttributes) -> bool:
        """Return whether a series fulfils the condition."""
        values = attributes.values(self.key)
        return self.negated != any(self._fits(value, p) for value in values for p in self.patterns)

    def _fits(self, value: str, pattern: str) -> bool:
        if self.whole:
            return value == pattern
        return fnmatchcase(value, f"*{pattern.replace('[', '[[]')}*")  # no slower with many *


@dataclass(frozen=True)
class SeriesRule:
    """A rule that selects series: conditions separated by commas, all of which must hold.

    `modality=MR,description~lge|late,type!=DERIVED`: see docs/inputs.md for the grammar.

    Parameters
    ----------
    text
        The rule as it was written; in a manifest and in JSON it is this text.

    Raises
    ------
    ValueError
        If the rule is malformed; the message is worded to follow "wanted".
    """

    text: str

    def __post_init__(self) -> None:
        if len(self.text) > LONGEST_RULE:
            raise ValueError(f"a series rule of up to {LONGEST_RULE} characters")
        try:
            _ = self.conditions
        except ValueError as error:
            raise ValueError(f"a series rule such as {FORM} ({error})") from None

    @cached_property
    def conditions(self) -> tuple[Condition, ...]:
        """The parsed conditions."""
        return tuple(Condition.parse(part) for part in self.text.split(","))

    def objection(self, attributes: SeriesAttributes) -> str:
        """Return the first condition that does not hold, without header text; "" if the series fits."""
        return next((condition.text for condition in self.conditions if not condition.holds(attributes)), "")

    def takes(self, attributes: SeriesAttributes) -> bool:
        """Return whether a series fits the rule."""
        return not self.objection(attributes)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        """Return a schema that accepts the rule's text, or the `asdict` of a rule that workers get."""
        del source, handler
        from pydantic_core import core_schema

        parsed = core_schema.no_info_after_validator_function(cls, core_schema.str_schema(strict=True))
        return core_schema.no_info_before_validator_function(
            _text_of, parsed, serialization=core_schema.to_string_ser_schema()
        )


def _text_of(value: Any) -> Any:
    if isinstance(value, SeriesRule):
        return value.text
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value


Wanted = int | str | SeriesRule | None


@dataclass(frozen=True)
class Reading:
    """Options for reading a scan.

    Parameters
    ----------
    series
        Number (from 1) or UID of the series to take from a folder, or a rule that the series must fit;
        None takes the only volume.
    repair
        Faults to repair, each recorded in the notes of the volume: `gaps` resamples missing or unevenly
        spaced slices, `tilt` undoes the shear of a tilted gantry, `orthonormal` takes the nearest
        rotation for axes that are not quite perpendicular. No fault is repaired unless requested.
    rule
        Rule that chooses among several volumes if `series` is None; if no volume fits the rule, all
        volumes remain candidates.
    """

    series: Wanted = None
    repair: frozenset[Repair] = frozenset()
    rule: SeriesRule | None = None


def parse_series(text: str | None) -> Wanted:
    """Parse the value of `--series`: a number, a UID or a rule.

    Raises
    ------
    InputError
        If `text` is none of these.
    """
    if text is None:
        return None
    try:
        if any(sign in text.partition("#")[0] for sign in "=~"):
            return SeriesRule(text)
        if _UID.fullmatch(text.strip()):
            return text.strip()
        raise ValueError(f"the number of a series in `c3s3-seg inspect`, its UID, or a rule such as {FORM}")
    except ValueError as error:
        raise InputError(f"--series is '{text[:LONGEST_RULE]}'; wanted {error}") from None


def repairs(names: Collection[str]) -> frozenset[Repair]:
    """Return a set of repairs from their names.

    Raises
    ------
    InputError
        If a name is unknown, or there is something else in place of names.
    """
    known = get_args(Repair)
    for name in instances_of(Collection, f"some of {', '.join(known)}").take("repair", names):
        if name not in known:
            raise InputError(f"there is no repair '{name}'; wanted {', '.join(known)}")
    return frozenset(names)  # type: ignore[arg-type]


def is_interpolated(notes: Iterable[str]) -> bool:
    """Return whether the notes of a scan state that gaps between its slices were repaired.

    A DICOM SEG or RTSTRUCT of such a series has no frame or contour on the slices that were interpolated.
    Read onto the grid of the scan, it would be background there.
    """
    return any(note.startswith(GAPS_REPAIRED) for note in notes)
