"""Decide the outcome of a study with several series: those out of domain are passed over beside a valid one.

Nobody has specified which series of a study is the scan, so the domain check decides. A refused series is no
failure if another one of the study was segmented; if none was, the study is one failure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from c3s3_seg.batch.job import CaseTask
from c3s3_seg.batch.records import STOPPED, Outcome
from c3s3_seg.inference.domain_check import DomainError

MOST_TOLD = 10  # series of a study whose reasons are reported: a cine study has hundreds


@dataclass
class _Study:
    waiting: set[str] = field(default_factory=set)  # cases without an outcome yet
    held: list[Outcome] = field(default_factory=list)  # refused cases, until the last outcome is known
    segmented: bool = False
    stopped: bool = False


class Studies:
    """A collector that takes the outcome of each case, and returns the outcomes decided by it.

    Parameters
    ----------
    tasks
        All cases of the run.
    """

    def __init__(self, tasks: Iterable[CaseTask]) -> None:
        cases: dict[str, list[str]] = defaultdict(list)
        for task in tasks:
            if task.case.study:
                cases[task.case.study].append(task.case.name)
        several = {study: names for study, names in cases.items() if len(names) > 1}
        self._order = {name: n for names in several.values() for n, name in enumerate(names)}
        self._of = {name: study for study, names in several.items() for name in names}
        self._studies = {study: _Study(set(names)) for study, names in several.items()}
        self.merged: list[Outcome] = []  # failures reported with another series of their study
        self._members: dict[str, set[str]] = {}  # first series of a study that failed -> all its failures

    def add(self, outcome: Outcome) -> list[Outcome]:
        """Return the outcome unless the rest of its study decides; after the last case, all held ones."""
        study = self._studies.get(self._of.get(outcome.case, ""))
        if study is None:
            return [replace(outcome, passed_over=False)]
        study.waiting.discard(outcome.case)
        study.segmented |= outcome.row is not None
        refusal = outcome.refusal
        study.stopped |= refusal is not None and refusal.step == STOPPED
        decided = []
        if refusal is not None and refusal.final:
            study.held.append(outcome)
        else:
            decided.append(outcome)
        return decided if study.waiting else decided + self._settle(study)

    def rest(self) -> list[Outcome]:
        """Return the held outcomes of studies of which cases were left for another run."""
        return [outcome for study in self._studies.values() for outcome in self._settle(study, whole=False)]

    def members(self, case: str) -> set[str]:
        """Return the cases whose failures are reported under this name: the case alone, or of its study."""
        return self._members.get(case, {case})

    def _settle(self, study: _Study, *, whole: bool = True) -> list[Outcome]:
        held, study.held = study.held, []
        if study.segmented or study.stopped or not whole:
            return [replace(outcome, passed_over=outcome.out_of_domain) for outcome in held]
        held.sort(key=lambda outcome: self._order[outcome.case])  # independent of which worker was first
        decided = _one_failure(held)
        self.merged += [replace(outcome, passed_over=False) for outcome in held[len(decided) :]]
        self._members |= {outcome.case: {o.case for o in held} for outcome in decided}
        return decided


def _one_failure(held: Sequence[Outcome]) -> list[Outcome]:
    """Return the single failure of a study without a segmented series: its first, with all reasons.

    Of the refusals, the first that is no refusal by the domain check gives the kind: a series that cannot be
    read may have been the scan.
    """
    refusals = [(outcome.case, outcome.refusal) for outcome in held if outcome.refusal is not None]
    if len(refusals) < 2:
        return [replace(outcome, passed_over=False) for outcome in held]
    reasons = "; ".join(f"{case}: {refusal.what}" for case, refusal in refusals[:MOST_TOLD])
    if len(refusals) > MOST_TOLD:
        reasons += f"; and {len(refusals) - MOST_TOLD} more, whose reasons are in the journal"
    what = f"none of the {len(refusals)} series of the study can be segmented: {reasons}"
    faults = [refusal for _, refusal in refusals if refusal.kind != DomainError.__name__]
    first = faults[0] if faults else refusals[0][1]
    return [replace(held[0], refusal=replace(first, what=what), passed_over=False)]
