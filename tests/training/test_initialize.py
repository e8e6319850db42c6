"""A training run that begins from a bundle's networks."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.commands.calibrate import _without_limit
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.training import checkpoint
from c3s3_seg.training.bundles.domain import trained_splits
from c3s3_seg.training.bundles.initialize import initialize_from
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent, open_logger
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import train

pytestmark = pytest.mark.slow
SHORT = ["run.iterations=4"]  # the warm start takes three


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


@pytest.fixture(scope="module")
def bundle(toy_config: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    folder = tmp_path_factory.mktemp("start") / "first"
    with open_logger(folder) as logger:
        return train(load_config(toy_config, SHORT), folder, logger)


def test_nets_and_averages_are_the_bundles(toy_config: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    run = Run(load_config(toy_config, ["run.seed=9"]), tmp_path)
    fresh = {k: v.clone() for k, v in run.method.state_dict().items()}
    initialize_from(run, bundle)
    for name, (net, _) in run.method.candidates().items():
        average = run.emas[name].net.state_dict()
        assert all(torch.equal(v, average[k]) for k, v in net.state_dict().items())
    after = run.method.state_dict()
    assert not torch.equal(fresh["a.output.weight"], after["a.output.weight"])
    assert torch.equal(fresh["project_a.0.weight"], after["project_a.0.weight"])  # bundles hold no heads


TEACHERS = {
    "uamt": (["uamt.weight=0.1"], {"teacher": "student"}),
    "bcp": (["bcp.pretraining=0"], {"teacher": "net"}),
    "sdcl": (["sdcl.pretraining=0"], {"teacher": "a"}),
    "c3s3": (["c3s3.warm_up=0", "c3s3.mix_weight=1"], {"teachers.0": "a", "teachers.1": "b"}),
}


@pytest.mark.parametrize("method", TEACHERS)
def test_teachers_begin_as_their_networks(
    method: str, toy_config: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    """Teachers equal their networks before the first step; a resumed run restores them as saved."""
    changes, pairs = TEACHERS[method]
    config = load_config(toy_config, [f"method={method}", "run.seed=9", *changes])
    run, resumed = Run(config, tmp_path), Run(config, tmp_path)
    initialize_from(run, bundle)
    for teacher, student in pairs.items():
        copied, copy = (run.method.get_submodule(name).state_dict() for name in (student, teacher))
        assert all(torch.equal(value, copy[name]) for name, value in copied.items())
        copy["output.bias"].fill_(7.0)
    run.save()
    resumed.restore()
    for teacher in pairs:
        assert bool((resumed.method.get_submodule(teacher).state_dict()["output.bias"] == 7).all())


def test_the_card_says_where_it_came_from(toy_config: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    with open_logger(tmp_path) as logger:
        second = train(load_config(toy_config, SHORT), tmp_path, logger, start=bundle)
    origin = second.manifest.training["initialized_from"]
    before = bundle.manifest.training
    assert (origin["iterations"], origin["seconds"]) == (before["iterations"], before["seconds"])
    assert (
        origin["weights_sha256"][bundle.networks[0].architecture]
        == bundle.manifest.files["model.safetensors"]
    )
    assert "**Begun from** the" in (second.folder / "README.md").read_text()


def test_validation_cases_that_the_bundle_was_trained_on_are_told(toy_config: Path, tmp_path: Path) -> None:
    """A fold's bundle has learnt from the validation cases of the other fold, and so has its teacher."""
    other, one = [*SHORT, "data.fold=2/2"], [*SHORT, "data.fold=1/2"]
    first = train(load_config(toy_config, one), tmp_path / "first", Silent())
    learnt = set(first.manifest.training["training_case_hashes"])
    text = "of cases that the teacher, or the bundle that the run began from, was trained on"
    taught = [*other, "data.unlabelled_stream=all", f"teacher.bundle={first.folder}"]
    for name, changes, start in (("from", other, first), ("taught", taught, None)):
        second = train(load_config(toy_config, changes), tmp_path / name, Silent(), start=start)
        warned = [line for line in second.manifest.training["warnings"] if text in line]
        seen = len(second.manifest.training["validation_cases"]["vnet"])
        assert [line.split(" ha")[0] for line in warned] == [
            f"{seen} of {seen} validation case{'s' * (seen > 1)}"
        ]
        assert learnt <= set(second.manifest.training["inherited_case_hashes"])
        _, splits = trained_splits(second, Path(load_config(toy_config).data.folder))
        both = replace(splits, validation=splits.validation * 2)  # with one case there is no limit anyway
        assert "was trained on" in _without_limit(second, both)
    same = train(load_config(toy_config, one), tmp_path / "same", Silent(), start=first)
    assert not any(text in line for line in same.manifest.training["warnings"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("networks.a.filters=3", "Set networks.a.filters = "),
        ("task.recipe.spacing_mm=[9.0, 9.0, 9.0]", "task.recipe: the bundle has"),
        ('task.labels=[{name="other", value=1}]', "task.labels: the bundle has"),
        ("task.modality=CT", "task.modality: the bundle has MR, the configuration CT"),
    ],
)
def test_a_bundle_that_does_not_fit(
    toy_config: Path, bundle: ModelBundle, tmp_path: Path, override: str, message: str
) -> None:
    run = Run(load_config(toy_config, [override]), tmp_path)
    with pytest.raises(InputError, match=message):
        initialize_from(run, bundle)


def test_what_ships_may_be_blended_with_what_it_began_from(
    toy_config: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    config = load_config(toy_config, ["run.blend=0.25"])
    run = Run(config, tmp_path)
    initialize_from(run, bundle)
    first = {k: v.clone() for k, v in run.emas["vnet"].net.state_dict().items()}
    with torch.no_grad():
        run.emas["vnet"].net.output.weight.add_(4.0)  # type: ignore[operator]
    answer = run.evaluated("vnet").state_dict()
    torch.testing.assert_close(answer["output.weight"], first["output.weight"] + 1.0)
    torch.testing.assert_close(answer["output.bias"], first["output.bias"])
    run.save()
    again = Run(config, tmp_path)
    again.restore()
    assert torch.equal(again.evaluated("vnet").state_dict()["output.weight"], answer["output.weight"])


def test_a_run_validates_what_it_begins_from(toy_config: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    """With a learning rate near 0 the shipped weights are the same: a blend of equal weights."""
    changes = [*SHORT, "run.blend=0.5", "run.keep=best", "optimiser.lr=1e-9", "optimiser.ema=0.0"]
    second = train(load_config(toy_config, changes), tmp_path, Silent(), start=bundle)
    facts = second.manifest.training
    before = {r["candidate"]: r["dice"] for r in bundle.manifest.training["validation_last"]}
    history = checkpoint.read(tmp_path).history
    first = {r["candidate"]: r["dice"] for r in history if r["iteration"] == 0 and "dice" in r}
    assert first == pytest.approx(before, abs=0.01)  # rounded to half precision
    kept = {r["candidate"]: r["dice"] for r in facts["validation_kept"]}
    assert all(kept[name] >= first[name] for name in first)
    assert "**Blended**: 0.5 of each weight is trained" in (second.folder / "README.md").read_text()


def test_a_run_is_resumed_with_the_bundle_that_it_began_from(
    toy_config: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    config = load_config(toy_config, SHORT)
    began = train(config, tmp_path / "began", Silent(), start=bundle)
    resumed = train(config, tmp_path / "began", Silent(), resume=True, start=bundle)
    assert resumed.manifest.training["initialized_from"] == began.manifest.training["initialized_from"]
    with pytest.raises(InputError, match="the run began from 'toy', and not from"):
        train(config, tmp_path / "began", Silent(), resume=True, start=began)
    with pytest.raises(InputError, match="the run began from random weights, and not from"):
        train(config, bundle.folder.parent, Silent(), resume=True, start=began)


def test_a_blend_needs_a_beginning(toy_config: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"run\.blend = 0\.5 needs a bundle to begin from"):
        train(load_config(toy_config, ["run.blend=0.5"]), tmp_path, Silent())
