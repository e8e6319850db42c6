"""The random streams of an iteration: none has the numbers of another."""

from pathlib import Path

import pytest
import torch

from c3s3_seg.training import data, run
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.random_streams import BOX, of_process, seed_of
from c3s3_seg.training.train import train


@pytest.mark.parametrize("method", ["c3s3", "bcp", "uamt"])
def test_a_step_draws_from_other_streams_than_its_batch(
    small_crops: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    drawn: list[tuple[int, int, int]] = []

    def spy(seed: int, iteration: int, stream: int) -> int:
        drawn.append((seed, iteration, stream))
        return seed_of(seed, iteration, stream)

    for module in (data, run):
        monkeypatch.setattr(module, "seed_of", spy)
    changes = [f"method={method}", "run.iterations=3", "c3s3.warm_up=1"]
    train(load_config(small_crops, changes), tmp_path / "run", Silent())
    assert {iteration for _, iteration, _ in drawn} >= {0, 1, 2}
    assert len({seed_of(*one) for one in drawn}) == len(drawn)


def test_neither_processes_nor_crops_share_a_stream() -> None:
    streams = [*range(64), *map(of_process, range(64)), BOX]
    first = [torch.randn(4, generator=torch.Generator().manual_seed(seed_of(1, 0, n))) for n in streams]
    assert len({tuple(numbers.tolist()) for numbers in first}) == len(streams)
