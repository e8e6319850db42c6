"""ModelBundle: what training promises inference. A folder of plain files, each with its sha256.

    manifest.json       this module's `Manifest`
    model.safetensors   weights of the winner; convolutions in half precision, the rest in single
    model.onnx          its graph; reads the weights from model.safetensors
    partner.*           the same for the other network, where it ships; an ensemble has fold-2.*, fold-3.* ...
    README.md           the model card

Nothing in it is a pickle, and nothing is trusted whose hash is not the manifest's.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Le, Lt, MaxLen

from c3s3_seg.domain import Domain
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.files import PlainName, make_folder, plain_name, read_json, write_whole
from c3s3_seg.io.choice import SeriesRule
from c3s3_seg.ownership import check_set, replacing, restoring
from c3s3_seg.recipe import Recipe
from c3s3_seg.schema import Rule, closed, dump, parse

MANIFEST = "manifest.json"
CARD = "README.md"
WEIGHTS = Path(__file__).parent / "weights"

SIDES = 16  # every side of a patch is a multiple: the networks halve it four times
MODALITY = re.compile("[A-Za-z0-9][A-Za-z0-9_ -]{0,15}")
SHA256 = re.compile("[0-9a-f]{64}")
LARGEST_SIDE, LARGEST_PATCH = 1024, 2**26  # voxels; a patch of the latter takes 15 GB in OpenVINO

FileName = Annotated[str, PlainName]
Side = Annotated[int, Ge(SIDES), Le(LARGEST_SIDE), Rule(lambda n: n % SIDES == 0, f"multiples of {SIDES}")]
Patch = Annotated[
    tuple[Side, Side, Side],
    Rule(lambda sides: math.prod(sides) <= LARGEST_PATCH, f"at most {LARGEST_PATCH:,} voxels in all"),
]
Positive = Annotated[float, Gt(0)]
# What DICOM's code strings and short texts may hold (PS3.5, 6.2).
Modality = Annotated[
    str,
    Rule(lambda text: bool(MODALITY.fullmatch(text)), "a DICOM modality such as MR or CT"),
]
CodeText = Annotated[
    str,
    MaxLen(64),
    Rule(
        lambda text: text.strip() != "" and "\\" not in text and text.isprintable(),
        "a text without a backslash",
    ),
]


@closed
@dataclass(frozen=True)
class Code:
    """A coded concept, as DICOM SEG wants it (PS3.3, 8.8): `scheme` SCT is SNOMED CT."""

    value: CodeText
    meaning: CodeText
    scheme: CodeText = "SCT"


@closed
@dataclass(frozen=True)
class Label:
    """One foreground class: its name, its value in masks (1 to 255) and its code."""

    name: FileName
    value: Annotated[int, Ge(1), Le(255)]
    code: Code | None = None


def _differ(items: Iterable[str | int]) -> bool:
    """Whether no two are the same, for a file system that ignores case and how letters are composed, too."""
    found = [
        unicodedata.normalize("NFC", item).casefold() if isinstance(item, str) else item for item in items
    ]
    return len(set(found)) == len(found)


Labels = Annotated[
    tuple[Label, ...],
    Rule(lambda labels: len(labels) > 0, "at least one label"),
    Rule(lambda labels: _differ(label.name for label in labels), "labels with different names"),
    Rule(lambda labels: _differ(label.value for label in labels), "labels with different values"),
]


@closed
@dataclass(frozen=True)
class Task:
    """What a model does: to which scans, on which grid, with which answer.

    Parameters
    ----------
    name
        Of the bundle.
    modality
        DICOM modality of the scans it was trained on (MR, CT).
    labels
        Foreground classes in the order of the network's outputs 1, 2, ...; output 0 is background.
    recipe
        Scan grid <-> model grid.
    patch
        Voxels (x, y, z) of the training crops, and of the tiles in tiled inference.
    keep_largest
        Whether only the largest connected component of each label is kept (6-neighbours).
    overlap
        How inference runs unless told otherwise. None: the whole volume at once, while it is small
        enough. A number: tiles of `patch` that share this part of their side.
    series
        Which series of a study it wants, where a folder holds several volumes. None: the user says.
    domain
        What the scans were like that it was trained on. None: no scan is compared with them.
    """

    name: FileName
    modality: Modality
    labels: Labels
    recipe: Recipe
    patch: Patch
    keep_largest: bool = True
    overlap: Annotated[float, Ge(0), Lt(1)] | None = None
    series: SeriesRule | None = None
    domain: Domain | None = None

    @property
    def classes(self) -> int:
        """Outputs of the network, background included."""
        return len(self.labels) + 1

    @property
    def label_values(self) -> dict[str, int]:
        """Name -> value in masks."""
        return {label.name: label.value for label in self.labels}


def _measured_on_its_labels(task: Task) -> bool:
    volumes = task.domain.volume_ml if task.domain else None
    return set(volumes or ()) <= set(task.label_values)


ReadTask = Annotated[Task, Rule(_measured_on_its_labels, "volume_ml of its domain to name labels of its own")]


@closed
@dataclass(frozen=True)
class Network:
    """One backbone in the bundle. `stem` names its files: stem.safetensors, stem.onnx.

    A run has `model` and `partner`; an ensemble of folds `model`, which is the best of them, and others.
    """

    stem: FileName
    architecture: Literal["vnet", "resvnet"]
    filters: Annotated[int, Ge(1), Le(1024)]
    channels: Annotated[int, Ge(1), Le(1)] = 1

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
    """When the two networks differ so much that a person should look.

    Parameters
    ----------
    threshold_mm
        A 95HD between the two masks above this flags a case.
    bad_mm
        What it warns of: a true 95HD above this.
    spearman
        Rank correlation of the 95HD between the networks with the true one.
    auroc
        How well it tells bad cases from others: 1 perfectly, 0.5 by chance.
    cases
        Scans it was found on, worsened copies included.
    found_on
        Which scans, in words.
    """

    threshold_mm: Positive
    bad_mm: Positive
    spearman: Annotated[float, Ge(-1), Le(1)]
    auroc: Annotated[float, Ge(0), Le(1)]
    cases: Annotated[int, Gt(0)]
    found_on: str


# What programs read of how a bundle was trained; the rest is for people.
RECORDED: dict[str, tuple[type, ...]] = {
    "config": (dict,), "data": (dict,), "cases": (dict,), "begun_from": (dict, type(None)),
    "validation_cases": (dict,), "validation_last": (list,), "validation_kept": (list,), "candidate": (str,),
    "kept": (str,), "fold": (str, type(None)), "iterations": (int,), "seconds": (int, float),
}  # fmt: skip


def _is_record(facts: Any) -> bool:
    """Whether the facts of a training have the types with which they are read."""
    kinds = ((facts[key], kinds) for key, kinds in RECORDED.items() if key in facts)
    if not all(isinstance(value, kind) for value, kind in kinds):
        return False
    records = [*facts.get("validation_last", []), *facts.get("validation_kept", [])]
    if not all(isinstance(record, dict) and "candidate" in record for record in records):
        return False
    cases = facts.get("validation_cases", {}).values()
    inner = [*records, facts.get("config", {}), facts.get("begun_from") or {}]
    return all(isinstance(case, dict) for case in cases) and all(_is_record(part) for part in inner if part)


@closed
@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle but the numbers.

    `training` and `parity` (of each exported graph, by its file name) are for the reader, not for programs.
    `networks` begin with the winner. `companion` is the folder beside this one with more networks for the
    same task, see `members`.
    """

    task: ReadTask
    networks: Annotated[tuple[Network, ...], Rule(lambda some: len(some) > 0, "at least one network")]
    files: dict[str, Annotated[str, Rule(lambda text: bool(SHA256.fullmatch(text)), "a sha256")]]
    training: Annotated[dict[str, Any], Rule(_is_record, "facts as training writes them")] = field(
        default_factory=dict
    )
    parity: dict[str, Any] = field(default_factory=dict)
    format: Literal[1] = 1
    doubt: Calibration | None = None
    companion: FileName | None = None


@dataclass(frozen=True)
class ModelBundle:
    """A verified bundle folder."""

    folder: Path
    manifest: Manifest

    @classmethod
    def load(cls, folder: Path) -> ModelBundle:
        """Read a bundle and check the sha256 of every file it names.

        Raises
        ------
        InputError
            If there is no manifest, a value in it is not allowed, a file is missing or not the one that was
            released, or a network's weights are not among the files.
        """
        path = folder / MANIFEST
        if not _is_file(path):
            raise InputError(f"there is no {MANIFEST} here", where=folder, todo=_known_bundles())
        data = read_json(path)
        _check_finite(data, path)
        manifest = parse(Manifest, data, path)
        for name, expected in manifest.files.items():
            _verify(folder, name, expected)
        _check_networks(folder, manifest)
        return cls(folder, manifest)

    @classmethod
    def find(cls, name: str) -> ModelBundle:
        """A shipped bundle by its name, or any bundle by its folder."""
        shipped = WEIGHTS / name
        return cls.load(shipped if _is_file(shipped / MANIFEST) else Path(name))

    @classmethod
    def create(
        cls,
        folder: Path,
        task: Task,
        files: Mapping[str, bytes],
        networks: tuple[Network, ...],
        training: dict[str, Any],
    ) -> ModelBundle:
        """Write a new bundle; the manifest comes last, so that half a bundle is none."""
        make_folder(folder)
        empty = cls(folder, Manifest(task=task, networks=networks, files={}, training=training))
        with replacing(folder, files, MANIFEST):
            return empty.add(files)

    def add(self, files: Mapping[str, bytes], parity: Mapping[str, Any] | None = None) -> ModelBundle:
        """Write more files into the bundle, then the manifest with their hashes and their parity."""
        check_set(self.folder, files, MANIFEST)
        hashes = dict(self.manifest.files)
        hashes |= {
            plain_name(name, "the file", self.folder): hashlib.sha256(content).hexdigest()
            for name, content in files.items()
        }
        proofs = {**self.manifest.parity, **(parity or {})}
        manifest = replace(self.manifest, files=dict(sorted(hashes.items())), parity=proofs)
        with restoring(self.folder / name for name in (MANIFEST, *files)):
            for name, content in files.items():
                write_whole(self.folder / name, content)
            write_whole(self.folder / MANIFEST, json.dumps(dump(manifest), indent=1).encode())
        return ModelBundle(self.folder, manifest)

    def calibrated(self, domain: Domain | None = None, uncertainty: Calibration | None = None) -> ModelBundle:
        """Write the domain and the uncertainty limit into the manifest; None keeps what it has."""
        task = replace(self.manifest.task, domain=domain or self.manifest.task.domain)
        manifest = replace(self.manifest, task=task, doubt=uncertainty or self.manifest.doubt)
        return ModelBundle(self.folder, manifest).add({})

    @property
    def task(self) -> Task:
        """What the model does."""
        return self.manifest.task

    def members(self) -> list[tuple[ModelBundle, Network]]:
        """All networks for this task, winner first, each with the bundle that holds it.

        A bundle may name a companion, a folder beside it: another bundle of the same task, which brings
        the networks that would have made this one too large.

        Raises
        ------
        InputError
            If the companion is not there, is damaged, or does another task.
        """
        own = [(self, network) for network in self.networks]
        name = self.manifest.companion
        if name is None:
            return own
        folder = self.folder.parent / name
        if not _is_plain(name) or folder.resolve() == self.folder.resolve():
            raise InputError(f"the companion '{name}' is not a folder beside this one", where=self.folder)
        other = ModelBundle.load(folder)
        if (_outputs(other.task), other.task.recipe) != (_outputs(self.task), self.task.recipe):
            raise InputError("its labels or its recipe are not those of its companion", where=other.folder)
        return own + [(other, network) for network in other.networks]

    @property
    def networks(self) -> tuple[Network, ...]:
        """The backbones, winner first."""
        return self.manifest.networks

    def has(self, name: str) -> bool:
        """Whether the manifest names this file."""
        return name in self.manifest.files


def shipped_bundles() -> list[str]:
    """Names of the bundles that come with the package."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST}"))


def _known_bundles() -> str:
    return f"Give a folder with a {MANIFEST}, or the name of a shipped bundle: {', '.join(shipped_bundles())}"


def _outputs(task: Task) -> list[tuple[str, int]]:
    """What the network's outputs mean, in their order."""
    return [(label.name, label.value) for label in task.labels]


def _is_file(path: Path) -> bool:
    """Whether a file is there; a name that no file system takes is none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def _is_plain(name: str) -> bool:
    try:
        return bool(PlainName(name))
    except ValueError:
        return False


def _check_finite(data: Any, where: Path) -> None:
    """JSON as Python reads it may hold NaN and infinity, in which every comparison goes astray."""
    waiting = [("", data)]
    while waiting:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += [(f"{key}.{name}" if key else name, item) for name, item in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{key}.{n}", item) for n, item in enumerate(value)]
        elif isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} = {value}: wanted a finite number", where=where)


def _check_networks(folder: Path, manifest: Manifest) -> None:
    """Each network has weights of its own, and they are among the files whose hashes were checked."""
    weights = [network.weights for network in manifest.networks]
    for name in weights:
        if name not in manifest.files:
            raise InputError(f"the manifest names a network in '{name}' and no hash of it", where=folder)
    if not _differ(weights):
        raise InputError("the manifest names two networks with the same stem", where=folder)


def _verify(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    if not _is_plain(name) or path.is_symlink():
        raise InputError(f"the manifest names '{name}', wanted a plain file inside the bundle", where=folder)
    if not _is_file(path):
        raise InputError("the manifest names this file, but it is not there", where=path)
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror or error})", where=path) from error
    if found != expected:
        todo = "Get the bundle again; do not use this one"
        raise InputError(
            f"sha256 is {found[:12]}..., the manifest says {expected[:12]}...", where=path, todo=todo
        )
