"""Settings of a batch: which model to use, which files to write, how to process the cases."""

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
from c3s3_seg.inference.backends.select import describe
from c3s3_seg.io import Case, Reading
from c3s3_seg.io.dicom_objects.codes import Maker
from c3s3_seg.io.formats import mask_path
from c3s3_seg.report.rows import PredictionRow
from c3s3_seg.system.choices import MaskFormat
from c3s3_seg.system.hardware import available_processors
from c3s3_seg.system.names import absolute
from c3s3_seg.system.schema import dump
from c3s3_seg.system.shard import Shard

STARTER_BYTES = 100_000_000  # memory of the process that starts workers and keeps the journal: 60 MB measured
NOT_IN_THE_OUTPUT = ("out", "origin")


@dataclass(frozen=True)
class Job:
    """The options for processing each case.

    Parameters
    ----------
    out
        Folder for masks, JSON files and summary.csv.
    suffix
        File format of masks; probabilities are written as NIfTI if the mask is a DICOM object.
    truth
        A file or a folder of masks to score against.
    preview
        Whether to draw each case as `<case>.png`.
    origin
        Provenance of the masks, for the JSON: bundle, hashes, backend, settings.
    html
        Whether to write a page of each case as `<case>.html`.
    secondary_capture
        Whether to write the picture as a DICOM Secondary Capture, `<case>.sc.dcm`.
    deterministic
        Whether times are left out of the files, so that a second run writes the same bytes.
    reading
        Which series of a folder to read, and which defects may be repaired.
    roi
        The region of interest, same as in `Predictor`.
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
        """The maker of the masks, as DICOM objects state it."""
        parts = self.origin or {}
        serial = primary_weights(parts) or "0"
        return Maker(str(parts.get("bundle", "c3s3-seg")), serial, dated=not self.deterministic)

    def mask_of(self, case: str) -> Path:
        """Return the path of the mask of a case."""
        return mask_path(self.out, case, self.suffix)

    def request(self) -> dict[str, Any]:
        """Return the request as JSON: a case that was finished under another request is not finished."""
        asked: dict[str, Any] = dump(self)
        asked["truth"] = self.truth is not None  # the hash of a truth tells which one it was
        # The hash of the scan also tells which series it was; a set has no order of its own.
        asked["reading"] = {"repair": sorted(asked["reading"]["repair"])}
        return {f.name: asked[f.name] for f in fields(self) if f.name not in NOT_IN_THE_OUTPUT}


@dataclass(frozen=True)
class Kept:
    """The results of an earlier run for a case to which reports can be added without the network.

    Parameters
    ----------
    row
        The recorded result.
    mask
        Name of the mask in the output folder.
    mask_sha256, scan_sha256
        Hashes of the mask, and of the scan that was segmented.
    outputs
        Files that stay as they are -> sha256: the mask, unless requested in another format, and maps.
    """

    row: PredictionRow
    mask: str
    mask_sha256: str
    scan_sha256: str
    outputs: dict[str, str]


@dataclass(frozen=True)
class CaseTask:
    """One case that is to be processed.

    Parameters
    ----------
    case
        Name of the case and location of its scan.
    truth
        The mask to score against.
    attempt
        Number of earlier attempts; a case whose process died is processed alone.
    kept
        The existing results that stay, if only reports are to be made; None: the case is segmented.
    """

    case: Case
    truth: Path | None = None
    attempt: int = 0
    kept: Kept | None = None

    @property
    def place(self) -> str:
        """The absolute path of the scan."""
        return absolute(self.case.path)


@dataclass(frozen=True)
class Model:
    """A description of how to open the predictor, in this process or in another one.

    Parameters
    ----------
    bundle
        Folder of the bundle.
    backend, settings, ensemble
        Same as in `c3s3_seg.open_predictor`. Without a number of threads, the runtime chooses in one
        process, and each of several workers gets a fair share of the processors.
    deterministic
        Whether to use only algorithms that give the same bits twice, and one thread if no number is given.
    """

    bundle: Path
    backend: BackendRequest = field(default_factory=BackendRequest)
    settings: Settings = field(default_factory=Settings)
    ensemble: bool = False
    deterministic: bool = False

    def with_threads(self, threads: int) -> Model:
        """Return the same model with this number of threads."""
        return replace(self, backend=replace(self.backend, threads=threads))

    def among(self, processes: int) -> Model:
        """Return the model for one of several processes on this machine, with its share of the resources.

        The share of the memory is that of what the process leaves that starts these processes. A number of
        threads is kept if one is given; otherwise it is 1 for a deterministic model, else a fair share.

        Raises
        ------
        InputError
            If no memory is left for the processes.
        """
        memory_bytes = self.settings.memory_bytes
        if memory_bytes is not None:
            memory_bytes -= STARTER_BYTES
            if memory_bytes < processes:
                what = (
                    f"{processes} workers and the process that starts them do not fit into the --max-memory"
                )
                raise InputError(what, todo="Allow more, or give no --workers")
        fair = 1 if self.deterministic else max(1, available_processors() // processes)
        processes *= self.settings.processes
        settings = replace(self.settings, memory_bytes=memory_bytes, processes=processes)
        return replace(self.with_threads(self.backend.threads or fair), settings=settings)

    def open(self, bundle: ModelBundle | None = None) -> tuple[Predictor, dict[str, Any]]:
        """Return the loaded predictor and the provenance of its masks.

        Parameters
        ----------
        bundle
            The model's bundle if it was just loaded; None: it is loaded here.

        Raises
        ------
        C3S3Error
            If the bundle is incomplete or damaged, or the runtime is unavailable or not deterministic.
        """
        bundle = bundle or ModelBundle.load(self.bundle)
        model = self.with_threads(1) if self.deterministic and self.backend.threads is None else self
        predictor = open_predictor(
            bundle, backend=model.backend, settings=self.settings, ensemble=self.ensemble
        )
        if self.deterministic:
            from c3s3_seg.system.process import only_repeatable

            for backend in predictor.backends:
                only_repeatable(backend.name, describe(backend)["device"])
        return predictor, origin(bundle, predictor)


def sendable(value: Any) -> Any:
    """Return a value for `json.dumps(default=...)`: paths unchanged, Unicode or not; sets sorted."""
    return sorted(value) if isinstance(value, frozenset) else os.fspath(value)


@dataclass(frozen=True)
class BatchPlan:
    """The way in which many cases are processed.

    Parameters
    ----------
    workers
        Number of processes that each load the model once, at most one for each case. 0: this process does the
        work, and starts no other.
    shard
        Selection of every n-th case, so that several machines can share a folder.
    limit
        Largest number of unfinished cases to process.
    retry_failed
        Whether cases that failed before are tried again although neither scan nor settings changed.
    cluster
        `local`, or the address of the Dask scheduler on which the cases are processed.
    command
        The command line, for the provenance.
    case_timeout_s
        Seconds that a case may take; None: no limit. A limit needs at least one worker, and on a cluster
        a process beside each of its workers: a call into a library ends only with its process.

    Raises
    ------
    InputError
        If `case_timeout_s` is not a positive, finite number.
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


def primary_weights(made_with: Mapping[str, Any]) -> str:
    """Return the first 16 digits of the SHA-256 of the primary network's weights; "" if none is recorded.

    Parameters
    ----------
    made_with
        Provenance as returned by `origin`, which names the weights of the primary network first.
    """
    return str(next(iter(made_with.get("weights_sha256", {}).values()), ""))[:16]


def _hashes(bundle: ModelBundle, members: list[tuple[ModelBundle, Network]]) -> dict[str, str]:
    """Return file -> sha256 of weights and graphs, the weights of the primary network first.

    The names of a linked bundle's files include that of its folder.
    """
    names = {home.folder: "" if home is bundle else f"../{home.folder.name}/" for home, _ in members}
    return {
        names[home.folder] + file: home.manifest.files[file]
        for home, network in members
        for file in (network.weights, network.graph)
        if file in home.manifest.files
    }


def _task_sha256(bundle: ModelBundle, members: list[tuple[ModelBundle, Network]]) -> str:
    """Return the hash of labels, grid, domain and networks, which decide the masks as the weights do."""
    parts = [dump(bundle.task), *(dump(network) for _, network in members)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def refuse_other_model(wanted: Mapping[str, Any], found: Mapping[str, Any], where: Path | str) -> None:
    """Raise if another process has opened another model than the one that the run is recorded with.

    Parameters
    ----------
    wanted, found
        Provenance of both, as returned by `origin`.
    where
        The place that the error names.

    Raises
    ------
    InputError
        If weights or labels differ: the folder of the bundle was written anew, or is another one there.
    """
    keys = ("bundle", "weights_sha256", "compared_sha256", "task_sha256")
    if any(wanted.get(key) != found.get(key) for key in keys):
        what = "the model that a worker has opened is not the one that this run began with"
        todo = "Leave the folder of the bundle as it is while a run uses it, and the same on all machines"
        raise InputError(what, where=where, todo=todo)


def origin(bundle: ModelBundle, predictor: Predictor) -> dict[str, Any]:
    """Return the provenance of the masks, for the JSON of each case."""
    members = bundle.members() if len(predictor.backends) > 1 else [(bundle, bundle.networks[0])]
    # The other networks are only compared with these (--uncertainty), and change no mask.
    leading = members[: predictor.comparison.leading]
    weights = _hashes(bundle, leading)
    compared = {name: known for name, known in _hashes(bundle, members).items() if name not in weights}
    return {
        "bundle": bundle.task.name,
        "weights_sha256": weights,
        "task_sha256": _task_sha256(bundle, leading),
        **({"compared_sha256": compared} if compared else {}),
        **predictor.record(),
    }
