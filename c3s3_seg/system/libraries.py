"""Import large libraries without their unused parts."""

from __future__ import annotations

import os
import sys
from typing import Any

# The tools that convert models of TensorFlow and PyTorch, with the option parser and the logs that they need.
CONVERSION = "openvino.tools.ovc"


def leave_out_unused() -> None:
    """Keep a process of this package from importing OpenVINO's conversion tools and pydantic's plugins.

    `openvino/__init__.py` imports its conversion tools last, which takes as long as the rest of its import,
    and ignores an `ImportError`. Python raises one for a name that `sys.modules` maps to None (Python
    reference, 5.3.1, "The module cache"). pydantic searches all installed packages for plugins unless
    `PYDANTIC_DISABLE_PLUGINS` is set. A process that uses this package as a library may need both.
    """
    sys.modules.setdefault(CONVERSION, None)  # type: ignore[arg-type]
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def import_openvino() -> Any:
    """Import and return OpenVINO, with its conversion tools if the release needs them.

    Raises
    ------
    ImportError
        If OpenVINO is not installed or does not load.
    """
    try:
        import openvino
    except ImportError:
        if CONVERSION not in sys.modules or sys.modules[CONVERSION] is not None:
            raise
        del sys.modules[CONVERSION]
        import openvino
    return openvino
