"""A run that begins from a bundle's networks, not from chance."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from c3s3_seg.bundle import ModelBundle, Network
from c3s3_seg.errors import InputError
from c3s3_seg.inference.backends.runtimes import load_torch
from c3s3_seg.training.checks import modality
from c3s3_seg.training.run import Run


def initialize_from(run: Run, bundle: ModelBundle) -> None:
    """Fill the nets of a fresh run, and their averages, with a bundle's weights.

    A net that the bundle does not hold begins from chance; of several of one kind, as in an ensemble, the
    first is taken. What was taken goes into the history, and from there into the new bundle's card.

    Raises
    ------
    InputError
        If the bundle does another task, or none of its networks is trained by this method.
    """
    _same_task(run, bundle)
    candidates = run.method.candidates()
    members = bundle.members()
    taken = _first_of_each(members, candidates)
    if not taken:
        found = ", ".join(network.architecture for _, network in members)
        what = f"it holds {found}; method '{run.config.method}' trains {', '.join(candidates)}"
        raise InputError(what, where=bundle.folder, todo="Choose another method, or set networks.supervised")
    for home, network in taken:
        net, wanted = candidates[network.architecture]
        _same_width(network, wanted, bundle)
        weights = load_torch(home, network).state_dict()
        net.load_state_dict(weights)
        run.emas[network.architecture].net.load_state_dict(weights)
        if run.config.run.blend < 1:
            run.first[network.architecture] = weights
    run.history.append({"iteration": 0, "initialized_from": _origin(bundle, taken)})


def _first_of_each(
    members: list[tuple[ModelBundle, Network]], kinds: Collection[str]
) -> list[tuple[ModelBundle, Network]]:
    first: dict[str, tuple[ModelBundle, Network]] = {}
    for home, network in members:
        if network.architecture in kinds:
            first.setdefault(network.architecture, (home, network))
    return list(first.values())


def _origin(bundle: ModelBundle, taken: list[tuple[ModelBundle, Network]]) -> dict[str, Any]:
    """What the card says of the bundle; `seconds` counts its own forebears too."""
    facts = bundle.manifest.training
    earlier = facts.get("initialized_from") or {}
    return {
        "bundle": bundle.task.name,
        "networks": [network.architecture for _, network in taken],
        "weights_sha256": {n.architecture: home.manifest.files[n.weights] for home, n in taken},
        "iterations": facts.get("iterations", 0) + earlier.get("iterations", 0),
        "seconds": facts.get("seconds", 0) + earlier.get("seconds", 0),
    }


def _same_task(run: Run, bundle: ModelBundle) -> None:
    ours, theirs = run.config.task, bundle.task
    if modality(ours.modality) != modality(theirs.modality):
        what = f"task.modality: the bundle has {theirs.modality}, the configuration {ours.modality}"
        raise InputError(what, where=bundle.folder, todo="Begin from a bundle of the same modality")
    todo = "Copy task.labels and task.recipe from the bundle's manifest.json into the configuration"
    if ours.label_values != theirs.label_values:
        what = f"task.labels: the bundle has {theirs.label_values}, the configuration {ours.label_values}"
        raise InputError(what, where=bundle.folder, todo=todo)
    if ours.recipe != theirs.recipe:
        what = f"task.recipe: the bundle has {theirs.recipe}, the configuration {ours.recipe}"
        raise InputError(what, where=bundle.folder, todo=todo)


def _same_width(found: Network, wanted: Network, bundle: ModelBundle) -> None:
    if found.filters != wanted.filters:
        name = f"networks.{found.architecture}_filters"
        what = f"its {found.architecture} has {found.filters} filters, the configuration {wanted.filters}"
        raise InputError(what, where=bundle.folder, todo=f"Set {name} = {found.filters}")
