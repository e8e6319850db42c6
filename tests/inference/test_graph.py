"""An ONNX graph takes its weights only from its own hashed file, wherever in the graph a tensor is."""

import os
import shutil
import signal
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from helpers import forked
from helpers.command import run
from onnx import AttributeProto, TensorProto, helper
from safetensors.torch import load, save

from c3s3_seg.bundle import WEIGHTS, Label, ModelBundle, Network, Task
from c3s3_seg.bundle.preprocessing import Recipe
from c3s3_seg.errors import InputError
from c3s3_seg.inference.backends.graph import INNER, read_graph
from c3s3_seg.inference.backends.onnxruntime import OnnxBackend
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend
from c3s3_seg.inference.backends.select import BackendRequest, open_backend
from c3s3_seg.inference.backends.tensorrt import widened
from c3s3_seg.inference.tuning.measure_runtime import gflop, measure

READERS: list[Callable[[Path], Any]] = [
    read_graph, OpenVinoBackend, OnnxBackend, widened, lambda path: gflop(path, (16, 16, 16)),
]  # fmt: skip
NUMBERS = np.array([3.0, -3.0], np.float32).reshape(1, 2, 1, 1, 1)


def external(location: str, offset: int | str = 0, length: int | str = 8) -> TensorProto:
    """Return a tensor of two numbers that are stored in another file."""
    tensor = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=NUMBERS.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": offset, "length": length}.items():
        tensor.external_data.add(key=key, value=str(value))
    return tensor


def graph_of(nodes: list[Any], initializers: list[Any] = [], **more: Any) -> onnx.ModelProto:  # noqa: B006
    """Return a model of these nodes: `scan` (N, 1, X, Y, Z) -> `logits` (N, 2, X, Y, Z)."""
    sides = ["n", 1, "x", "y", "z"], ["n", 2, "x", "y", "z"]
    given, gives = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(("scan", "logits"), sides, strict=True)
    )
    graph = helper.make_graph(nodes, "g", [given], [gives], initializers)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **more)


def add(bias: str = "bias") -> Any:
    return helper.make_node("Add", ["scan", bias], ["logits"])


def in_initializer(tensor: TensorProto) -> onnx.ModelProto:
    return graph_of([add()], [tensor])


def in_constant(tensor: TensorProto) -> onnx.ModelProto:
    return graph_of([helper.make_node("Constant", [], ["bias"], value=tensor), add()])


def in_branch(tensor: TensorProto) -> onnx.ModelProto:
    """Return a graph with the tensor in both branches of an If, in one of them as an initializer."""
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, list(NUMBERS.shape))
    constant = helper.make_node("Constant", [], ["out"], value=tensor)
    same = helper.make_node("Identity", ["bias"], ["out"])
    one = helper.make_graph([constant], "one", [], [out])
    two = helper.make_graph([same], "two", [], [out], [tensor])
    yes = helper.make_node("Constant", [], ["yes"], value=helper.make_tensor("y", TensorProto.BOOL, [], [1]))
    choice = helper.make_node("If", ["yes"], ["bias"], then_branch=one, else_branch=two)
    return graph_of([yes, choice, add()])


def in_function(tensor: TensorProto) -> onnx.ModelProto:
    constant = helper.make_node("Constant", [], ["bias"], value=tensor)
    inner = helper.make_node("Add", ["scan", "bias"], ["logits"])
    own = helper.make_function(
        "own", "Shift", ["scan"], ["logits"], [constant, inner], [helper.make_opsetid("", 17)]
    )
    return graph_of([helper.make_node("Shift", ["scan"], ["logits"], domain="own")], functions=[own])


def in_list(tensor: TensorProto) -> onnx.ModelProto:
    """Return a graph with the tensor in an attribute that no runtime reads: a list of tensors."""
    model = in_initializer(onnx.numpy_helper.from_array(NUMBERS, "bias"))
    node = model.graph.node[0]
    node.attribute.append(AttributeProto(name="a", type=AttributeProto.TENSORS, tensors=[tensor]))
    return model


def in_graphs(tensor: TensorProto) -> onnx.ModelProto:
    model = in_initializer(onnx.numpy_helper.from_array(NUMBERS, "bias"))
    inner = helper.make_graph([], "inner", [], [], [tensor])
    model.graph.node[0].attribute.append(AttributeProto(name="a", type=AttributeProto.GRAPHS, graphs=[inner]))
    return model


def in_sparse(tensor: TensorProto) -> onnx.ModelProto:
    model = in_initializer(onnx.numpy_helper.from_array(NUMBERS, "bias"))
    model.graph.sparse_initializer.add(values=tensor, dims=[2])
    return model


def in_training(tensor: TensorProto) -> onnx.ModelProto:
    model = in_initializer(onnx.numpy_helper.from_array(NUMBERS, "bias"))
    model.training_info.add().initialization.initializer.append(tensor)
    return model


RUNNING = [in_initializer, in_constant, in_branch, in_function]
UNREAD = [in_list, in_graphs, in_sparse, in_training]


def write(folder: Path, model: onnx.ModelProto) -> Path:
    """Write a graph, its own weights file of 16 bytes and a foreign file; return the path of the graph."""
    (folder / "model.safetensors").write_bytes(b"headhead" + NUMBERS.tobytes())
    (folder / "other.bin").write_bytes(bytes(8) + (7 * NUMBERS).tobytes())
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("place", [*RUNNING, *UNREAD], ids=lambda f: f.__name__)
@pytest.mark.parametrize("where", ["other.bin", "../{}/other.bin", "./model.safetensors", "{}/other.bin", ""])
def test_weights_of_another_file_are_refused_by_every_reader(
    tmp_path: Path, place: Callable[[TensorProto], onnx.ModelProto], where: str
) -> None:
    location = where.format(tmp_path.name if where.startswith("..") else tmp_path)
    path = write(tmp_path, place(external(location, 8)))
    for read in READERS:
        with pytest.raises(InputError, match=r"it takes weights from .* wanted 'model.safetensors' or none"):
            read(path)


@pytest.mark.parametrize("place", RUNNING, ids=lambda f: f.__name__)
def test_weights_of_its_own_file_are_put_in(
    tmp_path: Path, place: Callable[[TensorProto], onnx.ModelProto]
) -> None:
    path = write(tmp_path, place(external("model.safetensors", 8)))
    given = np.zeros((1, 1, 16, 16, 16), np.float32)
    onnx.checker.check_model(onnx.load_from_string(read_graph(path)))
    # OpenVINO does not support functions defined in a graph.
    for read in (OnnxBackend, OpenVinoBackend)[: 1 if place is in_function else 2]:
        backend = read(path)
        path.with_suffix(".safetensors").write_bytes(bytes(16))  # too late: already read
        np.testing.assert_array_equal(backend(given), np.broadcast_to(NUMBERS, (1, 2, 16, 16, 16)))
        write(tmp_path, place(external("model.safetensors", 8)))


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 17), (16, 8), (-8, 8), (8, -8), ("x", 8), (8, "2e0"), (2**63, 8)]
)
def test_a_place_outside_of_the_file_is_refused(tmp_path: Path, offset: int | str, length: int | str) -> None:
    path = write(tmp_path, in_initializer(external("model.safetensors", offset, length)))
    with pytest.raises(InputError, match=r"model.onnx: is not an ONNX graph that can be run: "):
        read_graph(path)


def test_a_place_that_is_said_twice_is_refused(tmp_path: Path) -> None:
    tensor = external("model.safetensors", 8)
    tensor.external_data.add(key="location", value="other.bin")
    with pytest.raises(InputError, match="two values of 'location'"):
        read_graph(write(tmp_path, in_initializer(tensor)))


def _field(number: int, content: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    parts = []
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


@pytest.mark.parametrize("bits", [1 << 32, 1 << 34])
def test_a_reference_behind_bits_that_readers_drop_is_refused(tmp_path: Path, bits: int) -> None:
    """A tag has 32 bits: OpenVINO drops the higher bits of a longer tag and would follow the reference."""
    tensor = TensorProto(name="bias", data_type=TensorProto.FLOAT, dims=NUMBERS.shape).SerializeToString()
    for entry in external("other.bin", 8).external_data:
        content = entry.SerializeToString()
        tensor += _varint((13 << 3 | 2) + bits) + _varint(len(content)) + content
    tensor += _varint((14 << 3) + bits) + b"\x01"
    path = write(tmp_path, graph_of([add()]))
    path.write_bytes(path.read_bytes() + _field(7, _field(5, tensor)))  # protobuf merges two graphs
    for read in READERS:
        with pytest.raises(InputError, match="its structure is broken"):
            read(path)


def test_every_message_that_may_hold_a_tensor_is_walked_through() -> None:
    """The definition in the installed `onnx` decides: a new release may have a new place for tensors."""
    names = {
        "ModelProto": "model", "GraphProto": "graph", "NodeProto": "node", "FunctionProto": "function",
        "AttributeProto": "attribute", "TensorProto": "tensor", "SparseTensorProto": "sparse",
        "TrainingInfoProto": "training",
    }  # fmt: skip

    def holds(message: Any, seen: frozenset[str] = frozenset()) -> bool:
        if message.name == "TensorProto":
            return True
        inner = [f.message_type for f in message.fields if f.message_type and f.message_type.name not in seen]
        return any(holds(m, seen | {message.name}) for m in inner)

    todo, done = [onnx.ModelProto.DESCRIPTOR], set()
    while todo:
        message = todo.pop()
        done.add(message.name)
        inner = {f.number: f.message_type for f in message.fields if f.message_type}
        wanted = {n: names[m.name] for n, m in inner.items() if holds(m)}
        if message.name != "TensorProto":
            assert INNER[names[message.name]] == wanted
        todo += [m for m in inner.values() if holds(m) and m.name not in done]
    assert done == set(names)


@pytest.mark.parametrize("path", sorted(WEIGHTS.glob("*/*.onnx")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_shipped_graphs_say_the_same_as_from_their_files(path: Path) -> None:
    given = np.random.default_rng(0).normal(size=(1, 1, 16, 16, 16)).astype(np.float32)
    plain = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(OnnxBackend(path)(given), plain.run(None, {"scan": given})[0])
    loaded = onnx.load(path)
    assert onnx.load_from_string(read_graph(path)).graph.node == loaded.graph.node


GOOD = in_initializer(onnx.numpy_helper.from_array(NUMBERS, "bias")).SerializeToString()


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\0" * 100, b"<?xml version='1.0'?><net/>", b"\n<net name='x'></net>", b"not a graph",
        GOOD[:-1], GOOD[:40], b"\x08\x09" + b"\x3a\xff\xff\xff\xff\x7f", b"\x08" + b"\xff" * 20,
        b"\x08\x09\x3b", b"\x08\x09\x38\x01", b"\x08\x09\x00\x00",
    ],
)  # fmt: skip
def test_what_is_no_graph_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = write(tmp_path, graph_of([add()]))
    path.write_bytes(content)
    for read in READERS:
        with pytest.raises(InputError) as refusal:
            read(path)
        assert str(refusal.value).startswith(f"{path}: ")
        assert "\n" not in str(refusal.value)


def test_a_graph_nested_without_end_is_refused(tmp_path: Path) -> None:
    inner = b""
    for _ in range(3000):  # a graph in an attribute of a node of a graph
        for number in (6, 5, 1):
            inner = _field(number, inner)
    path = write(tmp_path, graph_of([add()]))
    path.write_bytes(b"\x08\x09" + _field(7, inner))
    with pytest.raises(InputError, match="nested too deep"):
        read_graph(path)


def bundle_of(folder: Path, files: dict[str, bytes]) -> Path:
    task = Task("x", "MR", (Label("a", 1),), Recipe((1.0, 1.0, 1.0)), (16, 16, 16))
    return ModelBundle.create(folder / "b", task, files, (Network("model", "vnet", 1),), {}).folder


@pytest.mark.parametrize("backend", ["openvino", "onnx", "torch", "auto"])
def test_broken_files_with_the_right_hashes_are_one_line(
    small_scans: Path, tmp_path: Path, backend: str
) -> None:
    files = {"model.safetensors": b"\x10" + bytes(40), "model.onnx": GOOD[:-3]}
    words = [small_scans, "--model", bundle_of(tmp_path, files), "-o", tmp_path / "out", "--backend", backend]
    answer = run("predict", *words)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.count("\n") == 1, answer.stderr
    assert answer.stderr.startswith("error: ")
    assert "model.safetensors" in answer.stderr if backend == "torch" else "model.onnx" in answer.stderr


@pytest.mark.parametrize("read", [OpenVinoBackend, OnnxBackend])
def test_a_graph_that_a_runtime_does_not_take_is_refused(tmp_path: Path, read: Callable[[Path], Any]) -> None:
    unknown = graph_of([helper.make_node("Teleport", ["scan"], ["logits"])])
    with pytest.raises(InputError, match=r"model.onnx: .* cannot open this graph \("):
        read(write(tmp_path, unknown))
    two = graph_of([add()], [onnx.numpy_helper.from_array(NUMBERS, "bias")])
    two.graph.output.append(helper.make_tensor_value_info("scan2", TensorProto.FLOAT, None))
    two.graph.node.append(helper.make_node("Identity", ["scan"], ["scan2"]))
    with pytest.raises(InputError, match=r"model.onnx: found .* outputs"):
        read(write(tmp_path, two))


@pytest.mark.parametrize("name", ["model.onnx", "model.safetensors"])
@pytest.mark.parametrize("backend", ["openvino", "onnx", "torch"])
def test_what_changes_after_its_hash_was_compared_is_not_run(tmp_path: Path, name: str, backend: str) -> None:
    """The file changes after its hash was compared and before the runtime reads it."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "b")
    bundle = ModelBundle.load(tmp_path / "b")
    request = BackendRequest(backend)  # type: ignore[arg-type]
    assert open_backend(bundle, bundle.networks[0], request).name == backend
    path = tmp_path / "b" / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    if backend == "torch" and name == "model.onnx":
        open_backend(bundle, bundle.networks[0], request)  # torch does not read the graph
        return
    with pytest.raises(InputError, match=f"{name}: has changed since its sha256 was compared"):
        open_backend(bundle, bundle.networks[0], request)


def test_filters_that_no_memory_holds_are_refused_before_a_network_is_built(tmp_path: Path) -> None:
    """The weights of 1,024 filters would take 155 GB in single precision."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "b")
    bundle = ModelBundle.load(tmp_path / "b")
    network = replace(bundle.networks[0], filters=1024)
    with pytest.raises(InputError, match="these are not the weights of a vnet with 1024 filters"):
        open_backend(bundle, network, BackendRequest("torch"))


@pytest.mark.parametrize(
    "change",
    [
        lambda weights: weights.pop("output.weight"),
        lambda weights: weights.update(more=torch.zeros(3)),
        lambda weights: weights.update({"output.weight": weights["output.weight"].int()}),
        lambda weights: weights.update({"output.weight": torch.zeros(3, dtype=torch.complex64)}),
        lambda weights: weights.clear(),
    ],
)
def test_other_weights_with_the_right_hash_are_one_line(tmp_path: Path, change: Callable[[Any], Any]) -> None:
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "b")
    bundle = ModelBundle.load(tmp_path / "b")
    weights = load((tmp_path / "b" / "model.safetensors").read_bytes())
    change(weights)
    bundle = bundle.add({"model.safetensors": save(weights)})
    with pytest.raises(InputError, match=r"model\.safetensors: these are not the weights of a vnet"):
        open_backend(ModelBundle.load(bundle.folder), bundle.networks[0], BackendRequest("torch"))


@pytest.mark.slow
def test_a_graph_without_a_hash_is_not_counted(two_nets: ModelBundle, tmp_path: Path) -> None:
    shutil.copytree(two_nets.folder, tmp_path / "b")
    bundle = ModelBundle.load(tmp_path / "b")
    (tmp_path / "b" / "model.onnx").write_bytes(b"whatever")
    found = measure(bundle, BackendRequest("torch"), (16, 16, 16))
    assert (found.runtime, found.gflop) == ("torch", 0.0)
    shipped = ModelBundle.find("phantom")
    assert measure(shipped, BackendRequest("openvino"), (16, 16, 16)).gflop > 0


RUNTIMES = ["openvino", "onnx", "torch"]


@pytest.mark.parametrize("backend", RUNTIMES)
@pytest.mark.parametrize("change", [{"architecture": "resvnet"}, {"filters": 4}])
def test_a_manifest_that_names_another_network_is_refused(
    tmp_path: Path, backend: Any, change: dict[str, Any]
) -> None:
    """The graph would run nevertheless, and the record would name the wrong network."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "b")
    bundle = ModelBundle.load(tmp_path / "b")
    true, other = bundle.networks[0], replace(bundle.networks[0], **change)
    with pytest.raises(InputError, match=r"model\.safetensors: these are (not )?the weights of a "):
        open_backend(bundle, other, BackendRequest(backend))
    assert open_backend(bundle, true, BackendRequest(backend)).name == backend


@pytest.mark.parametrize("backend", RUNTIMES[:2])
def test_a_graph_of_another_network_is_refused(tmp_path: Path, backend: Any) -> None:
    """The hashes match, but the graph is that of a ResVNet over the weights of a VNet."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "b")
    bundle = ModelBundle.load(tmp_path / "b")
    strange = (tmp_path / "b" / "secondary.onnx").read_bytes()
    strange = strange.replace(b"secondary.safetensors", b"././model.safetensors")
    model = onnx.load_from_string(strange)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = entry.value.removeprefix("././")
    bundle = bundle.add({"model.onnx": model.SerializeToString()})
    with pytest.raises(InputError, match=r"bytes \d+ to \d+ of 'model.safetensors', which are no tensor"):
        open_backend(bundle, bundle.networks[0], BackendRequest(backend))


def test_two_initializers_may_share_one_tensor(tmp_path: Path) -> None:
    header = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
    place = 8 + len(header)
    model = in_initializer(external("model.safetensors", place))
    model.graph.initializer.append(external("model.safetensors", place))
    model.graph.initializer[1].name = "again"
    model.graph.node[0].input[0] = "more"
    model.graph.node.insert(0, helper.make_node("Add", ["scan", "again"], ["more"]))
    path = write(tmp_path, model)
    path.with_suffix(".safetensors").write_bytes(
        len(header).to_bytes(8, "little") + header + NUMBERS.tobytes()
    )
    for read in (OnnxBackend, OpenVinoBackend):
        answer = read(path)(np.zeros((1, 1, 16, 16, 16), np.float32))
        np.testing.assert_array_equal(answer, np.broadcast_to(2 * NUMBERS, (1, 2, 16, 16, 16)))
    path.write_bytes(in_initializer(external("model.safetensors", place + 4, 4)).SerializeToString())
    with pytest.raises(InputError, match="which are no tensor"):
        read_graph(path)


def endless() -> onnx.ModelProto:
    """Return a graph of a Loop without a limit whose condition stays true."""
    infos = {name: helper.make_tensor_value_info(name, kind, shape) for name, kind, shape in (
        ("turn", TensorProto.INT64, []), ("go", TensorProto.BOOL, []), ("again", TensorProto.BOOL, []),
        ("value", TensorProto.FLOAT, None), ("next", TensorProto.FLOAT, None),
    )}  # fmt: skip
    nodes = [helper.make_node("Identity", [a], [b]) for a, b in (("go", "again"), ("value", "next"))]
    given, gives = ("turn", "go", "value"), ("again", "next")
    body = helper.make_graph(nodes, "body", [infos[n] for n in given], [infos[n] for n in gives])
    loop = helper.make_node("Loop", ["", "yes", "both"], ["logits"], body=body)
    both = helper.make_node("Concat", ["scan", "scan"], ["both"], axis=1)
    return graph_of([both, loop], [onnx.numpy_helper.from_array(np.array(True), "yes")])


def processor_s(pid: int) -> float:
    """Return the processor time of a process, with all its threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user, system


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["openvino", "onnx"])
def test_a_graph_that_never_ends_can_be_stopped(small_scans: Path, tmp_path: Path, backend: str) -> None:
    """A scheduler's signal and a time limit both end it, and no file of the case is left."""
    content = endless().SerializeToString()
    bundle = bundle_of(tmp_path, {"model.safetensors": b"", "model.onnx": content})
    out = tmp_path / "out"
    words = ["predict", small_scans / "case-0.nii.gz", "--model", bundle, "--backend", backend]
    words += ["--allow-out-of-domain", "-o", out]
    process = forked.Process(words, stderr=forked.PIPE)
    while not any((out / f"journal.sqlite{part}").exists() for part in ("-wal", "")):
        time.sleep(0.1)
    before_s = processor_s(process.pid)
    while processor_s(process.pid) < before_s + 1:  # only the endless network takes so much
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, said.count("\n")) == (143, 1)
    assert said.startswith("stopped by SIGTERM")
    assert not list(out.glob("case-0*"))
    late = run(*words, "--case-timeout", "0.5")
    assert late.returncode == 2
    assert "was not finished within 0.5 s" in late.stderr
    assert not list(out.glob("case-0*"))


@pytest.mark.parametrize(("zero", "axis"), [(5, 1), (None, 1), (5, 0), (None, 0)])
def test_weights_in_8_bits_of_another_program_are_widened_as_it_meant_them(
    tmp_path: Path, zero: int | None, axis: int
) -> None:
    """Zero points, or scales along another axis, used to be read as in this package: wrong weights."""
    kernel = np.array([4, 7], np.int8).reshape(2, 1, 1, 1)
    scales = np.array([0.5, 2.0], np.float32)
    if axis == 1:
        kernel = kernel.swapaxes(0, 1)
    stored = {"kernel": kernel, "scales": scales, "zero": np.array([zero or 0] * 2, np.int8)}
    names = [name for name in stored if name != "zero" or zero is not None]
    weights = [onnx.numpy_helper.from_array(stored[name], name) for name in names]
    weights.append(onnx.numpy_helper.from_array(np.array(NUMBERS.shape, np.int32), "short"))
    nodes = [
        helper.make_node("DequantizeLinear", names, ["wide"], axis=axis),
        helper.make_node("Cast", ["short"], ["shape"], to=TensorProto.INT64),
        helper.make_node("Reshape", ["wide", "shape"], ["bias"]),
        add(),
    ]
    graph = graph_of(nodes, weights)
    onnx.save(graph, tmp_path / "model.onnx")
    scan = np.zeros((1, 1, 16, 16, 16), np.float32)
    wanted, found = (
        onnxruntime.InferenceSession(content).run(None, {"scan": scan})[0]
        for content in (graph.SerializeToString(), widened(tmp_path / "model.onnx"))
    )
    assert np.array_equal(found, wanted)
    assert wanted[0, :, 0, 0, 0].tolist() == [0.5 * (4 - (zero or 0)), 2.0 * (7 - (zero or 0))]


@pytest.mark.parametrize("depth", [0, 20])
def test_a_graph_takes_memory_in_proportion_to_its_file(tmp_path: Path, depth: int) -> None:
    """A slice was kept for each field that stays, on each level: 140 times the file."""
    content = b"\x10\x08" * 100_000  # fields that no reader of tensors looks into
    for _ in range(depth // 2):  # a node's attribute that is a graph
        content = _field(1, _field(5, _field(6, content)))
    content = b"\x08\x08" + _field(7, content)
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        assert read_graph(path) == content
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 * len(content)


def test_what_stays_around_a_reference_stays(tmp_path: Path) -> None:
    """Fields before, between and after two tensors whose numbers are in the weights file."""
    tensors = [external("model.safetensors", 8), external("model.safetensors", 8)]
    tensors[1].name = "other"
    plain = onnx.numpy_helper.from_array(NUMBERS, "plain")
    path = write(tmp_path, graph_of([add()], [tensors[0], plain, tensors[1]]))
    graph = onnx.load_from_string(read_graph(path)).graph
    wanted = graph_of([add()], [plain] * 3).graph
    assert [onnx.numpy_helper.to_array(t).tolist() for t in graph.initializer] == [NUMBERS.tolist()] * 3
    assert [t.name for t in graph.initializer] == ["bias", "plain", "other"]
    assert (graph.node, graph.input, graph.output) == (wanted.node, wanted.input, wanted.output)
