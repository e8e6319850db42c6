"""Choices, overrides, and a TOML file that states the reasons."""

from pathlib import Path

import pytest

from c3s3_seg.errors import ConfigError
from c3s3_seg.training.config import load_config
from c3s3_seg.training.planning.builder import BY_HAND, ConfigBuilder, toml


def filled(*overrides: str) -> ConfigBuilder:
    draft = ConfigBuilder(overrides)
    labels = [{"name": 'le "foie"', "value": 1, "code": {"value": "1", "meaning": "Liver", "scheme": "SCT"}}]
    for key, value in {
        "run.iterations": 10,
        "task.name": "t",
        "task.modality": "CT",
        "task.labels": labels,
        "task.patch": [32, 32, 32],
        "task.keep_largest": True,
        "task.recipe.spacing_mm": [1.0, 1.5, 2.0],
        "task.recipe.intensity.rule": "window",
        "task.recipe.intensity.low": -125.0,
        "data.folder": "somewhere",
        "method": "supervised",
    }.items():
        draft.put(key, value, f"because of {key}")
    return draft


def test_what_toml_cannot_hold_as_it_stands(tmp_path: Path) -> None:
    draft = filled("data.folder=some\x7fwhere")
    draft.put("run.seed", 3, "because\x01 of a name\nwith two lines")
    path = tmp_path / "plan.toml"
    path.write_text(toml(draft.choices(), "Of a\x1bfolder."))
    assert load_config(path) == draft.config()
    assert draft.config().data.folder == "some\x7fwhere"


def test_it_becomes_a_file_that_loads_as_it_was_meant(tmp_path: Path) -> None:
    draft = filled()
    path = tmp_path / "plan.toml"
    path.write_text(toml(draft.choices(), "First line.\nSecond line."))
    config = load_config(path)
    assert config == draft.config()
    assert config.task.recipe.spacing_mm == (1.0, 1.5, 2.0)
    assert config.task.labels[0].name == 'le "foie"'
    lines = path.read_text().splitlines()
    assert lines[:2] == ["# First line.", "# Second line."]
    for choice in draft.choices():
        place = lines.index(f"# because of {choice.key}")
        assert lines[place + 1].startswith(f"{choice.key.split('.')[-1]} = ")


def test_what_a_person_sets_holds() -> None:
    draft = filled("run.iterations=7", "c3s3.alpha=0.3")
    assert draft.put("run.iterations", 99, "measured") == 7
    assert draft.config().run.iterations == 7
    assert draft.config(run__iterations=3).run.iterations == 3
    reasons = {choice.key: choice.reason for choice in draft.choices()}
    assert reasons["run.iterations"] == reasons["c3s3.alpha"] == BY_HAND
    assert draft.is_set("c3s3.alpha")
    assert not draft.is_set("task.name")
    assert "task.name" in draft


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("task.recipe.spacing_mm=[0,1,1]", r"--set: task\.recipe\.spacing_mm"),
        ("task.recipe.spacing_mm=1.0", r"--set: task\.recipe\.spacing_mm = 1\.0"),
        ("task.patch=32", r"--set: task\.patch = 32"),
        ("run.iterations=x", r"--set: run\.iterations = 'x'"),
        ("run.iteration=5", "no key 'run.iteration'"),
    ],
)
def test_what_a_person_sets_is_checked_before_anything_is_chosen_by_it(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ConfigBuilder([override])


def test_what_a_plan_decides_is_not_wanted_of_a_person() -> None:
    """A crop that fits only the strides of the plan, or a warm-up before a length is set, is accepted."""
    for override in ("task.patch=[32, 32, 10]", "c3s3.warm_up=100", "method=c3s3"):
        assert ConfigBuilder([override]).is_set(override.partition("=")[0])


def test_a_wrong_value_is_named() -> None:
    with pytest.raises(ConfigError, match="multiples of 16"):
        filled("task.patch=[30, 32, 32]").config()
    with pytest.raises(ConfigError, match="wanted key=value"):
        ConfigBuilder(["run.iterations"])
