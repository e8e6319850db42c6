from typing import Any

import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.inference.settings import Settings, parse_axes, tiled


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"overlap": 1.0}, "overlap of 1.0"),
        ({"overlap": -0.1}, "overlap of -0.1"),
        ({"stride": (0, 1, 1)}, "stride of"),
        ({"stride": (8, 8, 8), "overlap": 0.5}, "both a stride and an overlap"),
        ({"mirroring": (0, 0)}, "to mirror"),
        ({"mirroring": (3,)}, "to mirror"),
        ({"weighting": "gauss"}, "there is no weighting 'gauss'; wanted constant, gaussian"),
        ({"memory_bytes": 0}, "memory of 0"),
        ({"min_volume_ml": -1.0}, "least volume"),
        ({"min_volume_ml": float("nan")}, "least volume"),
        ({"stride": (1, 2)}, r"stride=\(1, 2\), wanted three whole numbers"),
        ({"stride": (1.5, 2, 3)}, "wanted three whole numbers"),
        ({"stride": 4}, "stride=4, wanted three whole numbers"),
        ({"mirroring": "xy"}, "mirroring='xy', wanted some of 0, 1, 2"),
        ({"keep_largest": "no"}, "keep_largest='no', wanted True or False"),
        ({"probabilities": None}, "probabilities=None, wanted True or False"),
        ({"overlap": "a"}, "overlap='a', wanted a number"),
        ({"memory_bytes": "2GB"}, "memory_bytes='2GB', wanted a number"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Settings(**wrong)


def test_the_task_decides_what_is_left_open() -> None:
    task = ModelBundle.find("phantom").task
    assert Settings().for_task(task).overlap == task.overlap == 0.5
    assert Settings(overlap=0.25).for_task(task).overlap == 0.25
    assert Settings(stride=(8, 8, 8)).for_task(task).overlap is None
    assert Settings().for_task(task).keep_largest is True
    assert Settings(keep_largest=False).for_task(task).keep_largest is False
    with pytest.raises(InputError, match="there would be gaps"):
        Settings(stride=(8, 8, 49)).for_task(task)


def test_the_published_tiles() -> None:
    settings = tiled(Settings(overlap=0.5, weighting="gaussian", fill_holes=True), "paper")
    assert (settings.stride, settings.overlap, settings.weighting) == ((18, 18, 4), None, "constant")
    assert settings.fill_holes
    assert settings.record()["stride"] == (18, 18, 4)
    with pytest.raises(InputError, match="did not mirror"):
        tiled(Settings(mirroring=(0,)), "paper")


def test_words_of_the_command_line() -> None:
    assert parse_axes("xz") == (0, 2)
    assert parse_axes("") == ()
    for text in ("xw", "xx"):
        with pytest.raises(InputError, match="--tta"):
            parse_axes(text)


def test_lists_are_taken_as_tuples() -> None:
    assert Settings(stride=[18, 18, 4], mirroring=[0, 1]) == Settings(stride=(18, 18, 4), mirroring=(0, 1))  # type: ignore[arg-type]
