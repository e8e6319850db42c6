"""Describe an exported network for other programs; the text is written into the file itself."""

from __future__ import annotations

import json

from c3s3_seg.bundle import Task
from c3s3_seg.bundle.preprocessing import Intensity
from c3s3_seg.export.spec import Members
from c3s3_seg.inference.tiled_network import WHOLE_LIMIT
from c3s3_seg.system.schema import dump


def properties(task: Task, members: Members, precision: str) -> dict[str, str]:
    """Return texts by key; `c3s3.task`, `c3s3.networks` and `c3s3.weights` are JSON, others are for people.

    The keys are the same in ONNX metadata, in OpenVINO's `rt_info` and in `export.json`.
    """
    return {
        "c3s3.task": json.dumps(dump(task)),
        "c3s3.networks": json.dumps([dump(network) for _, network in members]),
        "c3s3.weights": json.dumps(weights(members)),
        "c3s3.precision": precision,
        "c3s3.input": input_spec(task),
        "c3s3.output": output_spec(task, len(members)),
        "c3s3.postprocess": postprocess(task),
        "c3s3.use": "Research use only. Not a medical device.",
    }


def weights(members: Members) -> dict[str, str]:
    """Return the sha256 by weights file; files of a linked bundle have its folder's name before them."""
    (own, _), *_ = members
    found = {}
    for home, network in members:
        place = "" if home.folder == own.folder else f"{home.folder.name}/"
        found[place + network.weights] = home.manifest.files[network.weights]
    return found


def input_spec(task: Task) -> str:
    """Return, in words, the way from the scan to the network's input."""
    spacing = " x ".join(f"{s:g}" for s in task.recipe.spacing_mm)
    return (
        f"'scan', float32 (batch, 1, x, y, z). {task.modality}. Turn the axes so that x, y, z run to the"
        f" patient's left, back and head (DICOM LPS); resample to {spacing} mm over the same field of view,"
        " by averages where voxels grow and linearly where they shrink; then"
        f" {_intensity(task.recipe.intensity)}. Sides are multiples of {_multiple(task)}:"
        f" pad with 0 on both ends. {_tiles(task)}"
    )


def _multiple(task: Task) -> str:
    """Return the multiple of the sides in words: one number if it is the same along all axes."""
    return " x ".join(map(str, task.multiple if len(set(task.multiple)) > 1 else task.multiple[:1]))


def _intensity(rule: Intensity) -> str:
    if rule.rule == "window":
        return f"clip to [{rule.low:g}, {rule.high:g}] and scale to [0, 1]"
    return "subtract the mean of the whole volume and divide by its standard deviation"


def _tiles(task: Task) -> str:
    patch = " x ".join(map(str, task.patch))
    if task.overlap is None:
        return (
            f"A volume of up to {WHOLE_LIMIT:,} voxels at once, a larger one in tiles of {patch} that"
            " overlap by half and are averaged."
        )
    average = "average weighted by a Gaussian" if task.weighting == "gaussian" else "average"
    return f"Tiles of {patch} that overlap by {task.overlap:g} of a side; {average} where they overlap."


def output_spec(task: Task, networks: int) -> str:
    """Return, in words, the meaning of the output."""
    names = ", ".join(["background", *(label.name for label in task.labels)])
    mean = f", the mean of {networks} networks" if networks > 1 else ""
    return f"'probabilities', float32 (batch, {task.classes}, x, y, z): {names}. Softmax is applied{mean}."


def postprocess(task: Task) -> str:
    """Return, in words, the way from probabilities to the mask."""
    values = ", ".join(f"{label.name} = {label.value}" for label in task.labels)
    largest = " Keep the largest 6-connected component of each label." if task.keep_largest else ""
    return (
        "Cut the padding off, resample each probability linearly to the scan's grid and only then take"
        f" the most probable class. Values in the mask: background = 0, {values}.{largest}"
    )
