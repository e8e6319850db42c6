"""Tests that really cause each fault of benchmarks/faults.py, in its short form."""

import importlib.util
import sys
from pathlib import Path

import pytest
from helpers import command, forked

pytestmark = pytest.mark.slow

SOURCE = Path(__file__).parents[2] / "benchmarks" / "faults.py"
SPEC = importlib.util.spec_from_file_location("faults", SOURCE)
assert SPEC is not None
assert SPEC.loader is not None
faults = importlib.util.module_from_spec(SPEC)
sys.modules["faults"] = faults
SPEC.loader.exec_module(faults)


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory):
    """Prepare the ground: undisturbed runs use this process, most others forked processes without imports.

    The first three words of each command are `python -m c3s3_seg`.
    """
    return faults.prepare(
        tmp_path_factory.mktemp("faults") / "ground",
        kills=1,
        files=500,
        undisturbed=lambda words: command.run(*words[3:]),
        start=lambda words, **how: forked.Process(words[3:], **how),
    )


@pytest.mark.parametrize("name", faults.FAULTS)
def test_fault(name: str, ground) -> None:
    faults.FAULTS[name](ground)
