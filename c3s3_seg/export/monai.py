"""Build a MONAI bundle: TorchScript weights and the configuration with which MONAI's own tools run them.

MONAI bundle specification: `configs/metadata.json`, `configs/inference.json`, `models/`, `docs/`. The
network is TorchScript, so this package is not needed to load it. Pre- and post-processing are MONAI's
transforms, so that MONAI Label and Slicer understand them. They equal this package's except for two steps:
MONAI samples linearly where this package averages, which is equal only if voxels double and no side is odd;
and a model without an overlap gets a volume of any size at once, where this package tiles a large one.
"""

from __future__ import annotations

import io
import json
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.bundle import CARD, ModelBundle, Task
from c3s3_seg.bundle.preprocessing import Intensity
from c3s3_seg.errors import InputError
from c3s3_seg.export.compare import ProbabilityBackend
from c3s3_seg.export.metadata import input_spec, output_spec, postprocess
from c3s3_seg.export.spec import Built, GraphSpec
from c3s3_seg.export.standalone import averaged
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.inference.tiling import FloatArray
from c3s3_seg.system.names import printable
from c3s3_seg.version import __version__

MONAI = "1.4.0"  # oldest version with every argument below
SCHEMA = (
    "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json"
)
NETWORK = "models/model.ts"
EXPRESSION = re.compile(r"^\s*[$@%]|[@%](#|::)")
IMAGE, PRED = "image", "pred"


def monai_bundle(bundle: ModelBundle, spec: GraphSpec) -> Built:
    """Return the files of a MONAI bundle.

    Raises
    ------
    InputError
        If half precision or a fixed batch is requested: MONAI's runner chooses both itself. If MONAI would
        read a name as an expression.
    """
    if spec.precision != "float32" or spec.batch is not None:
        what = "a MONAI bundle is exported in float32 with the batch free"
        raise InputError(what, todo="Leave --precision and --batch out; MONAI's --evaluator#amp rounds")
    texts = metadata(bundle, spec)
    refuse_expressions(texts, bundle.folder)
    files = {
        NETWORK: _torchscript(bundle, spec),
        "configs/metadata.json": _json(texts),
        "configs/inference.json": _json(inference(bundle.task)),
    }
    return Built(files, _open, f"docs/{CARD}")


def refuse_expressions(content: Any, where: Path) -> None:
    """Refuse texts that MONAI would compute: any text in the metadata may come from a bundle.

    MONAI runs a text that begins with `$` as Python, replaces one that begins with `@` by another part of
    the configuration and one that begins with `%` by a part of any file; `@#`, `%#`, `@::` and `%::` are
    resolved wherever they stand.

    Raises
    ------
    InputError
        If there is such a text; the error names it.
    """
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list):
            waiting += value
        elif isinstance(value, str) and EXPRESSION.search(value):
            shown = printable(value[:80])
            what = f"'{shown}' would be run or replaced by MONAI, which reads $, @ and % as its own"
            raise InputError(
                what, where=where, todo="Rename the task, or the label, in the bundle's manifest"
            )


def _json(content: dict[str, Any]) -> bytes:
    return json.dumps(content, indent=4).encode()


def _torchscript(bundle: ModelBundle, spec: GraphSpec) -> bytes:
    """Return (N, 1, X, Y, Z) -> probabilities, traced, since the networks have no branch."""
    import torch

    members = spec.members(bundle)
    example = torch.zeros(1, members[0][1].channels, *(2 * n for n in bundle.task.multiple))
    stream = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # TorchScript is deprecated in torch, but MONAI reads it
        traced = torch.jit.trace(averaged(members), example)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, stream)
    return stream.getvalue()


def _open(path: Path) -> Backend:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        net = torch.jit.load(path, map_location="cpu")  # type: ignore[no-untyped-call]

    def run(patches: FloatArray) -> FloatArray:
        with torch.inference_mode():
            return np.asarray(net(torch.from_numpy(patches)).numpy())

    return ProbabilityBackend(run, "torchscript")


def metadata(bundle: ModelBundle, spec: GraphSpec) -> dict[str, Any]:
    """Return `configs/metadata.json` as the specification requires it."""
    import torch

    task, members = bundle.task, spec.members(bundle)
    names = ["background", *(label.name for label in task.labels)]
    return {
        "schema": SCHEMA,
        "version": __version__,
        "changelog": {__version__: "exported by c3s3-seg after comparison with torch, see docs/README.md"},
        "monai_version": MONAI,
        "pytorch_version": str(torch.__version__).split("+")[0],
        "numpy_version": str(np.__version__),
        "required_packages_version": {
            "pytorch-ignite": "0.4.11",
            "nibabel": "5.2.0",
            "scikit-image": "0.22.0",
        },
        "supported_apps": {},
        "name": task.name,
        "task": f"{task.modality}: segmentation of {', '.join(names[1:])}",
        "description": f"{input_spec(task)} {output_spec(task, len(members))} {postprocess(task)}",
        "authors": "trained and exported with c3s3-seg",
        "copyright": "that of whoever trained the bundle, see docs/README.md",
        "intended_use": "Research use only. Not a medical device.",
        "network_data_format": {
            "inputs": {IMAGE: _tensor(task, {"0": IMAGE})},
            "outputs": {PRED: _tensor(task, {str(n): name for n, name in enumerate(names)}, "segmentation")},
        },
    }


def _tensor(task: Task, channels: dict[str, str], kind: str = "") -> dict[str, Any]:
    """Return the description of a tensor of the network in the specification's terms."""
    window = task.recipe.intensity.rule == "window"
    return {
        "type": "image",
        "format": kind or ("hounsfield" if task.modality == "CT" else "magnitude"),
        "modality": task.modality,
        "num_channels": len(channels),
        "spatial_shape": [f"{n}*n" for n in task.multiple],
        "dtype": "float32",
        "value_range": [0, 1] if kind or window else [],
        "is_patch_data": True,
        "channel_def": channels,
    }


def inference(task: Task) -> dict[str, Any]:
    """Return `configs/inference.json`: each NIfTI file in `dataset_dir` becomes a mask in `output_dir`."""
    return {
        "imports": ["$import glob", "$import os", "$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/scans'",
        "output_dir": "$@bundle_root + '/masks'",
        "datalist": "$sorted(glob.glob(os.path.join(@dataset_dir, '*.nii*')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": {
            "_target_": "torch.jit.load",
            "f": f"$@bundle_root + '/{NETWORK}'",
            "map_location": "@device",
        },
        "network": "$@network_def.to(@device).eval()",
        "preprocessing": _compose(_preprocessing(task)),
        "dataset": {
            "_target_": "Dataset",
            "data": f"$[{{'{IMAGE}': i}} for i in @datalist]",
            "transform": "@preprocessing",
        },
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": 1,
            "shuffle": False,
            "num_workers": 0,
        },
        "inferer": _inferer(task),
        "postprocessing": _compose(_postprocessing(task)),
        "handlers": [{"_target_": "StatsHandler", "iteration_log": False}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
            "amp": False,
        },
        "run": ["$@evaluator.run()"],
    }


def _compose(transforms: list[dict[str, Any]]) -> dict[str, Any]:
    return {"_target_": "Compose", "transforms": transforms}


def _step(name: str, key: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": name, "keys": key, **arguments}


def _preprocessing(task: Task) -> list[dict[str, Any]]:
    """Return the recipe's steps; `scale_extent` keeps the field of view to the voxel edges, as we do."""
    steps = [
        _step("LoadImaged", IMAGE),
        _step("EnsureChannelFirstd", IMAGE),
        _step("Orientationd", IMAGE, axcodes=task.recipe.orientation),
        _step("Spacingd", IMAGE, pixdim=list(task.recipe.spacing_mm), mode="bilinear", scale_extent=True),
        _intensity(task.recipe.intensity),
        _step("EnsureTyped", IMAGE, dtype="$torch.float32"),
    ]
    if task.overlap is None:
        steps.append(_step("DivisiblePadd", IMAGE, k=list(task.multiple), mode="constant", value=0))
    return steps


def _intensity(rule: Intensity) -> dict[str, Any]:
    if rule.rule == "window":
        ends = {"a_min": rule.low, "a_max": rule.high, "b_min": 0.0, "b_max": 1.0, "clip": True}
        return _step("ScaleIntensityRanged", IMAGE, **ends)
    return _step("NormalizeIntensityd", IMAGE)


def _inferer(task: Task) -> dict[str, Any]:
    if task.overlap is None:
        return {"_target_": "SimpleInferer"}
    return {
        "_target_": "SlidingWindowInferer",
        "roi_size": list(task.patch),
        "sw_batch_size": 1,
        "overlap": task.overlap,
        "mode": task.weighting,
        "padding_mode": "constant",
        "cval": 0.0,
    }


def _postprocessing(task: Task) -> list[dict[str, Any]]:
    """Return the steps that invert probabilities to the scan's grid, and only then turn them into labels."""
    values = [label.value for label in task.labels]
    steps = [
        _step("Invertd", PRED, transform="@preprocessing", orig_keys=IMAGE, nearest_interp=False),
        _step("AsDiscreted", PRED, argmax=True),
    ]
    if values != list(range(1, task.classes)):
        steps.append(
            _step("MapLabelValued", PRED, orig_labels=list(range(task.classes)), target_labels=[0, *values])
        )
    if task.keep_largest:
        steps.append(_step("KeepLargestConnectedComponentd", PRED, applied_labels=values, connectivity=1))
    save: dict[str, Any] = {
        "output_dir": "@output_dir",
        "output_ext": ".nii.gz",
        "output_dtype": "$torch.uint8",
    }
    save |= {"output_postfix": "mask", "separate_folder": False, "resample": False}
    return [*steps, _step("SaveImaged", PRED, **save)]
