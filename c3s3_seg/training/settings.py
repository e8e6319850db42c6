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
    """Which scans. `folder` holds dataset.json, imagesTr and labelsTr.

    Parameters
    ----------
    folder
        Relative to the working directory.
    validation_from_unlabelled
        The last so many of the unlabelled list serve for validation, where dataset.json names none.
    labelled
        Take only the first so many labelled cases; the others are trained on without their masks.
    fully_supervised
        Use the labels of the unlabelled cases too. Only for runs that are named so.
    unlabelled_stream
        Where a semi-supervised method takes its unlabelled crops from: the `unlabelled` cases, or `all` cases
        in training, the labelled ones (without their masks) among them. With every case labelled, `all`.
    fold
        "i/k": part i of k of the labelled cases, by patient, serves for validation, and the index's own
        validation cases stay out of the run. `labelled` then counts among the others.
    fold_seed
        Which patients share a part; all folds of one cross-validation have the same.
    foreground_crops
        The share of labelled crops that are centred on a foreground voxel.
    foreground_by
        How that voxel is drawn. `voxel`: any of the foreground. `label`: a label of the case first, and then
        one of its voxels, so that small labels are seen as often as large ones; and a label of which
        validation finds hardly anything is drawn three times as often, until it is learnt.
    note
        What a reader of the model card must know of these scans.
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
    """Random changes, drawn once a crop (geometry) or once a view (intensity).

    Parameters
    ----------
    rotation_rad
        Rotations about each axis lie within plus and minus this.
    scale
        Smallest and largest magnification.
    elastic_mm
        Standard deviation of a smooth displacement, defined on a coarse lattice; 0 turns it off.
    flip_axes
        Axes (0, 1, 2) that are mirrored half of the time. Not natural for organs in patient axes.
    quarter_turns
        Axes (0, 1, 2) about which a crop is turned by 0, 90, 180 or 270 degrees, on top of the small
        rotation. With `slice_axis` only that axis may be named.
    gain, offset, noise
        Intensities become gain * x + offset + noise; standard deviations in units of the scan's own.
    gamma
        Smallest and largest exponent on intensities scaled to [0, 1].
    bias
        Standard deviation of the logarithm of a smooth multiplicative field (coil sensitivity).
    slice_axis
        For thick slices: the axis (0, 1, 2) across them. Rotation, magnification and displacement then stay
        within a slice, and crops begin at a whole one, so that no voxel is a mean of two slices.
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
    """SGD with momentum; the learning rate falls to 0 by `schedule`, or stays `constant`."""

    lr: Positive = 0.01
    momentum: Share = 0.9
    nesterov: bool = True
    weight_decay: NotNegative = 1e-4
    schedule: Literal["poly", "cosine", "constant"] = "poly"
    ema: Annotated[float, Ge(0), Le(0.99999)] = 0.995


@closed
@dataclass(frozen=True)
class RunConfig:
    """How long, how often, on what.

    Parameters
    ----------
    iterations
        Optimiser steps, warm-up included.
    labelled_batch, unlabelled_batch
        Crops of each kind in a step. A supervised step takes `labelled_batch` only.
    warm_batch
        Labelled crops in a step of the warm-up.
    precision
        `auto`: bfloat16 where the device has units for it and a probe finds it faster, else float32; what
        it became stands in the history and on the card, and a resumed run keeps it. `bfloat16`:
        convolutions in bfloat16 (fast on CPUs with AMX and on GPUs since Ampere), the rest in float32.
        `float16`: for older GPUs; the loss is scaled so that small gradients survive.
    activation_checkpointing
        Compute the largest maps again in the backward pass instead of keeping them: less memory, more
        time, the same numbers.
    patience
        The run ends after so many validations in a row, the warm-up's not counted, in which no net has
        a better mean Dice than before; 0: never.
    keep
        Which weights of each net become the bundle: those after the last iteration, or the best on
        validation. The card gives the scores of both.
    blend
        Of a run that begins from a bundle: what is validated and shipped is this share of what was learnt,
        the rest being the weights that it began from (Wortsman et al., CVPR 2022); 1: the trained weights
        alone.
    """

    iterations: Count
    labelled_batch: Count = 2
    unlabelled_batch: Count = 1
    warm_batch: Count = 2
    seed: Annotated[int, Ge(-(2**32)), Le(2**32)] = 1  # generators take 64 bits of it and the iteration
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
    """What was segmented before and teaches now, with any method of `TAUGHT`; off by default.

    A case never counts as labelled for it: not on the card, not in the domain, not in the competition.

    Parameters
    ----------
    bundle
        A model, by its name or its folder. The mean probabilities of all its networks (Gaussian tiles) are
        soft targets on all scans, labelled and unlabelled: distillation. They are computed once for each
        case and kept in the run's folder.
    masks
        A folder with a mask for each unlabelled case, as `c3s3-seg predict` writes it: a second generation.
    weight
        Of these targets; labels have 1.
    temperature
        At which both the bundle's probabilities and the network's are compared (Hinton et al., 2015): above
        1 unlikely classes count more. Of `bundle` only.
    """

    bundle: str = ""
    masks: str = ""
    weight: NotNegative = 1.0
    temperature: Annotated[float, Ge(0.1)] = 1.0

    @property
    def wanted(self) -> bool:
        """Whether there is a teacher."""
        return bool(self.bundle or self.masks)
