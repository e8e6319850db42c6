"""Read and write profiles: the fastest settings that `c3s3-seg benchmark` found on this machine.

A profile is data: it is checked when it is read, it is used only on the machine that it was made on, and
it decides only what the user left open.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.bundle import Network
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.inference.backends.select import MOST_THREADS, PACKAGES, BackendRequest
from c3s3_seg.inference.memory import Costs
from c3s3_seg.system.choices import CpuRuntime
from c3s3_seg.system.files import make_folder, write_whole
from c3s3_seg.system.hardware import available_processors, is_cuda
from c3s3_seg.system.reading import read_json, read_regular
from c3s3_seg.system.schema import closed, dump, parse

VARIABLE = "C3S3_SEG_PROFILE"
ON_GPU = "it is of the processor, and a GPU is tried first"
Remarks = dict[str, Any]


@closed
@dataclass(frozen=True)
class Machine:
    """The properties that identify a machine."""

    processor: str
    cores: int

    @classmethod
    def here(cls) -> Machine:
        """Return this machine: the model of its processor, and the cores that this process may use."""
        return cls(_processor(), available_processors())


@closed
@dataclass(frozen=True)
class Best:
    """The fastest way to run one kind of network.

    Parameters
    ----------
    runtime, threads
        Fastest runtime and its threads.
    seconds_per_mvoxel
        Seconds per million voxels.
    gflop_s, matrix_gflop_s
        Speed of the network, and of a matrix product in the same process, in 10^9 operations per second.
    base_bytes, bytes_per_voxel
        Same as in `Costs`, for this runtime.
    """

    runtime: CpuRuntime
    threads: int
    seconds_per_mvoxel: float
    gflop_s: float
    matrix_gflop_s: float
    base_bytes: int
    bytes_per_voxel: float

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= MOST_THREADS or self.base_bytes < 0 or not self.bytes_per_voxel >= 0:
            raise ValueError(f"1 to {MOST_THREADS} threads, and positive numbers of bytes")

    @property
    def costs(self) -> Costs:
        """The memory costs, for the choice of tiles."""
        return Costs(self.base_bytes, self.bytes_per_voxel)


@closed
@dataclass(frozen=True)
class Profile:
    """The best settings for each kind of network, such as `resvnet-16`, on one machine."""

    machine: Machine
    networks: dict[str, Best] = field(default_factory=dict)
    format: Literal[1] = 1

    def best(self, network: Network) -> Best | None:
        """Return the entry for this kind of network on this machine; None if there is none."""
        return self.networks.get(kind(network)) if self.machine == Machine.here() else None


def kind(network: Network) -> str:
    """Return the kind of a network, such as `resvnet-16`: networks of one kind take the same time."""
    return f"{network.architecture}-{network.filters}"


def profile_path(environ: Mapping[str, str]) -> Path | None:
    """Return the path of this user's profile: $C3S3_SEG_PROFILE, else below $XDG_CONFIG_HOME or ~/.config.

    Return None if there is neither a variable nor a home, as in many containers.
    """
    if environ.get(VARIABLE):
        return Path(environ[VARIABLE])
    base = environ.get("XDG_CONFIG_HOME", "")
    if os.path.isabs(base):  # the XDG specification ignores any other
        return Path(base) / "c3s3-seg" / "profile.json"
    home = environ.get("HOME") or environ.get("USERPROFILE")
    return Path(home) / ".config" / "c3s3-seg" / "profile.json" if home else None


def existing_profile(environ: Mapping[str, str]) -> Path | None:
    """Return the profile that `predict` uses by default; None if none was written.

    Raises
    ------
    InputError
        If the variable names a file that is not there.
    """
    path = profile_path(environ)
    if path is None or os.path.isfile(path):  # unlike `Path.is_file`, False in a folder that others own
        return path
    if environ.get(VARIABLE):
        todo = f"Write it with: c3s3-seg benchmark --write-profile; or unset {VARIABLE}"
        raise InputError(f"{VARIABLE} names a profile that is not there", where=path, todo=todo)
    return None


def read_profile(path: Path) -> Profile:
    """Read and check a profile.

    Raises
    ------
    ConfigError
        If the file is no profile; the message has the wrong key and the remedy.
    """
    todo = "Write it anew with: c3s3-seg benchmark --write-profile; or delete it"
    try:
        data = read_json(path)
    except InputError as error:
        raise ConfigError(f"the profile cannot be read ({error.what})", where=path, todo=todo) from error
    try:
        return parse(Profile, data, path)
    except ConfigError as error:
        raise ConfigError(f"this is no profile: {error.what}", where=path, todo=todo) from None


def write_profile(path: Path, network: Network, best: Best) -> Profile:
    """Add an entry to a profile; replace the profile if it is broken or of another machine."""
    here = Machine.here()
    try:
        known = read_profile(path) if os.path.isfile(path) else None
        old = known.networks if known is not None and known.machine == here else {}
    except ConfigError:
        old = {}
    profile = Profile(here, {**old, kind(network): best})
    make_folder(path.parent)
    write_whole(path, json.dumps(dump(profile), indent=1).encode())
    return profile


def with_profile(
    request: BackendRequest, path: Path | None, network: Network, has_graph: bool = True, on_gpu: bool = False
) -> tuple[BackendRequest, Best | None, Remarks]:
    """Let a profile decide the runtime and the threads that were left open.

    Parameters
    ----------
    request
        The user's request.
    path
        Path of the profile; None if there is none.
    network
        Network that is to run.
    has_graph
        Whether this network, and all that run with it, have an ONNX graph.
    on_gpu
        Whether a runtime on a GPU is tried first; a profile is of the processor.

    Returns
    -------
    The completed request; the entry that completed it, None if none did; and for the JSON of each case
    which profile was used, or why it was not.

    Raises
    ------
    ConfigError
        If the file is no profile.
    """
    if path is None:
        return request, None, {}
    profile = read_profile(path)
    best = profile.best(network)
    digest = hashlib.sha256(read_regular(path)).hexdigest()
    why = ON_GPU if on_gpu else _unused(request, profile, best, has_graph)
    if best is None or why:
        return request, None, {"profile": {"sha256": digest, "used": False, "why": why}}
    threads = best.threads if request.threads is None else request.threads
    decided = {"runtime": best.runtime, "threads": threads}
    return replace(request, **decided), best, {"profile": {"sha256": digest, "used": True, **decided}}  # type: ignore[arg-type]


def _unused(request: BackendRequest, profile: Profile, best: Best | None, has_graph: bool) -> str | None:
    """Return why a profile is not used; None if it is used."""
    if profile.machine != Machine.here():
        return "it was made on another machine"
    if best is None:
        return "it has no entry for this kind of network"
    if request.runtime not in ("auto", best.runtime) or is_cuda(request.device):
        return "another runtime or device was asked for"
    if request.precision not in ("auto", "float32"):
        return "another precision was asked for than it was made with"
    if best.runtime != "torch" and not has_graph:
        return f"the bundle has no ONNX graph for {best.runtime}"
    if importlib.util.find_spec(PACKAGES[best.runtime][0]) is None:
        return f"{best.runtime} is not installed any more"
    return None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
