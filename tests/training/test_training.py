"""Configuration, batches, checkpoints, and a killed run that resumes as if it had not been interrupted."""

import json
import math
import os
import resource
import shlex
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import command, forked
from helpers.training import sampler
from safetensors import safe_open
from safetensors.torch import save

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.dataset import Splits
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.lock import hold
from c3s3_seg.training import checkpoint
from c3s3_seg.training.bundles.card import model_card
from c3s3_seg.training.cases import TrainingCase
from c3s3_seg.training.config import CONFIGS, load_config
from c3s3_seg.training.data import Sampler, Views
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.history import History
from c3s3_seg.training.optimiser import schedule
from c3s3_seg.training.run import Run
from c3s3_seg.training.settings import AugmentConfig, DataConfig
from c3s3_seg.training.step import Outputs, c3s3_loss
from c3s3_seg.training.train import _batches

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def toy_config(small_crops: Path) -> Path:
    return small_crops


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configurations_are_valid(path: Path) -> None:
    assert load_config(path).task.name == path.stem
    assert load_config(Path(path.stem)) == load_config(path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method=mcf2", "method = 'mcf2': wanted 'supervised', 'c3s3', 'mcf', .* or 'ssnet'"),
        ("run.iterations=0", "run.iterations = 0: wanted greater than 0"),
        ("run.iteration=5", "no key 'run.iteration'.*Allowed here: iterations, labelled_batch"),
        ("c3s3.alpha=1.5", "c3s3.alpha = 1.5"),
        ("task.patch=[30, 32, 32]", "multiples of 16"),
        ("c3s3.warm_up=8", "less than run.iterations = 8"),
        ("augment.scale=[1.2, 0.8]", "smaller number first"),
        ("run.seed=10000000000000", "run.seed = 10000000000000: wanted"),
        ("optimiser.momentum=0", "optimiser.momentum = 0 with .*Set optimiser.nesterov = false"),
        (f"run.iterations={'9' * 5000}", "run.iterations = '999.*wanted"),
        ("iterations", "wanted key=value"),
        ("method.name=c3s3", "'method' is a value, not a table"),
    ],
)
def test_a_wrong_key_or_value_is_named(toy_config: Path, override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(toy_config, [override])


def test_sgd_without_momentum_is_taken(toy_config: Path, tmp_path: Path) -> None:
    """With Nesterov's momentum, the default, it ended as a defect of the program after the data were read."""
    config = load_config(toy_config, ["optimiser.momentum=0", "optimiser.nesterov=false"])
    assert Run(config, tmp_path).iteration == 0


@pytest.mark.parametrize("method", ["c3s3", "mcf"])
def test_a_run_of_warm_up_alone_is_refused(toy_config: Path, method: str) -> None:
    """Such a run would train two supervised networks under the method's name."""
    with pytest.raises(ConfigError, match=r"c3s3\.warm_up = 8: wanted less than run\.iterations = 8"):
        load_config(toy_config, [f"method={method}", "c3s3.warm_up=8"])
    assert load_config(toy_config, ["method=supervised", "c3s3.warm_up=8"])  # supervised does not read it


def test_a_missing_configuration_names_the_shipped_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hippocampus, left-atrium"):
        load_config(tmp_path / "nothing.toml")
    broken = tmp_path / "broken.toml"
    for text in ("method = ", f"method = {'9' * 5000}"):
        broken.write_text(text)
        with pytest.raises(InputError, match="not valid TOML"):
            load_config(broken)


@pytest.mark.parametrize("path", ["plans/hippocampus.toml", "plans/hippocampus", "hippocampus.toml"])
def test_a_mistyped_path_is_no_shipped_configuration(path: str) -> None:
    with pytest.raises(InputError, match="there is no such configuration"):
        load_config(Path(path))


def test_batches_depend_on_the_iteration_alone(toy_config: Path) -> None:
    draw = sampler(toy_config)
    first, again, other = (draw.batch(n, Views(2, 1, 2)) for n in (5, 5, 6))
    assert torch.equal(first.views[1], again.views[1])
    assert not torch.equal(first.views[0], other.views[0])


def test_batches_drawn_ahead_are_those_drawn_in_turn(toy_config: Path, tmp_path: Path) -> None:
    draw, run = sampler(toy_config), Run(load_config(toy_config), tmp_path)
    run.device = torch.device("meta")  # not the CPU: threads draw, as for a GPU
    run.iteration = 1
    ahead = list(_batches(draw, run))
    assert len(ahead) == run.config.run.iterations - 1
    for number, batch in enumerate(ahead, 1):
        wanted = draw.batch(number, run.method.views(number))
        assert torch.equal(batch.target, wanted.target)
        assert all(torch.equal(a, b) for a, b in zip(batch.views, wanted.views, strict=True))


def test_views_share_the_geometry_and_not_the_intensity(toy_config: Path) -> None:
    batch = sampler(toy_config).batch(0, Views(2, 2, 2))
    one, two = batch.views
    assert one.shape == (4, 1, 32, 16, 16)
    assert batch.target.shape == (2, 2, 32, 16, 16)
    assert not torch.equal(one, two)
    correlation = np.corrcoef(one.ravel(), two.ravel())[0, 1]
    assert correlation > 0.6
    torch.testing.assert_close(batch.target.sum(1), torch.ones(2, 32, 16, 16))


def test_targets_lie_where_the_image_says(toy_config: Path) -> None:
    """Balls are bright: image and target are sampled together, including rotations and flips."""
    batch = sampler(toy_config, rotation_rad=1.5, flip_axes=(0, 1, 2), elastic_mm=2.0).batch(1, Views(4))
    inside = batch.target[:, 1] > 0.99
    assert batch.views[0][:, 0][inside].mean() > batch.views[0][:, 0][~inside].mean() + 1


def of_noise(toy_config: Path, patch: tuple[int, int, int], share: float, **augment: Any) -> Sampler:
    """Return a sampler of white noise (1, 20, 14, 9) that is neither rotated nor magnified by default."""
    stack = torch.randn(1, 20, 14, 9, generator=torch.Generator().manual_seed(0))
    case = TrainingCase(stack, torch.tensor([[8, 7, 4], [9, 6, 4]]), torch.tensor([1.25, 1.25, 2.0]))
    changes = AugmentConfig(**{"rotation_rad": 0.0, "scale": (1.0, 1.0), **augment})
    task = replace(load_config(toy_config).task, patch=patch)
    data = DataConfig("", foreground_crops=share)
    return Sampler([case], [], task=task, data=data, augment=changes, seed=0)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_without_changes_a_crop_is_the_scan(toy_config: Path, share: float) -> None:
    """In some right-angled orientation it is a block of the scan; the tolerance is that of its positions."""
    draw = of_noise(toy_config, (6, 6, 5), share, quarter_turns=(2,), flip_axes=(0, 1))
    (case,) = draw.labelled
    blocks = case.stack[0].unfold(0, 6, 1).unfold(1, 6, 1).unfold(2, 5, 1)
    places = set()
    for seed in range(20):
        crop = draw._crop(case, Views(1), torch.Generator().manual_seed(seed))[0]
        turned = [torch.rot90(each, k) for each in (crop, crop.flip(0)) for k in range(4)]
        far = torch.stack([(blocks - each).abs().amax(dim=(-3, -2, -1)) for each in turned]).amin(dim=0)
        assert far.min() < 1e-4
        places.add(int(far.argmin()))
    assert (len(places) == 2) if share else (len(places) > 10)


@pytest.mark.parametrize("rotation", [0.0, 0.1])
def test_crops_lie_anywhere_in_a_scan_equally_often(toy_config: Path, rotation: float) -> None:
    """Along z the crop is larger than the scan. The tolerance is four deviations of a binomial share."""
    draw = of_noise(toy_config, (16, 8, 12), 0.0, rotation_rad=rotation)
    size, sides, random = (
        torch.tensor([20, 14, 9]),
        torch.tensor([16, 8, 12]),
        torch.Generator().manual_seed(0),
    )
    centres = [draw._centre(draw.labelled[0], size, sides, (), random) for _ in range(2000)]
    begins = torch.stack(centres) - (sides - 1) / 2
    for axis, (first, last) in enumerate([(0, 4), (0, 6), (-3, 0)]):
        found, places = begins[:, axis], last - first + 1
        assert first <= found.min() <= found.max() <= last
        counts = torch.histc(found, places, first - (not rotation) / 2, last + (not rotation) / 2) / 2000
        deviation = (1 / places * (1 - 1 / places) / 2000) ** 0.5
        torch.testing.assert_close(counts, torch.full((places,), 1 / places), atol=4 * deviation, rtol=0)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_that_generators_would_take_for_others_are_refused(toy_config: Path, seed: int) -> None:
    with pytest.raises(ConfigError, match=r"run\.seed"):
        load_config(toy_config, [f"run.seed={seed}"])
    assert load_config(toy_config, [f"run.seed={2**32 - 1}"])


def test_fewer_labels_than_there_are(toy_config: Path) -> None:
    _, splits = read_splits(load_config(toy_config, ["data.labelled=1"]).data)
    assert (splits.labelled, splits.unlabelled[-1]) == (("ball-0",), "ball-1")
    with pytest.raises(InputError, match=r"data\.labelled = 3, but the data have 2 labelled cases"):
        read_splits(load_config(toy_config, ["data.labelled=3"]).data)


def test_unlabelled_crops_may_come_from_all_cases(toy_config: Path) -> None:
    changes = ["data.fully_supervised=true", "data.unlabelled_stream=all"]
    config = load_config(toy_config, changes)
    draw = Sampler.of(config, *read_splits(config.data))
    assert (len(draw.labelled), len(draw.unlabelled)) == (4, 4)
    assert all(len(case.stack) == 1 and not len(case.foreground) for case in draw.unlabelled)
    assert all(
        torch.equal(a.stack[0], b.stack[0]) for a, b in zip(draw.labelled, draw.unlabelled, strict=True)
    )
    rest = load_config(toy_config, ["data.unlabelled_stream=all"])
    draw = Sampler.of(rest, *read_splits(rest.data))
    assert (len(draw.labelled), len(draw.unlabelled)) == (2, 4)
    nothing = load_config(toy_config, changes[:1])
    with pytest.raises(InputError, match=r"no unlabelled case.*data\.unlabelled_stream = 'all'"):
        Sampler.of(nothing, *read_splits(nothing.data))


def test_the_card_counts_no_scan_twice(toy_config: Path) -> None:
    changes = ["data.fully_supervised=true", "data.unlabelled_stream=all", "run.precision=float32"]
    history: dict[str, Any] = {"cases": {"labelled": 4, "unlabelled": 4, "validation": 1}, "iterations": 1}
    history |= {"validation_last": [], "validation_best": None, "kept": "last", "warnings": []}
    history |= {"initialized_from": None, "changed_on_resume": []}
    card = model_card(load_config(toy_config, changes), (), history)
    assert "4 labelled, 1 validation cases; the unlabelled stream draws from all 4 training scans.\n" in card


def test_the_card_says_how_empty_masks_count(toy_config: Path) -> None:
    """Two distances of 4 and the 0 of an empty mask have the mean 2.67: this mask is not left out."""
    record = {"candidate": "vnet", "iteration": 2, "dice": 0.5, "jaccard": 0.4, "hd95_vox": 8 / 3}
    record |= {"asd_vox": 1.0, "empty": 1, "masks": 3}
    nothing = record | {"candidate": "resvnet", "hd95_vox": 0.0, "asd_vox": 0.0, "empty": 3}
    unmeasured = record | {"candidate": "other", "hd95_vox": math.nan, "asd_vox": math.nan}
    records = [record, nothing, unmeasured]
    history: dict[str, Any] = {"cases": {"labelled": 4, "validation": 3}, "iterations": 2, "warnings": []}
    history |= {"validation_last": records, "validation_best": None, "kept": "best"}
    history |= {"validation_kept": records, "validation_kept_cases": {"vnet": {}}}
    history |= {"initialized_from": None, "changed_on_resume": []}
    card = model_card(load_config(toy_config, ["run.precision=float32"]), (), history)
    assert card.count("| 2.67 | 1.00 |\n") == card.count("| vnet |") == 2
    assert card.count("vnet: 1 of 3 masks are empty and count as (0, 0, 0, 0).") == 2
    assert card.count("resvnet: 3 of 3 masks are empty and have no distance.") == 2
    assert card.count("other: 1 of 3 masks are empty and have no distance.") == 2
    assert card.count("| none | none |\n") == 4
    assert "`validation_kept_cases` with the weights of the bundle" in card


def test_schedules_end_at_zero() -> None:
    config = load_config(Path("left-atrium")).optimiser
    assert schedule(config, 0) == 1
    assert schedule(config, 0.5) == pytest.approx(0.5**0.9)
    assert schedule(config, 1) == 0
    assert schedule(replace(config, schedule="cosine"), 1) == pytest.approx(0)
    assert schedule(replace(config, schedule="constant"), 1) == 1


def outputs(config_path: Path) -> tuple[Run, Outputs, Outputs, object]:
    config = load_config(config_path)
    run = Run(config, Path("unused"))
    batch = sampler(config_path).batch(4, Views(1, 1, 2))
    run.method.train()
    torch.manual_seed(0)
    a, b = (Outputs.of(net, head, batch) for net, head in _nets(run))
    return run, a, b, batch


def _nets(run: Run) -> list[tuple[torch.nn.Module, torch.nn.Module]]:
    method = run.method
    return [(method.a, method.project_a), (method.b, method.project_b)]  # type: ignore[list-item]


def test_the_total_is_the_sum_of_its_terms(toy_config: Path) -> None:
    run, a, b, batch = outputs(toy_config)
    total, terms = c3s3_loss(a, b, batch, run.method.competition, run.config.c3s3, 0.5)  # type: ignore[arg-type]
    assert terms["cp_weight"] == terms["iuc_weight"] == pytest.approx(0.1 * np.exp(-1.25))
    expected = terms["seg_a"] + terms["seg_b"] + terms["cos"]
    expected += terms["cp_weight"] * terms["cp"] + terms["iuc_weight"] * terms["iuc"]
    assert total.item() == pytest.approx(expected, rel=1e-5)


def test_every_net_and_head_gets_a_finite_gradient(toy_config: Path) -> None:
    run, a, b, batch = outputs(toy_config)
    total, _ = c3s3_loss(a, b, batch, run.method.competition, run.config.c3s3, 1.0)  # type: ignore[arg-type]
    total.backward()
    for name, parameter in run.method.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize(
    ("method", "longer"), [("bcp", ["run.iterations=60"]), ("c3s3", ["run.iterations=60", "c3s3.warm_up=20"])]
)
def test_a_phase_that_is_over_does_not_begin_again(
    toy_config: Path, tmp_path: Path, method: str, longer: list[str]
) -> None:
    """Of a longer run, the pre-training of BCP was longer too: the resumed run forgot its teacher."""
    begun = [f"method={method}", "run.iterations=20", "c3s3.warm_up=2", "run.warm_batch=2"]
    run = Run(load_config(toy_config, begun), tmp_path)
    run.iteration = 5  # the warm-up ended at 2
    run.save()
    with pytest.raises(InputError, match=r"is at iteration 5, after a warm-up or pre-training of 2; of 60"):
        Run(load_config(toy_config, [*begun, *longer]), tmp_path).restore()
    run.iteration = 1
    run.save()
    Run(load_config(toy_config, [*begun, *longer]), tmp_path).restore()


def test_a_checkpoint_of_another_run_is_refused(toy_config: Path, tmp_path: Path) -> None:
    Run(load_config(toy_config), tmp_path).save()
    other = Run(load_config(toy_config, ["optimiser.lr=0.02"]), tmp_path)
    with pytest.raises(InputError, match=r"other settings \(optimiser.lr\)"):
        other.restore()
    earlier = tmp_path / checkpoint.FILE  # of a version in which another method had one more key
    rewritten(earlier, lambda facts, _: facts["config"]["caml"].update(voxels=12800))
    Run(load_config(toy_config, ["dtc.weight=0.7"]), tmp_path).restore()  # C3S3 reads neither
    (tmp_path / checkpoint.FILE).write_bytes(b"nonsense")
    with pytest.raises(InputError, match="not a checkpoint of ours"):
        other.restore()


def rewritten(path: Path, change: Callable[[dict[str, Any], dict[str, torch.Tensor]], None]) -> None:
    """Rewrite a checkpoint with changed facts and tensors, in the right format."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["state"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    facts["sha256"] = ""  # anyone who changes tensors can omit it
    change(facts, tensors)
    path.write_bytes(save(tensors, metadata={"state": json.dumps(facts)}))


def test_a_bit_that_turned_in_a_checkpoint_is_found(toy_config: Path, tmp_path: Path) -> None:
    run = Run(load_config(toy_config), tmp_path)
    run.save()
    path = tmp_path / checkpoint.FILE
    whole = path.read_bytes()
    for place in (-1, -len(whole) // 3):
        damaged = bytearray(whole)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r"the checkpoint is damaged.*Restore it from a copy"):
            run.restore()
    path.write_bytes(whole)
    run.restore()


def test_a_checkpoint_without_a_key_is_one_line(toy_config: Path, tmp_path: Path) -> None:
    run = Run(load_config(toy_config), tmp_path)
    run.save()
    path = tmp_path / checkpoint.FILE
    whole = path.read_bytes()
    rewritten(path, lambda facts, tensors: None)
    run.restore()
    for fact in ("iteration", "config", "history", "seconds", "tensors"):
        for change in (
            lambda facts, _, fact=fact: facts.pop(fact),
            lambda facts, _, fact=fact: facts.update({fact: None}),
        ):
            path.write_bytes(whole)
            rewritten(path, change)
            with pytest.raises(InputError, match=r"not a checkpoint of ours .*again without --resume"):
                run.restore()
    with safe_open(path, framework="pt") as file:
        names = list(file.keys())
    for prefix in ("method.", "ema.vnet.", "ema.resvnet.", "rng.cpu"):
        name = next(n for n in names if n.startswith(prefix))
        path.write_bytes(whole)
        rewritten(path, lambda _, tensors, name=name: tensors.pop(name))
        with pytest.raises(InputError, match=f"the checkpoint lacks the tensor '{name}'"):
            run.restore()
        path.write_bytes(whole)
        rewritten(path, lambda _, tensors, name=name: tensors.update({name: torch.zeros(3, 5)}))
        with pytest.raises(InputError, match="the checkpoint does not fit this run"):
            run.restore()
    path.write_bytes(save({"a": torch.zeros(1)}, metadata={"state": "[" * 100_000}))
    with pytest.raises(InputError, match="nested too deep"):
        run.restore()
    path.write_bytes(save({"a": torch.zeros(1)}))
    with pytest.raises(InputError, match="not a checkpoint of ours"):
        run.restore()


SCORED = {"iteration": 0, "candidate": "vnet", "dice": 0.5, "jaccard": 0.4, "hd95_vox": 1.0, "asd_vox": 1.0}
ORIGIN = {"bundle": "toy", "networks": ["vnet"], "weights_sha256": {"vnet": "00"}, "iterations": 1}


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"iteration": -1}, "iteration = -1"),
        ({"iteration": True}, "iteration = True"),
        ({"iteration": 10**30}, "iteration = 1000"),
        ({"iteration": 9}, "it is at iteration 9 of 8"),
        ({"seconds": math.inf}, "seconds = inf"),
        ({"seconds": -1.0}, r"seconds = -1\.0"),
        ({"seconds": 10**400}, "seconds = 1000"),
        ({"history": [{"iteration": 0}]}, "no known kind"),
        ({"history": [{"dice": 0.5}]}, "'iteration' is missing"),
        ({"history": [SCORED | {"iteration": "4"}]}, "iteration = '4'"),
        ({"history": [SCORED | {"dice": None}]}, "dice = None"),
        ({"history": [SCORED | {"unlearnt": 5}]}, "unlearnt = 5"),
        ({"history": [{"iteration": 0, "precision": 3, "why": ""}]}, "precision = 3"),
        ({"history": [{"iteration": 0, "initialized_from": ORIGIN}]}, r"initialized_from\.seconds"),
        ({"history": [{"iteration": 0, "teacher": {"masks": "m"}}]}, "teacher"),
        ({"history": [{"iteration": 0, "changed": {"run.patience": 3}}]}, "changed"),
    ],
)
def test_facts_that_no_run_writes_are_refused(
    toy_config: Path, tmp_path: Path, facts: dict[str, Any], message: str
) -> None:
    run = Run(load_config(toy_config), tmp_path)
    run.save()
    rewritten(tmp_path / checkpoint.FILE, lambda stated, _: stated.update(facts))
    with pytest.raises(InputError, match=f"{message}.*again without --resume"):
        run.restore()


def test_every_record_of_a_run_is_read_again(toy_config: Path, tmp_path: Path) -> None:
    run = Run(load_config(toy_config), tmp_path)
    taught = {"bundle": "toy", "networks": 2, "weights_sha256": ["00", "11"]}
    records = [
        SCORED | {"hd95_vox": math.nan, "asd_vox": math.nan, "empty": 1, "masks": 1, "unlearnt": ["ball"]},
        SCORED | {"infinite": 1},
        {"iteration": 0, "precision": "float32", "why": "no units"},
        {"iteration": 0, "warning": "all is empty"},
        {"iteration": 0, "initialized_from": ORIGIN | {"seconds": 1}},
        {"iteration": 0, "teacher": taught},
        {"iteration": 0, "teacher": {"masks": "m", "cases": 1, "sha256": "00"}},
        {"iteration": 0, "changed": {"run.patience": [0, 3], "networks.ship": [[], ["a"]]}},
    ]
    run.history = History(records)
    run.note_cases(Splits(("a",), ("b",), ("c",)))
    before = repr(run.history.records)
    run.save()
    run.restore()
    assert repr(run.history.records) == before


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("optim.main.0.momentum_buffer", [3]), ("optim.main.9999.momentum_buffer", [3]),
        ("optim.main.9999.step", []), ("optim.main.-1.step", []), ("best.vnet.a", [3]), ("first.vnet.a", [3]),
    ],
)  # fmt: skip
def test_tensors_that_fit_nowhere_are_refused(
    toy_config: Path, tmp_path: Path, name: str, shape: list[int]
) -> None:
    run = Run(load_config(toy_config), tmp_path)
    run.save()
    rewritten(tmp_path / checkpoint.FILE, lambda _, tensors: tensors.update({name: torch.zeros(shape)}))
    with pytest.raises(InputError, match="the checkpoint does not fit this run"):
        run.restore()


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        (["method=supervised", "run.labelled_batch=1"], "labelled_batch"),
        (["run.warm_batch=1"], "warm_batch"),
        (["method=uamt"], "unlabelled_batch"),
        (["method=bcp", "bcp.pretraining=0", "run.labelled_batch=1"], "unlabelled_batch"),
        (["method=sdcl", "sdcl.pretraining=0.5", "run.unlabelled_batch=2"], "warm_batch"),
    ],
)
def test_one_crop_of_one_voxel_on_the_coarsest_level_is_refused(
    toy_config: Path, tmp_path: Path, changes: list[str], key: str
) -> None:
    """Batch norm cannot normalise a single value; a crop twice as long has two voxels on that level."""
    with pytest.raises(ConfigError, match=rf"run\.{key} = .*one voxel of it on the coarsest level"):
        load_config(toy_config, [*changes, "task.patch=[16, 16, 16]"])
    run = Run(load_config(toy_config, [*changes, "task.patch=[32, 16, 16]"]), tmp_path)
    run.step(sampler(toy_config).batch(0, run.method.views(0)))


def test_disk_full_leaves_the_checkpoint_before(toy_config: Path, tmp_path: Path) -> None:
    """RLIMIT_FSIZE, set below the checkpoint's size, makes a real write fail."""
    run = Run(load_config(toy_config), tmp_path)
    run.save()
    before = (tmp_path / checkpoint.FILE).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(InputError, match=r"cannot be written \(File too large\)"):
            run.save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert (tmp_path / checkpoint.FILE).read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.FILE]


def test_two_runs_do_not_write_into_one_folder(toy_config: Path, tmp_path: Path) -> None:
    with hold(tmp_path):
        refused = command.run("train", toy_config, "-o", tmp_path)
    assert refused.returncode == 2
    assert "another run writes into this folder" in refused.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_is_resumed_with_the_cases_that_it_began_with(toy_config: Path, tmp_path: Path) -> None:
    """Crops are drawn by the position of cases in the lists: another case would silently change the run."""
    index = json.loads((toy_config.parent / "dataset.json").read_text())
    for name in ("imagesTr", "labelsTr"):
        (tmp_path / name).symlink_to(toy_config.parent / name)
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    words = ["train", toy_config, "-o", tmp_path / "run", "--set", f"data.folder={tmp_path}"]
    words += ["--set", "method=supervised", "--set", "run.iterations=2"]
    assert command.run(*words).returncode == 0
    assert command.run(*words, "--resume").returncode == 0
    index["unlabelled"].append(index["labelled"].pop())
    (tmp_path / "dataset.json").write_text(json.dumps(index))
    refused = command.run(*words, "--resume")
    assert refused.returncode == 2
    assert "the run began with the cases {'labelled': 2" in refused.stderr


def start(config: Path, out: Path, *more: str) -> forked.Process:
    words = ["train", config, "-o", out, *more]
    return forked.Process(words, stdout=forked.PIPE, stderr=forked.STDOUT, imports=forked.TRAIN)


def test_killed_and_resumed_is_bit_for_bit_unbroken(toy_config: Path, tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    killed = start(toy_config, broken)
    while not (broken / checkpoint.FILE).exists():
        assert killed.poll() is None, killed.communicate()[0]
        time.sleep(0.01)
    os.kill(killed.pid, signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    assert checkpoint.read(broken).iteration < 8
    refused = command.run("train", toy_config, "-o", broken)
    assert "already holds a run" in refused.stderr
    assert refused.returncode == 2
    for words in ((whole,), (broken, "--resume")):
        answer = command.run("train", toy_config, "-o", *words)
        assert answer.returncode == 0, answer.stderr
    one, two = (ModelBundle.load(folder / "bundle") for folder in (whole, broken))
    assert one.manifest.files["model.safetensors"] == two.manifest.files["model.safetensors"]
    assert one.manifest.files["secondary.safetensors"] == two.manifest.files["secondary.safetensors"]
    assert checkpoint.read(whole).history == checkpoint.read(broken).history
    assert list((broken / "events").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_says_the_command_that_goes_on(toy_config: Path, tmp_path: Path, how: int) -> None:
    out = tmp_path / "run of mine"
    stopped = start(toy_config, out, "--set", "run.iterations=500")
    while not (out / checkpoint.FILE).exists():
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.01)
    stopped.send_signal(how)
    said = stopped.communicate()[0]
    assert stopped.returncode == 128 + how
    assert "the same command goes on" not in said
    line = said.split("go on from the last checkpoint with: ")[1].strip()
    assert line.startswith("c3s3-seg train ")
    words = shlex.split(line)[1:]
    assert words[-1] == "--resume"
    at = checkpoint.read(out).iteration
    longer = f"run.iterations={max(at + 1, 4)}"  # a short rest; the length may change
    resumed = command.run(*words, "--set", longer)
    assert resumed.returncode == 0, resumed.stderr


def test_a_run_that_is_stopped_before_its_first_checkpoint_begins_anew(
    toy_config: Path, tmp_path: Path
) -> None:
    long = ["--set", "run.iterations=500", "--set", "run.checkpoint_every=500"]
    stopped = start(toy_config, tmp_path, *long, "--set", "run.validate_every=500")
    while not list((tmp_path / "events").glob("*")):
        assert stopped.poll() is None, stopped.communicate()[0]
        time.sleep(0.01)
    stopped.send_signal(signal.SIGINT)
    said = stopped.communicate()[0]
    assert stopped.returncode == 130
    assert "there is no checkpoint yet; the same command begins anew" in said


def test_heads_that_join_after_the_warm_start_learn(toy_config: Path, tmp_path: Path) -> None:
    """The heads have no momentum yet when the other parameters do, which once stopped a run in the middle."""
    run = Run(load_config(toy_config), tmp_path)
    draw = sampler(toy_config)
    before = run.method.project_a[0].weight.clone()  # type: ignore[index,union-attr]
    for iteration in range(5):
        run.step(draw.batch(iteration, run.method.views(iteration)))
    assert not torch.equal(before, run.method.project_a[0].weight)  # type: ignore[index,union-attr]


def test_a_run_may_go_on_where_its_data_have_moved(toy_config: Path, tmp_path: Path) -> None:
    Run(load_config(toy_config, ["data.folder=here"]), tmp_path).save()
    moved = Run(load_config(toy_config, ["data.folder=there"]), tmp_path)
    moved.restore()
    assert moved.history.records == [{"iteration": 0, "changed": {"data.folder": ["here", "there"]}}]


def test_a_run_may_be_lengthened_and_says_so(toy_config: Path, tmp_path: Path) -> None:
    Run(load_config(toy_config), tmp_path).save()
    longer = Run(load_config(toy_config, ["run.iterations=9"]), tmp_path)
    longer.restore()
    assert longer.history.records == [{"iteration": 0, "changed": {"run.iterations": [8, 9]}}]
