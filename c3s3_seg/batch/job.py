"""What a batch is told: which model, what to write, how to go about it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError
from c3s3_seg.inference import BackendRequest, Predictor, Settings, open_predictor
from c3s3_seg.io import Case, Reading
from c3s3_seg.io.dicom_objects.codes import Maker
from c3s3_seg.io.formats import mask_path
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.system.choices import MaskFormat
from c3s3_seg.system.schema import dump
from c3s3_seg.system.shard import Shard

STARTER_BYTES = 100_000_000  # of a process that starts workers and keeps the journal: 60 MB were measured
NOT_IN_THE_OUTPUT = ("out", "origin")


@dataclass(frozen=True)
class Job:
    """What to do with each case.

    Parameters
    ----------
    out
        Folder for masks, JSON files and summary.csv.
    suffix
        File format of masks; probabilities go to NIfTI where it is a DICOM object.
    truth
        A file or a folder of masks to score against.
    preview
        Whether to draw each case as `<case>.png`.
    origin
        What produced the masks, for the JSON: bundle, hashes, backend, settings.
    html
        Whether to write a page of each case as `<case>.html`.
    secondary_capture
        Whether to write the picture as a DICOM Secondary Capture, `<case>.sc.dcm`.
    deterministic
        Whether times are left out of the files, so that a second run writes the same bytes.
    reading
        Which series of a folder, and what may be repaired.
    roi
        The region of interest, as `Predictor` takes it.
    allow_out_of_domain
        Whether to segment scans that the domain check refuses.
    """

    out: Path
    suffix: MaskFormat = "nii.gz"
    truth: Path | None = None
    preview: bool = False
    origin: dict[str, Any] | None = None
    html: bool = False
    secondary_capture: bool = False
    deterministic: bool = False
    reading: Reading = field(default_factory=Reading)
    roi: str | None = None
    allow_out_of_domain: bool = False

    @property
    def maker(self) -> Maker:
        """What makes the masks, as DICOM objects say it."""
        parts = self.origin or {}
        hashes = sorted(parts.get("weights_sha256", {}).values())
        serial = hashes[0][:16] if hashes else "0"
        return Maker(str(parts.get("bundle", "c3s3-seg")), serial, dated=not self.deterministic)

    def mask_of(self, case: str) -> Path:
        """Where the mask of a case goes."""
        return mask_path(self.out, case, self.suffix)

    def request(self) -> dict[str, Any]:
        """What was asked for, as JSON: a case that was finished under another request is not finished."""
        asked: dict[str, Any] = dump(self)
        asked["truth"] = self.truth is not None  # which truth it was is known by its hash
        # Which series it was is known by the hash of the scan, too; a set has no order of its own.
        asked["reading"] = {"repair": sorted(asked["reading"]["repair"])}
        return {f.name: asked[f.name] for f in fields(self) if f.name not in NOT_IN_THE_OUTPUT}


@dataclass(frozen=True)
class Kept:
    """What an earlier run made of a case, where reports can be added to it without the network.

    Parameters
    ----------
    row
        What was found.
    mask
        Name of its mask in the output folder.
    mask_sha256, scan_sha256
        Of the mask, and of the scan that was segmented.
    outputs
        Files that stay as they are -> sha256: the mask, unless it is wanted in another format, and maps.
    """

    row: PredictionRow
    mask: str
    mask_sha256: str
    scan_sha256: str
    outputs: dict[str, str]


@dataclass(frozen=True)
class CaseTask:
    """One case that is to be done.

    Parameters
    ----------
    case
        Its name and where its scan is.
    truth
        The mask to score against.
    attempt
        How often it was begun before; a case that has seen its process die is done alone.
    kept
        The mask that is there and stays, where only reports are to be made; None: the case is segmented.
    """

    case: Case
    truth: Path | None = None
    attempt: int = 0
    kept: Kept | None = None

    @property
    def place(self) -> str:
        """Where the scan is, whatever the current folder."""
        return os.path.abspath(self.case.path)


@dataclass(frozen=True)
class Model:
    """How to open the predictor, in this process or in another one.

    Parameters
    ----------
    bundle
        Folder of the bundle.
    backend, settings, ensemble
        As `c3s3_seg.open_predictor` takes them. No number of threads: the runtime's own choice in one
        process, a fair share of the processors in each of several workers.
    deterministic
        One thread unless told otherwise, and only algorithms that give the same bits twice.
    """

    bundle: Path
    backend: BackendRequest = field(default_factory=BackendRequest)
    settings: Settings = field(default_factory=Settings)
    ensemble: bool = False
    deterministic: bool = False

    def with_threads(self, threads: int) -> Model:
        """The same on so many threads."""
        return replace(self, backend=replace(self.backend, threads=threads))

    def among(self, processes: int) -> Model:
        """The same in one of so many processes on this machine: each may take its share of the memory.

        The process that starts them takes a little of it, too.

        Raises
        ------
        InputError
            If nothing is left for them.
        """
        memory_bytes = self.settings.memory_bytes
        if memory_bytes is not None:
            memory_bytes -= STARTER_BYTES
            if memory_bytes < processes:
                what = (
                    f"{processes} workers and the process that starts them do not fit into the --max-memory"
                )
                raise InputError(what, todo="Allow more, or give no --workers")
        processes *= self.settings.processes
        return replace(self, settings=replace(self.settings, memory_bytes=memory_bytes, processes=processes))

    def open(self, bundle: ModelBundle | None = None) -> tuple[Predictor, dict[str, Any]]:
        """The loaded predictor, and what the masks will have been made with.

        Parameters
        ----------
        bundle
            The model's, where it was loaded just now.

        Raises
        ------
        C3S3Error
            If the bundle is not whole, or the runtime cannot be had.
        """
        bundle = bundle or ModelBundle.load(self.bundle)
        model = self.with_threads(1) if self.deterministic and self.backend.threads is None else self
        predictor = open_predictor(
            bundle, backend=model.backend, settings=self.settings, ensemble=self.ensemble
        )
        if self.deterministic:
            from c3s3_seg.system.process import only_repeatable

            only_repeatable(predictor.backends[0].name)
        return predictor, origin(bundle, predictor)


def sendable(value: Any) -> Any:
    """For `json.dumps(default=...)`: paths as they are, be they Unicode or not; sets in a fixed order."""
    return sorted(value) if isinstance(value, frozenset) else os.fspath(value)


@dataclass(frozen=True)
class BatchPlan:
    """How to go about many cases.

    Parameters
    ----------
    workers
        Processes that each load the model once, at most one for each case. 0: this process does the work, and
        starts no other.
    shard
        Only each n-th case, so that several machines can share a folder.
    limit
        At most this many cases that are not finished yet.
    retry_failed
        Whether cases that failed before are tried again although neither scan nor settings changed.
    cluster
        `local`, or the address of a Dask scheduler: the cases are done there.
    command
        The command line, for the provenance.
    case_timeout_s
        Seconds that a case may take; None: as long as it wants. A limit takes at least one worker, and on a
        cluster a process beside each of its workers: what runs in a library ends with its process only.

    Raises
    ------
    InputError
        If the limit is no positive number.
    """

    workers: int = 0
    shard: Shard | None = None
    limit: int | None = None
    retry_failed: bool = False
    cluster: str | None = None
    command: tuple[str, ...] = ()
    case_timeout_s: float | None = None

    def __post_init__(self) -> None:
        if self.case_timeout_s is not None and not 0 < self.case_timeout_s < math.inf:
            raise InputError(f"found a time limit of {self.case_timeout_s} s, wanted a positive number")


def _hashes(bundle: ModelBundle, members: list[tuple[ModelBundle, Network]]) -> dict[str, str]:
    """File -> sha256, of weights and graphs; a linked bundle's file by its folder's name too."""
    names = {home.folder: "" if home is bundle else f"../{home.folder.name}/" for home, _ in members}
    return {
        names[home.folder] + file: home.manifest.files[file]
        for home, network in members
        for file in (network.weights, network.graph)
        if file in home.manifest.files
    }


def _task_sha256(bundle: ModelBundle, members: list[tuple[ModelBundle, Network]]) -> str:
    """Of the manifest's labels, grid, domain and networks: they decide the masks as the weights do."""
    parts = [dump(bundle.task), *(dump(network) for _, network in members)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def refuse_other_model(wanted: Mapping[str, Any], found: Mapping[str, Any], where: Path | str) -> None:
    """Refuse what another process has opened, unless it is the model that the run is recorded with.

    Parameters
    ----------
    wanted, found
        As `origin` gives them.
    where
        Of whom that is said.

    Raises
    ------
    InputError
        If weights or labels are others: the folder of the bundle was written anew, or is another one there.
    """
    if any(wanted.get(key) != found.get(key) for key in ("bundle", "weights_sha256", "task_sha256")):
        what = "the model that a worker has opened is not the one that this run began with"
        todo = "Leave the folder of the bundle as it is while a run uses it, and the same on all machines"
        raise InputError(what, where=where, todo=todo)


def origin(bundle: ModelBundle, predictor: Predictor) -> dict[str, Any]:
    """What will have produced the masks: for the JSON of each case."""
    members = bundle.members() if len(predictor.backends) > 1 else [(bundle, bundle.networks[0])]
    return {
        "bundle": bundle.task.name,
        "weights_sha256": _hashes(bundle, members),
        "task_sha256": _task_sha256(bundle, members),
        **predictor.record(),
    }
