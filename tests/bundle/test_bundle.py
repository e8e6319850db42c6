import json
import os
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from helpers.command import run

from c3s3_seg.bundle import (
    MANIFEST,
    WEIGHTS,
    Calibration,
    Code,
    Label,
    Manifest,
    ModelBundle,
    Network,
    Task,
    manifest_file,
    shipped_bundles,
    store,
)
from c3s3_seg.bundle.catalogue import find_models
from c3s3_seg.bundle.domain import Domain
from c3s3_seg.bundle.manifest_file import MANIFEST_BYTES
from c3s3_seg.bundle.preprocessing import Intensity, Recipe
from c3s3_seg.errors import ConfigError, InputError, StorageError
from c3s3_seg.io.reading import SeriesRule
from c3s3_seg.models import WANTED
from c3s3_seg.system.files import write_whole
from c3s3_seg.system.lock import NAME, hold
from c3s3_seg.system.ownership import UNFINISHED
from c3s3_seg.system.schema import dump, parse

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
    assert ModelBundle.load(str(bundle.folder)).folder == bundle.folder
    with pytest.raises(InputError, match="found int, wanted a path"):
        ModelBundle.load(5)  # type: ignore[arg-type]


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
    with pytest.raises(InputError, match=r"name of a shipped model \(hippocampus, .*phantom"):
        ModelBundle.load(bundle.folder / "nowhere")


def test_a_manifest_cannot_point_out_of_its_folder(bundle: ModelBundle) -> None:
    text = (bundle.folder / "manifest.json").read_text()
    (bundle.folder / "manifest.json").write_text(text.replace('"README.md"', '"../README.md"'))
    with pytest.raises(InputError, match="a plain file inside the bundle"):
        ModelBundle.load(bundle.folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"vnet"', '"unet"', f"networks.0.architecture = 'unet': wanted {WANTED}"),
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
    assert shipped_bundles() == [
        "hippocampus",
        "hippocampus-20",
        "left-atrium",
        "left-atrium-16",
        "left-atrium-16-resvnet",
        "left-atrium-72",
        "left-atrium-resvnet",
        "phantom",
    ]
    for name in shipped_bundles():
        bundle = ModelBundle.find(name)
        assert bundle.task.name == name
        assert bundle.has(bundle.networks[0].graph)


def test_a_folder_is_not_taken_for_the_shipped_model_of_its_name(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle.folder, tmp_path / "here" / "phantom")
    monkeypatch.chdir(tmp_path / "here")
    for name in ("./phantom", "../here/phantom", str(tmp_path / "here" / "phantom")):
        assert ModelBundle.find(name).folder.resolve() == tmp_path / "here" / "phantom"
    assert ModelBundle.find("phantom").folder == WEIGHTS / "phantom"
    assert ModelBundle.find(Path("./phantom")).folder.resolve() == tmp_path / "here" / "phantom"
    assert ModelBundle.find(Path("left-atrium")).folder == WEIGHTS / "left-atrium"
    assert find_models([Path()])[-1] == "./phantom"
    with pytest.raises(InputError, match="there is no model"):
        ModelBundle.find("./hippocampus")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "folder"
    target.mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_whole(target, b"a folder is in the way")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


def with_companion(bundle: ModelBundle, name: str) -> ModelBundle:
    return ModelBundle(bundle.folder, replace(bundle.manifest, linked_bundle=name)).add({})


@pytest.mark.parametrize(
    ("stems", "message"),
    [
        (("model", "../other"), "networks.1.stem = '../other': wanted a plain file name"),
        (("model", "other"), "names a network in 'other.safetensors' and no hash"),
        (("model", "MODEL"), "names a network in 'MODEL.safetensors' and no hash"),
        (("model",) * 2, "the same stem"),
    ],
)
def test_a_network_without_weights_of_its_own(
    bundle: ModelBundle, stems: tuple[str, ...], message: str
) -> None:
    networks = tuple(replace(NETWORK, stem=stem) for stem in stems)
    manifest = replace(bundle.manifest, networks=networks)
    with pytest.raises(InputError, match=message):
        ModelBundle(bundle.folder, manifest).add({})
    (bundle.folder / MANIFEST).write_text(json.dumps(dump(manifest)))
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


def test_a_companion_lies_beside_the_bundle_itself(bundle: ModelBundle, monkeypatch: Any) -> None:
    """Whether the bundle is loaded as the working folder or through a symbolic link elsewhere."""
    folder = bundle.folder
    other = ModelBundle.create(folder.parent / "c", TASK, {NETWORK.weights: b"other"}, (NETWORK,), {})
    with_companion(bundle, "c")
    link = folder.parent / "elsewhere" / "current"
    link.parent.mkdir()
    link.symlink_to(folder)
    monkeypatch.chdir(folder)
    for name in (".", folder, link, Path("..") / folder.name):
        _, (home, _) = ModelBundle.load(name).members()
        assert home.folder.resolve() == other.folder.resolve()


@pytest.mark.parametrize(("name", "message"), [("../c", "not a folder beside"), ("gone", "no manifest")])
def test_a_companion_that_is_not_beside_it(bundle: ModelBundle, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ModelBundle(bundle.folder, replace(bundle.manifest, linked_bundle=name)).members()


def test_a_companion_for_another_task_is_refused(bundle: ModelBundle) -> None:
    task = replace(TASK, labels=TASK.labels[:1])
    ModelBundle.create(bundle.folder.parent / "c", task, {NETWORK.weights: b"x"}, (NETWORK,), {})
    with pytest.raises(InputError, match="not those of its linked bundle"):
        with_companion(bundle, "c").members()


DOMAIN = Domain(
    3, ((0.5, 2.0),) * 3, ((90.0, 200.0),) * 3, ((40, 200),) * 3, "absolute",
    tuple(float(n) for n in range(19)), 0.1, {"liver": (0.0, 1800.0)},
)  # fmt: skip


@pytest.fixture
def whole(bundle: ModelBundle) -> ModelBundle:
    """Return a bundle in whose manifest every key has a value."""
    uncertainty = Calibration(2.5, 6.0, -0.3, 0.9, 72, "la")
    task = replace(TASK, domain=DOMAIN, overlap=0.5, series=SeriesRule("modality=CT,description~portal"))
    manifest = replace(
        bundle.manifest, task=task, uncertainty=uncertainty, linked_bundle="other", parity={"a": {"b": 1.5}}
    )
    return ModelBundle(bundle.folder, manifest).add({})


def changed(bundle: ModelBundle, key: str, value: Any) -> Path:
    """Replace one value in the manifest's JSON and return its path; dots separate the parts of the key."""
    path = bundle.folder / "manifest.json"
    data = json.loads(path.read_text())
    *parents, last = key.split(".")
    place = data
    for part in parents:
        place = place[int(part) if isinstance(place, list) else part]
    place[int(last) if isinstance(place, list) else last] = value
    path.write_text(json.dumps(data))
    return path


def test_a_key_that_is_there_twice_is_refused(bundle: ModelBundle) -> None:
    path = bundle.folder / "manifest.json"
    text = path.read_text()
    path.write_text(text.replace('"value": 1,', '"value": 1, "value": 2,', 1))
    with pytest.raises(InputError, match=r"manifest.json: .*has the key 'value' twice"):
        ModelBundle.load(bundle.folder)
    path.write_text(text)
    assert ModelBundle.load(bundle.folder).task.labels[0].value == 1


NAN, INF = float("nan"), float("inf")


def test_the_memory_of_the_check_does_not_grow_with_the_square_of_a_manifest(bundle: ModelBundle) -> None:
    """The full key was built for every value: 215 KB took 1 GB."""
    path = changed(bundle, "training", {"k" * 50_000: {str(n): 0 for n in range(5_000)}})
    tracemalloc.start()
    try:
        ModelBundle.load(bundle.folder)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50 * path.stat().st_size  # some 5 MB, and it was 250 MB


def test_the_key_of_a_number_that_is_not_finite_is_named(bundle: ModelBundle) -> None:
    deep: Any = NAN
    for _ in range(300):
        deep = {"k" * 300: [0, deep]}
    for value, key in (([{"a": 1}, {"b": [2, INF]}], "training.x.1.b.1"), (deep, "k" * 80 + ".1")):
        changed(bundle, "training", {"first": [0, {}], "x": value})
        with pytest.raises(ConfigError, match=f"{key} = (nan|inf): wanted a finite number") as refusal:
            ModelBundle.load(bundle.folder)
        assert len(str(refusal.value)) < 1000


def test_a_manifest_that_is_too_large_is_not_read(bundle: ModelBundle) -> None:
    path = bundle.folder / MANIFEST
    with path.open("ab") as file:
        file.truncate(MANIFEST_BYTES + 1)
    with pytest.raises(InputError, match=r"manifest\.json: is larger than 16,777,216 bytes"):
        ModelBundle.load(bundle.folder)


def label(name: str, value: object) -> dict[str, object]:
    return {"name": name, "value": value}


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("task.recipe.spacing_mm.0", [-1, 0, INF, -INF, NAN, 1e999, 1e6, "x", None, [1.0], True, "1.8"]),
        ("task.recipe.spacing_mm", [[], [1.0, 1.0], [1.0] * 4, 1.0]),
        ("task.recipe.intensity", [
            {"rule": "window", "low": 10, "high": 10}, {"rule": "window", "low": 10, "high": 9},
            {"rule": "window", "low": NAN, "high": 9}, {"rule": "window", "low": -INF, "high": 9},
            {"rule": "window", "low": 0, "high": 1e300}, {"rule": "window", "low": 1e8, "high": 1e8 + 1e-3},
            {"rule": "zscore", "low": NAN}, {"rule": "minmax"},
        ]),
        ("task.recipe.orientation", ["RAS"]),
        ("task.labels", [
            [], [label("a", 0)], [label("a", 1), label("b", 1)], [label("a", 1), label("a", 2)],
            [label("a", 1), label("A", 2)],
            [label("\u00e9", 1), label("E\u0301", 2)], [label(f"l{n}", n) for n in range(1, 257)],
        ]),
        ("task.labels.0.value", [0, -1, 256, 300, 2**70, -(2**70), 1.5, NAN, "one", None, True, "1"]),
        ("task.labels.0.name", ["", ".", "..", "../x", "/etc/x", "a/b", "a\\b", "a\nb", "x" * 256, 7]),
        ("task.labels.0.code.value", ["", " ", "a\\b", "1" * 65]),
        ("task.labels.0.code.meaning", ["", "two\nlines", "x" * 65]),
        ("task.labels.0.code.scheme", ["", "99SCHEME_OF_TWENTY_C", "S" * 17]),
        ("task.name", ["", "..", "../x", "/tmp/x", "a/b", "a\nb", "x" * 256, 1]),
        ("task.modality", ["", "$x", "MR/CT", "M" * 17]),
        ("task.patch", [[0, 32, 32], [-16, 32, 32], [17, 32, 32], [8, 32, 32], [32, 32], [32.5, 32, 32],
                        [10**9, 16, 16], [1024, 1024, 1024], [2**70, 16, 16], [NAN, 16, 16], ["32", 32, 32]]),
        ("task.overlap", [-0.1, 0.91, 0.9999, 1, 1.0, 2, NAN, INF, "half", "0.5", False]),
        ("task.keep_largest", ["perhaps", 2, 1, 0, 1.0, "true", "yes", None]),
        ("task.series", ["lge", "colour=red", "modality=", {"modality": "MR"}, 7, "type~" + "x" * 500]),
        ("task.domain.scans", [0, -1, True, "3", 10**400]),
        ("task.domain.spacing_mm.1", [[0, 1], [-1, 1], [2, 1], [NAN, 1], [1, INF], [1], ["1", 2], [True, 2]]),
        ("task.domain.fov_mm.2", [[0, 1], [5, 1], [1, NAN], [30, 1e300]]),
        ("task.domain.shape.0", [[0, 5], [9, 5], [1, 2.5], [10**400, 10**400]]),
        ("task.domain.quantiles", [[], [0.0] * 18, [0.0] * 20, [*range(18), 0], [NAN] * 19]),
        ("task.domain.spread", [-1, NAN, INF]),
        ("task.domain.volume_ml", [{"liver": [-1, 5]}, {"liver": [9, 5]}, {"heart": [1, 2]}]),
        ("task.domain.intensities", ["grey"]),
        ("networks", [[], {}, None]),
        ("networks.0.filters", [0, -4, 10**9, 2.5, NAN, True, "4"]),
        ("networks.0.channels", [0, -1, 2, True, "1"]),
        ("networks.0.stem", ["", "..", "../model", "/model", "a\0b", "x" * 300]),
        ("networks.0.architecture", ["", "unet"]),
        ("uncertainty.threshold_mm", [0, -1, NAN, INF, True, "2.5"]),
        ("uncertainty.bad_mm", [0, NAN]),
        ("uncertainty.spearman", [-1.5, 2, NAN]),
        ("uncertainty.auroc", [-0.1, 1.5, NAN]),
        ("uncertainty.cases", [0, -3]),
        ("linked_bundle", ["", "..", "../other", "/tmp", "a\nb"]),
        ("files", [{"model.safetensors": "abc"}, {"model.safetensors": 7}, []]),
        ("parity", [{"model.onnx": {"difference": NAN}}, 5]),
        ("training", [
            {"seconds": INF}, [], {"config": 7}, {"config": {"data": "x"}}, {"validation_cases": {"vnet": 3}},
            {"validation_kept_cases": {"vnet": 3}},
            {"validation_last": [7]}, {"initialized_from": {"seconds": "long"}}, {"iterations": None},
        ]),
        ("format", [0, 2, "1.0", NAN, None, True, "1"]),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_is_refused_when_the_manifest_is_read(
    whole: ModelBundle, key: str, values: list[Any]
) -> None:
    """The message is one line that names the key; it repeats no long value and has no traceback."""
    assert ModelBundle.load(whole.folder).manifest == whole.manifest
    before = (whole.folder / "manifest.json").read_text()
    for value in values:
        path = changed(whole, key, value)
        with pytest.raises(InputError) as refusal:
            ModelBundle.load(whole.folder)
        text = str(refusal.value)
        assert any(part in text for part in key.split(".")[-2:]), (value, text)
        assert "\n" not in text
        assert len(text) < 700
        path.write_text(before)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("task.labels", [{**label(f"l {n}", n), "code": None} for n in range(1, 256)]),
        ("task.patch", [16, 1024, 16]),
        ("task.patch", [512, 512, 256]),
        ("task.overlap", 0),
        ("task.overlap", 0.9),
        ("task.recipe.spacing_mm", [0.05, 5, 100]),
        ("task.recipe.intensity", {"rule": "window", "low": -1000.0, "high": -999.9}),
        ("task.modality", "PT"),
        ("networks.0.filters", 64),
        ("networks.0.filters", 64.0),
        ("task.labels.0.value", 1.0),
        ("task.keep_largest", False),
        ("task.series", "modality = MR, description !~ loc, description ~ lge*3d|late*3d, type = ORIGINAL"),
        ("uncertainty", None),
        ("linked_bundle", None),
        ("task.domain", None),
        ("task.domain.volume_ml", None),
    ],
)
def test_a_value_that_can_be_is_taken(whole: ModelBundle, key: str, value: Any) -> None:
    if key == "task.labels":
        changed(whole, "task.domain.volume_ml", None)
    changed(whole, key, value)
    data = dump(ModelBundle.load(whole.folder).manifest)
    for part in key.split("."):
        data = data[int(part) if isinstance(data, list) else part]
    assert data == value


def test_the_same_task_in_a_training_file_is_refused_alike(toy_config: Path, tmp_path: Path) -> None:
    from c3s3_seg.training.config import load_config

    text = toy_config.read_text()
    assert load_config(toy_config).task.label_values == {"ball": 1}
    for old, new, word in (
        ("[1.5, 1.5, 1.5]", "[1.5, nan, 1.5]", "spacing_mm"),
        ("[1.5, 1.5, 1.5]", "[1.5, inf, 1.5]", "spacing_mm"),
        ("[1.5, 1.5, 1.5]", "[0, 1.5, 1.5]", "spacing_mm"),
        ("value = 1 }", "value = 0 }", "value"),
        ("value = 1 }", "value = 256 }", "value"),
        ("value = 1 }", 'value = 1 }, { name = "ball", value = 2 }', "different names"),
        ("value = 1 }", 'value = 1 }, { name = "b", value = 1 }', "different values"),
        ('[{ name = "ball", value = 1 }]', "[]", "at least one label"),
        ('"toy"', '"../toy"', "task.name"),
        ('"ball"', '"../ball"', "name"),
        ("[32, 32, 32]", "[32, 32, 0]", "patch"),
        ("[32, 32, 32]", "[1024, 1024, 1024]", "patch"),
    ):
        broken = tmp_path / "broken.toml"
        broken.write_text(text.replace(old, new))
        with pytest.raises(ConfigError, match=word):
            load_config(broken)


def test_a_training_file_that_never_ends_or_is_nested_without_end(tmp_path: Path) -> None:
    from c3s3_seg.training.config import load_config

    deep = tmp_path / "deep.toml"
    deep.write_text("a = " + "[" * 100_000)
    with pytest.raises(InputError, match="nested too deep"):
        load_config(deep)
    with pytest.raises(InputError, match="nested too deep"):
        load_config(Path("phantom"), ["task.patch=" + "[" * 100_000])


def refused(*words: object) -> str:
    """Run a command that must fail with one line and exit code 2; return that line."""
    answer = run(*words)
    assert answer.returncode == 2, answer.stderr
    assert answer.stderr.startswith("error: ")
    assert answer.stderr.count("\n") == 1, answer.stderr
    return answer.stderr


def test_the_command_line_says_it_in_one_line(whole: ModelBundle, tmp_path: Path) -> None:
    scan = tmp_path / "scan.nii.gz"
    scan.touch()
    path = changed(whole, "task.labels.0.value", 2**70)
    said = refused("predict", scan, "-o", tmp_path / "out", "--model", whole.folder)
    assert "task.labels.0.value = 1180591620717411303424: wanted less than or equal to 255" in said
    path.write_text("[" * 100_000)
    assert "nested too deep" in refused("predict", scan, "-o", tmp_path / "out", "--model", whole.folder)
    path.write_text('{"task": ' + '{"a": ' * 100_000)
    assert "nested too deep" in refused("export", whole.folder)
    path.unlink()
    os.mkfifo(path)
    assert "there is no manifest.json here" in refused("export", whole.folder)
    path.unlink()
    path.symlink_to("/dev/zero")
    assert "there is no manifest.json here" in refused("export", whole.folder)
    assert "there is no model" in refused("export", "x" * 5000)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["export", "calibrate"])
def test_a_shipped_bundle_is_not_changed_by_its_name(command: str, tmp_path: Path) -> None:
    words = [tmp_path] if command == "calibrate" else []
    said = refused(command, "phantom", *words)
    assert "the model 'phantom' ships with the package" in said
    assert "Copy the folder" in said


def test_the_advice_to_copy_a_shipped_bundle_names_its_linked_one() -> None:
    """The copy alone could not be opened."""
    linked = {name: ModelBundle.find(name).manifest.linked_bundle for name in shipped_bundles()}
    for name, other in linked.items():
        with pytest.raises(InputError, match="ships with the package") as refused:
            ModelBundle.find_to_change(name)
        assert (str(WEIGHTS / str(other)) in str(refused.value)) == (other is not None)
    assert any(linked.values())


def test_a_folder_may_have_the_name_of_a_shipped_bundle(
    whole: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole.folder.rename(tmp_path / "phantom")
    monkeypatch.chdir(tmp_path)
    assert ModelBundle.find_to_change("./phantom").folder == Path("./phantom")
    assert ModelBundle.find_to_change(str(WEIGHTS / "phantom")).folder == WEIGHTS / "phantom"


@pytest.mark.parametrize("name", ["a\0b", "..", ".", "", "a/b", "x" * 300])
def test_a_file_of_the_manifest_is_a_plain_name(bundle: ModelBundle, name: str) -> None:
    files = {**bundle.manifest.files, name: "0" * 64}
    ModelBundle(bundle.folder, replace(bundle.manifest, files=files)).add({})
    with pytest.raises(InputError, match="a plain file inside the bundle"):
        ModelBundle.load(bundle.folder)


def test_nothing_is_written_out_of_a_bundle(bundle: ModelBundle) -> None:
    with pytest.raises(InputError, match=r"the file '\.\./x': wanted a plain file name"):
        bundle.add({"../x": b"x"})
    assert not (bundle.folder.parent / "x").exists()


@pytest.mark.parametrize("name", [MANIFEST, MANIFEST.upper(), NAME, UNFINISHED])
def test_a_file_cannot_have_the_name_of_one_that_the_bundle_needs(bundle: ModelBundle, name: str) -> None:
    """`add` wrote the manifest over such a file, and `load` refused the bundle from then on."""
    for write in (bundle.add, lambda files: ModelBundle.create(bundle.folder, TASK, files, (NETWORK,), {})):
        with pytest.raises(InputError, match="a file of a bundle cannot be named"):
            write({NETWORK.weights: b"weights", name: b"{}"})
    assert ModelBundle.load(bundle.folder).manifest == bundle.manifest


def test_arguments_of_another_kind_are_refused(bundle: ModelBundle, tmp_path: Path) -> None:
    files = {NETWORK.weights: b"weights"}
    assert ModelBundle.create(str(tmp_path / "text"), TASK, files, (NETWORK,), {}).folder == tmp_path / "text"
    with pytest.raises(InputError, match=r"found str under README\.md, wanted a file name and bytes"):
        bundle.add({"README.md": "card"})  # type: ignore[dict-item]
    with pytest.raises(ConfigError, match="would hold a value that JSON cannot"):
        bundle.add({}, {"model.onnx": object()})
    for other in ("x", None, [("README.md", b"card")]):
        for write in (bundle.add, lambda f: ModelBundle.create(bundle.folder, TASK, f, (NETWORK,), {})):
            with pytest.raises(InputError, match=r"found files of type \w+, wanted a mapping of file names"):
                write(other)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"found parity='x', wanted a mapping"):
        bundle.add({}, "x")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="modality = 5: wanted text"):
        ModelBundle.create(tmp_path / "c", replace(TASK, modality=5), files, (NETWORK,), {})  # type: ignore[arg-type]
    assert ModelBundle.load(bundle.folder).manifest == bundle.manifest


@pytest.mark.parametrize(
    "training",
    [
        {"ensemble": [1]},
        {"ensemble": {"a": 1}},
        {"ensemble": [{"training": 5}]},
        {"ensemble": [{"training": {"config": 5}}]},
        {"training_case_hashes": [{}]},
        {"ensemble": [{"training": {"inherited_case_hashes": [[1]]}}]},
    ],
)
def test_a_training_record_of_another_form_is_refused(bundle: ModelBundle, training: dict[str, Any]) -> None:
    """`calibrate` ended in a defect of the program on them."""
    facts = json.loads((bundle.folder / MANIFEST).read_text())
    (bundle.folder / MANIFEST).write_text(json.dumps({**facts, "training": training}))
    with pytest.raises(ConfigError, match=r"training = .*: wanted a record as training writes it"):
        ModelBundle.load(bundle.folder)


def test_a_bundle_is_not_its_own_companion(bundle: ModelBundle) -> None:
    with pytest.raises(InputError, match="not a folder beside"):
        with_companion(bundle, bundle.folder.name).members()


def test_a_companion_with_its_labels_in_another_order_is_refused(bundle: ModelBundle) -> None:
    task = replace(TASK, labels=TASK.labels[::-1])
    assert task.label_values == TASK.label_values
    ModelBundle.create(bundle.folder.parent / "c", task, {NETWORK.weights: b"x"}, (NETWORK,), {})
    with pytest.raises(InputError, match="not those of its linked bundle"):
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


def test_two_commands_that_change_a_bundle_do_not_undo_each_other(bundle: ModelBundle) -> None:
    """The second one wrote the manifest that it had loaded: hashes of files that were replaced since."""
    slow, fast = ModelBundle.load(bundle.folder), ModelBundle.load(bundle.folder)
    fast = fast.add({"model.onnx": b"graph"})
    limit = Calibration(2.0, 4.0, 0.5, 0.9, 8, "eight scans")
    for change in (lambda: slow.calibrated(uncertainty=limit), lambda: slow.add({"model.onnx": b"other"})):
        with pytest.raises(InputError, match="another command has changed the bundle since"):
            change()
    assert ModelBundle.load(bundle.folder).manifest == fast.manifest
    again = fast.calibrated(uncertainty=limit).add({"model.onnx": b"new graph"})
    assert ModelBundle.load(bundle.folder).manifest == again.manifest
    with hold(bundle.folder), pytest.raises(InputError, match="another run writes into this folder"):
        again.add({"model.onnx": b"graph"})
    assert not (bundle.folder / ".c3s3-seg.lock").exists()


def test_a_change_that_fails_leaves_unchanged_files_alone(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk nothing could be written back, and the files were removed before that was tried."""
    bundle = bundle.add({"model.onnx": b"graph"})
    before = files_of(bundle.folder)

    def full(path: Path, content: bytes) -> None:
        raise StorageError("cannot be written (No space left on device)", where=path)

    with monkeypatch.context() as patched:
        patched.setattr("c3s3_seg.bundle.store.write_whole", full)
        patched.setattr("c3s3_seg.system.ownership.write_whole", full)
        with pytest.raises(StorageError):
            bundle.add({"model.onnx": b"new graph", "README.md": b"new card"})
    assert files_of(bundle.folder) == before


@pytest.fixture
def killed(bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a bundle as a kill leaves it after new files, and before the new manifest."""
    bundle = bundle.add({"model.onnx": b"graph"})

    def snapshot(path: Path, content: bytes) -> None:
        if path.name == MANIFEST:
            shutil.copytree(bundle.folder, tmp_path / "killed", ignore=shutil.ignore_patterns(NAME))
        write_whole(path, content)

    with monkeypatch.context() as patched:
        patched.setattr("c3s3_seg.bundle.store.write_whole", snapshot)
        bundle.add({"model.onnx": b"new graph", "README.md": b"new card", "secondary.onnx": b"another"})
    assert not (bundle.folder / UNFINISHED).exists()
    return tmp_path / "killed"


def test_a_bundle_that_a_kill_left_half_written_is_finished_by_the_same_command(killed: Path) -> None:
    """It did not load, and no command took its new files for those of this program."""
    with pytest.raises(InputError, match=r"was ended while it wrote into this bundle\. Give it again"):
        ModelBundle.find(str(killed))
    found = ModelBundle.find_to_change(str(killed))
    assert found.card() == "new card"
    before = files_of(killed)
    with pytest.raises(InputError, match="cannot be written"):
        found.add({"model.onnx": b"a third graph", "n" * 300: b"x"})
    assert files_of(killed) == before
    made = found.add({"model.onnx": b"new graph", "README.md": b"new card", "secondary.onnx": b"another"})
    assert ModelBundle.load(killed).manifest == made.manifest
    assert not (killed / UNFINISHED).exists()


def test_what_a_killed_command_was_writing_is_removed_by_the_next(bundle: ModelBundle) -> None:
    """Files of up to the size of the weights stayed in the bundle."""
    partial = bundle.folder / ".0123456789ab.part"
    partial.write_bytes(b"half of a file")
    bundle.add({"README.md": b"card"})
    assert not partial.exists()
    partial.write_bytes(b"half of a file")
    ModelBundle.create(bundle.folder, TASK, {NETWORK.weights: b"w"}, (NETWORK,), {})
    assert not partial.exists()


def test_a_bundle_that_a_kill_left_half_written_is_replaced_whole(killed: Path) -> None:
    files = {NETWORK.weights: (killed / NETWORK.weights).read_bytes(), "README.md": b"card"}
    ModelBundle.create(killed, TASK, files, (NETWORK,), {})
    assert sorted(files_of(killed)) == ["README.md", MANIFEST, NETWORK.weights]
    ModelBundle.load(killed)


def test_what_no_command_wrote_into_a_half_written_bundle_stays_foreign(killed: Path) -> None:
    (killed / "README.md").write_bytes(b"mine")
    for found in (ModelBundle.find, ModelBundle.find_to_change):
        with pytest.raises(InputError, match=r"README\.md: sha256 is .* the manifest says"):
            found(str(killed))
    with pytest.raises(InputError, match=r"README\.md: there is a file that c3s3-seg did not write"):
        ModelBundle.create(killed, TASK, {"README.md": b"card", NETWORK.weights: b"w"}, (NETWORK,), {})
    assert (killed / "README.md").read_bytes() == b"mine"


@pytest.mark.parametrize(("written", "code"), [("MRI", "MR"), ("ct", "CT"), ("mr", "MR"), ("OCT", "OCT")])
def test_a_modality_in_another_spelling_is_that_of_dicom_headers(
    bundle: ModelBundle, written: str, code: str
) -> None:
    """A bundle of `MRI` refused every scan of MR: its series were not found, and its headers differed."""
    manifest = json.loads((bundle.folder / MANIFEST).read_text())
    manifest["task"]["modality"] = written
    (bundle.folder / MANIFEST).write_text(json.dumps(manifest))
    task = ModelBundle.load(bundle.folder).task
    assert task.modality == code
    assert task.series_rule == SeriesRule(f"modality={code}")
    assert replace(TASK, modality=written).modality == code


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"patch": (100, 100, 100)}, "wanted multiples of 16"),
        ({"labels": (Label("a", 1), Label("a", 1))}, "labels with different names"),
        ({"overlap": 1.5}, r"task\.overlap = 1\.5"),
        ({"name": "../evil"}, r"task\.name = '\.\./evil'"),
    ],
)
def test_a_bundle_that_could_not_be_loaded_is_not_written(
    bundle: ModelBundle, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """It was written, in place of a good one, and `load` refused it."""
    before, task = files_of(bundle.folder), replace(TASK, **change)
    for folder in (bundle.folder, tmp_path / "new"):
        with pytest.raises(InputError, match=message):
            ModelBundle.create(folder, task, {NETWORK.weights: b"w"}, (NETWORK,), {})
    with pytest.raises(InputError, match=message):
        ModelBundle(bundle.folder, replace(bundle.manifest, task=task)).add({"README.md": b"new"})
    assert files_of(bundle.folder) == before
    assert not (tmp_path / "new").exists()


def test_networks_that_can_be_read_once_are_written_as_they_were_checked(tmp_path: Path) -> None:
    """A generator was checked, and the manifest written after it had no network."""
    networks = (network for network in (NETWORK,))
    made = ModelBundle.create(tmp_path, TASK, {NETWORK.weights: b"w"}, networks, {"seeds": (1, 2)})  # type: ignore[arg-type]
    assert made.manifest == ModelBundle.load(tmp_path).manifest
    assert made.networks == (NETWORK,)


def test_a_record_that_could_not_be_loaded_is_not_written(bundle: ModelBundle) -> None:
    before, files = files_of(bundle.folder), {NETWORK.weights: b"w"}
    for training, message in (
        ({"config": 7}, "a record as training writes it"),
        ({"x": "x" * MANIFEST_BYTES}, "at most 16,777,216"),
    ):
        with pytest.raises(InputError, match=message):
            ModelBundle.create(bundle.folder, TASK, files, (NETWORK,), training)
    with pytest.raises(InputError, match=r"names a network in 'model\.safetensors' and no hash"):
        ModelBundle.create(bundle.folder, TASK, {"README.md": b"card"}, (NETWORK,), {})
    assert files_of(bundle.folder) == before


def test_a_bundle_is_read_again_while_another_command_writes_into_it(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was reported as damaged, because its files were newer than the manifest that had been read."""
    new = bundle.add({"README.md": b"new card"})
    manifest = (bundle.folder / MANIFEST).read_bytes()
    bundle = new.add({"README.md": b"card"})
    with hold(bundle.folder):
        (bundle.folder / "README.md").write_bytes(b"new card")
        monkeypatch.setattr(store.time, "sleep", lambda _: None)
        with pytest.raises(InputError, match="another command is writing into this bundle"):
            ModelBundle.load(bundle.folder)
        monkeypatch.setattr(store.time, "sleep", lambda _: (bundle.folder / MANIFEST).write_bytes(manifest))
        assert ModelBundle.load(bundle.folder).card() == "new card"


def test_a_bundle_that_was_written_while_it_was_read_is_read_again(
    bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole change lies between the manifest and the files: the lock is free again."""
    changes = iter([{"README.md": b"new card"}])

    def announced(folder: Path) -> None:
        for files in changes:
            bundle.add(files)

    monkeypatch.setattr(manifest_file, "announced", announced)
    assert ModelBundle.load(bundle.folder).card() == "new card"


def test_a_damaged_bundle_is_not_waited_for(bundle: ModelBundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store.time, "sleep", lambda _: pytest.fail("it was waited for"))
    (bundle.folder / "README.md").write_bytes(b"damaged")
    with pytest.raises(InputError, match="the manifest says"):
        ModelBundle.load(bundle.folder)
