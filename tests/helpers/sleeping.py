"""Shared by tests: sleep_on."""

import os
import time
from pathlib import Path


def sleep_on(folder: str) -> None:
    """At work for minutes, once it has said who it is."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)
