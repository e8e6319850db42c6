"""What a runtime could run on here: asked of the drivers, not of what was compiled in."""

from __future__ import annotations

import importlib.util


def openvino_devices() -> list[str]:
    """Names as OpenVINO gives them: CPU, GPU.0, NPU; empty where it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        return []
    import openvino

    core = openvino.Core()
    return [f"{name} ({core.get_property(name, 'FULL_DEVICE_NAME')})" for name in core.available_devices]


def cuda_devices() -> int:
    """How many GPUs the NVIDIA driver sees; 0 where there is no driver. Needs no runtime to be loaded."""
    import ctypes

    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return 0
    count = ctypes.c_int(0)
    # cuInit and cuDeviceGetCount give 0 for success (CUDA driver API).
    if driver.cuInit(0) != 0 or driver.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return 0
    return count.value
