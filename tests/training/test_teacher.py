"""A teacher: a bundle's soft targets (distillation), or masks that `predict` wrote (a second generation)."""

import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.to_scan import to_scan
from torch import Tensor

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.inference.backends.runtimes import TorchBackend, load_torch
from c3s3_seg.inference.predictor import Predictor
from c3s3_seg.inference.settings import Settings, tiled
from c3s3_seg.io import load, save
from c3s3_seg.training.config import TrainConfig, load_config
from c3s3_seg.training.data import Sampler, Views
from c3s3_seg.training.folds import read_splits
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.losses import seg_terms, taught_loss
from c3s3_seg.training.methods import build_method
from c3s3_seg.training.planning.draft_timer import Constraints
from c3s3_seg.training.planning.plan import make_plan
from c3s3_seg.training.run import Run
from c3s3_seg.training.settings import TeacherConfig
from c3s3_seg.training.teacher import BundleTeacher, MaskTeacher, Teacher, open_teacher
from c3s3_seg.training.train import train

SHORT = ["run.iterations=2", "run.validate_every=2", "c3s3.warm_up=1"]
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(small_crops: Path, tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    """Return a bundle of two networks of the toy task, hardly trained."""
    return train(load_config(small_crops, SHORT), tmp_path_factory.mktemp("taught-by"), Silent())


@pytest.fixture
def masks(toy_data: Path, tmp_path: Path) -> Path:
    """Write masks of the unlabelled cases, as if predicted; return their folder."""
    folder = tmp_path / "masks"
    folder.mkdir()
    for name in ("ball-2", "ball-3"):
        shutil.copy(toy_data / "labelsTr" / f"{name}.nii.gz", folder)
    return folder


def voxels(*values: float) -> Tensor:
    """Return class probabilities: foreground values along x -> (1, 2, n, 1, 1)."""
    p = torch.tensor(values).reshape(1, 1, -1, 1, 1)
    return torch.cat([1 - p, p], dim=1)


def opened(config: TrainConfig, folder: Path) -> tuple[Teacher, Sampler]:
    data, splits = read_splits(config.data)
    teacher = open_teacher(config, data, splits, folder, CPU)
    assert teacher is not None
    teacher.prepare(splits.labelled + splits.unlabelled)
    return teacher, Sampler.of(config, data, splits, teach=teacher)


def test_the_loss_at_a_temperature_by_hand() -> None:
    logits, target = voxels(0.9).log(), voxels(0.6)
    first = seg_terms([logits], target).loss.item()
    assert taught_loss([logits], target, 1.0).item() == first
    soft = [math.sqrt(p) / (math.sqrt(0.6) + math.sqrt(0.4)) for p in (0.4, 0.6)]
    own = [math.sqrt(p) / (math.sqrt(0.9) + math.sqrt(0.1)) for p in (0.1, 0.9)]
    ce = -4 * sum(y * math.log(p) for y, p in zip(soft, own, strict=True))
    dice = 1 - 2 * 0.9 * 0.6 / (0.9**2 + 0.6**2)
    assert taught_loss([logits, logits], target, 2.0).item() == pytest.approx(ce + dice, rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_the_loss_is_smallest_where_the_network_answers_as_the_teacher(temperature: float) -> None:
    target = voxels(0.6, 0.05, 0.5)
    logits = target.log().requires_grad_()
    (gradient,) = torch.autograd.grad(taught_loss([logits], target, temperature), [logits])
    # Cross-entropy and Dice are both stationary there; the rest is Dice's smoothing and float32 rounding.
    assert gradient.abs().max() < 1e-4
    off = (target.log() + torch.tensor([0.5, -0.5]).reshape(1, 2, 1, 1, 1)).requires_grad_()
    assert torch.autograd.grad(taught_loss([off], target, temperature), [off])[0].abs().max() > 1e-2
    for extreme in (0.0, 1.0):  # an empty and a full mask
        sure = voxels(extreme, extreme, extreme)
        found = torch.autograd.grad(taught_loss([logits], sure, temperature), [logits])[0]
        assert torch.isfinite(found).all()


def test_masks_are_targets_of_the_unlabelled_crops_only(
    small_crops: Path, masks: Path, tmp_path: Path
) -> None:
    config = load_config(small_crops, ["method=supervised", f"teacher.masks={masks}", "networks.dropout=0.0"])
    teacher, draw = opened(config, tmp_path)
    assert [case.taught for case in (*draw.labelled, *draw.unlabelled)] == [0, 0, 2, 2]
    assert all(len(case.foreground) for case in draw.unlabelled)  # so crops show it equally often
    method = build_method(config).train()
    batch = draw.batch(4, replace(method.views(4), labelled=2, unlabelled=2))
    assert (batch.target.shape[0], batch.taught.shape) == (2, (2, 2, 32, 16, 16))
    # Balls are bright: targets and image are sampled together.
    inside = batch.taught[:, 1] > 0.99
    assert inside.any()
    assert batch.views[0][2:, 0][inside].mean() > batch.views[0][2:, 0][~inside].mean() + 1
    torch.testing.assert_close(batch.taught.sum(1), torch.ones(2, 32, 16, 16))
    (phase,) = method.step(batch, 4)
    logits = method.net(batch.views[0])  # type: ignore[operator]
    wanted = seg_terms([logits[:2]], batch.target).loss + seg_terms([logits[2:]], batch.taught).loss
    assert phase.loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert teacher.record["cases"] == 2


def test_every_unlabelled_case_has_one_mask(small_crops: Path, masks: Path) -> None:
    config = load_config(small_crops)
    data, splits = read_splits(config.data)
    (masks / "ball-3.nii.gz").rename(masks / "ball-9.nii.gz")
    with pytest.raises(
        InputError, match="found 0 masks of the unlabelled case 'ball-3', wanted one"
    ) as error:
        MaskTeacher(masks, config.task, data, splits.unlabelled)
    assert "predict" in str(error.value.todo)
    shutil.copy(masks / "ball-9.nii.gz", masks / "ball-3.nii.gz")
    shutil.copy(masks / "ball-9.nii.gz", masks / "ball-3.seg.nii.gz")
    with pytest.raises(InputError, match="found 2 masks of the unlabelled case 'ball-3'"):
        MaskTeacher(masks, config.task, data, splits.unlabelled)


def test_an_empty_predicted_mask_is_refused(small_crops: Path, masks: Path, tmp_path: Path) -> None:
    mask = load(masks / "ball-2.nii.gz")
    save(mask.geometry.volume((0 * mask.array).astype("uint8")), masks / "ball-2.nii.gz")
    with pytest.raises(InputError, match="the mask is empty"):
        opened(load_config(small_crops, [f"teacher.masks={masks}"]), tmp_path)


@pytest.mark.slow
def test_a_second_generation_counts_no_case_as_labelled(
    small_crops: Path, masks: Path, tmp_path: Path
) -> None:
    changes = ["method=supervised", "run.iterations=2", "run.validate_every=2"]
    plain = train(load_config(small_crops, changes), tmp_path / "plain", Silent())
    config = load_config(small_crops, [*changes, f"teacher.masks={masks}"])
    taught = train(config, tmp_path / "run", Silent())
    facts, before = taught.manifest.training, plain.manifest.training
    assert facts["cases"] == {"labelled": 2, "unlabelled": 2, "validation": 1}
    assert before["cases"]["unlabelled"] == 0
    assert before["teacher"] is None
    assert facts["teacher"]["cases"] == 2
    card = (taught.folder / "README.md").read_text()
    assert "2 labelled, 2 unlabelled, 1 validation cases" in card
    assert "**Pseudo-labels**: predicted masks of 2 unlabelled cases, weight 1" in card
    assert "Pseudo-labels" not in (plain.folder / "README.md").read_text()
    ours, theirs = taught.task.domain, plain.task.domain
    assert ours is not None
    assert theirs is not None
    assert ours.volume_ml == theirs.volume_ml  # from labelled cases alone
    assert (ours.scans, theirs.scans) == (4, 2)


def test_a_resumed_run_has_the_teacher_that_it_began_with(
    small_crops: Path, masks: Path, tmp_path: Path
) -> None:
    config = load_config(small_crops, [f"teacher.masks={masks}", "method=supervised"])
    run = Run(config, tmp_path / "run")
    run.note_teacher(opened(config, tmp_path)[0].record)
    (tmp_path / "run").mkdir()
    run.save()
    again = Run(config, tmp_path / "run")
    again.restore()
    again.note_teacher(opened(config, tmp_path)[0].record)
    assert len(again.history.kind("teacher")) == 1
    masks = masks.rename(tmp_path / "moved")
    config = replace(config, teacher=replace(config.teacher, masks=str(masks)))
    elsewhere = Run(config, tmp_path / "run")
    elsewhere.restore()
    elsewhere.note_teacher(opened(config, tmp_path)[0].record)
    assert len(elsewhere.history.kind("teacher")) == 1
    shutil.copy(masks / "ball-2.nii.gz", masks / "ball-3.nii.gz")
    with pytest.raises(InputError, match="the run began with the teacher"):
        elsewhere.note_teacher(opened(config, tmp_path)[0].record)
    with pytest.raises(InputError, match=r"with other settings \(teacher\.masks\)"):
        Run(replace(config, teacher=TeacherConfig()), tmp_path / "run").restore()


def predicted(bundle: ModelBundle, scan: Path) -> tuple[Tensor, Tensor]:
    """Return the ball's probability on the scan's grid, and the mask, as the normal predictor gives them."""
    backends = [TorchBackend(load_torch(home, network)) for home, network in bundle.members()]
    settings = tiled(Settings(probabilities=True), "accurate")
    found = Predictor(replace(bundle.task, domain=None), backends, settings)(load(scan))
    return torch.from_numpy(found.probabilities["ball"].array), found.mask.array


def test_soft_targets_are_what_the_ensemble_predicts(
    small_crops: Path, bundle: ModelBundle, toy_data: Path, tmp_path: Path
) -> None:
    config = load_config(small_crops, [f"teacher.bundle={bundle.folder}"])
    teacher, _ = opened(config, tmp_path)
    scan = load(toy_data / "imagesTr" / "ball-0.nii.gz")
    target = teacher("ball-0", scan)
    assert target is not None
    on_scan = torch.from_numpy(to_scan(target[1].numpy(), scan.geometry))
    wanted, _ = predicted(bundle, toy_data / "imagesTr" / "ball-0.nii.gz")
    assert wanted.std() > 0.005  # not constant
    # Half precision rounds numbers up to 1 by up to 2^-11 = 0.0005.
    torch.testing.assert_close(on_scan, wanted, atol=6e-4, rtol=0)
    torch.testing.assert_close(target.sum(0), torch.ones(target.shape[1:]))


def test_a_teacher_whose_probabilities_stay_on_a_device_says_the_same(
    small_crops: Path, bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(small_crops)
    data, _ = read_splits(config.data)
    teacher = BundleTeacher(bundle, config.task, data, tmp_path, CPU)
    scan, own = load(data.scan("ball-0")), teacher._predictor()
    wanted = teacher._segment(own, scan)
    device = Predictor(own.task, own.backends, replace(own.settings, on_device=True))

    def refuse(self: Tensor, dtype: object = None) -> None:
        raise TypeError("can't convert a tensor of a GPU to numpy")

    monkeypatch.setattr(Tensor, "__array__", refuse)  # as torch does on CUDA
    # Half precision of numbers up to 1; the softmax of the other library may change their rounding.
    torch.testing.assert_close(teacher._segment(device, scan), wanted, atol=6e-4, rtol=0)


def test_the_cache_is_used_and_never_trusted(small_crops: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    config = load_config(small_crops)
    data, _ = read_splits(config.data)
    teacher = BundleTeacher(bundle, config.task, data, tmp_path, CPU)
    teacher.prepare(["ball-0"])
    path = tmp_path / "teacher" / "ball-0.safetensors"
    whole, made = path.read_bytes(), path.stat()
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    teacher.prepare(["ball-0"])
    assert path.stat().st_ino == made.st_ino  # not written again
    flipped = whole[:-1] + bytes([whole[-1] ^ 1])  # the format has no checksum
    renamed = whole.replace(b'"of":"', b'"of":"x')[: len(whole)]
    for damaged in (b"", whole[:200], renamed, b"\xff" * 64, flipped):
        path.write_bytes(damaged)
        teacher.prepare(["ball-0"])
        assert path.read_bytes() == whole
    path.unlink()
    os.mkfifo(path)  # opening it would block
    teacher.prepare(["ball-0"])
    assert path.read_bytes() == whole
    # Cached probabilities of another scan, or of other networks, are not used.
    shutil.copy(path, path.with_name("ball-1.safetensors"))
    with pytest.raises(InputError, match="no probabilities of 'ball-1' are kept"):
        teacher("ball-1", load(data.scan("ball-1")))
    teacher.record["weights_sha256"] = ["other"]
    with pytest.raises(InputError, match="no probabilities of 'ball-0' are kept"):
        teacher("ball-0", load(data.scan("ball-0")))


def test_kept_probabilities_of_another_grid_are_refused(
    small_crops: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    config = load_config(small_crops)
    data, _ = read_splits(config.data)
    teacher = BundleTeacher(bundle, config.task, data, tmp_path, CPU)
    teacher.prepare([])
    teacher._keep("ball-0", torch.zeros(1, 3, 3, 3).half())
    with pytest.raises(InputError, match=r"have the shape \(1, 3, 3, 3\), and the scan") as error:
        teacher("ball-0", load(data.scan("ball-0")))
    assert error.value.where == tmp_path / "teacher" / "ball-0.safetensors"


def test_a_link_in_the_place_of_the_cache_is_refused(
    small_crops: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "teacher").symlink_to(tmp_path / "elsewhere")
    config = load_config(small_crops, [f"teacher.bundle={bundle.folder}"])
    with pytest.raises(InputError, match="is a symbolic link"):
        train(config, tmp_path / "run", Silent())
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.slow
def test_distillation_learns_from_all_scans_and_resumes_as_if_unbroken(
    small_crops: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    for name in ("supervised", "c3s3"):
        changes = [f"method={name}", f"teacher.bundle={bundle.folder}", "teacher.temperature=2"]
        config = load_config(small_crops, [*changes, "run.unlabelled_batch=2", "c3s3.warm_up=1"])
        _, draw = opened(config, tmp_path)
        folder = tmp_path / name
        folder.mkdir()

        def steps(run: Run, draw: Sampler = draw) -> list[dict[str, float]]:
            views: list[Views] = [run.method.views(run.iteration + n) for n in (0, 1)]
            batches = [draw.batch(run.iteration + n, views[n]) for n in (0, 1)]
            assert all(len(batch.taught) == len(batch.views[0]) for batch in batches)
            return [run.step(batch) for batch in batches]

        run = Run(config, folder)
        first = steps(run)
        assert all(math.isfinite(value) for terms in first for value in terms.values())
        run.save()
        expected = steps(run)
        again = Run(config, folder)
        again.restore()
        assert steps(again) == expected
        unbroken = run.method.state_dict()
        assert all(torch.equal(v, unbroken[k]) for k, v in again.method.state_dict().items())


@pytest.mark.slow
def test_the_card_names_the_teacher(small_crops: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    changes = ["method=supervised", "run.iterations=2", "run.validate_every=2", "teacher.weight=0.5"]
    config = load_config(small_crops, [*changes, f"teacher.bundle={bundle.folder}"])
    student = train(config, tmp_path / "run", Silent())
    record = student.manifest.training["teacher"]
    assert record["weights_sha256"] == [bundle.manifest.files[n.weights] for n in bundle.networks]
    card = (student.folder / "README.md").read_text()
    assert "**Distilled**: the mean probabilities of the 2 networks of the bundle `toy`" in card
    assert record["weights_sha256"][0][:16] in card
    assert "weight 0.5, temperature 1." in card
    assert len(student.networks) == 1
    assert json.loads(json.dumps(record)) == record


def test_a_teacher_of_another_task_is_refused(small_crops: Path, bundle: ModelBundle, tmp_path: Path) -> None:
    named = f"teacher.bundle={bundle.folder}"
    for change, message in (
        ("task.recipe.spacing_mm=[2.0, 2.0, 2.0]", "task.recipe: the bundle has"),
        ('task.labels=[{name="other", value=1}]', "task.labels: the bundle has"),
        ("task.modality=CT", "task.modality: the bundle has MR"),
    ):
        config = load_config(small_crops, [named, change])
        data, splits = read_splits(config.data)
        with pytest.raises(InputError, match=message):
            open_teacher(config, data, splits, tmp_path, CPU)
    config = load_config(small_crops, ["teacher.bundle=no-such-model"])
    data, splits = read_splits(config.data)
    with pytest.raises(InputError, match="there is no model"):
        open_teacher(config, data, splits, tmp_path, CPU)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["teacher.bundle=a", "teacher.masks=b"], "wanted one of them"),
        (
            ["teacher.bundle=a", "method=uamt"],
            "'uamt' learns from no bundle or masks, wanted one of supervised, c3s3, mcf",
        ),
        (["teacher.masks=a", "teacher.temperature=2"], "masks have no probabilities, wanted 1"),
        (["teacher.masks=a", "data.unlabelled_stream=all"], "labelled cases have labels"),
        (["teacher.weight=-1"], r"teacher\.weight = -1"),
        (["teacher.temperature=0"], r"teacher\.temperature = 0"),
        (["teacher.name=a"], r"no key 'teacher\.name'"),
    ],
)
def test_a_wrong_teacher_is_named(small_crops: Path, changes: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(small_crops, changes)


def test_a_plan_has_no_teacher(toy_data: Path) -> None:
    with pytest.raises(ConfigError, match="a plan measures steps without a teacher"):
        make_plan(toy_data, Constraints(3600), ["teacher.masks=masks"], lambda text: None)


def test_with_every_case_labelled_the_crops_come_from_all(
    small_crops: Path, bundle: ModelBundle, tmp_path: Path
) -> None:
    named = ["method=supervised", "data.fully_supervised=true", f"teacher.bundle={bundle.folder}"]
    config = load_config(small_crops, [*named, "data.unlabelled_stream=all"])
    _, draw = opened(config, tmp_path)
    assert (len(draw.labelled), len(draw.unlabelled)) == (4, 4)
    assert [len(case.stack) for case in (draw.labelled[0], draw.unlabelled[0])] == [5, 3]
    assert torch.equal(draw.labelled[0].stack[3:], draw.unlabelled[0].stack[1:])
    with pytest.raises(InputError, match="names no unlabelled case"):
        opened(load_config(small_crops, named), tmp_path)
