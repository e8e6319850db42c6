"""torch -> ONNX: the graph reads the bundle's weights, and a graph that differs from torch is not written."""

import shutil
from pathlib import Path

import onnx
import pytest
import torch

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.export import export as write
from c3s3_seg.export.card import in_bundle_card
from c3s3_seg.export.export import export_in_bundle
from c3s3_seg.export.onnx import onnx_graph
from c3s3_seg.export.parity import Parity, ScanParity
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.models import build
from c3s3_seg.models.weights_format import LARGE, SCALE, from_bytes, to_bytes

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def mixed(two_nets: ModelBundle, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of a VNet in half precision and a ResVNet with enough filters for 8-bit weights."""
    torch.manual_seed(0)
    first, second = two_nets.networks[0], Network("secondary", "resvnet", 4)
    net = build("resvnet", channels=1, classes=3, filters=4)
    net(torch.randn(2, 1, 32, 32, 32))
    files = {
        first.weights: (two_nets.folder / first.weights).read_bytes(),
        second.weights: to_bytes(net, "int8"),
    }
    folder = tmp_path_factory.mktemp("mixed") / "b"
    return ModelBundle.create(folder, two_nets.task, files, (first, second), {})


@pytest.fixture
def fresh(mixed: ModelBundle, tmp_path: Path) -> ModelBundle:
    shutil.copytree(mixed.folder, tmp_path / "b")
    return ModelBundle.load(tmp_path / "b")


@pytest.fixture(scope="module")
def graphs(mixed: ModelBundle) -> dict[str, bytes]:
    """Return the graphs by name, traced once for all tests: each takes seconds."""
    return {network.graph: onnx_graph(mixed, network) for network in mixed.networks}


def test_half_precision_and_eight_bits_are_exported_and_agree(
    fresh: ModelBundle, noise: Volume, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "onnx_graph", lambda _, network: graphs[network.graph])
    exported, proofs = export_in_bundle(fresh, [noise])
    assert set(proofs) == {"model.onnx", "secondary.onnx"}
    for proof in proofs.values():
        assert proof.patches == 8
        assert 0 < proof.difference < 1e-3
    again = ModelBundle.load(exported.folder)
    for network in again.networks:
        path = again.folder / network.graph
        onnx.checker.check_model(str(path), full_check=True)
        assert path.stat().st_size < 100_000  # the weights stay in the bundle's file
        assert again.manifest.parity[network.graph]["patches"] == 8
    card = (again.folder / "README.md").read_text()
    assert card.count("## Parity with torch") == 1
    assert "| secondary.onnx | openvino | 8 |" in card


def test_a_bundle_is_not_exported_without_a_scan_to_compare_on(fresh: ModelBundle) -> None:
    with pytest.raises(InputError, match="there is no scan to compare on"):
        export_in_bundle(fresh, [])


def test_what_somebody_wrote_behind_the_parity_stays_on_the_card() -> None:
    """Text behind the section of the earlier export was removed with that section."""
    scan = ScanParity(0.0, 0, 8, 1, 1.0, 0.0, 0.0, 1.0, 1.0)
    parities = {"model.onnx": Parity("float32", "openvino", 1, 8, 0.0, 0, (scan,))}
    first = in_bundle_card("# atrium\n\nResearch use only.\n", parities)
    assert in_bundle_card(first, parities) == first
    again = in_bundle_card(f"{first}\n## Licence\n\nOurs.\n", parities)
    assert again.count("## Parity with torch") == 1
    assert again.startswith("# atrium\n\nResearch use only.\n\n## Licence\n\nOurs.\n\n## Parity")


def test_weights_are_stored_once_and_in_half_precision(graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs["model.onnx"])
    places = {t.name: {e.key: e.value for e in t.external_data} for t in graph.graph.initializer}
    assert {place["location"] for place in places.values()} == {"model.safetensors"}
    assert any(name.endswith(".half") for name in places)
    facts = {p.key: p.value for p in graph.metadata_props}
    assert '"spacing_mm": [1.0, 1.0, 1.0]' in facts["c3s3.task"]


def test_a_planted_fault_is_refused_and_nothing_is_written(
    fresh: ModelBundle, noise: Volume, graphs: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(bundle: ModelBundle, network: Network) -> bytes:
        graph = onnx.load_from_string(graphs[network.graph])
        first = next(n for n in graph.graph.node if n.op_type == "BatchNormalization")
        first.input[1], first.input[2] = first.input[2], first.input[1]  # scale and shift exchanged
        return graph.SerializeToString()  # type: ignore[no-any-return]

    monkeypatch.setattr(write, "onnx_graph", wrong)
    with pytest.raises(
        RefusedError, match=r"model.onnx differs from torch: on patches a probability differs by"
    ):
        export_in_bundle(fresh, [noise])
    assert not (fresh.folder / "model.onnx").exists()
    assert not ModelBundle.load(fresh.folder).has("model.onnx")


@pytest.mark.parametrize("how", ["edited", "latin-1", "link"])
def test_a_card_that_cannot_be_rewritten_is_refused_before_the_work(
    fresh: ModelBundle, noise: Volume, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str
) -> None:
    def traced(*_: object) -> bytes:
        raise AssertionError("the network was traced first")

    monkeypatch.setattr(write, "onnx_graph", traced)
    card, bundle = fresh.folder / "README.md", fresh
    if how == "latin-1":
        bundle = fresh.add({"README.md": "# Vorh\u00f6fe\n".encode("latin-1")})
    elif how == "edited":
        card.write_text("# mine\n")
    else:
        (tmp_path / "secret").write_text("secret")
        card.symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"UTF-8|did not write|symbolic link"):
        export_in_bundle(bundle, [noise])
    assert (tmp_path / "secret").exists() == (how == "link")


def test_weights_of_another_network_are_refused(fresh: ModelBundle) -> None:
    with pytest.raises(InputError, match="not the weights of a resvnet with 2 filters"):
        onnx_graph(fresh, Network("model", "resvnet", 2))


def test_eight_bits_are_widened_by_their_scales(graphs: dict[str, bytes]) -> None:
    graph = onnx.load_from_string(graphs["secondary.onnx"]).graph
    kinds = {t.name: t.data_type for t in graph.initializer}
    widened = [node.input[0] for node in graph.node if node.op_type == "DequantizeLinear"]
    assert widened
    assert {kinds[name] for name in widened} == {onnx.TensorProto.INT8}


def test_eight_bits_are_half_the_size_and_close() -> None:
    torch.manual_seed(0)
    net = build("vnet", channels=1, classes=2, filters=8)
    half, small = to_bytes(net, "half"), to_bytes(net, "int8")
    assert len(small) < 0.54 * len(half)
    state = from_bytes(small, Path("w.safetensors"))
    assert state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        if tensor.dim() > 1:
            limit = tensor.abs().max() / (127 if tensor.numel() >= LARGE else 1000)
            assert (state[name] - tensor).abs().max() <= limit, name
        else:
            assert torch.equal(state[name], tensor), name


def test_damaged_weights_are_refused() -> None:
    from safetensors.torch import save

    path = Path("w.safetensors")
    with pytest.raises(InputError, match="not a safetensors file"):
        from_bytes(b"not safetensors", path)
    unscaled = save({"kernel": torch.zeros(4, 4, dtype=torch.int8), "other" + SCALE: torch.ones(4)})
    with pytest.raises(InputError, match="'kernel' is in 8 bits and has no scales"):
        from_bytes(unscaled, path)
