"""A small clean data set of phantoms, and faults to plant in copies of it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from c3s3_seg.geometry.volume import Array, Geometry, Volume
from c3s3_seg.io import load, load_mask, save
from c3s3_seg.phantom import Simulator, simulate

SMALL = Simulator(shape=(56, 52, 32), spacing_mm=(2.5, 2.5, 3.2))
LABELS = {"background": 0, "lower": 1, "upper": 2}
LABELLED = [f"heart-{n}" for n in range(6)]
UNLABELLED = [f"heart-{n}" for n in range(6, 9)]
VALIDATION = [f"heart-{n}" for n in range(9, 12)]
CASE = LABELLED[1]  # the case in which a fault is planted by default


def clean_set(folder: Path) -> Path:
    """Write a data set of twelve phantoms; the mask's upper half is a label of its own. Return its folder."""
    for name in ("imagesTr", "labelsTr"):
        (folder / name).mkdir(parents=True)
    for number, name in enumerate(LABELLED + UNLABELLED + VALIDATION):
        phantom = simulate(500 + number, SMALL)
        truth = phantom.truth.array.copy()
        middle = int(np.argwhere(truth)[:, 2].mean())
        truth[:, :, middle:] *= 2
        save(phantom.scan, image_of(folder, name))
        if name not in UNLABELLED:
            save(phantom.truth.geometry.volume(truth), mask_of(folder, name))
    index = {"name": "hearts", "modality": "MR", "labels": LABELS}
    index |= {"labelled": LABELLED, "unlabelled": UNLABELLED, "validation": VALIDATION}
    (folder / "dataset.json").write_text(json.dumps(index))
    return folder


def copy_of(clean: Path, folder: Path) -> Path:
    """Return a copy that shares the original's files (hard links) until they are replaced."""
    return Path(shutil.copytree(clean, folder, copy_function=os.link))


def image_of(folder: Path, case: str = CASE) -> Path:
    return folder / "imagesTr" / f"{case}.nii.gz"


def mask_of(folder: Path, case: str = CASE) -> Path:
    return folder / "labelsTr" / f"{case}.nii.gz"


def change(path: Path, what: Callable[[Array], Array], geometry: Geometry | None = None) -> None:
    volume = load(path)
    array = np.ascontiguousarray(what(volume.array))
    save((geometry or volume.geometry).volume(array), path)


def edit_index(folder: Path, what: Callable[[dict], None]) -> None:
    path = folder / "dataset.json"
    index = json.loads(path.read_text())
    what(index)
    path.unlink()
    path.write_text(json.dumps(index))


def cropped(volume: Volume, box: tuple[slice, slice, slice]) -> Volume:
    affine = volume.geometry.affine.copy()
    affine[:3, 3] = volume.geometry.to_mm([part.start or 0 for part in box])
    array = np.ascontiguousarray(volume.array[box])
    return Geometry(array.shape, affine).volume(array)


def crop_both(folder: Path, box: tuple[slice, slice, slice], case: str = CASE) -> None:
    for path in (image_of(folder, case), mask_of(folder, case)):
        if path.exists():
            save(cropped(load(path), box), path)


@dataclass(frozen=True)
class Plant:
    """A fault: the function that plants it, the check that finds it, the severity and the cases."""

    name: str
    do: Callable[..., None]
    severity: str
    check: str
    cases: tuple[str, ...] = (CASE,)

    def finding(self, case: str = CASE) -> tuple[str, str, tuple[str, ...]]:
        """Return the finding expected if the fault is planted in `case`: severity, check, cases."""
        return self.severity, self.check, tuple(name.replace(CASE, case) for name in self.cases)


def other_grid(folder: Path, case: str = CASE) -> None:
    mask = load(mask_of(folder, case))
    save(cropped(mask, (slice(0, 50), slice(0, 52), slice(0, 32))), mask_of(folder, case))


def moved_mask(folder: Path, case: str = CASE) -> None:
    change(mask_of(folder, case), lambda mask: np.roll(mask, 12, axis=0))


def unknown_value(folder: Path, case: str = CASE) -> None:
    def seven(mask: Array) -> Array:
        mask = mask.copy()
        mask[tuple(np.argwhere(mask)[0])] = 7
        return mask

    change(mask_of(folder, case), seven)


def two_hundred_and_fifty_five(folder: Path, case: str = CASE) -> None:
    change(mask_of(folder, case), lambda mask: (mask > 0) * np.uint8(255))


def stray(folder: Path, case: str = CASE) -> None:
    shutil.copy(image_of(folder, case), image_of(folder, "stray"))


def mask_among_scans(folder: Path, case: str = CASE) -> None:
    shutil.copy(mask_of(folder, case), image_of(folder, f"{case}_seg"))


def fractions(folder: Path, case: str = CASE) -> None:
    change(mask_of(folder, case), lambda mask: mask.astype(np.float32) * 0.9)


def second_piece(folder: Path, case: str = CASE) -> None:
    def two(mask: Array) -> Array:
        mask = mask.copy()
        mask[2:10, 2:10, 2:8] = 1
        return mask

    change(mask_of(folder, case), two)


def tiny_mask(folder: Path, case: str = CASE) -> None:
    from scipy import ndimage

    change(
        mask_of(folder, case), lambda mask: np.where(ndimage.binary_erosion(mask > 0, iterations=3), mask, 0)
    )


def turned_case(folder: Path, case: str = CASE) -> None:
    for path in (image_of(folder, case), mask_of(folder, case)):
        change(path, lambda array: np.flip(array, (0, 1)))


def wrong_header(folder: Path, case: str = CASE) -> None:
    for path in (image_of(folder, case), mask_of(folder, case)):
        volume = load(path)
        affine = volume.geometry.affine.copy()
        affine[:, 1] *= -1
        affine[:3, 3] = volume.geometry.to_mm([0, volume.array.shape[1] - 1, 0])
        save(Geometry(volume.array.shape, affine).volume(volume.array), path)


def same_scan(folder: Path, case: str = CASE) -> None:
    path = image_of(folder, VALIDATION[0])
    path.unlink()
    shutil.copy(image_of(folder, case), path)
    mask = mask_of(folder, VALIDATION[0])
    mask.unlink()
    shutil.copy(mask_of(folder, case), mask)


def saved_again(folder: Path, case: str = CASE) -> None:
    """Plant a copy of the scan that is brighter, noisier and cropped by two voxels."""
    same_scan(folder, case)
    crop_both(folder, (slice(2, 56), slice(2, 50), slice(0, 31)), VALIDATION[0])
    noise = np.random.default_rng(0)

    def brighter(image: Array) -> Array:
        return (image * 1.7 + 90 + noise.normal(0, 0.1 * image.std(), image.shape)).astype(np.float32)

    change(image_of(folder, VALIDATION[0]), brighter)


def records(folder: Path, patients: dict[str, str]) -> None:
    def add(index: dict) -> None:
        index["cases"] = {
            case: {
                "patient": patient,
                "sha256": {"image": sha256(image_of(folder, case).read_bytes()).hexdigest()},
                "source": {"image": case},
                "source_sha256": {},
            }
            for case, patient in patients.items()
        }

    edit_index(folder, add)


def same_patient(folder: Path, case: str = CASE) -> None:
    records(folder, {case: "p-1", VALIDATION[0]: "p-1", LABELLED[2]: "p-2", LABELLED[3]: "p-2"})


def changed_file(folder: Path, case: str = CASE) -> None:
    records(folder, {case: "p-1"})
    change(image_of(folder, case), lambda image: image + 1)


def with_nan(folder: Path, case: str = CASE) -> None:
    import SimpleITK

    image = SimpleITK.Cast(SimpleITK.ReadImage(str(image_of(folder, case))), SimpleITK.sitkFloat32)
    image[3, 4, 5] = float("nan")
    image_of(folder, case).unlink()
    path = folder / "imagesTr" / f"{case}.mha"  # in NIfTI, SimpleITK would write a zero for NaN
    SimpleITK.WriteImage(image, str(path))


def inverted(folder: Path, case: str = CASE) -> None:
    change(image_of(folder, case), lambda image: image.max() - image)


def clipped(folder: Path, case: str = CASE) -> None:
    change(
        image_of(folder, case), lambda image: np.minimum(image, np.quantile(image, 0.97)).astype(image.dtype)
    )


def truncated(folder: Path, case: str = CASE) -> None:
    content = image_of(folder, case).read_bytes()
    image_of(folder, case).unlink()
    image_of(folder, case).write_bytes(content[: len(content) // 2])


def named_like_a_copy(folder: Path, case: str = CASE) -> None:
    def rename(index: dict) -> None:
        index["validation"][0] = f"{case}_aug"

    edit_index(folder, rename)
    for kind in ("imagesTr", "labelsTr"):
        (folder / kind / f"{VALIDATION[0]}.nii.gz").rename(folder / kind / f"{case}_aug.nii.gz")


def cut_off(folder: Path, case: str = CASE) -> None:
    mask = load_mask(mask_of(folder, case)).array
    used = np.flatnonzero((mask > 0).any(axis=(1, 2)))
    start = int(used[0] + (used[-1] - used[0]) * 0.45)
    crop_both(folder, (slice(start, None), slice(None), slice(None)), case)


def wrong_spacing(folder: Path, case: str = CASE) -> None:
    path = image_of(folder, UNLABELLED[0])
    volume = load(path)
    affine = volume.geometry.affine.copy()
    affine[:, 2] *= 1.8
    save(Geometry(volume.array.shape, affine).volume(volume.array), path)


def mask_as_image(folder: Path, case: str = CASE) -> None:
    change(image_of(folder, case), lambda _: load_mask(mask_of(folder, case)).array)


def no_upper(folder: Path, case: str = CASE) -> None:
    change(mask_of(folder, case), lambda mask: np.minimum(mask, 1) * (mask == 1))


PLANTS = (
    Plant("mask on another grid", other_grid, "error", "other-grid"),
    Plant("mask with an unknown value", unknown_value, "error", "mask-values"),
    Plant("mask of 0 and 255", two_hundred_and_fifty_five, "error", "mask-values"),
    Plant("mask with fractions", fractions, "error", "unreadable"),
    Plant(
        "mask that is empty",
        lambda f, case=CASE: change(mask_of(f, case), np.zeros_like),
        "error",
        "mask-empty",
    ),
    Plant("mask moved", moved_mask, "warning", "mask-moved"),
    Plant(
        "mask mirrored",
        lambda f, case=CASE: change(mask_of(f, case), lambda m: np.flip(m, 2)),
        "warning",
        "mask-mirrored",
    ),
    Plant("mask in two pieces", second_piece, "warning", "fragmented"),
    Plant("mask far too small", tiny_mask, "warning", "volume"),
    Plant("label missing", no_upper, "warning", "label-missing"),
    Plant("organ cut off", cut_off, "warning", "cut-off"),
    Plant("scan and mask turned", turned_case, "warning", "orientation"),
    Plant("header mirrored", wrong_header, "warning", "orientation"),
    Plant("spacing of another protocol", wrong_spacing, "warning", "spacing", (UNLABELLED[0],)),
    Plant("the same scan on both sides", same_scan, "error", "duplicate", (CASE, VALIDATION[0])),
    Plant("saved again on both sides", saved_again, "warning", "duplicate", (CASE, VALIDATION[0])),
    Plant("one patient on both sides", same_patient, "error", "patient-leak", (VALIDATION[0], CASE)),
    Plant("file changed since", changed_file, "warning", "changed-file"),
    Plant(
        "constant scan",
        lambda f, case=CASE: change(image_of(f, case), lambda i: np.full_like(i, 9)),
        "error",
        "constant",
    ),
    Plant("NaN in the scan", with_nan, "error", "unreadable"),
    Plant("intensities inverted", inverted, "warning", "unlike"),
    Plant("intensities clipped", clipped, "warning", "clipped"),
    Plant("a mask in place of the scan", mask_as_image, "warning", "image-is-mask"),
    Plant("file truncated", truncated, "error", "unreadable"),
    Plant("scan missing", lambda f, case=CASE: image_of(f, case).unlink(), "error", "no-file"),
    Plant("mask missing", lambda f, case=CASE: mask_of(f, case).unlink(), "error", "no-file"),
    Plant("scan not listed", stray, "warning", "unlisted", ("stray",)),
    Plant("mask among the scans", mask_among_scans, "warning", "mask-among-scans", (f"{CASE}_seg",)),
    Plant("a copy by its name", named_like_a_copy, "warning", "name-copy", (CASE, f"{CASE}_aug")),
)
