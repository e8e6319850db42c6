import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from c3s3_seg.bundle import WEIGHTS, ModelBundle
from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.inference import open_predictor
from c3s3_seg.inference.backends import select
from c3s3_seg.inference.backends.select import BackendRequest, candidates, describe, notes, open_backend
from c3s3_seg.system import half_precision


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


def without_graphs(bundle: ModelBundle) -> ModelBundle:
    files = {name: sha for name, sha in bundle.manifest.files.items() if not name.endswith(".onnx")}
    return replace(bundle, manifest=replace(bundle.manifest, files=files))


def test_auto_takes_the_fastest_that_fits(bundle: ModelBundle) -> None:
    network = bundle.networks[0]
    found = open_backend(bundle, network)
    assert describe(found) == {"backend": "openvino", "device": "cpu", "precision": "float32"}
    assert notes(found) == ()
    assert list(candidates(without_graphs(bundle), network, "cpu")) == [("torch", "cpu")]


def test_a_gpu_comes_first_where_there_is_one(bundle: ModelBundle, monkeypatch) -> None:
    monkeypatch.setattr(select, "cuda_devices", lambda: 1)
    monkeypatch.setattr(select, "installed", lambda *names: list(names))
    order = list(candidates(bundle, bundle.networks[0], "auto"))
    assert order[:3] == [("onnx", "cuda"), ("torch", "cuda"), ("openvino", "cpu")]
    assert list(candidates(bundle, bundle.networks[0], "cuda")) == order[:2]
    assert list(candidates(bundle, bundle.networks[0], "cpu")) == order[2:]


def test_a_gpu_that_no_runtime_can_use_is_told_in_the_report(bundle: ModelBundle, monkeypatch) -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    monkeypatch.setattr(select, "cuda_devices", lambda: 1)
    found = open_backend(bundle, bundle.networks[0])
    assert found.name == "openvino"
    assert any("not used: torch on cuda" in note for note in notes(found))


def test_a_gpu_that_is_not_there_is_named(bundle: ModelBundle, monkeypatch) -> None:
    for count, there in ((1, "cuda:0"), (2, "cuda:0 to cuda:1")):
        monkeypatch.setattr(select, "cuda_devices", lambda count=count: count)
        with pytest.raises(MissingError, match=f"there is no cuda:2: the driver lists {there}"):
            open_backend(bundle, bundle.networks[0], BackendRequest("torch", "cuda:2"))
    with pytest.raises(InputError, match="there is no device 'cuda:one'"):
        BackendRequest(device="cuda:one")
    found = list(select.candidates(bundle, bundle.networks[0], "cuda:1"))
    assert {device for _, device in found} == {"cuda:1"}


def test_what_was_asked_for_is_taken_or_refused(bundle: ModelBundle, monkeypatch) -> None:
    network = bundle.networks[0]
    with pytest.raises(InputError, match=r"has no model\.onnx.*c3s3-seg export"):
        open_backend(without_graphs(bundle), network, BackendRequest("openvino"))
    if not select.cuda_devices():
        with pytest.raises(
            MissingError, match=r"as asked .*no NVIDIA GPU was found.*leave device= out"
        ) as found:
            open_backend(bundle, network, BackendRequest(device="cuda"))
        assert "c3s3-seg export" not in str(found.value)  # a graph exists already
    monkeypatch.setattr(select, "PACKAGES", dict.fromkeys(select.PACKAGES, ("not_here", "")))
    with pytest.raises(MissingError, match="no installed runtime can run this bundle"):
        open_backend(bundle, network)
    with pytest.raises(MissingError, match=r"c3s3-seg export .* --to onnx"):
        open_backend(without_graphs(bundle), network)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"runtime": "tensorflow"}, "there is no runtime 'tensorflow'; wanted auto, openvino, onnx"),
        ({"precision": "float8"}, "there is no precision 'float8'; wanted auto, float32"),
        ({"threads": 0}, "found 0 threads"),
        ({"threads": -1}, "found -1 threads"),
        ({"threads": "x"}, "threads='x', wanted a whole number"),
        ({"threads": 1.5}, "threads=1.5, wanted a whole number"),
        ({"threads": True}, "threads=True, wanted a whole number"),
        ({"cuda_graphs": "no"}, "cuda_graphs='no', wanted True or False"),
        ({"channels_last": None}, "channels_last=None, wanted True or False"),
        ({"device": 5}, "there is no device 5; wanted auto, cpu"),
    ],
)
def test_what_there_is_not_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        BackendRequest(**wrong)
    assert BackendRequest(threads=2).threads == 2


def test_one_runtime_for_all_networks(tmp_path: Path) -> None:
    """A second network without a graph runs in torch, so the first does too, and the record is true."""
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "b")
    whole = ModelBundle.load(tmp_path / "b")
    files = {name: value for name, value in whole.manifest.files.items() if name != "secondary.onnx"}
    bundle = replace(whole, manifest=replace(whole.manifest, files=files))
    predictor = open_predictor(bundle, ensemble=True)
    assert [backend.name for backend in predictor.backends] == ["torch", "torch"]
    assert open_predictor(bundle).backends[0].name == "openvino"


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_auto_emulates_no_precision(bundle: ModelBundle, precision: Any, monkeypatch) -> None:
    """It fell back to torch, which emulates: a tile took 2.3 s instead of 0.07 s.

    oneDNN may not use the units in this test, whichever processor it runs on.
    """
    pytest.importorskip("torch")
    if select.cuda_devices():
        pytest.skip("there is a GPU")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setattr(select.OpenVinoBackend, "__init__", not_here)
    request = BackendRequest(precision=precision)
    wanted = rf"torch on cpu: this CPU has no units for {precision}, which torch would emulate"
    with pytest.raises(MissingError, match=wanted):
        open_backend(bundle, bundle.networks[0], request)
    with pytest.raises(MissingError, match=f"no units for {precision}"):
        open_predictor(without_graphs(bundle), backend=request)
    assert open_predictor(without_graphs(bundle)).backends[0].precision == "float32"
    named = open_backend(bundle, bundle.networks[0], replace(request, runtime="torch"))
    assert describe(named) == {"backend": "torch", "device": "cpu", "precision": precision}


def not_here(*_: object, **__: object) -> None:
    raise MissingError("not on this processor")


@pytest.mark.parametrize(("precision", "unit"), [("bfloat16", "amx_bf16"), ("float16", "avx512_fp16")])
def test_auto_takes_torch_where_there_are_units(
    bundle: ModelBundle, precision: Any, unit: str, monkeypatch
) -> None:
    pytest.importorskip("torch")
    if select.cuda_devices():
        pytest.skip("there is a GPU")
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    monkeypatch.setattr(half_precision, "_capabilities", lambda: {unit: True})
    found = open_predictor(without_graphs(bundle), backend=BackendRequest(precision=precision))
    assert describe(found.backends[0])["precision"] == precision
