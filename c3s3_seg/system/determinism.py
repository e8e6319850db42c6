"""The same bits twice: what a runtime has to be told for it."""

from __future__ import annotations

import os


def only_repeatable(runtime: str) -> None:
    """Let a runtime use only algorithms whose result does not depend on chance or timing.

    Parameters
    ----------
    runtime
        Name of the backend. OpenVINO and ONNX Runtime on the CPU are repeatable as they are, with one
        and the same number of threads; torch has to be told, on CUDA above all (not run so far).
    """
    if runtime == "torch":
        import torch

        # cuBLAS reads it when it is first used; torch refuses to be deterministic without it.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.benchmark = False
