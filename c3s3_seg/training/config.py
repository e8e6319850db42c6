"""The configuration of a training run: TOML -> `TrainConfig`, checked before anything is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from c3s3_seg.bundle import ReadTask
from c3s3_seg.bundle.manifest import check_patch
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.models.strides import multiple_of
from c3s3_seg.system.overrides import put
from c3s3_seg.system.reading import parse_toml, read_regular
from c3s3_seg.system.schema import closed, parse
from c3s3_seg.system.shard import parse_share
from c3s3_seg.training.c3s3_settings import C3S3Config
from c3s3_seg.training.method_settings import (
    TAUGHT,
    BCPConfig,
    CAMLConfig,
    CauSSLConfig,
    DTCConfig,
    MCFConfig,
    MethodName,
    SASSNetConfig,
    SDCLConfig,
    SSNetConfig,
    TraCoCoConfig,
    UAMTConfig,
)
from c3s3_seg.training.networks import NetworksConfig
from c3s3_seg.training.settings import AugmentConfig, DataConfig, OptimiserConfig, RunConfig, TeacherConfig

CONFIGS = Path(__file__).parent / "configs"
DISCRIMINATOR_SIDE = 16


@closed
@dataclass(frozen=True)
class TrainConfig:
    """The configuration of a run. A method reads its own section; `mcf` reads `c3s3` too."""

    method: MethodName
    task: ReadTask
    data: DataConfig
    run: RunConfig
    networks: NetworksConfig = field(default_factory=NetworksConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    c3s3: C3S3Config = field(default_factory=C3S3Config)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    mcf: MCFConfig = field(default_factory=MCFConfig)
    uamt: UAMTConfig = field(default_factory=UAMTConfig)
    dtc: DTCConfig = field(default_factory=DTCConfig)
    bcp: BCPConfig = field(default_factory=BCPConfig)
    sdcl: SDCLConfig = field(default_factory=SDCLConfig)
    sassnet: SASSNetConfig = field(default_factory=SASSNetConfig)
    tracoco: TraCoCoConfig = field(default_factory=TraCoCoConfig)
    caussl: CauSSLConfig = field(default_factory=CauSSLConfig)
    caml: CAMLConfig = field(default_factory=CAMLConfig)
    ssnet: SSNetConfig = field(default_factory=SSNetConfig)


def warm_up(config: TrainConfig) -> int:
    """Return the number of first iterations in which a run's method does not teach yet."""
    if config.method in ("c3s3", "mcf"):
        return config.c3s3.warm_up
    if config.method in ("bcp", "sdcl"):
        share = (config.bcp if config.method == "bcp" else config.sdcl).pretraining
        return int(share * config.run.iterations)
    return 0


def mixed_batches(config: TrainConfig) -> dict[str, str]:
    """Return the keys of `run` whose batches are mixed in pairs of crops -> the cause, as errors name it."""
    pastes = config.method in ("bcp", "sdcl")
    if not pastes and not (config.method in ("c3s3", "mcf") and config.c3s3.mix_weight > 0):
        return {}
    keys = ["labelled_batch", "unlabelled_batch"]
    if pastes and warm_up(config):
        keys.append("warm_batch")
    return dict.fromkeys(keys, f"'{config.method}'" if pastes else "c3s3.mix_weight")


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a TOML file, or a shipped one by its name, and apply `key.key=value` overrides.

    Raises
    ------
    InputError
        If there is no such file, or it is not TOML.
    ConfigError
        If a value is not allowed; the error names the key, the value and the allowed values.
    """
    # Only a bare name means a shipped file: a mistyped path must not become another configuration.
    is_name = path.name == str(path) and path.suffix != ".toml"
    file = CONFIGS / f"{path}.toml" if is_name and not path.is_file() else path
    if not file.is_file():
        names = ", ".join(sorted(p.stem for p in CONFIGS.glob("*.toml")))
        raise InputError(
            "there is no such configuration", where=path, todo=f"Give a TOML file or one of: {names}"
        )
    data = parse_toml(read_regular(file), file)
    return build_config(data, overrides, file.name)


def build_config(data: dict[str, Any], overrides: Sequence[str], where: str) -> TrainConfig:
    """Build a configuration from the content of a TOML file; the overrides are written into `data`.

    Raises
    ------
    ConfigError
        If a value is not allowed; the error names the key, the value and the allowed values.
    """
    for override in overrides:
        put(data, override)
    config = parse(TrainConfig, data, where)
    _check(config, where)
    return config


def _check(config: TrainConfig, where: str) -> None:
    check_patch(config.task, where)
    if warm_up(config) >= config.run.iterations:  # the whole run would be supervised
        limit = config.run.iterations
        what = f"c3s3.warm_up = {config.c3s3.warm_up}: wanted less than run.iterations = {limit}"
        raise ConfigError(what, where=where)
    if config.data.fold is not None and parse_share(config.data.fold, "data.fold")[1] < 2:
        raise ConfigError(f"data.fold = {config.data.fold!r}: wanted 2 folds or more", where=where)
    _check_shipped(config, where)
    _check_method(config, where)
    _check_norms(config, where)
    _check_teacher(config, where)
    _check_axes(config.augment, where)
    if config.optimiser.nesterov and not config.optimiser.momentum:
        what = "optimiser.momentum = 0 with optimiser.nesterov = true: wanted a momentum above 0"
        raise ConfigError(what, where=where, todo="Set optimiser.nesterov = false for SGD without momentum")
    low, high = config.augment.scale
    if low > high:
        raise ConfigError(
            f"augment.scale = {config.augment.scale}: wanted the smaller number first", where=where
        )
    _check_labels(config, where)


def _check_shipped(config: TrainConfig, where: str) -> None:
    trained = config.networks.trained(config.method)
    if config.networks.ship and not set(config.networks.ship) & set(trained):
        what = f"networks.ship = {list(config.networks.ship)}: method '{config.method}' trains only"
        raise ConfigError(f"{what} {', '.join(trained)}", where=where)


def _check_method(config: TrainConfig, where: str) -> None:
    """Check the values that a method requires in other sections."""
    run, smallest = config.run, min(config.task.patch)
    counts = (run.labelled_batch, run.unlabelled_batch)
    mixed = mixed_batches(config)
    if mixed and len({(n + 1) // 2 for n in counts}) > 1:
        what = f"run.labelled_batch = {counts[0]} and run.unlabelled_batch = {counts[1]}"
        what = f"{what}: {mixed['labelled_batch']} mixes their halves"
        raise ConfigError(f"{what}, wanted as many", where=where)
    if "warm_batch" in mixed and run.warm_batch % 2:
        what = f"run.warm_batch = {run.warm_batch}: {mixed['warm_batch']} pastes these crops into each other"
        raise ConfigError(f"{what} in its pre-training, wanted an even number", where=where)
    if config.method == "sassnet" and smallest < DISCRIMINATOR_SIDE:
        what = f"task.patch has a side of {smallest}: the discriminator of 'sassnet' halves it four times"
        raise ConfigError(f"{what}, wanted {DISCRIMINATOR_SIDE} at least", where=where)
    width = 8 * config.networks.a.filters
    if config.method == "caml" and width % config.caml.heads:
        what = f"caml.heads = {config.caml.heads}: wanted a divisor of 8 x networks.a.filters = {width}"
        raise ConfigError(what, where=where)


def _check_norms(config: TrainConfig, where: str) -> None:
    """Raise an error if a step has one crop of one voxel on the coarsest level: batch norm needs two."""
    patch, strides = config.task.patch, config.task.network_strides
    if any(side > n for side, n in zip(patch, multiple_of(strides), strict=True)):
        return
    for key, crops in _fewest_crops(config).items():
        if crops < 2:
            raise ConfigError(
                f"run.{key} = {getattr(config.run, key)}: '{config.method}' has a step of one crop, and"
                f" task.patch = {list(patch)} leaves one voxel of it on the coarsest level; wanted more crops"
                " or larger ones",
                where=where,
            )


def _fewest_crops(config: TrainConfig) -> dict[str, int]:
    """Return the numbers of crops per forward pass that can be one, by the key of `run` that sets each."""
    run, method, warm = config.run, config.method, warm_up(config) > 0
    taught = run.unlabelled_batch if config.teacher.wanted else 0
    found = {}
    if method == "supervised":
        found["labelled_batch"] = run.labelled_batch + taught
    if method in ("c3s3", "mcf") and warm:
        found["warm_batch"] = run.warm_batch + taught
    if method in ("uamt", "bcp", "sdcl"):  # for the teacher, which uses batch statistics
        found["unlabelled_batch"] = run.unlabelled_batch
    if method in ("bcp", "sdcl") and warm:  # crops are pasted together in pairs
        found["warm_batch"] = run.warm_batch // 2
    return found


def _check_teacher(config: TrainConfig, where: str) -> None:
    teacher = config.teacher
    if not teacher.wanted:
        return
    wrong = ""
    if teacher.bundle and teacher.masks:
        wrong = "teacher.bundle and teacher.masks: wanted one of them"
    elif config.method not in TAUGHT:
        wrong = f"teacher: method '{config.method}' learns from no bundle or masks, wanted one of"
        wrong += f" {', '.join(TAUGHT)}"
    elif teacher.masks and teacher.temperature != 1:
        wrong = f"teacher.temperature = {teacher.temperature:g}: masks have no probabilities, wanted 1"
    elif teacher.masks and config.data.unlabelled_stream == "all":
        wrong = "teacher.masks with data.unlabelled_stream = 'all': labelled cases have labels,"
        wrong += " wanted 'unlabelled'"
    if wrong:
        raise ConfigError(wrong, where=where)


def _check_axes(augment: AugmentConfig, where: str) -> None:
    for key in ("flip_axes", "quarter_turns"):
        axes = getattr(augment, key)
        if len(set(axes)) < len(axes):
            raise ConfigError(f"augment.{key} = {list(axes)}: wanted each axis once", where=where)
    if augment.slice_axis is not None and set(augment.quarter_turns) - {augment.slice_axis}:
        what = f"augment.quarter_turns = {list(augment.quarter_turns)}: would turn slices out of their plane"
        raise ConfigError(f"{what}, wanted augment.slice_axis = {augment.slice_axis} only", where=where)


def _check_labels(config: TrainConfig, where: str) -> None:
    labels = config.task.labels
    if not labels:
        raise ConfigError("task.labels is empty: wanted one label at least", where=where)
    for key in ("name", "value"):
        found = [getattr(label, key) for label in labels]
        twice = next((item for item in found if found.count(item) > 1), None)
        if twice is not None:
            raise ConfigError(f"task.labels has the {key} {twice!r} twice", where=where)
    wrong = next((label for label in labels if not 1 <= label.value <= 255), None)
    if wrong is not None:
        what = f"task.labels: {wrong.name!r} has the value {wrong.value}, wanted 1 to 255"
        raise ConfigError(what, where=where)
