"""Find whether a processor has units for a half precision, which torch otherwise emulates, slowly."""

from __future__ import annotations

import os
from collections.abc import Callable

# Precision -> unit as torch names it -> its name in messages.
UNITS = {
    "bfloat16": {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "Arm BF16"},
    "float16": {"amx_fp16": "AMX FP16", "avx512_fp16": "AVX-512 FP16", "fp16_arith": "Arm FP16"},
}
# Parts of oneDNN's names of instruction sets (ONEDNN_MAX_CPU_ISA) that include each precision.
INCLUDED_IN = {
    "bfloat16": ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT"),
    "float16": ("FP16", "AMX", "AVX10", "ALL", "DEFAULT"),
}


def processor_units(precision: str) -> str:
    """Return the name of the units by which torch computes convolutions in a precision on the CPU.

    Parameters
    ----------
    precision
        `bfloat16` or `float16`.

    Returns
    -------
    str
        Empty if there are no such units: torch then emulates the precision, at a hundredth of its speed.
    """
    if not _onednn_may(precision):
        return ""
    able = _capabilities()
    return next((word for name, word in UNITS[precision].items() if able.get(name)), "")


def _onednn_may(precision: str) -> bool:
    """Return whether oneDNN, which computes the convolutions, is there and may use such units."""
    import torch

    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    known = any(word in cap.upper() for word in INCLUDED_IN[precision])
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return known and there and bool(torch.backends.mkldnn.enabled)


def _capabilities() -> dict[str, object]:
    """Return the processor's units; torch before 2.11 reports some of them, by separate functions."""
    import torch

    listed = getattr(torch.cpu, "get_capabilities", None)
    if listed is not None:
        return dict(listed())
    ask: Callable[[str], object] = lambda name: getattr(torch.cpu, name, bool)()  # noqa: E731
    return {
        "avx512_bf16": ask("_is_avx512_bf16_supported"),
        "amx_bf16": ask("_is_amx_tile_supported"),
        "amx_fp16": ask("_is_amx_fp16_supported"),
    }
