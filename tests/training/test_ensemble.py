"""Folds, and the bundle of their winners."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import command

from c3s3_seg.bundle import Label, ModelBundle
from c3s3_seg.errors import InputError
from c3s3_seg.export.metadata import weights
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.export.standalone import averaged
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.inference import Settings, open_predictor
from c3s3_seg.inference.backends.runtimes import TorchBackend, load_torch
from c3s3_seg.inference.tiling import softmax
from c3s3_seg.metrics.scoring import score
from c3s3_seg.training.bundles.domain import merge_domains
from c3s3_seg.training.bundles.ensemble import _member, ensemble_card, make_ensemble
from c3s3_seg.training.bundles.initialize import initialize_from
from c3s3_seg.training.config import load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import train

pytestmark = pytest.mark.slow

COUNT = 4
CHANGES = [
    "method=supervised",
    "networks.a.filters=2",
    "networks.b.filters=2",
    "task.patch=[32, 32, 32]",
    "run.labelled_batch=1",
    "run.iterations=2",
    "networks.dropout=0.0",
    "run.device=cpu",
    "data.labelled=3",
    "data.note=three layers",
    'task.labels=[{name="core", value=1}, {name="middle", value=2}, {name="shell", value=5}]',
]


@pytest.fixture(scope="module")
def folds(layers_data: Path, tmp_path_factory: pytest.TempPathFactory) -> list[ModelBundle]:
    """Train the shipped pancreas configuration, shrunk: four folds of four labelled cases, three classes."""
    folder = tmp_path_factory.mktemp("folds")
    found = []
    for number in range(1, COUNT + 1):
        changes = [
            *CHANGES,
            f"data.folder={layers_data}",
            f"data.fold={number}/{COUNT}",
            f"run.seed={number}",
        ]
        config = load_config(Path("pancreas"), changes)
        found.append(train(config, folder / str(number), Silent()))
    return found


@pytest.fixture(scope="module")
def made(folds: list[ModelBundle], tmp_path_factory: pytest.TempPathFactory) -> ModelBundle:
    return make_ensemble(folds, tmp_path_factory.mktemp("made") / "bundle")


def test_each_fold_is_judged_by_its_own_case(folds: list[ModelBundle]) -> None:
    judged = [next(iter(bundle.manifest.training["validation_cases"].values())) for bundle in folds]
    assert sorted(case for cases in judged for case in cases) == [f"layers-{n}" for n in range(COUNT)]
    assert "**Fold** 1/4 of the labelled cases" in (folds[0].folder / "README.md").read_text()


def test_the_best_fold_leads_and_weights_are_copied(folds: list[ModelBundle], made: ModelBundle) -> None:
    facts = made.manifest.training
    dice = [member["scores"]["dice"] for member in facts["ensemble"]]
    assert dice == sorted(dice, reverse=True)
    assert made.networks[0].stem == "model"
    others = [f"fold-{member['fold'][0]}" for member in facts["ensemble"][1:]]
    assert [network.stem for network in made.networks][1:] == others
    hashes = {bundle.manifest.files["model.safetensors"] for bundle in folds}
    assert {made.manifest.files[network.weights] for network in made.networks} == hashes
    assert ModelBundle.load(made.folder).manifest == made.manifest
    mean = facts["cross_validated"]["dice"]["mean"]
    assert mean == pytest.approx(np.mean(dice), abs=1e-4)
    card = (made.folder / "README.md").read_text()
    assert f"Cross-validated over 4 folds, mean ± standard deviation over folds: Dice {mean:.3f}" in card
    for member in facts["ensemble"]:
        assert f"| {member['fold']} | last | {member['scores']['dice']:.3f} |" in card


def test_the_card_says_what_is_empty_and_infinite(folds: list[ModelBundle]) -> None:
    member = _member(folds[0])
    counted = replace(member, empty=2, infinite=1, masks=6)
    card = ensemble_card([counted, member])
    assert f"{member.network.weights}: 2 of 6 masks are empty and count as (0, 0, 0, 0)." in card
    assert f"{member.network.weights}: 1 infinite distances" in card
    nothing = {"dice": 0.0, "jaccard": 0.0, "hd95_vox": math.nan, "asd_vox": math.nan}
    card = ensemble_card([replace(counted, empty=6, scores=nothing), member])
    assert f"{member.network.weights}: 6 of 6 masks are empty and have no distance." in card
    assert "| 0.000 | 0.000 | none | none |" in card
    assert "are empty" not in ensemble_card([member, member])
    record = {
        "candidate": member.network.candidate,
        "dice": 0,
        "jaccard": 0,
        "hd95_vox": "inf",
        "asd_vox": None,
    }
    training = {"validation_last": [record | {"empty": 3, "masks": 4, "infinite": 5}]}
    bundle = replace(folds[0], manifest=replace(folds[0].manifest, training=training))
    again = _member(bundle)
    assert (again.empty, again.masks, again.infinite) == (3, 4, 5)


def test_weights_selected_by_their_scores_are_said_and_have_their_own_cases(
    folds: list[ModelBundle], tmp_path: Path
) -> None:
    """The figures of each case were those of the last weights, beside means of the best ones."""
    assert "optimistic" not in ensemble_card([_member(bundle) for bundle in folds])
    name = folds[0].networks[0].candidate
    cases = {name: {"layers-0": {"core": {"dice": 0.25}}}}
    first = copy(folds[0], tmp_path / "best", kept="best", validation_kept_cases=cases)
    made = make_ensemble([first, folds[1]], tmp_path / "made")
    found = {member["fold"]: member["stem"] for member in made.manifest.training["ensemble"]}
    assert made.manifest.training["validation_cases"][found["1/4"]] == cases[name]
    assert set(made.manifest.training["validation_cases"]) == set(found.values())
    weights = next(one.weights for one in made.networks if one.stem == found["1/4"])
    card = (made.folder / "README.md").read_text()
    assert f"The weights of {weights} were selected by these scores" in card
    assert "scores and their means are optimistic" in card
    both = [_member(replace(bundle, manifest=first.manifest)) for bundle in folds]
    assert "The weights of every member were selected" in ensemble_card(both)


def test_the_domain_spans_those_of_the_members(folds: list[ModelBundle], made: ModelBundle) -> None:
    known = [bundle.task.domain for bundle in folds]
    assert all(domain is not None and domain.scans >= 3 for domain in known)
    assert made.task.domain == merge_domains(known)


def test_the_mean_of_all_makes_the_mask(made: ModelBundle, noise: Volume) -> None:
    keep = Settings(probabilities=True)
    alone = [
        open_predictor(only(made, n), settings=keep)(noise, allow_out_of_domain=True).probabilities
        for n in range(COUNT)
    ]
    together = open_predictor(made, ensemble=True, settings=keep)(
        noise, allow_out_of_domain=True
    ).probabilities
    for label in ("core", "middle", "shell"):
        expected = np.mean([answer[label].array for answer in alone], axis=0)
        np.testing.assert_allclose(together[label].array, expected, atol=1e-5)


def test_doubt_is_the_first_against_the_mean_of_the_others(made: ModelBundle, noise: Volume) -> None:
    found = open_predictor(made, settings=Settings(uncertainty=True))(noise, allow_out_of_domain=True)
    first = open_predictor(only(made, 0))(noise, allow_out_of_domain=True)
    rest = replace(made, manifest=replace(made.manifest, networks=made.networks[1:]))
    others = open_predictor(rest, ensemble=True)(noise, allow_out_of_domain=True)
    np.testing.assert_array_equal(found.mask.array, first.mask.array)
    assert found.uncertainty is not None
    for label, value in made.task.label_values.items():
        a, b = (x.mask.geometry.volume((x.mask.array == value).astype(np.uint8)) for x in (first, others))
        if a.array.any() and b.array.any():
            assert found.uncertainty.hd95_mm[label] == pytest.approx(score(a, b).hd95_mm)


def only(bundle: ModelBundle, place: int) -> ModelBundle:
    return replace(bundle, manifest=replace(bundle.manifest, networks=bundle.networks[place : place + 1]))


def test_all_networks_go_into_the_mean_that_is_exported(made: ModelBundle) -> None:
    """The module to be traced gives the mean; test_write.py traces two networks and compares with torch."""
    members = GraphSpec(ensemble=True).members(made)
    patches = np.random.default_rng(0).normal(size=(2, 1, 32, 32, 32)).astype(np.float32)
    with torch.inference_mode():
        found = averaged(members)(torch.from_numpy(patches)).numpy()
    alone = [softmax(TorchBackend(load_torch(*member))(patches)) for member in members]
    np.testing.assert_allclose(found, np.mean(alone, axis=0), atol=1e-5)
    assert len(weights(members)) == COUNT
    for n in range(COUNT):  # without any one of them the mean differs
        assert np.abs(np.mean(alone[:n] + alone[n + 1 :], axis=0) - found).max() > 1e-3


def test_a_run_begins_from_the_first_of_a_kind(made: ModelBundle, layers_data: Path, tmp_path: Path) -> None:
    config = load_config(Path("pancreas"), [*CHANGES, f"data.folder={layers_data}"])
    run = Run(config, tmp_path)
    initialize_from(run, made)
    taken = run.history.first("initialized_from")["weights_sha256"]
    assert taken == {"vnet": made.manifest.files["model.safetensors"]}


def copy(bundle: ModelBundle, folder: Path, **training: object) -> ModelBundle:
    shutil.copytree(bundle.folder, folder)
    manifest = replace(bundle.manifest, training={**bundle.manifest.training, **training})
    return ModelBundle(folder, manifest)


def test_what_is_no_ensemble(folds: list[ModelBundle], two_nets: ModelBundle, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"of 1 bundle\(s\): wanted two or more"):
        make_ensemble(folds[:1], tmp_path / "a")
    with pytest.raises(InputError, match="the same network as that of"):
        make_ensemble([folds[0], folds[0]], tmp_path / "b")
    with pytest.raises(InputError, match=r"task\.modality is MR, and CT in"):
        make_ensemble([folds[0], two_nets], tmp_path / "c")
    renamed = replace(folds[1].task, labels=(Label("core", 1),))
    other = ModelBundle(folds[1].folder, replace(folds[1].manifest, task=renamed))
    with pytest.raises(InputError, match=r"task\.labels is core = 1, and core = 1, middle = 2, shell = 5 in"):
        make_ensemble([folds[0], other], tmp_path / "e")
    for key, value in (("keep_largest", False), ("overlap", 0.25), ("weighting", "gaussian")):
        changed = replace(folds[1].task, **{key: value})
        other = ModelBundle(folds[1].folder, replace(folds[1].manifest, task=changed))
        assert getattr(changed, key) != getattr(folds[0].task, key)
        with pytest.raises(InputError, match=rf"task\.{key} is .*, and .* in"):
            make_ensemble([folds[0], other], tmp_path / "h")
    odd = [{"candidate": folds[1].networks[0].candidate, "dice": "none", "empty": "few"}]
    other = copy(folds[1], tmp_path / "odd", validation_kept=odd, validation_last=odd)
    assert not any(math.isfinite(score) for score in (_member(other).scores or {}).values())
    for number, fold in enumerate(("1/4", None, "2/5")):
        other = copy(folds[1], tmp_path / f"copy-{number}", fold=fold)
        with pytest.raises(InputError, match="not different folds of one division"):
            make_ensemble([folds[0], other], tmp_path / "d")
    assert folds[0].manifest.training["divided_sha256"] == folds[1].manifest.training["divided_sha256"]
    other = copy(folds[1], tmp_path / "copy-of-others", divided_sha256="0" * 64)
    with pytest.raises(InputError, match="not different folds of one division"):
        make_ensemble([folds[0], other], tmp_path / "g")


def test_runs_that_are_no_folds_have_no_cross_validated_mean(
    folds: list[ModelBundle], tmp_path: Path
) -> None:
    plain = [copy(bundle, tmp_path / str(n), fold=None) for n, bundle in enumerate(folds[:2])]
    bundle = make_ensemble(plain, tmp_path / "out")
    assert [network.stem for network in bundle.networks] == ["model", "member-2"]
    assert bundle.manifest.training["cross_validated"] == {}
    assert "No cross-validated mean" in (bundle.folder / "README.md").read_text()


def test_the_verb(folds: list[ModelBundle], tmp_path: Path) -> None:
    words = ["ensemble", *(bundle.folder for bundle in folds), "-o", tmp_path / "e"]
    answer = command.run(*words)
    assert answer.returncode == 0, answer.stderr
    assert "4 networks; cross-validated Dice" in answer.stdout
    again = command.run(*words)
    assert again.returncode == 2
    assert "holds a bundle already" in again.stderr
