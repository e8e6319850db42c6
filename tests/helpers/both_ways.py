"""Segment a scan twice: with the steps around the network in numpy, and in torch as on a GPU."""

from dataclasses import replace
from typing import Any

import numpy as np

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference import BackendRequest, Prediction, Predictor, Settings, open_predictor
from c3s3_seg.system.choices import BackendName

# Both ways do the same operations in float32 in the same order; only the exponential function of the softmax
# differs. The libraries state 3 and 1 units in the last place (6e-8), so probabilities differ by up to 2.5e-7
# before they are averaged and interpolated, where some twenty roundings of 6e-8 may fall either way. A label
# is the larger of two such numbers, which is undecided if they are within 4e-6; the bound is a little wider.
BOUND = 1e-5


def both_ways(
    bundle: ModelBundle, settings: Settings | None = None, backend: BackendName = "torch", **options: Any
) -> tuple[Predictor, Predictor]:
    """Return a predictor with host steps in numpy and one with device steps in torch, both on the CPU."""
    settings = settings or Settings()
    host, device = (
        open_predictor(
            bundle,
            backend=BackendRequest(backend, "cpu"),
            settings=replace(settings, on_device=on_device),
            **options,
        )
        for on_device in (False, True)
    )
    return host, device


def undecided(prediction: Prediction) -> np.ndarray:
    """Return where the two most probable classes are closer than `BOUND`; needs all probabilities."""
    labels = [volume.array for volume in prediction.probabilities.values()]
    classes = np.sort(np.stack([1 - np.sum(labels, axis=0), *labels]), axis=0)
    return np.asarray(classes[-1] - classes[-2] < BOUND)


def assert_same_labels(bundle: ModelBundle, scan: Volume, settings: Settings | None = None) -> Prediction:
    """Check that labels differ only where rounding decides; return the prediction of the device.

    Keeping the largest component is off: it could turn a difference of one voxel into one of many.
    """
    settings = replace(settings or Settings(), keep_largest=False)
    host, device = both_ways(bundle, replace(settings, probabilities=True))
    wanted = host(scan, allow_out_of_domain=True)
    plain = replace(device.settings, probabilities=settings.probabilities)
    found = Predictor(bundle.task, device.backends, plain)(scan, allow_out_of_domain=True)
    open_ = undecided(wanted)
    assert open_.mean() < 1e-4
    assert wanted.mask.array.any()
    np.testing.assert_array_equal(found.mask.array[~open_], wanted.mask.array[~open_])
    return found
