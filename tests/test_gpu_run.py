"""`benchmarks/gpu.sh` and `gpu_parts.sh` without a GPU: parts, refused parts, time limits, the install.

`benchmarks/gpu.sh --rehearse` rehearses the whole run; it takes minutes and is not a test.
"""

import hashlib
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3s3_seg.errors import InputError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))


@pytest.fixture
def wheels(tmp_path: Path) -> list[Path]:
    """Write three files with the names of wheels, one of them smaller than a part; return their paths."""
    folder, random = tmp_path / "made", np.random.default_rng(0)
    folder.mkdir()
    sizes = {"b-2.0-py3-none-any.whl": 2500, "a-1.0-py3-none-any.whl": 40, "c_c-3-cp312-cp312-x.whl": 1000}
    for name, size in sizes.items():
        (folder / name).write_bytes(random.bytes(size))
    return sorted(folder.iterdir())


@pytest.fixture
def parts(wheels: list[Path], tmp_path: Path) -> Path:
    from gpu_run.parts import cut

    listed = cut(wheels, tmp_path / "parts", 1000)
    assert [piece.size for piece in listed.parts] == [1000, 1000, 1000, 540]
    return tmp_path / "parts"


def test_joined_parts_are_the_wheels(wheels: list[Path], parts: Path, tmp_path: Path) -> None:
    from gpu_run.parts import join

    digest = hashlib.sha256((parts / "parts.json").read_bytes()).hexdigest()
    join(parts, tmp_path / "joined", digest)
    joined = sorted((tmp_path / "joined").iterdir())
    assert [path.name for path in joined] == [path.name for path in wheels]
    assert [path.read_bytes() for path in joined] == [path.read_bytes() for path in wheels]


def listing(change: Callable[[Any], object]) -> Callable[[Path], None]:
    """Return a function that changes the list of a folder of parts."""

    def apply(parts: Path) -> None:
        listed = json.loads((parts / "parts.json").read_text())
        change(listed)
        (parts / "parts.json").write_text(json.dumps(listed))

    return apply


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[7] ^= 1
    path.write_bytes(content)


def as_link(path: Path) -> None:
    path.rename(path.parent.parent / "x")
    path.symlink_to("../x")


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "a bit": (lambda p: flip(p / "part-002"), "part-002.*damaged: its SHA-256"),
    "short": (lambda p: (p / "part-003").write_bytes(b"x"), "part-003.*damaged: 1 bytes, wanted 1000"),
    "missing": (lambda p: (p / "part-004").unlink(), "missing: part-004 of 4 parts"),
    "surplus": (lambda p: (p / "part-005").touch(), "not in the list: 'part-005'"),
    "a link": (lambda p: as_link(p / "part-001"), "must be a plain file"),
    "no list": (lambda p: (p / "parts.json").unlink(), "has no parts.json"),
    "no JSON": (lambda p: (p / "parts.json").write_text("{"), "no list of parts"),
    "a deep list": (lambda p: (p / "parts.json").write_text("[" * 90_000), "no list of parts"),
    "a huge list": (lambda p: (p / "parts.json").write_text(" " * 1_000_001), "larger than"),
    "a path": (
        listing(lambda x: x["wheels"][0].update(name="../../a-1.0-py3-none-any.whl")),
        "the name '../",
    ),
    # The first 256 characters of this path are a valid name of a wheel.
    "a path behind a name": (
        listing(lambda x: x["wheels"][0].update(name=f"{'a' * 235}-1.0-py3-none-any.whl/../../evil")),
        "the name 'aaa",
    ),
    "a long name": (
        listing(lambda x: x["wheels"][0].update(name=f"{'a' * 300}-1.0-py3-none-any.whl")),
        "the name 'aaa",
    ),
    "an option": (listing(lambda x: x["wheels"][0].update(name="-r-1.0-py3-none-any.whl")), "the name '-r"),
    "a part's path": (listing(lambda x: x["parts"][0].update(name="/part-001")), "the name '/part"),
    "twice": (listing(lambda x: x["wheels"].append(x["wheels"][0])), "or one twice"),
    "order": (listing(lambda x: x["parts"].reverse()), "not numbered from 001"),
    "size": (listing(lambda x: x["wheels"][0].update(size=41)), "have 3541 bytes, its parts 3540"),
    "a true size": (listing(lambda x: x["wheels"][0].update(size=True)), "the size of"),
    "a negative size": (listing(lambda x: x["wheels"][0].update(size=-1)), "the size of"),
    "a vast part": (listing(lambda x: x["parts"][0].update(size=2**40)), "the size of"),
    "no hash": (listing(lambda x: x["wheels"][0].update(sha256="0" * 63)), "is no SHA-256"),
    "other hash": (
        listing(lambda x: x["wheels"][1].update(sha256="0" * 64)),
        "joined, b-2.0.* does not have",
    ),
    "more keys": (listing(lambda x: x["wheels"][0].update(more=1)), "no list of parts"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damaged_parts_are_refused_in_one_line_and_leave_nothing(
    fault: str, parts: Path, tmp_path: Path
) -> None:
    from gpu_run.parts import join

    damage, said = FAULTS[fault]
    damage(parts)
    with pytest.raises(InputError, match=said) as caught:
        join(parts, tmp_path / "joined")
    assert "\n" not in str(caught.value)
    assert {path.name for path in tmp_path.iterdir()} <= {"made", "parts", "x"}


def test_a_list_other_than_the_one_wanted_is_refused(parts: Path, tmp_path: Path) -> None:
    from gpu_run.parts import join

    with pytest.raises(InputError, match=r"SHA-256 of the list is .* wanted 00"):
        join(parts, tmp_path / "joined", "0" * 64)


def test_what_cannot_be_cut_is_refused(wheels: list[Path], parts: Path, tmp_path: Path) -> None:
    from gpu_run.parts import cut

    with pytest.raises(InputError, match="there already"):
        cut(wheels, parts)
    with pytest.raises(InputError, match="no wheel"):
        cut([], tmp_path / "more")
    with pytest.raises(InputError, match="more than 999 parts"):
        cut(wheels, tmp_path / "more", 1)
    with pytest.raises(InputError, match=r"'note\.txt' is not the name"):
        cut([tmp_path / "note.txt"], tmp_path / "more")
    assert not (tmp_path / "more").exists()


def wheel(folder: Path, name: str, needs: str = "") -> Path:
    """Write a wheel that pip accepts, with one module; return its path."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    facts = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{needs}",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(f"{name}.py", "HERE = 1\n")
        for part, text in facts.items():
            file.writestr(f"{name}-1.0.dist-info/{part}", text)
    return path


@pytest.mark.slow
def test_only_what_is_missing_is_installed_into_a_folder_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_run import install
    from gpu_run.parts import cut

    made = tmp_path / "made"
    made.mkdir()
    names = {"c3s3_toy": "Requires-Dist: c3s3_toy_need\n", "c3s3_toy_need": "", "numpy": ""}
    cut([wheel(made, name, needs) for name, needs in names.items()], tmp_path / "parts", 300)
    monkeypatch.setattr(install, "needed", lambda: ["numpy>=1.0"])
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "elsewhere"))  # a setting of the user
    site = tmp_path / "site"
    said = install.installed_from(tmp_path / "parts", site, "c3s3-toy", None)
    assert said == "2 of 3 wheels installed, the others are there"
    assert {path.name for path in site.glob("*.py")} == {"c3s3_toy.py", "c3s3_toy_need.py"}
    assert {path.name for path in tmp_path.iterdir()} == {"made", "parts", "site"}
    code = "import c3s3_toy, numpy; print(c3s3_toy.__file__, numpy.__version__)"
    own = {**install.environment(site), "OMP_NUM_THREADS": "1"}
    answer = subprocess.run([sys.executable, "-c", code], env=own, capture_output=True, text=True, check=True)
    assert answer.stdout.split() == [str(site / "c3s3_toy.py"), np.__version__]
    assert (
        install.installed_from(tmp_path / "parts", site, "c3s3-toy", None) == "installed by an earlier call"
    )
    with pytest.raises(InputError, match=r"pip could not install from the parts: .*c3s3-absent"):
        install.installed_from(tmp_path / "parts", tmp_path / "other", "c3s3-absent", None)
    assert not (tmp_path / "other").exists()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


ROW = '{"what": "measured", "result": "1 s"}'
TELL = f"import sys; open(sys.argv[2], 'a').write({ROW!r} + chr(10)); "


def test_no_part_stops_the_others_and_the_table_says_what_failed(out: Path) -> None:
    from gpu_run.rows import Row
    from gpu_run.runner import Part, Runner

    def part(name: str, code: str) -> Part:
        return Part(name, Row(name), (sys.executable, "-c", code), 60)

    runner = Runner(out, os.environ, time.monotonic() + 100)
    runner.run(part("breaks", TELL + "print('the | reason'); sys.exit(3)"))
    runner.run(part("silent", "pass"))
    runner.run(Part("hangs", Row("hangs"), ("sh", "-c", "sleep 100 & echo $!; wait"), 2))
    runner.run(part("ends", TELL))
    runner.deadline = time.monotonic() + 1
    runner.run(part("late", TELL))
    told = [(row.what, row.result, row.remark) for row in runner.rows]
    assert told == [
        ("measured", "1 s", ""),
        ("breaks", "failed", "exit code 3: the | reason (breaks.log)"),
        ("silent", "failed", "the part measured nothing"),
        ("hangs", "out of time (2 s)", ""),
        ("measured", "1 s", ""),
        ("late", "not run: no time was left", ""),
    ]
    assert [row.failed for row in runner.rows] == [False, True, True, True, False, True]
    table = (out / "table.md").read_text()
    assert "exit code 3: the / reason" in table
    assert {line.count("|") for line in table.splitlines()} == {8}
    grandchild = Path(f"/proc/{(out / 'hangs.log').read_text().strip()}/stat")
    assert not grandchild.exists() or grandchild.read_text().split()[2] == "Z"


def test_masks_are_compared() -> None:
    from gpu_run.rows import agreement

    a, b = np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8)
    assert agreement(a, b) == {"flipped": "0 of 64", "dice": "1.00000"}
    a[0, 0, :3], b[0, 0, 1:4] = 1, 1
    b[0, 0, 1] = 2
    assert agreement(a, b) == {"flipped": "3 of 64", "dice": "0.66667"}
    with pytest.raises(ValueError, match="shapes"):
        agreement(a, b[:2])


def test_what_pytest_reports_is_counted(tmp_path: Path) -> None:
    from gpu_run.work import told_by_junit

    cases = (
        "<testcase name='a'/><testcase name='b'><failure/></testcase><testcase name='c'><skipped/></testcase>"
    )
    (tmp_path / "tests.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    assert told_by_junit(tmp_path / "tests.xml") == ("1 passed, 1 failed, 1 skipped", ["b"])
    with pytest.raises(RuntimeError, match="no report"):
        told_by_junit(tmp_path / "none.xml")


@pytest.mark.parametrize("rehearse", [False, True])
def test_every_command_of_the_plan_is_understood(
    rehearse: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from gpu_run import job, work
    from gpu_run.plan import CARD, Plan

    parts = list(Plan(tmp_path, "phantom", None, rehearse).parts())
    assert parts[0].name == CARD
    assert len({part.name for part in parts}) == len(parts)
    jobs = []
    for part in parts:
        monkeypatch.setattr(sys, "argv", [*part.command[2:], "--rows", "rows"])
        kind, given = job.parsed()
        assert kind in work.KINDS
        assert given.device == ("cpu" if rehearse else "cuda")
        jobs.append((kind, given.runtime, given.way, given.precision, given.crop))
    for way in ("host", "device"):
        for measured in ("latency", "batch"):
            assert (measured, "torch", way, "float16", (0, 0, 0)) in jobs
    assert rehearse or ("training", "torch", "host", "float16", (112, 112, 80)) in jobs


@pytest.mark.slow
def test_the_scripts_refuse_in_one_line(parts: Path, tmp_path: Path) -> None:
    (parts / "part-002").unlink()
    calls = {
        ("gpu.sh", "--parts", str(parts), "--out", str(tmp_path / "o")): "missing: part-002 of 4 parts",
        ("gpu.sh", "--out", str(tmp_path / "o")): "torch finds no GPU; `gpu.sh --rehearse` runs without one",
        ("gpu_parts.sh", str(parts), "--wheel", str(tmp_path / "none.whl")): "there is no such wheel",
    }
    for (script, *words), said in calls.items():
        command = [str(ROOT / "benchmarks" / script), *words]
        own = {**os.environ, "PYTHON": sys.executable, "CUDA_VISIBLE_DEVICES": ""}
        answer = subprocess.run(command, env=own, capture_output=True, text=True, check=False)
        assert answer.returncode == 2
        assert said in answer.stderr.splitlines()[-1]
        assert "Traceback" not in answer.stderr
