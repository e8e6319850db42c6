import sys
from pathlib import Path

import pytest

from c3s3_seg.errors import InputError, MissingError
from c3s3_seg.system.hardware import (
    check_device,
    check_onnx_wheels,
    cuda_devices,
    cuda_index,
    installed,
    is_cuda,
    is_memory_error,
    lacks_engine,
    slow_convolutions,
)


def test_distributions_are_known_by_their_own_names() -> None:
    assert installed("numpy", "no-such-distribution") == ["numpy"]


def test_devices_and_which_gpu() -> None:
    for text in ("auto", "cpu", "cuda", "cuda:0", "cuda:12"):
        check_device(text)
    for text in ("", "gpu", "cuda:", "cuda:-1", "cuda:1234", "CPU", "cuda:1 "):
        with pytest.raises(InputError, match="wanted auto, cpu, cuda, cuda:N"):
            check_device(text)
    assert [cuda_index(text) for text in ("auto", "cuda", "cuda:3")] == [0, 0, 3]
    assert [is_cuda(text) for text in ("auto", "cpu", "cuda", "cuda:1")] == [False, False, True, True]


def test_two_builds_of_onnx_runtime_in_one_folder_are_noticed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def install(folder: str, name: str) -> None:
        facts = tmp_path / folder / f"{name.replace('-', '_')}-1.0.dist-info"
        facts.mkdir(parents=True)
        (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")

    install("one", "onnxruntime")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "two"), str(tmp_path / "one")])
    assert check_onnx_wheels("cuda") is None
    install("two", "onnxruntime-gpu")  # as by `pip install --target`: both stay
    assert installed("onnxruntime", "onnxruntime-gpu") == ["onnxruntime", "onnxruntime-gpu"]
    assert check_onnx_wheels("cuda") is None
    install("two", "onnxruntime")
    note = check_onnx_wheels("cpu")
    assert note is not None
    assert "pip uninstall -y onnxruntime onnxruntime-gpu" in note
    with pytest.raises(MissingError, match="each overwrites the other's files"):
        check_onnx_wheels("cuda:1")


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (MemoryError(), True),
        (RuntimeError("Exception from src/inference: std::bad_alloc"), True),
        (RuntimeError("bfc_arena.cc: Failed to allocate memory for requested buffer of size 83886080"), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), False),
        (RuntimeError("GET was unable to find an engine to execute this computation"), False),
        (RuntimeError("shapes do not match"), False),
    ],
)
def test_full_memory_is_known_in_the_words_of_every_runtime(error: Exception, full: bool) -> None:
    assert is_memory_error(error) is full


def test_a_gpu_that_finds_no_way_to_compute_is_known() -> None:
    for words in ("GET was unable to find an engine", "Unable to find an engine"):
        assert lacks_engine(RuntimeError(f"{words} to execute this computation"))
    assert not lacks_engine(RuntimeError("CUDA out of memory"))


def test_versions_of_cudnn_that_torch_leaves_out_are_told() -> None:
    for version in (None, 8902, 90701, 91500, 92100):
        assert slow_convolutions(version) == ()
    for version, name in ((90800, "9.8"), (91002, "9.10"), (91499, "9.14")):
        (note,) = slow_convolutions(version)
        assert f"without cuDNN {name}, slowly; cuDNN 9.15 or channels_last" in note


def test_this_machine() -> None:
    assert cuda_devices() >= 0
