"""Tests of foreign files and links in an output folder: no foreign file is replaced, no link is followed."""

import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.batches import MODEL

from c3s3_seg.batch import Job, predict_cases
from c3s3_seg.batch.evaluate import EvaluationSettings, evaluate
from c3s3_seg.batch.journal import Journal, journal_path
from c3s3_seg.errors import InputError
from c3s3_seg.geometry.volume import Geometry
from c3s3_seg.io.dicom.write_series import save_series
from c3s3_seg.system.files import check_folder, make_own_folder, write_whole
from c3s3_seg.system.lock import NAME, hold
from c3s3_seg.system.ownership import check_place, check_set, is_ours, replacing

FOREIGN = {
    "x.json": b'{"RepetitionTime": 2.0}',
    "provenance.json": b'{"runs": [], "cases": []}',
    "report.json": b"[1, 2]",
    "check.json": b'{"software": {"name": "another"}}',
    "x.png": b"\x89PNG\r\n\x1a\n" + b"\0" * 60,
    "x.html": b"<!DOCTYPE html>\n<html><head><title>mine</title></head></html>",
    "summary.csv": b"case,label,volume\nx,heart,1\n",
    "cases.csv": b"case,label\nx,heart\n",
    "study.md": b"| method | my notes |\n",
    "journal.jsonl": b'{"run": 1}\n',
    "deep.jsonl": b"[" * 100_000,
    "journal.sqlite": b"SQLite format 3\0" + b"\0" * 4096,
    "x.nii.gz": b"\x1f\x8b",
}


@pytest.mark.parametrize("name", FOREIGN)
def test_what_we_did_not_write_is_not_ours(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FOREIGN[name])
    assert not is_ours(tmp_path / name)
    with pytest.raises(
        InputError, match=rf"{name}: there is a file that c3s3-seg did not write\. Move it away"
    ):
        check_place(tmp_path / name)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that `predict` and `evaluate` write for one small scan."""
    from conftest import small_scan

    from c3s3_seg.io import save

    folder = tmp_path_factory.mktemp("written")
    save(small_scan(0), folder / "x.nii.gz")
    job = Job(folder / "out", allow_out_of_domain=True, preview=True, html=True)
    predict_cases([folder / "x.nii.gz"], MODEL, job)
    mask, truth = folder / "out" / "x.nii.gz", folder / "truth.nii.gz"
    truth.write_bytes(mask.read_bytes())
    evaluate(mask, truth, folder / "report", EvaluationSettings(html=True))
    return folder


@pytest.mark.slow
def test_what_we_wrote_is_ours(written: Path) -> None:
    names = ["x.json", "x.png", "x.html", "summary.csv", "provenance.json", "journal.jsonl", "journal.sqlite"]
    assert [name for name in names if not is_ours(written / "out" / name)] == []
    names = ["cases.csv", "report.json", "report.html"]
    assert [name for name in names if not is_ours(written / "report" / name)] == []
    for path in (*(written / "report").iterdir(), *(written / "out").glob("x.*[lng]")):
        check_place(path)


@pytest.mark.parametrize(
    "name", ["x.json", "x.png", "x.html", "summary.csv", "provenance.json", "journal.jsonl"]
)
def test_predict_replaces_no_file_of_others(small_scans: Path, tmp_path: Path, name: str) -> None:
    (small_scans / "case-0.nii.gz").rename(tmp_path / "x.nii.gz")
    place = small_scans / name  # the output lies among the scans, with another format
    place.write_bytes(FOREIGN[name])
    job = Job(small_scans, suffix="mha", allow_out_of_domain=True, preview=True, html=True)
    with pytest.raises(InputError, match=f"{name}.*did not write"):
        predict_cases([tmp_path / "x.nii.gz"], MODEL, job)
    assert place.read_bytes() == FOREIGN[name]
    assert not list(small_scans.glob("x.mha"))


@pytest.mark.parametrize("scan", [{}, {"path": 5, "sha256": "0"}])
def test_a_json_without_hashes_gives_no_mask_away(
    small_scans: Path, tmp_path: Path, scan: dict[str, Any]
) -> None:
    """Any file with the name of the mask was taken for one of this program's."""
    out = tmp_path / "out"
    out.mkdir()
    (out / "case-0.json").write_text(json.dumps({"c3s3_seg": "0.1.0", "scan": scan}))
    (out / "case-0.nii.gz").write_text("my notes")
    with pytest.raises(InputError, match="its place is taken by the mask of another scan"):
        predict_cases([small_scans / "case-0.nii.gz"], MODEL, Job(out, allow_out_of_domain=True))
    assert (out / "case-0.nii.gz").read_text() == "my notes"


def test_masks_are_not_written_among_slices(tmp_path: Path) -> None:
    """The next run refused the folder, because either the slices or the mask might be the scan."""
    scan = Geometry.build((12, 12, 12), (1.25, 1.25, 1.25)).volume(np.arange(1728).reshape(12, 12, 12) % 97)
    save_series(scan, tmp_path / "in" / "s", description="", seed_uid="a")
    for out in (tmp_path / "in" / "s", tmp_path / "link"):
        if out.name == "link":
            out.symlink_to(tmp_path / "in" / "s")
        with pytest.raises(InputError, match=r"holds the DICOM slices of a scan.*Give another folder"):
            predict_cases([tmp_path / "in"], MODEL, Job(out))
    assert len(list((tmp_path / "in" / "s").iterdir())) == 12
    job = Job(tmp_path / "in", allow_out_of_domain=True)  # beside the folder of slices is no hindrance
    for _ in range(2):
        assert len(predict_cases([tmp_path / "in" / "s"], MODEL, job).rows) == 1


def test_the_other_cases_go_on(small_scans: Path) -> None:
    (small_scans / "case-1.json").write_bytes(FOREIGN["x.json"])
    result = predict_cases([small_scans], MODEL, Job(small_scans, suffix="mha", allow_out_of_domain=True))
    assert [failure.case for failure in result.failures] == ["case-1"]
    assert (small_scans / "case-1.json").read_bytes() == FOREIGN["x.json"]
    assert sorted(p.name for p in small_scans.glob("*.mha")) == [f"case-{n}.mha" for n in (0, 2, 3, 4)]


def test_a_picture_that_is_not_asked_for_is_in_nobodys_way(small_scans: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("case-0.png", "case-0.html", "notes.txt", "report.json"):
        (out / name).write_bytes(b"mine")
    assert not predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True)).failures
    assert all((out / name).read_bytes() == b"mine" for name in ("case-0.png", "case-0.html", "notes.txt"))


@pytest.mark.parametrize("name", ["cases.csv", "report.json", "report.html"])
def test_evaluate_replaces_no_file_of_others(written: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(FOREIGN.get(name, FOREIGN["x.html"]))
    mask, truth = written / "out" / "x.nii.gz", written / "truth.nii.gz"
    with pytest.raises(InputError, match=f"{name}.*did not write"):
        evaluate(mask, truth, tmp_path, EvaluationSettings(html=True))
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name == "report.html":  # no page is requested, so the file is not in the way
        evaluate(mask, truth, tmp_path)
        assert (tmp_path / name).read_bytes() == FOREIGN["x.html"]


def test_evaluate_again_leaves_no_old_page(written: Path, tmp_path: Path) -> None:
    mask, truth = written / "out" / "x.nii.gz", written / "truth.nii.gz"
    evaluate(mask, truth, tmp_path, EvaluationSettings(html=True))
    evaluate(mask, truth, tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cases.csv", "report.json"]


def links(target: Path) -> dict[str, Path]:
    """Write targets for links and return them by kind: a file, a folder, and a path of nothing."""
    (target / "folder").mkdir(parents=True)
    (target / "file").write_bytes(b"precious")
    return {"file": target / "file", "folder": target / "folder", "nothing": target / "nothing"}


def untouched(target: Path) -> bool:
    names = sorted(p.name for p in target.rglob("*"))
    return names == ["file", "folder"] and (target / "file").read_bytes() == b"precious"


@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
@pytest.mark.parametrize(
    "name",
    [NAME, "journal.sqlite", "journal.sqlite-wal", "summary.csv", "provenance.json", "journal.jsonl"],
)
def test_a_link_in_the_folder_is_not_followed(
    small_scans: Path, tmp_path: Path, name: str, kind: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(links(tmp_path / "victim")[kind])
    with pytest.raises(InputError, match=name):
        predict_cases([small_scans], MODEL, Job(out, allow_out_of_domain=True))
    assert untouched(tmp_path / "victim")
    assert (out / name).is_symlink()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["file", "folder", "nothing"])
@pytest.mark.parametrize("name", ["x.nii.gz", "x.json", "x.png", "x.html", "probabilities", "uncertainty"])
def test_a_link_in_a_cases_place_is_not_followed(written: Path, tmp_path: Path, name: str, kind: str) -> None:
    from dataclasses import replace

    from c3s3_seg.inference import Settings as How

    out = tmp_path / "out"
    out.mkdir()
    (out / name).symlink_to(links(tmp_path / "victim")[kind])
    model = replace(MODEL, settings=How(probabilities=True, uncertainty=True))
    with pytest.raises(InputError, match=name):
        predict_cases(
            [written / "x.nii.gz"], model, Job(out, allow_out_of_domain=True, preview=True, html=True)
        )
    assert untouched(tmp_path / "victim")
    assert [p.name for p in out.iterdir()] == [name]


def test_the_folder_itself_may_be_a_link(written: Path, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    predict_cases([written / "x.nii.gz"], MODEL, Job(tmp_path / "out", allow_out_of_domain=True))
    assert (tmp_path / "real" / "x.nii.gz").is_file()
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(InputError, match="dangling"):
        predict_cases([written / "x.nii.gz"], MODEL, Job(tmp_path / "dangling", allow_out_of_domain=True))
    assert not (tmp_path / "none").exists()


@pytest.mark.timeout(20)
def test_a_lock_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b'{"some": "JSON"}')
    os.link(tmp_path / "victim", tmp_path / NAME)  # a hard link: writing here changes the victim
    with pytest.raises(InputError, match="not the lock file"):
        hold(tmp_path).__enter__()
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).write_bytes(b"somebody's notes")
    with pytest.raises(InputError, match="not the lock file"):
        hold(tmp_path).__enter__()
    assert (tmp_path / NAME).read_bytes() == b"somebody's notes"
    (tmp_path / NAME).unlink()
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(InputError, match="not the lock file"):
        hold(tmp_path).__enter__()
    (tmp_path / NAME).unlink()
    (tmp_path / NAME).touch()  # left by a kill between creating and signing
    with hold(tmp_path):
        pass
    assert (tmp_path / "victim").read_bytes() == b'{"some": "JSON"}'


def test_no_file_of_a_share_is_a_link(small_scans: Path, tmp_path: Path) -> None:
    from c3s3_seg.batch import BatchPlan
    from c3s3_seg.system.shard import Shard

    for name in (f"{NAME}.1-of-2", "journal.1-of-2.sqlite", "summary.1-of-2.csv", "provenance.1-of-2.json"):
        out = tmp_path / f"{name}.out"
        out.mkdir()
        (out / name).symlink_to(tmp_path / "victim")
        with pytest.raises(InputError, match=name.replace(".", r"\.")):
            predict_cases(
                [small_scans], MODEL, Job(out, allow_out_of_domain=True), None, BatchPlan(shard=Shard(1, 2))
            )
    assert not (tmp_path / "victim").exists()


@pytest.mark.timeout(20)
def test_a_journal_that_is_not_ours_is_left_alone(tmp_path: Path) -> None:
    path = journal_path(tmp_path)
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE runs (mine TEXT)")
    db.commit()
    db.close()
    before = path.read_bytes()
    with pytest.raises(InputError, match="a database of another program"):
        Journal(path)
    assert path.read_bytes() == before
    path.write_bytes(b"short notes")
    with pytest.raises(InputError, match="not a database"):
        Journal(path)
    assert path.read_bytes() == b"short notes"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="no regular file"):
        Journal(path)
    path.unlink()
    path.touch()  # left by a full disk
    Journal(path).close()


def test_a_folder_of_ours_is_no_link(tmp_path: Path) -> None:
    victim = links(tmp_path / "victim")
    for number, target in enumerate(victim.values()):
        (tmp_path / str(number)).symlink_to(target)
        with pytest.raises(InputError, match="symbolic link"):
            make_own_folder(tmp_path / str(number))
    make_own_folder(tmp_path / "new")
    make_own_folder(tmp_path / "new")
    with pytest.raises(InputError, match="cannot be made"):
        make_own_folder(tmp_path / "victim" / "file")


def test_a_folder_is_looked_at_before_it_is_made(tmp_path: Path) -> None:
    check_folder(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "a", tmp_path / ("n" * 256)):
        with pytest.raises(InputError, match="cannot be"):
            check_folder(path)


def test_a_set_of_files_is_replaced_as_one(tmp_path: Path) -> None:
    import hashlib
    import json

    def write(content: bytes) -> None:
        index = {"files": {"a": hashlib.sha256(content).hexdigest()}}
        with replacing(tmp_path, ["a"], "index.json"):
            (tmp_path / "a").write_bytes(content)
            (tmp_path / "index.json").write_text(json.dumps(index))

    write(b"1")
    write(b"2")
    (tmp_path / "a").write_bytes(b"edited")
    with pytest.raises(InputError, match="did not write"):
        write(b"3")
    assert (tmp_path / "a").read_bytes() == b"edited"
    (tmp_path / "a").write_bytes(b"2")
    with pytest.raises(InputError, match="cannot be written"), replacing(tmp_path, ["a"], "index.json"):
        write_whole(tmp_path / "a" / "b", b"a file is no folder")
    assert not list(tmp_path.iterdir())
    (tmp_path / "index.json").write_text('{"name": "my app"}')
    with pytest.raises(InputError, match=r"index\.json.*did not write"):
        check_set(tmp_path, ["a"], "index.json")
    (tmp_path / "index.json").unlink()
    (tmp_path / ".c3s3-seg.unfinished").touch()  # left by a run that was killed while writing
    (tmp_path / "a").write_bytes(b"half")
    write(b"4")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "index.json"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "a\0b/c"])
def test_an_index_that_names_what_no_file_can_be_called(tmp_path: Path, name: str) -> None:
    import json

    (tmp_path / "index.json").write_text(json.dumps({"files": {name: "0" * 64}}))
    with replacing(tmp_path, ["a"], "index.json"):
        write_whole(tmp_path / "a", b"1")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


FOREIGN_INDEX = {
    "another program's": {"tool": "other"},
    "no hashes": {"files": {"data.bin": 9}},
    "a list": {"files": {"data.bin": []}},
    "a table": {"files": {"data.bin": {"size": 9}}},
    "a short text": {"files": {"data.bin": "b"}},
}
INDEX_KEYS = {
    "manifest.json": {"task": {}, "networks": [], "format": 1},
    "export.json": {"format": "onnx", "properties": {"c3s3.task": "{}"}, "parity": {}},
}


@pytest.mark.parametrize("kind", FOREIGN_INDEX)
@pytest.mark.parametrize("index", INDEX_KEYS)
def test_an_index_of_another_program_is_foreign(tmp_path: Path, index: str, kind: str) -> None:
    """It listed a file with its sha256, and the file was deleted; other values were a TypeError."""
    import hashlib
    import json

    (tmp_path / "data.bin").write_bytes(b"precious")
    files = {"files": {"data.bin": hashlib.sha256(b"precious").hexdigest()}}
    other = {} if kind == "another program's" else INDEX_KEYS[index]
    (tmp_path / index).write_text(json.dumps({**files, **other, **FOREIGN_INDEX[kind]}))
    with pytest.raises(InputError, match="did not write"), replacing(tmp_path, ["a"], index):
        pytest.fail("the set was replaced")
    assert {path.name for path in tmp_path.iterdir()} == {"data.bin", index}
    (tmp_path / index).write_text(json.dumps({**files, **INDEX_KEYS[index]}))
    with replacing(tmp_path, ["a"], index):  # the same files, by an index of this package
        (tmp_path / "a").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("missing", ["format", "properties", "parity", "c3s3.task"])
def test_an_index_of_an_export_names_all_that_an_export_writes(tmp_path: Path, missing: str) -> None:
    import json

    record = json.loads(json.dumps({**INDEX_KEYS["export.json"], "files": {}}))
    record.pop(missing, None)
    record.get("properties", {}).pop(missing, None)
    (tmp_path / "export.json").write_text(json.dumps(record))
    with pytest.raises(InputError, match="did not write"):
        check_set(tmp_path, [], "export.json")


def test_the_index_of_every_shipped_bundle_counts(tmp_path: Path) -> None:
    import shutil

    from c3s3_seg.bundle import WEIGHTS, shipped_bundles

    assert shipped_bundles()
    for name in shipped_bundles():
        shutil.copy(WEIGHTS / name / "manifest.json", tmp_path / "manifest.json")
        check_set(tmp_path, [], "manifest.json")
