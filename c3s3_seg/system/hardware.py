"""Inspect this machine: processors, GPUs, conflicting wheels. Only `openvino_devices` loads a runtime."""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
from pathlib import Path

from c3s3_seg.errors import OUT_OF_MEMORY, InputError, MissingError
from c3s3_seg.system.choices import DEVICES
from c3s3_seg.system.libraries import import_openvino

NO_GPU = "no NVIDIA GPU was found: the driver's library is not there or lists none"
BOTH_WHEELS = (
    "onnxruntime and onnxruntime-gpu are both installed; each overwrites the other's files, so which of"
    " them runs is chance"
)
MEND_WHEELS = (
    "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install '.[gpu]' (or '.[onnx]') in the clone"
)
# Message of torch if every cuDNN algorithm for a convolution failed, perhaps for lack of memory.
NO_ENGINE = "unable to find an engine to execute this computation"
BROKEN_CUDNN = (90_800, 91_500)  # broken from 9.8 on, fixed in 9.15: see `slow_convolutions`


def available_processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor_name() -> str:
    """Return the name of the processor as the system reports it; may be empty."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()


def cuda_devices() -> int:
    """Return the number of NVIDIA GPUs that the driver lists; 0 without a driver."""
    names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        try:
            driver = ctypes.CDLL(name)
        except OSError:
            continue
        count = ctypes.c_int(0)
        if driver.cuInit(0) == 0 and driver.cuDeviceGetCount(ctypes.byref(count)) == 0:
            return int(count.value)
    return 0


def check_device(device: str) -> None:
    """Refuse a text that names no device.

    Raises
    ------
    InputError
        If the text is none of `auto`, `cpu`, `cuda` and `cuda:N`.
    """
    if not (isinstance(device, str) and re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device, re.ASCII)):
        raise InputError(f"there is no device {device!r}; wanted {DEVICES.replace('|', ', ')}")


def is_cuda(device: str) -> bool:
    """Return whether an NVIDIA GPU was requested, whichever it is."""
    return device.startswith("cuda")


def cuda_index(device: str) -> int:
    """Return the index of the GPU: 1 for `cuda:1`, 0 if none is named."""
    return int(device.partition(":")[2] or 0)


def openvino_devices() -> list[str]:
    """Return OpenVINO's devices (CPU, GPU.0, NPU) with their names; empty if it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return []
    core = import_openvino().Core()
    return [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices]


def installed(*distributions: str) -> list[str]:
    """Return which of these distributions are installed. Their modules may have other names."""
    found = []
    for name in distributions:
        try:
            importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        found.append(name)
    return found


def installed_version(distribution: str) -> str | None:
    """Return the version of a distribution; None if it is not installed.

    `importlib.metadata.version` would parse all metadata, including licences, as an e-mail message.
    """
    try:
        found = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    stated = re.search(r"^Version: *(\S+)", found.read_text("METADATA") or "", re.MULTILINE)
    return stated[1] if stated else found.version


def _folder(distribution: str) -> Path:
    return Path(str(importlib.metadata.distribution(distribution).locate_file(""))).resolve()


def runtime_versions() -> dict[str, str]:
    """Return the versions of Python and of the installed runtimes, by distribution; import none."""
    found = {"python": sys.version.split()[0]}
    for name in ("openvino", "onnxruntime", "onnxruntime-gpu", "torch", "tensorrt", "tensorrt-cu13"):
        if installed(name):
            found[name] = importlib.metadata.version(name)
    return found


def check_onnx_wheels(device: str) -> str | None:
    """Return a sentence for the report if both builds of ONNX Runtime are in one folder; None if not.

    In two folders each build has its own files, and the first on Python's path runs.

    Raises
    ------
    MissingError
        If CUDA was requested: with both wheels it is unknown which of them would run.
    """
    both = installed("onnxruntime", "onnxruntime-gpu")
    if len(both) < 2 or len({_folder(name) for name in both}) == 2:
        return None
    if is_cuda(device):
        raise MissingError(BOTH_WHEELS, todo=MEND_WHEELS)
    return f"{BOTH_WHEELS}. {MEND_WHEELS}."


def is_memory_error(error: Exception) -> bool:
    """Return whether an error reports, in the words of any runtime, that memory is full.

    Only this error is inspected, not its causes: see `errors.is_out_of_memory` for both.
    """
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(word in text for word in OUT_OF_MEMORY)


def lacks_engine(error: Exception) -> bool:
    """Return whether a GPU library found no algorithm: too little memory, or an unsupported GPU."""
    return NO_ENGINE in str(error).lower()


def slow_convolutions(cudnn: int | None) -> tuple[str, ...]:
    """Return a note if torch computes 3D half-precision convolutions in default layout without cuDNN.

    torch does so from 2.9.1 on, for versions of cuDNN that computed some of them wrong, unless the layout is
    channels-last (`ConvParams::use_cudnn` in its Convolution.cpp; its issue 166122).

    Parameters
    ----------
    cudnn
        Version as torch gives it: 91002 is 9.10.2; None without cuDNN.
    """
    if cudnn is None or not BROKEN_CUDNN[0] <= cudnn < BROKEN_CUDNN[1]:
        return ()
    version = f"{cudnn // 10_000}.{cudnn // 100 % 100}"
    what = f"torch 2.9 and later compute 3D convolutions in half precision without cuDNN {version}, slowly"
    return (f"{what}; cuDNN 9.15 or channels_last mends it",)
