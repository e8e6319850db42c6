"""Begin a run from a bundle's networks instead of random weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError
from c3s3_seg.inference.backends.runtimes import load_torch
from c3s3_seg.training.checks import check_task
from c3s3_seg.training.config import TrainConfig
from c3s3_seg.training.run import Run

Member = tuple[ModelBundle, Network]


def initialize_from(run: Run, bundle: ModelBundle) -> None:
    """Fill the nets of a fresh run, their averages and a method's teachers with a bundle's weights.

    Each net takes the first free network of its architecture in the bundle, preferring one of its own width;
    without one the net begins from random weights. The networks taken go into the history, and from there
    into the new bundle's card.

    Raises
    ------
    InputError
        If the bundle does another task, none of its networks is trained by this method, or widths differ.
    """
    candidates, taken = run.method.candidates(), members_for(run.config, bundle)
    for name, (home, network) in taken.items():
        weights = load_torch(home, network).state_dict()
        candidates[name][0].load_state_dict(weights)
        run.emas[name].net.load_state_dict(weights)
        if run.config.run.blend < 1:
            run.first[name] = weights
    run.method.after_start()
    run.history.note(0, initialized_from=_origin(bundle, taken))


def members_for(config: TrainConfig, bundle: ModelBundle) -> dict[str, Member]:
    """Return the network of a bundle that each network of a run begins from, by the name of the latter.

    Raises
    ------
    InputError
        If the bundle does another task, none of its networks is trained by this method, or widths differ.
    """
    _same_task(config, bundle)
    members = bundle.members()
    wanted = {network.candidate: network for network in config.networks.trained(config.method).values()}
    taken = _taken(members, wanted)
    if not taken:
        found = ", ".join(network.architecture for _, network in members)
        what = f"it holds {found}; method '{config.method}' trains {', '.join(wanted)}"
        raise InputError(what, where=bundle.folder, todo="Choose another method, or set networks.supervised")
    _same_widths(config, {name: network for name, (_, network) in taken.items()}, bundle)
    return taken


def check_origin(run: Run, bundle: ModelBundle) -> None:
    """Refuse to resume a run with another bundle than the one that it began from.

    Raises
    ------
    InputError
        If the run began from random weights, or from other networks.
    """
    began = run.history.first("initialized_from")
    known = {home.manifest.files[network.weights] for home, network in bundle.members()}
    if began is None or not set(began["weights_sha256"].values()) <= known:
        first = "random weights" if began is None else repr(began["bundle"])
        todo = "Resume with the bundle that it began from, or without --from; or start another run"
        what = f"the run began from {first}, and not from {bundle.folder}"
        raise InputError(what, where=run.folder, todo=todo)


def _taken(members: list[Member], wanted: Mapping[str, Network]) -> dict[str, Member]:
    """Return the member that each candidate takes."""
    left, found = list(members), dict[str, Member]()
    for name, network in wanted.items():
        fitting = [member for member in left if member[1].architecture == network.architecture]
        if fitting:
            found[name] = min(fitting, key=lambda member: member[1].filters != network.filters)
            left.remove(found[name])
    return found


def _origin(bundle: ModelBundle, taken: Mapping[str, Member]) -> dict[str, Any]:
    """Return the card's entry on the bundle; its totals include those of the bundles before it."""
    training_record = bundle.manifest.training
    earlier = training_record.get("initialized_from") or {}
    return {
        "bundle": bundle.task.name,
        "networks": list(taken),
        "weights_sha256": {name: home.manifest.files[n.weights] for name, (home, n) in taken.items()},
        "iterations": training_record.get("iterations", 0) + earlier.get("iterations", 0),
        "seconds": training_record.get("seconds", 0) + earlier.get("seconds", 0),
    }


def _same_task(config: TrainConfig, bundle: ModelBundle) -> None:
    ours, theirs = config.task, bundle.task
    check_task(ours, bundle)
    if ours.network_strides != theirs.network_strides:
        what = f"task.strides: the bundle has {theirs.strides}, the configuration {ours.strides}"
        raise InputError(what, where=bundle.folder, todo="Copy task.strides from the bundle's manifest.json")


def _same_widths(config: TrainConfig, taken: Mapping[str, Network], bundle: ModelBundle) -> None:
    for slot, wanted in config.networks.trained(config.method).items():
        found = taken.get(wanted.candidate, wanted)
        if found.filters != wanted.filters:
            what = f"its {found.architecture} has {found.filters} filters, the configuration {wanted.filters}"
            todo = f"Set networks.{slot}.filters = {found.filters}"
            raise InputError(what, where=bundle.folder, todo=todo)
