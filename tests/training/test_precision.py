"""`run.precision = "auto"`: units and a probe decide, the card states the result, a resumed run keeps it."""

import time
import tomllib
from math import inf, prod
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from c3s3_seg.errors import InputError
from c3s3_seg.system import half_precision
from c3s3_seg.training import checkpoint, precision, run
from c3s3_seg.training.config import CONFIGS, TrainConfig, load_config
from c3s3_seg.training.loggers import Silent
from c3s3_seg.training.precision import Precision, bfloat16_units, choose
from c3s3_seg.training.run import Run
from c3s3_seg.training.train import train

CPU = torch.device("cpu")
BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda p: p.stem)
def test_shipped_configurations_ask_the_machine(path: Path) -> None:
    assert load_config(path).run.precision == "auto"


def test_no_study_asks_for_bfloat16() -> None:
    for path in BENCHMARKS.glob("*.toml"):
        study = tomllib.loads(path.read_text())
        changes = [*study["set"], *(change for entry in study["entries"] for change in entry.get("set", []))]
        assert not [change for change in changes if "bfloat16" in change]


@pytest.mark.parametrize("cap", ["AVX2", "avx2", "SSE41", "AVX512_CORE", "AVX512_CORE_VNNI", "AVX2_VNNI"])
def test_units_that_onednn_may_not_use_do_not_count(monkeypatch: pytest.MonkeyPatch, cap: str) -> None:
    monkeypatch.setattr(half_precision, "_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": True})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    assert bfloat16_units(CPU) == "AMX"
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert bfloat16_units(CPU) == ""
    chosen = choose(load_config(Path("left-atrium")))
    assert chosen.name == "float32"
    assert "no units for bfloat16" in chosen.why


@pytest.mark.parametrize("cap", ["ALL", "AVX512_CORE_BF16", "AVX512_CORE_AMX", "AVX10_1_512"])
def test_units_that_onednn_may_use_do(monkeypatch: pytest.MonkeyPatch, cap: str) -> None:
    monkeypatch.setattr(half_precision, "_capabilities", lambda: {"avx512_bf16": True, "amx_bf16": False})
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", cap)
    assert bfloat16_units(CPU) == "AVX-512 BF16"
    monkeypatch.setattr(half_precision, "_capabilities", lambda: {"avx2": True, "avx512_bw": True})
    assert bfloat16_units(CPU) == ""


def timed(monkeypatch: pytest.MonkeyPatch, faster: float) -> list[torch.dtype]:
    """Pretend that units exist and bfloat16 is `faster` times as fast; return a list of timed precisions."""
    seen: list[torch.dtype] = []

    def seconds(work: object, device: object, kind: torch.dtype, late: object) -> float:
        seen.append(kind)
        return 0.1 / faster if kind == torch.bfloat16 else 0.1

    monkeypatch.setattr(precision, "bfloat16_units", lambda _: "units")
    monkeypatch.setattr(precision, "_seconds", seconds)
    return seen


@pytest.mark.parametrize(
    ("faster", "name"), [(2.0, "bfloat16"), (1.05, "float32"), (0.9, "float32"), (0.01, "float32")]
)
def test_bfloat16_must_be_clearly_faster(monkeypatch: pytest.MonkeyPatch, faster: float, name: str) -> None:
    seen = timed(monkeypatch, faster)
    assert choose(load_config(Path("left-atrium"))).name == name
    assert len(seen) == (2 if faster == 0.01 else 4)  # emulated: decided after one layer


def on_a_gpu(monkeypatch: pytest.MonkeyPatch, start_s: float, room: float = inf) -> None:
    """Pretend to take a quarter of a step of an H200 (docs/training.md), and to start kernels in `start_s`.

    More than `room` voxels do not fit into its memory. The clock runs with the passes.
    """
    clock, step = [0.0], 4 * 112 * 112 * 80

    def seconds(work: int, device: object, kind: torch.dtype, late: object) -> float:
        if work > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        half = kind == torch.bfloat16
        taken_s = max(1.1 * start_s if half else start_s, (0.037 if half else 0.235) * work / step)
        clock[0] += (1 + precision.REPEATS) * taken_s
        return taken_s

    monkeypatch.setattr(precision, "_device", lambda _: torch.device("cuda", 0))
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: "units")
    monkeypatch.setattr(precision, "_nets", lambda *_: (None, None))
    monkeypatch.setattr(precision, "_work", lambda _, crops, sides, device: crops * prod(sides))
    monkeypatch.setattr(precision, "_seconds", seconds)
    monkeypatch.setattr(precision, "time", SimpleNamespace(perf_counter=lambda: clock[0]))


@pytest.mark.parametrize(
    ("start_s", "room", "told"),
    [
        (0.028, inf, "235.0 ms in float32, 37.0 ms in bfloat16"),
        (0.004, 10**6, "30.7 ms in float32, 4.8 ms in bfloat16"),  # two crops of 64 x 64 x 64 fit
    ],
)
def test_a_gpu_is_timed_on_the_crops_of_a_step(
    monkeypatch: pytest.MonkeyPatch, start_s: float, room: float, told: str
) -> None:
    """Small crops used to decide, with which bfloat16 is no faster there."""
    on_a_gpu(monkeypatch, start_s, room)
    sizes = ["run.labelled_batch=2", "run.unlabelled_batch=2"]
    found = choose(load_config(Path("left-atrium-paper"), sizes))
    assert found == Precision("bfloat16", f"units; a probe takes {told}")


def test_small_crops_and_what_is_set_are_not_probed(
    monkeypatch: pytest.MonkeyPatch, toy_config: Path
) -> None:
    seen = timed(monkeypatch, 5.0)
    assert choose(load_config(toy_config)).name == "float32"
    for name in ("float32", "bfloat16", "float16"):
        set_by_hand = load_config(Path("left-atrium"), [f"run.precision={name}"])
        assert choose(set_by_hand) == Precision(name)
    assert seen == []


def test_the_probe_is_real_ends_in_time_and_leaves_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: "units")
    small = ["networks.a.filters=4", "networks.b.filters=4"]
    before, began = torch.get_rng_state(), time.monotonic()
    chosen = choose(load_config(Path("left-atrium"), small), limit_s=1.0)
    assert time.monotonic() - began < 20
    assert torch.equal(torch.get_rng_state(), before)
    assert "a probe takes" in chosen.why or "in 1 s it was not found" in chosen.why


def test_a_probe_without_time_takes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "bfloat16_units", lambda _: "units")
    chosen = choose(load_config(Path("left-atrium")), limit_s=0.0)
    assert chosen == Precision("float32", "units; in 0 s it was not found that bfloat16 is faster")


def test_each_process_probes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new thread, such as the probe's, has the first GPU as its current device."""
    asked: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    monkeypatch.setattr(precision, "bfloat16_units", lambda device: asked.append(device) or "units")
    monkeypatch.setattr(
        precision, "probe", lambda _, device, *__: asked.append(device) or Precision("bfloat16")
    )
    choose(load_config(Path("left-atrium"), ["run.device=cuda"]))
    assert asked == 2 * [torch.device("cuda", 3)]
    choose(load_config(Path("left-atrium")))
    assert asked[2:] == 2 * [CPU]


def chosen(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Make the machine choose this precision for `auto`."""

    def say(config: TrainConfig) -> Precision:
        asked = config.run.precision
        return Precision(name, f"{name} is faster") if asked == "auto" else Precision(asked)

    monkeypatch.setattr(run, "choose", say)


def test_the_history_and_the_card_say_what_it_became(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, "bfloat16")
    bundle = train(load_config(toy_config, ["run.iterations=4", "run.precision=auto"]), tmp_path, Silent())
    facts = bundle.manifest.training
    assert (facts["precision"], facts["precision_why"]) == ("bfloat16", "bfloat16 is faster")
    assert facts["config"]["run"]["precision"] == "auto"
    record = {"iteration": 0, "precision": "bfloat16", "why": "bfloat16 is faster"}
    assert record in checkpoint.read(tmp_path).history
    assert "bfloat16 (selected by `auto`: bfloat16 is faster)" in (bundle.folder / "README.md").read_text()


def saved(config: Path, folder: Path, asked: str) -> None:
    found = Run(load_config(config, [f"run.precision={asked}"]), folder)
    assert found.precision.name
    found.save()


def resumed(config: Path, folder: Path, asked: str) -> Run:
    found = Run(load_config(config, [f"run.precision={asked}"]), folder)
    found.restore()
    found.save()
    return found


def test_a_resumed_run_keeps_what_it_began_with(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen(monkeypatch, "bfloat16")
    saved(toy_config, tmp_path, "auto")
    chosen(monkeypatch, "float32")  # another machine, or a busy one
    assert resumed(toy_config, tmp_path, "auto").precision.name == "bfloat16"
    with pytest.raises(InputError, match=r"other settings \(run\.precision\)"):
        resumed(toy_config, tmp_path, "float32")
    again = resumed(toy_config, tmp_path, "bfloat16")  # the same precision, set explicitly
    assert again.precision.name == "bfloat16"
    assert not again.history.kind("changed")


@pytest.mark.slow
@pytest.mark.parametrize("began", ["float32", "bfloat16", "float16"])
def test_a_run_from_before_there_was_auto_goes_on_as_it_was(
    toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, began: str
) -> None:
    chosen(monkeypatch, "float32" if began == "bfloat16" else "bfloat16")
    saved(toy_config, tmp_path, began)
    for _ in range(2):  # the second time the checkpoint's own configuration says auto
        found = resumed(toy_config, tmp_path, "auto")
        assert found.precision.name == began
        assert found.scaler.is_enabled() is (began == "float16")
