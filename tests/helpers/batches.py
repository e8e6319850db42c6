"""Shared by tests: MODEL, Told, masks, worker_processes."""

from pathlib import Path

from c3s3_seg.batch import BatchProgress, Model
from c3s3_seg.bundle import WEIGHTS
from c3s3_seg.inference import BackendRequest
from c3s3_seg.system.reading import sha256

MODEL = Model(WEIGHTS / "phantom", backend=BackendRequest(threads=1))


class Told:
    """A listener that collects the progress of a batch run."""

    def __init__(self) -> None:
        self.progress: list[BatchProgress] = []

    def __call__(self, progress: BatchProgress) -> None:
        self.progress.append(progress)

    @property
    def note(self) -> str:
        return self.progress[0].note

    @property
    def done(self) -> list[str]:
        return [p.outcome.case for p in self.progress if p.outcome is not None]


def masks(out: Path) -> dict[str, str]:
    return {path.name: sha256(path) for path in sorted(out.glob("*.nii.gz"))}


def worker_processes() -> list[int]:
    """Return the ids of the processes of this test that Dask started as workers."""
    from multiprocessing import active_children

    return [child.pid for child in active_children() if child.pid and "Worker" in child.name]
