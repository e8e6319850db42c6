"""Tests of inference with torch on a GPU. They are skipped if torch finds none."""

from collections.abc import Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from c3s3_seg import open_predictor  # noqa: E402
from c3s3_seg.bundle import ModelBundle  # noqa: E402
from c3s3_seg.inference import BackendRequest  # noqa: E402
from c3s3_seg.inference.backends.runtimes import open_torch  # noqa: E402
from c3s3_seg.phantom import simulate  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU")


@pytest.fixture(params=["phantom", "left-atrium", "hippocampus"])
def bundle(request: pytest.FixtureRequest) -> ModelBundle:
    return ModelBundle.find(request.param)


@pytest.fixture(autouse=True)
def tf32() -> Iterator[None]:
    """Allow TF32, as torch does by default: the product must request exact numbers itself."""
    torch.backends.cudnn.allow_tf32 = True
    yield
    torch.backends.cudnn.allow_tf32 = True


def test_single_precision_rounds_nothing_to_tf32(bundle: ModelBundle) -> None:
    patch = np.random.default_rng(0).normal(size=(1, 1, *bundle.task.patch)).astype(np.float32)
    network = bundle.networks[0]
    a = open_torch(bundle, network, device="cuda", precision="float32")(patch)
    b = open_torch(bundle, network, device="cpu")(patch)
    np.testing.assert_allclose(a, b, atol=1e-3 * np.abs(b).max())


@pytest.mark.parametrize(("precision", "allowed"), [("float32", 1e-5), ("auto", 1e-3)])
def test_masks_are_those_of_the_cpu(bundle: ModelBundle, precision: str, allowed: float) -> None:
    """`auto` means half precision on a GPU."""
    scan = simulate(20_261).scan
    on_cpu = open_predictor(bundle, backend=BackendRequest("torch", "cpu"))(scan)
    on_gpu = open_predictor(bundle, backend=BackendRequest("torch", "cuda", precision))(scan)
    assert (on_gpu.mask.array != on_cpu.mask.array).sum() <= allowed * on_cpu.mask.array.size


def test_cuda_is_taken_where_it_is(bundle: ModelBundle) -> None:
    backend = open_torch(bundle, bundle.networks[0])
    assert (backend.device, backend.precision) == ("cuda", "float16")
    last = torch.cuda.device_count() - 1
    chosen = open_torch(bundle, bundle.networks[0], device=f"cuda:{last}")
    assert (chosen.device, next(chosen._net.parameters()).device.index) == ("cuda", last)
