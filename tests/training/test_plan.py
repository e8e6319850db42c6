"""From a data set to a configuration that loads, fits and trains."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from dataclasses import replace
from math import ceil
from pathlib import Path

import pytest
from helpers.command import run

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import DataSet
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.progress import silent
from c3s3_seg.training.bundles.initialize import initialize_from
from c3s3_seg.training.config import TrainConfig, load_config, warm_up
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.method_settings import METHOD_NAMES
from c3s3_seg.training.planning import budget as fit
from c3s3_seg.training.planning import draft_timer
from c3s3_seg.training.planning.draft_timer import Constraints
from c3s3_seg.training.planning.plan import crop, make_plan, window
from c3s3_seg.training.planning.statistics import DataStatistics
from c3s3_seg.training.planning.timing import Timing
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import train

ATRIUM = DataStatistics(
    modality="MR",
    labels={"left_atrium": 1},
    spacing_mm=(0.625, 0.625, 0.625),
    fov_mm=(115, 88, 55),
    organ_mm=(107, 69, 37),
    diameter_mm=43.75,
    one_piece=True,
    grey=(10, 90),
    read=16,
)


EVEN = (16, 16, 16)  # if all strides are 2, sides are multiples of these


def test_a_crop_holds_the_organ_as_far_as_a_step_bears() -> None:
    assert crop((1.25, 1.25, 1.25), ATRIUM, EVEN) == (96, 64, 32)
    assert crop((1.0, 1.0, 1.0), ATRIUM, EVEN) == (64, 64, 48)  # 112 x 80 x 48 would be too large
    small = replace(ATRIUM, fov_mm=(35, 51, 36), organ_mm=(26, 41, 29))
    assert crop((1.0, 1.0, 1.0), small, EVEN) == (32, 48, 32)
    assert crop((5.0, 5.0, 5.0), small, EVEN) == (32, 32, 32)
    assert crop((1.0, 1.0, 5.0), small, (16, 16, 4)) == (32, 48, 8)


def test_a_window_shows_the_foreground_and_its_neighbours() -> None:
    assert window(-30, 170) == (-130, 270)  # near the published -125 to 275 of the pancreas
    assert window(50, 50) == (45, 55)


def counted(
    monkeypatch: pytest.MonkeyPatch, seconds: float, peak: float = 1e9, waited: float = 0.0
) -> list[TrainConfig]:
    """Make timing give steps in proportion to the filters; return a list of the timed configurations."""
    seen: list[TrainConfig] = []

    def say(config: TrainConfig, *_: object) -> Timing:
        seen.append(config)
        size = config.networks.a.filters / 16
        return Timing(
            seconds * size, seconds * size, 0.1, 0.01, 1000, peak * size, waited, "bfloat16", "it has units"
        )

    monkeypatch.setattr(draft_timer, "time_steps", say)
    return seen


def planned(folder: Path, *overrides: str, hours: float = 1.0, **constraints: object) -> TrainConfig:
    choices = make_plan(folder, Constraints(hours * 3600, **constraints), overrides, silent)  # type: ignore[arg-type]
    from c3s3_seg.training.planning.builder import ConfigBuilder

    draft = ConfigBuilder([])
    for choice in choices:
        draft.put(choice.key, choice.value, choice.reason)
    return draft.config()


def test_ct_without_unlabelled_cases(layers_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, 1.0)
    config = planned(layers_data, hours=0.25)
    assert (config.method, config.task.modality, config.task.name) == ("supervised", "CT", "three-layers")
    assert [label.value for label in config.task.labels] == [1, 2, 5]
    assert config.task.recipe.intensity.rule == "window"
    assert -80 < config.task.recipe.intensity.low < 0 < 220 < config.task.recipe.intensity.high < 330
    assert config.task.recipe.spacing_mm == (1.0, 1.1, 1.2)
    assert config.task.patch == (32, 32, 32)
    assert (config.networks.a.filters, config.networks.dropout) == (8, 0.0)
    assert config.run.precision == "auto"
    assert config.run.iterations == int((0.92 * 900 - 5 - 0.05 - 8 * 0.1) / 0.5)
    assert config.c3s3.warm_up == 0


def test_mr_with_unlabelled_cases(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, 1.0)
    config = planned(toy_data, hours=20)
    assert (config.method, config.task.recipe.intensity.rule) == ("c3s3", "zscore")
    assert config.run.iterations >= fit.TEACHING
    assert config.c3s3.warm_up == config.run.iterations // 2
    assert config.run.validate_every < config.run.iterations


@pytest.mark.parametrize("c3s3_s", [1.0, 100.0])  # as assumed, or so slow that only timing shows it
def test_where_too_few_steps_fit_labels_alone_are_learnt(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch, c3s3_s: float
) -> None:
    def say(config: TrainConfig, *_: object) -> Timing:
        seconds = c3s3_s if config.method == "c3s3" else 0.5
        return Timing(seconds, seconds, 0.1, 0.01, 1000, 1e9)

    monkeypatch.setattr(draft_timer, "time_steps", say)
    hours = 1.0 if c3s3_s == 1.0 else 20.0
    config = planned(toy_data, hours=hours)
    assert (config.method, config.run.labelled_batch) == ("supervised", 4)
    why = reasons(toy_data, Constraints(hours * 3600))["method"]
    count = int(0.92 * 3600 / 0.5 / fit.COSTS) if hours == 1.0 else 662
    assert why.startswith(
        f"{count} iterations of C3S3, which learns from the 2 unlabelled cases too, would fit"
    )
    assert "below 5000, labels alone were better" in why
    assert "docs/results.md" in why
    assert planned(toy_data, "method=c3s3", hours=hours).method == "c3s3"


@pytest.mark.parametrize("written", ["ct", {"0": "ct"}])
def test_a_modality_in_another_spelling_has_its_rule(
    layers_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: object
) -> None:
    """In another spelling, CT was planned without a window of Hounsfield units, as if it were MR."""
    counted(monkeypatch, 1.0)
    folder = Path(shutil.copytree(layers_data, tmp_path / "data"))
    index = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**index, "modality": written}))
    task = planned(folder).task
    assert (task.modality, task.recipe.intensity.rule) == ("CT", "window")
    (folder / "dataset.json").write_text(json.dumps({k: v for k, v in index.items() if k != "modality"}))
    task = planned(folder, "task.modality=ct").task
    assert (task.modality, task.recipe.intensity.rule) == ("CT", "window")


def test_a_fault_of_the_unlabelled_cases_is_told_and_no_reason_against_c3s3(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A damaged unlabelled scan gave a plan without them, because 0 iterations of C3S3 would fit."""
    counted(monkeypatch, 0.1)
    steps = draft_timer.time_steps

    def say(config: TrainConfig, *rest: object) -> Timing:
        if config.method == "c3s3":
            raise InputError("the file ends too early", where="ball-2.nii.gz")
        return steps(config)

    monkeypatch.setattr(draft_timer, "time_steps", say)
    with pytest.raises(InputError, match=r"ball-2\.nii\.gz: the file ends too early"):
        make_plan(toy_data, Constraints(36000), [], silent)


def test_c3s3_that_does_not_fit_into_the_memory_is_left_for_that_reason(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The reason was that 0 of its iterations would fit into the time."""

    def say(config: TrainConfig, *_: object) -> Timing:
        return Timing(0.5, 0.5, 0.1, 0.01, 1000, 4e9 if config.method == "c3s3" else 1e9)

    monkeypatch.setattr(draft_timer, "time_steps", say)
    why = reasons(toy_data, Constraints(36000, 2e9))["method"]
    expected = "C3S3, which learns from the 2 unlabelled cases too, does not fit: this run needs 4.0 GB"
    assert why.startswith(expected)
    assert planned(toy_data, hours=10, memory_bytes=2e9).method == "supervised"


@pytest.mark.parametrize("method", METHOD_NAMES)
def test_every_method_has_a_plan(toy_data: Path, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Steps after the warm-up take twice as long: the length counts the steps of each kind."""
    timing = Timing(0.5, 1.0, 0.1, 0.01, 1000, 1e9, 0.0, "float32", "as set")
    monkeypatch.setattr(draft_timer, "time_steps", lambda *_: timing)
    config = planned(toy_data, f"method={method}")
    assert config.method == method
    taken = 0.5 * warm_up(config) + config.run.iterations - warm_up(config)
    spare = 0.92 * 3600 - 5 - 0.01 * (2 if method == "supervised" else 4) - 8 * 0.1
    assert taken == pytest.approx(spare, rel=1e-3)
    assert (config.c3s3.warm_up > 0) == (method in ("c3s3", "mcf"))


def test_what_is_set_holds_and_the_rest_follows(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = counted(monkeypatch, 1.0)
    wide = ["networks.a.filters=16", "task.recipe.spacing_mm=[2.0, 2.0, 2.0]", "run.precision=float32"]
    config = planned(toy_data, *wide, "data.fold=1/2")
    assert config.networks.a.filters == 16
    assert config.task.recipe.spacing_mm == (2.0, 2.0, 2.0)
    assert {found.run.precision for found in seen} == {"float32"}
    assert config.data.fold == "1/2"


@pytest.mark.parametrize(
    "change", ["c3s3.warm_up=0", "c3s3.warm_up=300", "c3s3.warm_up=3100", "run.validate_every=3"]
)
def test_the_length_follows_what_is_set(toy_data: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    timing = Timing(1.0, 2.5, 3.0, 0.01, 1000, 1e9, 0.0, "float32", "as set")
    monkeypatch.setattr(draft_timer, "time_steps", lambda *_: timing)
    config = planned(toy_data, "method=c3s3", change)
    run, warm = config.run, warm_up(config)
    taken = warm + 2.5 * (run.iterations - warm) + 3.0 * ceil(run.iterations / run.validate_every)
    assert taken == pytest.approx(0.92 * 3600 - 5 - 0.04, rel=3e-3)


def test_validations_follow_a_length_that_is_set(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, 1.0)
    assert planned(toy_data, "run.iterations=100").run.validate_every == 13
    assert (
        reasons(toy_data, Constraints(3600), "run.iterations=100")["run.validate_every"] == "8 times in all"
    )


def test_what_train_would_refuse_is_no_plan(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted(monkeypatch, 1.0)
    with pytest.raises(ConfigError, match=r"c3s3\.warm_up = 100: wanted less than run\.iterations = 100"):
        reasons(toy_data, Constraints(3600), "method=c3s3", "c3s3.warm_up=100", "run.iterations=100")


@pytest.mark.parametrize(
    ("hours", "costs", "method", "filters"),
    [
        (0.8, 5.0, "supervised", 8),  # 5,300 iterations of narrow networks
        (1.0, 5.0, "supervised", 16),  # 6,000, or 3,300 of wide networks
        (4.0, 5.0, "c3s3", 16),
        (1.0, 1.0, "c3s3", 8),  # 3,300 of wide networks would have ruled C3S3 out
    ],
)
def test_wide_networks_take_what_narrow_ones_leave_and_undo_no_choice(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch, hours: float, costs: float, method: str, filters: int
) -> None:
    counted(monkeypatch, 1.0)
    monkeypatch.setattr(fit, "COSTS", costs)
    config = planned(toy_data, hours=hours)
    assert (config.method, config.networks.a.filters) == (method, filters)


def test_a_short_budget_takes_narrow_networks_and_then_a_coarser_grid(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SMALL", 0)  # as if these crops were large
    monkeypatch.setattr("c3s3_seg.training.planning.plan.FINEST", 5)
    counted(monkeypatch, 1.0)
    roomy, short = planned(toy_data, hours=10), planned(toy_data, hours=0.3)
    assert (roomy.networks.a.filters, short.networks.a.filters) == (16, 8)
    seen = counted(monkeypatch, 10.0)
    shorter = planned(toy_data, hours=0.15)
    assert shorter.task.recipe.spacing_mm[0] > short.task.recipe.spacing_mm[0]
    assert len(seen) == 4  # every level once
    assert 10 <= shorter.run.iterations < 1000


def test_planning_takes_a_tenth_of_the_budget_and_a_minute_at_most() -> None:
    assert [Constraints(60.0 * minutes).own_s for minutes in (1, 5, 10, 600)] == [6, 30, 60, 60]
    spent = Constraints(600.0, began_s=time.monotonic() - 50)
    assert 9 < spent.left_s <= 10
    assert Constraints(600.0, began_s=time.monotonic() - 90).left_s == 0


def reasons(folder: Path, constraints: Constraints, *overrides: str) -> dict[str, str]:
    return {c.key: c.reason for c in make_plan(folder, constraints, overrides, silent)}


def test_where_time_is_spent_a_plan_says_what_it_assumes(toy_data: Path) -> None:
    """No step is timed, as the time for planning was spent before planning began."""
    began = time.monotonic()
    why = reasons(toy_data, Constraints(3600, began_s=began - 60))
    assert time.monotonic() - began < 30
    found = why["run.iterations"]
    assert "not measured in the 60 s that a plan may take, but assumed: a step takes " in found
    assert "by the size of crops and networks alone" in found
    assert "the memory suffices" in found
    assert "for 1 more there was no time" in why["task.recipe.spacing_mm"]


def test_a_budget_that_is_assumed_to_be_too_small_says_what_was_assumed(toy_data: Path) -> None:
    with pytest.raises(
        InputError, match=r"allows 0 iterations; not measured .* but assumed: .*--budget \d+m"
    ):
        make_plan(toy_data, Constraints(5), [], silent)


def test_the_levels_after_a_slow_one_are_taken_in_proportion(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "SMALL", 0)
    seen = counted(monkeypatch, 100.0)
    monkeypatch.setattr(draft_timer, "WORTH_S", 1e9)  # as if the first level had taken all the time
    why = reasons(toy_data, Constraints(3600))
    assert len(seen) == 1
    assert "steps take time and memory in proportion to crops and filters" in why["run.iterations"]


@pytest.mark.parametrize(("overrides", "expected"), [((), "auto"), (("run.precision=bfloat16",), "bfloat16")])
def test_the_precision_is_left_to_the_machine_that_trains(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch, overrides: tuple[str, ...], expected: str
) -> None:
    counted(monkeypatch, 1.0)
    assert planned(toy_data, *overrides).run.precision == expected
    why = reasons(toy_data, Constraints(3600), *overrides)["run.precision"]
    assert ("on this one bfloat16: it has units" in why) is (expected == "auto")


@pytest.mark.parametrize(("waited", "said"), [(0.4, True), (0.05, False)])
def test_a_busy_machine_is_told(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch, waited: float, said: bool
) -> None:
    counted(monkeypatch, seconds=0.5, waited=waited)
    choices = make_plan(toy_data, Constraints(3600), [], silent)
    reason = next(choice.reason for choice in choices if choice.key == "run.iterations")
    assert ("other programs had the processors for 40%" in reason) is said


def test_memory_that_does_not_suffice(toy_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "SMALL", 0)
    counted(monkeypatch, 1.0)
    assert planned(toy_data, hours=10, memory_bytes=0.7e9).networks.a.filters == 8
    with pytest.raises(InputError, match=r"needs 0\.5 GB, and 0\.1 GB are allowed\. Give more memory_bytes="):
        planned(toy_data, memory_bytes=0.1e9)


def test_a_loss_that_is_not_finite_rules_a_precision_out(
    toy_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, 1.0)
    steps = draft_timer.time_steps

    def say(config: TrainConfig, *rest: object) -> Timing:
        if config.run.precision == "auto":  # bfloat16 on that machine
            raise InputError("the loss is nan")
        return steps(config)

    monkeypatch.setattr(draft_timer, "time_steps", say)
    assert planned(toy_data).run.precision == "float32"


@pytest.fixture(scope="module")
def toy_bundle(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return train(
        load_config(toy_config, ["run.iterations=4"]), tmp_path_factory.mktemp("plan") / "run", Silent()
    )


@pytest.mark.slow
def test_a_plan_from_a_bundle_fits_it(
    toy_data: Path, toy_bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = counted(monkeypatch, 1.0)
    config = planned(toy_data, start=toy_bundle)
    assert (config.task.patch, config.task.recipe) == (toy_bundle.task.patch, toy_bundle.task.recipe)
    assert config.networks.a.filters == 2
    assert config.augment == load_config(toy_data / "toy.toml").augment
    assert config.optimiser.lr < load_config(toy_data / "toy.toml").optimiser.lr
    assert (config.run.keep, config.c3s3.warm_up) == ("best", 0)
    assert len(seen) == 1
    initialize_from(Run(config, tmp_path), toy_bundle)


@pytest.mark.slow
def test_a_network_from_chance_warms_up(
    toy_data: Path, toy_bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted(monkeypatch, 1.0)
    single = replace(toy_bundle, manifest=replace(toy_bundle.manifest, networks=toy_bundle.networks[:1]))
    config = planned(toy_data, start=single)
    assert config.c3s3.warm_up == config.run.iterations // 2


def test_a_bundle_for_something_else_is_refused(
    toy_bundle: ModelBundle, layers_data: Path, toy_data: Path
) -> None:
    with pytest.raises(InputError, match=r"the data's modality is CT, and task\.modality is MR"):
        planned(layers_data, start=toy_bundle)
    data = DataSet.load(toy_data)
    from c3s3_seg.training.planning.builder import ConfigBuilder
    from c3s3_seg.training.planning.from_bundle import from_bundle

    for labels in ({"ball": 2}, {"other": 1}, {"ball": 1, "more": 2}):
        with pytest.raises(InputError, match=r"label.* plan without --from"):
            from_bundle(ConfigBuilder([]), replace(data, labels=labels), data.splits, toy_bundle)


def test_a_bundle_for_the_same_under_another_spelling(toy_bundle: ModelBundle, toy_data: Path) -> None:
    """Spellings of modality and label may differ, as in `train`."""
    from c3s3_seg.training.planning.builder import ConfigBuilder
    from c3s3_seg.training.planning.from_bundle import from_bundle

    (label,) = toy_bundle.task.labels
    data = replace(DataSet.load(toy_data), modality="MRI", labels={label.name.upper(): label.value})
    draft = ConfigBuilder([])
    from_bundle(draft, data, data.splits, toy_bundle)
    assert draft["task.labels"][0]["name"] == label.name


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"augment": 5}, r"manifest\.json: training\.config\.augment = '5': wanted a table"),
        ({"c3s3": [1]}, r"training\.config\.c3s3 = '\[1\]': wanted a table"),
        ({"optimiser": "x"}, r"training\.config\.optimiser = 'x': wanted a table"),
        ({"optimiser": {"lr": "x"}}, r"training\.config\.optimiser\.lr = 'x': wanted a number above 0"),
        ({"optimiser": {"lr": 1e400}}, r"lr = inf: wanted a number above 0"),
    ],
)
def test_a_bundle_with_a_strange_record_is_refused(
    toy_bundle: ModelBundle, toy_data: Path, record: dict[str, object], message: str
) -> None:
    from c3s3_seg.training.planning.builder import ConfigBuilder
    from c3s3_seg.training.planning.from_bundle import from_bundle

    training = {**toy_bundle.manifest.training, "config": record}
    bundle = replace(toy_bundle, manifest=replace(toy_bundle.manifest, training=training))
    data = DataSet.load(toy_data)
    with pytest.raises(ConfigError, match=message):
        from_bundle(ConfigBuilder([]), data, data.splits, bundle)


def test_a_low_learning_rate_does_not_become_0(toy_bundle: ModelBundle, toy_data: Path) -> None:
    from c3s3_seg.training.planning.builder import ConfigBuilder
    from c3s3_seg.training.planning.from_bundle import from_bundle

    training = {**toy_bundle.manifest.training, "config": {"optimiser": {"lr": 0.0001}}}
    bundle = replace(toy_bundle, manifest=replace(toy_bundle.manifest, training=training))
    data, draft = DataSet.load(toy_data), ConfigBuilder([])
    from_bundle(draft, data, data.splits, bundle)
    assert draft["optimiser.lr"] == pytest.approx(4e-5)


def test_spacings_of_micrometres() -> None:
    """The spacing of a micro-CT is 3.4567 um, which two decimals of a mm would round to 0."""
    from c3s3_seg.training.planning.builder import ConfigBuilder
    from c3s3_seg.training.planning.plan import _grid

    um = (0.0034567,) * 3
    sides = (0.15,) * 3
    measured = DataStatistics("CT", {"x": 1}, um, (0.3,) * 3, sides, 0.1, True, (0.0, 1.0), 1)
    draft = ConfigBuilder([])
    _grid(draft, measured)
    assert draft["task.recipe.spacing_mm"] == [0.00346] * 3
    assert draft["augment.elastic_mm"] == pytest.approx(0.00692)
    assert all(side >= 32 for side in draft["task.patch"])


def test_one_network_and_no_unlabelled_cases(toy_data: Path, toy_bundle: ModelBundle) -> None:
    from c3s3_seg.training.planning.builder import ConfigBuilder
    from c3s3_seg.training.planning.from_bundle import from_bundle

    data = DataSet.load(toy_data)
    (secondary,) = toy_bundle.networks[1:]
    single = replace(toy_bundle, manifest=replace(toy_bundle.manifest, networks=(secondary,)))
    draft = ConfigBuilder([])
    from_bundle(draft, data, replace(data.splits, unlabelled=()), single)
    assert (draft["method"], draft["networks.supervised"]) == (
        "supervised",
        {"vnet": "a", "resvnet": "b"}[secondary.architecture],
    )
    reasons = {choice.key: choice.reason for choice in draft.choices()}
    assert sum("begins from random weights" in reason for reason in reasons.values()) == 1


def test_the_output_is_looked_at_before_the_data(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out, words in (
        (tmp_path / "file" / "plan.toml", "the folder cannot be made"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 300), "cannot be written"),
    ):
        answer = run("plan", tmp_path / "no-data", "-o", out)
        assert answer.returncode == 2
        (line,) = answer.stderr.strip().splitlines()
        assert words in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]


def test_names_that_a_configuration_cannot_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TOML is Unicode, and its comments may not contain control characters."""
    name = os.fsdecode(b"caf\xe9")
    answer = run("plan", tmp_path / name, "-o", tmp_path / "plan.toml")
    assert (answer.returncode, answer.stderr.count("\n")) == (2, 1)
    assert "the name is not Unicode" in answer.stderr
    monkeypatch.setattr("c3s3_seg.training.planning.plan.make_plan", lambda *words: [])
    out = tmp_path / f"{name}\x1b\n[data].toml"
    assert run("plan", tmp_path / "a\x1b\nb", "-o", out).returncode == 0
    assert tomllib.loads(out.read_text()) == {}


def children(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in found] + [below for child in found for below in children(int(child))]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="processes are looked up in /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_plan_that_is_ended_leaves_nothing_at_work(toy_data: Path, tmp_path: Path, how: int) -> None:
    """The signal arrives while the plan's process takes steps that last minutes."""
    words = ["plan", toy_data, "-o", tmp_path / "plan.toml", "--budget", "9h"]
    words += ["--set", "networks.b.filters=64", "--set", "task.patch=[128, 128, 128]"]
    command = [sys.executable, "-m", "c3s3_seg", *map(str, words)]
    plan = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (at_work := [pid for pid in children(plan.pid) if threads(pid) > 1]):
        assert plan.poll() is None, plan.communicate()
        assert time.monotonic() < until
        time.sleep(0.1)
    plan.send_signal(how)
    assert plan.wait(timeout=30) == (-how if how == signal.SIGKILL else 128 + how)
    said = plan.communicate()[1]
    assert ("the same command begins anew" in said) is (how != signal.SIGKILL)
    while any(map(alive, at_work)):
        assert time.monotonic() < until
        time.sleep(0.1)
    assert not (tmp_path / "plan.toml").exists()


def threads(pid: int) -> int:
    """Return the number of threads: several if the process computes, one if it is the resource tracker."""
    try:
        return len(list(Path(f"/proc/{pid}/task").iterdir()))
    except OSError:
        return 0


@pytest.mark.slow
def test_the_verb_writes_what_train_takes(toy_data: Path, tmp_path: Path) -> None:
    """Plan, load and train run with real steps."""
    plan = tmp_path / "plan.toml"
    words = ["plan", str(toy_data), "-o", str(plan), "--budget", "40s", "--max-memory", "4GB"]
    words += ["--set", "networks.a.filters=2", "--set", "networks.b.filters=2"]
    words += ["--set", "run.iterations=3", "--set", "run.precision=float32", "--set", "method=c3s3"]
    answer = run(*words)
    assert answer.returncode == 0, answer.stderr
    for part in ("task.patch", "run.iterations", "intensities of MR have no unit", "c3s3-seg train"):
        assert part in answer.stdout
    config = load_config(plan)
    assert config.run.iterations == 3
    assert config.c3s3.warm_up == 1
    assert train(config, tmp_path / "run", Silent()).manifest.training["iterations"] == 3
    again = run(*words)
    assert again.returncode == 2
    assert "is there already" in again.stderr
