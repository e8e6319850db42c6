"""Combine the primary networks of several folds in one bundle; inference averages their probabilities."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isfinite, nan
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from c3s3_seg.bundle import CARD, ModelBundle, Network
from c3s3_seg.errors import InputError
from c3s3_seg.system.schema import dump, plain
from c3s3_seg.training.bundles.card import (
    both_empty_line,
    distance_words,
    empty_words,
    note_paragraph,
    overlap_words,
)
from c3s3_seg.training.bundles.domain import merge_domains

# The parts of a task that all members must share: they decide the input, the labels and the mask.
SAME = (
    "modality", "labels", "recipe", "patch", "strides", "keep_largest", "overlap", "weighting", "series",
)  # fmt: skip
SCORES = {"dice": "Dice", "jaccard": "Jaccard", "hd95_vox": "95HD (voxel)", "asd_vox": "ASD (voxel)"}


@dataclass(frozen=True)
class EnsembleMember:
    """The primary network of one run.

    Parameters
    ----------
    bundle
        Bundle that the run wrote.
    network
        Primary network of the bundle, with its stem in the ensemble.
    fold
        "i/k"; None if the run was no fold.
    scores
        Scores of the shipped weights on the run's own validation cases: `dice`, `jaccard`, `hd95_vox`,
        `asd_vox`. None if the run had none.
    empty, infinite, masks
        Number of predictions behind the scores that were empty and count as 0, of distances that were
        infinite and are in no mean, and of all predictions.
    both_empty
        Number of empty predictions of an empty truth, which are in no mean and not among `masks`.
    """

    bundle: ModelBundle
    network: Network
    fold: str | None
    scores: dict[str, float] | None
    empty: int = 0
    infinite: int = 0
    masks: int = 0
    both_empty: int = 0

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the network's weights in its own bundle."""
        return self.bundle.manifest.files[self.bundle.networks[0].weights]

    @property
    def kept(self) -> str:
        """The weights of the run that its bundle contains: `last` or `best`."""
        return str(self.bundle.manifest.training.get("kept", "last"))

    @property
    def cases(self) -> dict[str, Any] | None:
        """The scores of each validation case with these weights; None if the bundle does not have them."""
        key = "validation_cases" if self.kept == "last" else "validation_kept_cases"
        found: dict[str, Any] | None = self.bundle.manifest.training.get(key, {}).get(self.network.candidate)
        return found

    def record(self) -> dict[str, Any]:
        """Return the entry for the manifest, with the training record of the member's own bundle."""
        return {
            "stem": self.network.stem,
            "fold": self.fold,
            "weights_sha256": self.weights_sha256,
            "scores": self.scores,
            "training": self.bundle.manifest.training,
        }


def make_ensemble(bundles: Sequence[ModelBundle], out: Path) -> ModelBundle:
    """Write one bundle with the primary network of each of several, the best on validation first.

    Linked bundles are not included. Graphs are not copied, since they name the files that they read: export
    the new bundle to get its graphs.

    Raises
    ------
    InputError
        If there are fewer than two bundles, one network is given twice, their tasks differ, or they are not
        different folds of one division.
    """
    if len(bundles) < 2:
        raise InputError(f"an ensemble of {len(bundles)} bundle(s): wanted two or more")
    first = bundles[0]
    for other in bundles[1:]:
        _same_task(first, other)
    members = [_member(bundle) for bundle in bundles]
    _all_different(members)
    _one_division(members)
    members.sort(key=lambda member: -_dice(member))
    named = _named(members)
    files = {
        member.network.weights: (member.bundle.folder / member.bundle.networks[0].weights).read_bytes()
        for member in named
    }
    files[CARD] = ensemble_card(named).encode()
    networks = tuple(replace(member.network, name=None) for member in named)
    domain = merge_domains([member.bundle.task.domain for member in named])
    task = replace(named[0].bundle.task, domain=domain)
    return ModelBundle.create(out, task, files, networks, plain(_training_record(named)))


def _member(bundle: ModelBundle) -> EnsembleMember:
    training_record, network = bundle.manifest.training, bundle.networks[0]
    # Older bundles, written before weights could be chosen, ship the last ones.
    records = training_record.get("validation_kept") or training_record.get("validation_last") or []
    record = next((r for r in records if r["candidate"] == network.candidate), None)
    scores = None if record is None else {key: _number(record.get(key)) for key in SCORES}
    found = ((record or {}).get(key) for key in ("empty", "infinite", "masks", "both_empty"))
    counts = [count if isinstance(count, int) else 0 for count in found]
    return EnsembleMember(bundle, network, training_record.get("fold"), scores, *counts)


def _dice(member: EnsembleMember) -> float:
    """Return the mean Dice by which members are ordered; 0 if it is unknown."""
    found = (member.scores or {}).get("dice", 0.0)
    return found if isfinite(found) else 0.0


def _number(found: Any) -> float:
    """Return a recorded mean as a float; nan if it is none.

    A bundle writes an infinite mean as "inf", and a missing one as null.
    """
    try:
        return float(found)
    except (TypeError, ValueError):
        return nan


def _named(members: Sequence[EnsembleMember]) -> list[EnsembleMember]:
    """Name the first network `model`, as in every bundle, and the others after their fold or place."""
    named = []
    for place, member in enumerate(members, start=1):
        stem = f"fold-{member.fold.split('/')[0]}" if member.fold else f"member-{place}"
        network = replace(member.network, stem="model" if place == 1 else stem)
        named.append(replace(member, network=network))
    return named


def _same_task(first: ModelBundle, other: ModelBundle) -> None:
    ours, theirs = dump(first.task), dump(other.task)
    for key in SAME:
        if ours[key] == theirs[key]:
            continue
        values = theirs[key], ours[key]
        words = [value if isinstance(value, str) else json.dumps(value) for value in values]
        if key == "labels":
            named = [_labels(bundle) for bundle in (other, first)]
            words = named if named[0] != named[1] else words  # else they differ in their codes
        what = f"task.{key} is {words[0]}, and {words[1]} in {first.folder}"
        raise InputError(what, where=other.folder, todo="Put only runs of one configuration together")


def _labels(bundle: ModelBundle) -> str:
    return ", ".join(f"{label.name} = {label.value}" for label in bundle.task.labels)


def _all_different(members: Sequence[EnsembleMember]) -> None:
    seen: dict[str, Path] = {}
    for member in members:
        if member.weights_sha256 in seen:
            what = f"its primary network is the same network as that of {seen[member.weights_sha256]}"
            raise InputError(what, where=member.bundle.folder)
        seen[member.weights_sha256] = member.bundle.folder


def _one_division(members: Sequence[EnsembleMember]) -> None:
    """Raise an InputError unless the folds are of one division of the data, each given once."""
    folds = [member.fold for member in members]
    if not any(folds):
        return
    divisions = {_division(member) for member in members}
    divided = {member.bundle.manifest.training.get("divided_sha256") for member in members} - {None}
    if None in folds or len(divisions) > 1 or len(divided) > 1 or len(set(folds)) < len(folds):
        found = ", ".join(f"{m.bundle.folder}: {m.fold or 'no fold'}" for m in members)
        todo = "Give the bundles of --fold 1/K, 2/K, ... of one configuration and one data set, each once"
        raise InputError(f"these are not different folds of one division: {found}", todo=todo)


def _division(member: EnsembleMember) -> tuple[str, Any]:
    data = member.bundle.manifest.training.get("config", {}).get("data", {})
    return (member.fold or "").partition("/")[2], data.get("fold_seed")


def _training_record(members: Sequence[EnsembleMember]) -> dict[str, Any]:
    trainings = [member.bundle.manifest.training for member in members]
    return {
        "method": trainings[0].get("method"),
        "config": trainings[0].get("config", {}),
        "iterations": sum(training.get("iterations", 0) for training in trainings),
        "seconds": sum(training.get("seconds", 0) for training in trainings),
        "ensemble": [member.record() for member in members],
        "cross_validated": cross_validated(members),
        "validation_cases": {member.network.stem: member.cases for member in members if member.cases},
    }


def cross_validated(members: Sequence[EnsembleMember]) -> dict[str, dict[str, float]]:
    """Return each score's mean and sd over folds; empty unless every member is a fold with scores."""
    if any(member.fold is None or member.scores is None for member in members):
        return {}
    found = {key: [m.scores[key] for m in members if m.scores is not None] for key in SCORES}
    # A member that found nothing has no distance; then the mean distance is left out too.
    whole = {key: values for key, values in found.items() if all(map(isfinite, values))}
    return {key: {"mean": round(fmean(v), 4), "sd": round(stdev(v), 4)} for key, v in whole.items()}


def ensemble_card(members: Sequence[EnsembleMember]) -> str:
    """Return the card of the ensemble as Markdown."""
    task = members[0].bundle.task
    labels = ", ".join(f"{label.value} = {label.name}" for label in task.labels)
    spacing = " x ".join(f"{s:g}" for s in task.recipe.spacing_mm)
    note = members[0].bundle.manifest.training.get("config", {}).get("data", {}).get("note", "")
    return f"""# {task.name}

Research use only. Not a medical device.

- **Task**: {task.modality}; labels {labels}.
- **Grid**: {spacing} mm, axes LPS; training crops of {" x ".join(map(str, task.patch))} voxels.
- **Ensemble** of {len(members)} networks, each the primary network of its own run. `predict --ensemble`
  averages their probabilities; without it the first network alone is used.
{note_paragraph(note)}
## Members

Scores of each network on the validation cases of its own run (paper protocol, voxel units, mean over cases
and labels), before rounding for storage. The ensemble itself was not scored, because each member was trained
on most of the validation cases of the others.

{_table(members)}
{_mean_line(members)}{_optimistic(members)}"""


def _table(members: Sequence[EnsembleMember]) -> str:
    heads = ["file", "network", "fold", "weights", *SCORES.values()]
    rows = [heads, ["---"] * len(heads)]
    for member in members:
        net, scores = member.network, [""] * len(SCORES)
        if member.scores:
            dice, jaccard, *distances = (member.scores[key] for key in SCORES)
            scores = [*map(overlap_words, (dice, jaccard)), *map(distance_words, distances)]
        kind = f"{net.architecture}, {net.filters} filters"
        rows.append([net.weights, kind, member.fold or "none", member.kept, *scores])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + _counts(members)


def _counts(members: Sequence[EnsembleMember]) -> str:
    """Return the counts of masks in the means as 0 and of distances in no mean, worded as on a run's card."""
    lines = [
        f"\n{empty_words(m.network.weights, m.empty, m.masks, measured=isfinite(m.scores['hd95_vox']))}\n"
        for m in members
        if m.scores and m.empty
    ]
    lines += [
        f"\n{m.network.weights}: {m.infinite} infinite distances (of a label that the truth lacks) are not"
        " included in the means.\n"
        for m in members
        if m.infinite
    ]
    return "".join(lines + [both_empty_line(m.network.weights, m.both_empty) for m in members])


def _mean_line(members: Sequence[EnsembleMember]) -> str:
    found = cross_validated(members)
    if not found:
        return "No cross-validated mean: not every member is a fold with validation cases.\n"
    count = members[0].fold.partition("/")[2] if members[0].fold else ""
    missing = f", of which {len(members)} are here" if str(len(members)) != count else ""
    means = ", ".join(f"{SCORES[key]} {v['mean']:.3f} ± {v['sd']:.3f}" for key, v in found.items())
    return f"Cross-validated over {count} folds{missing}, mean ± standard deviation over folds: {means}.\n"


def _optimistic(members: Sequence[EnsembleMember]) -> str:
    """Return the sentence on members whose weights were selected by the scores of the card; else ""."""
    best = [member.network.weights for member in members if member.kept == "best"]
    if not best:
        return ""
    which = "every member" if len(best) == len(members) else ", ".join(best)
    return (
        f"\nThe weights of {which} were selected by these scores, so the scores and their means are"
        " optimistic.\n"
    )
