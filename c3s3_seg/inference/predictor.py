"""Predict the mask of a scan in five steps: check, locate, prepare, network, to_scan_grid.

The command line, batch runs, validation in training and the Python API all use them. The steps can be run
separately, each in its own thread: `prepare` scan n + 1 and `to_scan_grid` scan n - 1 while the `network`
runs on scan n. Nothing in a `Predictor` changes while it is used.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from c3s3_seg.bundle import Task
from c3s3_seg.bundle.domain import Domain
from c3s3_seg.bundle.preprocessing import refuse_not_finite
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.arguments import FLAG, ArgumentKind, instances_of, require_volume
from c3s3_seg.geometry.box import parse_box
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend
from c3s3_seg.inference.backends.select import describe
from c3s3_seg.inference.domain_check import (
    NOT_COMPARED,
    CheckResult,
    DomainCheck,
    DomainError,
    check_frame,
    check_intensities,
    check_is_scan,
    check_volumes,
    refuse_shear,
)
from c3s3_seg.inference.mask_builder import MaskBuilder
from c3s3_seg.inference.memory import (
    ASSUMED,
    Costs,
    check_free_memory,
    costs_of,
    reporting_full_memory,
)
from c3s3_seg.inference.place import place_for
from c3s3_seg.inference.prediction import Prediction
from c3s3_seg.inference.roi import COARSE, CoarsePass, cut_by_region, find_region
from c3s3_seg.inference.settings import Settings
from c3s3_seg.inference.steps import CheckedScan, PreparedScan
from c3s3_seg.inference.tiled_network import Probabilities, TiledNetwork
from c3s3_seg.inference.uncertainty import NetworkComparison
from c3s3_seg.system.progress import Progress

__all__ = ["CheckedScan", "Prediction", "Predictor", "PreparedScan", "Settings"]

OTHER_ROI = "Give another region (--roi), choose another model"
CHECKED = instances_of(CheckedScan, "what Predictor.check or Predictor.locate has returned")
PREPARED = instances_of(PreparedScan, "what Predictor.prepare has returned")
CALLBACK = ArgumentKind("a function (what, done, total), or None", callable, lambda call: call).or_none()
PROBABILITIES = instances_of(Probabilities, "what Predictor.network has returned")


class Predictor:
    """A task, the networks that perform it, and the settings; the object is called with scans.

    Parameters
    ----------
    task
        Task of the bundle.
    backends
        One network, or several whose probabilities are averaged.
    settings
        Settings of inference; None: the defaults.
    costs
        Memory of the networks; None: those of V-Nets with 16 filters.
    comparison
        Comparison of the networks, if the settings request it; None: all networks make the mask.
    remarks
        Further entries of the JSON of each case.

    Raises
    ------
    InputError
        If there is no network, or a comparison is requested and there is one.
    MissingError
        If the steps around the network are requested on its device, and it takes no tensors there.
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
        if not self.backends and costs is None:  # with costs, the steps before the network can be run
            raise InputError("found no network, wanted at least one backend")
        self.settings = (settings or Settings()).for_task(task)
        self.costs = costs or costs_of(self.backends[0].name, [ASSUMED] * len(self.backends))
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
        """Whether the steps around the network run on its device: see `Settings.on_device`."""
        return self._place.arrays.on_device

    def record(self) -> dict[str, Any]:
        """Return what decides the masks, for the JSON of each case: runtime, device, precision, settings.

        `on_device` states where the steps around the network run, even if the settings left that open.
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
            Region to segment, as in `parse_box`: `x0:x1,y0:y1,z0:z1` in voxels, or in mm (LPS) with mm
            behind. None: all or, in a scan larger than those in training, around the organ that is found.
        allow_out_of_domain
            Segment a scan that the domain check refuses; the prediction's `check` and notes record it.
        progress
            Called with (what, done, total): windows while the organ is searched for, then tiles.

        Returns
        -------
        Prediction
            Mask on the scan's own grid, and notes. An empty mask is no error: see `Prediction.empty`.

        Raises
        ------
        DomainError
            If the model was not trained for such a scan, or the organ is not found in a larger scan, and
            that is not allowed.
        InputError
            If there is no scan, or the region holds no voxel.
        GeometryError, MemoryLimitError
            Same as in the steps.
        """
        checked = self.check(self._volume(scan), roi=roi, allow_out_of_domain=allow_out_of_domain)
        prepared = self.prepare(self.locate(checked, progress))
        return self.to_scan_grid(prepared, self.network(prepared, progress))

    def check(
        self, scan: Volume, *, roi: str | None = None, allow_out_of_domain: bool = False
    ) -> CheckedScan:
        """Compare the scan with those that the model was trained on (first step).

        The network does not run. In a scan that is larger than those in training, `locate` compares the
        intensities, within the region that it finds.

        Raises
        ------
        DomainError
            If the model was not trained for such a scan, and that is not allowed.
        InputError
            If the voxels are no real numbers (but bool, complex or text), one of those that will be segmented
            is NaN or infinite, an argument is of another kind, or `roi` is malformed or holds no voxel.
        GeometryError
            If the axes of the scan are not perpendicular.
        MemoryLimitError
            If memory is full.
        """
        require_volume(scan)
        if scan.array.dtype.kind not in "iuf":
            what = f"found voxels of type {scan.array.dtype}, wanted integers or floating-point numbers"
            raise InputError(what, where=scan.source.path)
        refuse_shear(scan)
        allowed = FLAG.take("allow_out_of_domain", allow_out_of_domain)
        box = None if roi is None else parse_box(roi, scan.geometry)  # only that part will be segmented
        task = self.task
        notes: tuple[str, ...] = ("region of interest: as it was given",) if box else ()
        notes += (NOT_COMPARED,) if task.domain is None else ()
        frame = box.crop(scan) if box else scan
        with reporting_full_memory("check the scan", scan.source.path):
            refuse_not_finite(frame)  # here, because the search for the organ takes quantiles of the scan
            result = check_is_scan(scan) if task.domain is not None else CheckResult()
            result += check_frame(frame, task.domain, task.modality, task.recipe.spacing_mm)
            result += CheckResult(advice=OTHER_ROI) if box else CheckResult()
            result.settle(scan, allowed=allowed)
            checked = CheckedScan(scan, DomainCheck(result, box, notes), task, False, allowed)
            if box is None and result.larger:
                return replace(checked, search=True)
            return self._with_intensities(checked)

    def locate(self, checked: CheckedScan, progress: Progress | None = None) -> CheckedScan:
        """Find the organ in a scan larger than those in training; return others unchanged (second step).

        Raises
        ------
        InputError
            If the argument is no `CheckedScan`, or one of another model, or `progress` cannot be called.
        DomainError
            If nothing like the organ is found, or the intensities of the region are unlike those of the
            training scans, and a scan out of the domain is not allowed.
        MemoryLimitError
            Same as in `network`, for the search; or if memory is full around it.
        """
        self._refuse_other_model(CHECKED.take("checked", checked))
        progress = CALLBACK.take("progress", progress)
        if not checked.search or self.task.domain is None:
            return checked
        with reporting_full_memory("search for the organ", checked.scan.source.path):
            found = replace(checked, check=self._search(checked, self.task.domain, progress), search=False)
            return self._with_intensities(found)

    def _search(self, checked: CheckedScan, domain: Domain, progress: Progress | None) -> DomainCheck:
        """Return the check with the region of the organ, or without one if it may be missing and is."""
        result, coarse = checked.check.result, self._foreground()
        spacing, pieces = self.task.recipe.spacing_mm, not self.task.keep_largest
        try:
            box, notes = find_region(checked.scan, spacing, domain, coarse, progress, pieces=pieces)
        except DomainError as error:
            if not checked.allow_out_of_domain:
                raise
            return DomainCheck(result + CheckResult((error.what,)), notes=tuple(coarse.notes))
        return DomainCheck(result, box, (*notes, *coarse.notes))

    def prepare(self, checked: CheckedScan) -> PreparedScan:
        """Crop to the region, orient, resample and normalise (third step).

        If the network's device resamples, the scan is only cropped and checked here, and `network` continues.

        Raises
        ------
        GeometryError
            If the model's grid has far too many voxels for a scan.
        InputError
            If all voxels on the model's grid become the same, or float32 cannot hold the intensities; or if
            the scan is larger than those in training and `locate` was left out, or the argument is no
            `CheckedScan`, or one of another model.
        MemoryLimitError
            If the scan is resampled on the host, and the model's grid does not fit into its free memory; or
            if memory is full.
        """
        started = time.perf_counter()
        self._refuse_other_model(CHECKED.take("checked", checked))
        scan, box = checked.scan, checked.check.region
        if checked.search:  # `locate` checks the intensities too
            what = "the organ has not been located in this scan, which is larger than those in training"
            raise InputError(what, where=scan.source.path, todo="Call locate first: prepare(locate(checked))")
        part = box.crop(scan) if box else scan
        shape = self.task.recipe.grid(part.geometry, scan.source.path).shape
        if not self._place.arrays.own_memory:
            # Not checked for a GPU, where the scan before this one still holds memory: `network` finds out.
            voxels, free = int(np.prod(shape, dtype=np.int64)), self._place.arrays.free()
            check_free_memory(voxels, free, self.settings.processes, scan.source.path)
        with reporting_full_memory("bring the scan to the model's grid", scan.source.path):
            array = self._place.prepare(self.task.recipe, part)
        seconds = time.perf_counter() - started
        grids = (part.geometry, shape, scan.geometry)
        return PreparedScan(array, *grids, scan.source, checked.check, seconds, self.task)

    def compile_for(self, prepared: PreparedScan) -> None:
        """Compile the networks for the tiles of a scan before they run, if their runtime compiles.

        Raises
        ------
        InputError, MemoryLimitError
            Same as in `network`.
        """
        compiled = [backend for backend in self.backends if isinstance(backend, OpenVinoBackend)]
        if not compiled:  # also leaves the time of a GPU to the scans
            return
        tile = self.network(prepared).tiling.tile
        for backend in compiled:
            backend.compile_for((1, 1, *tile))

    def network(self, prepared: PreparedScan, progress: Progress | None = None) -> Probabilities:
        """Run the networks tile by tile, as the slabs of the result are taken (fourth step).

        Raises
        ------
        InputError, MemoryLimitError
            Same as in `prepare`, if the scan is resampled here; or if no tiles fit the memory limit, the
            argument is no `PreparedScan`, or another model has prepared it.
        """
        started = time.perf_counter()
        self._refuse_other_model(PREPARED.take("prepared", prepared))
        progress = CALLBACK.take("progress", progress)
        part, where = prepared.part, prepared.source.path
        array = self._place.to_network(self.task.recipe, prepared.array, part, where)
        seconds = time.perf_counter() - started
        voxels = int(np.prod(part.shape, dtype=np.int64))
        found = TiledNetwork(self.task, self.backends, self.settings, self.costs)(array, voxels, progress)
        found.prepare_s, found.prepared = seconds, prepared
        return found

    def to_scan_grid(self, prepared: PreparedScan, probabilities: Probabilities) -> Prediction:
        """Take the slabs and build the mask on the scan's grid, in the host's memory (fifth step).

        Raises
        ------
        InputError, MemoryLimitError
            If a network fails, its output is not finite logits of the right shape, or memory is full; or if
            the probabilities are not those of this scan, or some of them were already taken, or another
            model has prepared the scan.
        """
        self._refuse_other_model(PREPARED.take("prepared", prepared))
        if PROBABILITIES.take("probabilities", probabilities).prepared is not prepared:
            what = "these probabilities are not those of this prepared scan"
            todo = "Give both: to_scan_grid(prepared, network(prepared))"
            raise InputError(what, where=prepared.source.path, todo=todo)
        with reporting_full_memory("make the mask", prepared.source.path):
            return self._prediction(prepared, probabilities)

    def _refuse_other_model(self, given: CheckedScan | PreparedScan) -> None:
        """Raise if another model has made the step before: its domain, recipe or labels are not these."""
        if given.task == self.task:
            return
        source = given.scan.source if isinstance(given, CheckedScan) else given.source
        raise InputError(
            f"another model has checked or prepared this scan: '{given.task.name}', wanted"
            f" '{self.task.name}' with the same domain, preprocessing and labels",
            where=source.path,
            todo="Call all steps of one predictor: prepare(locate(check(scan)))",
        )

    def _prediction(self, prepared: PreparedScan, probabilities: Probabilities) -> Prediction:
        started = time.perf_counter()
        networks = len(self.backends) if self.settings.uncertainty else 1
        keep, leading = self.settings.probabilities, self.comparison.leading
        made = MaskBuilder(self.task, prepared.part, networks, leading, keep, self._place.arrays)
        made.fill(probabilities.slabs, prepared.shape)
        postprocessed = made.postprocess(self.settings.postprocessing(self.task))
        uncertainty = made.uncertainty(self.comparison)
        volume_ml = made.volume_ml()
        cut = cut_by_region(made.mask, prepared.check.region, prepared.geometry.shape)
        told = (uncertainty.note() if uncertainty else None, cut)
        warnings = (*filter(None, told), *check_volumes(volume_ml, self.task.domain))
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
            labels=dict(self.task.label_values),
            uncertainty=uncertainty,
        )

    def _volume(self, scan: Volume | str | os.PathLike[str]) -> Volume:
        if isinstance(scan, str | os.PathLike):
            from c3s3_seg.io import load

            return load(os.fspath(scan), rule=self.task.series_rule)
        require_volume(scan, "a Volume or the path of a scan")
        return scan

    def _with_intensities(self, checked: CheckedScan) -> CheckedScan:
        """Check the intensities, in the region if there is one; then raise if the scan is to be refused."""
        scan, check = checked.scan, checked.check
        part = check.region.crop(scan) if check.region else scan
        result = check.result + check_intensities(part, self.task.domain)
        result.settle(scan, allowed=checked.allow_out_of_domain)
        return replace(checked, check=replace(check, result=result))

    def _foreground(self) -> CoarsePass:
        """Return the coarse pass, with the first network alone: it must not depend on other options."""
        x, y, z = self.task.recipe.spacing_mm
        recipe = replace(self.task.recipe, spacing_mm=(x * COARSE, y * COARSE, z * COARSE))
        # No domain, because a window of the scan is unlike the training scans.
        task = replace(self.task, recipe=recipe, overlap=None, keep_largest=False, domain=None)
        own = self.settings
        settings = Settings(
            probabilities=True,
            memory_bytes=own.memory_bytes,
            processes=own.processes,
            on_device=own.on_device,
        )
        one = replace(self.costs, per_voxel=self.costs.per_voxel / len(self.backends))
        return CoarsePass(Predictor(task, self.backends[:1], settings, one))
