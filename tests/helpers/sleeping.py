"""Shared by tests: sleep_on."""

import os
import time
from pathlib import Path


def sleep_on(folder: str) -> None:
    """Write a file named by this process's number, then sleep for minutes as a busy worker."""
    (Path(folder) / str(os.getpid())).touch()
    time.sleep(300)
