"""What was segmented before and teaches now: a bundle's soft targets, or masks as `predict` writes them.

A bundle's probabilities are computed once for each case, through the very predictor that ships, and kept in
the run's folder. To run the networks on each crop instead costs more within some hundred steps, and gives the
answer to a crop, not to the whole scan in overlapping tiles (figures: benchmarks/training-log.md).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from c3s3_seg.bundle import ModelBundle, Task
from c3s3_seg.dataset import DataSet, Splits
from c3s3_seg.dataset.check.case_faults import refuse_defects
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.arrays import arrays_of
from c3s3_seg.inference.backends.runtimes import TorchBackend, load_torch
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.inference.settings import Settings, tiled
from c3s3_seg.io import load, load_mask
from c3s3_seg.io.cases import mask_files
from c3s3_seg.io.hashes import scan_sha256
from c3s3_seg.system.files import make_own_folder, write_whole
from c3s3_seg.system.reading import sha256
from c3s3_seg.training.cases import occupied
from c3s3_seg.training.checks import check_task
from c3s3_seg.training.config import TrainConfig

FOLDER = "teacher"  # in the run's folder
PROBABILITY = "probability"


class Teacher(Protocol):
    """Gives targets for cases; called with a case and its scan: (C, X, Y, Z) on the model's grid, or None."""

    record: dict[str, Any]  # what it is, for the history and the card

    def prepare(self, cases: Sequence[str]) -> None:
        """What is to be done once, by one process, before targets are asked for."""

    def __call__(self, case: str, scan: Volume) -> Tensor | None:
        """The targets of one case."""


def open_teacher(
    config: TrainConfig, data: DataSet, splits: Splits, folder: Path, device: torch.device
) -> Teacher | None:
    """The teacher that a configuration names; None without one.

    Parameters
    ----------
    config
        The run.
    data, splits
        Its cases.
    folder
        The run's.
    device
        Where a bundle's networks run.

    Raises
    ------
    InputError
        If there is no such bundle, it does another task, or a case has no mask.
    """
    if config.teacher.bundle:
        return BundleTeacher(ModelBundle.find(config.teacher.bundle), config.task, data, folder, device)
    if config.teacher.masks:
        return MaskTeacher(Path(config.teacher.masks), config.task, data, splits.unlabelled)
    return None


class MaskTeacher:
    """A mask for each unlabelled case.

    Parameters
    ----------
    folder
        Holds CASE.nii.gz and the like.
    task
        Its labels and grid.
    data
        What masks may hold.
    cases
        The unlabelled ones.

    Raises
    ------
    InputError
        If a case has none, or more than one.
    """

    def __init__(self, folder: Path, task: Task, data: DataSet, cases: Sequence[str]) -> None:
        self.task, self.data = task, data
        self.files = {case: _only_mask(folder, case) for case in cases}
        text = "".join(f"{case} {sha256(path)}\n" for case, path in sorted(self.files.items()))
        self.record = {"masks": str(folder), "cases": len(cases), "sha256": _digest(text)}

    def prepare(self, cases: Sequence[str]) -> None:
        """Nothing."""

    def __call__(self, case: str, scan: Volume) -> Tensor | None:
        """The shares of each class; None of a labelled case, whose label says more."""
        if case not in self.files:
            return None
        mask = load_mask(self.files[case], grid=scan.geometry)
        refuse_defects(scan, mask, self.data.labels, required=not self.data.empty_masks)
        return occupied(mask, self.task)


def _only_mask(folder: Path, case: str) -> Path:
    found = mask_files(folder, case)
    if len(found) != 1:
        what = f"found {len(found)} masks of the unlabelled case '{case}', wanted one"
        todo = "Write one for each unlabelled case with c3s3-seg predict, or leave the case out of the index"
        raise InputError(what, where=folder, todo=todo)
    return found[0]


class BundleTeacher:
    """The mean probabilities of all networks of a bundle, Gaussian tiles; kept in a folder of the run.

    What is kept says which networks and which scan it is of: it is computed again where they are others, and
    where the file is damaged.

    Parameters
    ----------
    bundle
        The model; its hashes were checked when it was loaded.
    task
        That of the run.
    data
        The scans.
    folder
        The run's.
    device
        Where the networks run.

    Raises
    ------
    InputError
        If the bundle does another task.
    """

    def __init__(
        self, bundle: ModelBundle, task: Task, data: DataSet, folder: Path, device: torch.device
    ) -> None:
        check_task(task, bundle)
        self.bundle, self.task, self.data, self.device = bundle, bundle.task, data, device
        self.folder = folder / FOLDER
        weights = [home.manifest.files[network.weights] for home, network in bundle.members()]
        self.record = {"bundle": bundle.task.name, "networks": len(weights), "weights_sha256": weights}

    def prepare(self, cases: Sequence[str]) -> None:
        """Segment the cases that are not kept yet."""
        make_own_folder(self.folder)
        missing = [case for case in cases if self._kept(case) is None]
        if missing:
            predictor = self._predictor()
            for case in missing:
                self._keep(case, self._segment(predictor, load(self.data.scan(case))))

    def __call__(self, case: str, scan: Volume) -> Tensor | None:
        """Background first; the sum over the classes is 1.

        Raises
        ------
        InputError
            If nothing is kept of the case, or not for its grid.
        """
        found, shape = self._kept(case), self.task.recipe.grid(scan.geometry, scan.source.path).shape
        if found is None:
            raise InputError(f"no probabilities of '{case}' are kept", where=self.folder)
        if found.shape != (self.task.classes - 1, *shape):
            what = f"the kept probabilities have the shape {tuple(found.shape)}, and the scan {shape}"
            raise InputError(what, where=self._path(case), todo="Remove the file: it is made again")
        labels = found.float()
        return torch.cat([1 - labels.sum(dim=0, keepdim=True), labels])

    def _predictor(self) -> Predictor:
        nets = [load_torch(home, network).to(self.device) for home, network in self.bundle.members()]
        backends = [TorchBackend(net) for net in nets]
        # A scan that is trained on is in the domain by that, and is taken whole.
        return Predictor(replace(self.task, domain=None), backends, tiled(Settings(), "accurate"))

    def _segment(self, predictor: Predictor, scan: Volume) -> Tensor:
        """(C - 1, X, Y, Z) float16: the labels' probabilities on the model's grid."""
        prepared = predictor.prepare(predictor.check(scan))
        found = np.zeros((self.task.classes, *prepared.shape), np.float32)
        for slab in predictor.network(prepared).slabs:
            where = [slice(None)] * 4
            where[1 + slab.axis] = slice(slab.start, slab.stop)
            found[tuple(where)] = arrays_of(slab.values).host(slab.values)  # on CUDA they are tensors there
        return torch.from_numpy(found[1:]).half()

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}.safetensors"

    def _stamp(self, case: str, probability: Tensor) -> str:
        """Of networks, grid and scan, and of the numbers: the format has no checksum of its own."""
        recipe = repr((self.task.recipe, self.task.patch, self.task.label_values))
        scan = scan_sha256(self.data.scan(case))
        numbers = hashlib.sha256(probability.contiguous().numpy().tobytes()).hexdigest()
        about = [self.record["weights_sha256"], recipe, scan, list(probability.shape), numbers]
        return _digest(json.dumps(about))

    def _keep(self, case: str, probability: Tensor) -> None:
        from safetensors.torch import save

        content = save({PROBABILITY: probability}, metadata={"of": self._stamp(case, probability)})
        write_whole(self._path(case), content)

    def _kept(self, case: str) -> Tensor | None:
        """What is kept of a case; None where it is not there, damaged, or of something else."""
        from safetensors import SafetensorError, safe_open

        path = self._path(case)
        if not path.is_file():  # to open a FIFO would wait for its other end
            return None
        with suppress(SafetensorError, OSError, KeyError), safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(PROBABILITY)
            stated = (file.metadata() or {}).get("of")
            if found.dtype == torch.float16 and stated == self._stamp(case, found):
                return found
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
