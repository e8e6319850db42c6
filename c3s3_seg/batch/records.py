"""A case on its way through the steps, and what became of it: the record that goes to the journal."""

from __future__ import annotations

import errno
import os
import traceback
from dataclasses import dataclass, field
from pathlib import Path

from c3s3_seg import errors
from c3s3_seg.batch.job import CaseTask
from c3s3_seg.errors import NO_MEMORY, C3S3Error, InputError, MemoryLimitError, StorageError, Told
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.domain_check import DomainError
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.inference.predictor import CheckedScan, PreparedScan
from c3s3_seg.io import Skipped
from c3s3_seg.io.detect import is_dicom, is_zip
from c3s3_seg.report.rows import Failure, PredictionRow

STOPPED = "stopped"  # the step of a case that was not done, because the run ended before
# A failure in one of these steps is the scan's own: it would fail again. The others are the machine's.
OF_THE_SCAN = ("load", "check", "prepare")
# But for what the system says where it could not read or unpack a scan that may be good: a file server that
# does not answer, too many open files, a full disk for archives.
_PASSING = (
    *(errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EAGAIN, errno.EBUSY, errno.ENODEV, errno.ENXIO),
    *(errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS),
    *(errno.ENETDOWN, errno.ENETUNREACH, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENOTCONN),
    *(errno.ECONNRESET, errno.ENOLINK, errno.EREMOTEIO),
)
PASSING = (*map(os.strerror, _PASSING), "there is no room")


@dataclass(frozen=True)
class Refusal:
    """An error that can be written down and raised again somewhere else.

    Parameters
    ----------
    what, where, todo
        As in `C3S3Error`.
    kind
        The name of its class.
    step
        The step of the case in which it was raised.
    detail
        The traceback, for an error that nobody foresaw; goes to the journal, never to the terminal.
    """

    what: str
    where: str | None
    todo: str | None
    kind: str
    step: str
    detail: str | None = None

    @classmethod
    def of(cls, error: C3S3Error, step: str, detail: str | None = None, scan: Path | None = None) -> Refusal:
        """From an error of ours; of a file in the folder of a scan the folder is named."""
        where = None if error.where is None else _place(error.where, scan)
        return cls(error.what, where, error.todo, type(error).__name__, step, detail)

    @property
    def ends_the_batch(self) -> bool:
        """Whether the next case would be computed and then fail in the same way: nothing can be written."""
        return self.kind == StorageError.__name__

    @property
    def final(self) -> bool:
        """Whether it would come again with the same scan."""
        lack = self.kind == MemoryLimitError.__name__ or self.what.startswith(NO_MEMORY)
        return self.step in OF_THE_SCAN and not lack and not any(text in self.what for text in PASSING)

    def error(self) -> C3S3Error:
        """The error, to be raised."""
        kind: type[C3S3Error] = getattr(errors, self.kind, InputError)
        return kind(self.what, where=self.where, todo=self.todo)


@dataclass(frozen=True)
class Outcome:
    """One case that was finished, or not.

    Parameters
    ----------
    case
        Its name.
    scan
        Where the scan was.
    row
        What was predicted; None if it failed.
    refusal
        Why it failed; None if it did not.
    inputs
        `scan`, and `truth` where there was one -> sha256.
    outputs
        File name in the output folder -> sha256.
    seconds
        Step -> wall seconds.
    earlier
        sha256 -> file name of what earlier runs wrote for the case and this one has replaced or removed.
    series
        Of a DICOM study the series, as `Case.series` has it.
    passed_over
        Whether it is no failure that the domain check refused it: another series of its study was segmented.
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
        """Of the domain check: `pass`, `warn` or `refuse`; "" where it was not reached."""
        if self.row is not None:
            return self.row.verdict
        return "refuse" if self.out_of_domain else ""

    @property
    def out_of_domain(self) -> bool:
        """Whether it failed because the domain check refused the scan."""
        return self.refusal is not None and self.refusal.kind == DomainError.__name__

    @property
    def failure(self) -> Failure | None:
        """Its row in the table, where it failed."""
        failed = self.refusal is not None and not self.passed_over
        return Failure(self.case, self.refusal.error().told) if failed and self.refusal else None

    @property
    def skipped(self) -> Skipped | None:
        """Why it was passed over, where it was."""
        return Skipped(self.case, self.refusal.what) if self.passed_over and self.refusal else None


def _place(where: str | Path, scan: Path | None) -> str:
    """Of a file in the folder of a scan two versions: its own path, and that of the folder."""
    if scan is None or where == scan:
        return str(where)
    folder = scan if scan.is_dir() else scan.parent if is_dicom(scan) else None
    if folder is None or folder not in Path(where).parents:
        return str(where)
    return Told.of(str(where), str(scan))


def trace_of(error: Exception, *, quote: bool = True) -> str:
    """The traceback, for the journal; without the text of the errors where it may not be kept."""
    if quote:
        return "".join(traceback.format_exception(error))
    lines = [
        *traceback.format_tb(error.__traceback__),
        f"{type(error).__name__} (its text may quote the scan)\n",
    ]
    return "".join(lines)


def may_be_quoted(scan: Path) -> bool:
    """Whether errors of libraries about a scan may be kept as they are."""
    try:
        return not (scan.is_dir() or is_zip(scan) or is_dicom(scan))
    except OSError:
        return False


@dataclass(frozen=True)
class Loaded:
    """A scan that was read and found fit, with its truth and the hashes of both.

    `mask` is that of an earlier run, on the scan's grid, where only reports are to be made.
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
    """A scan with its mask."""

    loaded: Loaded
    prediction: Prediction
    seconds: dict[str, float]
