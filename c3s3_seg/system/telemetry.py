"""No telemetry: a runtime that reports its own use is kept from it."""

from __future__ import annotations

import sys


def forbid() -> None:
    """Keep `import openvino` from reporting to Google Analytics.

    It does so on every import, from a process that it forks (openvino 2026.4, openvino_telemetry
    2025.2): measured on a machine without a network, that process outlives a killed parent. Where
    the package cannot be imported, OpenVINO takes its own empty stand-in.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
