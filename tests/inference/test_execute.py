"""Outputs of networks: wrong shapes and numbers fail the case, in every runtime and for every network."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from conftest import small_scan
from helpers import tensorrt_stand_in as stand_in
from onnx import TensorProto, helper

from c3s3_seg.bundle import Label, ModelBundle, Network, Task
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.errors import InputError, MemoryLimitError
from c3s3_seg.export.compare import compare
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference.backends import cuda
from c3s3_seg.inference.backends.execute import Backend, run
from c3s3_seg.inference.backends.onnxruntime import OnnxBackend
from c3s3_seg.inference.backends.runtimes import OpenVinoBackend, TorchBackend
from c3s3_seg.inference.backends.tensorrt import TensorRtBackend
from c3s3_seg.inference.predictor import Predictor, Settings

LABELS = (Label("a", 1),)
# The window only divides intensities by 1,000.
TASK = Task("x", "MR", LABELS, Recipe((1.0, 1.0, 1.0), Intensity("window", 0, 1000)), (16, 16, 16))
BRIGHT = 900.0
TAKES_LOGARITHM_OF = 0.5  # of this less the input: NaN where the input is larger


def constant(name: str, numbers: Any) -> Any:
    tensor = onnx.numpy_helper.from_array(np.asarray(numbers), name)
    return helper.make_node("Constant", [], [name], value=tensor)


F = np.float32
NODES: dict[str, list[Any]] = {
    "good": [
        constant("one", F(0.9)),
        helper.make_node("Sub", ["one", "scan"], ["low"]),
        helper.make_node("Concat", ["low", "scan"], ["logits"], axis=1),
    ],
    "one channel": [helper.make_node("Identity", ["scan"], ["logits"])],
    "five channels": [helper.make_node("Concat", ["scan"] * 5, ["logits"], axis=1)],
    "one voxel": [
        helper.make_node("GlobalAveragePool", ["scan"], ["mean"]),
        helper.make_node("Concat", ["mean", "mean"], ["logits"], axis=1),
    ],
    "another size": [
        helper.make_node("MaxPool", ["scan"], ["half"], kernel_shape=[2, 2, 2], strides=[2, 2, 2]),
        helper.make_node("Concat", ["half", "half"], ["logits"], axis=1),
    ],
    "another rank": [
        helper.make_node("ReduceMean", ["scan"], ["plane"], axes=[4], keepdims=0),
        helper.make_node("Concat", ["plane", "plane"], ["logits"], axis=1),
    ],
    "whole numbers": [
        helper.make_node("Concat", ["scan", "scan"], ["both"], axis=1),
        helper.make_node("Cast", ["both"], ["logits"], to=TensorProto.INT64),
    ],
    "NaN": [
        constant("half", F(TAKES_LOGARITHM_OF)),
        helper.make_node("Sub", ["half", "scan"], ["left"]),
        helper.make_node("Log", ["left"], ["broken"]),
        helper.make_node("Concat", ["scan", "broken"], ["logits"], axis=1),
    ],
    "infinity": [
        constant("zero", F(0)),
        constant("half", F(TAKES_LOGARITHM_OF)),
        helper.make_node("Less", ["scan", "half"], ["dark"]),
        helper.make_node("Cast", ["dark"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Log", ["number"], ["broken"]),
        helper.make_node("Concat", ["scan", "broken"], ["logits"], axis=1),
    ],
}  # fmt: skip
WRONG = [name for name in NODES if name != "good"]


def graph(kind: str) -> bytes:
    given = helper.make_tensor_value_info("scan", TensorProto.FLOAT, ["n", 1, "x", "y", "z"])
    number = TensorProto.INT64 if kind == "whole numbers" else TensorProto.FLOAT
    sides = ["n", "c", "a", "b", "d"][: 4 if kind == "another rank" else 5]
    gives = helper.make_tensor_value_info("logits", number, sides)
    body = helper.make_graph(NODES[kind], "g", [given], [gives])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model.SerializeToString()  # type: ignore[no-any-return]


class Net(torch.nn.Module):
    """The same networks in torch."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.bias = kind, torch.nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        two = {
            "good": lambda: torch.cat([0.9 - x, x], 1),
            "one channel": lambda: x,
            "five channels": lambda: torch.cat([x] * 5, 1),
            "one voxel": lambda: torch.cat([x.mean((2, 3, 4), keepdim=True)] * 2, 1),
            "another size": lambda: torch.cat([x[..., ::2, ::2, ::2]] * 2, 1),
            "another rank": lambda: torch.cat([x.mean(4)] * 2, 1),
            "NaN": lambda: torch.cat([x, (TAKES_LOGARITHM_OF - x).log()], 1),
            "infinity": lambda: torch.cat([x, (x < TAKES_LOGARITHM_OF).float().log()], 1),
        }
        return two[self.kind]()


@pytest.fixture
def made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Backend]:
    """Return a function that opens a network of one of these kinds in one of the runtimes."""
    runtime = stand_in.Cuda("Stand-in GPU")
    monkeypatch.setattr(cuda, "cudart", lambda: runtime)
    monkeypatch.setitem(sys.modules, "tensorrt", stand_in.tensorrt("11.4.0"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    def make(backend: str, kind: str) -> Backend:
        if backend == "torch":
            return TorchBackend(Net(kind))
        bundle = bundle_of(tmp_path / backend / kind, kind)
        path = bundle.folder / "model.onnx"
        if backend == "tensorrt":
            return TensorRtBackend.of_bundle(bundle, bundle.networks[0])
        return OpenVinoBackend(path) if backend == "openvino" else OnnxBackend(path)

    return make


def bundle_of(folder: Path, *kinds: str) -> ModelBundle:
    stems = ("model", "secondary")[: len(kinds)]
    files = {f"{stem}.safetensors": bytes(8) for stem in stems}
    files |= {f"{stem}.onnx": graph(kind) for stem, kind in zip(stems, kinds, strict=True)}
    networks = tuple(Network(stem, "vnet", 1) for stem in stems)
    return ModelBundle.create(folder / "b", TASK, files, networks, {})


def scan() -> Volume:
    """Return a scan of six tiles of 16 voxels; one voxel leads to the logarithm of a negative number."""
    array = np.full((48, 32, 16), 100.0, np.float32)
    array[40, 5, 5] = BRIGHT
    return Geometry.build(array.shape).volume(array)


TILES = Settings(overlap=0.0)
BACKENDS = ["openvino", "onnx", "torch", "tensorrt"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_good_network_is_let_through(made: Callable[[str, str], Backend], backend: str) -> None:
    found = Predictor(TASK, [made(backend, "good")], TILES)(scan())
    assert (found.mask.array == 1).sum() == 1
    assert found.mask.array[40, 5, 5] == 1


@pytest.mark.parametrize("kind", WRONG)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_wrong_output_fails_the_case(made: Callable[[str, str], Backend], backend: str, kind: str) -> None:
    """NaN and infinity occur in one value of one tile of six."""
    if kind == "whole numbers" and backend == "torch":
        pytest.skip("it gives single precision")
    if kind in ("one voxel", "another size", "another rank") and backend == "tensorrt":
        pytest.skip("the stand-in for a GPU knows one size of an output")
    if kind == "whole numbers" and backend == "tensorrt":
        with pytest.raises(InputError, match="its output is INT64, wanted FLOAT"):
            made(backend, kind)
        return
    reason = {"NaN": "NaN or infinity in 1 of 8192 values", "infinity": "NaN or infinity in 1 of 8192 values"}
    wanted = reason.get(kind, r"wanted real ones of shape \(1, 2, 16, 16, 16\)")
    network = made(backend, kind)
    with pytest.raises(InputError, match=f"the network gave .*{wanted}"):
        Predictor(TASK, [network], TILES)(scan())


@pytest.mark.parametrize(
    "settings", [TILES, Settings(), Settings(uncertainty=True), Settings(mirroring=(0, 2))]
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_each_network_of_an_ensemble_is_looked_at(
    made: Callable[[str, str], Backend], settings: Settings, place: int
) -> None:
    networks = [made("torch", "good")] * 2
    networks.insert(place, made("torch", "NaN"))
    with pytest.raises(InputError, match="the network gave NaN or infinity in 1 of"):
        Predictor(TASK, networks, settings)(scan())


class Answers:
    """A backend that returns a given output, or raises it if it is an exception."""

    name = "stand-in"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __call__(self, patches: np.ndarray) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


PATCH = np.zeros((1, 1, 16, 16, 16), np.float32)


def test_numbers_that_single_precision_does_not_hold_are_refused() -> None:
    for number in (1e300, -1e300, np.inf, np.nan):
        answer = np.zeros((1, 2, 16, 16, 16))
        answer[0, 1, 3, 4, 5] = number
        with pytest.raises(InputError, match="NaN or infinity in 1 of 8192 values"):
            run(Answers(answer), PATCH, 2)
    for kind in (complex, object, str, bool, np.int8):
        with pytest.raises(InputError, match="wanted real ones"):
            run(Answers(np.zeros((1, 2, 16, 16, 16), kind)), PATCH, 2)
    np.testing.assert_array_equal(run(Answers(np.ones((1, 2, 16, 16, 16))), PATCH, 2), 1)


def test_a_runtime_that_fails_is_one_line() -> None:
    with pytest.raises(
        InputError, match=r"failed on tiles of 16 x 16 x 16 in stand-in \(no such kernel at\)"
    ):
        run(Answers(RuntimeError("no such kernel\n  at\n")), PATCH, 2)
    with pytest.raises(MemoryLimitError, match="memory was full with tiles of 16 x 16 x 16 in stand-in"):
        run(Answers(RuntimeError("CUDA out of memory")), PATCH, 2)


def test_a_gpu_that_finds_no_way_to_compute_is_tried_with_smaller_tiles() -> None:
    """The note does not call it a lack of memory: cuDNN may not support the GPU."""

    class Picky:
        name = "stand-in"

        def __call__(self, patches: np.ndarray) -> np.ndarray:
            if patches[0, 0].size > 16**3:
                raise RuntimeError("GET was unable to find an engine to execute this computation")
            return np.concatenate([0.9 - patches, patches], 1)

    found = Predictor(TASK, [Picky()], Settings(whole=True))(scan())
    assert found.tile == (16, 16, 16)
    assert found.mask.array[40, 5, 5] == found.mask.array.sum() == 1
    (note,) = (note for note in found.notes if "went on" in note)
    assert "found no way to compute tiles of 48 x 32 x 16" in note
    assert "too little memory or with a GPU that it does not support" in note
    assert "memory was full" not in note


def test_an_export_is_looked_at_too(made: Callable[[str, str], Backend]) -> None:
    """A single channel would be broadcast to the two channels of the reference."""
    for kind in ("one channel", "NaN"):
        found = compare(TASK, [made("torch", "good")], [made("openvino", kind)], [scan()])
        assert not found.holds
        assert found.difference == found.scans[0].difference == np.inf
    assert compare(TASK, [made("torch", "good")], [made("openvino", "good")], [scan()]).holds


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1])
def test_a_batch_goes_on_after_a_case_with_a_wrong_output(tmp_path: Path, workers: int) -> None:
    from c3s3_seg.io import save

    (tmp_path / "scans").mkdir()

    for n in range(3):
        volume = small_scan(n)
        volume.array[volume.array > 400] = 400
        if n == 1:
            volume.array[3, 3, 3] = 100 * BRIGHT
        save(volume, tmp_path / "scans" / f"case-{n}.nii.gz")
    command = [sys.executable, "-m", "c3s3_seg", "predict", tmp_path / "scans", "-o", tmp_path / "out"]
    command += ["--model", bundle_of(tmp_path, "NaN").folder, "--workers", workers]
    answer = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, timeout=120)
    assert answer.returncode == 1, answer.stderr
    assert "Traceback" not in answer.stderr
    assert not [*(tmp_path / "out").glob("case-1*")]
    assert (tmp_path / "out" / "case-0.nii.gz").is_file()
    assert (tmp_path / "out" / "case-2.nii.gz").is_file()
    cases = json.loads((tmp_path / "out" / "provenance.json").read_text())["cases"]
    (refusal,) = (case["refusal"] for case in cases if case["case"] == "case-1")
    assert refusal["kind"] == "InputError"
    assert "the network gave NaN or infinity in " in refusal["what"]
