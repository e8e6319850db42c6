"""The weights that a run keeps, and early stopping."""

import resource
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.io import load, save
from c3s3_seg.models.weights_format import from_bytes, to_bytes
from c3s3_seg.training import checkpoint, run
from c3s3_seg.training.bundles.write import write_bundle
from c3s3_seg.training.cases import ValidationCase, read_validation
from c3s3_seg.training.config import load_config
from c3s3_seg.training.data import Sampler
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.history import History, since_gain
from c3s3_seg.training.loggers import Silent, open_logger
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import NOTHING, RunLogger, train
from c3s3_seg.training.validation import Validation

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


@pytest.mark.parametrize(
    ("validations", "expected"),
    [
        ([], 0),
        ([(0.5, 0.5)], 0),
        ([(0.5, 0.5), (0.4, 0.4)], 1),
        ([(0.5, 0.5), (0.4, 0.6)], 0),  # one net is enough
        ([(0.5,), (0.6,), (0.6,), (0.6,)], 2),  # an equal score is no gain
        ([(0.5,), (0.4,), (0.45,)], 2),  # better than the last, but not than the best
    ],
)
def test_validations_since_the_last_gain(validations: list[tuple[float, ...]], expected: int) -> None:
    assert since_gain(validations) == expected


def scripted(monkeypatch: pytest.MonkeyPatch, dice: dict[str, list[float]]) -> None:
    """Replace validation by scripted Dice scores; the networks are real."""
    left = {name: list(values) for name, values in dice.items()}

    def say(name: str, *_: object) -> Validation:
        value = left[name].pop(0)
        return Validation(name, value, value, 1.0, 1.0, {"case": {"ball": {"dice": value}}})

    monkeypatch.setattr(run, "validate", say)


CHANGES = ["run.validate_every=1", "run.checkpoint_every=2", "c3s3.warm_up=1"]


def records(bundle: ModelBundle, key: str) -> dict[str, tuple[int, float]]:
    return {r["candidate"]: (r["iteration"], r["dice"]) for r in bundle.manifest.training[key]}


def test_the_best_weights_ship_and_the_card_says_both(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = {"vnet": [0.1, 0.5, 0.4, 0.3], "resvnet": [0.2, 0.2, 0.3, 0.25]}
    scripted(monkeypatch, dice)
    best = train(
        load_config(toy_config, [*CHANGES, "run.iterations=4", "run.keep=best"]), tmp_path / "b", Silent()
    )
    assert records(best, "validation_kept") == {"vnet": (2, 0.5), "resvnet": (3, 0.3)}
    assert records(best, "validation_last") == {"vnet": (4, 0.3), "resvnet": (4, 0.25)}
    assert best.networks[0].architecture == "vnet"
    facts = best.manifest.training
    assert facts["validation_kept_cases"]["vnet"] == {"case": {"ball": {"dice": 0.5}}}
    assert facts["validation_cases"]["vnet"] == {"case": {"ball": {"dice": 0.3}}}
    card = (best.folder / "README.md").read_text()
    assert "| vnet | 2 | 0.500 |" in card
    assert "| vnet | 0.300 |" in card
    scripted(monkeypatch, dice)
    last = train(load_config(toy_config, [*CHANGES, "run.iterations=4"]), tmp_path / "l", Silent())
    assert records(last, "validation_kept") == {"vnet": (4, 0.3), "resvnet": (4, 0.25)}
    assert "of each network at its best validation" in card
    assert "of each network at its best validation" not in (last.folder / "README.md").read_text()
    # The kept weights are those of iteration 2: the averages of a run that ends there, on the same schedule.
    half = until(toy_config, 2)
    path = best.folder / best.networks[0].weights
    kept = from_bytes(path.read_bytes(), path)
    for name, tensor in half.emas["vnet"].net.state_dict().items():
        torch.testing.assert_close(kept[name], tensor, rtol=1e-3, atol=1e-4, msg=name)
    assert best.manifest.files["model.safetensors"] not in last.manifest.files.values()


@pytest.mark.parametrize("dice", [{"vnet": 0.8, "resvnet": 0.6}, {"vnet": 0.6, "resvnet": 0.8}])
def test_the_better_network_ships_first_with_the_average_that_was_validated(
    toy_config: Path, tmp_path: Path, dice: dict[str, float]
) -> None:
    config = load_config(toy_config, ["run.precision=float32"])
    found, (data, splits) = Run(config, tmp_path), read_splits(config.data)
    with torch.no_grad():  # as after training: the nets are not their averages
        for weight in found.method.parameters():
            weight.add_(0.5)
    results = [Validation(name, value, value, 1.0, 1.0, {}) for name, value in dice.items()]
    bundle = write_bundle(found, data, splits, results, lambda text: None)
    primary, secondary = bundle.networks
    assert (primary.stem, secondary.stem) == ("model", "secondary")
    assert primary.candidate == max(dice, key=dice.__getitem__) != secondary.candidate
    for network in bundle.networks:
        average, (raw, _) = found.emas[network.candidate].net, found.method.candidates()[network.candidate]
        assert (bundle.folder / network.weights).read_bytes() == to_bytes(average) != to_bytes(raw)


def until(toy_config: Path, iteration: int) -> Run:
    config = load_config(toy_config, [*CHANGES, "run.iterations=4"])
    data, splits = read_splits(config.data)
    sampler, found = Sampler.of(config, data, splits), Run(config, Path("unused"))
    for number in range(iteration):
        found.step(sampler.batch(number, found.method.views(number)))
    return found


def test_a_run_ends_when_its_patience_does(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [*CHANGES, "run.patience=2", "c3s3.warm_up=3"]
    scripted(monkeypatch, {"vnet": [0.5, 0.4, 0.4, 0.4, 0.4, 0.4], "resvnet": [0.1] * 6})
    bundle = train(load_config(toy_config, changes), tmp_path, Silent())
    # Iterations 1 to 3 are the warm-up, which is not counted; 4 and 5 bring no gain.
    assert bundle.manifest.training["iterations"] == 5
    assert checkpoint.read(tmp_path).iteration == 5
    ended = "the run ended after 5 of 8 iterations: no network became better in 2 validations (run.patience)"
    assert bundle.manifest.training["warnings"] == [ended]
    assert f"- **Warning**: {ended}." in bundle.card()
    scripted(monkeypatch, {"vnet": [0.4], "resvnet": [0.1]})
    again = train(load_config(toy_config, changes), tmp_path, Silent(), resume=True)
    assert again.manifest.training["iterations"] == 5


@pytest.mark.parametrize(("keep", "warnings"), [("best", []), ("last", [NOTHING])])
def test_the_weights_that_ship_are_said_to_have_learnt_or_not(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, keep: str, warnings: list[str]
) -> None:
    """A network that collapsed after its best validation ships as it was then."""
    scripted(monkeypatch, {"vnet": [0.5, 0.0], "resvnet": [0.4, 0.0]})
    changes = [*CHANGES, "run.iterations=2", f"run.keep={keep}"]
    bundle = train(load_config(toy_config, changes), tmp_path, Silent())
    assert bundle.manifest.training["warnings"] == warnings


def test_what_a_killed_run_left_half_written_is_removed(toy_config: Path, tmp_path: Path) -> None:
    changes = ["method=supervised", "run.iterations=1"]
    train(load_config(toy_config, changes), tmp_path, Silent())
    left = [folder / ".0123456789ab.part" for folder in (tmp_path, tmp_path / "bundle")]
    for path in (*left, tmp_path / ".mine.part"):
        path.touch()
    train(load_config(toy_config, changes), tmp_path, Silent(), resume=True)
    assert not any(path.exists() for path in left)
    assert (tmp_path / ".mine.part").exists()


def test_a_resumed_run_knows_what_was_best(toy_config: Path, tmp_path: Path) -> None:
    """With real validations, a run killed after iteration 2 of 4 and resumed equals an unbroken run."""
    changes = [*CHANGES, "run.iterations=4", "run.keep=best", "optimiser.lr=0.05"]
    whole = train(load_config(toy_config, changes), tmp_path / "whole", Silent())

    class Killed(Exception):  # noqa: N818
        pass

    class Killer(Silent):
        def stepped(self, iteration: int, terms: dict[str, float]) -> None:
            if iteration == 3:
                raise Killed

    with pytest.raises(Killed):
        train(load_config(toy_config, changes), tmp_path / "broken", Killer())
    assert checkpoint.read(tmp_path / "broken").iteration == 2
    resumed = train(load_config(toy_config, changes), tmp_path / "broken", Silent(), resume=True)
    for key in ("validation_kept", "validation_kept_cases"):
        assert resumed.manifest.training[key] == whole.manifest.training[key]
    assert set(whole.manifest.training["validation_kept_cases"]) == {"vnet", "resvnet"}
    for name in ("model.safetensors", "secondary.safetensors"):
        assert resumed.manifest.files[name] == whole.manifest.files[name]


def test_without_validation_cases_there_is_no_best(toy_config: Path, tmp_path: Path) -> None:
    config = load_config(toy_config)
    data, _ = read_splits(config.data)
    lonely = tmp_path / "data"
    lonely.mkdir()
    for name in ("imagesTr", "labelsTr"):
        (lonely / name).symlink_to(data.folder / name)
    (lonely / "dataset.json").write_text('{"labelled": ["ball-0"], "unlabelled": ["ball-2"]}')
    for change in ("run.keep=best", "run.patience=1"):
        with pytest.raises(InputError, match=r"needs validation cases, and there are none"):
            train(load_config(toy_config, [f"data.folder={lonely}", change]), tmp_path / "run", Silent())


def test_an_old_checkpoint_has_no_best(toy_config: Path, tmp_path: Path) -> None:
    found = Run(load_config(toy_config), tmp_path)
    found.save()
    assert not [name for name in checkpoint.read(tmp_path).tensors if name.startswith("best.")]
    found.restore()
    assert found.best == {}


def test_the_first_of_equal_records_is_the_best() -> None:
    records: list[dict[str, Any]] = [
        {"iteration": 1, "candidate": "a", "dice": 0.5},
        {"iteration": 2, "candidate": "b", "dice": 0.9},
        {"iteration": 2, "candidate": "a", "dice": 0.5},
        {"iteration": 2, "changed": {}},
    ]
    history = History(records)
    assert history.best("a") == records[0]
    assert history.best("c") is None
    assert history.best() == records[1]


def cases(toy_config: Path) -> list[ValidationCase]:
    config = load_config(toy_config)
    data, splits = read_splits(config.data)
    return read_validation(data, splits.validation, config.task)


def test_a_net_is_kept_as_it_was(toy_config: Path, tmp_path: Path) -> None:
    found = Run(load_config(toy_config, ["run.keep=best"]), tmp_path)
    found.validate(cases(toy_config))
    kept = found.best["vnet"]["output.weight"].clone()
    with torch.no_grad():
        found.emas["vnet"].net.output.weight.add_(1)  # type: ignore[operator]
    assert torch.equal(found.best["vnet"]["output.weight"], kept)


def test_a_scan_that_is_nearly_all_background_costs_no_bundle(
    toy_config: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ended with an error after its last iteration, also when resumed, and never wrote a bundle."""
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    scan = load(data / "imagesTr" / "ball-1.nii.gz")
    array = np.zeros(scan.array.shape, np.float32)
    array[16:22, 14:20, 14:20] = scan.array[16:22, 14:20, 14:20]  # 0.4 % of the voxels
    save(scan.geometry.volume(array), data / "imagesTr" / "ball-1.nii.gz")
    logger, told = Silent(), list[str]()
    monkeypatch.setattr(logger, "warned", told.append)
    config = load_config(toy_config, ["method=supervised", "run.iterations=1", f"data.folder={data}"])
    bundle = train(config, tmp_path / "run", logger)
    assert bundle.task.domain is None
    (text,) = [text for text in told if "the bundle has no domain" in text]
    assert "ball-1.nii.gz: 98% or more of the voxels have the same value" in text
    assert f"- **Warning**: {text}." in bundle.card()


@pytest.mark.parametrize("iterations", [3, 4])
def test_a_run_is_not_ended_before_its_learning_rate_is(
    toy_config: Path, tmp_path: Path, iterations: int
) -> None:
    """With as few iterations as it has already, it shipped weights of a high learning rate as finished."""
    run = Run(load_config(toy_config, ["method=supervised"]), tmp_path)
    run.iteration = 4
    run.save()
    again = Run(load_config(toy_config, ["method=supervised", f"run.iterations={iterations}"]), tmp_path)
    words = (
        f"the checkpoint is at iteration 4, and run.iterations = {iterations}: .* Set run.iterations above 4"
    )
    with pytest.raises(InputError, match=words):
        again.restore()
    Run(load_config(toy_config, ["method=supervised", "run.iterations=5"]), tmp_path).restore()


def test_a_run_that_has_ended_is_not_made_shorter(toy_config: Path, tmp_path: Path) -> None:
    run = Run(load_config(toy_config, ["method=supervised", "run.iterations=4"]), tmp_path)
    run.iteration = 4
    run.save()
    with pytest.raises(InputError, match=r"has ended at iteration 4.*Set run.iterations to 4 or more"):
        Run(load_config(toy_config, ["method=supervised", "run.iterations=3"]), tmp_path).restore()


class Full:
    """A logger that lets no file grow beyond 2,000 bytes at iteration 2, as a disk that is full then."""

    def __init__(self, also: RunLogger) -> None:
        self.also, self.heard = also, list[str]()
        self.began, self.validated = also.began, also.validated

    def stepped(self, iteration: int, terms: dict[str, float]) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000 if iteration == 2 else hard, hard))
        for _ in range(200 if iteration == 2 else 1):
            self.also.stepped(iteration, terms)

    def warned(self, text: str) -> None:
        self.heard.append(text)
        self.also.warned(text)


@pytest.fixture
def file_limit() -> Iterator[None]:
    """Restore the limit on the size of files after a test, also if it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("file_limit")
def test_a_disk_that_is_full_for_a_moment_does_not_end_a_run(
    toy_config: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    config = load_config(toy_config, ["method=supervised", "run.iterations=4", "run.checkpoint_every=1"])
    with open_logger(tmp_path) as logger:
        full = Full(logger)
        bundle = train(config, tmp_path, full)
    (heard,) = [text for text in full.heard if "checkpoint" in text]
    assert heard.startswith("the checkpoint was not written (")
    assert bundle.manifest.training["iterations"] == checkpoint.read(tmp_path).iteration == 4
    told = capfd.readouterr()
    assert told.out.count("no more scalars; the run continues") == 1
    assert "Traceback" not in told.err


def test_a_bundle_of_one_training_scan_says_that_it_has_no_domain(
    toy_config: Path, toy_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing said so, and predict reported `pass` for every scan."""
    data = Path(shutil.copytree(toy_data, tmp_path / "data"))
    (data / "dataset.json").write_text('{"labelled": ["ball-0"], "validation": ["ball-4"]}')
    logger, told = Silent(), list[str]()
    monkeypatch.setattr(logger, "warned", told.append)
    config = load_config(toy_config, ["method=supervised", "run.iterations=1", f"data.folder={data}"])
    bundle = train(config, tmp_path / "run", logger)
    assert bundle.task.domain is None
    (text,) = [text for text in told if "the bundle has no domain" in text]
    assert text.endswith(": one scan has no spread")
    assert f"- **Warning**: {text}." in bundle.card()
