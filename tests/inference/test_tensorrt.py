"""TensorRT without a GPU: missing parts are named, and engines are trusted only where they were built."""

import importlib.util
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from helpers import command, tensorrt_types
from helpers import tensorrt_stand_in as stand_in

from c3s3_seg import open_predictor
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError, MemoryLimitError, MissingError, RefusedError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.inference import Settings
from c3s3_seg.inference.backends import cuda, engine_cache, tensorrt_log
from c3s3_seg.inference.backends.engine_cache import CacheKey, EngineCache, ShapeProfile, build
from c3s3_seg.inference.backends.onnxruntime import OnnxBackend
from c3s3_seg.inference.backends.select import BackendRequest, describe, open_backend
from c3s3_seg.inference.backends.tensorrt import TensorRtBackend, widened

pytestmark = pytest.mark.slow

EVEN = (16, 16, 16)
PROFILE = ShapeProfile((32, 32, 48), EVEN)
STAMP = CacheKey("ab", "GPU", "9.0", "11.4", "1x1x16x16x16")
Machine = Callable[..., stand_in.Cuda]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Machine]:
    """Return a function that installs stand-ins for a GPU and TensorRT; set a cache folder for the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    tensorrt_log.logger.cache_clear()
    stand_in.Builder.built = 0

    def put(gpu: str = "Stand-in GPU", version: str = "11.4.0.106") -> stand_in.Cuda:
        runtime = stand_in.Cuda(gpu)
        monkeypatch.setattr(cuda, "cudart", lambda: runtime)
        monkeypatch.setitem(sys.modules, "tensorrt", stand_in.tensorrt(version))
        return runtime

    put()
    yield put
    tensorrt_log.logger.cache_clear()  # the real TensorRT takes no stand-in


def patches(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.fixture(scope="module")
def phantom() -> ModelBundle:
    return ModelBundle.find("phantom")


@pytest.mark.parametrize("verb", ["predict", "export"])
def test_without_tensorrt_one_line_says_what_to_install(verb: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("tensorrt"):
        pytest.skip("TensorRT is installed here")
    scan = tmp_path / "scan.nii.gz"
    scan.touch()
    given = {"predict": [scan, "--model", "phantom", "--backend"], "export": ["phantom", "--to"]}[verb]
    answer = command.run(verb, *given, "tensorrt", "-o", tmp_path / "out")
    assert answer.returncode == 3
    assert answer.stderr.count("\n") == 1
    assert "No module named 'tensorrt'" in answer.stderr
    assert "from NVIDIA's own package index" in answer.stderr
    assert not [*(tmp_path / "out").rglob("*")]


def test_libraries_that_do_not_load_are_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.11: cannot open')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    with pytest.raises(MissingError, match=r"cannot be loaded \(libnvinfer.so.11: cannot open\)"):
        TensorRtBackend(b"")


def test_without_a_driver_cuda_says_so() -> None:
    """The real CUDA runtime is queried on a machine without a GPU."""
    runtime = pytest.importorskip("cuda.bindings.runtime")
    error, _ = runtime.cudaGetDeviceCount()
    if int(error) == 0:
        pytest.skip("there is a GPU here")
    with pytest.raises(MissingError, match=r"CUDA says: .*\. Install TensorRT 11"):
        cuda.gpu()
    with pytest.raises(MissingError, match="CUDA says"):
        cuda.Stream()


def test_no_gpu_and_no_cuda_are_said(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(gpu="")
    with pytest.raises(MissingError, match="there is no NVIDIA GPU here"):
        cuda.gpu()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(MissingError, match="needs cuda-bindings"):
        cuda.gpu()


def test_a_bundle_gives_what_onnx_runtime_gives(machine: Machine, phantom: ModelBundle) -> None:
    backend = TensorRtBackend.of_bundle(phantom, phantom.networks[0])
    assert describe(backend) == {"backend": "tensorrt", "device": "cuda", "precision": "float32"}
    wanted = OnnxBackend(phantom.folder / phantom.networks[0].graph)
    for shape in ((1, 1, 32, 48, 16), (1, 1, 64, 48, 64), (1, 1, 16, 16, 16)):  # buffers grow and are kept
        given = patches(*shape)
        np.testing.assert_allclose(backend(given), wanted(given), atol=1e-4)
    with pytest.raises(InputError, match=r"the engine takes \(1, 1, 16, 16, 16\) to \(1, 1, 192, 192, 192\)"):
        backend(patches(1, 1, 208, 16, 16))


def test_memory_is_given_back(machine: Machine) -> None:
    runtime = machine()
    stream = cuda.Stream()
    assert stream.upload("a", patches(4)) == stream.buffer("a", 8)
    stream.buffer("a", 64)
    back = np.zeros(4, np.float32)
    stream.upload("a", patches(4))
    stream.download("a", back)
    stream.wait()
    np.testing.assert_array_equal(back, patches(4))
    assert len(runtime.memory) == 1
    stream.close()
    assert not runtime.memory
    other = cuda.Stream()
    other.buffer("b", 8)
    assert len(runtime.memory) == 1
    del other  # no reference is left
    assert not runtime.memory


def test_memory_that_is_full_means_smaller_tiles(machine: Machine, phantom: ModelBundle) -> None:
    runtime, settings = machine(), Settings(whole=True)
    scan = Geometry.build((80, 64, 64), (1.8, 1.8, 1.8)).volume(patches(80, 64, 64))
    runtime.largest = 2 * 4 * 48**3  # the output for a tile of the training size
    found = open_predictor(phantom, backend="tensorrt", settings=settings)(scan, allow_out_of_domain=True)
    assert found.tile == phantom.task.patch
    told = "the GPU's memory is full (CUDA says: error 2); went on with tiles of 48 x 48 x 48"
    assert told in found.notes
    runtime.largest = 1000
    with pytest.raises(MemoryLimitError, match=r"Free memory there, or take smaller tiles"):
        cuda.Stream().buffer("a", 1001)


@pytest.mark.parametrize("memory_bytes", [None, 10**10])
def test_a_scan_longer_than_an_engines_largest_tile_is_tiled(
    machine: Machine, phantom: ModelBundle, memory_bytes: int | None
) -> None:
    scan = Geometry.build((208, 20, 20), (1.8, 1.8, 1.8)).volume(patches(208, 20, 20))
    settings = Settings(whole=True, memory_bytes=memory_bytes)
    found = open_predictor(phantom, backend="tensorrt", settings=settings)(scan, allow_out_of_domain=True)
    assert found.mask.array.shape == scan.array.shape
    assert found.tile == (phantom.task.patch if memory_bytes is None else (192, 32, 32))


def test_an_engine_is_built_once_and_kept(
    machine: Machine, phantom: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    graph = widened(phantom.folder / "model.onnx")
    first = EngineCache.default().engine(graph, PROFILE)
    assert EngineCache.default().engine(graph, PROFILE) == first
    assert stand_in.Builder.built == 1
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "building a TensorRT engine for Stand-in GPU, minutes, once: there is none yet" in caplog.text
    assert (EngineCache.default().folder / "key").stat().st_mode & 0o077 == 0


def test_two_that_begin_together_build_one_engine(
    machine: Machine, phantom: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first thread builds until the second has looked for an engine and found none."""
    graph = widened(phantom.folder / "model.onnx")
    building, second_has_looked = threading.Event(), threading.Event()
    look, make = EngineCache._open, stand_in.Builder.build_serialized_network

    def looks(cache: EngineCache, path: Path, here: CacheKey) -> tuple[bytes | None, str]:
        found = look(cache, path, here)
        if building.is_set():
            second_has_looked.set()
        return found

    def makes(builder: stand_in.Builder, network: stand_in.Network, config: stand_in.Config) -> bytes | None:
        building.set()
        second_has_looked.wait(20)
        return make(builder, network, config)

    monkeypatch.setattr(EngineCache, "_open", looks)
    monkeypatch.setattr(stand_in.Builder, "build_serialized_network", makes)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(EngineCache.default().engine, graph, PROFILE)
        assert building.wait(20)
        second = pool.submit(EngineCache.default().engine, graph, PROFILE)
        assert first.result() == second.result()
    assert second_has_looked.is_set()
    assert stand_in.Builder.built == 1


def test_a_key_that_was_written_in_part_is_no_key(machine: Machine, phantom: ModelBundle) -> None:
    graph, cache = widened(phantom.folder / "model.onnx"), EngineCache.default()
    cache.engine(graph, PROFILE)
    key = cache.folder / "key"
    for part in (b"", key.read_bytes()[:5]):
        key.write_bytes(part)
        key.chmod(0o644)
        cache.engine(graph, PROFILE)
        assert (len(key.read_bytes()), key.stat().st_mode & 0o777) == (32, 0o600)
    assert stand_in.Builder.built == 3
    cache.engine(graph, PROFILE)
    assert stand_in.Builder.built == 3


def test_a_key_that_others_may_write_or_read_is_no_key(machine: Machine, phantom: ModelBundle) -> None:
    """Anyone who has the key can sign machine code that would run on this machine."""
    graph, cache = widened(phantom.folder / "model.onnx"), EngineCache.default()
    cache.engine(graph, PROFILE)
    key = cache.folder / "key"
    for built, mode in enumerate((0o666, 0o640), start=2):
        before = key.read_bytes()
        key.chmod(mode)
        cache.engine(graph, PROFILE)
        assert stand_in.Builder.built == built
        assert key.stat().st_mode & 0o777 == 0o600
        assert key.read_bytes() != before


def test_an_engine_that_cannot_be_read_is_built_anew(
    machine: Machine, phantom: ModelBundle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    graph, cache = widened(phantom.folder / "model.onnx"), EngineCache.default()
    cache.engine(graph, PROFILE)
    monkeypatch.setattr(engine_cache, "LARGEST_ENGINE", 10)
    cache.engine(graph, PROFILE)
    assert stand_in.Builder.built == 2
    assert "is larger than 10 bytes" in caplog.text


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"gpu": "Other GPU"}, "for Other GPU, minutes, once: there is none yet"),
        ({"version": "11.5.0"}, "tensorrt was 11.4.0.106, is 11.5.0"),
    ],
)
def test_an_engine_that_does_not_fit_is_built_anew(
    machine: Machine,
    phantom: ModelBundle,
    caplog: pytest.LogCaptureFixture,
    change: dict[str, str],
    told: str,
) -> None:
    graph = widened(phantom.folder / "model.onnx")
    EngineCache.default().engine(graph, PROFILE)
    machine(**change)
    EngineCache.default().engine(graph, PROFILE)
    assert stand_in.Builder.built == 2
    assert told in caplog.text


def test_each_kind_of_gpu_has_its_own_engine(machine: Machine, phantom: ModelBundle) -> None:
    """Two kinds in one machine, or in two with one home folder, each replaced the engine of the other."""
    graph = widened(phantom.folder / "model.onnx")
    for name in ("Stand-in GPU", "Other GPU", "Stand-in GPU", "Other GPU"):
        machine(gpu=name)
        EngineCache.default().engine(graph, PROFILE)
    assert stand_in.Builder.built == 2
    machine(version="11.5.0")
    EngineCache.default().engine(graph, PROFILE)
    assert len([*EngineCache.default().folder.glob("*.engine")]) == 2  # an upgrade leaves none behind


def test_tensorrt_logs_what_it_would_print(
    machine: Machine, phantom: ModelBundle, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own logger prints to stdout, where `--json` writes."""
    graph = widened(phantom.folder / "model.onnx")
    build(graph, PROFILE)
    assert not caplog.records
    monkeypatch.setattr(stand_in.Config, "clear_flag", lambda *_: None)
    with pytest.raises(RefusedError, match=r"does not take this engine: Magic tag does not match\.?$"):
        TensorRtBackend(b"no engine")
    with pytest.raises(RefusedError, match="built no engine: TF32 is set"):
        build(graph, PROFILE)
    told = [(record.name, record.levelname) for record in caplog.records]
    assert told == [("c3s3_seg.tensorrt", level) for level in ("ERROR", "WARNING", "ERROR")]
    assert tensorrt_log.reasons() == "it gave no reason"


def test_an_interrupt_waits_until_tensorrt_has_returned(
    machine: Machine, phantom: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error that leaves the logger ends the process."""

    returned = []

    def makes(builder: stand_in.Builder, *_: object) -> bytes:
        builder.logger.log(stand_in.ILogger.Severity.WARNING, "a warning")
        returned.append(True)
        return b"engine"

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(stand_in.Builder, "build_serialized_network", makes)
    monkeypatch.setattr(tensorrt_log.LOG, "warning", stop)
    with pytest.raises(KeyboardInterrupt):
        build(widened(phantom.folder / "model.onnx"), PROFILE)
    assert returned


@pytest.mark.parametrize("damage", ["bit", "foreign", "empty"])
def test_an_engine_that_was_not_made_here_is_never_loaded(
    machine: Machine, phantom: ModelBundle, caplog: pytest.LogCaptureFixture, damage: str, tmp_path: Path
) -> None:
    graph = widened(phantom.folder / "model.onnx")
    cache = EngineCache.default()
    cache.engine(graph, PROFILE)
    (path,) = cache.folder.glob("*.engine")
    content = bytearray(path.read_bytes())
    if damage == "bit":
        content[-1] ^= 1
    elif damage == "foreign":  # whole and compatible, but sealed on another machine
        elsewhere = EngineCache(tmp_path / "elsewhere")
        elsewhere.engine(graph, PROFILE)
        content = bytearray(next(elsewhere.folder.glob("*.engine")).read_bytes())
    else:
        content = bytearray()
    path.write_bytes(content)
    before = stand_in.Builder.built
    cache.engine(graph, PROFILE)
    assert stand_in.Builder.built == before + 1
    assert "was not made here, or is damaged" in caplog.text


def test_an_engine_of_another_release_is_built_anew(
    machine: Machine, phantom: ModelBundle, caplog: pytest.LogCaptureFixture
) -> None:
    graph, cache = widened(phantom.folder / "model.onnx"), EngineCache.default()
    cache.engine(graph, PROFILE)
    (path,) = cache.folder.glob("*.engine")
    for head in (b'{"graph": "ab"}', b"no JSON", b"[" * 100_000):
        cache._hmac(path, head + b"\nengine")
        cache.engine(graph, PROFILE)
        assert "another release of this program made it" in caplog.text
        caplog.clear()
    assert stand_in.Builder.built == 4


def test_the_timing_cache_is_kept_unless_it_does_not_fit(machine: Machine, phantom: ModelBundle) -> None:
    graph = widened(phantom.folder / "model.onnx")
    engine, times = build(graph, PROFILE)
    assert times == b"times"
    assert build(graph, PROFILE, times) == (engine, times)
    assert build(graph, PROFILE, b"of another GPU") == (engine, times)
    assert build(graph, PROFILE, b"damaged") == (engine, times)


def test_what_tensorrt_does_not_take_is_refused(machine: Machine) -> None:
    with pytest.raises(RefusedError, match="TensorRT does not take this graph: reason 0"):
        build(b"no graph", PROFILE)
    with pytest.raises(RefusedError, match="TensorRT does not take this engine"):
        TensorRtBackend(b"no engine")


def test_an_engine_larger_than_the_gpu_is_refused(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stand_in.Engine, "create_execution_context", lambda _: None)
    engine, _ = build(widened(ModelBundle.find("phantom").folder / "model.onnx"), PROFILE)
    with pytest.raises(RefusedError, match="the engine does not fit into the GPU's memory"):
        TensorRtBackend(engine)


def test_what_an_engine_cannot_do_is_refused(machine: Machine, phantom: ModelBundle) -> None:
    network = phantom.networks[0]
    with pytest.raises(MissingError, match="computes in float32, and float16 was asked for"):
        open_backend(phantom, network, BackendRequest("tensorrt", precision="float16"))
    with pytest.raises(MissingError, match="TensorRT runs on CUDA only"):
        open_backend(phantom, network, BackendRequest("tensorrt", device="cpu"))
    with pytest.raises(MissingError, match="CUDA says: error 1"):  # the stand-in has one GPU
        open_backend(phantom, network, BackendRequest("tensorrt", "cuda:1"))
    for device in ("cuda", "cuda:0"):
        backend = open_backend(phantom, network, BackendRequest("tensorrt", device, "float32"))
        assert (backend.name, backend.device) == ("tensorrt", "cuda")  # type: ignore[attr-defined]


def test_no_home_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(InputError, match="Set XDG_CACHE_HOME"):
        EngineCache.default()


def test_a_stamp_names_what_differs() -> None:
    assert STAMP.misfit(STAMP) is None
    assert STAMP.misfit(replace(STAMP, graph="cd")) == "graph was ab, is cd"
    assert STAMP.misfit(replace(STAMP, profile="x")) == "profile was 1x1x16x16x16, is x"


def test_a_profile_holds_its_tile() -> None:
    assert ShapeProfile((64, 64, 48), EVEN, batch=4).shapes() == (
        (1, 1, 16, 16, 16),
        (4, 1, 64, 64, 48),
        (4, 1, 192, 192, 192),
    )
    assert ShapeProfile((224, 64, 48), EVEN).shapes()[2] == (1, 1, 224, 192, 192)


def test_an_engine_takes_the_thinnest_tile_of_a_task(machine: Machine, phantom: ModelBundle) -> None:
    """A scan of 10 thick slices is one tile of 12; it had to be as thick as the patch, 16."""
    strides = ((2, 2, 1), (2, 2, 1), (2, 2, 2), (2, 2, 2))
    task = replace(phantom.task, patch=(64, 64, 16), strides=strides)
    thick = replace(phantom, manifest=replace(phantom.manifest, task=task))
    backend = TensorRtBackend.of_bundle(thick, thick.networks[0])
    assert backend._context.set_input_shape("scan", (1, 1, 64, 64, 12))
    with pytest.raises(InputError, match=r"takes \(1, 1, 16, 16, 4\) to .* Use tiles of the training size"):
        backend(patches(1, 1, 64, 64, 2))


@pytest.mark.parametrize("name", ["left-atrium", "phantom"])  # 8 bits and half precision
def test_a_widened_graph_says_the_same(name: str) -> None:
    bundle = ModelBundle.find(name)
    path = bundle.folder / bundle.networks[0].graph
    graph = widened(path)
    model = onnx.load_from_string(graph)
    assert {t.data_type for t in model.graph.initializer} <= {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64}
    assert not any(t.external_data for t in model.graph.initializer)
    assert not {"DequantizeLinear", "Cast"} & {n.op_type for n in model.graph.node}
    wide = onnx.checker.check_model(model, full_check=True)
    assert wide is None
    given = patches(1, 1, 32, 32, 32)
    session = stand_in.onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(session.run(None, {"scan": given})[0], OnnxBackend(path)(given), atol=1e-4)


def test_predict_through_the_engine(machine: Machine, phantom: ModelBundle) -> None:
    scan = Geometry.build((40, 36, 30), (1.8, 1.8, 1.8)).volume(patches(40, 36, 30))
    a = open_predictor(phantom, backend="tensorrt")(scan, allow_out_of_domain=True).mask.array
    b = open_predictor(phantom, backend="onnx")(scan, allow_out_of_domain=True).mask.array
    assert (a != b).sum() <= 1


def test_without_onnx_the_graph_cannot_be_read(monkeypatch: pytest.MonkeyPatch, phantom: ModelBundle) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingError, match="TensorRT needs onnx"):
        widened(phantom.folder / "model.onnx")


# `make lint` checks everything else: modules other than TensorRT's are not read again.
ONLY_TENSORRT = """
[mypy]
cache_dir = /dev/null
check_untyped_defs = True
disable_error_code = var-annotated
ignore_missing_imports = True
[mypy-c3s3_seg.*,numpy.*]
follow_imports = skip
"""


@pytest.mark.slow
@pytest.mark.skipif(not tensorrt_types.available(), reason="needs tensorrt-cu13-bindings and gcc")
def test_our_calls_are_those_of_nvidias_bindings(tmp_path: Path) -> None:
    """mypy checks the calls against types read from the compiled bindings; it does find a wrong call."""
    stubs = tensorrt_types.write_stub(tmp_path)
    root = Path(__file__).parents[2]
    ours = [path for path in root.glob("c3s3_seg/**/*.py") if "tensorrt as trt" in path.read_text()]
    assert {path.name for path in ours} == {"engine_cache.py", "tensorrt.py", "tensorrt_log.py"}
    wrong = tmp_path / "wrong.py"
    wrong.write_text("import tensorrt as trt\n\nflag = trt.BuilderFlag.FP16\n")  # removed in TensorRT 11
    (tmp_path / "mypy.ini").write_text(ONLY_TENSORRT)
    words = [
        sys.executable,
        "-m",
        "mypy",
        "--config-file",
        str(tmp_path / "mypy.ini"),
        *map(str, ours),
        str(wrong),
    ]
    environment = {**os.environ, "MYPYPATH": str(stubs)}
    answer = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    errors = [line for line in answer.stdout.splitlines() if ": error:" in line]
    assert len(errors) == 1, answer.stdout
    assert "wrong.py:3" in errors[0]
    assert "FP16" in errors[0]
