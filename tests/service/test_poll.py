"""Polls of a PACS that fails, or states no number of objects in a series (optional: PS3.4, C.6.2.1.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pydicom
import pynetdicom
import pytest
from helpers.dicom_files import edit
from helpers.service import BASE, Bench, study
from pynetdicom import evt

from c3s3_seg.errors import InputError
from c3s3_seg.io.pacs.association import STORED
from c3s3_seg.io.pacs.search import FIND, GET, FoundInDays
from c3s3_seg.service import pacs_source

DAY_S = 86_400
TODAY = datetime.fromtimestamp(1_800_000_000, UTC)  # the day of the clock of a Bench


KEYS = {
    "STUDY": ("StudyInstanceUID",),
    "SERIES": ("StudyInstanceUID", "SeriesInstanceUID", "Modality"),
    "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
}


def found_in(files: list[Path], asked: pydicom.Dataset) -> list[pydicom.Dataset]:
    """Return the answers of a PACS with these files: those of the days that are asked for, once each."""
    found, (first, _, last) = {}, str(asked.get("StudyDate", "")).partition("-")
    for path in files:
        data, answer = pydicom.dcmread(path), pydicom.Dataset()
        for key in KEYS[asked.QueryRetrieveLevel]:
            setattr(answer, key, data[key].value)
        if not first or first <= data.StudyDate <= last:
            found[str(answer)] = answer
    return list(found.values())


@contextmanager
def silent_pacs(files: list[Path], *, finds_images: bool, faults: list[str] | None = None) -> Iterator[str]:
    """Run a PACS that holds the current content of `files` at each request; yield its address.

    faults: `no files`, each transfer fails; `no UIDs`, an answer of each search names nothing; a study UID,
    its series are not listed. May change.
    """
    faults = [] if faults is None else faults
    server = pynetdicom.AE("PACS")
    for kind, syntaxes in STORED.items():
        server.add_supported_context(kind, syntaxes, scu_role=True, scp_role=True)
    for service in (FIND, GET):
        server.add_supported_context(service)

    def find(event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        asked = event.identifier
        if asked.QueryRetrieveLevel == "IMAGE" and not finds_images:
            yield 0xA900, None
            return
        if asked.QueryRetrieveLevel == "SERIES" and asked.StudyInstanceUID in faults:
            yield 0xC001, None
            return
        if "no UIDs" in faults and not asked.get("SeriesInstanceUID"):
            nameless = pydicom.Dataset()
            nameless.Modality = "MR"
            yield 0xFF00, nameless
        yield from ((0xFF00, answer) for answer in found_in(files, asked))

    def get(event: evt.Event) -> Iterator[object]:
        study = event.identifier.StudyInstanceUID
        if "no files" in faults:
            yield 1
            yield 0xA701, None
            return
        sent = [data for data in map(pydicom.dcmread, list(files)) if data.StudyInstanceUID == study]
        yield len(sent)
        yield from ((0xFF00, data) for data in sent)

    handlers = [(evt.EVT_C_FIND, find), (evt.EVT_C_GET, get)]
    here = server.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
    try:
        yield f"PACS@127.0.0.1:{here.server_address[1]}"
    finally:
        here.shutdown()


@pytest.mark.parametrize("finds_images", [True, False])
def test_slices_that_come_after_a_series_was_fetched_are_fetched_too(
    tmp_path: Path, finds_images: bool
) -> None:
    day = datetime.fromtimestamp(1_800_000_000, UTC)
    files = study(tmp_path / "pacs", 30, StudyDate=f"{day:%Y%m%d}")
    last = files.pop()
    with silent_pacs(files, finds_images=finds_images) as server:
        bench = Bench(tmp_path, f'[[serve.poll]]\nserver = "{server}"\n')
        assert len(bench.wait(24, 4)) == 1
        assert bench.service.metrics.totals["files"] == len(files)
        files.append(last)
        bench.wait(24, 4)
        bench.service.close()
    # If the number of objects cannot be found, the series is fetched once, as docs/service.md states.
    assert bench.service.metrics.totals["files"] == len(files) - (not finds_images)


def poll(server: str) -> str:
    return f'[[serve.poll]]\nserver = "{server}"\n'


def test_a_series_that_could_not_be_fetched_for_days_is_fetched_at_last(tmp_path: Path) -> None:
    """The polls went on to other days, and the series was never asked for again."""
    faults = ["no files"]
    files = study(tmp_path / "pacs", 30, StudyDate=f"{TODAY:%Y%m%d}")
    with silent_pacs(files, finds_images=True, faults=faults) as server:
        bench = Bench(tmp_path, poll(server))
        assert bench.wait(3 * DAY_S, DAY_S // 2) == []
        assert bench.service.metrics.failures["fetch"] > 3
        faults.clear()
        assert len(bench.wait(3 * 3600, 3600)) == 1
        last = bench.service.intake.memory.remembered("polls", server)
        assert last == f"{datetime.fromtimestamp(bench.clock(), UTC):%Y-%m-%d}"
        bench.service.close()


def test_a_series_that_can_never_be_fetched_does_not_make_each_search_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pacs_source, "MOST_FAILURES", 2)
    files = study(tmp_path / "pacs", 30, StudyDate=f"{TODAY:%Y%m%d}")
    with silent_pacs(files, finds_images=True, faults=["no files"]) as server:
        bench = Bench(tmp_path, poll(server))
        bench.wait(4 * DAY_S, DAY_S)
        last = bench.service.intake.memory.remembered("polls", server)
        bench.service.close()
    assert last == f"{datetime.fromtimestamp(bench.clock(), UTC):%Y-%m-%d}"


def test_studies_of_days_on_which_the_service_was_stopped_are_fetched(tmp_path: Path) -> None:
    """The first poll, which only notes what it finds, was also the last one that searched these days."""
    files: list[Path] = []
    with silent_pacs(files, finds_images=True) as server:
        bench = Bench(tmp_path, poll(server))
        bench.wait(2)
        files += study(tmp_path / "pacs", 30, StudyDate=f"{TODAY + timedelta(days=2):%Y%m%d}")
        bench.clock.sleep(5 * DAY_S)
        assert len(bench.wait(24, 4)) == 1
        bench.service.close()


def test_a_series_with_a_file_that_is_too_large_is_not_taken_in_part(tmp_path: Path) -> None:
    files = study(tmp_path / "pacs", 30, StudyDate=f"{TODAY:%Y%m%d}")
    edit(files[-1], lambda data: data.add_new(0x00091010, "OB", bytes(100_000)))
    with silent_pacs(files, finds_images=True) as server:
        base = BASE.replace('free = "1MB"', 'free = "1MB"\nobject = "50KB"')
        bench = Bench(tmp_path, poll(server), base=base)
        assert bench.wait(24, 4) == []
        bench.service.close()
    assert (bench.service.metrics.totals["files"], bench.service.spool.studies()) == (0, [])
    assert bench.service.metrics.failures["fetch"] >= 1


def test_an_answer_without_uids_stops_no_poll(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One such answer, of any modality, failed each poll as long as its day was searched."""
    files = study(tmp_path / "pacs", 30, StudyDate=f"{TODAY:%Y%m%d}")
    with silent_pacs(files, finds_images=True, faults=["no UIDs"]) as server:
        bench = Bench(tmp_path, poll(server))
        assert len(bench.wait(24, 4)) == 1
        bench.service.close()
    assert caplog.text.count("answers without a valid UID: what they stand for cannot be fetched") == 1


def test_a_poll_that_never_ends_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A series may take `study_s` to be fetched; a server that is silent for longer is reported."""
    bench = Bench(tmp_path, poll("PACS@127.0.0.1:1"))
    (source,) = (s for s in bench.sources if s.name.startswith("poll"))
    seen: list[str] = []

    def silent(*words: object) -> FoundInDays:
        for seconds in (bench.settings.limits.study_s, 301):
            bench.clock.sleep(seconds)
            seen.append(bench.service.health().get(source.name, ""))
        return FoundInDays(())

    monkeypatch.setattr(pacs_source, "series_of_days", silent)
    with bench.service._guarded(source.name):
        source.look()
    assert seen == ["", "it has not answered for minutes"]
    assert bench.service.health()[source.name] == ""


def test_a_study_whose_series_are_not_listed_stops_no_poll_and_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One damaged study failed each poll, for all studies of its day."""
    files = study(tmp_path / "a", 30, StudyDate=f"{TODAY:%Y%m%d}")
    damaged = study(tmp_path / "b", 31, StudyDate=f"{TODAY:%Y%m%d}")
    faults = [str(pydicom.dcmread(damaged[0]).StudyInstanceUID)]
    with silent_pacs([*files, *damaged], finds_images=True, faults=faults) as server:
        bench = Bench(tmp_path, poll(server))
        assert len(bench.wait(24, 4)) == 1
        bench.wait(3 * DAY_S, DAY_S // 2)
        assert caplog.text.count("refuses to list the series of 1 study") == 1
        faults.clear()
        assert len(bench.wait(3 * 3600, 3600)) == 2
        bench.service.close()


def test_a_pacs_that_lists_the_series_of_no_study_is_a_failure(tmp_path: Path) -> None:
    files = [file for n in (30, 40) for file in study(tmp_path / str(n), n, StudyDate=f"{TODAY:%Y%m%d}")]
    faults = sorted({str(pydicom.dcmread(file).StudyInstanceUID) for file in files})
    assert len(faults) == 2
    with silent_pacs(files, finds_images=True, faults=faults) as server:
        bench = Bench(tmp_path, poll(server))
        with pytest.raises(InputError, match="refused the search"):
            bench.wait(2)
        bench.service.close()


def test_a_single_study_that_cannot_be_listed_is_no_failure_of_the_poll(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It may be at fault itself: on a quiet night each poll would fail, and the search never end."""
    files = study(tmp_path / "a", 30, StudyDate=f"{TODAY:%Y%m%d}")
    faults = [str(pydicom.dcmread(files[0]).StudyInstanceUID)]
    with silent_pacs(files, finds_images=True, faults=faults) as server:
        bench = Bench(tmp_path, poll(server))
        bench.wait(2)
        assert caplog.text.count("refuses to list the series of 1 study") == 1
        bench.service.close()
