"""Choose bfloat16 or float32 for `run.precision = "auto"` on this machine, and state why.

A processor without bfloat16 units emulates bfloat16 at a hundredth of its speed, and one with such units is
not always faster with bfloat16. So both are needed: the units, and a probe of limited time.
"""

from __future__ import annotations

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
from c3s3_seg.system.half_precision import processor_units
from c3s3_seg.training.config import TrainConfig

# Voxels of a crop times filters, below which no probe runs: at 32 x 48 x 32 and 8 filters a step takes
# 0.64 s in bfloat16 and 0.58 s in float32 (benchmarks/training-log.md); a probe of less measures noise.
LEAST = 500_000
LIMIT_S = 1.0  # time limit of the probe
# On a GPU, which passes the crops of a step through a network six times. A whole step of C3S3 takes 0.94 s in
# float32 on an H200, with all its passes (docs/training.md); a small GPU is ten times slower.
GPU_LIMIT_S = 15.0
GAIN = 1.1  # factor by which bfloat16 must be faster: less is noise, and float32 is more exact
LOST, LOST_S = 10.0, 0.02  # bfloat16 is emulated if a layer takes more than this factor and these seconds
KINDS = (torch.float32, torch.bfloat16)
GROWTH = 4  # on a CPU each size takes at least this many times longer than the size before
REPEATS = 2  # passes of each timing, the fastest of which counts, after one warm-up pass
SIDE = 8  # side of the first probe's cube in voxels; even emulated it takes some milliseconds


@dataclass(frozen=True)
class Precision:
    """The precision of a run, and the reason.

    Parameters
    ----------
    name
        float32, bfloat16 or float16.
    why
        Reason in words; empty if `choose` took the name from the configuration.
    """

    name: str
    why: str = ""


def choose(config: TrainConfig, limit_s: float | None = None) -> Precision:
    """Return the configured precision; for "auto", bfloat16 if units exist and a probe finds it faster.

    Parameters
    ----------
    config
        Configuration with device, networks and crops.
    limit_s
        Time limit of the probe in seconds; None: `LIMIT_S`, on a GPU `GPU_LIMIT_S`.
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
    if limit_s is None:
        limit_s = GPU_LIMIT_S if device.type == "cuda" else LIMIT_S
    return probe(config, device, units, limit_s)


def _device(config: TrainConfig) -> torch.device:
    """Return the device, with this process's GPU number: in the probe's thread, GPU 0 is the current one."""
    if config.run.device == "cuda":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device(config.run.device)


def bfloat16_units(device: torch.device) -> str:
    """Return the name of the device's bfloat16 units; empty if there are none."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"compute capability {major}.{minor}" if major >= 8 else ""
    return processor_units("bfloat16")


def probe(config: TrainConfig, device: torch.device, units: str, limit_s: float) -> Precision:
    """Time a backbone in both precisions until the limit, and choose one.

    A CPU computes growing crops, since those of a step may take minutes. A GPU computes those of a step: with
    small crops only the starts of its kernels are timed, of which bfloat16 has more.

    The timing runs in a thread that is not waited for after the limit and ends after its current pass: if
    other programs occupy the processors, one pass can take a hundred times as long as it should.
    """
    nets = _nets(config, device)
    found = _Found(limit_s)
    if device.type == "cuda":  # the libraries load parts at their first call, which is not timed
        _seconds(_work(nets[0], 1, (SIDE,) * 3, device), device, torch.float32, found.late)
    # Not a daemon: a daemon that runs torch code when the interpreter ends crashes the process.
    timing = _time_step if device.type == "cuda" else _time_growing
    worker = threading.Thread(target=timing, args=(config, nets, device, found))
    worker.start()
    worker.join(limit_s)
    found.late.set()
    if not found.pairs:
        return Precision("float32", f"{units}; in {limit_s:g} s it was not found that bfloat16 is faster")
    single, half = found.pairs[-1]
    why = f"{units}; a probe takes {1000 * single:.1f} ms in float32, {1000 * half:.1f} ms in bfloat16"
    return Precision("bfloat16" if half * GAIN < single else "float32", why)


class _Late(Exception):  # noqa: N818
    """The signal that the time is up."""


class _Found:
    """The timings (float32, bfloat16) in seconds for each size, and whether the time is up."""

    def __init__(self, limit_s: float) -> None:
        self.until = time.perf_counter() + limit_s
        self.late = threading.Event()
        self.pairs: list[tuple[float, float]] = []


Work = Callable[[], torch.Tensor]
Nets = tuple[nn.Module, nn.Module]


def _nets(config: TrainConfig, device: torch.device) -> Nets:
    """Build a layer and the widest backbone; the state of the global generator is kept."""
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
    """Return the trained backbone with more filters; of two with as many, the second."""
    return max(reversed(config.networks.trained(config.method).values()), key=attrgetter("filters"))


def _time_growing(config: TrainConfig, nets: Nets, device: torch.device, found: _Found) -> None:
    """Time both precisions until the time is up; only for a layer if bfloat16 is emulated."""
    with suppress(_Late, RuntimeError):  # RuntimeError: memory is full; the timings so far decide
        layer = _work(nets[0], 1, (SIDE,) * 3, device)
        single, half = _pair(layer, device, found)
        if half > max(LOST * single, LOST_S):
            return
        for crops, sides in _sizes(config):
            single, half = _pair(_work(nets[1], crops, sides, device), device, found)
            found.pairs.append((single, half))
            if (1 + REPEATS) * GROWTH * (single + half) > found.until - time.perf_counter():
                return


def _time_step(config: TrainConfig, nets: Nets, device: torch.device, found: _Found) -> None:
    """Time both precisions on the crops of a step; on the next smaller ones if the memory is full."""
    for crops, sides in reversed(list(_sizes(config))):
        if found.late.is_set():
            return
        with suppress(_Late, RuntimeError):
            found.pairs.append(_pair(_work(nets[1], crops, sides, device), device, found))
            return


def _pair(work: Work, device: torch.device, found: _Found) -> tuple[float, float]:
    """Return the times in float32 and in bfloat16."""
    single, half = (_seconds(work, device, kind, found.late) for kind in KINDS)
    return single, half


def _sizes(config: TrainConfig) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Yield numbers and sides of crops: small ones, with sides doubled each time, then those of a step.

    There are at least two: batch norm needs two values in the coarsest map, where a crop of 16 has one.
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
    """Return the time of a forward and a backward pass: the fastest of `REPEATS`, after a warm-up."""
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
