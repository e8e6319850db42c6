"""The one path from a scan to its mask: check, locate, prepare, network, to_scan_grid.

The command line, batches, validation in training and the Python API all take it. The steps can be run
apart, each by a thread of its own: `prepare` scan n + 1 and `to_scan_grid` scan n - 1 while the `network`
works on scan n. Nothing in a `Predictor` changes while it is used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from c3s3_seg.bundle import Task
from c3s3_seg.bundle.preprocessing import FlatScanError
from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.geometry.box import Box, parse_box
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend
from c3s3_seg.inference.backends.select import describe
from c3s3_seg.inference.domain_check import (
    CheckResult,
    DomainCheck,
    check_frame,
    check_intensities,
    check_volumes,
)
from c3s3_seg.inference.mask_builder import MaskBuilder
from c3s3_seg.inference.memory import MEASURED_FILTERS, Costs, check_free_memory, costs_of
from c3s3_seg.inference.place import place_for
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.inference.roi import COARSE, find_region
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.steps import CheckedScan, PreparedScan
from c3s3_seg.inference.tiled_network import Probabilities, TiledNetwork
from c3s3_seg.inference.tiling import FloatArray
from c3s3_seg.inference.uncertainty import NetworkComparison
from c3s3_seg.system.hardware import is_memory_error
from c3s3_seg.system.progress import Progress

__all__ = ["CheckedScan", "Prediction", "Predictor", "PreparedScan", "Settings"]


class Predictor:
    """A task, the networks that do it, and the settings; call it with scans.

    Parameters
    ----------
    task
        From the bundle.
    backends
        One network, or several whose probabilities are averaged.
    settings
        How to run.
    costs
        What the networks take; None takes what was measured with 16 filters.
    comparison
        How to compare the networks, where the settings ask for it; None: all of them make the mask.
    remarks
        What else belongs in the JSON of each case.

    Raises
    ------
    InputError
        If a comparison is asked for and there is one network.
    MissingError
        If the steps around the network are to be done on its device, and it takes no tensors there.
    """

    def __init__(
        self,
        task: Task,
        backends: Sequence[Backend],
        settings: Settings | None = None,
        costs: Costs | None = None,
        comparison: NetworkComparison | None = None,
        remarks: Mapping[str, Any] | None = None,
    ) -> None:
        self.task, self.backends = task, tuple(backends)
        self.settings = (settings or Settings()).for_task(task)
        self.costs = costs or costs_of(self.backends[0].name, [MEASURED_FILTERS] * len(self.backends))
        self.remarks = dict(remarks or {})
        self.comparison = comparison or NetworkComparison(leading=len(self.backends))
        self._place = place_for(self.backends, self.settings)
        if self.settings.uncertainty and len(self.backends) < 2:
            raise InputError("uncertainty is the difference of two networks, and there is one")

    def __repr__(self) -> str:
        labels = ", ".join(label.name for label in self.task.labels)
        backend, count = self.backends[0].name, len(self.backends)
        return f"Predictor({self.task.name}, labels=({labels}), backend={backend}, networks={count})"

    @property
    def on_device(self) -> bool:
        """Whether the steps around the network are done where it runs: see `Settings.on_device`."""
        return self._place.arrays.on_device

    def record(self) -> dict[str, Any]:
        """What decides the masks, for the JSON of each case: runtime, device, precision, settings.

        `on_device` says which way the steps around the network went, whatever the settings left open.
        """
        where = {**describe(self.backends[0]), "on_device": self.on_device}
        where["networks"] = self.comparison.leading
        return {**where, **self.settings.record(), **self.remarks}

    def __call__(
        self,
        scan: Volume | str | os.PathLike[str],
        *,
        roi: str | None = None,
        allow_out_of_domain: bool = False,
        progress: Progress | None = None,
    ) -> Prediction:
        """Segment one scan, as `c3s3-seg predict` does.

        Parameters
        ----------
        scan
            A volume on its own grid, any orientation and spacing; or a path, which `c3s3_seg.load` reads.
        roi
            Where to look, as `parse_box` takes it: `x0:x1,y0:y1,z0:z1` in voxels, or in mm (LPS) with mm
            behind. None: everywhere or, in a scan larger than those in training, where the organ seems to be.
        allow_out_of_domain
            Segment a scan that the domain check refuses; the prediction's `check` and notes record it.
        progress
            Called with (what, done, total): windows while the organ is looked for, then tiles.

        Returns
        -------
        Prediction
            With the mask on the scan's own grid. An empty mask is no error: see `Prediction.empty`.

        Raises
        ------
        DomainError
            If the model was not trained for such a scan.
        InputError
            If there is no scan, the region holds no voxel, or the organ is not found in a larger scan.
        GeometryError, MemoryLimitError
            As `prepare` raises them.
        """
        checked = self.check(self._volume(scan), roi=roi, allow_out_of_domain=allow_out_of_domain)
        prepared = self.prepare(self.locate(checked, progress))
        return self.to_scan_grid(prepared, self.network(prepared, progress))

    def check(
        self, scan: Volume, *, roi: str | None = None, allow_out_of_domain: bool = False
    ) -> CheckedScan:
        """First step: compare the scan with those that the model was trained on.

        It does not run the network. In a scan that is larger than those in training the intensities are
        compared by `locate`, within the region.

        Raises
        ------
        DomainError
            If the model was not trained for such a scan, and it is not allowed.
        InputError
            If the voxels are no real numbers (but bool, complex or text), or the region is not one or holds
            no voxel.
        """
        if scan.array.dtype.kind not in "iuf":
            what = f"found voxels of type {scan.array.dtype}, wanted integers or floating-point numbers"
            raise InputError(what, where=scan.source.path)
        box: Box | None = None
        notes: tuple[str, ...] = ()
        if roi is not None:  # only that part will be segmented
            box, notes = parse_box(roi, scan.geometry), ("region of interest: as it was given",)
        task = self.task
        frame = box.crop(scan) if box else scan
        result = check_frame(frame, task.domain, task.modality, task.recipe.spacing_mm)
        result.settle(scan, allowed=allow_out_of_domain)
        checked = CheckedScan(scan, DomainCheck(result, box, notes), False, allow_out_of_domain)
        if box is None and result.larger:
            return replace(checked, search=True)
        return self._with_intensities(checked)

    def locate(self, checked: CheckedScan, progress: Progress | None = None) -> CheckedScan:
        """Second step: find the organ in a scan larger than those in training. Others stay as they are.

        Raises
        ------
        DomainError
            If the intensities of the region are not those of the training scans, and that is not allowed.
        InputError
            If nothing like the organ is found, and a scan out of the domain is not allowed.
        """
        domain = self.task.domain
        if not checked.search or domain is None:
            return checked
        spacing_mm = self.task.recipe.spacing_mm
        result = checked.check.result
        try:
            box, notes = find_region(checked.scan, spacing_mm, domain, self._foreground(), progress)
            check = DomainCheck(result, box, notes)
        except InputError as error:
            if not checked.allow_out_of_domain:
                raise
            check = DomainCheck(result + CheckResult((error.what,)))
        return self._with_intensities(replace(checked, check=check, search=False))

    def prepare(self, checked: CheckedScan) -> PreparedScan:
        """Third step: crop to the region, orient, resample and normalise.

        Where the network's device does that, here the scan is only checked, and `network` goes on.

        Raises
        ------
        GeometryError
            If the model's grid has far too many voxels for a scan.
        InputError
            If nothing is left in it for a network to see, or its intensities are not what float32 holds.
        MemoryLimitError
            If the model's grid has more than the free memory of the host holds, where that is done there.
        """
        started = time.perf_counter()
        scan, box = checked.scan, checked.check.region
        part = box.crop(scan) if box else scan
        shape = self.task.recipe.grid(part.geometry, scan.source.path).shape
        if not self._place.arrays.own_memory:
            # Of a GPU the scan before this one holds what it needs at the moment; `network` finds out.
            voxels, free = int(np.prod(shape, dtype=np.int64)), self._place.arrays.free()
            check_free_memory(voxels, free, self.settings.processes, scan.source.path)
        array = self._place.prepare(self.task.recipe, part)
        seconds = time.perf_counter() - started
        return PreparedScan(array, part.geometry, shape, scan.geometry, scan.source, checked.check, seconds)

    def compile_for(self, prepared: PreparedScan) -> None:
        """Have the networks compiled for the tiles of a scan before they run, where a runtime does so.

        Raises
        ------
        MemoryLimitError
            As `network` does.
        """
        compiled = [backend for backend in self.backends if isinstance(backend, OpenVinoBackend)]
        if not compiled:  # and where arrays lie on a GPU, it has its time for the scans
            return
        tile = self.network(prepared).tiling.tile
        for backend in compiled:
            backend.compile_for((1, 1, *tile))

    def network(self, prepared: PreparedScan, progress: Progress | None = None) -> Probabilities:
        """Fourth step, which runs as its slabs are taken: the networks, tile by tile.

        Raises
        ------
        InputError, MemoryLimitError
            As `prepare` raises them, where the scan is brought to the model's grid here.
        """
        started = time.perf_counter()
        part, where = prepared.part, prepared.source.path
        array = self._place.to_network(self.task.recipe, prepared.array, part, where)
        seconds = time.perf_counter() - started
        voxels = int(np.prod(part.shape, dtype=np.int64))
        found = TiledNetwork(self.task, self.backends, self.settings, self.costs)(array, voxels, progress)
        found.prepare_s = seconds
        return found

    def to_scan_grid(self, prepared: PreparedScan, probabilities: Probabilities) -> Prediction:
        """Fifth step: takes the slabs, and makes of them a mask on the scan's grid, in memory of the host.

        Raises
        ------
        InputError, MemoryLimitError
            If a network fails, gives what are no logits, or takes more memory than there is.
        """
        started = time.perf_counter()
        networks = len(self.backends) if self.settings.uncertainty else 1
        keep, leading = self.settings.probabilities, self.comparison.leading
        made = MaskBuilder(self.task, prepared.part, networks, leading, keep, self._place.arrays)
        try:
            made.fill(probabilities.slabs, prepared.shape)
        except RuntimeError as error:  # of a device; numpy's is a MemoryError
            if not is_memory_error(error):
                raise
            what = "memory was full on the device while the mask was made"
            raise MemoryLimitError(what, where=prepared.source.path) from error
        postprocessed = made.postprocess(self.settings.postprocessing(self.task))
        uncertainty = made.uncertainty(self.comparison)
        volume_ml = made.volume_ml()
        flag = uncertainty.note() if uncertainty else None
        warnings = (*((flag,) if flag else ()), *check_volumes(volume_ml, self.task.domain))
        seconds = time.perf_counter() - started - probabilities.seconds
        if uncertainty is not None:
            uncertainty = replace(uncertainty, map=prepared.on_scan_grid(uncertainty.map.array))
        return Prediction(
            mask=prepared.on_scan_grid(made.mask),
            volume_ml=volume_ml,
            seconds={
                "prepare": prepared.seconds + probabilities.prepare_s,
                "network": probabilities.seconds,
                "to_scan_grid": seconds,
            },
            tiles=len(probabilities.tiling),
            probabilities={name: prepared.on_scan_grid(array) for name, array in made.kept.items()},
            tile=probabilities.tiling.tile,
            postprocessed=postprocessed,
            check=prepared.check,
            remarks=(*probabilities.notes, *warnings),
            mask_warnings=warnings,
            uncertainty=uncertainty,
        )

    def _volume(self, scan: Volume | str | os.PathLike[str]) -> Volume:
        if isinstance(scan, Volume):
            return scan
        if isinstance(scan, str | os.PathLike):
            from c3s3_seg.io import load

            return load(os.fspath(scan), rule=self.task.series_rule)
        todo = "An array becomes a Volume with: Geometry.build(array.shape, spacing_mm).volume(array)"
        raise InputError(f"found {type(scan).__name__}, wanted a Volume or the path of a scan", todo=todo)

    def _with_intensities(self, checked: CheckedScan) -> CheckedScan:
        """Check the intensities, of the region where there is one; then settle the whole check."""
        scan, check = checked.scan, checked.check
        part = check.region.crop(scan) if check.region else scan
        result = check.result + check_intensities(part, self.task.domain)
        result.settle(scan, allowed=checked.allow_out_of_domain)
        return replace(checked, check=replace(check, result=result))

    def _foreground(self) -> _Foreground:
        """For the coarse pass. The region must not depend on other options: the primary network alone."""
        x, y, z = self.task.recipe.spacing_mm
        recipe = replace(self.task.recipe, spacing_mm=(x * COARSE, y * COARSE, z * COARSE))
        # A window of the scan is not one of the domain.
        task = replace(self.task, recipe=recipe, overlap=None, keep_largest=False, domain=None)
        own = self.settings
        settings = Settings(
            probabilities=True,
            memory_bytes=own.memory_bytes,
            processes=own.processes,
            on_device=own.on_device,
        )
        one = replace(self.costs, per_voxel=self.costs.per_voxel / len(self.backends))
        return _Foreground(Predictor(task, self.backends[:1], settings, one))


@dataclass(frozen=True)
class _Foreground:
    """A scan -> the probability of any label: (i, j, k) float32 on the scan's grid."""

    predictor: Predictor

    def __call__(self, scan: Volume) -> FloatArray:
        try:
            found = self.predictor(scan, allow_out_of_domain=True)
        except FlatScanError:  # air: on the model's grid and in its range nothing varies
            return np.zeros(scan.geometry.shape, np.float32)
        each = [volume.array for volume in found.probabilities.values()]
        return np.asarray(np.sum(each, axis=0), dtype=np.float32)
