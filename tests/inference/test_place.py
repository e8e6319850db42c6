"""The place of the steps around the network (host or device), and their memory limit."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from helpers.threshold import Threshold

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import MemoryLimitError, MissingError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference import BackendRequest, Predictor, Settings, open_predictor
from c3s3_seg.inference.arrays import HOST
from c3s3_seg.inference.device.arrays import TorchArrays
from c3s3_seg.inference.memory import ASSUMED, costs_of
from c3s3_seg.inference.place import GPU_SHARE, DevicePlace, HostPlace, memory_limit, place_for
from c3s3_seg.inference.tiled_network import TiledNetwork


class OnTensors(Threshold):
    """A network that takes tensors."""

    name = "torch"

    def __init__(self, place: str) -> None:
        super().__init__(0.0)
        self.place = place

    def on_device(self, patches: torch.Tensor) -> torch.Tensor:
        return torch.cat([torch.zeros_like(patches), patches], 1)


class Keeping(OnTensors):
    """A network that keeps memory on its device, a stand-in for CUDA graphs."""

    def __init__(self, place: str, kept_memory: int) -> None:
        super().__init__(place)
        self.kept_memory, self.largest = kept_memory, 10**9

    def give_back(self) -> None:
        self.kept_memory = 0

    def on_device(self, patches: torch.Tensor) -> torch.Tensor:
        if patches.numel() > self.largest:
            raise RuntimeError("CUDA out of memory")
        return super().on_device(patches)


@dataclass(frozen=True)
class Gpu(TorchArrays):
    """A device with memory of its own, of which `left` bytes are free."""

    left: int = 0

    @property
    def own_memory(self) -> bool:
        return True

    def free(self, processes: int = 1) -> int | None:
        return self.left // processes


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


def test_on_the_cpu_it_is_the_host_unless_asked_for() -> None:
    cpu = [OnTensors("cpu")]
    assert isinstance(place_for(cpu, Settings()), HostPlace)
    assert isinstance(place_for(cpu, Settings(on_device=False)), HostPlace)
    place = place_for(cpu, Settings(on_device=True))
    assert isinstance(place, DevicePlace)
    assert place.arrays == TorchArrays(torch.device("cpu"))


def test_on_cuda_it_is_the_device_unless_refused_or_torch_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = [OnTensors("cuda:0"), OnTensors("cuda:0")]
    assert torch.cuda.is_available() or isinstance(place_for(cuda, Settings()), HostPlace)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    place = place_for(cuda, Settings())
    assert isinstance(place, DevicePlace)
    assert place.arrays.device == torch.device("cuda:0")
    assert isinstance(place_for(cuda, Settings(on_device=False)), HostPlace)
    assert isinstance(place_for([*cuda, Threshold(0.0)], Settings()), HostPlace)
    assert isinstance(place_for([OnTensors("cuda:0"), OnTensors("cuda:1")], Settings()), HostPlace)


def test_what_cannot_be_had_is_refused(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(
        MissingError, match=r"on_device .*threshold, which takes no tensors.*backend torch or"
    ):
        Predictor(bundle.task, [Threshold(0.0)], Settings(on_device=True))
    with pytest.raises(MissingError, match="on_device was asked for on cuda:0, and torch does not run there"):
        place_for([OnTensors("cuda:0")], Settings(on_device=True))
    with pytest.raises(MissingError, match="runs in openvino"):
        open_predictor(bundle, backend=BackendRequest("openvino"), settings=Settings(on_device=True))


def test_the_record_says_which_way(bundle: ModelBundle) -> None:
    for on_device in (False, True):
        predictor = Predictor(bundle.task, [OnTensors("cpu")], Settings(on_device=on_device))
        assert predictor.record()["on_device"] is on_device


@pytest.mark.parametrize(
    ("own", "processes", "free", "limit"),
    [
        (None, 1, 10_000, GPU_SHARE * 10_000),
        (None, 2, 10_000, GPU_SHARE * 5_000),
        (3_000, 1, 10_000, 3_000),
        (30_000, 2, 10_000, GPU_SHARE * 5_000),
    ],
)
def test_a_gpu_has_a_limit_of_its_own(own: int | None, processes: int, free: int, limit: float) -> None:
    settings = Settings(memory_bytes=own, processes=processes)
    assert memory_limit(settings, Gpu(torch.device("cpu"), free)) == limit
    assert memory_limit(settings, HOST) == (None if own is None else own // processes)


def test_what_a_worker_holds_itself_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (6_000, 80_000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 5_000)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 1_000)
    arrays = TorchArrays(torch.device("cuda:0"))
    assert arrays.free() == 6_000 + 4_000
    assert arrays.free(3) == 2_000 + 4_000
    assert memory_limit(Settings(processes=3), arrays) == GPU_SHARE * 6_000


def test_what_networks_keep_is_not_free() -> None:
    networks = [Keeping("cuda:0", 4_000), Keeping("cuda:0", 4_000)]  # both report the whole process
    gpu = Gpu(torch.device("cpu"), 10_000)
    assert memory_limit(Settings(processes=2), gpu, networks) == GPU_SHARE * 1_000
    assert memory_limit(Settings(), Gpu(torch.device("cpu"), 3_000), networks) == 0
    assert memory_limit(Settings(), gpu, [OnTensors("cuda:0")]) == GPU_SHARE * 10_000


@pytest.mark.parametrize(("left", "stays"), [(80 * 10**9, True), (3_500_000_000, False)])
def test_tiles_do_not_depend_on_what_networks_keep(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch, left: int, stays: bool
) -> None:
    """A tile that does not fit beside the kept memory is not made smaller: that memory is released."""
    gpu, volume = Gpu(torch.device("cpu"), left), torch.zeros(96, 96, 96)
    monkeypatch.setattr("c3s3_seg.inference.tiled_network.arrays_of", lambda _: gpu)
    tiles, kept = [], []
    for network in (Keeping("cuda:0", 0), Keeping("cuda:0", 3 * 10**9)):
        tiled = TiledNetwork(bundle.task, (network,), Settings(whole=True), costs_of("torch", [ASSUMED]))
        tiles.append(tiled(volume, volume.numel()).tiling.tile)
        kept.append(network.kept_memory > 0)
    assert tiles == [(96, 96, 96)] * 2
    assert kept == [False, stays]


def test_before_smaller_tiles_what_is_kept_is_given_back(bundle: ModelBundle) -> None:
    network = Keeping("cpu", 7)
    network.largest = 48**3
    predictor = Predictor(replace(bundle.task, domain=None), [network], Settings(whole=True, on_device=True))
    scan = Geometry.build((60, 40, 40), (1.8,) * 3).volume(np.random.default_rng(0).normal(size=(60, 40, 40)))
    assert predictor(scan).tile == (48, 48, 48)
    assert network.kept_memory == 0


def test_tiles_of_the_training_size_are_tried_again_if_memory_is_given_back(bundle: ModelBundle) -> None:
    class Full(Keeping):
        def on_device(self, patches: torch.Tensor) -> torch.Tensor:
            self.largest = 0 if self.kept_memory else 10**9
            return super().on_device(patches)

    scan = Geometry.build((60, 40, 40), (1.8,) * 3).volume(np.random.default_rng(0).normal(size=(60, 40, 40)))
    task, settings = replace(bundle.task, domain=None), Settings(overlap=0.5, on_device=True)
    found = Predictor(task, [Full("cpu", 7)], settings)(scan)
    assert found.tile == (48, 48, 48)
    released = "48 x 48 x 48 in torch; went on with the same tiles, after memory was released"
    assert any(note.endswith(released) for note in found.notes)
    usual = Predictor(task, [Keeping("cpu", 0)], settings)(scan)
    np.testing.assert_array_equal(found.mask.array, usual.mask.array)


def test_a_scan_is_not_compared_with_what_the_one_before_holds_on_a_gpu(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor = Predictor(replace(bundle.task, domain=None), [OnTensors("cpu")], Settings(on_device=True))
    scan = Geometry.build((40, 40, 40), (1.8,) * 3).volume(np.random.default_rng(0).normal(size=(40,) * 3))
    checked = predictor.check(scan)
    monkeypatch.setattr(DevicePlace, "arrays", Gpu(torch.device("cpu"), 1))
    assert predictor.prepare(checked).shape == (40, 40, 40)
    monkeypatch.setattr(DevicePlace, "arrays", TorchArrays(torch.device("cpu")))
    monkeypatch.setattr("c3s3_seg.inference.device.arrays.available_memory", lambda: 1)
    with pytest.raises(MemoryLimitError, match=r"takes 0\.\d GB, and 0\.0 GB are free"):
        predictor.prepare(checked)


def test_on_a_gpu_tiles_are_the_usual_ones_while_they_fit(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, costs = replace(bundle.task, overlap=None), costs_of("torch", [ASSUMED])
    volume = torch.zeros(96, 96, 96)

    def tile(left: int, **settings: Any) -> tuple[int, int, int]:
        monkeypatch.setattr(
            "c3s3_seg.inference.tiled_network.arrays_of", lambda _: Gpu(torch.device("cpu"), left)
        )
        tiled = TiledNetwork(task, (OnTensors("cuda:0"),), Settings(**settings), costs)
        return tiled(volume, volume.numel()).tiling.tile

    assert tile(80 * 10**9) == (96, 96, 96)
    small = tile(1_100_000_000)
    assert np.prod(small) < 96**3
    assert min(small) >= 48
    assert tile(80 * 10**9, overlap=0.5) == (48, 48, 48)  # not grown to fill the GPU


def test_memory_that_is_full_on_the_device_is_one_line(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr("c3s3_seg.inference.device.prepare.to_model_grid", full)
    scan = Geometry.build((40, 40, 40), (1.8,) * 3).volume(np.random.default_rng(0).normal(size=(40,) * 3))
    predictor = Predictor(replace(bundle.task, domain=None), [OnTensors("cpu")], Settings(on_device=True))
    with pytest.raises(MemoryLimitError, match="memory was full on cpu while the scan was brought"):
        predictor(scan)
