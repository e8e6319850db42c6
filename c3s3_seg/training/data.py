"""Cases in memory on the model's grid, and batches drawn from them.

Every batch is a function of (seed, iteration) alone: a resumed run draws what an unbroken one
would have drawn, and several loaders could share the work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from c3s3_seg.bundle import Task
from c3s3_seg.bundle.preprocessing import refuse_flat
from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.dataset.check.case_faults import refuse_defects, values_in
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.io import load, load_mask
from c3s3_seg.training.augment import change_intensity, draw_geometry
from c3s3_seg.training.config import AugmentConfig, DataConfig, TrainConfig
from c3s3_seg.training.distributed import ProcessGroup
from c3s3_seg.training.folds import read_splits as read_splits

ALONE = ProcessGroup()


@dataclass(frozen=True)
class TrainingCase:
    """One scan on the model's grid.

    Parameters
    ----------
    stack
        (1 + C, X, Y, Z) float32: network input, then the soft target of each class, background
        first. Without labels: (1, X, Y, Z).
    foreground
        (n, 3) indices of foreground voxels; empty without labels.
    spacing_mm
        (3,) of this case.
    values
        In its mask, but 0.
    lowest
        The scan's smallest intensity, in its own unit.
    """

    stack: Tensor
    foreground: Tensor
    spacing_mm: Tensor
    values: tuple[int, ...] = ()
    lowest: float = 0.0

    def without_labels(self) -> TrainingCase:
        """The scan alone; shares the memory."""
        return TrainingCase(self.stack[:1], self.foreground[:0], self.spacing_mm)


@dataclass(frozen=True)
class ValidationCase:
    """A scan and its truth as they are on disk."""

    name: str
    scan: Volume
    truth: Volume


@dataclass(frozen=True)
class Views:
    """What a method wants in a batch: crops of each kind, and independent intensity changes of each."""

    labelled: int
    unlabelled: int = 0
    count: int = 1


@dataclass(frozen=True)
class Batch:
    """Labelled crops first, then unlabelled.

    Parameters
    ----------
    views
        Each (L + U, 1, X, Y, Z) float32: the same crops under different intensities.
    target
        (L, C, X, Y, Z) float32 in [0, 1], sums to 1 over C.
    """

    views: tuple[Tensor, ...]
    target: Tensor

    @property
    def labelled(self) -> int:
        """L."""
        return len(self.target)


def read_case(data: DataSet, name: str, task: Task, *, labelled: bool) -> TrainingCase:
    """Read a scan, and its mask if it is a labelled one, onto the model's grid.

    Raises
    ------
    InputError
        If a file cannot be read, or `c3s3-seg check` would call the case an error.
    """
    scan = load(data.scan(name))
    mask = load_mask(data.mask(name), grid=scan.geometry) if labelled else None
    refuse_defects(scan, mask, data.labels, required=not data.empty_masks)
    on_grid = task.recipe.to_model(scan)
    refuse_flat(scan, on_grid)
    layers = [torch.from_numpy(on_grid.array)[None]]
    foreground = torch.zeros(0, 3, dtype=torch.long)
    if mask is not None:
        target = torch.from_numpy(task.recipe.occupancy(mask, tuple(x.value for x in task.labels)))
        layers += [1 - target.sum(dim=0, keepdim=True), target]
        foreground = (target.sum(dim=0) > 0.5).nonzero()
    spacing = torch.tensor(on_grid.geometry.spacing_mm, dtype=torch.float32)
    values = () if mask is None else tuple(values_in(mask.array))
    return TrainingCase(torch.cat(layers), foreground, spacing, values, float(scan.array.min()))


def read_validation(data: DataSet, names: tuple[str, ...]) -> list[ValidationCase]:
    """Scans and truths on their own grids, for the predictor."""
    cases = []
    for name in names:
        scan = load(data.scan(name))
        truth = load_mask(data.mask(name), grid=scan.geometry)
        refuse_defects(scan, truth, data.labels, required=False)
        cases.append(ValidationCase(name, scan, truth))
    return cases


class Sampler:
    """Draws batches.

    Parameters
    ----------
    labelled, unlabelled
        The cases.
    task, data, augment
        Patch, crops and changes.
    seed
        With the iteration and a crop's number it decides every crop.
    group
        Which share of each batch is drawn here.
    """

    def __init__(
        self,
        labelled: list[TrainingCase],
        unlabelled: list[TrainingCase],
        *,
        task: Task,
        data: DataConfig,
        augment: AugmentConfig,
        seed: int,
        group: ProcessGroup = ALONE,
    ) -> None:
        self.labelled, self.unlabelled = labelled, unlabelled
        self.task, self.data, self.augment = task, data, augment
        self.seed, self.group = seed, group

    @classmethod
    def of(cls, config: TrainConfig, data: DataSet, splits: Splits, group: ProcessGroup = ALONE) -> Sampler:
        """Read the cases that a run learns from.

        Raises
        ------
        InputError
            If a case cannot be read, or the method wants unlabelled cases and there are none.
        """
        labelled = [read_case(data, name, config.task, labelled=True) for name in splits.labelled]
        names = splits.unlabelled if config.method != "supervised" else ()
        unlabelled = [read_case(data, name, config.task, labelled=False) for name in names]
        if config.method != "supervised" and config.data.unlabelled_stream == "all":
            unlabelled += [case.without_labels() for case in labelled]
        if config.method != "supervised" and not unlabelled:
            todo = "Set method = 'supervised', or data.unlabelled_stream = 'all'"
            raise InputError("names no unlabelled case", where=data.folder / INDEX, todo=todo)
        return cls(
            labelled,
            unlabelled,
            task=config.task,
            data=config.data,
            augment=config.augment,
            seed=config.run.seed,
            group=group,
        )

    def batch(self, iteration: int, views: Views) -> Batch:
        """The batch of one iteration, or this process's share of it."""
        drawn = [
            self._draw(cases, first + number, iteration, views.count)
            for cases, first, count in (
                (self.labelled, 0, views.labelled),
                (self.unlabelled, views.labelled, views.unlabelled),
            )
            for number in self.group.share(count)
        ]
        labelled = len(self.group.share(views.labelled))
        images = tuple(torch.stack(view) for view in zip(*(images for images, _ in drawn), strict=True))
        return Batch(images, torch.stack([target for _, target in drawn[:labelled]]))

    def _draw(
        self, cases: list[TrainingCase], number: int, iteration: int, views: int
    ) -> tuple[list[Tensor], Tensor]:
        """Crop `number` of a batch: its views, each (1, *patch), and its target (C or 0, *patch)."""
        random = Generator().manual_seed((self.seed * 1_000_003 + iteration) * 1_009 + number)
        case = cases[int(torch.randint(len(cases), (), generator=random))]
        crop = self._crop(case, random)
        return [change_intensity(crop[:1], self.augment, random) for _ in range(views)], crop[1:]

    def _crop(self, case: TrainingCase, random: Generator) -> Tensor:
        """(layers, *patch): one sampling of the volume through a random affine and elastic map."""
        size = torch.tensor(case.stack.shape[1:])
        points = draw_geometry(self.task.patch, case.spacing_mm, self.augment, random)
        points = points + self._centre(case, size, random)
        # grid_sample wants (z, y, x) order and -1 .. 1 from edge to edge
        grid = ((2 * points + 1) / size - 1).flip(-1)
        crop = F.grid_sample(case.stack[None], grid[None], padding_mode="zeros", align_corners=False)[0]
        if len(crop) > 1:  # outside of the scan is background
            crop[1] = 1 - crop[2:].sum(dim=0)
        return crop

    def _centre(self, case: TrainingCase, size: Tensor, random: Generator) -> Tensor:
        patch = torch.tensor(self.task.patch)
        if len(case.foreground) and float(torch.rand((), generator=random)) < self.data.foreground_crops:
            wanted = case.foreground[torch.randint(len(case.foreground), (), generator=random)].float()
        else:
            wanted = torch.rand(3, generator=random) * (size - 1)
        # The crop stays inside the scan where the scan is larger, and holds all of it where it is smaller.
        half = patch / 2
        low, high = torch.minimum(half, size - half), torch.maximum(half, size - half)
        return wanted.clamp(low - 0.5, high - 0.5)
