"""Read and check the cases of a run once and keep them in memory; training cases on the model's grid."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from c3s3_seg.bundle import Task
from c3s3_seg.bundle.preprocessing import refuse_flat
from c3s3_seg.dataset import DataSet
from c3s3_seg.dataset.check.case_faults import refuse_defects, refuse_scaled, values_in
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask

Teach = Callable[[str, Volume], Tensor | None]  # case, scan -> (C, X, Y, Z) on the model's grid, or None


@dataclass(frozen=True)
class TrainingCase:
    """A training case: one scan on the model's grid, with its targets.

    Parameters
    ----------
    stack
        (1 + C, X, Y, Z) float32: network input, then the soft target of each class, background
        first. Without labels: (1, X, Y, Z). The targets of a teacher, if there is one, come last.
    foreground
        (n, 3) indices of foreground voxels; empty without labels and without a teacher.
    by_label
        Name -> the indices of each label that has a voxel. Of a label in the mask that fills no voxel by
        half, these are the voxels of which it fills most.
    taught
        Number of layers at the end of `stack` that are a teacher's: C, or 0.
    deviation
        Standard deviation of the network input over the scan: 1 by `zscore`, less in a window.
    spacing_mm
        (3,) spacing of `stack`.
    values
        Values in the mask, except 0.
    lowest
        Smallest intensity of the scan, in the scan's own unit.
    """

    stack: Tensor
    foreground: Tensor
    spacing_mm: Tensor
    values: tuple[int, ...] = ()
    lowest: float = 0.0
    by_label: Mapping[str, Tensor] = field(default_factory=dict)
    taught: int = 0
    deviation: float = 1.0

    @property
    def nbytes(self) -> int:
        """The memory that the case takes, in bytes."""
        return sum(x.nbytes for x in (self.stack, self.foreground, *self.by_label.values()))

    def without_labels(self) -> TrainingCase:
        """Return the case without labels: the scan, in shared memory, or a copy with a teacher's targets."""
        stack = self.stack[:1]
        if self.taught:
            stack = torch.cat([stack, self.stack[-self.taught :]])
        return TrainingCase(
            stack, self.foreground[:0], self.spacing_mm, taught=self.taught, deviation=self.deviation
        )


@dataclass(frozen=True)
class ValidationCase:
    """A scan and its truth on the scan's own grid."""

    name: str
    scan: Volume
    truth: Volume

    @property
    def nbytes(self) -> int:
        """The memory that the case takes, in bytes."""
        return self.scan.array.nbytes + self.truth.array.nbytes


def read_case(
    data: DataSet, name: str, task: Task, *, labelled: bool, teach: Teach | None = None
) -> TrainingCase:
    """Read a scan, and its mask if `labelled`, and resample them to the model's grid.

    The targets of a teacher are appended; in an unlabelled case they give the foreground.

    Raises
    ------
    InputError
        If a file cannot be read, `c3s3-seg check` would report the case as an error, or its mask holds 255
        alone, a value that no label has.
    """
    scan = load(data.scan(name))
    mask = load_mask(data.mask(name), grid=scan.geometry) if labelled else None
    refuse_defects(scan, mask, data.labels, required=not data.empty_masks)
    if mask is not None:
        refuse_scaled(mask, task, data)
    on_grid = task.recipe.to_model(scan)
    refuse_flat(scan, on_grid)
    layers = [torch.from_numpy(on_grid.array)[None]]
    if mask is not None:
        layers.append(occupied(mask, task))
    taught = teach(name, scan) if teach is not None else None
    if taught is not None:
        layers.append(taught)
    values = () if mask is None else tuple(values_in(mask.array))
    foreground, by_label = _foreground(layers[1] if len(layers) > 1 else None, task, values)
    spacing = torch.tensor(on_grid.geometry.spacing_mm, dtype=torch.float32)
    return TrainingCase(
        torch.cat(layers),
        foreground,
        spacing,
        values,
        float(scan.array.min()),
        by_label,
        0 if taught is None else len(taught),
        # Exactly 1 by `zscore`, not that of the resampled scan: noise stays as in earlier runs.
        1.0 if task.recipe.intensity.rule == "zscore" else float(on_grid.array.std(dtype=np.float64)),
    )


def occupied(mask: Volume, task: Task) -> Tensor:
    """Return each class's share of each voxel on the model's grid: (C, X, Y, Z), background first."""
    target = torch.from_numpy(task.recipe.occupancy(mask, tuple(x.value for x in task.labels)))
    return torch.cat([1 - target.sum(dim=0, keepdim=True), target])


def _foreground(
    target: Tensor | None, task: Task, values: tuple[int, ...]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the voxels (n, 3) that labels fill by more than half, and those of each label that has any.

    A label of `values`, those in the mask, has voxels even where it is thinner than half a voxel.
    """
    if target is None:
        return torch.zeros(0, 3, dtype=torch.long), {}
    inside = target[1:].sum(dim=0) > 0.5
    foreground = inside.nonzero()
    largest = target[1:].argmax(dim=0)[inside]
    voxels = {label.name: foreground[largest == n] for n, label in enumerate(task.labels)}
    thin = {
        label.name: _fullest(target[1 + n])
        for n, label in enumerate(task.labels)
        if label.value in values and not len(voxels[label.name])
    }
    for found in thin.values():
        inside[tuple(found.T)] = True
    return inside.nonzero(), {name: found for name, found in (voxels | thin).items() if len(found)}


def _fullest(share: Tensor) -> Tensor:
    """Return the voxels (n, 3) of which a label fills more than half of the share that it has at most."""
    return (share > share.max() / 2).nonzero()


def read_validation(data: DataSet, names: tuple[str, ...], task: Task) -> list[ValidationCase]:
    """Read scans and truths on the scans' own grids, for the predictor.

    Raises
    ------
    InputError
        If a file cannot be read, `c3s3-seg check` would report the case as an error, a mask holds 255 alone
        and no label is 255, or the recipe cannot prepare the scan: else the first validation would refuse it,
        hours into a run.
    """
    cases = []
    for name in names:
        scan = load(data.scan(name))
        truth = load_mask(data.mask(name), grid=scan.geometry)
        refuse_defects(scan, truth, data.labels, required=False)
        refuse_scaled(truth, task, data)
        refuse_flat(scan, task.recipe.to_model(scan))
        cases.append(ValidationCase(name, scan, truth))
    return cases
