from dataclasses import replace
from pathlib import Path

import pytest

from c3s3_seg.bundle import Code, Label, Manifest, ModelBundle, Network, Task, shipped_bundles
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.files import write_whole
from c3s3_seg.recipe import Intensity, Recipe
from c3s3_seg.schema import dump, parse

TASK = Task(
    name="two",
    modality="CT",
    labels=(Label("liver", 1, Code("10200004", "Liver")), Label("spleen", 3)),
    recipe=Recipe((1.0, 1.5, 2.0), Intensity("window", -125, 275)),
    patch=(32, 48, 64),
)
NETWORK = Network("model", "vnet", 4)


@pytest.fixture
def bundle(tmp_path: Path) -> ModelBundle:
    files = {NETWORK.weights: b"weights", "README.md": b"card"}
    return ModelBundle.create(tmp_path / "b", TASK, files, (NETWORK,), {"iterations": 3})


def test_a_bundle_comes_back_as_it_was(bundle: ModelBundle) -> None:
    again = ModelBundle.load(bundle.folder)
    assert again.manifest == bundle.manifest
    assert again.task == TASK
    assert again.task.classes == 3
    assert again.task.label_values == {"liver": 1, "spleen": 3}
    assert again.has("README.md")
    assert not again.has("model.onnx")


def test_one_flipped_bit_is_refused(bundle: ModelBundle) -> None:
    path = bundle.folder / NETWORK.weights
    content = bytearray(path.read_bytes())
    content[3] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors: sha256 is .* the manifest says"):
        ModelBundle.load(bundle.folder)


def test_a_missing_file_and_a_missing_manifest_are_refused(bundle: ModelBundle) -> None:
    (bundle.folder / NETWORK.weights).unlink()
    with pytest.raises(InputError, match="it is not there"):
        ModelBundle.load(bundle.folder)
    with pytest.raises(InputError, match=r"name of a shipped bundle: .*phantom"):
        ModelBundle.load(bundle.folder / "nowhere")


def test_a_manifest_cannot_point_out_of_its_folder(bundle: ModelBundle) -> None:
    text = (bundle.folder / "manifest.json").read_text()
    (bundle.folder / "manifest.json").write_text(text.replace('"README.md"', '"../README.md"'))
    with pytest.raises(InputError, match="a plain file inside the bundle"):
        ModelBundle.load(bundle.folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"vnet"', '"unet"', "networks.0.architecture = 'unet': wanted 'vnet' or 'resvnet'"),
        ('"format": 1', '"format": 2', "format = 2: wanted 1"),
        ('"modality"', '"mode"', "task"),
        ("{", "[", "cannot be read as JSON"),
    ],
)
def test_a_damaged_manifest_is_named(bundle: ModelBundle, old: str, new: str, message: str) -> None:
    path = bundle.folder / "manifest.json"
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises((ConfigError, InputError), match=message):
        ModelBundle.load(bundle.folder)


def test_dump_and_parse_are_inverse(bundle: ModelBundle) -> None:
    assert parse(Manifest, dump(bundle.manifest), "here") == bundle.manifest


def test_shipped_bundles_are_whole() -> None:
    assert shipped_bundles() == ["hippocampus", "left-atrium", "left-atrium-vnet", "phantom"]
    for name in shipped_bundles():
        bundle = ModelBundle.find(name)
        assert bundle.task.name == name
        assert bundle.has(bundle.networks[0].graph)


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(target, b"a folder is in the way")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def with_companion(bundle: ModelBundle, name: str) -> ModelBundle:
    return ModelBundle(bundle.folder, replace(bundle.manifest, companion=name)).add({})


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        (("model", "../other"), "names a network in '../other.safetensors' and no hash"),
        (("model",) * 2, "the same stem"),
    ],
)
def test_a_network_without_weights_of_its_own(
    bundle: ModelBundle, stems: tuple[str, ...], message: str
) -> None:
    networks = tuple(replace(NETWORK, stem=stem) for stem in stems)
    ModelBundle(bundle.folder, replace(bundle.manifest, networks=networks)).add({})
    with pytest.raises(InputError, match=message):
        ModelBundle.load(bundle.folder)


def test_any_number_of_networks(bundle: ModelBundle) -> None:
    networks = tuple(replace(NETWORK, stem=stem) for stem in ("model", "fold-2", "fold-3"))
    files = {network.weights: b"w" for network in networks}
    ModelBundle(bundle.folder, replace(bundle.manifest, networks=networks)).add(files)
    assert [n.stem for _, n in ModelBundle.load(bundle.folder).members()] == ["model", "fold-2", "fold-3"]


def test_a_companion_brings_its_networks(bundle: ModelBundle) -> None:
    assert bundle.members() == [(bundle, NETWORK)]
    files = {NETWORK.weights: b"other"}
    other = ModelBundle.create(bundle.folder.parent / "c", TASK, files, (NETWORK,), {})
    (_, first), (home, second) = with_companion(bundle, "c").members()
    assert home.folder == other.folder
    assert first == second == NETWORK


@pytest.mark.parametrize(("name", "message"), [("../c", "not a folder beside"), ("gone", "no manifest")])
def test_a_companion_that_is_not_beside_it(bundle: ModelBundle, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        with_companion(bundle, name).members()


def test_a_companion_for_another_task_is_refused(bundle: ModelBundle) -> None:
    task = replace(TASK, labels=TASK.labels[:1])
    ModelBundle.create(bundle.folder.parent / "c", task, {NETWORK.weights: b"x"}, (NETWORK,), {})
    with pytest.raises(InputError, match="not those of its companion"):
        with_companion(bundle, "c").members()


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_new_bundle_replaces_no_file_of_others(tmp_path: Path) -> None:
    files = {NETWORK.weights: b"weights", "README.md": b"card"}
    for name, content in (("README.md", b"mine"), ("manifest.json", b'{"name": "my app"}')):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_bytes(content)
        with pytest.raises(InputError, match=f"{name}: there is a file that c3s3-seg did not write"):
            ModelBundle.create(folder, TASK, files, (NETWORK,), {})
        assert files_of(folder) == {name: content}


def test_a_bundle_is_replaced_as_one(bundle: ModelBundle) -> None:
    bundle.add({"model.onnx": b"of the old weights"})
    files = {NETWORK.weights: b"new weights", "README.md": b"card"}
    again = ModelBundle.create(bundle.folder, TASK, files, (NETWORK,), {})
    assert sorted(files_of(again.folder)) == ["README.md", "manifest.json", NETWORK.weights]
    (bundle.folder / "README.md").write_bytes(b"card, with my notes")
    with pytest.raises(InputError, match="README"):
        ModelBundle.create(bundle.folder, TASK, files, (NETWORK,), {})
    assert (bundle.folder / "README.md").read_bytes() == b"card, with my notes"


def test_what_is_added_replaces_no_file_of_others_and_fails_as_one(bundle: ModelBundle) -> None:
    before = files_of(bundle.folder)
    with pytest.raises(InputError, match="cannot be written"):
        bundle.add({"README.md": b"new card", "n" * 300: b"x"})
    assert files_of(bundle.folder) == before
    (bundle.folder / "model.onnx").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"model\.onnx: there is a file that c3s3-seg did not write"):
        bundle.add({"model.onnx": b"ours"})
    (bundle.folder / "model.onnx").unlink()
    bundle.add({"model.onnx": b"ours"}).add({"model.onnx": b"ours again"})
    ModelBundle.load(bundle.folder)
