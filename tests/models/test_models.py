import subprocess
import sys
from pathlib import Path

import pytest
import torch

from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.models import BACKBONES, WANTED, build
from c3s3_seg.models.activation_checkpointing import set_activation_checkpointing, settled
from c3s3_seg.models.blocks import Convolution
from c3s3_seg.models.resencunet import Halving
from c3s3_seg.models.resvnet import ResVNet
from c3s3_seg.models.strides import Strides, Triple, multiple_of
from c3s3_seg.models.vnet import VNet
from c3s3_seg.models.weights_format import SCALE, from_bytes
from c3s3_seg.training.config import load_config
from c3s3_seg.training.methods import build_method


def test_parameter_counts_are_the_published_ones() -> None:
    counts = [sum(p.numel() for p in net.parameters()) for net in (VNet(), ResVNet())]
    assert counts == [9_448_866, 17_930_354]


@pytest.mark.parametrize("architecture", BACKBONES)
def test_shapes_follow_channels_classes_and_filters(architecture: str) -> None:
    net = build(architecture, channels=2, classes=4, filters=2).eval()
    x = torch.zeros(1, 2, 32, 16, 48)
    assert net(x).shape == (1, 4, 32, 16, 48)
    assert net.features(x).shape == (1, 2, 32, 16, 48)


@pytest.mark.parametrize("architecture", BACKBONES)
def test_sides_are_halved_as_the_strides_say(architecture: str) -> None:
    strides: Strides = ((2, 2, 1), (2, 1, 1), (2, 2, 2), (2, 2, 1))
    net = build(architecture, channels=1, classes=2, filters=2, strides=strides).eval()
    x = torch.zeros(1, 1, *(2 * side for side in multiple_of(strides)))
    assert [tuple(level.shape[2:]) for level in net.encode(x)] == [
        (32, 16, 4), (16, 8, 4), (8, 8, 4), (4, 4, 2), (2, 2, 2)
    ]  # fmt: skip
    assert net(x).shape == (1, 2, 32, 16, 4)


@pytest.mark.parametrize("architecture", BACKBONES)
def test_every_parameter_learns(architecture: str) -> None:
    torch.manual_seed(0)
    net = build(architecture, channels=1, classes=2, filters=2)
    net(torch.randn(2, 1, 32, 32, 32)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())


def test_the_projection_head_is_not_part_of_the_nets(toy_config) -> None:
    method = build_method(load_config(toy_config))
    heads = {name for name, _ in method.named_parameters() if name.startswith("project")}
    assert heads
    for net, _ in method.candidates().values():
        assert not any("project" in name for name in net.state_dict())


def test_names_are_known_without_torch() -> None:
    """The manifest, configurations and graphs need the names in processes that must not load torch."""
    code = "import sys, c3s3_seg.bundle, c3s3_seg.inference.backends.graph; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_weights_tell_their_backbone() -> None:
    """The first kernel exists, has `filters` slices, and no other backbone has a kernel of that name."""
    states = {name: build(name, channels=1, classes=2, filters=3).state_dict() for name in BACKBONES}
    for name, entry in BACKBONES.items():
        assert [other for other, state in states.items() if entry.first_kernel in state] == [name]
        assert states[name][entry.first_kernel].shape[0] == 3


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match=f"'unet', wanted {WANTED}"):
        build("unet", channels=1, classes=2, filters=2)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", BACKBONES)
def test_recomputing_changes_nothing_but_memory(architecture: str) -> None:
    """Loss, gradients and running statistics stay equal; fewer bytes are kept for the backward pass."""
    x = torch.randn(2, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    seen = []
    for activation_checkpointing in (False, True):
        torch.manual_seed(0)
        net = build(architecture, channels=1, classes=2, filters=4, dropout=0.0)
        set_activation_checkpointing(net, activation_checkpointing)
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor, kept: dict[int, int] = kept) -> torch.Tensor:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = net(x).square().mean()
        loss.backward()
        gradients = [p.grad for p in net.parameters()]
        seen.append((loss, gradients, net.state_dict(), sum(kept.values())))
    (loss, gradients, state, kept_bytes), (loss2, gradients2, state2, fewer_bytes) = seen
    assert torch.equal(loss, loss2)
    # The arithmetic is the same, in float32 (6e-8) over some 40 layers: 1e-5 of the whole gradient's norm.
    size = torch.stack([g.norm() for g in gradients]).norm()
    for first, second in zip(gradients, gradients2, strict=True):
        assert (first - second).norm() < 1e-5 * size
    for name, value in state.items():
        assert torch.equal(value, state2[name]), name
    assert fewer_bytes < 0.75 * kept_bytes


@pytest.mark.parametrize("shape", [(2, 3, 2), (2, 4, 4), (4, 4, 4)])
def test_gradients_in_bfloat16_are_those_of_single_precision(shape: tuple[int, ...]) -> None:
    """This includes maps of 2 planes, where oneDNN's kernel read unwritten memory, here full of nan."""
    torch.manual_seed(0)
    convolution = Convolution(16, 16, 3, padding=1)
    x = torch.randn(4, 16, *shape)
    expected = _gradient(convolution, x)
    with torch.autocast("cpu", torch.bfloat16):
        for _ in range(10):
            torch.full((500_000,), float("nan"))
            found = _gradient(convolution, x)
            torch.testing.assert_close(found, expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def _gradient(convolution: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    convolution.zero_grad()
    y = convolution(x)
    y.backward(torch.cos(torch.arange(y.numel())).reshape(y.shape).to(y.dtype))
    return convolution.weight.grad.clone()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("stride", [(2, 2, 2), (2, 2, 1), (1, 2, 1)])
def test_the_shortcut_averages_in_training_as_it_does_in_a_graph(stride: Triple) -> None:
    """Each form makes up to 7 additions of numbers below 6, which round by less than 2^-20."""
    x = torch.randn(2, 3, 8, 4, 6, generator=torch.Generator().manual_seed(0), requires_grad=True)
    halving = Halving(stride, stride)
    ours, theirs = halving(x), halving.eval()(x)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=2**-19)
    weights = torch.linspace(0, 1, ours.numel()).reshape(ours.shape)
    (found,), (expected,) = (torch.autograd.grad(y, x, weights) for y in (ours, theirs))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_no_gradient_of_a_backbone_is_one_that_torch_calls_random() -> None:
    """On a GPU, torch's pooling has no deterministic gradient, which training requires."""
    for architecture in BACKBONES:
        net = build(architecture, channels=1, classes=2, filters=2)
        waiting, seen = [net(torch.zeros(2, 1, 32, 32, 32)).grad_fn], set()
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [before for before, _ in node.next_functions]
        names = {node.name() for node in seen}
        assert any("Convolution" in name for name in names)
        assert not [name for name in names if "Pool" in name or "Upsample" in name], architecture


@pytest.mark.parametrize("kind", [torch.nn.BatchNorm3d, torch.nn.SyncBatchNorm])
def test_a_settled_norm_forgets_what_it_sees(kind: type[torch.nn.Module]) -> None:
    """This includes the norm for several processes on GPUs, which is a plain one in one CPU process."""
    norm = kind(2).train()
    x = torch.randn(2, 2, 4, 4, 4)
    norm(x)
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    with settled(norm):
        answer = norm(2 * x)
    assert answer.mean().abs() < 1e-6  # normalised by the statistics of this input
    assert {name: value.tolist() for name, value in norm.state_dict().items()} == {
        name: value.tolist() for name, value in before.items()
    }
    norm(x)
    assert int(norm.state_dict()["num_batches_tracked"]) == 2


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16, torch.int32])
def test_the_scales_of_a_kernel_in_8_bits_are_in_single_precision(kind: torch.dtype) -> None:
    """In float64 they ran in torch, and were a KeyError in the export."""
    from safetensors.torch import save

    stored = {"w": torch.ones(4, 2, dtype=torch.int8), "w" + SCALE: torch.ones(4)}
    assert from_bytes(save(stored), Path("right"))["w"].dtype == torch.float32
    stored["w" + SCALE] = torch.ones(4, dtype=kind)
    with pytest.raises(InputError, match=rf"'w' has scales of {str(kind)[6:]}, wanted float32"):
        from_bytes(save(stored), Path("wrong"))


@pytest.mark.parametrize("scales", [torch.ones(1), torch.ones(3), torch.ones(4, 1)])
def test_a_kernel_in_8_bits_has_one_scale_for_each_slice(scales: torch.Tensor) -> None:
    from safetensors.torch import save

    kernel = torch.full((4, 2), 3, dtype=torch.int8)
    right = {"w": kernel, "w" + SCALE: torch.tensor([1.0, 2.0, 3.0, 4.0])}
    assert from_bytes(save(right), Path("right"))["w"][:, 0].tolist() == [3, 6, 9, 12]
    with pytest.raises(InputError, match=r"'w' of shape \[4, 2\] is in 8 bits and has scales of shape"):
        from_bytes(save(right | {"w" + SCALE: scales}), Path("wrong"))
