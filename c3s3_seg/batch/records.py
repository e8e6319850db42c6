"""Records of a case on its way through the steps, and of its outcome, which goes to the journal."""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c3s3_seg import errors
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.errors import NO_MEMORY, C3S3Error, InputError, MemoryLimitError, StorageError, Told
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.inference.predictor import CheckedScan, PreparedScan
from c3s3_seg.io import Skipped
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.io.dicom.decoder import NOT_STARTED
from c3s3_seg.report.rows import Failure, PredictionRow

STOPPED = "stopped"  # the step of a case that was not processed, because the run ended before
# A failure in one of these steps is the scan's fault and would recur. So would a refusal by the domain check,
# which may come later, for a region that the network found. Other failures are the machine's.
OF_THE_SCAN = ("load", "check", "prepare")
# Exceptions are system errors on reading or unpacking a scan that may be good: a file server that does not
# answer, too many open files, a full disk for archives.
_PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN),
    *(errno.ECONNRESET, errno.ENOLINK, errno.EREMOTEIO),
)
PASSING = (*map(os.strerror, _PASSING), "there is no room", NOT_STARTED)


@dataclass(frozen=True)
class Refusal:
    """An error that can be stored and raised again elsewhere.

    Parameters
    ----------
    what, where, todo
        Same as in `C3S3Error`.
    kind
        Name of the error's class.
    step
        The step of the case in which it was raised.
    detail
        The traceback of an unexpected error; written to the journal, never to the terminal.
    """

    what: str
    where: str | None
    todo: str | None
    kind: str
    step: str
    detail: str | None = None

    @classmethod
    def of(cls, error: C3S3Error, step: str, detail: str | None = None, scan: Path | None = None) -> Refusal:
        """Return the refusal of an error; a file in the scan's folder is recorded as that folder."""
        where = None if error.where is None else _place(error.where, scan)
        return cls(error.what, where, error.todo, _public_kind(error), step, detail)

    @property
    def ends_the_batch(self) -> bool:
        """Whether the next case would be computed and then fail in the same way: nothing can be written."""
        return self.kind == StorageError.__name__

    @property
    def final(self) -> bool:
        """Whether the error would recur with the same scan."""
        lack = self.kind == MemoryLimitError.__name__ or self.what.startswith(NO_MEMORY)
        of_the_scan = self.step in OF_THE_SCAN or self.kind == DomainError.__name__
        return of_the_scan and not lack and not any(text in self.what for text in PASSING)

    def error(self) -> C3S3Error:
        """Return the error, to be raised."""
        kind: Any = getattr(errors, self.kind, None)  # a damaged journal may have any name here
        known = isinstance(kind, type) and issubclass(kind, C3S3Error)
        made: C3S3Error = (kind if known else InputError)(self.what, where=self.where, todo=self.todo)
        return made


def _public_kind(error: C3S3Error) -> str:
    """Return the name of the error's class; for a kind of `InputError` of one module, that of its base."""
    is_public = getattr(errors, type(error).__name__, None) is type(error)
    return InputError.__name__ if isinstance(error, InputError) and not is_public else type(error).__name__


@dataclass(frozen=True)
class Outcome:
    """The outcome of one case, finished or not.

    Parameters
    ----------
    case
        Name of the case.
    scan
        Path of the scan.
    row
        Results of the prediction; None if the case failed.
    refusal
        Reason of the failure; None if there is none.
    inputs
        `scan`, and `truth` where there was one -> sha256.
    outputs
        File name in the output folder -> sha256.
    seconds
        Step -> wall seconds, of the steps that were finished.
    earlier
        sha256 -> name of each file that earlier runs wrote for the case and this run replaced or removed.
    series
        Series in a DICOM study, same as `Case.series`.
    passed_over
        Whether a refusal by the domain check is no failure: another series of the study was segmented, or
        the study is not finished.
    """

    case: str
    scan: str
    row: PredictionRow | None = None
    refusal: Refusal | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    earlier: dict[str, str] = field(default_factory=dict)
    series: str = ""
    passed_over: bool = False

    @property
    def verdict(self) -> str:
        """The verdict of the domain check, as `DomainCheck.level`; "" if the check was not reached."""
        if self.row is not None:
            return self.row.verdict
        return "refuse" if self.out_of_domain else ""

    @property
    def out_of_domain(self) -> bool:
        """Whether the case failed because the domain check refused the scan."""
        return self.refusal is not None and self.refusal.kind == DomainError.__name__

    @property
    def failure(self) -> Failure | None:
        """The row of the case in the table if it failed, else None."""
        if self.refusal is None or self.passed_over:
            return None
        return Failure(self.case, self.refusal.error().told, self.verdict)

    @property
    def skipped(self) -> Skipped | None:
        """The reason why the case was passed over, if it was, else None."""
        return Skipped(self.case, self.refusal.what) if self.passed_over and self.refusal else None


def _place(where: str | Path, scan: Path | None) -> str:
    """Return a path as text; that of a file in the scan's folder has the folder as public version."""
    if scan is None or where == scan:
        return str(where)
    # Unlike Path.is_dir, os.path.isdir does not raise if the file server has gone.
    folder = scan if os.path.isdir(scan) else scan.parent if is_dicom(scan) else None
    if folder is None or folder not in Path(where).parents:
        return str(where)
    return Told.of(str(where), str(scan))


def trace_of(error: Exception, *, quote: bool = True) -> str:
    """Return the traceback for the journal, without the text of errors if that may not be kept."""
    if quote:
        return "".join(traceback.format_exception(error))
    lines = [
        *traceback.format_tb(error.__traceback__),
        f"{type(error).__name__} (its text may quote the scan)\n",
    ]
    return "".join(lines)


def may_be_quoted(scan: Path) -> bool:
    """Return whether errors of libraries about a scan may be kept as they are."""
    try:
        return not (scan.is_dir() or is_zip(scan) or is_dicom(scan))
    except OSError:
        return False


@dataclass(frozen=True)
class Loaded:
    """A scan that was read, with its truth, the hashes of both, and the results of later steps.

    `mask` is the mask of an earlier run, on the scan's grid, if only reports are to be made.
    """

    task: CaseTask
    scan: Volume
    truth: Volume | None
    inputs: dict[str, str]
    seconds: dict[str, float]
    checked: CheckedScan | None = None
    prepared: PreparedScan | None = None
    mask: Volume | None = None


@dataclass(frozen=True)
class Predicted:
    """A scan with its prediction."""

    loaded: Loaded
    prediction: Prediction
    seconds: dict[str, float]
