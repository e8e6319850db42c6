"""Teachers with targets segmented before: a bundle's soft targets, or masks as `predict` writes them.

A bundle's probabilities are computed once for each case, with the same predictor that ships, and kept in
the run's folder. Running the networks on each crop instead costs more within some hundred steps, and predicts
a crop, not the whole scan in overlapping tiles (figures: benchmarks/training-log.md).
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

FOLDER = "teacher"  # inside the run's folder
PROBABILITY = "probability"


class Teacher(Protocol):
    """A callable: case and scan -> targets (C, X, Y, Z) on the model's grid, or None."""

    record: dict[str, Any]  # description of the teacher for the history and the card

    def prepare(self, cases: Sequence[str]) -> None:
        """Prepare the targets of cases; called once, by one process, before they are requested."""

    def __call__(self, case: str, scan: Volume) -> Tensor | None:
        """Return the targets of one case."""


def open_teacher(
    config: TrainConfig, data: DataSet, splits: Splits, folder: Path, device: torch.device
) -> Teacher | None:
    """Return the teacher that a configuration names; None without one.

    Parameters
    ----------
    config
        Configuration of the run.
    data, splits
        Cases of the run.
    folder
        Folder of the run.
    device
        Device of a bundle's networks.

    Raises
    ------
    InputError
        If there is no such bundle, it is for another task, or a case does not have exactly one mask.
    """
    if config.teacher.bundle:
        return BundleTeacher(ModelBundle.find(config.teacher.bundle), config.task, data, folder, device)
    if config.teacher.masks:
        return MaskTeacher(Path(config.teacher.masks), config.task, data, splits.unlabelled)
    return None


class MaskTeacher:
    """A teacher with a mask for each unlabelled case.

    Parameters
    ----------
    folder
        Folder of CASE.nii.gz and the like.
    task
        Task with labels and grid.
    data
        Data set, whose labels masks may hold.
    cases
        Unlabelled cases.

    Raises
    ------
    InputError
        If a case has no mask, or more than one.
    """

    def __init__(self, folder: Path, task: Task, data: DataSet, cases: Sequence[str]) -> None:
        self.task, self.data = task, data
        self.files = {case: only_mask(folder, case) for case in cases}
        text = "".join(f"{case} {sha256(path)}\n" for case, path in sorted(self.files.items()))
        self.record = {"masks": str(folder), "cases": len(cases), "sha256": _digest(text)}

    def prepare(self, cases: Sequence[str]) -> None:
        """Do nothing."""

    def __call__(self, case: str, scan: Volume) -> Tensor | None:
        """Return the share of each class per voxel; None for a labelled case, whose label is better."""
        if case not in self.files:
            return None
        mask = load_mask(self.files[case], grid=scan.geometry)
        refuse_defects(scan, mask, self.data.labels, required=not self.data.empty_masks)
        return occupied(mask, self.task)


def only_mask(folder: Path, case: str) -> Path:
    """Return the file of a case's mask in a teacher's folder.

    Raises
    ------
    InputError
        If there is none, or there are several.
    """
    found = mask_files(folder, case)
    if len(found) != 1:
        what = f"found {len(found)} masks of the unlabelled case '{case}', wanted one"
        todo = "Write one for each unlabelled case with c3s3-seg predict, or leave the case out of the index"
        raise InputError(what, where=folder, todo=todo)
    return found[0]


class BundleTeacher:
    """A teacher with the mean probabilities of all networks of a bundle, Gaussian tiles; kept with the run.

    Each kept file states its networks and scan: the probabilities are computed again if these differ, or
    if the file is damaged.

    Parameters
    ----------
    bundle
        The model, whose hashes were checked when the bundle was loaded.
    task
        Task of the run.
    data
        Data set with the scans.
    folder
        Folder of the run.
    device
        Device of the networks.

    Raises
    ------
    InputError
        If the bundle is for another task.
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
        """Segment the cases whose probabilities are not kept yet."""
        make_own_folder(self.folder)
        missing = [case for case in cases if self._kept(case) is None]
        if missing:
            predictor = self._predictor()
            for case in missing:
                self._keep(case, self._segment(predictor, load(self.data.scan(case))))

    def __call__(self, case: str, scan: Volume) -> Tensor | None:
        """Return the probabilities, background first; their sum over the classes is 1.

        Raises
        ------
        InputError
            If no probabilities of the case are kept, or not on its grid.
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
        # A training scan is in the domain by definition, and is used whole.
        return Predictor(replace(self.task, domain=None), backends, tiled(Settings(), "accurate"))

    def _segment(self, predictor: Predictor, scan: Volume) -> Tensor:
        """Return the labels' probabilities on the model's grid: (C - 1, X, Y, Z) float16."""
        prepared = predictor.prepare(predictor.check(scan))
        found = np.zeros((self.task.classes, *prepared.shape), np.float32)
        for slab in predictor.network(prepared).slabs:
            where = [slice(None)] * 4
            where[1 + slab.axis] = slice(slab.start, slab.stop)
            found[tuple(where)] = arrays_of(slab.values).host(slab.values)  # on CUDA, values are GPU tensors
        return torch.from_numpy(found[1:]).half()

    def _path(self, case: str) -> Path:
        return self.folder / f"{case}.safetensors"

    def _stamp(self, case: str, probability: Tensor) -> str:
        """Return a hash of networks, grid, scan and numbers: the file format has no own checksum."""
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
        """Return a case's kept probabilities; None if missing, damaged, or of other networks or scans."""
        from safetensors import SafetensorError, safe_open

        path = self._path(case)
        if not path.is_file():  # opening a FIFO would wait for its other end
            return None
        with suppress(SafetensorError, OSError, KeyError), safe_open(path, framework="pt") as file:
            found: Tensor = file.get_tensor(PROBABILITY)
            stated = (file.metadata() or {}).get("of")
            if found.dtype == torch.float16 and stated == self._stamp(case, found):
                return found
        return None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
