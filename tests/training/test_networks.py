"""The backbones that a run trains, their names, and the networks that ship."""

from pathlib import Path

import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import DataSet
from c3s3_seg.errors import ConfigError
from c3s3_seg.models import WANTED
from c3s3_seg.training.bundles.initialize import initialize_from
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.methods import METHODS, build_method
from c3s3_seg.training.networks import PAIRS, SLOTS, TWINS, NetworksConfig
from c3s3_seg.training.planning.builder import ConfigBuilder
from c3s3_seg.training.planning.from_bundle import from_bundle
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import train

TWICE = ["networks.b.architecture=vnet", "networks.b.filters=3"]
SHORT = "run.iterations=4"  # the warm start takes three


def test_the_papers_pair_is_the_default() -> None:
    found = NetworksConfig().trained("c3s3")
    assert {slot: (n.candidate, n.filters) for slot, n in found.items()} == {
        "a": ("vnet", 16),
        "b": ("resvnet", 16),
    }


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_what_its_configuration_says(toy_config: Path, method: str) -> None:
    changes = [f"method={method}", "networks.a.architecture=resvnet", *TWICE, "networks.supervised=b"]
    config = load_config(toy_config, changes)
    candidates = build_method(config).candidates()
    assert list(candidates) == [n.candidate for n in config.networks.trained(method).values()]
    expected = {"supervised": ["vnet"], **{name: ["resvnet", "vnet"] for name in PAIRS}}
    expected |= {name: ["resvnet-a", "resvnet-b"] for name in TWINS}
    assert list(candidates) == expected.get(method, ["resvnet"])
    shapes = [p.shape for net, _ in candidates.values() for p in net.parameters()]
    if method in TWINS:
        assert shapes[: len(shapes) // 2] == shapes[len(shapes) // 2 :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("networks.b.architecture=unet", rf"networks\.b\.architecture = 'unet': wanted {WANTED}"),
        ("networks.c.filters=2", r"there is no key 'networks\.c'"),
        (
            "networks.a.widths=2",
            r"there is no key 'networks\.a\.widths'.*: architecture, filters",
        ),
        ("networks.a.filters=0", r"networks\.a\.filters = 0"),
        ("networks.supervised=vnet", r"networks\.supervised = 'vnet': wanted 'a' or 'b'"),
    ],
)
def test_what_is_no_network_is_refused(toy_config: Path, change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(toy_config, [change])


def test_something_must_ship(toy_config: Path) -> None:
    changes = ["method=supervised", 'networks.ship=["b"]']
    with pytest.raises(ConfigError, match=r"networks\.ship = \['b'\]: method 'supervised' trains only a"):
        load_config(toy_config, changes)
    assert load_config(toy_config, [*changes, "networks.supervised=b"]).networks.ship == ("b",)


@pytest.fixture(scope="module")
def twins(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of two V-Nets trained in competition."""
    folder = tmp_path_factory.mktemp("twins")
    return train(load_config(toy_config, [*TWICE, SHORT]), folder / "run", Silent())


@pytest.mark.slow
def test_two_of_one_architecture_have_names_of_their_own(twins: ModelBundle) -> None:
    facts = ModelBundle.load(twins.folder).manifest.training
    assert set(facts["validation_cases"]) == {"vnet-a", "vnet-b"}
    assert {network.candidate: network.filters for network in twins.networks} == {"vnet-a": 2, "vnet-b": 3}


@pytest.mark.slow
def test_the_one_that_is_named_ships(toy_config: Path, tmp_path: Path) -> None:
    bundle = train(load_config(toy_config, [*TWICE, SHORT, 'networks.ship=["b"]']), tmp_path, Silent())
    assert [(network.stem, network.candidate) for network in bundle.networks] == [("model", "vnet-b")]


def test_each_of_two_goes_on_from_its_own_weights(
    toy_config: Path, twins: ModelBundle, tmp_path: Path
) -> None:
    run = Run(load_config(toy_config, TWICE), tmp_path)
    initialize_from(run, twins)
    (record,) = run.history.records
    hashes = {n.candidate: twins.manifest.files[n.weights] for n in twins.networks}
    assert record["initialized_from"]["weights_sha256"] == hashes


def test_a_plan_from_a_bundle_of_two_keeps_both(toy_data: Path, twins: ModelBundle) -> None:
    draft, data = ConfigBuilder([]), DataSet.load(toy_data)
    from_bundle(draft, data, data.splits, twins)
    assert {draft[f"networks.{slot}.architecture"] for slot in SLOTS} == {"vnet"}
    assert {draft[f"networks.{slot}.filters"] for slot in SLOTS} == {2, 3}
