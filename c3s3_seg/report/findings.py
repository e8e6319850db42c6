"""Findings of a data set check, as rows for the terminal, for JSON and for the page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from c3s3_seg.errors import quantity

if TYPE_CHECKING:
    from rich.table import Table

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")
STYLES = {"error": "bold red", "warning": "yellow", "info": "dim"}
MANY = 5  # largest number of findings of one kind that the terminal lists line by line


@dataclass(frozen=True)
class Finding:
    """A fault or remark that a check reports.

    Parameters
    ----------
    severity
        `error`: no training is possible as it is. `warning`: a person should inspect it.
        `info`: good to know.
    check
        Short name of the check that found it, see docs/data-doctor.md.
    cases
        Cases concerned; empty if it is the whole data set.
    found, wanted, todo
        Actual state, expected state, and remedy: each without its full stop.
    shown
        Cases whose picture helps.
    at
        Voxel (i, j, k) of the first shown case to inspect; None: where its mask is largest.
    """

    severity: Severity
    check: str
    cases: tuple[str, ...]
    found: str
    wanted: str
    todo: str
    shown: tuple[str, ...] = ()
    at: tuple[int, int, int] | None = None


def by_severity(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings sorted, errors first; within a severity by check, then by case."""
    return sorted(findings, key=lambda f: (SEVERITIES.index(f.severity), f.check, f.cases))


def counted(findings: Sequence[Finding]) -> str:
    """Return counts such as `2 errors, 1 warning`; empty without findings."""
    numbers = [(sum(f.severity == severity for f in findings), severity) for severity in SEVERITIES]
    return ", ".join(f"{n} info" if s == "info" else quantity(n, s) for n, s in numbers if n)


def summary(cases: int, findings: Sequence[Finding]) -> str:
    """Return the last line, such as `80 cases examined, nothing found`."""
    serious = [f for f in findings if f.severity != "info"]
    notes = counted([f for f in findings if f.severity == "info"])
    said = counted(serious) or "nothing found"
    return f"{quantity(cases, 'case')} examined, {said}" + (f" ({notes})" if notes else "")


def findings_table(findings: Sequence[Finding]) -> Table:
    """Return a table, errors first; more than `MANY` of one kind share one line (the files have all)."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    from c3s3_seg.report.terminal import cell, name_width

    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for header in ("", "Check", "Case", "Found", "Wanted", "What to do"):
        names = ["and 9 more", *(f"{name}," for finding in findings for name in finding.cases)]
        table.add_column(header, overflow="fold", width=name_width(names, 24) if header == "Case" else None)
    for group in _grouped(by_severity(findings)):
        first = group[0]
        found = first.found if len(group) == 1 else f"{len(group)} times, first: {first.found}"
        texts = (first.check, _names(group), found, first.wanted, first.todo)
        cells = [cell(text) for text in texts]
        table.add_row(first.severity, *cells, style=STYLES[first.severity])
    return table


def _grouped(findings: Sequence[Finding]) -> list[list[Finding]]:
    """Return findings of one kind as one group if there are more than `MANY`, else each on its own."""
    kinds: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        kinds.setdefault((finding.severity, finding.check), []).append(finding)
    groups: list[list[Finding]] = []
    for kind in kinds.values():
        groups += [kind] if len(kind) > MANY else [[finding] for finding in kind]
    return groups


def _names(group: Sequence[Finding]) -> str:
    names = list(dict.fromkeys(name for finding in group for name in finding.cases))
    if len(names) <= 3:
        return ", ".join(names) or "-"
    return f"{names[0]}, {names[1]} and {len(names) - 2} more"
