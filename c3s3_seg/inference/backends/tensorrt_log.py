"""The log of TensorRT, as Python's logging: its own logger prints to stdout, between the lines of `--json`.

Not run on a GPU so far: type-checked against the bindings of TensorRT 11.4 and 10.16.
"""

from __future__ import annotations

import logging
from collections import deque
from functools import cache
from typing import Any

LOG = logging.getLogger("c3s3_seg.tensorrt")
KEPT = 3  # errors that a refusal repeats, the newest ones


@cache
def logger() -> Any:
    """Return the logger of this process, with TensorRT's base class.

    There is only one: TensorRT keeps the first logger that it is given, and uses it for all its objects.
    """
    import tensorrt as trt

    level = trt.ILogger.Severity
    errors = (level.INTERNAL_ERROR, level.ERROR)

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=KEPT)
            self.interrupt: BaseException | None = None

        def log(self, severity: Any, msg: str) -> None:
            """Log an error or a warning; TensorRT's notes on its progress are left out."""
            try:
                if severity in errors:
                    self.errors.append(" ".join(msg.split()))
                    LOG.error("TensorRT: %s", msg)
                elif severity == level.WARNING:
                    LOG.warning("TensorRT: %s", msg)
            except BaseException as error:  # such as Ctrl-C: an error that leaves this call ends the process
                self.interrupt = error

    return Logger()


def reasons() -> str:
    """Return the errors that TensorRT has logged since the last call; raise what interrupted its log."""
    log = logger()
    found, log.interrupt, interrupt = "; ".join(log.errors), None, log.interrupt
    log.errors.clear()
    if interrupt is not None:
        raise interrupt
    return found or "it gave no reason"
