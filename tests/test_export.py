"""torch -> ONNX: the graph reads the bundle's weights, and one that differs is not written."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from c3s3_seg.bundle import Label, ModelBundle, Network, Task
from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.export import parity
from c3s3_seg.export.onnx import onnx_graph
from c3s3_seg.export.parity import check_scans, compare, export_onnx
from c3s3_seg.models import build
from c3s3_seg.models.storage import LARGE, SCALE, from_file, to_bytes
from c3s3_seg.recipe import Recipe
from c3s3_seg.volume import Geometry, Volume

TASK = Task("toy", "MR", (Label("a", 1), Label("b", 2)), Recipe((1.0, 1.0, 1.0)), (32, 32, 32))
NETWORKS = (Network("model", "vnet", 2), Network("partner", "resvnet", 2))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    torch.manual_seed(0)
    files = {}
    for n in NETWORKS:
        net = build(n.architecture, channels=1, classes=3, filters=n.filters)
        net(torch.randn(2, 1, 32, 32, 32))  # gives batch norms statistics of their own
        files[n.weights] = to_bytes(net)
    return ModelBundle.create(tmp_path_factory.mktemp("export") / "b", TASK, files, NETWORKS, {})


@pytest.fixture(scope="module")
def scan() -> Volume:
    array = np.random.default_rng(0).normal(size=(40, 36, 34)).astype(np.float32)
    return Geometry.build(array.shape).volume(array)


@pytest.fixture
def fresh(bundle: ModelBundle, tmp_path: Path) -> ModelBundle:
    shutil.copytree(bundle.folder, tmp_path / "b")
    return ModelBundle.load(tmp_path / "b")


def test_both_networks_are_exported_and_agree(fresh: ModelBundle, scan: Volume) -> None:
    exported, proofs = export_onnx(fresh, [scan])
    assert set(proofs) == {"model.onnx", "partner.onnx"}
    for proof in proofs.values():
        assert proof.patches == 8
        assert 0 < proof.difference < 1e-3
    again = ModelBundle.load(exported.folder)
    for network in again.networks:
        path = again.folder / network.graph
        onnx.checker.check_model(str(path), full_check=True)
        assert path.stat().st_size < 100_000  # the weights stay where they are


def test_weights_are_stored_once_and_in_half_precision(bundle: ModelBundle) -> None:
    graph = onnx.load_from_string(onnx_graph(bundle, bundle.networks[0]))
    places = {t.name: {e.key: e.value for e in t.external_data} for t in graph.graph.initializer}
    assert {place["location"] for place in places.values()} == {"model.safetensors"}
    assert any(name.endswith(".half") for name in places)
    facts = {p.key: p.value for p in graph.metadata_props}
    assert '"spacing_mm": [1.0, 1.0, 1.0]' in facts["c3s3.task"]


def test_a_planted_fault_is_refused_and_nothing_is_written(
    fresh: ModelBundle, scan: Volume, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(bundle: ModelBundle, network: Network) -> bytes:
        graph = onnx.load_from_string(onnx_graph(bundle, network))
        first = next(n for n in graph.graph.node if n.op_type == "BatchNormalization")
        first.input[1], first.input[2] = first.input[2], first.input[1]  # scale and shift exchanged
        return graph.SerializeToString()  # type: ignore[no-any-return]

    monkeypatch.setattr(parity, "onnx_graph", wrong)
    with pytest.raises(RefusedError, match=r"model.onnx differs from torch: 8 patches, largest difference"):
        export_onnx(fresh, [scan])
    assert not (fresh.folder / "model.onnx").exists()
    assert not ModelBundle.load(fresh.folder).has("model.onnx")


def test_one_changed_weight_is_seen(fresh: ModelBundle, scan: Volume) -> None:
    graph = onnx_graph(fresh, fresh.networks[0])
    assert compare(fresh, fresh.networks[0], graph, [scan]).holds
    model = onnx.load_from_string(graph)
    bias = next(t for t in model.graph.initializer if t.name == "output.bias")
    del bias.external_data[:]
    bias.data_location = onnx.TensorProto.DEFAULT
    bias.raw_data = np.array([3.0, 0.0, 0.0], np.float32).tobytes()
    assert not compare(fresh, fresh.networks[0], model.SerializeToString(), [scan]).holds


def test_weights_of_another_network_are_refused(fresh: ModelBundle) -> None:
    with pytest.raises(InputError, match="not the weights of a resvnet with 2 filters"):
        onnx_graph(fresh, Network("model", "resvnet", 2))


def test_a_phantom_serves_where_no_scan_is_at_hand(bundle: ModelBundle) -> None:
    scans, what = check_scans(bundle, [])
    assert what == "a simulated scan"
    assert len(scans) == 1


@pytest.mark.parametrize("architecture", ["vnet", "resvnet"])
def test_eight_bits_are_exported_and_agree(architecture: str, scan: Volume, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = Network("model", architecture, 4)  # type: ignore[arg-type]
    net = build(architecture, channels=1, classes=3, filters=4)
    net(torch.randn(2, 1, 32, 32, 32))
    files = {network.weights: to_bytes(net, "int8")}
    bundle = ModelBundle.create(tmp_path / "b", TASK, files, (network,), {})
    exported, proofs = export_onnx(bundle, [scan])
    assert proofs["model.onnx"].difference < 1e-3
    onnx.checker.check_model(str(exported.folder / "model.onnx"), full_check=True)


def test_eight_bits_are_half_the_size_and_close(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = build("vnet", channels=1, classes=2, filters=8)
    half, small = to_bytes(net, "half"), to_bytes(net, "int8")
    assert len(small) < 0.54 * len(half)
    path = tmp_path / "w.safetensors"
    path.write_bytes(small)
    state = from_file(path)
    assert state.keys() == net.state_dict().keys()
    for name, tensor in net.state_dict().items():
        if tensor.dim() > 1:
            limit = tensor.abs().max() / (127 if tensor.numel() >= LARGE else 1000)
            assert (state[name] - tensor).abs().max() <= limit, name
        else:
            assert torch.equal(state[name], tensor), name


def test_damaged_weights_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import save

    path = tmp_path / "w.safetensors"
    path.write_bytes(b"not safetensors")
    with pytest.raises(InputError, match="not a safetensors file"):
        from_file(path)
    path.write_bytes(save({"kernel": torch.zeros(4, 4, dtype=torch.int8), "other" + SCALE: torch.ones(4)}))
    with pytest.raises(InputError, match="'kernel' is in 8 bits and has no scales"):
        from_file(path)
