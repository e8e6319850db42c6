"""The manifest of a bundle: everything about a model except its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, MaxLen

from c3s3_seg.bundle.domain import Domain
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.errors import ConfigError, shown
from c3s3_seg.io.modality import modality_code
from c3s3_seg.io.reading import SeriesRule
from c3s3_seg.models import Architecture
from c3s3_seg.models.strides import EVEN, Strides, multiple_of
from c3s3_seg.system.choices import Weighting
from c3s3_seg.system.names import PlainName, folded
from c3s3_seg.system.schema import Rule, closed

SIDES = 16  # multiple of the sides of a patch if every downsampling halves every axis
MODALITY = re.compile("[A-Za-z0-9][A-Za-z0-9_ -]{0,15}")
SHA256 = re.compile("[0-9a-f]{64}")
# With a larger overlap there are too many tiles: a voxel is in 1000 of them at 0.9, in 10^12 at 0.9999.
MOST_OVERLAP = 0.9
LARGEST_SIDE, LARGEST_PATCH = 1024, 2**26  # voxels; the largest patch takes 15 GB in OpenVINO

FileName = Annotated[str, PlainName]
Side = Annotated[int, Ge(1), Le(LARGEST_SIDE)]  # must also be a multiple, see `check_patch`
Patch = Annotated[
    tuple[Side, Side, Side],
    Rule(lambda sides: math.prod(sides) <= LARGEST_PATCH, f"at most {LARGEST_PATCH:,} voxels in all"),
]
Positive = Annotated[float, Gt(0)]
Stride = tuple[Literal[1, 2], Literal[1, 2], Literal[1, 2]]
ReadStrides = Annotated[
    tuple[Stride, Stride, Stride, Stride],
    Rule(lambda levels: all(2 in level for level in levels), "downsamplings that halve one axis at least"),
]
# The texts that DICOM allows as code strings and short texts (PS3.5, 6.2).
Modality = Annotated[
    str,
    Rule(lambda text: bool(MODALITY.fullmatch(text)), "a DICOM modality such as MR or CT"),
]
IS_PLAIN = Rule(
    lambda text: text.strip() != "" and "\\" not in text and text.isprintable(), "a text without a backslash"
)
CodeText = Annotated[str, MaxLen(64), IS_PLAIN]
CodeScheme = Annotated[str, MaxLen(16), IS_PLAIN]


@closed
@dataclass(frozen=True)
class Qualifier:
    """A coded concept beside another one: a modifier, such as left, or a category; SCT is SNOMED CT."""

    value: CodeText
    meaning: CodeText
    scheme: CodeScheme = "SCT"


@closed
@dataclass(frozen=True)
class Code:
    """A coded concept, as DICOM SEG requires it (PS3.3, 8.8): `scheme` SCT is SNOMED CT.

    `modifier` names the part, if the part has no code of its own. `category` is one of PS3.16, CID 7150;
    None: Anatomical Structure.
    """

    value: CodeText
    meaning: CodeText
    scheme: CodeScheme = "SCT"
    modifier: Qualifier | None = None
    category: Qualifier | None = None


@closed
@dataclass(frozen=True)
class Label:
    """One foreground class: its name, its value in masks (1 to 255) and its code."""

    name: FileName
    value: Annotated[int, Ge(1), Le(255)]
    code: Code | None = None


def differ(items: Iterable[str | int]) -> bool:
    """Return whether all items differ, even if a file system ignores case and Unicode composition."""
    found = [folded(item) if isinstance(item, str) else item for item in items]
    return len(set(found)) == len(found)


Labels = Annotated[
    tuple[Label, ...],
    Rule(lambda labels: len(labels) > 0, "at least one label"),
    Rule(lambda labels: differ(label.name for label in labels), "labels with different names"),
    Rule(lambda labels: differ(label.value for label in labels), "labels with different values"),
]


@closed
@dataclass(frozen=True)
class Task:
    """The task of a model: its scans, its grid, its labels and its default inference.

    Parameters
    ----------
    name
        Name of the bundle.
    modality
        DICOM modality of the scans it was trained on (MR, CT); `MRI` and `ct` become the code of DICOM, which
        headers of scans have.
    labels
        Foreground classes in the order of the network's outputs 1, 2, ...; output 0 is background.
    recipe
        Preprocessing between the scan grid and the model grid.
    patch
        Voxels (x, y, z) of the training crops, and of the tiles in tiled inference.
    keep_largest
        Whether only the largest connected component of each label is kept (6-neighbours).
    overlap
        Default mode of inference. None: the whole volume at once, if it is small enough. A number:
        a sliding window with tiles of `patch` that overlap by this fraction of their side, at most 0.9.
    weighting
        Weighting by which overlapping tiles are averaged.
    series
        Rule for the series of a study, if a folder holds several volumes. None: those of its modality.
    domain
        Properties of the training scans, for the domain check. None: scans are not checked.
    strides
        Strides of the four downsamplings of its networks. None: each halves every axis. With thick slices
        the first downsamplings keep that axis as it is, until the spacing has evened out.
    """

    name: FileName
    modality: Modality
    labels: Labels
    recipe: Recipe
    patch: Patch
    keep_largest: bool = True
    overlap: Annotated[float, Ge(0), Le(MOST_OVERLAP)] | None = None
    weighting: Weighting = "constant"
    series: SeriesRule | None = None
    domain: Domain | None = None
    strides: ReadStrides | None = None

    def __post_init__(self) -> None:
        if isinstance(self.modality, str):  # another kind is refused when the task is written
            object.__setattr__(self, "modality", modality_code(self.modality))

    @property
    def series_rule(self) -> SeriesRule:
        """The rule that selects one of several volumes if the user does not."""
        return self.series or SeriesRule(f"modality={self.modality}")

    @property
    def network_strides(self) -> Strides:
        """The strides of the four downsamplings."""
        return self.strides or EVEN

    @property
    def multiple(self) -> tuple[int, int, int]:
        """The numbers that the sides of a tile (x, y, z) are multiples of."""
        return multiple_of(self.network_strides)

    @property
    def classes(self) -> int:
        """The number of outputs of the network, background included."""
        return len(self.labels) + 1

    @property
    def label_values(self) -> dict[str, int]:
        """A mapping from label name to value in masks."""
        return {label.name: label.value for label in self.labels}


def check_patch(task: Task, where: str | Path) -> None:
    """Raise if the networks cannot halve the sides of the patch as often as their strides require.

    Raises
    ------
    ConfigError
        If a side is not a multiple of `task.multiple`; the message names the multiples.
    """
    if any(side % n for side, n in zip(task.patch, task.multiple, strict=True)):
        if task.multiple == (SIDES, SIDES, SIDES):
            wanted = f"multiples of {SIDES}"
        else:
            wanted = f"multiples of {shown(task.multiple)}, as task.strides has it"
        raise ConfigError(f"task.patch = {list(task.patch)}: wanted {wanted}", where=where)


def _measured_on_its_labels(task: Task) -> bool:
    volumes = task.domain.volume_ml if task.domain else None
    return set(volumes or ()) <= set(task.label_values)


ReadTask = Annotated[Task, Rule(_measured_on_its_labels, "volume_ml of its domain to name labels of its own")]


@closed
@dataclass(frozen=True)
class Network:
    """A backbone in the bundle. `stem` names its files: stem.safetensors, stem.onnx.

    A training run has the stems `model` and `secondary`; an ensemble of folds has `model`, its best fold, and
    others. `name` is the network's name in the training record, if it is not the architecture: `vnet-a` and
    `vnet-b` for two V-Nets that were trained together.
    """

    stem: FileName
    architecture: Architecture
    filters: Annotated[int, Ge(1), Le(1024)]
    channels: Annotated[int, Ge(1), Le(1)] = 1
    name: FileName | None = None

    @property
    def candidate(self) -> str:
        """The name of the network in the training record."""
        return self.name or self.architecture

    @property
    def weights(self) -> str:
        """File name of the weights."""
        return f"{self.stem}.safetensors"

    @property
    def graph(self) -> str:
        """File name of the ONNX graph."""
        return f"{self.stem}.onnx"


@closed
@dataclass(frozen=True)
class Calibration:
    """The limit above which the two networks differ so much that a person should inspect the case.

    Parameters
    ----------
    threshold_mm
        95HD between the two masks above which a case is flagged.
    bad_mm
        True 95HD above which a case is bad; the flag warns of bad cases.
    spearman
        Rank correlation of the 95HD between the networks with the true 95HD.
    auroc
        Area under the ROC curve of bad cases against others: 1 is perfect, 0.5 is chance.
    cases
        Number of scans of the calibration, degraded copies included.
    found_on
        Description of these scans.
    """

    threshold_mm: Positive
    bad_mm: Positive
    spearman: Annotated[float, Ge(-1), Le(1)]
    auroc: Annotated[float, Ge(0), Le(1)]
    cases: Annotated[int, Gt(0)]
    found_on: str


# The entries of a training record that programs read, with their types; the others are for people.
RECORDED: dict[str, tuple[type, ...]] = {
    "config": (dict,), "data": (dict,), "cases": (dict,), "initialized_from": (dict, type(None)),
    "validation_cases": (dict,), "validation_kept_cases": (dict,), "validation_last": (list,),
    "validation_kept": (list,), "validation_default": (list,), "candidate": (str,), "kept": (str,),
    "fold": (str, type(None)), "iterations": (int,), "seconds": (int, float), "folder": (str,),
    "training_case_hashes": (list,), "inherited_case_hashes": (list,), "ensemble": (list,),
    "training": (dict,),
    "validation_from_unlabelled": (int,), "validation": (int, dict), "of": (str,),
}  # fmt: skip


# Those of them that hold entries of their own.
TABLES = ("config", "data", "cases", "initialized_from", "training")


def _is_record(training_record: Any) -> bool:
    """Return whether the entries of a training record have the types of `RECORDED`."""
    kinds = ((training_record[key], kinds) for key, kinds in RECORDED.items() if key in training_record)
    if not all(isinstance(value, kind) for value, kind in kinds):
        return False
    records = _items(training_record, "validation_last", "validation_kept", "validation_default")
    hashes = _items(training_record, "training_case_hashes", "inherited_case_hashes")
    members = _items(training_record, "ensemble")
    if not all(isinstance(item, dict) for item in (*records, *members)):
        return False
    if not all("candidate" in record for record in records) or not all(isinstance(h, str) for h in hashes):
        return False
    keys = ("validation_cases", "validation_kept_cases")
    cases = [case for key in keys for case in training_record.get(key, {}).values()]
    tables = (training_record.get(key) or {} for key in TABLES)
    inner = [*records, *members, *tables]
    return all(isinstance(case, dict) for case in cases) and all(_is_record(part) for part in inner if part)


def _items(training_record: dict[str, Any], *keys: str) -> list[Any]:
    return [item for key in keys for item in training_record.get(key, [])]


@closed
@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle except its weights.

    `training` (except the entries in `RECORDED`) and `parity` (of each exported graph, by its file name) are
    for people, not for programs. `networks` begins with the primary network. `linked_bundle` is the folder
    beside this one with more networks for the same task, see `ModelBundle.members`.
    """

    task: ReadTask
    networks: Annotated[tuple[Network, ...], Rule(lambda some: len(some) > 0, "at least one network")]
    files: dict[str, Annotated[str, Rule(lambda text: bool(SHA256.fullmatch(text)), "a sha256")]]
    training: Annotated[dict[str, Any], Rule(_is_record, "a record as training writes it")] = field(
        default_factory=dict
    )
    parity: dict[str, Any] = field(default_factory=dict)
    format: Literal[1] = 1
    uncertainty: Calibration | None = None
    linked_bundle: FileName | None = None
