"""A MONAI bundle runs in MONAI's own tools, without any code of this package, and gives the same masks."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.organ import organ

from c3s3_seg import load_mask, open_predictor, save
from c3s3_seg.bundle import Label, ModelBundle, Task
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.errors import InputError
from c3s3_seg.export.compare import masks_apart
from c3s3_seg.export.export import export_folder
from c3s3_seg.export.monai import inference, metadata, monai_bundle, refuse_expressions
from c3s3_seg.export.spec import GraphSpec
from c3s3_seg.geometry.volume import Geometry, Volume
from c3s3_seg.phantom import simulate

# `find_spec` instead of an import: importing MONAI takes seconds, even where none of these tests is run.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("monai") is None, reason="MONAI reads these bundles"),
]


@pytest.fixture(scope="module")
def scan() -> Volume:
    """Return the middle of a phantom: one tile is enough for these tests."""
    whole = simulate(20_261)
    return organ(whole.scan, whole.truth)[0]


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, scan: Volume) -> Path:
    folder = tmp_path_factory.mktemp("monai") / "phantom"
    path, proof = export_folder(ModelBundle.find("phantom"), "monai-bundle", GraphSpec(), folder, [scan])
    assert path == folder / "models" / "model.ts"
    assert proof.difference < 1e-5
    return folder


def monai(folder: Path, *commands: list[str]) -> str:
    """Return the output of `python -m monai.bundle` commands, in one process that cannot import c3s3_seg."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    configs = ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
    code = "import json, runpy, sys; sys.modules['c3s3_seg'] = None\n"
    code += "for words in json.loads(sys.argv[1]):\n"
    code += "    sys.argv[1:] = words; runpy.run_module('monai.bundle', None, '__main__')"
    words = json.dumps([[*command, *configs] for command in commands])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"HOME": str(empty)}
    answer = subprocess.run(
        [sys.executable, "-c", code, words],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return answer.stdout + answer.stderr


@pytest.fixture(scope="module")
def ran(exported: Path, scan: Volume, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Let MONAI run the bundle on the scan and verify its network; return the output and the mask's path."""
    folder = tmp_path_factory.mktemp("ran")
    (folder / "scans").mkdir()
    save(scan, folder / "scans" / "one.nii.gz")
    given = ["--dataset_dir", str(folder / "scans"), "--output_dir", str(folder / "masks")]
    verify = ["verify_net_in_out", "--net_id", "network_def", "--n", "2", "--device", "cpu"]
    told = monai(exported, ["run", "--bundle_root", ".", *given], verify)
    return told, folder / "masks" / "one_mask.nii.gz"


def test_monai_runs_the_bundle_and_finds_our_mask(ran: tuple[str, Path], scan: Volume) -> None:
    bundle = ModelBundle.find("phantom")
    told, mask = ran
    assert "deprecated name" not in told
    theirs = load_mask(mask, grid=scan.geometry)
    ours = open_predictor(bundle, backend="torch")(scan).mask
    apart = masks_apart(bundle.task, ours, theirs, 0.0)
    # MONAI interpolates linearly where this package averages, which shows from 1.25 mm to 1.8 mm.
    assert apart.dice > 0.985
    assert apart.asd_mm < 0.25
    assert theirs.array.dtype == np.uint8


def monai_prepares(task: Task, path: Path) -> np.ndarray:
    """Return the array (x, y, z) that MONAI's transforms of an exported bundle make of a file."""
    from monai.bundle import ConfigParser

    config = inference(task)
    steps = [step for step in config["preprocessing"]["transforms"] if step["_target_"] != "EnsureTyped"]
    parser = ConfigParser(
        {"imports": config["imports"], "steps": {"_target_": "Compose", "transforms": steps}}
    )
    return np.asarray(parser.get_parsed_content("steps")({"image": str(path)})["image"])[0]


def test_where_the_spacing_doubles_monai_makes_our_input(tmp_path: Path) -> None:
    """With even sides and an origin away from zero, MONAI samples between two voxels and so takes their mean.

    At an origin of zero, MONAI's first sample lies a voxel further out, so that other voxels are paired.
    """
    task = Task("x", "MR", (Label("a", 1),), Recipe((1.25, 1.25, 1.25)), (32, 32, 32), overlap=0.5)
    array = np.random.default_rng(0).normal(size=(20, 18, 14)).astype(np.float32)
    differences = []
    for origin in ((40.0, -50.0, 60.0), (0.0, 0.0, 0.0)):
        scan = Geometry.build(array.shape, (0.625, 0.625, 0.625), origin).volume(array)
        save(scan, tmp_path / "scan.nii.gz")
        ours = task.recipe.to_model(scan).array
        differences.append(np.abs(monai_prepares(task, tmp_path / "scan.nii.gz") - ours).max())
    assert differences[0] < 1e-5
    assert differences[1] > 0.1  # if not, MONAI has changed, and docs/export.md should state it


def test_an_ensemble_holds_the_networks_of_the_companion(companions: ModelBundle, tmp_path: Path) -> None:
    scan = Geometry.build((30, 28, 26)).volume(
        np.random.default_rng(0).normal(size=(30, 28, 26)).astype("f4")
    )
    _, proof = export_folder(companions, "monai-bundle", GraphSpec(ensemble=True), tmp_path, [scan])
    assert proof.runtime == "torchscript"
    assert proof.difference < 1e-5
    assert (
        "the mean of 2 networks"
        in json.loads((tmp_path / "configs" / "metadata.json").read_text())["description"]
    )


def test_monai_accepts_the_network_and_the_properties(exported: Path, ran: tuple[str, Path]) -> None:
    assert "data shape of network is verified with no error" in ran[0]
    from monai.bundle import ConfigWorkflow

    workflow = ConfigWorkflow(
        config_file=str(exported / "configs" / "inference.json"),
        meta_file=str(exported / "configs" / "metadata.json"),
        workflow_type="infer",
        logging_file=False,
        bundle_root=str(exported),
    )
    workflow.initialize()
    assert not workflow.check_properties()


def test_the_metadata_hold_what_the_specification_wants(exported: Path, tmp_path: Path) -> None:
    """MONAI's `verify_metadata` checks against a schema of the keys that the specification calls mandatory.

    The official schema is on the web; MONAI does not download it if the file exists already.
    """
    tensor = ["type", "format", "modality", "num_channels", "spatial_shape", "dtype", "value_range"]
    tensor += ["is_patch_data", "channel_def"]
    each = {"type": "object", "additionalProperties": {"type": "object", "required": tensor}}
    keys = ["version", "monai_version", "pytorch_version", "numpy_version", "required_packages_version"]
    keys += ["task", "description", "authors", "copyright", "network_data_format"]
    schema = {
        "type": "object",
        "required": keys,
        "properties": {
            "network_data_format": {
                "type": "object",
                "required": ["inputs", "outputs"],
                "properties": {"inputs": each, "outputs": each},
            }
        },
    }
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    from monai.bundle import verify_metadata

    verify_metadata(meta_file=str(exported / "configs" / "metadata.json"), filepath=str(path))
    broken = json.loads((exported / "configs" / "metadata.json").read_text())
    del broken["network_data_format"]["outputs"]["pred"]["channel_def"]
    (tmp_path / "broken.json").write_text(json.dumps(broken))
    with pytest.raises(ValueError, match="channel_def"):
        verify_metadata(meta_file=str(tmp_path / "broken.json"), filepath=str(path))


def test_a_ct_task_without_tiles_and_with_values_of_its_own() -> None:
    recipe = Recipe((1.0, 1.5, 2.0), Intensity("window", -125, 275))
    task = Task("two", "CT", (Label("liver", 1), Label("spleen", 3)), recipe, (32, 48, 64), overlap=None)
    config = inference(task)
    assert config["inferer"] == {"_target_": "SimpleInferer"}
    steps = {step["_target_"]: step for step in config["preprocessing"]["transforms"]}
    assert (steps["ScaleIntensityRanged"]["a_min"], steps["ScaleIntensityRanged"]["a_max"]) == (-125, 275)
    assert steps["DivisiblePadd"]["k"] == [16, 16, 16]
    after = {step["_target_"]: step for step in config["postprocessing"]["transforms"]}
    assert after["MapLabelValued"]["target_labels"] == [0, 1, 3]
    assert after["KeepLargestConnectedComponentd"]["applied_labels"] == [1, 3]


def test_the_metadata_name_the_channels(two_nets: ModelBundle) -> None:
    (pred,) = metadata(two_nets, GraphSpec())["network_data_format"]["outputs"].values()
    assert pred["channel_def"] == {"0": "background", "1": "a", "2": "b"}


@pytest.mark.parametrize("spec", [GraphSpec("float16"), GraphSpec(batch=2)])
def test_what_monai_decides_itself_is_refused(two_nets: ModelBundle, spec: GraphSpec) -> None:
    with pytest.raises(InputError, match="exported in float32 with the batch free"):
        monai_bundle(two_nets, spec)


CODE = "$__import__('pathlib').Path('ran').touch()"
READ_AS_CODE = [
    CODE,
    "$1 + 1",
    " $1",
    "@name",
    "@bundle_root",
    "%name",
    "%manifest.json#task",
    "a @#b",
    "a %::b",
]
PLAIN = ["a $ b", "50% fat", "a@b", "left::right", "_target_", "__import__('os')"]


def named(two_nets: ModelBundle, name: str, place: str) -> ModelBundle:
    task = two_nets.task
    first, *others = task.labels
    if place == "label":
        task = replace(task, labels=(replace(first, name=name), *others))
    else:
        task = replace(task, **{place: name})
    return ModelBundle(two_nets.folder, replace(two_nets.manifest, task=task))


def monai_reads(content: dict[str, Any]) -> Any:
    """Return the metadata as MONAI's own parser evaluates it."""
    from monai.bundle import ConfigParser

    parser = ConfigParser({"name": "of the configuration", "bundle_root": "."})
    parser.read_meta(content)
    return parser.get_parsed_content("_meta_")


@pytest.mark.parametrize("place", ["label", "name", "modality"])
@pytest.mark.parametrize("name", READ_AS_CODE)
def test_a_name_that_monai_would_run_is_refused(
    two_nets: ModelBundle, name: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    bundle = named(two_nets, name, place)
    with pytest.raises(InputError, match="would be run or replaced by MONAI"):
        monai_bundle(bundle, GraphSpec())
    scan = Geometry.build((16, 16, 16)).volume(np.zeros((16, 16, 16), np.float32))
    with pytest.raises(InputError):
        export_folder(bundle, "monai-bundle", GraphSpec(), tmp_path / "out", [scan])
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_the_guard_is_needed(two_nets: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monai_reads(metadata(named(two_nets, CODE, "label"), GraphSpec()))
    assert (tmp_path / "ran").exists()  # if not, MONAI has changed, and no name need be refused


@pytest.mark.parametrize("name", PLAIN)
def test_any_other_name_is_what_it_says(two_nets: ModelBundle, name: str) -> None:
    bundle = named(named(two_nets, name, "label"), name, "name")
    content = metadata(bundle, GraphSpec())
    refuse_expressions(content, bundle.folder)
    assert monai_reads(json.loads(json.dumps(content))) == content


def test_nothing_of_a_bundle_reaches_what_is_run(two_nets: ModelBundle) -> None:
    """The inference configuration consists of expressions, so it must not contain any text of the task."""
    marked = named(named(named(two_nets, "MARK", "label"), "MARK", "name"), "MARK", "modality")
    assert "MARK" not in json.dumps(inference(marked.task))
