"""Settings for running a network over a scan."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from c3s3_seg.bundle import Task
from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.arguments import FLAG, NUMBER, PATH, WHOLE_NUMBER, take_fields, whole_numbers
from c3s3_seg.inference.postprocess import Postprocessing
from c3s3_seg.inference.tiling import Shape
from c3s3_seg.system.choices import TilingPreset, Weighting, check_word

PUBLISHED_STRIDE = (18, 18, 4)  # stride of the published evaluations on the left atrium
# Fields of `Settings` and their kinds; the words of `weighting` are compared with their list.
KINDS = {
    "overlap": NUMBER.or_none(),
    "probabilities": FLAG,
    "stride": whole_numbers("three whole numbers, such as (18, 18, 4)", 3).or_none(),
    "whole": FLAG,
    "mirroring": whole_numbers("some of 0, 1, 2, such as (0, 1)"),
    "memory_bytes": WHOLE_NUMBER.or_none(),
    "uncertainty": FLAG,
    "keep_largest": FLAG.or_none(),
    "min_volume_ml": NUMBER,
    "fill_holes": FLAG,
    "profile": PATH.or_none(),
    "processes": WHOLE_NUMBER,
    "on_device": FLAG.or_none(),
}


@dataclass(frozen=True)
class Settings:
    """Settings of inference. None leaves a choice to the task, where the task has it.

    Parameters
    ----------
    overlap
        From 0 to below 1: tiles of the training size share this part of a side.
    probabilities
        Whether the prediction keeps the probability of each label on the scan's grid.
    stride
        Voxels (x, y, z) of the model's grid from tile to tile, instead of an overlap.
    weighting
        Weighting of overlapping tiles. None: the task's weighting for its own tiles, uniform for others.
    whole
        Whether to run the whole volume at once if it is small enough, even if the task has tiles.
    mirroring
        Axes (0, 1, 2: the patient's left, back, head) of test-time augmentation: the network also runs on
        the scan mirrored along all combinations of these axes, and the results are averaged.
    memory_bytes
        Bytes that all processes together may take. Without an overlap the tiles are the largest that fit;
        with one they keep the size of the training crops.
    processes
        Number of processes that work at a time, this one included: each may take its share of the memory.
    uncertainty
        Whether to compare the bundle's networks.
    keep_largest, min_volume_ml, fill_holes
        Same as in `Postprocessing`.
    profile
        File that `c3s3-seg benchmark` wrote on this machine; it decides what is left open.
    on_device
        Whether the steps around the network (resampling, intensities, softmax, stitching, the most probable
        label) run on the network's device too, on torch tensors. Requires the backend torch or onnx.
        None: yes on CUDA, no on the CPU. False: in numpy on the host. True on the CPU exists to prove that
        both ways give the same labels.

    Raises
    ------
    InputError
        If a value is of another kind or out of range, or two settings define the tiling.
    """

    overlap: float | None = None
    probabilities: bool = False
    stride: Shape | None = None
    weighting: Weighting | None = None
    whole: bool = False
    mirroring: tuple[int, ...] = ()
    memory_bytes: int | None = None
    uncertainty: bool = False
    keep_largest: bool | None = None
    min_volume_ml: float = 0.0
    fill_holes: bool = False
    profile: Path | None = None
    processes: int = 1
    on_device: bool | None = None

    def __post_init__(self) -> None:
        take_fields(self, KINDS)  # lists become tuples, numbers those of Python, for the records
        if self.overlap is not None and not 0 <= self.overlap < 1:
            raise InputError(f"found an overlap of {self.overlap}, wanted 0 to below 1")
        if self.weighting is not None:
            check_word("weighting", self.weighting, Weighting)
        if self.stride is not None and min(self.stride) < 1:
            raise InputError(f"found a stride of {shown(self.stride)}, wanted whole numbers from 1 on")
        whole = self.whole or None
        tilings = {"a stride": self.stride, "an overlap": self.overlap, "the whole volume": whole}
        asked = [name for name, value in tilings.items() if value is not None]
        if len(asked) > 1:
            raise InputError(f"found both {' and '.join(asked)}, wanted one of them")
        if len(set(self.mirroring)) != len(self.mirroring) or not set(self.mirroring) <= {0, 1, 2}:
            found = shown(self.mirroring)
            raise InputError(f"found the axes {found} to mirror, wanted each of 0, 1, 2 at most once")
        if self.memory_bytes is not None and self.memory_bytes < 1:
            raise InputError(f"found a memory of {self.memory_bytes} bytes, wanted a positive number")
        if self.processes < 1:
            raise InputError(f"found {self.processes} processes, wanted 1 or more")
        if not self.min_volume_ml >= 0:
            raise InputError(f"found a least volume of {self.min_volume_ml} ml, wanted 0 or more")

    @property
    def own_memory_bytes(self) -> int | None:
        """Bytes that this process may take; None if there is no limit."""
        return None if self.memory_bytes is None else self.memory_bytes // self.processes

    def postprocessing(self, task: Task) -> Postprocessing:
        """Return the postprocessing of the finished mask."""
        largest = task.keep_largest if self.keep_largest is None else self.keep_largest
        return Postprocessing(largest, self.min_volume_ml, self.fill_holes)

    def for_task(self, task: Task) -> Settings:
        """Return the settings with the task's tiles and component rule where nothing else was requested.

        Raises
        ------
        InputError
            If the stride leaves gaps between the task's tiles.
        """
        if self.stride is not None and any(s > p for s, p in zip(self.stride, task.patch, strict=True)):
            what = f"found a stride of {self.stride} for tiles of {task.patch}: there would be gaps"
            raise InputError(what, todo="Give a smaller stride")
        asked = self.whole or self.overlap is not None or self.stride is not None
        overlap = self.overlap if asked else task.overlap
        weighting: Weighting = "constant" if asked else task.weighting
        return replace(
            self,
            overlap=overlap,
            weighting=self.weighting or weighting,
            keep_largest=self.postprocessing(task).keep_largest,
        )

    def record(self) -> dict[str, Any]:
        """Return all settings that decide the mask, for the JSON of a case."""
        return {
            "overlap": self.overlap,
            "stride": self.stride,
            "weighting": self.weighting,
            "mirroring": list(self.mirroring),
            "keep_largest": self.keep_largest,
            "min_volume_ml": self.min_volume_ml,
            "fill_holes": self.fill_holes,
        }


def tiled(settings: Settings, preset: TilingPreset) -> Settings:
    """Return the settings with the tiles of a preset.

    `default`: as in the task. `accurate`: tiles of the training size that overlap by half, weighted by a
    Gaussian. `whole`: the whole volume at once, which is faster. `paper`: tiles of the published evaluations,
    stride 18 x 18 x 4 and a flat average; the evaluations also averaged both networks, which the caller must
    open. The stride is in voxels of the model's grid, as in the evaluations.

    Raises
    ------
    InputError
        If mirroring was requested with the tiles of the published evaluations, which did not mirror.
    """
    if preset == "accurate":
        return replace(settings, overlap=0.5, stride=None, weighting="gaussian")
    if preset == "whole":
        return replace(settings, overlap=None, stride=None, whole=True)
    if preset == "paper":
        if settings.mirroring:
            raise InputError(
                "the published evaluations did not mirror", todo="Leave --tta or --tiling paper out"
            )
        return replace(settings, overlap=None, stride=PUBLISHED_STRIDE, weighting="constant")
    return settings


def parse_axes(text: str) -> tuple[int, ...]:
    """Return the axes that letters name: `xz` -> (0, 2).

    Raises
    ------
    InputError
        If there is a letter other than x, y, z, or a letter twice.
    """
    if not set(text) <= set("xyz") or len(set(text)) < len(text):
        raise InputError(f"found the axes {text!r} for --tta, wanted letters among xyz, such as xy")
    return tuple("xyz".index(letter) for letter in text)
