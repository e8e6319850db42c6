"""bfloat16 or float32: what `run.precision = "auto"` becomes on this machine, and why.

A processor without bfloat16 units emulates it at a hundredth of its speed, and one that has them is not
always faster with it. So both are asked for: the units, and a probe of at most a second.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from math import prod
from operator import attrgetter

import torch
from torch import nn

from c3s3_seg.bundle import Network
from c3s3_seg.models import build
from c3s3_seg.training.config import TrainConfig

# Voxels of a crop times filters, below which nothing is asked: at 32 x 48 x 32 and 8 filters a step takes
# 0.64 s in bfloat16 and 0.58 s in float32 (benchmarks/training-log.md); what a probe says of less is noise.
LEAST = 500_000
LIMIT_S = 1.0  # of the probe
GAIN = 1.1  # so many times faster must bfloat16 be: less is noise, and float32 is the more exact
LOST, LOST_S = 10.0, 0.02  # so many times slower in the smallest layer, and so slow: it is emulated
KINDS = (torch.float32, torch.bfloat16)
GROWTH = 4  # at least so many times longer than the size before does a size take
REPEATS = 2  # of each timing, the fastest of which counts; one before them warms up
SIDE = 8  # voxels of the first probe's cube; even emulated it takes some milliseconds
# Of oneDNN's names for what it may use (ONEDNN_MAX_CPU_ISA), those that have bfloat16.
WITH_BFLOAT16 = ("BF16", "FP16", "AMX", "AVX10", "ALL", "DEFAULT")


@dataclass(frozen=True)
class Precision:
    """What a run computes in, and why.

    Parameters
    ----------
    name
        float32, bfloat16 or float16.
    why
        For a person; empty where the configuration says it.
    """

    name: str
    why: str = ""


def choose(config: TrainConfig, limit_s: float = LIMIT_S) -> Precision:
    """What the configuration says; for "auto": bfloat16 where it has units and a probe finds it faster.

    Parameters
    ----------
    config
        Device, networks and crops.
    limit_s
        Of the probe.
    """
    if config.run.precision != "auto":
        return Precision(config.run.precision)
    device = _device(config)
    units = bfloat16_units(device)
    if not units:
        return Precision("float32", "there are no units for bfloat16 here, which would be emulated")
    if prod(config.task.patch) * _wider(config).filters < LEAST:
        return Precision(
            "float32", f"{units}; on crops and networks as small as these bfloat16 saves nothing"
        )
    return probe(config, device, units, limit_s)


def _device(config: TrainConfig) -> torch.device:
    """With this process's GPU by its number: in the thread of the probe the current GPU is the first."""
    if config.run.device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(config.run.device)


def bfloat16_units(device: torch.device) -> str:
    """The name of what computes in bfloat16 there; empty where nothing does."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}" if major >= 8 else ""
    if not _onednn_may():
        return ""
    names = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 BF16", "bf16": "Arm BF16"}
    able = _capabilities()
    return next((word for name, word in names.items() if able.get(name)), "")


def _onednn_may() -> bool:
    """Whether oneDNN, which does the convolutions, is there and may use bfloat16 units."""
    cap = os.environ.get("ONEDNN_MAX_CPU_ISA") or os.environ.get("DNNL_MAX_CPU_ISA") or "ALL"
    known = any(word in cap.upper() for word in WITH_BFLOAT16)
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return known and there and bool(torch.backends.mkldnn.enabled)


def _capabilities() -> dict[str, object]:
    """The processor's units; torch before 2.11 knows two of them by functions of their own."""
    listed = getattr(torch.cpu, "get_capabilities", None)
    if listed is not None:
        return dict(listed())
    ask: Callable[[str], object] = lambda name: getattr(torch.cpu, name, bool)()  # noqa: E731
    return {"avx512_bf16": ask("_is_avx512_bf16_supported"), "amx_bf16": ask("_is_amx_tile_supported")}


def probe(config: TrainConfig, device: torch.device, units: str, limit_s: float) -> Precision:
    """Time a backbone in both precisions, on growing crops, until the limit.

    It is timed in a thread, which is not waited for any longer, and ends itself after the pass at which it
    is: where other programs have the processors, one pass can take a hundred times what it should.
    """
    nets = _nets(config, device)
    found = _Found(limit_s)
    if device.type == "cuda":  # what the libraries load at their first call is not timed
        _seconds(_work(nets[0], 1, (SIDE,) * 3, device), device, torch.float32, found.late)
    # No daemon: one that is at work in torch when the interpreter ends brings the process down.
    worker = threading.Thread(target=_time_both, args=(config, nets, device, found))
    worker.start()
    worker.join(limit_s)
    found.late.set()
    if not found.pairs:
        return Precision("float32", f"{units}; in {limit_s:g} s it was not found that bfloat16 is faster")
    single, half = found.pairs[-1]
    why = f"{units}; a probe takes {1000 * single:.1f} ms in float32, {1000 * half:.1f} ms in bfloat16"
    return Precision("bfloat16" if half * GAIN < single else "float32", why)


class _Late(Exception):  # noqa: N818
    """The time is up."""


class _Found:
    """(float32, bfloat16) in seconds for each size, and whether the time is up."""

    def __init__(self, limit_s: float) -> None:
        self.until = time.perf_counter() + limit_s
        self.late = threading.Event()
        self.pairs: list[tuple[float, float]] = []


Work = Callable[[], torch.Tensor]
Nets = tuple[nn.Module, nn.Module]


def _nets(config: TrainConfig, device: torch.device) -> Nets:
    """A layer, and the widest backbone; the global generator stays as it was."""
    wider = _wider(config)
    filters = wider.filters
    with torch.random.fork_rng(devices=[]):
        layer = nn.Conv3d(1, filters, 3, padding=1)
        # Without dropout, which would draw from the global generator while the run does.
        net = build(
            wider.architecture,
            channels=1,
            classes=config.task.classes,
            filters=filters,
            dropout=0.0,
            strides=config.task.network_strides,
        )
    for made in (layer, net):
        made.to(device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
    return layer, net


def _wider(config: TrainConfig) -> Network:
    """Of the backbones that are trained, the one with more filters, or the second."""
    return max(reversed(config.networks.trained(config.method).values()), key=attrgetter("filters"))


def _time_both(config: TrainConfig, nets: Nets, device: torch.device, found: _Found) -> None:
    """Until the time is up; only a layer where bfloat16 is emulated."""
    with suppress(_Late, RuntimeError):  # RuntimeError: memory is full; what is known so far decides
        layer = _work(nets[0], 1, (SIDE,) * 3, device)
        single, half = (_seconds(layer, device, kind, found.late) for kind in KINDS)
        if half > max(LOST * single, LOST_S):
            return
        for crops, sides in _sizes(config):
            work = _work(nets[1], crops, sides, device)
            single, half = (_seconds(work, device, kind, found.late) for kind in KINDS)
            found.pairs.append((single, half))
            if (1 + REPEATS) * GROWTH * (single + half) > found.until - time.perf_counter():
                return


def _sizes(config: TrainConfig) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Number of crops, and sides: small ones, twice the side each time; then all that a step has.

    Two at least: batch norm wants two values in the coarsest map, where a crop of 16 voxels has one.
    """
    side = 16
    while side < max(config.task.patch):
        yield 2, tuple(min(side, whole) for whole in config.task.patch)
        side *= 2
    yield max(2, config.run.labelled_batch + config.run.unlabelled_batch), config.task.patch


def _work(net: nn.Module, crops: int, sides: tuple[int, ...], device: torch.device) -> Work:
    given = torch.linspace(0, 100, crops * prod(sides), device=device).sin().reshape(crops, 1, *sides)
    given = given.to(memory_format=torch.channels_last_3d)

    def work() -> torch.Tensor:
        output: torch.Tensor = net(given)
        return output.float().square().mean()

    return work


def _seconds(work: Work, device: torch.device, kind: torch.dtype, late: threading.Event) -> float:
    """Of a forward and a backward pass: the fastest of a few, after one that warms up."""
    taken = []
    for _ in range(1 + REPEATS):
        began = time.perf_counter()
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == torch.bfloat16):
            loss = work()
        if late.is_set():
            raise _Late
        loss.backward()  # type: ignore[no-untyped-call]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if late.is_set():
            raise _Late
        taken.append(time.perf_counter() - began)
    return min(taken[1:])
