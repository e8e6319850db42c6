import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from test_batch_run import MODEL

from c3s3_seg.batch import Job, Plan, predict_cases, verify
from c3s3_seg.errors import InputError
from c3s3_seg.inference.careful import Care
from c3s3_seg.io import load_image, save
from c3s3_seg.io.hashes import sha256
from c3s3_seg.shard import Shard

FORCED = Care(force=True)  # blobs are no hearts


@pytest.fixture
def out(small_scans: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    predict_cases([small_scans], MODEL, Job(folder, care=FORCED), None, Plan(command=("c3s3-seg", "predict")))
    return folder


def test_every_file_and_what_made_it(out: Path, small_scans: Path) -> None:
    facts = json.loads((out / "provenance.json").read_text())
    (run,) = facts["runs"]
    assert run["command"] == ["c3s3-seg", "predict"]
    assert run["made_with"]["backend"] == "openvino"
    assert len(run["made_with"]["weights_sha256"]["model.safetensors"]) == 64
    assert {"c3s3_seg", "python", "numpy", "openvino"} <= set(run["versions"])
    for case in facts["cases"]:
        name = case["case"]
        assert case["inputs_sha256"]["scan"] == sha256(small_scans / f"{name}.nii.gz")
        assert set(case["outputs_sha256"]) == {f"{name}.nii.gz", f"{name}.json"}
        for file, known in case["outputs_sha256"].items():
            assert sha256(out / file) == known
    assert len((out / "journal.jsonl").read_text().splitlines()) == 6


def test_verify_says_yes_and_no(out: Path, small_scans: Path) -> None:
    verdict = verify(out)
    assert verdict.holds
    assert verdict.checked == 5 * 3 + 1
    assert not verdict.strangers
    mask = out / "case-1.nii.gz"
    volume = load_image(mask)
    volume.array[0, 0, 0] = 7
    save(volume, mask)
    (out / "case-2.json").unlink()
    (out / "mine.txt").write_text("a note")
    (small_scans / "case-3.nii.gz").write_bytes(b"another scan")
    (small_scans / "case-4.nii.gz").unlink()
    verdict = verify(out)
    assert [Path(f.where).name for f in verdict.wrong] == ["case-1.nii.gz", "case-2.json", "case-3.nii.gz"]
    assert verdict.strangers == ["mine.txt"]
    assert [Path(p).name for p in verdict.unreachable] == ["case-4.nii.gz"]


def test_verify_wants_a_provenance(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no provenance\.json"):
        verify(tmp_path)
    (tmp_path / "provenance.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read"):
        verify(tmp_path)


CASE = {
    "case": "a",
    "state": "done",
    "scan": "/s/a",
    "inputs_sha256": {"scan": "0"},
    "outputs_sha256": {"a": "1"},
}
RUN = {"bundle": "/b", "made_with": {"weights_sha256": {"w": "2"}}}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000, '{"a":' * 100_000, "[]", "null", "7", '"text"', "",
        *(json.dumps({"runs": [RUN], "cases": wrong}) for wrong in ([7], [{}], {}, None, [[CASE]])),
        *(json.dumps({"runs": [RUN], "cases": [{**CASE, key: 7}]}) for key in CASE),
        *(json.dumps({"runs": [RUN], "cases": [{**CASE, key: {"a": None}}]}) for key in CASE),
        *(json.dumps({"runs": [{**RUN, key: 7}], "cases": [CASE]}) for key in RUN),
        json.dumps({"runs": [{**RUN, "made_with": {"weights_sha256": {"w": None}}}], "cases": [CASE]}),
    ],
    ids=range(25),
)  # fmt: skip
def test_a_provenance_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"runs": [RUN], "cases": [CASE]}))
    assert [Path(f.where).name for f in verify(tmp_path).wrong] == ["a"]
    path.write_text(content)
    with pytest.raises(InputError, match=r"provenance\.json: the provenance cannot be read"):
        verify(tmp_path)


def test_verify_does_not_wait_for_what_never_ends(out: Path, small_scans: Path) -> None:
    """Pipes and devices in place of a mask, a scan and the record itself, and as the folder."""
    (out / "case-0.nii.gz").unlink()
    os.mkfifo(out / "case-0.nii.gz")
    (out / "case-1.nii.gz").unlink()
    (out / "case-1.nii.gz").symlink_to("/dev/zero")
    (small_scans / "case-2.nii.gz").unlink()
    os.mkfifo(small_scans / "case-2.nii.gz")
    (small_scans / "case-3.nii.gz").unlink()
    (small_scans / "case-3.nii.gz").symlink_to("/dev/zero")
    wrong = {Path(f.where).name: f.what for f in verify(out).wrong}
    assert wrong == {
        "case-0.nii.gz": "the file is missing",
        "case-1.nii.gz": "the file is missing",
        "case-2.nii.gz": "wanted a regular file",
        "case-3.nii.gz": "wanted a regular file",
    }
    (out / "provenance.json").unlink()
    os.mkfifo(out / "provenance.json")
    with pytest.raises(InputError, match="wanted a regular file"):
        verify(out)
    for place in ("/dev/zero", out / "provenance.json"):
        with pytest.raises(InputError, match=r"there is no provenance\.json here"):
            verify(Path(place))


def test_shards_are_verified_together(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in (1, 2):
        predict_cases([small_scans], MODEL, Job(out, care=FORCED), None, Plan(shard=Shard(n, 2)))
    assert verify(out).checked == 5 * 3 + 1
    (out / "case-4.nii.gz").write_bytes(b"")
    assert len(verify(out).wrong) == 1


def test_deterministic_gives_the_same_bytes_twice(small_scans: Path, tmp_path: Path) -> None:
    contents = []
    model = replace(MODEL, deterministic=True, threads=None)
    for workers in (0, 0, 2):
        out = tmp_path / "out"
        job = Job(out, picture=True, deterministic=True, care=FORCED)
        predict_cases([small_scans], model, job, None, Plan(workers=workers))
        files = [p for p in sorted(out.iterdir()) if not p.name.startswith("journal")]
        contents.append({p.name: p.read_bytes() for p in files})
        out.rename(tmp_path / f"out-{len(contents)}")
    assert len(contents[0]) == 5 * 3 + 2
    assert contents[0] == contents[1] == contents[2]
