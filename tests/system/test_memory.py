import resource
import subprocess
import sys
from math import inf
from pathlib import Path

import numpy as np
import pytest

from c3s3_seg.errors import InputError
from c3s3_seg.system import memory
from c3s3_seg.system.memory import available_memory, free_bytes, parse_memory, peak_memory


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("512 MiB", 2**29), ("2e9", 2 * 10**9), ("1.5g", 15 * 10**8), ("64k", 64_000)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_memory(text) == size


@pytest.mark.parametrize("text", ["", "4 bananas", "-1GB", "0", "1.2.3GB", "GB", "nan", "1e400GB", "9" * 400])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="wanted a size such as 4GB"):
        parse_memory(text)


def test_a_control_group_leaves_less_than_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In versions 2 and 1, the tightest limit of the group and its parents holds; `max` is no limit."""
    monkeypatch.setattr(memory, "_free_memory", lambda: 10**6)
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    assert available_memory(tmp_path, own) == 10**6
    for folder, most in (("", "max"), ("job", "5000"), ("job/step", "9000")):
        group(tmp_path / folder, "memory.max", most, "memory.current", "inactive_file 700")
    assert available_memory(tmp_path, own) == 5000 - 1000 + 700
    group(tmp_path, "memory.max", "3000", "memory.current", "inactive_file 0")  # as in a container
    assert available_memory(tmp_path, own) == 2000
    own.write_text("5:cpu:/x\n4:memory,hugetlb:/job\n")
    first = tmp_path / "memory" / "job"
    group(first, "memory.limit_in_bytes", "1500", "memory.usage_in_bytes", "total_inactive_file 100")
    assert available_memory(tmp_path, own) == 600
    group(first, "memory.limit_in_bytes", "900", "memory.usage_in_bytes", "total_inactive_file 0")
    assert available_memory(tmp_path, own) == 0


def group(folder: Path, limit: str, most: str, used: str, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / limit).write_text(f"{most}\n")
    (folder / used).write_text("1000\n")
    (folder / "memory.stat").write_text(f"anon 1\n{stat}\n")


def test_the_peak_is_that_of_the_process_itself() -> None:
    """The maximum of `getrusage` begins with the memory of the parent process."""
    large = np.ones(50_000_000)  # 400 MB
    code = "from c3s3_seg.system.memory import peak_memory; print(peak_memory())"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 5e6 < int(answer.stdout) < large.nbytes
    assert peak_memory() > large.nbytes


def test_the_limit_of_a_process_counts() -> None:
    assert 0 < free_bytes() < 1e13
    code = "import resource as r; r.setrlimit(r.RLIMIT_AS, (3 << 30, 3 << 30))\n"
    code += "from c3s3_seg.system.memory import free_bytes; print(free_bytes())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 3 << 30
    assert resource.getrlimit(resource.RLIMIT_AS)[0] == resource.RLIM_INFINITY


def test_memory_that_no_system_knows_is_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("c3s3_seg.system.memory.available_memory", lambda: 5)
    assert free_bytes() == 5
    monkeypatch.setattr("c3s3_seg.system.memory.available_memory", lambda: None)
    assert free_bytes() == inf
