"""How to read a scan: which series of several, and which faults may be mended."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from c3s3_seg.errors import InputError
from c3s3_seg.system.choices import Repair

if TYPE_CHECKING:
    from pydantic_core import CoreSchema

LONGEST_RULE, LONGEST_VALUE = 500, 64  # characters; the latter is that of a description in DICOM
KEYS = ("description", "modality", "sequence", "type")
FORM = "modality=MR,description~lge"
_CONDITION = re.compile(r"\s*([^=~!\s]*)\s*(!=|!~|=|~)\s*(.*?)\s*", re.DOTALL)
_UID = re.compile(r"[0-9][\w.-]*(#.+)?|#.+", re.DOTALL)  # a part of a series may be of one without a UID


@dataclass(frozen=True)
class SeriesAttributes:
    """What a rule looks at: what the headers of a series say of it.

    Parameters
    ----------
    description, modality
        SeriesDescription and Modality.
    sequence
        SequenceName, ProtocolName, ScanningSequence and PulseSequenceName, each value.
    type
        The values of ImageType.
    """

    description: str = ""
    modality: str = ""
    sequence: tuple[str, ...] = ()
    type: tuple[str, ...] = ()

    def values(self, key: str) -> tuple[str, ...]:
        """Those of a key of a rule, as they are compared."""
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
        Whether no value may be like one of the patterns.
    whole
        Whether a value has to be the pattern (`=`), or to contain it (`~`).
    patterns
        In folded case; with `~`, `*` stands for any characters and `?` for one.
    text
        As it was written.
    """

    key: str
    negated: bool
    whole: bool
    patterns: tuple[str, ...]
    text: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """`description~lge|late`.

        Raises
        ------
        ValueError
            If it is no condition.
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
        """Whether a series fulfils it."""
        values = attributes.values(self.key)
        return self.negated != any(self._fits(value, p) for value in values for p in self.patterns)

    def _fits(self, value: str, pattern: str) -> bool:
        if self.whole:
            return value == pattern
        return fnmatchcase(value, f"*{pattern.replace('[', '[[]')}*")  # which takes no longer with many *


@dataclass(frozen=True)
class SeriesRule:
    """Which series are meant: conditions with commas between them, all of which must hold.

    `modality=MR,description~lge|late,type!=DERIVED`: see docs/inputs.md for the grammar.

    Parameters
    ----------
    text
        The rule as it was written; in a manifest and in JSON it is this text.

    Raises
    ------
    ValueError
        If it is malformed; the message follows the word "wanted".
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
        """All of them."""
        return tuple(Condition.parse(part) for part in self.text.split(","))

    def objection(self, attributes: SeriesAttributes) -> str:
        """The first condition that does not hold, without a word of the header; "" if the series is meant."""
        return next((condition.text for condition in self.conditions if not condition.holds(attributes)), "")

    def takes(self, attributes: SeriesAttributes) -> bool:
        """Whether a series is meant."""
        return not self.objection(attributes)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> CoreSchema:
        """From its text; workers are sent what `asdict` makes of it."""
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
    """How to read.

    Parameters
    ----------
    series
        Number (from 1) or UID of the series to take from a folder, or a rule that it must fit; None takes
        the only volume.
    repair
        Faults to mend, each recorded in the notes of the volume: `gaps` resamples missing or unevenly
        spaced slices, `tilt` undoes the shear of a tilted gantry, `orthonormal` takes the nearest
        rotation for axes that are not quite perpendicular. None is mended unasked.
    rule
        Which series to take among several volumes, where `series` does not say; where it fits none of
        them, all of them are still in question.
    """

    series: Wanted = None
    repair: frozenset[Repair] = frozenset()
    rule: SeriesRule | None = None


def parse_series(text: str | None) -> Wanted:
    """What `--series` says: a number, a UID or a rule.

    Raises
    ------
    InputError
        If it is none of them.
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
    """Names of repairs -> a set of them.

    Raises
    ------
    InputError
        If one is unknown.
    """
    known = get_args(Repair)
    for name in names:
        if name not in known:
            raise InputError(f"there is no repair '{name}'; wanted {', '.join(known)}")
    return frozenset(names)  # type: ignore[arg-type]
