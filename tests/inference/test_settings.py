import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.inference.settings import KINDS, Settings, parse_axes, tiled


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
        ({"min_volume_ml": float("nan")}, "min_volume_ml=nan, wanted a finite number"),
        ({"min_volume_ml": float("inf")}, "min_volume_ml=inf, wanted a finite number"),
        ({"stride": (1, 2)}, r"stride=\(1, 2\), wanted three whole numbers"),
        ({"stride": (1.5, 2, 3)}, "wanted three whole numbers"),
        ({"stride": 4}, "stride=4, wanted three whole numbers"),
        ({"mirroring": "xy"}, "mirroring='xy', wanted some of 0, 1, 2"),
        ({"keep_largest": "no"}, "keep_largest='no', wanted True or False"),
        ({"probabilities": None}, "probabilities=None, wanted True or False"),
        ({"mirroring": (True,)}, r"mirroring=\(True\), wanted some of 0, 1, 2"),
        ({"overlap": "a"}, "overlap='a', wanted a finite number"),
        ({"overlap": True}, "overlap=True, wanted a finite number"),
        ({"memory_bytes": "2GB"}, "memory_bytes='2GB', wanted a whole number"),
        ({"memory_bytes": float("inf")}, "memory_bytes=inf, wanted a whole number"),
        ({"memory_bytes": float("nan")}, "memory_bytes=nan, wanted a whole number"),
        ({"memory_bytes": 2.5}, "memory_bytes=2.5, wanted a whole number"),
        ({"memory_bytes": np.zeros(3)}, "memory_bytes of type ndarray, wanted a whole number"),
        ({"processes": 1.5}, "processes=1.5, wanted a whole number"),
        ({"processes": True}, "processes=True, wanted a whole number"),
        ({"stride": np.array(4)}, "stride of type ndarray, wanted three whole numbers"),
        ({"profile": 5}, "profile=5, wanted a path"),
        ({"profile": ""}, "profile='', wanted a path"),
        ({"fill_holes": "x" * 1000}, "fill_holes='x{79}[.]{3}, wanted True or False"),
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


def test_numbers_of_numpy_become_those_of_python() -> None:
    given: dict[str, Any] = {
        "overlap": None,
        "stride": np.array([16, 16, 8]),
        "mirroring": (np.int64(0), np.uint8(2)),
        "min_volume_ml": np.float32(0.5),
        "fill_holes": np.bool_(True),
        "memory_bytes": 2e9,
        "processes": np.int64(2),
        "profile": "profile.json",
    }
    found = Settings(**given)
    assert json.loads(json.dumps(found.record()))["stride"] == [16, 16, 8]
    assert found == Settings(
        stride=(16, 16, 8),
        mirroring=(0, 2),
        min_volume_ml=0.5,
        fill_holes=True,
        memory_bytes=2_000_000_000,
        processes=2,
        profile=Path("profile.json"),
    )
    assert type(found.own_memory_bytes) is int


def test_the_kind_of_every_setting_is_checked() -> None:
    assert {field.name for field in fields(Settings)} == {*KINDS, "weighting"}
