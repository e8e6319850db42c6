import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from helpers.threshold import Threshold

from c3s3_seg.bundle import Label, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.errors import MemoryLimitError
from c3s3_seg.inference import Predictor, Settings
from c3s3_seg.inference.memory import ASSUMED, MEASURED, VNETS, Budget, Costs, costs_of, smaller
from c3s3_seg.inference.tiled_network import TiledNetwork
from c3s3_seg.inference.tiling import Shape, Tiling
from c3s3_seg.models import BACKBONES

pytestmark = pytest.mark.slow

SHAPE: Shape = (300, 280, 150)
PATCH: Shape = (64, 64, 48)
SIXTEEN: Shape = (16, 16, 16)


def budget(limit: float) -> Budget:
    voxels = int(np.prod(SHAPE))
    return Budget(int(limit), VNETS["openvino"], 2, 8 * voxels, voxels, SIXTEEN)


def test_more_memory_gives_larger_tiles_and_then_the_whole() -> None:
    sizes = []
    for limit in (1.2e9, 1.6e9, 2.5e9, 1e10):
        tiling = budget(limit).largest(SHAPE, Tiling.whole(SHAPE, SIXTEEN).shape, PATCH, 0.5)
        assert budget(limit).needed(tiling) <= limit
        assert all(t % 16 == 0 and t >= p for t, p in zip(tiling.tile, PATCH, strict=True))
        sizes.append(int(np.prod(tiling.tile)))
    assert sizes == sorted(set(sizes))
    assert len(tiling) == 1


def test_tiles_of_the_training_size_are_checked_and_not_grown() -> None:
    assert budget(1e10).largest(SHAPE, PATCH, PATCH, 0.5).tile == PATCH


def test_a_thin_scan_keeps_its_thin_tiles() -> None:
    thin = Budget(10**10, VNETS["openvino"], 2, 10**6, 10**6, SIXTEEN)
    assert thin.largest((200, 200, 4), (208, 208, 16), PATCH, 0.5).tile == (208, 208, 16)


def test_too_little_is_refused_with_what_it_would_take() -> None:
    with pytest.raises(MemoryLimitError, match=r"0\.40 GB was allowed, and this scan needs \d\.\d\d GB"):
        budget(4e8).largest(SHAPE, SHAPE, PATCH, 0.5)


def test_costs_grow_with_the_filters_and_the_networks() -> None:
    one, both = costs_of("openvino", [ASSUMED]), costs_of("openvino", [ASSUMED] * 2)
    half = costs_of("openvino", [replace(ASSUMED, filters=8)])
    assert both.per_voxel == 2 * one.per_voxel == 4 * half.per_voxel
    assert costs_of("something new", [ASSUMED]).per_voxel == max(c.per_voxel for c in VNETS.values())


@pytest.mark.parametrize("runtime", VNETS)
def test_a_network_of_another_architecture_has_the_costs_measured_with_it(runtime: str) -> None:
    larger = replace(ASSUMED, architecture="resencunet", filters=32)
    measured = MEASURED["resencunet"][runtime]
    assert costs_of(runtime, [larger]) == Costs(measured.base, 2 * measured.per_voxel)
    both = costs_of(runtime, [ASSUMED, larger])
    assert both.base == max(VNETS[runtime].base, measured.base)
    assert both.per_voxel == VNETS[runtime].per_voxel + 2 * measured.per_voxel


def test_every_backbone_has_measured_costs_and_another_one_those_of_the_largest() -> None:
    assert MEASURED.keys() == BACKBONES.keys()
    for runtime in (*VNETS, "something new"):
        another = costs_of(runtime, [replace(ASSUMED, architecture="another")])
        for architecture in BACKBONES:
            known = costs_of(runtime, [replace(ASSUMED, architecture=architecture)])
            assert another.base >= known.base
            assert another.per_voxel >= known.per_voxel


def test_what_to_try_when_memory_was_full() -> None:
    found = smaller(Tiling.whole(SHAPE, SIXTEEN), PATCH, SHAPE)
    assert found is not None
    assert found.tile == PATCH
    assert smaller(found, PATCH, SHAPE) is None  # never below the training size
    assert smaller(Tiling.whole(SIXTEEN, SIXTEEN), PATCH, SIXTEEN) is None
    thin = smaller(Tiling.whole((200, 200, 4), SIXTEEN), PATCH, (200, 200, 4))
    assert thin is not None
    assert thin.tile == (64, 64, 16)  # as in `Budget.largest`: the scan itself is thin


MEMORY_IS_FULL = """
import resource, sys
import numpy as np
from c3s3_seg import Geometry, ModelBundle, Settings, open_predictor
from c3s3_seg.inference import BackendRequest
def noise(*shape):
    return Geometry.build(shape, (1.25,) * 3).volume(np.random.default_rng(0).normal(size=shape))
request, whole = BackendRequest("openvino", threads=1), Settings(whole=True)
predictor = open_predictor(ModelBundle.find("left-atrium"), backend=request, settings=whole)
predictor(noise(64, 64, 48), allow_out_of_domain=True)
with open("/proc/self/statm") as file:
    used = int(file.read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 100_000_000,) * 2)
prediction = predictor(noise(96, 80, 64), roi="0:96,0:80,0:64", allow_out_of_domain=True)  # all of it
print(prediction.tile, prediction.notes, prediction.mask.array.shape)
"""

ALLOWED = """
import numpy as np
from c3s3_seg import Geometry, ModelBundle, Settings, open_predictor
noise = np.random.default_rng(0).normal(size=(192, 160, 96))
scan = Geometry.build(noise.shape, (1.8,) * 3).volume(noise)
settings = Settings(memory_bytes=520_000_000)
predictor = open_predictor(ModelBundle.find("phantom"), backend="openvino", settings=settings)
tile = predictor(scan, roi="0:192,0:160,0:96", allow_out_of_domain=True).tile
# Not ru_maxrss: that begins with the size of the process that forked this one.
with open("/proc/self/status") as file:
    (peak,) = [line.split()[1] for line in file if line.startswith("VmHWM")]
print(tile, int(peak) * 1024)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits of the address space are Linux's")
def test_out_of_memory_means_smaller_tiles_once_and_the_report_says_so() -> None:
    """This uses the real runtime in a process that may not grow.

    glibc ends a process in which no memory is left for the data of a new thread. No program can prevent that;
    the test then tries again.
    """
    for _ in range(6):
        answer = subprocess.run([sys.executable, "-c", MEMORY_IS_FULL], capture_output=True, text=True)
        if "cannot allocate memory for thread-local data" not in answer.stderr:
            break
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("(64, 64, 48)")
    assert "memory was full with tiles of 96 x 80 x 64 in openvino; went on with" in answer.stdout


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="peak memory in the units of Linux")
def test_the_process_keeps_to_what_it_was_allowed() -> None:
    answer = subprocess.run([sys.executable, "-c", ALLOWED], capture_output=True, text=True, check=True)
    tile, peak = answer.stdout.rsplit(" ", 1)
    assert int(peak) <= 520_000_000, tile


def predictor_of(labels: int, networks: int = 1, **settings: Any) -> Predictor:
    names = tuple(Label(f"l{n}", n) for n in range(1, labels + 1))
    task = Task("x", "MR", names, Recipe((1.0, 1.0, 1.0)), (16, 16, 16))
    return Predictor(task, [Threshold(0.5)] * networks, Settings(**settings), Costs(0, 0.0))


def needed(predictor: Predictor, voxels: int) -> int:
    """Return the bytes that the smallest tiles need, as stated in the error message."""
    network = TiledNetwork(predictor.task, predictor.backends, predictor.settings, predictor.costs)
    with pytest.raises(MemoryLimitError) as refusal:
        network(np.zeros((16, 16, 16), np.float32), voxels)
    return round(float(str(refusal.value).split("needs ")[1].split(" GB")[0]) * 1e9)


def test_what_a_prediction_keeps_counts() -> None:
    """For 100 million voxels 4 bytes for the scan, 1 for the mask, 4 a label; 13 and 0.18 GB to compare."""
    voxels = 100_000_000
    for overlap in (0.5, None):
        options = {"memory_bytes": 1000, "overlap": overlap}
        assert needed(predictor_of(3, **options), voxels) == 500_000_000
        assert needed(predictor_of(3, **options, probabilities=True), voxels) == 1_700_000_000
        assert needed(predictor_of(1, 2, **options, uncertainty=True), voxels) == 1_980_000_000


def test_tiles_of_a_stride_are_checked() -> None:
    predictor = predictor_of(1, stride=(8, 8, 8), memory_bytes=10**9, processes=2)
    assert needed(predictor, 120_000_000) == 600_000_000
    network = TiledNetwork(predictor.task, predictor.backends, predictor.settings, predictor.costs)
    assert network(np.zeros((24, 16, 16), np.float32), 90_000_000).tiling.starts == ((0, 8), (0,), (0,))
