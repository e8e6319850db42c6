"""Draw batches from the cases in memory.

Every batch is a function of seed, iteration and `Views` alone: a resumed run draws the same batches as
an uninterrupted one, and several loaders can share the work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from c3s3_seg.bundle import Task
from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.errors import InputError
from c3s3_seg.training.augment import change_intensity, draw_geometry, whole_axes
from c3s3_seg.training.cases import Teach, TrainingCase, read_case
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.distances import signed_distance
from c3s3_seg.training.distributed import ProcessGroup
from c3s3_seg.training.random_streams import BOX, seed_of
from c3s3_seg.training.settings import AugmentConfig, DataConfig

ALONE = ProcessGroup()
EMPTY = torch.empty(0)
Offset = tuple[int, int, int]
FOCUS = 3.0  # factor by which a label that is not learnt is drawn more often than others


@dataclass(frozen=True)
class Views:
    """The contents of a batch that a method requests.

    Parameters
    ----------
    labelled, unlabelled
        Numbers of crops of each kind.
    count
        Number of independent intensity changes of each crop.
    shift
        Above 0, the second view is another crop of the same scan, moved by at most this share of each side;
        both are cut from one sampling with one intensity change, so that they agree where they overlap.
    box
        Above 0, the batch has a mask to mix crops with: a box of this share of each side.
    distances
        Signed distance maps of the labelled crops: `plain`, or with 0 on the boundary.
    focus
        Labels that are drawn `FOCUS` times as often as others, if crops are drawn by label.
    """

    labelled: int
    unlabelled: int = 0
    count: int = 1
    shift: float = 0.0
    box: float = 0.0
    distances: Literal["none", "plain", "zero boundary"] = "none"
    focus: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """A batch: labelled crops first, then unlabelled ones. Fields that a method did not request are empty.

    Parameters
    ----------
    views
        Each (L + U, 1, X, Y, Z) float32: the same crops under different intensities, or pairs that overlap.
    target
        (L, C, X, Y, Z) float32 in [0, 1], with sum 1 over C, for the first view.
    cases
        Index of each labelled crop's case among the labelled cases.
    offsets
        Position at which each crop of the second view begins in that of the first, in voxels.
    taught
        (K, C, X, Y, Z) float32: a teacher's targets for the last K crops: for all or the unlabelled ones.
    box
        (X, Y, Z) float32: 0 in a box, 1 elsewhere. The same for all processes.
    distances
        (L, C - 1, X, Y, Z) float32 in [-1, 1], negative inside: the signed distance of each foreground class.
    deviations
        Standard deviation of the network input over each crop's scan; empty: 1.
    """

    views: tuple[Tensor, ...]
    target: Tensor
    cases: tuple[int, ...] = ()
    offsets: tuple[Offset, ...] = ()
    box: Tensor = EMPTY
    distances: Tensor = EMPTY
    taught: Tensor = EMPTY
    deviations: tuple[float, ...] = ()

    @property
    def labelled(self) -> int:
        """The number L of labelled crops."""
        return len(self.target)

    @property
    def deviation(self) -> Tensor:
        """The standard deviations of the crops' scans, (L + U, 1, 1, 1, 1): the unit of noise on them."""
        crops = self.views[0]
        found = crops.new_tensor(self.deviations or [1.0] * len(crops))
        return found.reshape(-1, 1, 1, 1, 1)


@dataclass(frozen=True)
class Drawn:
    """One crop of a batch: its views, each (1, *patch), its target and a teacher's, each (C or 0, *patch)."""

    images: tuple[Tensor, ...]
    target: Tensor
    case: int
    offset: Offset = (0, 0, 0)
    taught: Tensor = EMPTY
    deviation: float = 1.0


def uses_unlabelled(config: TrainConfig) -> bool:
    """Return whether a run draws crops of unlabelled cases."""
    return config.method != "supervised" or config.teacher.wanted


def require_unlabelled(config: TrainConfig, data: DataSet, splits: Splits) -> None:
    """Raise an error if a run draws crops of unlabelled cases and there are none.

    Raises
    ------
    InputError
        If there are none.
    """
    if uses_unlabelled(config) and not splits.unlabelled and config.data.unlabelled_stream != "all":
        todo = "Set method = 'supervised' without a teacher, or data.unlabelled_stream = 'all'"
        raise InputError("names no unlabelled case", where=data.folder / INDEX, todo=todo)


class Sampler:
    """A sampler of batches.

    Parameters
    ----------
    labelled, unlabelled
        Training cases of each kind.
    task, data, augment
        Settings of the patch, the choice of crops and the random changes.
    seed
        Seed that determines every crop, with the iteration and the crop's number.
    group
        Processes of the run, each of which draws its share of a batch.
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
    def of(
        cls,
        config: TrainConfig,
        data: DataSet,
        splits: Splits,
        group: ProcessGroup = ALONE,
        teach: Teach | None = None,
    ) -> Sampler:
        """Read the cases that a run learns from, and return their sampler.

        Raises
        ------
        InputError
            If a case cannot be read, or the method needs unlabelled cases and there are none.
        """
        require_unlabelled(config, data, splits)
        task, both = config.task, uses_unlabelled(config)
        labelled = [read_case(data, name, task, labelled=True, teach=teach) for name in splits.labelled]
        names = splits.unlabelled if both else ()
        unlabelled = [read_case(data, name, task, labelled=False, teach=teach) for name in names]
        if both and config.data.unlabelled_stream == "all":
            unlabelled += [case.without_labels() for case in labelled]
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
        """Return the batch of one iteration, or this process's share of the batch."""
        drawn = [
            self._draw(cases, first + number, iteration, views)
            for cases, first, count in (
                (self.labelled, 0, views.labelled),
                (self.unlabelled, views.labelled, views.unlabelled),
            )
            for number in self.group.share(count)
        ]
        labelled = drawn[: len(self.group.share(views.labelled))]
        target = torch.stack([crop.target for crop in labelled])
        taught = [crop.taught for crop in drawn if len(crop.taught)]
        distances = EMPTY
        if views.distances != "none":
            distances = signed_distance(target[:, 1:], zero_boundary=views.distances == "zero boundary")
        return Batch(
            tuple(torch.stack(view) for view in zip(*(crop.images for crop in drawn), strict=True)),
            target,
            tuple(crop.case for crop in labelled),
            tuple(crop.offset for crop in drawn) if views.shift else (),
            draw_box(self.task.patch, views.box, self._random(iteration, BOX)) if views.box else EMPTY,
            distances,
            torch.stack(taught) if taught else EMPTY,
            tuple(crop.deviation for crop in drawn),
        )

    def _random(self, iteration: int, number: int) -> Generator:
        return Generator().manual_seed(seed_of(self.seed, iteration, number))

    def _draw(self, cases: list[TrainingCase], number: int, iteration: int, views: Views) -> Drawn:
        """Draw crop `number` of a batch."""
        random = self._random(iteration, number)
        index = int(torch.randint(len(cases), (), generator=random))
        if views.shift:
            return self._draw_pair(cases, index, views, random)
        crop = self._crop(cases[index], views, random)
        images = tuple(change_intensity(crop[:1], self.augment, random) for _ in range(views.count))
        end = len(crop) - cases[index].taught
        return Drawn(images, crop[1:end], index, taught=crop[end:], deviation=cases[index].deviation)

    def _draw_pair(self, cases: list[TrainingCase], index: int, views: Views, random: Generator) -> Drawn:
        """Draw two crops from one sampling, which is larger than a crop by their offset."""
        limits = [int(views.shift * side) for side in self.task.patch]
        x, y, z = (int(torch.randint(-n, n + 1, (), generator=random)) for n in limits)
        crop = self._crop(cases[index], views, random, (abs(x), abs(y), abs(z)))
        image = change_intensity(crop[:1], self.augment, random)
        first, second = self._part((-x, -y, -z)), self._part((x, y, z))
        images = (image[first], image[second])
        return Drawn(images, crop[1:][first], index, (x, y, z), deviation=cases[index].deviation)

    def _part(self, offset: Offset) -> tuple[slice, ...]:
        """Return the slices of a crop in the sampling of its pair; its partner's offset is -`offset`."""
        begins = [max(0, n) for n in offset]
        parts = (slice(n, n + side) for n, side in zip(begins, self.task.patch, strict=True))
        return (slice(None), *parts)

    def _crop(self, case: TrainingCase, views: Views, random: Generator, more: Offset = (0, 0, 0)) -> Tensor:
        """Sample the volume through a random affine and elastic map: (layers, *(patch + more))."""
        size = torch.tensor(case.stack.shape[1:])
        x, y, z = (side + extra for side, extra in zip(self.task.patch, more, strict=True))
        points, sides = draw_geometry((x, y, z), case.spacing_mm, self.augment, random)
        points = points + self._centre(case, size, sides, views.focus, random)
        # grid_sample expects (z, y, x) order and -1 .. 1 from edge to edge
        grid = ((2 * points + 1) / size - 1).flip(-1)
        crop = F.grid_sample(case.stack[None], grid[None], padding_mode="zeros", align_corners=False)[0]
        end = len(crop) - case.taught
        for first, last in ((1, end), (end, len(crop))):
            if first < last:  # voxels outside the scan are background
                crop[first] = 1 - crop[first + 1 : last].sum(dim=0)
        return crop

    def _centre(
        self, case: TrainingCase, size: Tensor, sides: Tensor, focus: tuple[str, ...], random: Generator
    ) -> Tensor:
        """Draw the centre of a crop of these sides in a scan of this size: (3,) in voxels."""
        # The crop stays inside the scan where the scan is larger, and contains the scan where it is smaller.
        half, whole = sides / 2, whole_axes(self.augment)
        low, high = torch.minimum(half, size - half) - 0.5, torch.maximum(half, size - half) - 0.5
        if len(case.foreground) and float(torch.rand((), generator=random)) < self.data.foreground_crops:
            voxels = case.foreground
            if self.data.foreground_by == "label":
                voxels = _draw_label(case.by_label, focus, random)
            wanted = voxels[torch.randint(len(voxels), (), generator=random)].float()
        else:  # from half a voxel before to half a voxel after, where it is rounded: all places equally often
            wanted = low - whole / 2 + torch.rand(3, generator=random) * (high - low + whole)
        begin = wanted - (sides - 1) / 2
        nearest = (begin + 0.5).floor()  # not `round`, which takes the even one of two
        return (wanted + whole * (nearest - begin)).clamp(low, high)


def _draw_label(by_label: Mapping[str, Tensor], focus: tuple[str, ...], random: Generator) -> Tensor:
    """Draw a label and return its voxels."""
    weights = torch.tensor([FOCUS if name in focus else 1.0 for name in by_label])
    return list(by_label.values())[int(torch.multinomial(weights, 1, generator=random))]


def draw_box(sides: tuple[int, int, int], share: float, random: Generator) -> Tensor:
    """Draw a mask (X, Y, Z) float32: 0 in a box of `share` of each side at a random place, 1 elsewhere."""
    mask = torch.ones(sides)
    lengths = [round(share * side) for side in sides]
    spare = zip(sides, lengths, strict=True)
    begins = [int(torch.randint(side - length + 1, (), generator=random)) for side, length in spare]
    x, y, z = (slice(n, n + length) for n, length in zip(begins, lengths, strict=True))
    mask[x, y, z] = 0
    return mask
