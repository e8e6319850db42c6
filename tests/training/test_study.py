"""A study of several runs: planned, trained, stopped, resumed, compared."""

import io
import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from helpers import command
from rich.console import Console

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import ConfigError, InputError, MissingError
from c3s3_seg.metrics.statistics import statistics
from c3s3_seg.report.study_page import write_study_page
from c3s3_seg.report.study_table import METRICS, Conditions, StudyRow, Trained, mixture, study_rows
from c3s3_seg.report.study_words import OVER_CASES, study_markdown
from c3s3_seg.report.terminal import study_table
from c3s3_seg.system.schema import dump
from c3s3_seg.training import checkpoint
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.studies import conditions
from c3s3_seg.training.studies.plan import load_study
from c3s3_seg.training.studies.record import read_record, write_record
from c3s3_seg.training.studies.run import finished, refuse_several_cases, run_study
from c3s3_seg.training.train import train

pytestmark = pytest.mark.slow

STUDY = """
base = "{config}"
seeds = [1, 2]
reference = "C3S3"
set = ["run.iterations=2", "c3s3.warm_up=1"]
[[entries]]
name = "supervised VNet"
set = ["method=supervised"]
[[entries]]
name = "C3S3"
"""


@pytest.fixture
def study(toy_config: Path, tmp_path: Path) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(STUDY.format(config=toy_config))
    return path


def run(study: Path, *words: str) -> "CompletedProcess[str]":
    return command.run("study", study, "-o", study.parent / "out", *words)


def test_a_share_that_is_none(study: Path) -> None:
    refused = run(study, "--shard", "3/2")
    assert refused.returncode == 2
    assert "wanted I/N with I from 1 to N" in refused.stderr
    assert not (study.parent / "out").exists()


def test_the_place_of_the_table_is_looked_at_before_hours_of_training(study: Path) -> None:
    (study.parent / "out" / "study.md").mkdir(parents=True)
    refused = run(study)
    assert refused.returncode == 2
    assert "is a folder, wanted the path of a file to write" in refused.stderr
    assert [path.name for path in (study.parent / "out").iterdir()] == ["study.md"]


def test_shares_stop_and_resume(study: Path) -> None:
    first = run(study, "--shard", "1/2")
    assert first.returncode == 0, first.stderr
    assert "Finished: 2 of 4 runs" in first.stdout
    records = study.parent / "out" / "records"
    before = {path.name: path.read_bytes() for path in records.iterdir()}
    assert sorted(before) == ["supervised-vnet-1.json", "supervised-vnet-2.json"]
    rest = run(study)
    assert rest.returncode == 0, rest.stderr
    assert "supervised-vnet-1" not in rest.stderr  # finished: not trained again
    assert {name: (records / name).read_bytes() for name in before} == before
    text = (study.parent / "out" / "study.md").read_text()
    assert OVER_CASES in text
    table = [line for line in text.splitlines() if line.startswith("|")]
    assert len(table) == 2 + 3  # one net, and both nets of C3S3
    assert {line.split(" | ")[1] for line in table[2:]} == {"vnet", "resvnet"}
    page = (study.parent / "out" / "study.html").read_text()
    assert page.count("<svg") == 6  # three metrics: scores, and differences from C3S3
    assert "not made under the same conditions" not in page
    older = records / "supervised-vnet-1.json"  # from before this key existed
    older.write_text(json.dumps(_without(json.loads(older.read_text()), "data", "labelled")))
    assert run(study).returncode == 0
    _change_machine(records / "c3s3-1.json")
    refused = run(study)
    assert refused.returncode == 2
    assert "not be compared under the same conditions" in refused.stderr
    assert "C3S3 (seed 1)" in refused.stderr
    mixed = run(study, "--allow-mixed")
    assert mixed.returncode == 0
    for text in (
        mixed.stderr,
        *((study.parent / "out" / name).read_text() for name in ("study.md", "study.html")),
    ):
        assert "Another 9000, float32, c3s3-seg" in text
    study.write_text(study.read_text().replace("run.iterations=2", "run.iterations=3"))
    refused = run(study)
    assert refused.returncode == 2
    assert "made with other settings" in refused.stderr


def test_a_run_that_diverges_does_not_end_the_study(study: Path) -> None:
    text = study.read_text()
    one = text.replace("seeds = [1, 2]", "seeds = [1]").replace('reference = "C3S3"', 'reference = "tame"')
    one = one.replace(
        '["method=supervised"]', '["method=supervised", "optimiser.lr=1e30", "run.iterations=4"]'
    )
    one = one.replace('name = "C3S3"', 'name = "tame"\nset = ["method=supervised"]')
    study.write_text(one)
    answer = run(study)
    assert answer.returncode == 1, answer.stderr
    assert "supervised-vnet-1: the run diverges: " in answer.stderr
    assert "these runs diverged: supervised-vnet-1" in answer.stderr
    assert "Finished: 1 of 2 runs" in answer.stdout
    out = study.parent / "out"
    assert [path.name for path in (out / "records").iterdir()] == ["tame-1.json"]
    assert len((out / "study.md").read_text().splitlines()) == 2 + 1
    alone = run(study, "--shard", "1/2")  # tried again
    assert alone.returncode == 1
    assert "the run diverges" in alone.stderr


def test_a_run_that_diverged_after_a_checkpoint_begins_anew(study: Path) -> None:
    """With a lower rate it was refused, and ended the study; with the same rate it diverged again."""
    text = study.read_text().replace("seeds = [1, 2]", "seeds = [1]")
    # The first step makes the weights so large that their squares, in the second one, are no float32.
    changed = '["method=supervised", "optimiser.lr=1e25", "run.iterations=3", "run.checkpoint_every=1"]'
    study.write_text(text.replace('["method=supervised"]', changed))
    folder = study.parent / "out" / "runs" / "supervised-vnet-1"
    answer = run(study, "--shard", "1/2")
    assert answer.returncode == 1, answer.stderr
    assert "at iteration 1; the last checkpoint is kept" in answer.stderr
    assert checkpoint.DIVERGED in answer.stderr
    assert not (folder / checkpoint.FILE).exists()
    assert (folder / checkpoint.DIVERGED).is_file()
    study.write_text(study.read_text().replace("1e25", "0.01"))
    again = run(study)
    assert again.returncode == 0, again.stderr
    assert "Finished: 2 of 2 runs" in again.stdout


def test_a_run_that_is_resumed_on_another_machine_is_recorded_under_both(study: Path) -> None:
    first = ("--shard", "1/4")
    out = study.parent / "out"
    record, note = (
        out / "records" / "supervised-vnet-1.json",
        out / "runs" / "supervised-vnet-1" / conditions.FILE,
    )
    assert run(study, *first).returncode == 0
    (here,) = json.loads(note.read_text())
    record.unlink()  # as if it had been stopped
    note.write_text(json.dumps([{**here, "machine": "Another 9000"}]))
    refused = run(study, *first)
    assert refused.returncode == 2
    assert "Another 9000, precision not recorded" in refused.stderr
    assert not record.exists()
    mixed = run(study, *first, "--allow-mixed")
    assert mixed.returncode == 0, mixed.stderr
    assert "Another 9000, float32" in (out / "study.md").read_text()
    (done,) = finished(load_study(study)[1][:1], out)
    assert (done.earlier[0].machine, done.conditions.machine) == ("Another 9000", here["machine"])
    assert run(study, *first).returncode == 2  # the record itself is of two machines
    record.unlink()
    note.unlink()  # from before it existed
    assert run(study, *first).returncode == 0


def test_a_record_is_json_for_every_reader(study: Path) -> None:
    _, plans = load_study(study)
    scores = {"dice": 0.5, "jaccard": 0.4, "hd95_vox": math.inf, "asd_vox": math.nan}
    training = {"iterations": 2, "seconds": 3, "precision": "float32"}
    training["validation_cases"] = {"vnet": {"case": {"ball": scores}}}
    record = study.parent / "record.json"
    write_record(record, plans[1], training, [Conditions("earlier"), Conditions("here")])
    found = json.loads(record.read_text(), parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    found["nets"]["vnet"]["case"]["ball"] = scores
    for content in (record.read_text(), json.dumps(found)):  # records had Infinity and NaN
        record.write_text(content)
        read = read_record(record, plans[1])
        assert read.nets["vnet"]["case"]["ball"] == pytest.approx(scores, nan_ok=True)
        assert read.conditions == Conditions("here", "float32")
        assert read.earlier == (Conditions("earlier", "float32"),)


def _change_machine(path: Path) -> None:
    record = json.loads(path.read_text())
    record["conditions"]["machine"] = "Another 9000"
    path.write_text(json.dumps(record))


def test_records_of_another_machine_are_refused_before_training(study: Path) -> None:
    out = study.parent / "out"
    assert run(study, "--shard", "1/4").returncode == 0
    _change_machine(out / "records" / "supervised-vnet-1.json")
    refused = run(study)
    assert refused.returncode == 2
    assert "Another 9000" in refused.stderr
    assert "--allow-mixed" in refused.stderr
    assert len(list((out / "runs").iterdir())) == 1


def test_runs_begin_from_a_bundle(study: Path) -> None:
    assert run(study, "--shard", "2/4").returncode == 0  # C3S3, seed 1
    out = study.parent / "out"
    bundle = out / "runs" / "c3s3-1" / "bundle"
    again = study.with_name("again.toml")
    again.write_text(f'start = "{bundle}"\n{study.read_text()}')
    refused = run(again)
    assert refused.returncode == 2  # the record is of a run that began from random weights
    assert re.search(r"begun from \S+ \([0-9a-f]{8}\)", refused.stderr)
    begun = command.run("study", again, "-o", study.parent / "begun", "--shard", "2/4")
    assert begun.returncode == 0, begun.stderr
    begun_bundle = ModelBundle.load(study.parent / "begun" / "runs" / "c3s3-1" / "bundle")
    origin = begun_bundle.manifest.training["initialized_from"]
    hashes = ModelBundle.load(bundle).manifest.files
    assert set(origin["weights_sha256"].values()) <= set(hashes.values())
    assert "begun from" in (study.parent / "begun" / "study.html").read_text()
    (study.parent / "begun" / "records" / "c3s3-1.json").unlink()  # as if it had been stopped
    for note in (study.parent / "begun").rglob(conditions.FILE):
        note.unlink()  # from before it existed
    removed = command.run("study", study, "-o", study.parent / "begun", "--shard", "2/4")
    assert removed.returncode == 2
    assert "the run began from 'toy', and the study names no `start`" in removed.stderr
    again.write_text(f'start = "nowhere"\n{study.read_text()}')
    missing = run(again)
    assert missing.returncode == 2
    assert "nowhere" in missing.stderr


def test_records_of_other_cases_are_refused_before_training(study: Path, toy_data: Path) -> None:
    """The data set may change while a study is stopped."""
    _, plans = load_study(study)
    out = study.parent / "out"
    run_study(plans[:1], out, lambda line: None)
    record = out / "records" / f"{plans[0].name}.json"
    content = json.loads(record.read_text())
    assert len(content["cases"]) == 64
    record.write_text(json.dumps({**content, "cases": "0" * 64}))
    assert len(finished(plans, out)) == 1  # the table needs no data set
    with pytest.raises(InputError, match="made with other cases"):
        run_study(plans[:2], out, lambda line: None)
    assert not (out / "records" / f"{plans[1].name}.json").exists()
    record.write_text(json.dumps(content))
    refuse_several_cases(plans, out)
    run_study(plans[1:2], out, lambda line: None)  # another share
    record.write_text(json.dumps({**content, "cases": "0" * 64}))
    with pytest.raises(InputError, match="made with other cases"):
        refuse_several_cases(plans, out)


def test_without_validation_cases_nothing_is_trained(study: Path, toy_data: Path, tmp_path: Path) -> None:
    index = json.loads((toy_data / "dataset.json").read_text())
    data = tmp_path / "data"
    data.mkdir()
    for name in ("imagesTr", "labelsTr"):
        (data / name).symlink_to(toy_data / name)
    (data / "dataset.json").write_text(json.dumps(index | {"validation": []}))
    refused = run(study, "--set", f"data.folder={data}")
    assert refused.returncode == 2
    assert "a study needs validation cases" in refused.stderr
    assert not (tmp_path / "out" / "runs").exists()


@pytest.mark.parametrize("module", ["inference/tiling.py", "bundle/preprocessing.py", "training/losses.py"])
def test_code_that_decides_scores_is_in_the_hash(module: str) -> None:
    """Validation uses the predictor, and scans are preprocessed by the recipe."""
    package = Path(conditions.__file__).parents[2]
    assert (package / module).is_file()
    assert module.split("/")[0] in conditions.DECIDING


def test_all_entries_come_before_the_next_seed(study: Path) -> None:
    _, plans = load_study(study)
    assert [plan.name for plan in plans] == [
        "supervised-vnet-1",
        "c3s3-1",
        "supervised-vnet-2",
        "c3s3-2",
    ]
    assert [plan.config.run.seed for plan in plans] == [1, 1, 2, 2]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('reference = "C3S3"', 'reference = "C4S4"', "wanted one of supervised VNet, C3S3"),
        ("seeds = [1, 2]", "seeds = []", "seeds"),
        ("seeds = [1, 2]", "seeds = [1, 1]", "a seed appears twice"),
        ("method=supervised", "method=nothing", "method = 'nothing'"),
        ("run.iterations=2", "run.iteration=2", "no key 'run.iteration'"),
        ("method=supervised", "method=nothing", "entry 'supervised VNet': method"),
        ("run.iterations=2", "run.seed=2", "run.seed has no effect in a study.*List the seeds in `seeds`"),
        ("run.iterations=2", "networks.ship = ['a']", "networks.ship has no effect in a study"),
        ("seeds =", "seed =", "no key 'seed'|'seeds' is missing"),
    ],
)
def test_a_study_that_is_not_valid(study: Path, old: str, new: str, message: str) -> None:
    study.write_text(study.read_text().replace(old, new))
    with pytest.raises(ConfigError, match=message):
        load_study(study)


@pytest.mark.parametrize("other", ["C3S3+", "c3s3"])
def test_entries_that_would_share_a_record_are_both_named(study: Path, other: str) -> None:
    study.write_text(study.read_text().replace("supervised VNet", other))
    with pytest.raises(ConfigError, match=re.escape(f"'{other}' and 'C3S3' would share the record c3s3-1")):
        load_study(study)


def test_a_record_that_is_not_valid(study: Path) -> None:
    _, plans = load_study(study)
    record = study.parent / "record.json"
    record.write_text(json.dumps({"entry": "C3S3"}))
    with pytest.raises(InputError, match="not a record of a study"):
        read_record(record, plans[0])
    whole = {"entry": "C3S3", "seed": 1, "iterations": 2, "seconds": 3.0, "nets": {}, "config": {}}
    for content in (
        "[" * 100_000, "[]", "7", "null", "{", *(json.dumps({**whole, key: None}) for key in whole),
        json.dumps({**whole, "nets": {"vnet": {"case": {"ball": {"dice": "good"}}}}}),
        json.dumps({**whole, "config": dump(plans[1].config)}),  # no score at all
        json.dumps({**whole, "config": dump(plans[1].config), "nets": {"v": {"c": {"b": {"dice": 1.0}}}}}),
    ):  # fmt: skip
        record.write_text(content)
        with pytest.raises(InputError, match="not a record of a study"):
            read_record(record, plans[0])
    study.write_text("seeds = " + "[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        load_study(study)
    study.write_text("seeds = " + "9" * 5000)
    with pytest.raises(InputError, match="not valid TOML"):
        load_study(study)
    study.unlink()
    os.mkfifo(study)  # opening it would block
    with pytest.raises(InputError, match="wanted a regular file"):
        load_study(study)


def test_a_record_has_the_name_and_the_seed_of_its_run(study: Path) -> None:
    _, plans = load_study(study)
    scores = dict.fromkeys(METRICS, 1.0)
    content = {"entry": "c3s3", "seed": 1, "iterations": 2, "seconds": 3.0, "config": dump(plans[1].config)}
    content["nets"] = {"vnet": {"case": {"ball": scores}}}
    record = study.parent / "record.json"
    record.write_text(json.dumps(content))
    assert (plans[1].entry, read_record(record, plans[1]).entry) == ("C3S3", "C3S3")
    record.write_text(json.dumps({**content, "seed": 2}))
    with pytest.raises(InputError, match="made with another seed, 2"):
        read_record(record, plans[1])


def test_a_record_survives_new_defaults_of_other_methods(study: Path) -> None:
    """A change of DTC's default, or of CAML's keys, made every record of C3S3 one "with other settings"."""
    _, plans = load_study(study)
    content = {"entry": "C3S3", "seed": 1, "iterations": 2, "seconds": 3.0, "config": dump(plans[1].config)}
    content["nets"] = {"vnet": {"case": {"ball": dict.fromkeys(METRICS, 1.0)}}}
    record = study.parent / "record.json"
    content["config"]["dtc"]["weight"] = 0.7
    content["config"]["caml"]["voxels"] = 12800  # a key of an earlier version
    record.write_text(json.dumps(content))
    assert read_record(record, plans[1]).entry == "C3S3"
    content["config"]["c3s3"]["alpha"] = 0.7
    record.write_text(json.dumps(content))
    with pytest.raises(InputError, match="made with other settings"):
        read_record(record, plans[1])


def trained(entry: str, seed: int, dice: tuple[float, ...], hd: float = 2.0) -> Trained:
    cases = {
        f"case-{n}": {"ball": {"dice": d, "jaccard": d, "hd95_vox": hd if d else 0.0, "asd_vox": 1.0}}
        for n, d in enumerate(dice)
    }
    return Trained(entry, seed, 100, 60.0 * seed, {"vnet": cases})


def test_mean_spread_and_difference_by_hand() -> None:
    runs = [
        trained("base", 1, (0.6, 0.8)),
        trained("base", 2, (0.8, 1.0)),
        trained("other", 1, (0.5, 0.7)),
        trained("other", 2, (0.5, 0.0)),
    ]
    base, other = study_rows(runs, "base")
    assert base.mean["dice"] == pytest.approx(0.8)
    assert base.spread["dice"] == pytest.approx(0.2 / 2**0.5)  # of 0.7 and 0.9
    assert base.against == {}
    assert base.seconds == 90
    assert other.missed == 1
    # per case: 0.5 against 0.7, 0.35 against 0.9
    assert other.against["dice"].difference == pytest.approx(-0.375)
    assert other.against["dice"].n == 2
    text = study_markdown({"base": [base, other]})
    assert "| base | vnet | 2 | 100 | 2 | 0.800 ± 0.141 |" in text
    assert "1 predictions were empty" in text


def test_the_page_says_what_is_compared(tmp_path: Path) -> None:
    runs = [trained("base", 1, (0.6, 0.8)), trained("<b>other", 1, (0.5, 0.0))]
    other = Conditions("Another 9000", "bfloat16", "c3s3-seg 0.1")
    write_study_page(tmp_path / "a.html", "title", ["base"], [runs[0], replace(runs[1], conditions=other)])
    text = (tmp_path / "a.html").read_text()
    assert "&lt;b&gt;other" in text
    assert "<b>other" not in text
    assert "Another 9000, bfloat16, c3s3-seg 0.1: &lt;b&gt;other (seed 1)" in text
    assert "machine not recorded, precision not recorded, code not recorded: base (seed 1)" in text
    assert "1 predictions were empty" in text
    assert "-0.450</td>" in text  # 0.25 less 0.7
    assert 'x1="' in text
    write_study_page(tmp_path / "b.html", "title", ["base"], [])
    assert "0 runs, seeds none, 0 validation cases" in (tmp_path / "b.html").read_text()


def test_the_interval_of_a_mean_is_over_cases() -> None:
    runs = [trained("base", seed, (0.6, 0.8)) for seed in (1, 2)]
    (row,) = study_rows(runs, "base")
    assert all(map(math.isnan, row.interval["dice"]))  # two cases have no interval
    many = [trained("base", seed, (0.5, 0.6, 0.7, 0.8, 0.9)) for seed in (1, 2)]
    (row,) = study_rows(many, "base")
    half = 2.776445 * math.sqrt(0.025 / 5)  # Student t, 4 degrees of freedom
    assert row.interval["dice"] == pytest.approx((0.7 - half, 0.7 + half), rel=1e-5)


def with_infinite(run: Trained, case: str) -> Trained:
    """Return the run with another label, `wall`, whose distance is infinite in one case."""
    nets = {
        net: {
            name: labels
            | {"wall": labels["ball"] | {"hd95_vox": math.inf if name == case else 9.0, "asd_vox": 1.0}}
            for name, labels in cases.items()
        }
        for net, cases in run.nets.items()
    }
    return replace(run, nets=nets)


def test_distances_that_are_nowhere_finite_make_a_table_without_them() -> None:
    """If no truth has a label, only Dice is left to be compared."""
    runs = [trained(entry, 1, (0.5,), math.inf) for entry in ("base", "other")]
    _, other = study_rows(runs, "base")
    assert (other.against["dice"].n, other.against["hd95_vox"].n) == (1, 0)
    assert other.against["hd95_vox"].left_out == 1
    assert math.isnan(other.against["hd95_vox"].difference)
    assert "| no finite pair, 0 (1 values left out) |" in study_markdown({"base": [other]})


FIVE = (0.5, 0.6, 0.7, 0.8, 0.9)


def test_a_case_with_one_infinite_label_keeps_its_other_labels() -> None:
    """This holds for the mean, the interval and the difference, which use the same units."""
    runs = [
        with_infinite(trained("base", 1, FIVE, 1.0), "none"),
        with_infinite(trained("other", 1, FIVE, 3.0), "case-0"),
    ]
    base, other = study_rows(runs, "base")
    assert base.mean["hd95_vox"] == pytest.approx(5)
    units = [3.0, *[6.0] * 4]
    assert other.mean["hd95_vox"] == pytest.approx(5.4)
    found = statistics(units)
    assert other.interval["hd95_vox"] == pytest.approx((found.low, found.high))
    assert (other.n["hd95_vox"], other.left_out["hd95_vox"]) == (5, 1)
    pair = other.against["hd95_vox"]
    # The wall of case-0 is on neither side: 3 - 1 in that case, (3 + 9) / 2 - (1 + 9) / 2 elsewhere.
    assert (pair.n, pair.left_out) == (5, 1)
    assert pair.difference == pytest.approx((2 + 4 * 1) / 5)
    text = study_markdown({"base": [base, other]})
    assert "| 5 (distances: 5, 1 values left out) | 0 | 1 |" in text
    assert "5 (1 values left out) |" in text


def printed(rows: list[StudyRow]) -> list[str]:
    """Return the table as Markdown and as the terminal shows it."""
    console = Console(width=250, file=io.StringIO())
    console.print(study_table(rows, "base"))
    assert isinstance(console.file, io.StringIO)
    return [study_markdown({"base": rows}), console.file.getvalue()]


def test_each_row_says_its_empty_predictions(tmp_path: Path) -> None:
    runs = [trained("base", 1, FIVE), trained("other", 1, (0.5, 0.0, 0.0, 0.8, 0.9))]
    rows = study_rows(runs, "base")
    assert (rows[1].against["dice"].missed, rows[1].against["dice"].against_missed) == (2, 0)
    markdown, terminal = printed(rows)
    assert "| 5 | 2 | 0 |" in markdown
    assert re.search(r"other .* 5 +2 +0 ", terminal)
    assert "its distances better" in " ".join(terminal.split())
    write_study_page(tmp_path / "a.html", "title", ["base"], runs)
    page = (tmp_path / "a.html").read_text()
    assert '<td data-v="2.0">2</td><td data-v="0.0">0</td>' in page
    assert "its distances better" in page


def test_only_common_seeds_are_compared() -> None:
    runs = [trained("base", 1, FIVE), trained("other", 1, FIVE), trained("other", 2, (0.1,) * 5)]
    _, other = study_rows(runs, "base")
    assert other.mean["dice"] == pytest.approx(0.4)
    assert other.against["dice"].difference == 0
    assert other.common == 1
    assert all("5 (1 common seeds)" in text for text in printed([other]))
    _, apart = study_rows([runs[0], runs[2]], "base")
    assert apart.against == {}


def test_one_finite_seed_has_no_spread() -> None:
    infinite = trained("base", 2, FIVE, math.inf)
    (row,) = study_rows([trained("base", 1, FIVE), infinite], "base")
    assert math.isnan(row.spread["hd95_vox"])
    assert row.spread["dice"] == 0
    for text in printed([row]):
        assert "2.00 ±" not in text
        assert "0.700 ± 0.000" in text
    assert all("±" not in text for text in printed(study_rows([infinite], "base")))


def test_a_small_p_is_not_0(tmp_path: Path) -> None:
    dice = tuple(0.5 + n / 100 for n in range(12))
    runs = [trained("base", 1, dice), trained("other", 1, tuple(d + 0.1 + d / 100 for d in dice))]
    rows = study_rows(runs, "base")
    assert rows[1].against["dice"].p == 2 / 2**12
    assert all("<0.001" in text and "0.000" not in text.split("other", 1)[1] for text in printed(rows))
    write_study_page(tmp_path / "a.html", "title", ["base"], runs)
    assert "&lt;0.001</td>" in (tmp_path / "a.html").read_text()


def test_two_nets_of_one_architecture_are_compared_with_the_one() -> None:
    base, two = trained("base", 1, (0.6, 0.8)), trained("two", 1, (0.7, 0.8))
    nets = {"vnet-a": two.nets["vnet"], "vnet-b": base.nets["vnet"]}
    rows = study_rows([base, replace(two, nets=nets)], "base")
    assert [row.net for row in rows] == ["vnet", "vnet-a", "vnet-b"]
    assert [row.against["dice"].difference for row in rows[1:]] == pytest.approx([0.05, 0])


def test_each_further_reference_has_a_table_of_its_differences(tmp_path: Path) -> None:
    first, second = trained("first", 1, (0.6, 0.8)), trained("<second", 1, (0.5, 0.7))
    runs = [first, second, replace(trained("third", 1, (0.9, 0.9)), nets={"resvnet": first.nets["vnet"]})]
    references = ["first", "<second"]
    rows_of = {reference: study_rows(runs, reference) for reference in references}
    scores, differences = study_markdown(rows_of).split("\nDifferences from <second:\n")
    assert "| <second | vnet | 1 | 100 | 1 | 0.600 |" in scores
    assert "Dice minus first [95 %]" in scores
    assert "third" in scores
    # The reference itself has no difference, and "third" no network that the reference has.
    assert differences.count("\n| ") == 2
    assert "| first | vnet | +0.100 [no interval], 0.500, 2 |" in differences
    write_study_page(tmp_path / "a.html", "title", references, runs)
    page = (tmp_path / "a.html").read_text()
    assert "References <b>first, &lt;second</b>" in page
    assert page.index("Differences from first") < page.index("Differences from &lt;second")


def test_a_byte_order_mark_of_an_editor_is_ignored(study: Path, toy_config: Path, tmp_path: Path) -> None:
    for name in (study.name, toy_config.name):
        source = study if name == study.name else toy_config
        (tmp_path / f"marked-{name}").write_bytes(b"\xef\xbb\xbf" + source.read_bytes())
    assert load_study(tmp_path / f"marked-{study.name}")[0] == load_study(study)[0]
    assert load_config(tmp_path / f"marked-{toy_config.name}") == load_config(toy_config)


def test_several_references_in_the_file(study: Path) -> None:
    text = study.read_text()
    study.write_text(text.replace('"C3S3"', '["C3S3", "supervised VNet"]', 1))
    assert load_study(study)[0].reference == ("C3S3", "supervised VNet")
    study.write_text(text.replace('"C3S3"', '["C3S3", "other"]', 1))
    with pytest.raises(ConfigError, match="reference = 'other': wanted one of supervised VNet, C3S3"):
        load_study(study)
    for wrong in ("[]", "3"):
        study.write_text(text.replace('"C3S3"', wrong, 1))
        with pytest.raises(ConfigError, match="reference"):
            load_study(study)


def _without(record: dict[str, Any], table: str, key: str) -> dict[str, Any]:
    del record["config"][table][key]
    return record


BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("path", sorted(BENCHMARKS.glob("*.toml")), ids=lambda path: path.stem)
def test_the_studies_of_the_benchmarks_are_whole(path: Path) -> None:
    study, plans = load_study(path, [])
    assert set(study.reference) <= {plan.entry for plan in plans}
    assert len({(plan.entry, plan.seed) for plan in plans}) == len(plans) >= 6


@pytest.mark.parametrize("labelled", [5, 10, 20])
def test_the_committed_records_give_the_published_table(labelled: int) -> None:
    """Records stay valid when the configuration gets new keys, and the log's figures match the records."""
    overrides = [f"data.labelled={labelled}", "run.precision=float32"]
    study, plans = load_study(BENCHMARKS / "semi-supervised.toml", overrides)
    done = finished(plans, BENCHMARKS / f"gain-{labelled}")
    assert len(done) == len(plans) == 6
    printed = (BENCHMARKS / f"gain-{labelled}" / "study.md").read_text(encoding="utf-8")
    (reference,) = study.reference
    rows = study_rows(done, reference)
    assert study_markdown({reference: rows}, mixture(done)) == printed
    log = (BENCHMARKS / "training-log.md").read_text(encoding="utf-8").replace("*", "")
    for row in rows:
        dice = f"{row.mean['dice']:.3f} ± {row.spread['dice']:.3f}"
        assert f"| {labelled} | {row.entry} | {row.net} | {row.iterations} | {dice} |" in log


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["data.labelled=1"], "names no unlabelled case"),
        (["method=supervised", "teacher.bundle=nowhere", "data.unlabelled_stream=all"], "there is no model"),
        (["method=supervised", "teacher.masks=nowhere"], "names no unlabelled case"),
        (["method=supervised", "run.blend=0.5"], "run.blend = 0.5 needs a bundle to begin from"),
        (["method=supervised", "task.labels=[{name='x',value=7}]"], "the masks hold the values 1"),
    ],
)
def test_what_would_end_a_later_run_at_its_start_is_found_before_the_first(
    study: Path, toy_data: Path, tmp_path: Path, changes: list[str], words: str
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for name in ("imagesTr", "labelsTr"):
        (data / name).symlink_to(toy_data / name)
    splits = {"labelled": ["ball-0"], "validation": ["ball-4"]}
    (data / "dataset.json").write_text(json.dumps(splits))
    text = study.read_text().replace('name = "C3S3"', f'name = "C3S3"\nset = {json.dumps(changes)}')
    study.write_text(
        text.replace("seeds = [1, 2]", "seeds = [1]").replace(
            "c3s3.warm_up=1", f'c3s3.warm_up=1", "data.folder={data}'
        )
    )
    _, plans = load_study(study)
    with pytest.raises(InputError, match=re.escape("c3s3-1: ") + ".*" + re.escape(words)):
        run_study(plans, tmp_path / "out", lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_a_bundle_of_other_widths_and_a_missing_gpu_are_found_before_the_first_run(
    study: Path, toy_config: Path, tmp_path: Path
) -> None:
    start = train(
        load_config(toy_config, ["run.iterations=1", "method=supervised"]), tmp_path / "s", Silent()
    )
    text = study.read_text().replace('name = "C3S3"', 'name = "C3S3"\nset = ["networks.b.filters=3"]')
    study.write_text(text)
    _, plans = load_study(study, ["networks.a.filters=4"])
    begun = [replace(plan, start=start) for plan in plans]
    with pytest.raises(InputError, match="its vnet has 2 filters, the configuration 4"):
        run_study(begun, tmp_path / "out", lambda *_: None)
    if not torch.cuda.is_available():
        _, plans = load_study(study, ["run.device=cuda"])
        with pytest.raises(MissingError, match="torch finds no CUDA device"):
            run_study(plans, tmp_path / "out", lambda *_: None)
    assert not (tmp_path / "out").exists()


def test_a_stopped_run_is_not_resumed_under_other_settings(study: Path, tmp_path: Path) -> None:
    """It was resumed at iteration 2 of 3 with 2, and recorded as a run of 2."""
    longer, shorter = ["run.iterations=3", "run.checkpoint_every=1"], ["run.checkpoint_every=2"]
    plan = load_study(study, longer)[1][0]
    folder = tmp_path / "out" / "runs" / plan.name
    train(plan.config, folder, Silent())  # finished, but without a record
    _, plans = load_study(study, shorter)
    words = r"the run was stopped under other settings \(run.iterations: 3, now 2\).* remove this folder"
    with pytest.raises(InputError, match=words):
        run_study(plans[:1], tmp_path / "out", lambda *_: None)
    assert not (tmp_path / "out" / "records").exists()
    _, plans = load_study(study, ["run.iterations=3", "run.threads=1", "run.checkpoint_every=2"])
    assert run_study(plans[:1], tmp_path / "out", lambda *_: None) == []
    assert [path.name for path in (tmp_path / "out" / "records").iterdir()] == [f"{plan.name}.json"]
