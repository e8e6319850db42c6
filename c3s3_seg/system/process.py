"""Settings of a process, made once: quiet libraries, no telemetry, repeatable algorithms, kept memory."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from c3s3_seg.errors import MissingError

# Parameters of mallopt(3), from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8
PAD_BYTES = 64 * 2**20


def quiet_libraries() -> None:
    """Silence warnings and logs of libraries in a process of this package: the command line, a worker.

    pydicom, highdicom and pynetdicom quote header values in both, including names of patients. The errors
    and notes of this package report all that a user must know of a file, without such values. A process
    that uses this package as a library keeps its own settings.
    """
    warnings.simplefilter("ignore")
    warnings.showwarning = _nothing  # for a library that resets the filters
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())  # else unhandled records are printed (logging.lastResort)
    ours = logging.getLogger("c3s3_seg")
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler(sys.stderr))


def _nothing(*_: object, **__: object) -> None:
    pass


def forbid_telemetry() -> None:
    """Keep `import openvino` from reporting to Google Analytics.

    OpenVINO reports on every import, from a forked process (openvino 2026.4, openvino_telemetry
    2025.2): measured on a machine without a network, that process outlives a killed parent. If
    openvino_telemetry cannot be imported, OpenVINO takes its own empty stand-in.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


def import_nothing_from_working_folder() -> None:
    """Keep this process and its children from importing files of the working folder, which is a user's data.

    `python -m`, and a process of multiprocessing, search that folder first, so that a file `signal.py` among
    scans would be run (Python, `PYTHONSAFEPATH`). If the program itself is there, as in a clone that is
    not installed, nothing is changed: the child processes must find it.
    """
    with suppress(OSError):  # the folder was removed
        if Path(__file__).parents[2].samefile(os.getcwd()):
            return
        sys.path[:] = [place for place in sys.path if place and not _same(place, os.getcwd())]
    os.environ.setdefault("PYTHONSAFEPATH", "1")


def _same(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except OSError:  # there is no such folder, such as that of a zip file
        return False


def take_stdout() -> IO[str]:
    """Return a stream to stdout, for JSON lines alone, and send all other output to stderr from now on."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return replies


def reply(replies: IO[str], **content: Any) -> None:
    """Write one JSON line; end the process if the reader has closed the pipe."""
    try:
        replies.write(json.dumps(content) + "\n")
        replies.flush()
    except BrokenPipeError:
        os._exit(1)


def only_repeatable(runtime: str, device: str) -> None:
    """Let a runtime use only algorithms whose result does not depend on chance or timing.

    Parameters
    ----------
    runtime
        Name of the backend. OpenVINO and ONNX Runtime on the CPU are repeatable as they are, with the
        same number of threads; torch needs these settings, above all on CUDA (not run so far).
    device
        The device on which it runs.

    Raises
    ------
    MissingError
        If the runtime has no such setting there: on CUDA, ONNX Runtime may take convolutions of cuDNN that
        add in any order, and TensorRT chooses algorithms by timing whenever it builds an engine.
    """
    from c3s3_seg.system.hardware import is_cuda

    if is_cuda(device) and runtime != "torch":
        what = f"the backend '{runtime}' does not give the same bytes twice on CUDA for sure"
        raise MissingError(what, todo="Take --backend torch or --device cpu, or leave --deterministic out")
    if runtime == "torch":
        import torch

        # cuBLAS reads the variable at its first use; torch refuses to be deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        # Filling fresh tensors guards against reading them unwritten, which nothing here does.
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = False


def keep_pages() -> None:
    """Keep freed memory in the process instead of giving it back after every layer.

    A training step allocates and frees hundreds of maps of 10 to 50 MB, and so does a forward pass in
    torch (250,000 page faults at 112 x 112 x 80). By default each map is a fresh mapping whose pages the
    kernel must clear one by one: on a busy virtual machine that has cost ten times the arithmetic.
    Without glibc, nothing is changed.
    """
    if not sys.platform.startswith("linux"):
        return
    import ctypes  # here, so that `--help` need not wait for it

    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return
    for parameter, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, -1), (TOP_PAD, PAD_BYTES), (ARENA_MAX, 1)):
        mallopt(parameter, value)
