import numpy as np
import pytest
import torch

from c3s3_seg.geometry.resample import axis_weights
from c3s3_seg.inference.arrays import HOST, arrays_of
from c3s3_seg.inference.device.arrays import TorchArrays

DEVICE = TorchArrays(torch.device("cpu"))


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def test_an_array_says_where_it_lies() -> None:
    assert arrays_of(noise(2)) is HOST
    assert arrays_of(torch.zeros(2)) == DEVICE
    assert (DEVICE.on_device, DEVICE.own_memory, HOST.on_device) == (True, False, False)


@pytest.mark.parametrize("kind", ["?", "i1", "u1", "i2", ">i2", "u2", "<u4", "i8", "f2", ">f4", "f8", "g"])
def test_every_kind_of_number_arrives_as_float32_rounds_it(kind: str) -> None:
    array = (noise(3, 4, 5) * 100).clip(0).astype(kind)
    array.flags.writeable = False
    found = DEVICE.of(array).float().numpy()
    np.testing.assert_array_equal(found, array.astype(np.float32))


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("reversed_axes", [(), (0,), (1, 2), (0, 1, 2)])
def test_views_go_there_and_back(order: tuple[int, ...], reversed_axes: tuple[int, ...]) -> None:
    view = np.flip(noise(3, 4, 5).transpose(order), reversed_axes)[:, 1:]
    there = DEVICE.of(view)
    np.testing.assert_array_equal(DEVICE.host(there), view)
    memory = np.zeros((6, 7, 8), np.float32)
    goal = np.flip(memory.transpose(order), reversed_axes)[tuple(slice(1, 1 + n) for n in view.shape)]
    DEVICE.put(goal, there)
    np.testing.assert_array_equal(goal, view)
    assert np.count_nonzero(memory) == view.size


def test_a_workspace_is_apart_on_a_device_and_the_array_itself_on_the_host() -> None:
    view = np.zeros((2, 3, 4), np.uint8)[:, ::-1]
    assert HOST.workspace(view) is view
    there = DEVICE.workspace(view)
    there[0, 0, 0] = 7
    assert view.sum() == 0
    DEVICE.put(view, there)
    assert view[0, 0, 0] == view.sum() == 7


@pytest.mark.parametrize(("old", "new"), [(31, 12), (12, 31), (20, 19), (1, 5), (7, 1)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_sums_along_an_axis_are_equal_bit_for_bit(old: int, new: int, axis: int) -> None:
    shape = [9, 10, 11]
    shape[axis] = old
    array, weights = noise(*shape), axis_weights(old, new)
    np.testing.assert_array_equal(
        DEVICE.along(weights, torch.from_numpy(array), axis).numpy(), HOST.along(weights, array, axis)
    )


def test_weights_go_to_a_gpu_without_waiting_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights go through pinned memory, which torch allocates only with a GPU; the rest is as on the CPU."""

    class OwnMemory(TorchArrays):
        own_memory = True  # type: ignore[assignment]

    pinned: list[torch.Tensor] = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    array, weights = noise(9, 10, 31), axis_weights(31, 12)
    found = OwnMemory(torch.device("cpu")).along(weights, torch.from_numpy(array), 2)
    np.testing.assert_array_equal(found.numpy(), HOST.along(weights, array, 2))
    assert pinned
    assert max(tensor.numel() for tensor in pinned) == 12


def test_softmax_is_equal_but_for_the_exponential_function() -> None:
    logits = noise(1, 5, 12, 13, 14) * 6
    kept = logits.copy()
    found = DEVICE.softmax(torch.from_numpy(logits)).numpy()
    np.testing.assert_array_equal(logits, kept)  # a CUDA graph may own that memory
    np.testing.assert_allclose(found, HOST.softmax(logits), rtol=0, atol=2.5e-7)
    huge = torch.tensor([[1000.0, 0.0]])[..., None, None, None]
    np.testing.assert_array_equal(DEVICE.softmax(huge).flatten().numpy(), [1, 0])


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_counted(wrong: float) -> None:
    array = noise(3, 4)
    assert DEVICE.not_finite(torch.from_numpy(array)) == HOST.not_finite(array) == 0
    array[1, 1:3] = wrong
    assert DEVICE.not_finite(torch.from_numpy(array)) == HOST.not_finite(array) == 2


def test_the_rest_is_numpys() -> None:
    a, b = noise(2, 3, 4), noise(2, 3, 4)[::-1].copy()
    x, y = torch.from_numpy(a), torch.from_numpy(b)
    pairs = [
        (DEVICE.larger(x, y), HOST.larger(a, b)),
        (DEVICE.concatenate([x, y], 1), HOST.concatenate([a, b], 1)),
        (DEVICE.pad(x, [(1, 0), (0, 2), (3, 1)]), HOST.pad(a, [(1, 0), (0, 2), (3, 1)])),
        (DEVICE.moveaxis(x, 0, 2), HOST.moveaxis(a, 0, 2)),
        (DEVICE.flip(x, (0, 2)), HOST.flip(a, (0, 2))),
        (DEVICE.flip(x, ()), HOST.flip(a, ())),
        (DEVICE.dense(x.permute(2, 0, 1)), HOST.dense(a.transpose(2, 0, 1))),
        (DEVICE.zeros((2, 2), "uint8"), HOST.zeros((2, 2), "uint8")),
        (DEVICE.copy(x), HOST.copy(a)),
    ]
    for found, wanted in pairs:
        np.testing.assert_array_equal(found.numpy(), wanted)
        assert str(found.dtype).endswith(str(wanted.dtype))
