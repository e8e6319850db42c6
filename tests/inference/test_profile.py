import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from c3s3_seg.bundle import ModelBundle
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.inference import Settings, open_predictor
from c3s3_seg.inference.backends import select
from c3s3_seg.inference.backends.select import MOST_THREADS, BackendRequest
from c3s3_seg.inference.tuning import profile
from c3s3_seg.inference.tuning.profile import (
    Best,
    Machine,
    existing_profile,
    profile_path,
    read_profile,
    with_profile,
    write_profile,
)

BEST = Best("onnx", 1, 0.9, 50.0, 100.0, 2 * 10**8, 500.0)


@pytest.fixture(scope="module")
def bundle() -> ModelBundle:
    return ModelBundle.find("phantom")


def test_where_it_is(tmp_path: Path) -> None:
    named = {"C3S3_SEG_PROFILE": str(tmp_path / "p.json"), "HOME": "/h", "XDG_CONFIG_HOME": "/x"}
    assert profile_path(named) == tmp_path / "p.json"
    assert profile_path({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}) == Path("/x/c3s3-seg/profile.json")
    assert profile_path({"HOME": "/h", "XDG_CONFIG_HOME": "x"}) == Path("/h/.config/c3s3-seg/profile.json")
    assert profile_path({"HOME": "/h"}) == Path("/h/.config/c3s3-seg/profile.json")
    assert profile_path({}) is None
    assert existing_profile({}) is None
    assert existing_profile({"HOME": str(tmp_path)}) is None
    assert existing_profile({"HOME": "/" + "x" * 300}) is None  # as of a home that may not be read
    with pytest.raises(InputError, match="names a profile that is not there"):
        existing_profile(named)
    (tmp_path / "p.json").touch()
    assert existing_profile(named) == tmp_path / "p.json"


def test_it_decides_what_was_left_open_and_the_record_says_so(bundle: ModelBundle, tmp_path: Path) -> None:
    path = tmp_path / "below" / "profile.json"
    write_profile(path, bundle.networks[0], BEST)
    predictor = open_predictor(bundle, settings=Settings(profile=path))
    assert predictor.backends[0].name == "onnx"
    assert predictor.costs == BEST.costs
    record = predictor.record()["profile"]
    assert (record["used"], record["runtime"], record["threads"]) == (True, "onnx", 1)
    asked = open_predictor(bundle, backend="openvino", settings=Settings(profile=path))
    assert asked.backends[0].name == "openvino"
    assert asked.record()["profile"]["why"] == "another runtime or device was asked for"
    request, _, _ = with_profile(BackendRequest(threads=2), path, bundle.networks[0])
    assert request.threads == 2
    assert "profile" not in open_predictor(bundle).record()


def test_it_holds_for_its_machine_and_its_networks_only(
    bundle: ModelBundle, tmp_path: Path, monkeypatch
) -> None:
    path = tmp_path / "profile.json"
    write_profile(path, bundle.networks[0], BEST)
    write_profile(path, bundle.networks[1], replace(BEST, runtime="torch"))
    assert set(read_profile(path).networks) == {"vnet-3", "resvnet-2"}
    request, best, remarks = with_profile(BackendRequest(), path, replace(bundle.networks[0], filters=32))
    assert (request, best) == (BackendRequest(), None)
    assert remarks["profile"]["why"] == "it has no entry for this kind of network"
    monkeypatch.setattr(profile, "PACKAGES", {"onnx": ("not_here", "")})
    _, _, remarks = with_profile(BackendRequest(), path, bundle.networks[0])
    assert remarks["profile"]["why"] == "onnx is not installed any more"
    monkeypatch.setattr(Machine, "here", classmethod(lambda cls: Machine("another", 64)))
    _, _, remarks = with_profile(BackendRequest(), path, bundle.networks[0])
    assert remarks["profile"]["why"] == "it was made on another machine"
    write_profile(path, bundle.networks[0], BEST)  # replaces the entries of the other machine
    assert set(read_profile(path).networks) == {"vnet-3"}


def test_a_profile_of_the_processor_does_not_decide_for_a_gpu(
    bundle: ModelBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, network = tmp_path / "profile.json", bundle.networks[0]
    write_profile(path, network, BEST)
    request, best, remarks = with_profile(BackendRequest(), path, network, on_gpu=True)
    assert (request, best, remarks["profile"]["used"]) == (BackendRequest(), None, False)
    assert remarks["profile"]["why"] == profile.ON_GPU
    assert not select.uses_gpu(bundle, network, BackendRequest())
    monkeypatch.setattr(select, "cuda_devices", lambda: 1)
    assert select.uses_gpu(bundle, network, BackendRequest())
    assert not select.uses_gpu(bundle, network, BackendRequest(device="cpu"))
    assert not select.uses_gpu(bundle, network, BackendRequest("onnx"))


@pytest.mark.parametrize(
    "change",
    [{"runtime": "rocket"}, {"threads": 0}, {"threads": "many"}, {"surprise": 1}, {"base_bytes": -1}],
)
def test_what_is_no_profile_is_refused(change: dict[str, object], tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    data = {
        "machine": asdict(Machine.here()),
        "networks": {"vnet-3": {**asdict(BEST), **change}},
        "format": 1,
    }
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match=r"profile\.json: this is no profile: .*--write-profile; or delete"):
        read_profile(path)
    for content in ("{", "[" * 100_000, b"\xff", ""):
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(ConfigError, match=r"cannot be read.*--write-profile; or delete"):
            read_profile(path)
    data["networks"]["vnet-3"] = {**asdict(BEST), "seconds_per_mvoxel": float("nan")}
    path.write_text(json.dumps(data))
    with pytest.raises(ConfigError, match="wanted a finite number"):
        read_profile(path)
    write_profile(path, ModelBundle.find("phantom").networks[0], BEST)  # replaces a broken file
    assert read_profile(path).networks["vnet-3"] == BEST


def test_a_profile_that_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path):
        with pytest.raises(ConfigError, match="the profile cannot be read"):
            read_profile(path)


def test_it_does_not_decide_what_cannot_be_had(bundle: ModelBundle, tmp_path: Path) -> None:
    """Without a graph, or in another precision, the choice stays open, as it does without a profile."""
    path = tmp_path / "profile.json"
    write_profile(path, bundle.networks[0], BEST)
    half = BackendRequest(precision="bfloat16")
    request, _, remarks = with_profile(half, path, bundle.networks[0])
    assert request == half
    assert remarks["profile"]["why"] == "another precision was asked for than it was made with"
    files = {name: value for name, value in bundle.manifest.files.items() if not name.endswith(".onnx")}
    without = replace(bundle, manifest=replace(bundle.manifest, files=files))
    predictor = open_predictor(without, settings=Settings(profile=path))
    assert predictor.backends[0].name == "torch"
    assert predictor.record()["profile"]["why"] == "the bundle has no ONNX graph for onnx"


@pytest.mark.parametrize("threads", [0, MOST_THREADS + 1])
def test_a_number_of_threads_that_no_runtime_takes_is_refused(threads: int) -> None:
    with pytest.raises(InputError, match=f"found {threads} threads, wanted 1 to {MOST_THREADS}"):
        BackendRequest("openvino", threads=threads)
    with pytest.raises(ValueError, match=f"1 to {MOST_THREADS} threads"):
        Best("openvino", threads, 1.0, 1.0, 1.0, 1, 1.0)
