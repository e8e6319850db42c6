"""Train and score the runs of a study, in an order that can resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.errors import C3S3Error, InputError, Told
from c3s3_seg.report.study_table import Conditions, Trained, mixture
from c3s3_seg.system.files import make_folder, make_own_folder
from c3s3_seg.system.progress import Progress
from c3s3_seg.training import checkpoint
from c3s3_seg.training.folds import cases_sha256, read_splits
from c3s3_seg.training.history import History
from c3s3_seg.training.loggers import open_logger
from c3s3_seg.training.run import DivergedError
from c3s3_seg.training.settings import DataConfig
from c3s3_seg.training.start_checks import check_start
from c3s3_seg.training.studies.conditions import current_conditions, note_conditions, read_conditions
from c3s3_seg.training.studies.plan import StudyPlan
from c3s3_seg.training.studies.record import TODO, changes, read_record, write_record
from c3s3_seg.training.train import train


def run_study(plans: list[StudyPlan], out: Path, report: Progress) -> list[str]:
    """Train the runs without a record; a run that diverges gets none, and the others continue.

    Parameters
    ----------
    plans
        The runs, or a share of them.
    out
        Folder of `records/NAME.json`, which are small and sufficient to resume, and of `runs/NAME`.
    report
        Called with a line before each run, and when a run diverges.

    Returns
    -------
    The names of the runs that diverged.

    Raises
    ------
    InputError
        If a record was made with other settings or cases, the data has no validation cases, a run would end
        at its start, or a run that was stopped has other settings or began from a bundle that the study no
        longer names.
    """
    waiting = [plan for plan in plans if not _record(plan, out).exists()]
    sets = _check_plans(waiting, out)
    refuse_several_cases(plans, out, {data: cases_sha256(splits) for data, (_, splits) in sets.items()})
    _check_starts(waiting, out)
    make_folder(out)
    make_own_folder(out / "records")
    make_own_folder(out / "runs")
    diverged = []
    for number, plan in enumerate(plans, start=1):
        record = _record(plan, out)
        if not record.exists():
            report(f"{plan.name} ({number} of {len(plans)})")
            try:
                _train(plan, out)
            except DivergedError as error:
                report(f"{plan.name}: {error.what}")
                # It would resume just before it diverged, and refuse a lower learning rate.
                checkpoint.set_aside(_folder(plan, out))
                diverged.append(plan.name)
                continue
        read_record(record, plan)
    return diverged


def _record(plan: StudyPlan, out: Path) -> Path:
    return out / "records" / f"{plan.name}.json"


def _folder(plan: StudyPlan, out: Path) -> Path:
    return out / "runs" / plan.name


def _check_plans(plans: Sequence[StudyPlan], out: Path) -> dict[DataConfig, tuple[DataSet, Splits]]:
    """Check, before hours of training, that no run would end at its start, and all have validation cases.

    Return the data sets of the runs, and their cases.
    """
    sets = {plan.config.data: read_splits(plan.config.data) for plan in plans}
    for folder in (data.folder for data, splits in sets.values() if not splits.validation):
        raise InputError("a study needs validation cases, and there are none", where=folder)
    for plan in plans:
        resume = (_folder(plan, out) / checkpoint.FILE).exists()
        try:
            check_start(plan.config, *sets[plan.config.data], plan.start, resume=resume)
        except C3S3Error as error:
            error.what = Told.of(f"{plan.name}: {error.what.named}", f"{plan.name}: {error.what.public}")
            raise
    return sets


def _check_starts(plans: Sequence[StudyPlan], out: Path) -> None:
    """Check that no stopped run would be resumed, and recorded, under other settings or another start."""
    for plan, folder in ((plan, _folder(plan, out)) for plan in plans):
        if not (folder / checkpoint.FILE).exists():
            continue
        state = checkpoint.read(folder)
        _refuse_changes(plan, state.config, folder)
        began = History(state.history).first("initialized_from")
        if began is not None and plan.start is None:
            what = f"the run began from '{began['bundle']}', and the study names no `start`"
            todo = "Restore `start` in the study, or remove this folder to train again"
            raise InputError(what, where=folder, todo=todo)


def _refuse_changes(plan: StudyPlan, settings: dict[str, Any], folder: Path) -> None:
    """Raise an error if a run was stopped under other settings: its record would state the new ones only."""
    changed = changes(settings, plan)
    if changed:
        found = ", ".join(f"{key}: {old!r}, now {new!r}" for key, (old, new) in changed.items())
        todo = "Restore these settings in the study, or remove this folder to train again"
        raise InputError(f"the run was stopped under other settings ({found})", where=folder, todo=todo)


def finished(plans: list[StudyPlan], out: Path) -> list[Trained]:
    """Read the records of the finished runs."""
    records = [(_record(plan, out), plan) for plan in plans]
    return [read_record(path, plan) for path, plan in records if path.exists()]


def refuse_several_cases(
    plans: Sequence[StudyPlan], out: Path, now: Mapping[DataConfig, str] | None = None
) -> None:
    """Raise an error for records of one data set that were trained or validated on different cases.

    Parameters
    ----------
    plans, out
        Runs, finished or not, and the folder of their records.
    now
        `cases_sha256` of the data sets as they are; those left out are compared among the records alone.

    Raises
    ------
    InputError
        If there are such records, for instance of another share; or for the reasons of `read_record`.
    """
    known = dict(now or {})
    for path, plan in ((_record(plan, out), plan) for plan in plans):
        cases = read_record(path, plan).cases if path.exists() else ""
        if cases and known.setdefault(plan.config.data, cases) != cases:  # older records do not state them
            what = "this record was made with other cases, or in another order, than the other runs"
            raise InputError(what, where=path, todo=TODO)


def _conditions(plan: StudyPlan) -> Conditions:
    return current_conditions(plan.config.run.device, plan.start)


def check_conditions(plans: list[StudyPlan], out: Path) -> None:
    """Raise an error, before hours of training, if new runs would be added to records of other conditions.

    Raises
    ------
    InputError
        If machine, code or start differ from the records or from those of a run that would be resumed, or
        differ among the records already.
    """
    done = finished(plans, out)
    here = [
        Trained(plan.entry, plan.seed, 0, 0.0, {}, _conditions(plan), read_conditions(_folder(plan, out)))
        for plan in plans
        if not _record(plan, out).exists()
    ]
    known = [
        replace(
            run,
            conditions=replace(run.conditions, precision=""),
            earlier=tuple(replace(earlier, precision="") for earlier in run.earlier),
        )
        for run in done
    ]
    refuse_mixture(done, out)
    refuse_mixture([*known, *here], out)


def refuse_mixture(runs: Sequence[Trained], out: Path) -> None:
    """Raise an error for runs of several machines, precisions, versions of the code or starts.

    Raises
    ------
    InputError
        If the runs have several of these conditions.
    """
    lines = mixture(runs)
    if lines:
        raise InputError(
            f"the runs would not be compared under the same conditions. {'; '.join(lines)}",
            where=out / "records",
            todo="Give another folder with -o, or --allow-mixed: then the tables say so",
        )


def _train(plan: StudyPlan, out: Path) -> None:
    folder, here = _folder(plan, out), _conditions(plan)
    resume = (folder / checkpoint.FILE).exists()
    earlier = note_conditions(folder, here)
    with open_logger(folder) as logger:
        bundle = train(plan.config, folder, logger, resume=resume, start=plan.start)
    write_record(_record(plan, out), plan, bundle.manifest.training, (*earlier, here))
