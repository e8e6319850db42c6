"""Copy settings from a bundle into a plan, so that `train --from` fits."""

from __future__ import annotations

from math import inf
from typing import Any

from c3s3_seg.bundle import MANIFEST, ModelBundle, Network
from c3s3_seg.dataset import INDEX, DataSet, Splits
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.schema import dump, parse
from c3s3_seg.training.checks import check_data
from c3s3_seg.training.networks import SLOTS, NetworksConfig, Slot
from c3s3_seg.training.planning.builder import ConfigBuilder

SLOWER = 0.4  # share of the learning rate that the bundle began with
BLEND = 0.5  # share of trained weights, which alone overfit the few new labels (benchmarks/training-log.md)
COPIED = "as in the bundle"
# Settings that only the bundle's recorded training configuration states.
SETTINGS = ("networks.dropout", "networks.storage", "c3s3.alpha")


def from_bundle(builder: ConfigBuilder, data: DataSet, splits: Splits, bundle: ModelBundle) -> None:
    """Copy the task, the widths and the augmentation; choose the method and a lower learning rate.

    Raises
    ------
    InputError
        If the data set has other labels or another modality than the bundle.
    ConfigError
        If the manifest's record of the bundle's training configuration is invalid.
    """
    _same_task(data, bundle)
    _task(builder, bundle)
    _networks(builder, splits, bundle)
    for key in SETTINGS:
        table, name = key.split(".")
        if name in (before := _recorded(bundle, table)):
            builder.put(key, before[name], COPIED)
    for name, value in _recorded(bundle, "augment").items():
        if value is not None:
            builder.put(f"augment.{name}", value, COPIED)
    builder.put(
        "run.blend", BLEND, "the rest is what it began from: few new labels are soon fitted too closely"
    )
    rate = _recorded(bundle, "optimiser").get("lr", 0.01)
    if not isinstance(rate, int | float) or not 0 < rate < inf:
        what = f"training.config.optimiser.lr = {rate!r}: wanted a number above 0"
        raise ConfigError(what, where=bundle.folder / MANIFEST)
    builder.put(
        "optimiser.lr",
        float(f"{SLOWER * rate:.3g}"),
        f"{SLOWER:g} of the {rate:g} that the bundle began with",
    )


def _recorded(bundle: ModelBundle, name: str) -> dict[str, Any]:
    """Return a table of the bundle's training configuration; empty if the manifest has none."""
    found = bundle.manifest.training.get("config", {}).get(name, {})
    if not isinstance(found, dict):
        what = f"training.config.{name} = {str(found)[:80]!r}: wanted a table"
        raise ConfigError(what, where=bundle.folder / MANIFEST)
    return found


def _same_task(data: DataSet, bundle: ModelBundle) -> None:
    todo = "Name and number the labels as the bundle has them, or plan without --from"
    check_data(bundle.task, data, todo)  # same as in `train`: spellings of one name or modality are equal
    theirs = bundle.task.label_values
    if set(data.labels.values()) - set(theirs.values()):  # would be learnt as background
        what = f"labels are {dict(data.labels)}, the bundle's {theirs}"
        raise InputError(what, where=data.folder / INDEX, todo=todo)


def _task(builder: ConfigBuilder, bundle: ModelBundle) -> None:
    task = bundle.task
    builder.put("task.name", f"{task.name}-tuned", "the bundle's name, and what it is")
    for key in ("modality", "labels", "patch", "strides", "keep_largest", "overlap", "weighting", "series"):
        value = _known(dump(task)[key])
        if value is not None:
            builder.put(f"task.{key}", value, COPIED)
    builder.put("task.recipe.spacing_mm", list(task.recipe.spacing_mm), COPIED)
    for key, value in dump(task.recipe.intensity).items():
        if key == "rule" or task.recipe.intensity.rule == "window":
            builder.put(f"task.recipe.intensity.{key}", value, COPIED)


def _known(value: Any) -> Any:
    """Return the value without the None entries of its mappings, which TOML cannot express."""
    if isinstance(value, dict):
        return {key: _known(item) for key, item in value.items() if item is not None}
    return [_known(item) for item in value] if isinstance(value, list) else value


def _networks(builder: ConfigBuilder, splits: Splits, bundle: ModelBundle) -> None:
    primary, taken = bundle.networks[0], _pair(bundle)
    for slot, (architecture, network) in taken.items():
        why = COPIED if network else "the other backbone of its run, or of the paper"
        builder.put(f"networks.{slot}.architecture", architecture, why)
        why = COPIED if network else "the bundle has none: this one begins from random weights"
        builder.put(f"networks.{slot}.filters", (network or primary).filters, why)
    if splits.unlabelled:
        builder.put("method", "c3s3", f"{len(splits.unlabelled)} unlabelled cases can teach")
        return
    builder.put("method", "supervised", "there are no unlabelled cases")
    slot = next(slot for slot, (_, network) in taken.items() if network == primary)
    builder.put("networks.supervised", slot, "the bundle's primary network")


def _pair(bundle: ModelBundle) -> dict[Slot, tuple[str, Network | None]]:
    """Return the architecture of each slot, and the bundle's network for it or None.

    The architectures are those of the bundle's run, or the defaults if it recorded none; if the primary
    network's is not among them, it replaces that of slot a.
    """
    primary, pair = bundle.networks[0], NetworksConfig()
    recorded = bundle.manifest.training.get("config", {}).get("networks")
    if recorded is not None:
        pair = parse(NetworksConfig, recorded, bundle.folder / MANIFEST)
    wanted = {slot: pair.backbone(slot).architecture for slot in SLOTS}
    if primary.architecture not in wanted.values():
        wanted["a"] = primary.architecture
    left = [network for _, network in bundle.members()]
    found: dict[Slot, tuple[str, Network | None]] = {}
    for slot, architecture in wanted.items():
        network = next((network for network in left if network.architecture == architecture), None)
        found[slot] = architecture, network
        if network is not None:
            left.remove(network)
    return found
