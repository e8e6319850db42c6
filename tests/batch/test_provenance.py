import errno
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import small_scan
from helpers.batches import MODEL, Told, masks
from helpers.command import run
from helpers.studies import small

from c3s3_seg.batch import BatchPlan, Job, Model, origin, predict_cases, verify
from c3s3_seg.batch import case as case_module
from c3s3_seg.batch.job import primary_weights
from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.inference import BackendRequest, Settings, open_predictor
from c3s3_seg.io import Case, Reading, load, load_image, load_mask, read_case, save
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.io.hashes import scan_sha256
from c3s3_seg.system.reading import sha256
from c3s3_seg.system.shard import Shard

pytestmark = pytest.mark.slow


def predicted(scans: Path, folder: Path) -> Path:
    job, plan = Job(folder, allow_out_of_domain=True), BatchPlan(command=("c3s3-seg", "predict"))
    predict_cases([scans], MODEL, job, None, plan)
    return folder


@pytest.fixture
def own(small_scans: Path, tmp_path: Path) -> Path:
    """Return an output whose scans a test may change."""
    return predicted(small_scans, tmp_path / "own")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    scans = tmp_path_factory.mktemp("scans")
    for n in range(5):
        save(small_scan(n), scans / f"case-{n}.nii.gz")
    return predicted(scans, tmp_path_factory.mktemp("made") / "out")


@pytest.fixture
def out(made: Path, tmp_path: Path) -> Path:
    """Return a copy of an output whose scans no test changes."""
    return Path(shutil.copytree(made, tmp_path / "out"))


def test_every_file_and_what_made_it(own: Path, small_scans: Path) -> None:
    facts = json.loads((own / "provenance.json").read_text())
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
            assert sha256(own / file) == known
    assert len((own / "journal.jsonl").read_text().splitlines()) == 6


def test_verify_says_yes_and_no(own: Path, small_scans: Path) -> None:
    verdict = verify(own)
    assert verdict.holds
    assert verdict.checked == 5 * 3 + 2  # scan, mask and JSON of each; weights and graph
    assert not verdict.strangers
    mask = own / "case-1.nii.gz"
    volume = load_image(mask)
    volume.array[0, 0, 0] = 7
    save(volume, mask)
    (own / "case-2.json").unlink()
    (own / "mine.txt").write_text("a note")
    (small_scans / "case-3.nii.gz").write_bytes(b"another scan")
    (small_scans / "case-4.nii.gz").unlink()
    verdict = verify(own)
    assert [Path(f.where).name for f in verdict.wrong] == ["case-1.nii.gz", "case-2.json", "case-3.nii.gz"]
    assert verdict.strangers == ["mine.txt"]
    assert [Path(p).name for p in verdict.unreachable] == ["case-4.nii.gz"]


def _append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"case-9,left_atrium,1.0,1.0,\n")


def _turn_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[content.find(b'"volumes_ml"')] ^= 1
    path.write_bytes(content)


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("summary.csv", _append, "sha256 is not"),
        ("summary.csv", lambda p: p.write_text(p.read_text().replace("case-1", "case-7")), "sha256 is not"),
        ("summary.csv", Path.unlink, "the file is missing"),
        ("summary.csv", _pipe, "is no regular file any more"),
        ("journal.jsonl", _append, "sha256 is not"),
        ("journal.sqlite", _turn_a_bit, "the journal is damaged"),
        ("journal.sqlite", lambda p: p.write_bytes(b""), "record different files of the case"),
        ("journal.sqlite", _pipe, "is a link or no regular file"),
    ],
)
def test_verify_compares_what_speaks_of_all_cases(
    out: Path, name: str, change: Callable[[Path], object], message: str
) -> None:
    before = {path: path.read_bytes() for path in out.iterdir()}
    assert verify(out).holds
    assert before == {path: path.read_bytes() for path in out.iterdir()}  # SQLite leaves no log of its own
    change(out / name)
    wrong = verify(out).wrong
    assert message in wrong[0].what
    assert len(wrong) == (5 if "case" in message else 1)


def test_a_weight_file_that_became_a_pipe_is_wrong(out: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    facts = json.loads((out / "provenance.json").read_text())
    facts["runs"][0]["bundle"] = str(tmp_path / "b")
    (out / "provenance.json").write_text(json.dumps(facts))
    assert verify(out).holds  # missing weights are no error
    os.mkfifo(tmp_path / "b" / "model.onnx")
    assert [f.what for f in verify(out).wrong] == ["is no regular file any more"]


def test_verify_knows_a_hash_that_was_changed_with_its_mask(out: Path) -> None:
    (out / "case-2.nii.gz").write_bytes(b"another mask")
    facts = json.loads((out / "provenance.json").read_text())
    (case,) = (case for case in facts["cases"] if case["case"] == "case-2")
    case["outputs_sha256"]["case-2.nii.gz"] = sha256(out / "case-2.nii.gz")
    (out / "provenance.json").write_text(json.dumps(facts))
    (wrong,) = verify(out).wrong
    assert (wrong.where, "record different files" in wrong.what) == ("case-2", True)


def test_verify_takes_a_folder_without_hashes_of_its_tables(out: Path) -> None:
    """An earlier version wrote such folders; here the journal was deleted as well."""
    facts = json.loads((out / "provenance.json").read_text())
    assert set(facts.pop("tables_sha256")) == {"summary.csv", "journal.jsonl"}
    (out / "provenance.json").write_text(json.dumps(facts))
    (out / "journal.sqlite").unlink()
    assert verify(out).holds
    for wrong in ({"../x": "0"}, {"summary.csv": 1}, [1]):
        (out / "provenance.json").write_text(json.dumps({**facts, "tables_sha256": wrong}))
        with pytest.raises(InputError, match="the provenance cannot be read"):
            verify(out)


def test_verify_wants_a_provenance(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"there is no provenance\.json"):
        verify(tmp_path)
    (tmp_path / "journal.sqlite").touch()  # left by a kill in the first run
    with pytest.raises(InputError, match=r"no run into this folder has ended yet.*same `predict` command"):
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
        json.dumps({"runs": [{**RUN, "run": [1]}], "cases": [CASE]}),
        json.dumps({"runs": [RUN], "cases": [CASE], "tables_sha256": {"\ud800": "0"}}),
        *(json.dumps({"runs": [RUN], "cases": [{**CASE, **wrong}]}) for wrong in (
            {"run": [1]}, {"earlier_sha256": 3}, {"earlier_sha256": [[1]]},
            {"outputs_sha256": {"\ud800": "1"}},
        )),
    ],
    ids=range(31),
)  # fmt: skip
def test_a_provenance_that_is_none_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "provenance.json"
    path.write_text(json.dumps({"runs": [RUN], "cases": [CASE]}))
    assert [Path(f.where).name for f in verify(tmp_path).wrong] == ["a"]
    path.write_text(content)
    with pytest.raises(InputError, match=r"provenance\.json: the provenance cannot be read"):
        verify(tmp_path)


def test_verify_takes_the_working_folder(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files about all cases used to be called stale there."""
    monkeypatch.chdir(out)
    assert verify(Path(".")) == verify(out)
    assert verify(Path(".")).holds


def test_verify_goes_on_after_a_file_that_it_may_not_read(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A note of another user and a mask on a bad block used to end it, and all findings were lost."""
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "model.onnx").symlink_to("/proc/self/mem")  # a regular file that cannot be read
    facts = json.loads((out / "provenance.json").read_text())
    facts["runs"][0]["bundle"] = str(tmp_path / "b")
    (out / "provenance.json").write_text(json.dumps(facts))
    (out / "notes.txt").write_text("of another user")
    (out / "case-4.nii.gz").write_bytes(b"")

    def read(path: Path) -> str:
        if path.name in ("notes.txt", "case-1.nii.gz"):
            raise InputError("cannot be read (Permission denied)", where=path)
        return sha256(path)

    monkeypatch.setattr("c3s3_seg.batch.verification.sha256", read)
    found = verify(out)
    wrong = {Path(f.where).name: f.what for f in found.wrong}
    assert list(wrong) == ["case-1.nii.gz", "case-4.nii.gz", "model.onnx"]
    assert wrong["case-1.nii.gz"] == "cannot be read (Permission denied)"
    assert wrong["model.onnx"] == "cannot be read (Input/output error)"
    assert (found.strangers, found.stale) == (["notes.txt"], [])


def test_verify_lists_files_of_a_folder_that_can_only_be_listed(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user's folder with the mode 0744 used to end it."""

    def closed(look: Callable[..., os.stat_result]) -> Callable[..., os.stat_result]:
        def answer(path: object, **more: object) -> os.stat_result:
            if "theirs/" in str(path):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return look(path, **more)

        return answer

    (out / "theirs").mkdir()
    (out / "theirs" / "x.txt").write_text("a note")
    with monkeypatch.context() as patch:  # root may read everything
        for name in ("stat", "lstat"):
            patch.setattr(os, name, closed(getattr(os, name)))
        found = verify(out)
    assert found.strangers == ["theirs/x.txt"]
    assert found.holds


def test_verify_does_not_wait_for_what_never_ends(own: Path, small_scans: Path) -> None:
    """Pipes and devices stand in place of a mask, a scan, the record itself and the folder."""
    (own / "case-0.nii.gz").unlink()
    os.mkfifo(own / "case-0.nii.gz")
    (own / "case-1.nii.gz").unlink()
    (own / "case-1.nii.gz").symlink_to("/dev/zero")
    (small_scans / "case-2.nii.gz").unlink()
    os.mkfifo(small_scans / "case-2.nii.gz")
    (small_scans / "case-3.nii.gz").unlink()
    (small_scans / "case-3.nii.gz").symlink_to("/dev/zero")
    wrong = {Path(f.where).name: f.what for f in verify(own).wrong}
    assert wrong == {
        "case-0.nii.gz": "is no regular file any more",
        "case-1.nii.gz": "is no regular file any more",
        "case-2.nii.gz": "wanted a regular file",
        "case-3.nii.gz": "wanted a regular file",
    }
    (own / "provenance.json").unlink()
    os.mkfifo(own / "provenance.json")
    with pytest.raises(InputError, match="wanted a regular file"):
        verify(own)
    for place in ("/dev/zero", own / "provenance.json"):
        with pytest.raises(InputError, match=r"there is no provenance\.json here"):
            verify(Path(place))


def test_shards_are_verified_together(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for n in (1, 2):
        predict_cases(
            [small_scans], MODEL, Job(out, allow_out_of_domain=True), None, BatchPlan(shard=Shard(n, 2))
        )
    assert verify(out).checked == 5 * 3 + 2
    (out / "case-4.nii.gz").write_bytes(b"")
    assert len(verify(out).wrong) == 1


def provenance(path: Path, *, started: str, bundle: str, weights: str, **case: object) -> None:
    known = {"case": "a", "state": "done", "scan": "/none", "inputs_sha256": {"scan": "0"}}
    known |= {"outputs_sha256": {}, **case}
    made = {"weights_sha256": {"model.onnx": weights}}
    run = {"run": 1, "started": started, "bundle": bundle, "made_with": made}
    path.write_text(json.dumps({"runs": [run], "cases": [known]}))


@pytest.mark.parametrize("key", ["scan", "bundle", "outputs_sha256"])
@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "\udcff"])
def test_a_place_that_cannot_be_looked_at_is_one_that_is_not_there(
    tmp_path: Path, key: str, name: str
) -> None:
    """A name that is too long stands in for a folder that the verifying user may not read."""
    words = {"bundle": "/none", key: {name: "0"} if key == "outputs_sha256" else name}
    provenance(tmp_path / "provenance.json", started="", weights="0", **words)  # type: ignore[arg-type]
    found = verify(tmp_path)
    assert len(found.unreachable) == 2
    assert len(found.wrong) == (key == "outputs_sha256")


def test_the_weights_are_those_that_the_newest_run_found(tmp_path: Path) -> None:
    """The model was trained again in its folder and run by shards: the older whole run does not record it."""
    bundle, out = tmp_path / "bundle", tmp_path / "out"
    bundle.mkdir()
    out.mkdir()
    (bundle / "model.onnx").write_bytes(b"new")
    old = {"bundle": str(bundle), "weights": "0" * 64}
    provenance(out / "provenance.json", started="2026-03-01", **old)
    provenance(
        out / "provenance.1-of-2.json",
        **(old | {"started": "2026-03-02", "weights": sha256(bundle / "model.onnx")}),
    )
    assert verify(out).wrong == []


DECIDING = (
    *("bundle", "weights_sha256", "task_sha256", "networks", "overlap", "stride", "weighting", "mirroring"),
    *("keep_largest", "min_volume_ml", "fill_holes"),
)


@pytest.mark.parametrize("key", [*DECIDING, "backend", "device"])
def test_a_mask_is_stale_if_the_newest_run_has_another_model(tmp_path: Path, key: str) -> None:
    """The first of two runs made the mask; they may differ in what decides no voxel."""
    (tmp_path / "a.nii.gz").write_bytes(b"a mask")
    outputs = {"a.nii.gz": sha256(tmp_path / "a.nii.gz")}
    made = [{"weights_sha256": {"w": "0"}, key: {"w": str(n)}} for n in (1, 2)]
    facts = {
        "runs": [{"run": n, "bundle": "/none", "made_with": with_} for n, with_ in enumerate(made, 1)],
        "cases": [{**CASE, "run": 1, "outputs_sha256": outputs}],
    }
    (tmp_path / "provenance.json").write_text(json.dumps(facts))
    found = verify(tmp_path)
    assert found.stale == (["a.nii.gz"] if key in DECIDING else [])
    assert not found.wrong


@pytest.mark.parametrize("shards", [False, True])
def test_a_clock_that_was_ahead_makes_no_file_stale(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: bool
) -> None:
    """Of this machine, which was set back between two runs; or of a machine that processed shards."""
    out, plan = tmp_path / "out", BatchPlan()
    for clock, overlap in (("2027-01-01T00:00:00+00:00", None), ("2026-06-01T00:00:00+00:00", 0.25)):
        monkeypatch.setattr("c3s3_seg.batch.journal.now", lambda clock=clock: clock)
        model = MODEL if overlap is None else replace(MODEL, settings=Settings(overlap=overlap))
        for n in (1, 2, 1) if shards and overlap is None else (0,):  # the third run finds nothing to do
            plan = BatchPlan(shard=Shard(n, 2) if n else None)
            predict_cases([small_scans], model, Job(out, allow_out_of_domain=True), None, plan)
    tables = ["summary.1-of-2.csv", "summary.2-of-2.csv"] if shards else []  # of the other settings
    assert (verify(out).wrong, verify(out).stale) == ([], tables)
    if shards:  # and a shard that ran since is newer than the whole run, by an even slower clock
        monkeypatch.setattr("c3s3_seg.batch.journal.now", lambda: "2025-01-01T00:00:00+00:00")
        plan = BatchPlan(shard=Shard(1, 2))
        predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True), None, plan)
        stale = sorted(f"case-{n}.{end}" for n in (1, 3) for end in ("json", "nii.gz"))
        assert (verify(out).wrong, sorted(verify(out).stale)) == ([], [*stale, "summary.csv"])


def test_deterministic_gives_the_same_bytes_twice(small_scans: Path, tmp_path: Path) -> None:
    contents = []
    model = replace(MODEL, deterministic=True, backend=BackendRequest())
    for workers in (0, 0, 2):
        out = tmp_path / "out"
        job = Job(out, preview=True, deterministic=True, allow_out_of_domain=True)
        predict_cases(sorted(small_scans.iterdir())[:3], model, job, None, BatchPlan(workers=workers))
        files = [p for p in sorted(out.iterdir()) if not p.name.startswith("journal")]
        contents.append({p.name: p.read_bytes() for p in files})
        out.rename(tmp_path / f"out-{len(contents)}")
    assert len(contents[0]) == 3 * 3 + 2
    assert contents[0] == contents[1] == contents[2]


def test_deterministic_records_which_run_made_each_mask(small_scans: Path, tmp_path: Path) -> None:
    """Every mask was said to be of the newest run, so `verify` held over masks of other settings."""
    out, scans = tmp_path / "out", sorted(small_scans.iterdir())[:3]
    job = Job(out, deterministic=True, allow_out_of_domain=True)
    model = replace(MODEL, deterministic=True)
    other = replace(model, settings=Settings(min_volume_ml=2.0))

    def recorded(paths: list[Path], model: Model) -> tuple[bytes, list[float], list[int]]:
        predict_cases(paths, model, job)
        content = (out / "provenance.json").read_bytes()
        facts = json.loads(content)
        assert [run["run"] for run in facts["runs"]] == list(range(1, len(facts["runs"]) + 1))
        made = [run["made_with"]["min_volume_ml"] for run in facts["runs"]]
        return content, made, [case["run"] for case in facts["cases"]]

    first = recorded(scans, model)
    assert first[1:] == ([0.0], [1, 1, 1])
    assert recorded(scans, model) == first
    assert verify(out).holds
    second = recorded(scans[:1], other)
    assert second[1:] == ([0.0, 2.0], [2, 1, 1])
    assert verify(out).stale == ["case-1.nii.gz", "case-1.json", "case-2.nii.gz", "case-2.json"]
    assert recorded(scans[:1], other) == second
    assert recorded(scans, model) == first  # all of one run again: nothing is left of the other
    assert verify(out).holds
    shutil.rmtree(out)
    recorded(scans, model)
    assert recorded(scans[:1], other) == second  # the same two runs in another folder


def test_verify_reads_a_deterministic_record_without_numbers_of_runs(out: Path) -> None:
    """An earlier version wrote only the newest run."""
    facts = json.loads((out / "provenance.json").read_text())
    for entry in (*facts["runs"], *facts["cases"]):
        for key in ("run", "id", "started", "ended", "command", "revision", "changed"):
            entry.pop(key, None)
    (out / "provenance.json").write_text(json.dumps(facts))
    assert verify(out).holds


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_file_that_is_swapped_has_the_hash_of_the_voxels_that_were_read(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    scan = small_scans / "case-0.nii.gz"
    truths = {"old": small_scan(0), "new": small_scan(1)}
    for name, volume in truths.items():
        save(volume, tmp_path / f"{name}.nii.gz")
    old, new = (sha256(tmp_path / f"{name}.nii.gz") for name in truths)

    def swapped(case: Case, reading: Reading, *, hashed: bool) -> Volume:
        if when == "before":
            os.replace(tmp_path / "new.nii.gz", scan)
        volume = read_case(case, reading, hashed=hashed)
        if when == "after":
            os.replace(tmp_path / "new.nii.gz", scan)
        return volume

    save(truths["old"], scan)
    monkeypatch.setattr(case_module, "read_case", swapped)
    out = tmp_path / "out"
    predict_cases([scan], MODEL, Job(out, allow_out_of_domain=True))
    read = truths["new" if when == "before" else "old"]
    (case,) = json.loads((out / "provenance.json").read_text())["cases"]
    assert case["inputs_sha256"]["scan"] == (new if when == "before" else old)
    assert json.loads((out / "case-0.json").read_text())["scan"]["sha256"] == case["inputs_sha256"]["scan"]
    assert load_mask(out / "case-0.nii.gz").geometry.matches(read.geometry)
    assert verify(out).holds == (when == "before")


def test_a_truth_that_is_swapped_has_the_hash_of_the_labels_that_were_read(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scan, truth = small_scans / "case-0.nii.gz", tmp_path / "truth.nii.gz"
    grid = load(scan).geometry
    for n, name in enumerate(("truth", "other")):
        save(grid.volume(np.full(grid.shape, n, np.uint8)), tmp_path / f"{name}.nii.gz")
    other = sha256(tmp_path / "other.nii.gz")

    def swapped(path: Path, **how: object) -> Volume:
        os.replace(tmp_path / "other.nii.gz", truth)
        return load_mask(path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(case_module, "load_mask", swapped)
    predict_cases([scan], MODEL, Job(tmp_path / "out", truth=truth, allow_out_of_domain=True))
    (case,) = json.loads((tmp_path / "out" / "provenance.json").read_text())["cases"]
    assert case["inputs_sha256"]["truth"] == other


def series(folder: Path, seed: int) -> list[Path]:
    array = (small_scan(seed).array.clip(0, 900)).astype(np.uint16)
    volume = Geometry.build(array.shape, (2.0, 2.0, 2.0)).volume(array)
    return save_series(volume, folder, description="", seed_uid="a")


def test_a_series_that_is_swapped_fails_and_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from c3s3_seg.io.dicom import load as dicom

    series(tmp_path / "scans" / "b", 3)
    files, others = series(tmp_path / "scans" / "a", 0), series(tmp_path / "other", 1)
    real = dicom.load_files

    def swapped(path: Path, *how: object) -> Volume:
        volume = real(path, *how)  # type: ignore[arg-type]
        if path.name == "a":
            os.replace(others[4], files[4])
        return volume

    monkeypatch.setattr(dicom, "load_files", swapped)
    job = Job(tmp_path / "out", allow_out_of_domain=True)
    result = predict_cases([tmp_path / "scans"], MODEL, job)
    assert [(f.case, "changed while it was read" in f.reason) for f in result.failures] == [("a", True)]
    monkeypatch.undo()
    result = predict_cases([tmp_path / "scans"], MODEL, job)
    assert (result.failures, [row.case for row in result.rows]) == ((), ["a", "b"])
    assert verify(tmp_path / "out").holds


def test_a_series_that_was_removed_from_its_study_is_not_compared(tmp_path: Path) -> None:
    """The hash of the rest of the study used to be compared, so `verify` failed for ever."""
    study, out = tmp_path / "study", tmp_path / "out"
    files, _ = series(study / "a", 0), save_series(small(), study / "b", description="", seed_uid="b")
    predict_cases([study / "a"], MODEL, Job(out, allow_out_of_domain=True))
    document = json.loads((out / "provenance.json").read_text())
    document["cases"][0]["scan"] = str(study)  # as if the study had been given
    removed = f"{study} (series {document['cases'][0]['series']})"
    (out / "provenance.json").write_text(json.dumps(document))
    assert (verify(out).wrong, verify(out).unreachable) == ([], [])
    for path in files[1:]:
        path.unlink()
    files[0].write_bytes(files[0].read_bytes()[:200])  # a damaged file may be of the series
    assert [finding.where for finding in verify(out).wrong] == [str(study)]
    files[0].unlink()
    assert (verify(out).wrong, verify(out).unreachable) == ([], [removed])


def test_a_file_that_is_still_being_copied_is_tried_again(
    small_scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading half a file fails; by the time that it has failed, the whole file is there."""
    scan = small_scans / "case-0.nii.gz"
    whole = scan.read_bytes()
    scan.write_bytes(whole[:2000])

    def completed(case: Case, reading: Reading, *, hashed: bool) -> Volume:
        try:
            return read_case(case, reading, hashed=hashed)
        finally:
            scan.write_bytes(whole)

    job = Job(tmp_path / "out", allow_out_of_domain=True)
    monkeypatch.setattr(case_module, "read_case", completed)
    assert len(predict_cases([small_scans], MODEL, job).failures) == 1
    monkeypatch.undo()
    assert predict_cases([small_scans], MODEL, job).failures == ()


def test_a_dicom_object_refers_to_the_slices_that_were_segmented(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, others = series(tmp_path / "a", 0), series(tmp_path / "other", 1)
    real = case_module.write_case
    job = Job(tmp_path / "out", suffix="dicom-seg", allow_out_of_domain=True)

    def swapped(*given: object) -> object:
        os.replace(others[4], files[4])
        return real(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(case_module, "write_case", swapped)
    with pytest.raises(InputError, match="a: it changed after it was read"):
        predict_cases([tmp_path / "a"], MODEL, job)
    assert not list(tmp_path.glob("out/*.dcm"))
    monkeypatch.undo()
    predict_cases([tmp_path / "a"], MODEL, job)
    (case,) = json.loads((tmp_path / "out" / "provenance.json").read_text())["cases"]
    assert case["inputs_sha256"]["scan"] == scan_sha256(tmp_path / "a")


def test_an_evaluation_below_the_folder_is_not_stale(out: Path) -> None:
    truth = out.with_name("truth")
    truth.mkdir()
    for path in out.glob("*.nii.gz"):
        shutil.copy(path, truth)
    answer = run("evaluate", out, truth, "-o", out / "evaluation", "--html")
    assert answer.returncode == 0, answer.stderr
    assert (out / "evaluation" / "report.html").is_file()
    found = verify(out)
    assert (found.holds, found.stale, found.strangers) == (True, [], [])
    shutil.copy(out / "case-1.json", out / "evaluation" / "case-1.json")
    assert verify(out).stale == ["evaluation/case-1.json"]


def test_the_serial_number_is_the_primary_networks_with_and_without_uncertainty() -> None:
    bundle = ModelBundle.find("phantom")
    serials = set()
    for settings in (Settings(), Settings(uncertainty=True)):
        made_with = origin(bundle, open_predictor(bundle, settings=settings))
        serials.add(Job(Path("out"), origin=made_with).maker.serial)
        assert primary_weights(json.loads(json.dumps(made_with))) in serials
    assert serials == {bundle.manifest.files[bundle.networks[0].weights][:16]}


def test_networks_that_are_only_compared_change_no_mask(small_scans: Path, tmp_path: Path) -> None:
    """`--uncertainty` made a mask of the same network stale, and told that its weights had changed."""
    out, job = tmp_path / "out", Job(tmp_path / "out", allow_out_of_domain=True)
    both = replace(MODEL, settings=Settings(uncertainty=True))
    predict_cases([small_scans / "case-0.nii.gz"], MODEL, job)
    found = predict_cases([small_scans / "case-1.nii.gz"], both, job)
    assert [row.case for row in found.others.rows] == ["case-0"]
    assert verify(out).holds
    written = masks(out)["case-0.nii.gz"]
    told = Told()
    predict_cases([small_scans / "case-0.nii.gz"], both, job, told)
    assert told.note == "1 finished case to be done again: settings have changed (--uncertainty: no -> yes)"
    assert masks(out)["case-0.nii.gz"] == written
    facts = json.loads((out / "case-0.json").read_text())["made_with"]
    bundle = ModelBundle.find("phantom")
    first, second = (network.weights for network in bundle.networks)
    assert first in facts["weights_sha256"]
    assert facts["compared_sha256"][second] == bundle.manifest.files[second]


def test_a_page_of_all_cases_by_another_model_is_stale(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = Job(out, allow_out_of_domain=True, html=True)
    for n in (1, 2):
        predict_cases([small_scans], MODEL, job, None, BatchPlan(shard=Shard(n, 2)))
    assert verify(out).holds
    predict_cases([small_scans], replace(MODEL, settings=Settings(overlap=0.25)), job)
    names = [
        f"{kind}.{n}-of-2.{end}" for n in (1, 2) for kind, end in (("summary", "csv"), ("report", "html"))
    ]
    assert verify(out).stale == names
    for name in names:
        (out / name).unlink()
    assert not verify(out).stale
