"""The methods' own numbers: one section of a configuration for each, with the published values as defaults.

If a default differs from the published value, its section states this (UA-MT).
Ramps and starts are shares of the run: progress = iteration / iterations, so that a short run follows the
same schedule. Where a paper and its published code differ, the paper's form is the default.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, get_args

from annotated_types import Ge, Lt

from c3s3_seg.system.schema import closed
from c3s3_seg.training.settings import Count, NotNegative, Positive, PositiveShare, Share

MethodName = Literal[
    "supervised",
    "c3s3",
    "mcf",
    "uamt",
    "dtc",
    "bcp",
    "sdcl",
    "sassnet",
    "tracoco",
    "caussl",
    "caml",
    "ssnet",
]
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)
TAUGHT = ("supervised", "c3s3", "mcf")  # methods that support the table `teacher`


def without_unread(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a dumped configuration without the sections that only other methods read."""
    method = settings["method"]
    read = (method, "c3s3") if method == "mcf" else (method,)
    return {key: value for key, value in settings.items() if key not in METHOD_NAMES or key in read}


@closed
@dataclass(frozen=True)
class MCFConfig:
    """Settings of MCF; its other numbers are in the section `c3s3`, see `C3S3Config`.

    Parameters
    ----------
    alpha
        Weight of the cross entropy in the competition; 0: the Dice alone decides, as published.
    review_weight
        Weight of both networks' squared errors on labelled voxels where the two differ.
    """

    alpha: Share = 0.0
    review_weight: NotNegative = 0.5


@closed
@dataclass(frozen=True)
class UAMTConfig:
    """Settings of UA-MT.

    Parameters
    ----------
    passes
        Number of the teacher's passes with dropout and noise, whose mean gives the uncertainty.
    noise, noise_limit
        Standard deviation and largest size of the noise, in standard deviations of the scan.
    teacher_decay
        Share of the teacher that is kept in a step.
    teacher_dropout
        Share of the channels that the teacher drops in each pass; that of the student is `networks.dropout`.
        Published: the same for both.
    weight
        Weight of the consistency, reached by the ramp. Published: 0.1, beside half of cross entropy plus
        Dice; the loss of the labels here is the whole sum, so that 0.2 is the published proportion.
    """

    passes: Count = 8
    noise: NotNegative = 0.1
    noise_limit: NotNegative = 0.2
    teacher_decay: Share = 0.99
    teacher_dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
    weight: NotNegative = 0.2


@closed
@dataclass(frozen=True)
class DTCConfig:
    """Settings of DTC.

    Parameters
    ----------
    steepness
        Steepness of the sigmoid that turns a distance into a label.
    distance_weight
        Weight of the distance head's error on labelled crops.
    weight
        Weight of the agreement of both heads, reached by the ramp.
    """

    steepness: Positive = 1500.0
    distance_weight: NotNegative = 0.3
    weight: NotNegative = 1.0


@closed
@dataclass(frozen=True)
class BCPConfig:
    """Settings of BCP.

    Parameters
    ----------
    pretraining
        Share of the run in which labelled crops are pasted into labelled ones; published: 2,000 of 17,000.
    box
        Sides of the pasted box, as a share of the crop's sides.
    pseudo_weight
        Weight of the region with pseudo-labels; the labelled region has weight 1.
    teacher_decay
        Share of the teacher that is kept in a step.
    largest_component
        Keep only the largest component of each class of a pseudo-label.
    """

    pretraining: Annotated[float, Ge(0), Lt(1)] = 0.118
    box: PositiveShare = 2 / 3
    pseudo_weight: NotNegative = 0.5
    teacher_decay: Share = 0.99
    largest_component: bool = True


@closed
@dataclass(frozen=True)
class SDCLConfig(BCPConfig):
    """Settings of SDCL: BCP's numbers, and the weights of the two terms where the networks differ.

    Parameters
    ----------
    pretraining
        Share of the run in which labelled crops are pasted into labelled ones; published: 80 of 355 epochs of
        equal length.
    box, pseudo_weight, teacher_decay, largest_component
        Same as in `BCPConfig`.
    correction_weight
        Weight of the squared error on voxels where the two networks differ.
    entropy_weight
        Weight of the cross entropy with the uniform distribution where these voxels are also wrong.
    """

    pretraining: Annotated[float, Ge(0), Lt(1)] = 0.225
    correction_weight: NotNegative = 0.5
    entropy_weight: NotNegative = 0.05


@closed
@dataclass(frozen=True)
class SASSNetConfig:
    """Settings of SASSNet.

    Parameters
    ----------
    distance_weight
        Weight of the distance head's error on labelled crops.
    weight
        Weight of the adversarial term, reached by the ramp; published: 0.01 for 16 labels, 0.015 for 8.
    discriminator_filters
        Filters of the discriminator's first convolutions; doubled three times.
    discriminator_lr
        Learning rate of the discriminator's Adam; it stays constant.
    """

    distance_weight: NotNegative = 0.3
    weight: NotNegative = 0.01
    discriminator_filters: Count = 64
    discriminator_lr: Positive = 1e-4


@closed
@dataclass(frozen=True)
class TraCoCoConfig:
    """Settings of TraCoCo.

    Parameters
    ----------
    shift
        Largest shift of the second crop of a pair, as a share of each side. Published: as far as the scan
        allows, on each axis, which depends on the scan's size.
    noise
        Largest size of the uniform noise on every training input, in standard deviations of the scan
        (1 by `zscore`, measured for a window of intensities).
        Published: 0.2 for intensities in [0, 1]. There the left atria have a standard deviation of 0.06 to
        0.24, median 0.15, so the published noise is about 1 of these.
    weight, ramp
        Weight of all terms without labels, reached by the ramp after the share `ramp` of the run. Published:
        1 for 16 labels, 0.3 for 8; 320 of 9,000 iterations.
    translation_weight, entropy_weight
        Weights of the divergence in the overlap, and of the negative entropy there. The divergence is a mean
        over voxels and classes, as published, and four times the mean over crops; published: the sum over
        four crops.
    confident, unlikely
        Probability of the teacher's likeliest class from which positive learning applies, and that of its
        least likely class below which negative learning applies.
    mix
        Both parameters of the beta distribution of CutMix.
    translation
        `paper`: the divergence of the class probabilities. `published`: logits are clamped to [1e-6, 1] for
        the divergence and the entropy, and the softmax of the divergence is along the x axis.
    """

    shift: PositiveShare = 0.3
    noise: NotNegative = 1.0
    weight: NotNegative = 1.0
    ramp: PositiveShare = 0.036
    translation_weight: NotNegative = 0.3
    entropy_weight: NotNegative = 0.1
    confident: Share = 0.65
    unlikely: Share = 0.1
    mix: Positive = 4.0
    translation: Literal["paper", "published"] = "paper"


@closed
@dataclass(frozen=True)
class CauSSLConfig:
    """Settings of CauSSL, in the form on cross pseudo supervision.

    Parameters
    ----------
    weight
        Weight of the pseudo supervision, reached by the ramp. Published: a ramp of 6,000 iterations in a run
        of 5,000, so that the ramp ends at 0.87 of the weight.
    pseudo_weight
        Additional factor of the pseudo supervision's cross entropy.
    independence_weight
        Weight of the dependence of the two networks' weights, which the networks minimise from the first
        round of the coefficients' updates on.
    coefficient_lr
        Learning rate, constant, of the Adam that maximises the dependence over the coefficients.
    pseudo_start, coefficient_start
        Shares of the run after which pseudo supervision and the coefficients' updates begin. Published: 400
        and 500 of 5,000 iterations.
    every
        Share of the run after which each new round of the coefficients' updates begins; published: 60
        iterations of 5,000.
    updates
        Updates in a round per iteration between rounds: 1 makes 60 updates every 60 iterations.
    """

    weight: NotNegative = 0.1
    pseudo_weight: NotNegative = 0.3
    independence_weight: NotNegative = 3.0
    coefficient_lr: Positive = 2e-2
    pseudo_start: Share = 0.08
    coefficient_start: Share = 0.1
    every: PositiveShare = 0.012
    updates: Positive = 1.0


@closed
@dataclass(frozen=True)
class CAMLConfig:
    """Settings of CAML.

    Parameters
    ----------
    consistency_weight, correlation_weight, ramp
        Weights of mutual consistency and omni-correlation, reached by the ramp after the share `ramp` of the
        run. Published: 15 x 150 of 15,000 iterations for 16 labels, 20 x 150 for 8, 40 x 150 for 4.
    supervised_weight
        Weight of the Dice of both branches.
    temperature
        Temperature of the correlation and of the sharpening.
    heads, attention_dropout
        Heads and dropout of the cross-sample attention, whose width is that of the third downsampling, a
        multiple of `heads`.
    channels
        Channels of the projected features.
    slots, stored
        Size of the bank: labelled case n writes into slot n modulo `slots`, at most `stored` vectors a class.
        Published: a slot for each case, and all its voxels.
    drawn
        Most vectors of each class that a step draws from the bank.
    voxel_share
        Most voxels of each class that are correlated with these vectors, the surest first, as a share of the
        voxels of all unlabelled crops, at least one voxel. Published: 12,800 of two crops of 112 x 112 x 80.
    """

    consistency_weight: NotNegative = 1.0
    correlation_weight: NotNegative = 0.05
    ramp: PositiveShare = 0.15
    supervised_weight: NotNegative = 0.5
    temperature: Positive = 0.1
    heads: Count = 4
    attention_dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
    channels: Count = 32
    slots: Count = 64
    stored: Count = 512
    drawn: Count = 256
    voxel_share: PositiveShare = 12800 / (2 * 112 * 112 * 80)


@closed
@dataclass(frozen=True)
class SSNetConfig:
    """Settings of SS-Net.

    Parameters
    ----------
    weight, ramp
        Weight of smoothness and separation together, reached by the ramp after the share `ramp` of the run.
        Published: 40 x 150 of 15,000 iterations.
    contrast_weight
        Weight of the separation.
    probe, radius
        Length of the random step from which the adversarial direction is found, and of the adversarial step,
        over all voxels of a crop of 112 x 112 x 80, as published. In another crop both are multiplied by
        sqrt(voxels / (112 x 112 x 80)), so that a voxel changes as much.
    distance
        Dice distance of the smoothness. `pooled`: one over batch, classes and voxels together, as published.
        `classes`: the mean of one for each class.
    channels
        Channels of the projected features.
    vectors
        Vectors in the memory of each class.
    voxels
        Most voxels of each class contrasted in a step, on labelled and unlabelled crops each. Published: all.
    memory
        `paper`: every class has a memory, of the voxels that its selector ranks highest. `published`: the
        background has no memory, and the voxels ranked lowest are kept.
    """

    weight: NotNegative = 1.0
    ramp: PositiveShare = 0.4
    contrast_weight: NotNegative = 0.1
    probe: Positive = 10.0
    radius: Positive = 10.0
    distance: Literal["pooled", "classes"] = "pooled"
    channels: Count = 32
    vectors: Count = 32
    voxels: Count = 4096
    memory: Literal["paper", "published"] = "paper"
