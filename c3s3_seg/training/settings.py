"""The sections of a configuration that all methods read: scans, augmentation, optimiser, run, teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge, Gt, Le

from c3s3_seg.system.schema import closed

Count = Annotated[int, Gt(0)]
Share = Annotated[float, Ge(0), Le(1)]
PositiveShare = Annotated[float, Gt(0), Le(1)]
Positive = Annotated[float, Gt(0)]
NotNegative = Annotated[float, Ge(0)]


@closed
@dataclass(frozen=True)
class DataConfig:
    """The scans of a run. `folder` holds dataset.json, imagesTr and labelsTr.

    Parameters
    ----------
    folder
        Folder of the data set, relative to the working directory.
    validation_from_unlabelled
        Number of unlabelled cases, the last of the list, held out for validation if dataset.json names none.
    labelled
        Number of labelled cases to use, the first of the list; the others are trained on without their masks.
    fully_supervised
        Whether the labels of the unlabelled cases are used too; only for runs whose name states this.
    unlabelled_stream
        Source of a semi-supervised method's unlabelled crops: the `unlabelled` cases, or `all` training
        cases, the labelled ones (without their masks) included. If every case is labelled, `all`.
    fold
        "i/k": part i of k of the labelled cases, by patient, is held out for validation, and the index's own
        validation cases stay out of the run. `labelled` then counts among the other parts.
    fold_seed
        Seed that decides which patients share a part; the same for all folds of a cross-validation.
    foreground_crops
        Share of crops centred on a foreground voxel, among cases with labels or a teacher's targets. The
        others lie anywhere in the scan, each place equally often.
    foreground_by
        Way to draw this voxel. `voxel`: any foreground voxel. `label`: first a label of the case, then one
        of its voxels, so that small labels are seen as often as large ones; a label of which validation
        finds hardly anything is drawn three times as often, until it is learnt (in one process only).
    note
        Facts on these scans that a reader of the model card must know.
    """

    folder: str
    validation_from_unlabelled: Annotated[int, Ge(0)] = 0
    labelled: Count | None = None
    fully_supervised: bool = False
    unlabelled_stream: Literal["unlabelled", "all"] = "unlabelled"
    fold: str | None = None
    fold_seed: int = 1
    foreground_crops: Share = 0.5
    foreground_by: Literal["voxel", "label"] = "voxel"
    note: str = ""


@closed
@dataclass(frozen=True)
class AugmentConfig:
    """Random changes, drawn once per crop (geometry) or once per view (intensity).

    Without rotation, magnification and displacement, crops begin at whole voxels and are not interpolated.

    Parameters
    ----------
    rotation_rad
        Largest angle of the rotation about each axis, in either direction.
    scale
        Smallest and largest magnification.
    elastic_mm
        Standard deviation of a smooth displacement, defined on a coarse lattice; 0 turns it off.
    flip_axes
        Axes (0, 1, 2) that are mirrored half of the time. Unnatural for organs in patient axes.
    quarter_turns
        Axes (0, 1, 2) about which a crop is turned by 0, 90, 180 or 270 degrees, on top of the small
        rotation. With `slice_axis`, only this axis is allowed.
    gain, offset, noise
        Standard deviations of g, o and n in x (1 + g) + o + n; that of n is drawn from 0 to `noise`. Those
        of o and n are in units of the network's input: with `zscore` the scan's standard deviation, with
        `window` the width of the window.
    gamma
        Smallest and largest exponent on intensities scaled to [0, 1].
    bias
        Standard deviation of the logarithm of a smooth multiplicative field (coil sensitivity).
    slice_axis
        Axis (0, 1, 2) across thick slices. Rotation, magnification and displacement then stay within a
        slice, and crops begin at a whole slice, so that no voxel is a mean of two slices.
    """

    rotation_rad: NotNegative = 0.25
    scale: tuple[Positive, Positive] = (0.85, 1.18)
    elastic_mm: NotNegative = 0.0
    flip_axes: tuple[Literal[0, 1, 2], ...] = ()
    quarter_turns: tuple[Literal[0, 1, 2], ...] = ()
    gain: NotNegative = 0.1
    offset: NotNegative = 0.1
    noise: NotNegative = 0.1
    gamma: tuple[Positive, Positive] = (0.7, 1.5)
    bias: NotNegative = 0.0
    slice_axis: Literal[0, 1, 2] | None = None


@closed
@dataclass(frozen=True)
class OptimiserConfig:
    """SGD with momentum, and the moving average that is validated and shipped.

    Parameters
    ----------
    lr
        Learning rate at the beginning.
    momentum
        Momentum of SGD; 0: none.
    nesterov
        Whether it is Nesterov's.
    weight_decay
        Decay of the weights, as in SGD of torch.
    schedule
        Way of the learning rate over the run: `poly` (1 - progress)^0.9, `cosine`, both to 0, or `constant`.
    ema
        Share of the moving average of each net's weights that is kept in a step; less in the first steps. The
        average is what is validated and shipped.
    """

    lr: Positive = 0.01
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 1e-4
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    ema: Annotated[float, Ge(0), Le(0.99999)] = 0.995


@closed
@dataclass(frozen=True)
class RunConfig:
    """The length, batch sizes, precision and device of a run.

    Parameters
    ----------
    iterations
        Number of training steps, warm-up included.
    seed
        Seed of everything that is drawn at random. Generators of a CPU use 32 bits of it.
    labelled_batch, unlabelled_batch
        Crops of each kind in a step. A supervised step without a teacher takes `labelled_batch` only.
    warm_batch
        Labelled crops in a step of the warm-up.
    precision
        `auto`: bfloat16 if the device has units for it and a probe finds it faster, else float32; the
        choice is in the history and on the card, and a resumed run keeps it. `bfloat16`:
        convolutions in bfloat16 (fast on CPUs with AMX and on GPUs since Ampere), the rest in float32.
        `float16`: for older GPUs; the loss is scaled so that small gradients survive.
    activation_checkpointing
        Whether the backward pass computes the largest maps again instead of keeping them: less memory, more
        time, the same numbers.
    device
        `cpu` or `cuda`.
    threads
        Number of threads of the CPU; None: as torch decides.
    validate_every
        Iterations from one validation to the next; one follows the last iteration in any case.
    checkpoint_every
        Iterations from one checkpoint to the next; one is also written before each validation and at the end.
    patience
        Number of validations in a row without a better mean Dice of any net, those of the warm-up not
        counted, after which the run ends; 0: never.
    keep
        Weights of each net that go into the bundle: those after the last iteration, or the best on
        validation. The card gives the scores of both.
    blend
        Share of the learnt weights in the weights that are validated and shipped, if a run begins from a
        bundle; the rest are the weights that the run began from (Wortsman et al., CVPR 2022); 1: the
        learnt weights alone.
    """

    iterations: Count
    labelled_batch: Count = 2
    unlabelled_batch: Count = 1
    warm_batch: Count = 2
    seed: Annotated[int, Ge(0), Le(2**32 - 1)] = 1
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    device: Literal["cpu", "cuda"] = "cpu"
    activation_checkpointing: bool = False
    threads: Count | None = None
    validate_every: Count = 500
    checkpoint_every: Count = 200
    patience: Annotated[int, Ge(0)] = 0
    keep: Literal["last", "best"] = "last"
    blend: Share = 1.0


@closed
@dataclass(frozen=True)
class TeacherConfig:
    """A teacher, with targets segmented before, for any method of `TAUGHT`; off by default.

    Its targets never make a case labelled: not on the card, not in the domain, not in the competition.

    Parameters
    ----------
    bundle
        Name or folder of a model. The mean probabilities of all its networks (Gaussian tiles) are
        soft targets on all scans, labelled and unlabelled: distillation. They are computed once for each
        case and kept in the run's folder.
    masks
        Folder with a mask for each unlabelled case, as `c3s3-seg predict` writes it: a second generation.
    weight
        Weight of these targets; labels have weight 1.
    temperature
        Temperature at which the probabilities of bundle and network are compared (Hinton et al., 2015):
        above 1 unlikely classes count more. For `bundle` only.
    """

    bundle: str = ""
    masks: str = ""
    weight: NotNegative = 1.0
    temperature: Annotated[float, Ge(0.1)] = 1.0

    @property
    def wanted(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.bundle or self.masks)
