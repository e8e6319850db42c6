"""What libraries say of their own accord is not said: it quotes headers, and with them patients."""

from __future__ import annotations

import logging
import sys
import warnings


def quiet_libraries() -> None:
    """Silence warnings and logs of libraries in a process that is ours: the command line, a worker.

    pydicom, highdicom and pynetdicom quote values of headers in both, names of patients among them. What a
    user has to know of a file stands in our own errors and notes, which quote none. A process that uses us
    as a library keeps its own settings.
    """
    warnings.simplefilter("ignore")
    warnings.showwarning = _nothing  # for a library that resets the filters
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.NullHandler())  # else what nobody handles is printed (logging.lastResort)
    ours = logging.getLogger("c3s3_seg")
    if not ours.handlers:
        ours.addHandler(logging.StreamHandler(sys.stderr))


def _nothing(*_: object, **__: object) -> None:
    pass
