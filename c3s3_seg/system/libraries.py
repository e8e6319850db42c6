"""Large libraries, imported without the parts that are not used here."""

from __future__ import annotations

import os
import sys
from typing import Any

# The tools that convert models of TensorFlow and PyTorch, with the option parser and the logs that they need.
CONVERSION = "openvino.tools.ovc"


def leave_out_unused() -> None:
    """Have a process that is ours import only what it needs: no conversion tools, no plugins of pydantic.

    `openvino/__init__.py` imports its conversion tools last, which takes as long as all the rest of it, and
    passes over an `ImportError`. Python raises one for a name that `sys.modules` maps to None (Python
    reference, 5.3.1, "The module cache"). pydantic searches all installed packages for plugins unless
    `PYDANTIC_DISABLE_PLUGINS` says otherwise. A process that uses us as a library may need both.
    """
    sys.modules.setdefault(CONVERSION, None)  # type: ignore[arg-type]
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")


def import_openvino() -> Any:
    """OpenVINO; a release that does not do without its conversion tools is imported with them.

    Raises
    ------
    ImportError
        If it is not installed or does not load.
    """
    try:
        import openvino
    except ImportError:
        if CONVERSION not in sys.modules or sys.modules[CONVERSION] is not None:
            raise
        del sys.modules[CONVERSION]
        import openvino
    return openvino
