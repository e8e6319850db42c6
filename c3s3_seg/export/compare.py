"""Compare an exported network with torch, on patches and on whole scans, before it is written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.bundle import ModelBundle, Task
from c3s3_seg.dataset.index import IMAGES
from c3s3_seg.errors import InputError
from c3s3_seg.export.parity import Parity, ScanParity
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.backends.execute import Backend, run
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.tiling import Shape, Tiling, softmax
from c3s3_seg.io import load
from c3s3_seg.metrics.surface_distance import surface_distances
from c3s3_seg.phantom import simulate
from c3s3_seg.system.choices import PhantomModality

FloatArray = NDArray[np.float32]
SUM_TOL = 1e-2  # a softmax in half precision rounds each of a few probabilities by 5e-4 at most


def compare(
    task: Task,
    expected: Sequence[Backend],
    found: Sequence[Backend],
    scans: Sequence[Volume],
    precision: str = "float32",
) -> Parity:
    """Compare both on patches of the training size that cover each scan, and on each whole scan.

    Parameters
    ----------
    task
        Task with the recipe, the patch size and the labels.
    expected, found
        torch and the export: one backend, or several whose probabilities are averaged.
    scans
        Scans to compare on, at least one.
    precision
        Precision whose limits apply.

    Raises
    ------
    InputError
        If a scan cannot be segmented by torch either; of a simulated one, the message says so.
    """
    patches = [patch for scan in scans for patch in _patches(task, scan)]
    differences, flipped = [], 0
    for patch in patches:
        a = _probabilities(expected, patch, task.classes)
        try:
            b = _probabilities(found, patch, task.classes)
        except InputError:  # output of a wrong shape or no probabilities: the largest possible difference
            b = np.full_like(a, np.nan)
        differences.append(_largest(a, b))
        flipped += int((a.argmax(1) != b.argmax(1)).sum())
    return Parity(
        precision=precision,
        runtime=found[0].name,
        patches=len(patches),
        voxels=sum(patch.size for patch in patches),
        difference=max(differences),
        flipped=flipped,
        scans=tuple(_compare_scan(task, expected, found, scan) for scan in scans),
    )


def _compare_scan(
    task: Task, expected: Sequence[Backend], found: Sequence[Backend], scan: Volume
) -> ScanParity:
    settings = Settings(probabilities=True)
    # The scan may be out of domain: two runtimes are compared, whatever it shows.
    task = replace(task, domain=None)
    with _naming_simulated(scan):
        a = Predictor(task, expected, settings)(scan, allow_out_of_domain=True)
    try:
        b = Predictor(task, found, settings)(scan, allow_out_of_domain=True)
    except InputError:
        nothing = replace(a.mask, array=np.zeros_like(a.mask.array))
        return replace(masks_apart(task, a.mask, nothing, np.inf), flipped=a.mask.array.size)
    differences = [_largest(p.array, b.probabilities[n].array) for n, p in a.probabilities.items()]
    return masks_apart(task, a.mask, b.mask, max(differences))


@contextmanager
def _naming_simulated(scan: Volume) -> Iterator[None]:
    """Name a scan that has no file in an error, which the user may take for one of the model."""
    try:
        yield
    except InputError as error:
        if scan.source.path is not None:
            raise
        what = f"the export is compared on a simulated scan ({scan.source.modality or 'of no modality'})"
        todo = "Give a scan of the kind that the model was trained on with --check"
        raise InputError(f"{what}, which does not suit this model: {error.what}", todo=todo) from error


def masks_apart(task: Task, a: Volume, b: Volume, difference: float) -> ScanParity:
    """Return the parity of two masks on one grid, `a` the reference; `difference` is passed on."""
    spacing_mm = a.geometry.spacing_mm
    half_mm = float(spacing_mm.min()) / 2
    dice, hd95, asd, nsd = [1.0], [0.0], [0.0], [1.0]
    for label in task.labels:
        x, y = a.array == label.value, b.array == label.value
        if not (x.any() or y.any()):
            continue
        surfaces = surface_distances(y, x, spacing_mm)
        dice.append(2 * np.count_nonzero(x & y) / (np.count_nonzero(x) + np.count_nonzero(y)))
        hd95.append(surfaces.hd95())
        asd.append(surfaces.asd())
        nsd.append(surfaces.nsd(half_mm))
    return ScanParity(
        difference=difference,
        flipped=int(np.count_nonzero(a.array != b.array)),
        voxels=a.array.size,
        labelled=int(np.count_nonzero(a.array)),
        dice=float(min(dice)),
        hd95_mm=max(hd95),
        asd_mm=max(asd),
        nsd=min(nsd),
        voxel_mm=2 * half_mm,
    )


def _largest(a: FloatArray, b: FloatArray) -> float:
    """Return the largest |difference|; infinite if a difference is not finite."""
    difference = float(np.abs(a - b).max())
    return difference if np.isfinite(difference) else np.inf


def _probabilities(backends: Sequence[Backend], patch: FloatArray, classes: int) -> FloatArray:
    found = [softmax(run(backend, patch, classes)) for backend in backends]
    return np.mean(found, axis=0, dtype=np.float32)  # type: ignore[no-any-return]


def _patches(task: Task, scan: Volume) -> list[FloatArray]:
    volume = task.recipe.to_model(scan).array
    tiling = Tiling.overlapping(volume.shape, task.patch, 0.25)
    padded = np.pad(volume, [(0, n - m) for n, m in zip(tiling.shape, volume.shape, strict=True)])
    return [np.ascontiguousarray(padded[tile])[None, None] for tile in tiling.slices()]


class ProbabilityBackend:
    """A backend, which gives logits, around a file that gives probabilities: softmax(log p) = p.

    Parameters
    ----------
    run
        Function (N, 1, X, Y, Z) -> probabilities (N, C, X, Y, Z).
    name
        Name of the runtime.
    batch
        N if the file fixes it: each patch is then repeated N times.
    largest_tile
        Largest sides (x, y, z) of a patch, see `Backend`; None: no limit.
    """

    def __init__(
        self,
        run: Callable[[FloatArray], FloatArray],
        name: str,
        batch: int | None = None,
        largest_tile: Shape | None = None,
    ) -> None:
        self._run, self.name, self._batch = run, name, batch
        if largest_tile is not None:
            self.largest_tile = largest_tile

    def __call__(self, patches: FloatArray) -> FloatArray:
        """Run the file as a `Backend`.

        Raises
        ------
        InputError
            If the file's output does not add up to 1, which a softmax of its logarithm would hide.
        """
        if self._batch is None or self._batch == len(patches):
            output = self._run(patches)
        else:
            one_by_one = [self._run(np.repeat(patch[None], self._batch, axis=0))[-1] for patch in patches]
            output = np.stack(one_by_one)
        if not (np.abs(output.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOL).all():
            raise InputError(f"{self.name} gives numbers that do not add up to 1, wanted probabilities")
        return np.asarray(np.log(np.maximum(output, 1e-30)), dtype=np.float32)


def check_scans(bundle: ModelBundle, given: Sequence[Path]) -> tuple[list[Volume], str]:
    """Return the scans to compare on, and their name for the report.

    These are the given scans; else a validation case of the data that the bundle was trained on, if its
    folder is available; else a phantom of the bundle's modality: MR for any other than CT.
    """
    if given:
        return [_given(path, bundle) for path in given], f"{len(given)} given scan(s)"
    training_record = bundle.manifest.training
    cases: dict[str, object] = next(iter(training_record.get("validation_cases", {}).values()), {})
    folder = Path(training_record.get("config", {}).get("data", {}).get("folder", ""))
    for name in cases:
        path = folder / IMAGES / f"{name}.nii.gz"
        # A bundle may contain any name or path: only a case of the data set is read.
        if name == os.path.basename(name) and os.path.isfile(path):
            return [load(path)], f"validation case {name}"
    # An MR phantom has other intensities than a CT, and may be flat in the window of a CT model.
    modality: PhantomModality = "CT" if bundle.task.modality.upper() == "CT" else "MR"
    return [simulate(0, modality=modality).scan], f"a simulated {modality} scan"


def _given(path: Path, bundle: ModelBundle) -> Volume:
    try:
        return load(path, rule=bundle.task.series_rule)
    except InputError as error:
        if not error.todo or "--" not in error.todo:
            raise
        # `export` has none of the options by which `predict` chooses a series or repairs a scan.
        raise type(error)(error.what, where=error.where, todo="Give another scan to compare on") from error
