import pytest
import torch

from c3s3_seg.errors import ConfigError
from c3s3_seg.models import ResVNet, VNet, build, parameter_count
from c3s3_seg.training.config import load_config
from c3s3_seg.training.methods import build_method


def test_parameter_counts_are_the_published_ones() -> None:
    assert parameter_count(VNet()) == 9_448_866
    assert parameter_count(ResVNet()) == 17_930_354


@pytest.mark.parametrize("architecture", ["vnet", "resvnet"])
def test_shapes_follow_channels_classes_and_filters(architecture: str) -> None:
    net = build(architecture, channels=2, classes=4, filters=2).eval()
    x = torch.zeros(1, 2, 32, 16, 48)
    assert net(x).shape == (1, 4, 32, 16, 48)
    assert net.features(x).shape == (1, 2, 32, 16, 48)


@pytest.mark.parametrize("architecture", ["vnet", "resvnet"])
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


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(ConfigError, match="'unet', wanted one of vnet, resvnet"):
        build("unet", channels=1, classes=2, filters=2)
