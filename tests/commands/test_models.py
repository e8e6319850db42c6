"""`c3s3-seg models`, and the messages about unknown models."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.command import run

from c3s3_seg.bundle import WEIGHTS, ModelBundle, shipped_bundles
from c3s3_seg.bundle.catalogue import find_models, summarize
from c3s3_seg.errors import InputError


def test_the_shipped_models_with_what_they_need() -> None:
    answer = run("models")
    assert answer.returncode == 0, answer.stderr
    for name in shipped_bundles():
        assert name in answer.stdout
    assert "anterior, posterior" in answer.stdout
    assert "MR, 0.6 mm, 92-145 x 82-99 x 55 mm" in answer.stdout
    models = {row["name"]: row for row in map(json.loads, run("models", "--json").stdout.splitlines())}
    atrium = models["left-atrium"]
    assert (atrium["modality"], atrium["labels"], atrium["linked"]) == (
        "MR",
        ["left_atrium"],
        "left-atrium-resvnet",
    )
    record = ModelBundle.find("left-atrium").manifest.training["validation_default"][0]  # default tiling
    assert record["candidate"] == "vnet"
    assert atrium["dice"] == record["dice"]
    assert atrium["hd95_vox"] == record["hd95_vox"]
    assert (atrium["cases"], atrium["scores_of"]) == (8, "left-atrium-72")
    assert models["left-atrium-72"]["dice"] == atrium["dice"]
    assert models["left-atrium-72"]["scores_of"] is None
    files = [path for path in (WEIGHTS / "left-atrium").iterdir() if path.is_file()]
    assert atrium["size_bytes"] == sum(path.stat().st_size for path in files)


def test_the_card_of_a_model(tmp_path: Path) -> None:
    answer = run("models", "--card", "left-atrium")
    assert answer.returncode == 0
    assert answer.stdout == (WEIGHTS / "left-atrium" / "README.md").read_text()
    assert str(WEIGHTS / "left-atrium") in answer.stderr
    assert "models --card left-atrium" in run("models", "left-atrium").stderr  # no such folder


def test_a_card_is_hostile_until_checked(tmp_path: Path) -> None:
    """Control characters are printed escaped; a card that the manifest does not list is not read."""
    bundle = ModelBundle.find("phantom")
    shutil.copytree(bundle.folder, tmp_path / "one")
    own = ModelBundle.load(tmp_path / "one").add({"README.md": b"# a\x1b[2Jb\n"})
    assert run("models", "--card", own.folder).stdout == "# a\\x1b[2Jb\n"
    own.add({"README.md": b"\xff"})
    answer = run("models", "--card", own.folder)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "no text in UTF-8" in answer.stderr
    files = {k: v for k, v in own.manifest.files.items() if k != "README.md"}
    without = ModelBundle(own.folder, replace(own.manifest, files=files)).add({})
    assert without.card() == ""
    assert run("models", "--card", own.folder).stdout == "This model has no card.\n"


def test_scores_that_were_measured_with_another_model_are_called_so(tmp_path: Path) -> None:
    shutil.copytree(WEIGHTS / "phantom", tmp_path / "all")
    path = tmp_path / "all" / "manifest.json"
    facts = json.loads(path.read_text())
    record = {"candidate": "vnet", "dice": 0.75, "hd95_vox": 3.5, "of": "without-two", "validation": 2}
    facts["training"] |= {"validation_default": [record], "cases": {"labelled": 6, "validation": 0}}
    path.write_text(json.dumps(facts))
    found = summarize(str(tmp_path / "all"))
    assert (found.dice, found.hd95_vox, found.cases, found.scores_of) == (0.75, 3.5, 2, "without-two")
    told = " ".join(run("models", tmp_path).stdout.split())
    assert "its scores are those of without-two, which was trained in the same way without them" in told
    assert summarize("phantom").scores_of is None


def test_bundles_below_a_folder_and_a_damaged_one(tmp_path: Path) -> None:
    for name in ("good", "bad"):
        shutil.copytree(WEIGHTS / "phantom", tmp_path / "runs" / name)
    (tmp_path / "runs" / "bad" / "README.md").write_text("changed")
    answer = run("models", tmp_path)
    assert answer.returncode == 1
    assert "1 failed:" in answer.stdout
    assert "README.md" in answer.stdout.splitlines()[-1]
    answer = run("models", tmp_path, "--json")
    assert answer.returncode == 1
    assert all(json.loads(line) for line in answer.stdout.splitlines())
    assert "README.md" in answer.stderr.splitlines()[-1]
    folders = [str(tmp_path / "runs" / name) for name in ("bad", "good")]
    assert find_models([tmp_path]) == [*shipped_bundles(), *folders]
    assert summarize(folders[1]).labels == ("left_atrium",)
    with pytest.raises(InputError, match="there is no such folder"):
        find_models([tmp_path / "none"])


@pytest.mark.parametrize("content", ['{"name": "a web page", "icons": []}', "[]", "no JSON", "{}"])
def test_a_manifest_of_another_program_is_no_bundle(tmp_path: Path, content: str) -> None:
    (tmp_path / "web").mkdir()
    (tmp_path / "web" / "manifest.json").write_text(content)
    (tmp_path / "folder" / "manifest.json").mkdir(parents=True)
    assert find_models([tmp_path]) == shipped_bundles()
    (tmp_path / "web" / "model.safetensors").touch()  # with weights, it is a damaged bundle
    assert find_models([tmp_path])[-1] == str(tmp_path / "web")


def test_a_bundle_that_knows_little_is_listed(two_nets: ModelBundle) -> None:
    summary = summarize(str(two_nets.folder))
    assert (summary.dice, summary.hd95_vox, summary.cases, summary.spacing_mm) == (None, None, None, None)
    assert summary.networks == 2


def test_an_unknown_model_names_those_that_there_are(tmp_path: Path) -> None:
    answer = run("predict", "scan.nii.gz", "-o", tmp_path / "out", "--model", "left-atrum")
    assert answer.returncode == 2
    (line,) = answer.stderr.splitlines()
    assert "there is no model left-atrum" in line
    assert all(name in line for name in shipped_bundles())
    assert not (tmp_path / "out").exists()


def rewritten(folder: Path, **training: object) -> Path:
    """Write the phantom's bundle with other training records and the network `vnet-b`; return `folder`."""
    shutil.copytree(WEIGHTS / "phantom", folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["training"] |= training
    manifest["networks"][0]["name"] = "vnet-b"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_network_that_missed_everything_is_listed_by_its_own_name(tmp_path: Path) -> None:
    records = [
        {"candidate": "vnet-a", "dice": 0.9, "hd95_vox": 2.0},
        {"candidate": "vnet-b", "dice": 0.0, "hd95_vox": "inf"},  # the notation that training writes
    ]
    place = rewritten(tmp_path / "poor", validation_kept=records)
    answer = run("models", place)
    assert answer.returncode == 0, answer.stderr
    (line,) = [line for line in answer.stdout.splitlines() if "inf" in line]
    assert "0.000" in line
    rows = [json.loads(line) for line in run("models", place, "--json").stdout.splitlines()]
    assert [row["hd95_vox"] for row in rows if row["name"] == str(place)] == ["inf"]
    odd = {"candidate": "vnet-b", "dice": 10**400, "hd95_vox": "x"}
    unknown = rewritten(tmp_path / "odd", validation_kept=[odd])
    assert (summarize(str(unknown)).dice, summarize(str(unknown)).hd95_vox) == (None, None)
    table = {"candidate": "vnet-b", "validation": {"cases": 8}}
    assert summarize(str(rewritten(tmp_path / "table", validation_kept=[table]))).cases is None


def test_half_a_surrogate_pair_is_no_series(tmp_path: Path) -> None:
    place = rewritten(tmp_path / "odd")
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["task"]["series"] = "\ud800"
    (place / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="holds a text that is not Unicode"):
        summarize(str(place))


@pytest.mark.parametrize("data", [{"folder": 5}, {"validation_from_unlabelled": "8"}])
def test_settings_of_a_training_that_programs_read_have_their_types(
    tmp_path: Path, data: dict[str, object]
) -> None:
    with pytest.raises(InputError, match="a record as training writes it"):
        summarize(str(rewritten(tmp_path / "odd", config={"data": data})))
