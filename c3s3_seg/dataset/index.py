"""Read and write dataset.json: the cases of a data set, their splits and their patients.

    dataset.json    this module's `DataSet`; other keys (source, ...) are for the reader
    imagesTr/       one image file per case: CASE.nii.gz
    labelsTr/       masks of the labelled and validation cases, with the same names
    imagesTs/, labelsTs/    the same for test cases, if there are any

Data sets of the Medical Segmentation Decathlon and of nnU-Net use the same folders; `c3s3-seg prepare`
writes such an index for them.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from c3s3_seg.dataset.index_keys import Texts, channel, parse_labels, read_index
from c3s3_seg.errors import ConfigError, InputError, quantity
from c3s3_seg.io.cases import mask_files
from c3s3_seg.io.image.files import IMAGE_SUFFIXES
from c3s3_seg.io.modality import modality_code
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.names import PlainName
from c3s3_seg.system.schema import closed, dump, parse

INDEX = "dataset.json"
IMAGES, MASKS = "imagesTr", "labelsTr"
SPLITS = ("labelled", "unlabelled", "validation", "test")
TEST_FOLDERS = {IMAGES: "imagesTs", MASKS: "labelsTs"}
BACKGROUND = "background"  # the name of the value 0 among the labels


@closed
@dataclass(frozen=True)
class Splits:
    """The names of the cases of each split; no case is in two splits.

    Parameters
    ----------
    labelled, unlabelled
        Cases to train on.
    validation
        Cases to choose weights by; they are not trained on.
    test
        Cases to measure once, at the end: not used for training or for choosing weights. Their files lie
        in `imagesTs` and `labelsTs`, and they are not among `cases`.
    """

    labelled: tuple[str, ...] = ()
    unlabelled: tuple[str, ...] = ()
    validation: tuple[str, ...] = ()
    test: tuple[str, ...] = ()

    @property
    def cases(self) -> tuple[str, ...]:
        """All names for training: labelled, unlabelled, validation."""
        return self.labelled + self.unlabelled + self.validation

    def hold_out(self, count: int) -> Splits:
        """Hold out the last `count` unlabelled cases for validation, unless there are validation cases.

        Raises
        ------
        ConfigError
            If there are fewer unlabelled cases, or `count` is negative.
        """
        if self.validation or not count:
            return self
        if not 0 < count <= len(self.unlabelled):
            there = f"the data have {quantity(len(self.unlabelled), 'unlabelled case')}"
            raise ConfigError(f"data.validation_from_unlabelled = {count}, but {there}")
        cut = len(self.unlabelled) - count
        return replace(self, unlabelled=self.unlabelled[:cut], validation=self.unlabelled[cut:])

    def label_only(self, count: int) -> Splits:
        """Keep the first `count` labelled cases; the others become unlabelled, their masks unused."""
        spared = self.labelled[count:]
        return replace(self, labelled=self.labelled[:count], unlabelled=self.unlabelled + spared)


@closed
@dataclass(frozen=True)
class CaseRecord:
    """The origin of a case; written by `prepare`.

    Parameters
    ----------
    patient
        Pseudonym shared by all scans of one person, never a name or an id.
    sha256
        Hashes of the files in this folder: `image`, and `label` if there is one.
    source
        Places of `image` and `label` relative to the searched folder; for DICOM only a description.
    source_sha256
        Hashes of the source files, with the same keys.
    notes
        Notes on changes and omissions.
    values
        Foreground values in the mask.
    settings
        sha256 of the settings that the files depend on.
    voxels_sha256
        Hash of the scan's voxels, see `voxels`: equal for the same scan in another format.
    """

    patient: str
    sha256: dict[str, str]
    source: dict[str, str]
    source_sha256: dict[str, str]
    notes: tuple[str, ...] = ()
    values: tuple[int, ...] = ()
    settings: str = ""
    voxels_sha256: str = ""


@dataclass(frozen=True)
class _Head:
    name: str = ""
    empty_masks: bool = False


@dataclass(frozen=True)
class DataSet:
    """A folder with its index.

    Parameters
    ----------
    folder
        Folder with the index, `imagesTr` and `labelsTr`.
    name, modality
        Name and modality of the data set; the modality as in DICOM (MR, CT), see `modality_code`; empty if
        unknown.
    labels
        Foreground labels: name -> value in the masks.
    splits
        Cases of each split.
    records
        Case -> its origin; only for cases that `prepare` added.
    patient_of
        Case -> its patient, if stated by hand in the index; it overrides records and names.
    empty_masks
        Whether a labelled case may hold nothing but background, and is trained on as such.
    predicted
        Cases whose mask is an uncorrected prediction, as `prepare` noted: for training, not for validation.
    """

    folder: Path
    name: str = ""
    modality: str = ""
    labels: Mapping[str, int] = field(default_factory=dict)
    splits: Splits = Splits()
    records: Mapping[str, CaseRecord] = field(default_factory=dict)
    patient_of: Mapping[str, str] = field(default_factory=dict)
    empty_masks: bool = False
    predicted: frozenset[str] = frozenset()

    @classmethod
    def load(cls, folder: Path) -> DataSet:
        """Read the index; the scans are not opened.

        Raises
        ------
        InputError
            If there is no index, it is not JSON, a case is named twice, or a label is a region.
        ConfigError
            If a key has an invalid value, or a case's name is not a plain file name.
        """
        path = folder / INDEX
        data = read_index(path)
        head = parse(_Head, {key: data[key] for key in ("name", "empty_masks") if key in data}, path)
        splits = Splits(**parse(dict[str, tuple[PlainName, ...]], {k: data.get(k, []) for k in SPLITS}, path))
        _refuse_twice(splits, path)
        tables = parse(dict[str, dict[str, Any]], {k: data.get(k, {}) for k in ("cases", "patient_of")}, path)
        by_case = parse(dict[PlainName, CaseRecord], tables["cases"], path)
        records = {str(case): record for case, record in by_case.items()}
        return cls(
            folder,
            head.name,
            modality_code(channel(data, "modality", path)),
            parse_labels(data.get("labels", {}), path),
            splits,
            records,
            parse(Texts, {"patient_of": tables["patient_of"]}, path)["patient_of"],
            head.empty_masks,
            _predicted(data),
        )

    def save(self, **more: Any) -> Path:
        """Write the index, with further keys for the reader, and return its path."""
        head: dict[str, Any] = {
            "name": self.name,
            "modality": self.modality,
            "labels": {BACKGROUND: 0, **self.labels},
        }
        records = {name: dump(record) for name, record in self.records.items()}
        if self.patient_of:
            head["patient_of"] = dict(self.patient_of)
        if self.empty_masks:
            head["empty_masks"] = True
        content = {**head, **more, **dump(self.splits), **({"cases": records} if records else {})}
        path = self.folder / INDEX
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        write_whole(path, text.encode("utf-8", "backslashreplace"))  # file names need not be Unicode
        return path

    def scan(self, case: str) -> Path:
        """Return the scan's file.

        Raises
        ------
        InputError
            If there is no such file, or more than one.
        """
        return self._file(IMAGES, case)

    def mask(self, case: str) -> Path:
        """Return the mask's file.

        Raises
        ------
        InputError
            If there is no such file, or more than one.
        """
        return self._file(MASKS, case)

    def has_mask(self, case: str) -> bool:
        """Return whether there is a mask, in whatever split the case is."""
        return bool(self._candidates(MASKS, case))

    def place(self, kind: str, case: str) -> Path:
        """Return the folder for the scan (`imagesTr`) or mask (`labelsTr`) of a case; `...Ts` for tests."""
        return self.folder / (TEST_FOLDERS[kind] if case in self.splits.test else kind)

    def candidates(self, case: str) -> tuple[list[Path], list[Path]]:
        """Return the files that may be the scan and the mask of a case; there should be one of each."""
        return self._candidates(IMAGES, case), self._candidates(MASKS, case)

    def _file(self, kind: str, case: str) -> Path:
        found = self._candidates(kind, case)
        if len(found) != 1:
            what = f"found {len(found)} image files named '{case}', wanted one"
            raise InputError(what, where=self.place(kind, case))
        return found[0]

    def _candidates(self, kind: str, case: str) -> list[Path]:
        if kind == MASKS:
            return mask_files(self.place(kind, case), case)
        paths = (self.place(kind, case) / f"{case}{suffix}" for suffix in IMAGE_SUFFIXES)
        # Unlike Path.is_file, os.path.isfile does not raise for a name that is too long.
        return [path for path in paths if os.path.isfile(path)]


def _predicted(data: Mapping[str, Any]) -> frozenset[str]:
    made = data.get("prepared")
    names = made.get("uncorrected") if isinstance(made, dict) else None
    return frozenset(n for n in names if isinstance(n, str)) if isinstance(names, list) else frozenset()


def _refuse_twice(splits: Splits, path: Path) -> None:
    twice = [name for name, count in Counter(splits.cases + splits.test).items() if count > 1]
    if twice:
        more = f" and {len(twice) - 1} more" if len(twice) > 1 else ""
        what = f"names the case '{twice[0]}'{more} twice; no case may be in training and in validation"
        raise InputError(what, where=path)


def is_inside(root: Path, path: Path) -> bool:
    """Return whether a path lies in a folder, with links followed."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))
