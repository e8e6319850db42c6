"""A service without its processes: the path of a study from the folder to the PACS and the log."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.dicom_files import edit, values
from helpers.ports import free_port
from helpers.service import BASE, Bench, counting_pacs, in_process, settings, study
from helpers.studies import heart, series, small

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.service.segment import SegmentedSeries, SegmentedStudy, SegmentTask, without_table
from c3s3_seg.service.service import opened
from c3s3_seg.service.spool import SeriesFiles, key_of
from c3s3_seg.service.work import is_unchanged, record
from c3s3_seg.system.lock import hold

KEPT = '[serve.output]\ncapture = true\nfolder = "kept"\n'
STORE = (
    '[[serve.store]]\nserver = "PACS@127.0.0.1:{}"\ntimeout_s = 5\n'
    "[serve.retry]\nattempts = 3\nstore_attempts = 3\n"
)


def test_a_folder_becomes_a_seg_in_the_pacs_and_a_line_in_the_log(tmp_path: Path) -> None:
    with counting_pacs() as pacs:
        bench = Bench(tmp_path, STORE.format(pacs.node.port) + KEPT)
        study(tmp_path / "watch" / "one", 1, PatientName="SECRET^NAME")
        (tmp_path / "watch" / "one" / "notes.txt").write_text("no DICOM")
        assert bench.wait(8) == []  # settled, but the quiet time is not over
        (line,) = bench.wait()
        assert sorted(data.Modality for data in pacs.kept.values()) == ["OT", "SEG"]
        assert set(pacs.times.values()) == {1}
        assert (line["verdict"], line["revision"]) == ("segmented", 1)
        (result,) = line["results"]
        assert result["model"] == "phantom"
        assert set(result["volume_ml"]) == {"left_atrium"}
        assert line["stored"] == [str(pacs.node)]
        uid = next(iter(pacs.kept.values())).StudyInstanceUID
        assert line["study"] == key_of(uid)
        assert uid not in json.dumps(line)
        # The same files again, and results of this service: no work is repeated.
        bench.take(sorted((tmp_path / "watch" / "one").glob("*.dcm")))
        shutil.copytree(tmp_path / "watch" / "one", tmp_path / "watch" / "two")
        ours = list((tmp_path / "kept").rglob("*.seg.dcm"))
        assert len(ours) == 1
        bench.take(ours)
        assert len(bench.wait()) == 1
        assert set(pacs.times.values()) == {1}
    assert bench.segmented == 1
    names = [str(path) for path in bench.settings.state.rglob("*")]
    assert not [name for name in names if "SECRET" in name or uid in name]
    assert leaks(bench) == []


def test_an_entry_whose_name_is_not_unicode(tmp_path: Path) -> None:
    """Old scanners write such names to a share; one of them kept the whole folder from being taken."""
    bench = Bench(tmp_path)
    study(tmp_path / "watch" / "one", 1)
    study(tmp_path / "watch" / os.fsdecode(b"caf\xe9"), 2)
    assert len(bench.wait()) == 2
    assert bench.counts() == {"done": 2}


def leaks(bench: Bench) -> list[Path]:
    """Return the files, other than DICOM objects, that hold a planted value."""
    files = [path for path in bench.settings.state.rglob("*") if path.is_file() and path.suffix != ".dcm"]
    return [path for path in files if b"SECRET" in path.read_bytes()]


def test_descriptions_of_series_stay_out_of_reasons_and_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert without_table("found 2 series. The series are 1: SECRET") == "found 2 series."
    bench = Bench(tmp_path)
    for seed in (1, 2):
        words = {"StudyInstanceUID": "1.2.3", "SeriesDescription": f"SECRET {seed}", "PatientID": "SECRET"}
        bench.take(study(tmp_path / str(seed), seed, **words))
    bench.wait()
    assert sum(bench.counts().values()) == 1
    assert "SECRET" not in caplog.text
    assert leaks(bench) == []


def test_the_files_of_a_finished_study_go_and_late_ones_are_judged(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take(files)
    assert len(bench.wait()) == 1
    bench.wait(170)
    assert bench.service.spool.size_bytes == 0
    assert bench.counts() == {"done": 1}
    bench.take(files[:3])  # a part of the finished series
    bench.wait()
    assert bench.counts() == {"dead": 1}
    bench.take(files)  # the whole series again, unchanged
    assert len(bench.wait()) == 1
    assert (bench.counts(), bench.segmented) == ({"done": 1}, 1)


def test_series_of_an_earlier_revision_stay_known() -> None:
    """The first series' files were removed; another series arrives, and then the first is sent again."""
    heart, localizer = SeriesFiles("a", 36, True), SeriesFiles("b", 3, True)
    segmented = SegmentedSeries("1.2", "ok", (), False, {}, None, "phantom", "", "", 1.0, ())
    first = record({}, SegmentedStudy((segmented,)), {key_of("1.2"): heart})
    assert not is_unchanged({}, {key_of("1.2"): heart})
    assert is_unchanged(first, {key_of("1.2"): heart})
    assert not is_unchanged(first, {key_of("1.3"): localizer})
    second = record(first, SegmentedStudy(), {key_of("1.3"): localizer})
    assert second["chosen"] == first["chosen"] == {key_of("1.2"): ["a", 36]}
    assert is_unchanged(second, {key_of("1.2"): heart, key_of("1.3"): localizer})
    assert is_unchanged(second, {key_of("1.9"): SeriesFiles("c", 1, False)})
    assert not is_unchanged(second, {key_of("1.2"): replace(heart, digest="d")})


def test_results_are_removed_after_the_time_that_was_set(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "[serve.output]\nkeep_days = 0.01\n")
    bench.take(study(tmp_path / "sent", 1))
    bench.wait()
    assert list(bench.settings.results.rglob("*.seg.dcm"))
    bench.wait(1000, 10)
    assert list(bench.settings.results.iterdir()) == []
    assert bench.counts() == {"done": 1}


def test_a_changed_series_is_a_new_revision_and_another_object_is_not(tmp_path: Path) -> None:
    bench = Bench(tmp_path, '[serve.output]\nuids = "plain"\n')
    files = study(tmp_path / "sent", 1)
    bench.take(files[:-1])
    (first,) = bench.wait()
    capture = tmp_path / "capture.dcm"
    shutil.copy(files[0], capture)
    kind = "1.2.840.10008.5.1.4.1.1.88.11"  # a structured report
    edit(capture, lambda d: d.file_meta.update({0x00020002: d.file_meta[0x00020002]}))
    edit(capture, values(SOPClassUID=kind, SOPInstanceUID="1.2.3.4", SeriesInstanceUID="1.2.3"))
    bench.take([capture])
    assert bench.wait() == [first]
    assert bench.segmented == 1
    bench.take(files[-1:])
    lines = bench.wait()
    assert [line["revision"] for line in lines] == [1, 2]
    assert lines[0]["study"] == lines[1]["study"]
    assert len({line["id"] for line in lines}) == 2


def test_a_pacs_that_does_not_answer_is_tried_again_and_given_up(tmp_path: Path) -> None:
    port = free_port()
    bench = Bench(tmp_path, STORE.format(port))
    bench.take(study(tmp_path / "sent", 1))
    bench.wait(15)
    assert bench.counts() == {"failed": 1}
    bench.wait(80)  # waits of 30 and 60 s after the attempts
    assert bench.counts() == {"failed": 1}
    bench.wait(15)
    assert bench.counts() == {"dead": 1}
    assert bench.service.metrics.failures["store"] == 3
    with counting_pacs(port) as pacs:
        bench.service.queue.revive()
        assert len(bench.wait(5)) == 1
    assert set(pacs.times.values()) == {1}


def test_what_is_no_scan_for_the_model_is_passed_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path, base=BASE_IN_DOMAIN)
    bench.take(study(tmp_path / "sent", 1))
    (line,) = bench.wait()
    assert (line["verdict"], line["results"]) == ("passed over", [])
    assert line["notes"]
    assert bench.counts() == {"done": 1}
    assert not list((bench.settings.state / "results").rglob("*.dcm"))


def test_a_scan_that_cannot_be_read_is_dead_at_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    bench.take([*files[:5], *files[7:]])  # a gap
    bench.wait()
    assert bench.counts() == {"dead": 1}
    bench.take(files[5:7])
    assert len(bench.wait()) == 1
    assert bench.counts() == {"done": 1}


@pytest.mark.parametrize(
    "limit",
    ['free = "900000GB"', 'spool = "20KB"', 'study = "20KB"', "files = 3"],
    ids=lambda s: s.split()[0],
)
def test_where_there_is_no_room_nothing_is_taken(
    tmp_path: Path, limit: str, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(tmp_path, base=BASE_IN_DOMAIN.replace('free = "1MB"', limit))
    taken = bench.take(study(tmp_path / "sent", 1))
    assert not all(taken)
    assert bench.service.spool.size_bytes <= 20_000
    assert bench.service.metrics.failures["no room"] == taken.count(False)
    study(tmp_path / "watch" / "one", 2)
    bench.wait(30)
    assert (set(bench.counts()), bench.segmented) == ({"dead"}, 0)  # a part of a study is not segmented
    dead = bench.service.queue.ended_before("dead", bench.clock(), removed=False)
    assert {found.kind for found in dead} == {"no room"}
    for found in dead:  # in no other place is it said which study has to be sent again
        assert f"study {found.key} is dead: no room: " in caplog.text
    assert (bench.service.queue.revive(), bench.service.queue.incomplete()) == (0, len(dead))


def test_a_study_that_had_no_room_is_done_once_all_of_it_came(tmp_path: Path) -> None:
    bench = Bench(tmp_path, base=BASE_IN_DOMAIN.replace('free = "1MB"', 'spool = "20KB"'))
    files = study(tmp_path / "watch" / "one", 1)
    study(tmp_path / "watch" / "two", 2)
    bench.wait(30)
    assert bench.counts() == {"dead": 2}
    bench.service.spool.room = replace(bench.service.spool.room, spool_bytes=1_000_000)
    assert len(bench.wait(200)) == 2
    assert bench.counts() == {"done": 2}
    assert bench.service.spool.size_bytes >= 2 * sum(path.stat().st_size for path in files)


def test_a_study_waits_for_whoever_is_sending_it(tmp_path: Path) -> None:
    """A sender that pauses with its association open, or begins again after a break, has not finished."""
    bench = Bench(tmp_path)
    contents = [path.read_bytes() for path in study(tmp_path / "sent", 1)]
    take = bench.service.intake.take
    with bench.service.intake.sending() as sender:
        assert all(take(identity(content), content, sender) for content in contents[:9])
        assert bench.wait() == []
        assert bench.counts() == {"received": 1}
    bench.service.close()
    bench = Bench(tmp_path)  # after a kill the whole study is sent again
    bench.clock.sleep(5000)
    bench.service.queue.recover()
    for content in contents:
        assert bench.service.intake.take(identity(content), content)
        bench.clock.sleep(9)
        bench.service.tick()
        assert bench.counts() == {"received": 1}
    assert len(bench.wait()) == 1
    assert bench.segmented == 1


def test_a_study_waits_while_its_files_change(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    place = tmp_path / "watch" / "one"
    place.mkdir()
    for path in files:
        shutil.copy(path, place)
        bench.wait(3)
    assert bench.counts() == {}
    assert len(bench.wait()) == 1
    assert bench.segmented == 1


def test_a_queue_that_cannot_be_written_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """On a full disk not even the failure can be recorded until there is room again."""
    moments: list[str] = []

    def step(name: str) -> None:
        moments.append(name)
        if moments.count("finish") == 1 and name == "finish":
            bench.service.database.run("PRAGMA query_only = 1")

    with counting_pacs() as pacs:
        bench = Bench(tmp_path, STORE.format(pacs.node.port), step=step)
        bench.take(study(tmp_path / "sent", 1))
        with pytest.raises(InputError, match="the queue cannot be written"):
            bench.wait()
        assert bench.counts() == {"working": 1}
        with pytest.raises(InputError, match="the queue cannot be written"):
            bench.service.tick()
        bench.service.database.run("PRAGMA query_only = 0")
        assert len(bench.wait()) == 1
        assert bench.counts() == {"done": 1}
        assert set(pacs.times.values()) == {1}


def test_links_in_the_watched_folder_are_not_followed(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    study(tmp_path / "sent", 1)
    (tmp_path / "watch" / "link").symlink_to(tmp_path / "sent")
    (tmp_path / "watch" / "one").mkdir()
    for path in (tmp_path / "sent").iterdir():
        (tmp_path / "watch" / "one" / path.name).symlink_to(path)
    assert bench.wait() == []
    assert bench.counts() == {}


def test_a_spool_without_its_queue_is_taken_up(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.take(study(tmp_path / "sent", 1))
    bench.service.close()
    for path in bench.settings.state.glob("queue.sqlite*"):
        path.unlink()
    (half,) = (bench.settings.state / "spool").glob("*/*")
    (half / ".0123.part").write_bytes(b"half a file that a killed service left")
    again = Bench(tmp_path)
    assert not list(again.settings.state.rglob("*.part"))
    assert again.counts() == {"received": 1}
    assert len(again.wait()) == 1


def test_two_services_on_one_folder_are_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with hold(bench.settings.state), pytest.raises(InputError, match="another run"), opened(bench.settings):
        pass


BASE_IN_DOMAIN = """
[serve]
state = "state"
model = "phantom"
quiet_s = 10
watch = [{ folder = "watch", settle_s = 5 }]
[serve.limits]
free = "1MB"
"""


def test_a_series_with_a_capture_among_its_slices_is_segmented(tmp_path: Path) -> None:
    """One object of a series stood for all of them: the study was passed over if it was the capture."""
    bench = Bench(tmp_path)
    files = study(tmp_path / "sent", 1)
    first = min(key_of(identity(path.read_bytes()).instance) for path in files)
    instance = next(uid for n in range(10_000) if key_of(uid := f"1.2.3.{n}") < first)
    capture = tmp_path / "capture.dcm"
    shutil.copy(files[0], capture)
    kind = "1.2.840.10008.5.1.4.1.1.7"
    edit(capture, lambda data: delattr(data, "ImagePositionPatient"))
    edit(capture, values(SOPClassUID=kind, SOPInstanceUID=instance, Modality="OT"))
    bench.take([*files, capture])
    (line,) = bench.wait()
    assert line["verdict"] == "segmented"


def test_slices_of_the_class_of_a_capture_are_a_scan(tmp_path: Path) -> None:
    """They state MR and their position, and `predict` reads them; they were passed over."""
    bench = Bench(tmp_path)
    bench.take(study(tmp_path / "sent", 1, SOPClassUID="1.2.840.10008.5.1.4.1.1.7"))
    (line,) = bench.wait()
    assert line["verdict"] == "segmented"


def test_an_attempt_that_is_resumed_repeats_what_was_passed_over(tmp_path: Path) -> None:
    """After a PACS did not take a result, the log lost the reasons that the first attempt had found."""
    study_folder = tmp_path / "study"
    series(heart(), study_folder, "p1", 1)
    series(small(), study_folder, "p1", 2)
    task = SegmentTask(study_folder, tmp_path / "out")
    segmenter = in_process(settings(tmp_path, base=BASE_IN_DOMAIN))
    first, again = segmenter(task), segmenter(task)
    assert len(first.series) == 1
    assert [problem.kind for problem in first.problems] == ["passed over"]
    assert (again.series, again.problems) == (first.series, first.problems)


def test_a_series_whose_place_is_taken_is_a_problem_of_the_study(tmp_path: Path) -> None:
    """It was not mentioned, and the study counted as done without it."""
    series(heart(), tmp_path / "study", "p1", 1)
    series(small(), tmp_path / "study", "p1", 2)
    out = tmp_path / "out"
    out.mkdir()
    (out / "study_s2.seg.dcm").write_bytes(b"a file of somebody else")
    found = in_process(settings(tmp_path, base=BASE_IN_DOMAIN))(SegmentTask(tmp_path / "study", out))
    assert len(found.series) == 1
    (problem,) = found.problems
    assert not problem.is_final


def with_rule(folder: Path, rule: str) -> str:
    """Copy the phantom bundle with a rule for its series; return the settings that name the copy."""
    shutil.copytree(ModelBundle.find("phantom").folder, folder / "mine")
    path = folder / "mine" / "manifest.json"
    facts = json.loads(path.read_text())
    facts["task"]["series"] = rule
    path.write_text(json.dumps(facts))
    return BASE.replace('"phantom"', '"./mine"')


def test_a_series_that_the_rule_of_the_bundle_excludes_is_passed_over_if_it_comes_first(
    tmp_path: Path,
) -> None:
    """The mask of another series was stored in the PACS, and then that of the right one."""
    bench = Bench(tmp_path, base=with_rule(tmp_path, "description~lge"))
    bench.take(series(heart(), tmp_path / "cine", "p1", 1, "cine"))
    (line,) = bench.wait()
    assert (line["verdict"], bench.counts()) == ("passed over", {"done": 1})
    assert "fit the rule 'description~lge'" in line["notes"][0]
    bench.take(series(heart(), tmp_path / "lge", "p1", 2, "LGE"))
    _, line = bench.wait()
    assert (line["verdict"], len(line["results"])) == ("segmented", 1)
    bench.take(series(heart(), tmp_path / "other", "p1", 3, "cine"))
    assert len(bench.wait()) == 2


@pytest.mark.parametrize("fault", ["damaged", "alone"])
def test_what_may_be_the_series_of_the_rule_is_not_passed_over(tmp_path: Path, fault: str) -> None:
    bench = Bench(tmp_path, base=with_rule(tmp_path, "description~lge"))
    files = series(heart(), tmp_path / "cine", "p1", 1, "cine" if fault == "damaged" else "LGE")
    if fault == "damaged":
        lge = series(heart(), tmp_path / "lge", "p1", 2, "LGE")[:1]
        (content,) = (path.read_bytes() for path in lge)
        bench.service.intake.take(identity(content), content[:400])
    else:
        for number, path in enumerate(files):
            edit(path, values(SeriesInstanceUID=f"1.2.3.{number}"))
    bench.take(files)
    bench.wait()
    assert bench.counts() == {"dead": 1}


def test_a_result_with_the_corrected_patient_reaches_the_pacs(tmp_path: Path) -> None:
    """It had the UID of the wrong one, and counted as stored. What comes again unchanged is stored once."""
    with counting_pacs() as pacs:
        bench = Bench(tmp_path, STORE.format(pacs.node.port))
        files = study(tmp_path / "sent", 1, PatientName="WRONG^PATIENT", PatientID="1")
        bench.take(files)
        bench.wait()
        for path in files:
            edit(path, values(PatientName="RIGHT^PATIENT", PatientID="2"))
        bench.take(files)
        lines = bench.wait()
        bench.service.intake.take(identity(content := files[0].read_bytes()), content)
        bench.wait()
    assert [line["revision"] for line in lines] == [1, 2]
    assert sorted(str(data.PatientName) for data in pacs.kept.values()) == ["RIGHT^PATIENT", "WRONG^PATIENT"]
    assert set(pacs.times.values()) == {1}


def test_a_pacs_may_be_down_for_a_weekend(tmp_path: Path) -> None:
    port = free_port()
    bench = Bench(tmp_path, f'[[serve.store]]\nserver = "PACS@127.0.0.1:{port}"\ntimeout_s = 5\n')
    bench.take(study(tmp_path / "sent", 1))
    bench.wait(20, 10)
    for _ in range(3 * 24):  # waits of the 9th attempt and later ones are an hour
        bench.clock.sleep(3600)
        bench.service.tick()
        bench.service.work_one(bench.work)
    assert bench.counts() == {"failed": 1}
    with counting_pacs(port):
        bench.clock.sleep(3600)
        assert len(bench.wait(2)) == 1
    retry = bench.settings.retry
    assert 3.5 < sum(map(retry.wait_s, range(1, retry.store_attempts))) / 86_400 < 4
