"""Exports that stand alone: the content of the file, the runtimes that run it, and refused exports."""

import io
import json
import os
import runpy
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from helpers import command, tensorrt_stand_in
from onnxruntime.capi.onnxruntime_pybind11_state import InvalidArgument

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, RefusedError
from c3s3_seg.export import export as write
from c3s3_seg.export import standalone, tensorrt
from c3s3_seg.export.export import export_folder
from c3s3_seg.export.openvino import openvino_files
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.export.standalone import standalone_graph
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference.backends import cuda
from c3s3_seg.inference.backends.runtimes import TorchBackend, load_torch
from c3s3_seg.inference.tiling import softmax
from c3s3_seg.system.choices import ExportTarget
from c3s3_seg.system.lock import hold

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def graph(two_nets: ModelBundle) -> bytes:
    return standalone_graph(two_nets, GraphSpec())


@pytest.fixture(scope="module")
def second(two_nets: ModelBundle) -> ModelBundle:
    """Return the bundle with the ResVNet alone."""
    return replace(two_nets, manifest=replace(two_nets.manifest, networks=two_nets.networks[1:]))


@pytest.fixture(scope="module")
def pairs(second: ModelBundle) -> bytes:
    return standalone_graph(second, GraphSpec(batch=2))


def run(graph: bytes, patches: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["probabilities"], {"scan": patches})[0])


def torch_says(bundle: ModelBundle, patches: np.ndarray) -> list[np.ndarray]:
    return [softmax(TorchBackend(load_torch(bundle, n))(patches)) for n in bundle.networks]


@pytest.fixture(scope="module")
def half(two_nets: ModelBundle, graph: bytes) -> bytes:
    """Return the same network in half precision, without tracing it again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(standalone, "trace", lambda *_, **__: onnx.load_from_string(graph))
        return standalone_graph(two_nets, GraphSpec("float16"))


@pytest.fixture(scope="module")
def companion_graph(companions: ModelBundle) -> bytes:
    return standalone_graph(companions, GraphSpec(ensemble=True))


def noise_patches(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=shape).astype(np.float32)


def test_one_file_gives_probabilities_for_any_batch_and_sides(two_nets: ModelBundle, graph: bytes) -> None:
    patches = noise_patches(3, 1, 16, 32, 48)
    found = run(graph, patches)
    np.testing.assert_allclose(found, torch_says(two_nets, patches)[0], atol=1e-4)
    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert not any(t.external_data for t in model.graph.initializer)
    assert not any(n.op_type == "BatchNormalization" for n in model.graph.node)
    # ONNX Runtime 1.23 reads up to opset 23 and IR version 11.
    assert model.opset_import[0].version <= 20
    assert model.ir_version <= 10


def test_the_facts_travel_in_the_file(graph: bytes) -> None:
    facts = {p.key: p.value for p in onnx.load_from_string(graph).metadata_props}
    assert json.loads(facts["c3s3.task"])["recipe"]["spacing_mm"] == [1.0, 1.0, 1.0]
    assert "subtract the mean of the whole volume" in facts["c3s3.input"]
    assert "background, a, b. Softmax is applied." in facts["c3s3.output"]
    assert "a = 1, b = 2" in facts["c3s3.postprocess"]
    assert facts["c3s3.precision"] == "float32"


def test_nothing_of_the_exporter_is_left(graph: bytes) -> None:
    text = graph.decode("latin-1")
    for trace in ("site-packages", "pkg.torch", ".py"):
        assert trace not in text


def test_a_batch_may_be_fixed(second: ModelBundle, pairs: bytes) -> None:
    patches = noise_patches(2, 1, 32, 32, 32)
    np.testing.assert_allclose(run(pairs, patches), torch_says(second, patches)[0], atol=1e-4)
    (given,) = onnx.load_from_string(pairs).graph.input
    assert given.type.tensor_type.shape.dim[0].dim_value == 2
    with pytest.raises(InvalidArgument, match="Got: 3 Expected: 2"):
        run(pairs, noise_patches(3, 1, 32, 32, 32))


def test_an_ensemble_holds_the_networks_of_the_companion(
    companions: ModelBundle,
    noise: Volume,
    tmp_path: Path,
    companion_graph: bytes,
    quick: Callable[[bytes], None],
) -> None:
    quick(companion_graph)
    path, proof = export_folder(companions, "onnx", GraphSpec(ensemble=True), tmp_path, [noise])
    assert path.name == "first-ensemble.onnx"
    assert proof.difference < 1e-4
    patches = noise_patches(1, 1, 32, 32, 32)
    members = [softmax(TorchBackend(load_torch(*member))(patches)) for member in companions.members()]
    np.testing.assert_allclose(run(path.read_bytes(), patches), np.mean(members, axis=0), atol=1e-4)
    assert np.abs(members[0] - members[1]).max() > 0.1  # otherwise the mean would prove nothing
    record = json.loads((tmp_path / "export.json").read_text())
    assert set(record["weights"]) == {"model.safetensors", "second/model.safetensors"}
    assert len(set(record["weights"].values())) == 2
    assert json.loads(record["properties"]["c3s3.weights"]) == record["weights"]
    assert "the mean of 2 networks" in (tmp_path / "README.md").read_text()


def test_half_precision_is_half_the_size_and_close(graph: bytes, half: bytes) -> None:
    assert len(half) < 0.75 * len(graph)  # names are a large part of a tiny network's file
    patches = noise_patches(1, 1, 32, 32, 32)
    found = run(half, patches)
    assert found.dtype == np.float32
    assert 1e-6 < np.abs(found - run(graph, patches)).max() < 5e-2


def test_openvino_carries_the_facts(two_nets: ModelBundle, graph: bytes, tmp_path: Path) -> None:
    for spec in (GraphSpec(), GraphSpec("float16")):
        for name, content in openvino_files(two_nets, graph, spec).items():
            (tmp_path / name).write_bytes(content)
    assert (tmp_path / "toy-float16.bin").stat().st_size < 0.55 * (tmp_path / "toy.bin").stat().st_size
    model = openvino.Core().read_model(tmp_path / "toy-float16.xml")
    assert "a = 1, b = 2" in model.get_rt_info(["c3s3", "postprocess"]).value
    patches = noise_patches(2, 1, 32, 32, 32)
    # By default OpenVINO computes in bfloat16 if the CPU supports it.
    compiled = openvino.Core().compile_model(tmp_path / "toy.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    np.testing.assert_allclose(compiled(patches)[0], run(graph, patches), atol=1e-4)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, graph: bytes) -> Callable[[bytes], None]:
    """Let `write` use a given graph, at first `graph`, so that no test has to trace the network."""

    def give(content: bytes) -> None:
        for module in (write, tensorrt):
            monkeypatch.setattr(module, "standalone_graph", lambda *_: content)

    give(graph)
    return give


def test_a_folder_holds_the_file_its_card_and_its_proof(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, quick: object
) -> None:
    path, proof = export_folder(two_nets, "onnx", GraphSpec(), tmp_path / "out", [noise])
    assert path == tmp_path / "out" / "toy.onnx"
    record = json.loads((tmp_path / "out" / "export.json").read_text())
    assert record["parity"]["difference"] == proof.difference < 1e-3
    assert record["parity"]["scans"][0]["hd95_mm"] == 0.0
    assert record["weights"] == {"model.safetensors": two_nets.manifest.files["model.safetensors"]}
    assert set(record["files"]) == {"toy.onnx", "README.md"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| toy.onnx | onnx | 8 |" in card
    assert "Research use only" in card


@pytest.fixture
def stand_ins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Install stand-ins for the GPU and TensorRT, and a cache folder of the test's own."""
    gpu = tensorrt_stand_in.Cuda("Stand-in GPU")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cuda, "cudart", lambda: gpu)
    monkeypatch.setitem(sys.modules, "tensorrt", tensorrt_stand_in.tensorrt("11.4.0.106"))


def test_an_exported_engine_passes_the_gate(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, quick: object, stand_ins: None
) -> None:
    path, proof = export_folder(two_nets, "tensorrt", GraphSpec(), tmp_path / "out", [noise])
    assert path.name == "toy.engine"
    assert proof.runtime == "tensorrt"
    assert {p.name for p in path.parent.iterdir()} == {
        "toy.engine", "toy.onnx", "toy.json", "export.json", "README.md",
    }  # fmt: skip
    card = (path.parent / "README.md").read_text()
    assert "; 1 patch with sides of 16 x 16 x 16 to 192 x 192 x 192 in one call." in card


def test_an_exported_engine_holds_the_companion(
    companions: ModelBundle,
    noise: Volume,
    tmp_path: Path,
    companion_graph: bytes,
    quick: Callable[[bytes], None],
    stand_ins: None,
) -> None:
    quick(companion_graph)
    path, proof = export_folder(companions, "tensorrt", GraphSpec(ensemble=True), tmp_path / "out", [noise])
    assert path.name == "first-ensemble.engine"
    assert proof.runtime == "tensorrt"


def change_a_weight(model: onnx.ModelProto) -> None:
    """Add 1 to the middle weight of a 3x3x3 kernel in the middle of the network."""
    kernels = [t for t in model.graph.initializer if list(t.dims)[2:] == [3, 3, 3]]
    kernel = kernels[len(kernels) // 2]
    numbers = onnx.numpy_helper.to_array(kernel).copy()
    numbers.flat[numbers.size // 2] += 1.0
    kernel.CopyFrom(onnx.numpy_helper.from_array(numbers, kernel.name))


def shift_a_padding(model: onnx.ModelProto) -> None:
    """Pad a 3x3x3 convolution by 0 before and 2 after along x: its output moves a voxel, the shape stays."""
    convolution = [n for n in model.graph.node if n.op_type == "Conv"][3]
    (pads,) = [a for a in convolution.attribute if a.name == "pads"]
    assert list(pads.ints) == [1] * 6
    pads.ints[:] = [0, 1, 1, 2, 1, 1]


@pytest.mark.parametrize("fault", [change_a_weight, shift_a_padding])
@pytest.mark.parametrize("target", ["onnx", "openvino"])
def test_planted_faults_are_refused_and_nothing_is_written(
    two_nets: ModelBundle,
    noise: Volume,
    tmp_path: Path,
    graph: bytes,
    quick: Callable[[bytes], None],
    fault: Callable[[onnx.ModelProto], None],
    target: write.ExportTarget,
) -> None:
    model = onnx.load_from_string(graph)
    fault(model)
    onnx.checker.check_model(model, full_check=True)  # the faulty model is formally valid
    quick(model.SerializeToString())
    with pytest.raises(RefusedError, match="differs from torch: on patches a probability differs by"):
        export_folder(two_nets, target, GraphSpec(), tmp_path / "out", [noise])
    assert not (tmp_path / "out").exists()


def leave_a_member_out(model: onnx.ModelProto) -> None:
    """Use the winner's probabilities in the mean in place of those of the linked bundle."""
    (mean,) = [n for n in model.graph.node if n.op_type == "ReduceMean"]
    (stack,) = [n for n in model.graph.node if mean.input[0] in n.output]
    assert (stack.op_type, len(stack.input)) == ("Concat", 2)
    stack.input[1] = stack.input[0]


def take_a_member_twice(model: onnx.ModelProto) -> None:
    """Replace the linked bundle's tensors by the winner's, which have the right names and shapes."""
    tensors = {t.name: t for t in model.graph.initializer}
    theirs = [name for name in tensors if "networks.1." in name]
    assert len(theirs) > 20
    for name in theirs:
        tensors[name].raw_data = tensors[name.replace("networks.1.", "networks.0.")].raw_data


def change_a_weight_of_the_companion(model: onnx.ModelProto) -> None:
    """Add 1 to the middle weight of one of the companion's kernels."""
    theirs = [t for t in model.graph.initializer if "networks.1." in t.name and list(t.dims)[2:] == [3, 3, 3]]
    kernel = theirs[len(theirs) // 2]
    numbers = onnx.numpy_helper.to_array(kernel).copy()
    numbers.flat[numbers.size // 2] += 1.0
    kernel.raw_data = numbers.tobytes()


@pytest.mark.parametrize("fault", [leave_a_member_out, take_a_member_twice, change_a_weight_of_the_companion])
def test_planted_faults_of_an_ensemble_are_refused(
    companions: ModelBundle,
    noise: Volume,
    tmp_path: Path,
    companion_graph: bytes,
    quick: Callable[[bytes], None],
    fault: Callable[[onnx.ModelProto], None],
) -> None:
    model = onnx.load_from_string(companion_graph)
    fault(model)
    onnx.checker.check_model(model, full_check=True)
    quick(model.SerializeToString())
    with pytest.raises(
        RefusedError, match=r"first-ensemble.onnx differs from torch: on patches a probability"
    ):
        export_folder(companions, "onnx", GraphSpec(ensemble=True), tmp_path / "out", [noise])
    assert not (tmp_path / "out").exists()


def test_a_refused_export_leaves_the_earlier_one(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, graph: bytes, quick: Callable[[bytes], None]
) -> None:
    export_folder(two_nets, "onnx", GraphSpec(), tmp_path, [noise])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = onnx.load_from_string(graph)
    shift_a_padding(model)
    quick(model.SerializeToString())
    with pytest.raises(RefusedError):
        export_folder(two_nets, "onnx", GraphSpec(), tmp_path, [noise])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_where_onnx_runtime_is_not_installed_openvino_checks(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, quick: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write.importlib.util, "find_spec", lambda _: None)
    _, proof = export_folder(two_nets, "onnx", GraphSpec(), tmp_path / "out", [noise])
    assert proof.runtime == "openvino"


def test_what_cannot_be_had_is_refused(two_nets: ModelBundle, noise: Volume, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no scan to compare on"):
        export_folder(two_nets, "onnx", GraphSpec(), tmp_path, [])
    with pytest.raises(InputError, match="holds one network"):
        export_folder(
            ModelBundle.find("left-atrium-resvnet"), "onnx", GraphSpec(ensemble=True), tmp_path, [noise]
        )


def polygraphy(*words: object) -> str:
    """Return the output of NVIDIA's command line, run in this process: its imports take seconds each time."""
    text = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(text), redirect_stderr(text):
        patch.setattr(sys, "argv", ["polygraphy", *map(str, words)])
        with pytest.raises(SystemExit) as leaving:
            runpy.run_path(str(Path(sys.executable).parent / "polygraphy"), run_name="__main__")
    assert not leaving.value.code, text.getvalue()
    return text.getvalue()


@pytest.mark.parametrize("which", ["float32", "float16", "ensemble"])
def test_nvidia_tools_accept_the_file(
    half: bytes, graph: bytes, companion_graph: bytes, which: str, tmp_path: Path
) -> None:
    """`polygraphy inspect model` and `polygraphy surgeon sanitize` run as a user would run them."""
    content, classes = {"float32": (graph, 3), "float16": (half, 3), "ensemble": (companion_graph, 2)}[which]
    path, clean = tmp_path / "it.onnx", tmp_path / "clean.onnx"
    path.write_bytes(content)
    shape = f"('batch', {classes}, '16*x', '16*y', '16*z')"
    for words in (["inspect", "model", path], ["surgeon", "sanitize", "--fold-constants", path, "-o", clean]):
        said = polygraphy(*words)
        assert f"probabilities [dtype=float32, shape={shape}]" in said
        assert "[E]" not in said
    patches = noise_patches(1, 1, 32, 32, 32)
    np.testing.assert_allclose(run(clean.read_bytes(), patches), run(content, patches), atol=1e-6)


def untouched(*_: object) -> bytes:
    raise AssertionError("the network was traced before the output was looked at")


@pytest.fixture
def no_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make tracing and comparison, which take minutes, fail: refusals must come before them."""
    for name in ("standalone_graph", "onnx_graph", "compare"):
        monkeypatch.setattr(write, name, untouched)


@pytest.mark.parametrize("target", ["onnx", "openvino", "monai-bundle"])
def test_a_folder_that_cannot_be_is_refused_before_the_work(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, no_tracing: None, target: ExportTarget
) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for out in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 256)):
        with pytest.raises(InputError, match=r"wanted a folder|cannot be made"):
            export_folder(two_nets, target, GraphSpec(), out, [noise])
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_bytes() == b"mine"


def test_the_bundles_own_folder_is_not_one_of_a_stand_alone_export(
    two_nets: ModelBundle, noise: Volume, no_tracing: None
) -> None:
    with pytest.raises(InputError, match=r"is the bundle's own folder.*leave -o out"):
        export_folder(two_nets, "onnx", GraphSpec(), two_nets.folder, [noise])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_denied_is_refused_before_the_work(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, no_tracing: None
) -> None:
    (tmp_path / "denied").mkdir(mode=0o500)
    with pytest.raises(InputError, match="Permission denied"):
        export_folder(two_nets, "onnx", GraphSpec(), tmp_path / "denied" / "out", [noise])


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("onnx", "README.md"), ("onnx", "toy.onnx"), ("onnx", "export.json"), ("openvino", "toy.xml"),
        ("openvino", "toy.bin"), ("tensorrt", "toy.engine"), ("tensorrt", "toy.json"),
        ("monai-bundle", "models/model.ts"), ("monai-bundle", "configs/metadata.json"),
        ("monai-bundle", "configs/inference.json"), ("monai-bundle", "docs/README.md"),
    ],
)  # fmt: skip
def test_files_of_others_are_left_alone(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, no_tracing: None, target: ExportTarget, name: str
) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_text('{"mine": 1}')
    with pytest.raises(InputError, match="a file that c3s3-seg did not write"):
        export_folder(two_nets, target, GraphSpec(), tmp_path, [noise])
    assert path.read_text() == '{"mine": 1}'
    path.unlink()
    path.symlink_to(tmp_path / "elsewhere")  # a dangling link of somebody else is kept too
    with pytest.raises(InputError, match="is a symbolic link, wanted a place to write to"):
        export_folder(two_nets, target, GraphSpec(), tmp_path, [noise])
    path.unlink()
    path.mkdir()
    with pytest.raises(InputError, match=r"wanted (a place to write to|a folder|the path of a file)"):
        export_folder(two_nets, target, GraphSpec(), tmp_path, [noise])


def test_a_linked_folder_is_not_written_through(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, no_tracing: None
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "models").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"wanted (a place to write to|a folder|the path of a file)"):
        export_folder(two_nets, "monai-bundle", GraphSpec(), tmp_path / "out", [noise])


def test_the_same_export_again_and_another_in_its_place(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, quick: object
) -> None:
    for target in ("onnx", "onnx", "openvino", "onnx"):
        export_folder(two_nets, target, GraphSpec(), tmp_path / "a" / "b", [noise])  # type: ignore[arg-type]
    found = {path.name for path in (tmp_path / "a" / "b").iterdir()}
    assert found == {"toy.onnx", "README.md", "export.json"}  # no file of a format without a record


def test_two_exports_do_not_write_into_a_folder_at_once(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, quick: object
) -> None:
    with hold(tmp_path), pytest.raises(InputError, match="another run writes into this folder"):
        export_folder(two_nets, "onnx", GraphSpec(), tmp_path, [noise])
    assert not [*tmp_path.iterdir()]


def test_the_names_of_the_files_are_known_before(two_nets: ModelBundle, quick: object) -> None:
    for target in ("onnx", "openvino", "monai-bundle"):
        built = write.build(two_nets, target, GraphSpec())  # type: ignore[arg-type]
        foreseen = {f"toy{n}" if n.startswith(".") else n for n in write.NAMES[target]}  # type: ignore[index]
        assert {*built.files, built.card} == foreseen


def test_a_refused_export_leaves_no_folder(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, quick: Callable[[bytes], None], graph: bytes
) -> None:
    model = onnx.load_from_string(graph)
    change_a_weight(model)
    quick(model.SerializeToString())
    with pytest.raises(RefusedError):
        export_folder(two_nets, "onnx", GraphSpec(), tmp_path / "new" / "out", [noise])
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "..", "a/b", "a\0b", "x" * 249])
@pytest.mark.parametrize("target", ["onnx", "openvino", "tensorrt", "monai-bundle"])
def test_a_task_cannot_name_a_file_outside(
    two_nets: ModelBundle, noise: Volume, tmp_path: Path, no_tracing: None, name: str, target: ExportTarget
) -> None:
    task = replace(two_nets.task, name=name)
    bundle = ModelBundle(two_nets.folder, replace(two_nets.manifest, task=task))
    with pytest.raises(InputError, match=r"wanted a (plain )?file name"):
        export_folder(bundle, target, GraphSpec(), tmp_path / "out", [noise])
    assert not [*tmp_path.iterdir()]


def test_the_command_line_looks_at_the_folder_first(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    answer = command.run("export", "phantom", "-o", tmp_path)
    assert answer.returncode == 2
    assert "a file that c3s3-seg did not write" in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert (tmp_path / "README.md").read_text() == "mine"
