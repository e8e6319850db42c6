"""A PACS that does not say how many objects a series has: that key is optional (PS3.4, C.6.2.1.3)."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pydicom
import pynetdicom
import pytest
from helpers.service import Bench, study
from pynetdicom import evt

from c3s3_seg.io.pacs.association import STORED
from c3s3_seg.io.pacs.search import FIND, GET


@contextmanager
def silent_pacs(files: list[Path], *, finds_images: bool) -> Iterator[str]:
    """It has these files, whatever they are when it is asked; gives its address."""
    server = pynetdicom.AE("PACS")
    for kind, syntaxes in STORED.items():
        server.add_supported_context(kind, syntaxes, scu_role=True, scp_role=True)
    for service in (FIND, GET):
        server.add_supported_context(service)
    keys = {
        "STUDY": ("StudyInstanceUID",),
        "SERIES": ("StudyInstanceUID", "SeriesInstanceUID", "Modality"),
        "IMAGE": ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"),
    }

    def find(event: evt.Event) -> Iterator[tuple[int, pydicom.Dataset | None]]:
        level = event.identifier.QueryRetrieveLevel
        if level == "IMAGE" and not finds_images:
            yield 0xA900, None
            return
        found = {}
        for path in files:
            data, answer = pydicom.dcmread(path), pydicom.Dataset()
            for key in keys[level]:
                setattr(answer, key, data[key].value)
            found[str(answer)] = answer
        yield from ((0xFF00, answer) for answer in found.values())

    def get(event: evt.Event) -> Iterator[object]:
        del event
        yield len(files)
        yield from ((0xFF00, pydicom.dcmread(path)) for path in list(files))

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
    # Where nobody can say how many there are the series is fetched once: docs/service.md says so.
    assert bench.service.metrics.totals["files"] == len(files) - (not finds_images)
