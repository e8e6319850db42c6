"""Write the model card: training data of a bundle, scores, and the uses that it is not meant for."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite
from typing import Any

from c3s3_seg.bundle import Network
from c3s3_seg.training.config import TrainConfig


def model_card(config: TrainConfig, networks: Sequence[Network], history: dict[str, Any]) -> str:
    """Return the card as Markdown."""
    task, run = config.task, config.run
    labels = ", ".join(f"{label.value} = {label.name}" for label in task.labels)
    spacing = " x ".join(f"{s:g}" for s in task.recipe.spacing_mm)
    storage = {"half": "half precision", "int8": "8 bits"}[config.networks.storage]
    nets = "; ".join(f"{n.stem}: {n.architecture}, {n.filters} filters" for n in networks)
    precision = _precision(config, history)
    beginning, changes = _beginning(history["initialized_from"]), _changes(history["changed_on_resume"])
    teacher = _teacher(config, history.get("teacher"))
    remarks = f"{_fold(config)}{_blend(config)}{beginning}{teacher}{changes}{_warnings(history)}"
    return f"""# {task.name}

Research use only. Not a medical device.

- **Task**: {task.modality}; labels {labels}.
- **Networks**: {nets}. Kernels are stored in {storage} and run in single precision.
- **Grid**: {spacing} mm, axes LPS; training crops of {" x ".join(map(str, task.patch))} voxels.
- **Method**: {config.method}, {history["iterations"]} iterations, seed {run.seed}, {precision}.
- **Data**: `{config.data.folder}`: {_cases(config, history["cases"])}.
{remarks}{note_paragraph(config.data.note)}
## Validation

Scores of every network of the run with its last weights (moving average), before rounding for storage. Grid
of the scans, paper protocol: voxel units, mean over cases and labels; an empty prediction counts as
(0, 0, 0, 0), and is left out if the reference is empty too.

{_table(history["validation_last"])}{_empty(history["validation_last"])}
Best during the run: {_best(history["validation_best"])}.
{_kept(history)}
{_files(history)}"""


def note_paragraph(note: str) -> str:
    """Return a configuration's note on its data as a paragraph after the list; empty if the note is."""
    return f"\n{note.strip()}\n" if note.strip() else ""


def _cases(config: TrainConfig, cases: dict[str, int]) -> str:
    """Return the counts by kind; an unlabelled stream of all training scans has no cases of its own."""
    whole = config.data.unlabelled_stream == "all"
    counts = [f"{n} {kind}" for kind, n in cases.items() if not (whole and kind == "unlabelled")]
    stream = f"; the unlabelled stream draws from all {cases['unlabelled']} training scans" if whole else ""
    return f"{', '.join(counts)} cases{stream}"


def _precision(config: TrainConfig, history: dict[str, Any]) -> str:
    """Return the precision; for "auto", the selected one and the reason."""
    if config.run.precision != "auto":
        return config.run.precision
    return f"{history['precision']} (selected by `auto`: {history['precision_why']})"


def _warnings(history: dict[str, Any]) -> str:
    return "".join(f"- **Warning**: {text}.\n" for text in history["warnings"])


def _fold(config: TrainConfig) -> str:
    if config.data.fold is None:
        return ""
    return (
        f"- **Fold** {config.data.fold} of the labelled cases, by patient, seed {config.data.fold_seed}: this"
        " fold is the validation set. The validation cases of the data set were not used.\n"
    )


def _blend(config: TrainConfig) -> str:
    share = config.run.blend
    if share == 1:
        return ""
    return f"- **Blended**: {share:g} of each weight is trained, {1 - share:g} is the initial weight.\n"


def _teacher(config: TrainConfig, record: dict[str, Any] | None) -> str:
    """Return the line on pseudo-labels or distillation; their cases do not count as labelled."""
    if record is None:
        return ""
    weight = f"weight {config.teacher.weight:g}"
    if "masks" in record:
        return (
            f"- **Pseudo-labels**: predicted masks of {record['cases']} unlabelled cases, {weight} (sha256 of"
            f" their list {record['sha256'][:16]}). These cases have no labels and count as unlabelled.\n"
        )
    networks = ", ".join(digest[:16] for digest in record["weights_sha256"])
    return (
        f"- **Distilled**: the mean probabilities of the {record['networks']} networks of the bundle"
        f" `{record['bundle']}` (sha256 {networks}) on all training scans, {weight}, temperature"
        f" {config.teacher.temperature:g}.\n"
    )


def _kept(history: dict[str, Any]) -> str:
    """Return the scores of the shipped weights if they are not the last ones, else an empty text."""
    if history["kept"] == "last":
        return ""
    return f"""
The bundle contains the weights of each network at its best validation. The weights were selected by these
scores, so the scores are optimistic:

{_table(history["validation_kept"], "iteration")}{_empty(history["validation_kept"])}"""


def _beginning(origin: dict[str, Any] | None) -> str:
    if origin is None:
        return ""
    nets, before = " and ".join(origin["networks"]), origin["iterations"]
    return (
        f"- **Begun from** the {nets} of an earlier bundle `{origin['bundle']}`,"
        f" {before} iterations and {origin['seconds'] / 3600:.1f} hours old.\n"
    )


def _changes(records: list[dict[str, Any]]) -> str:
    """Return a list of the settings that were changed during the run."""
    lines = [
        f"  - iteration {record['iteration']}: `{key}` from {old} to {new}"
        for record in records
        for key, (old, new) in record["changed"].items()
    ]
    return "\n".join(["- **Changed during the run**:", *lines, ""]) if lines else ""


def _table(records: list[dict[str, Any]], *more: str) -> str:
    if not records:
        return "No validation cases.\n"
    heads = ["network", *more, "Dice", "Jaccard", "95HD (voxel)", "ASD (voxel)"]
    rows = [heads, ["---"] * len(heads)]
    for r in records:
        scores = [*(overlap_words(r[key]) for key in ("dice", "jaccard")), *_distances(r)]
        rows.append([r["candidate"], *(str(r[key]) for key in more), *scores])
    left_out = "".join(
        f"\n{r['candidate']}: {r['infinite']} infinite distances (of a label that the truth lacks) are"
        " not included in the means.\n"
        for r in records
        if r.get("infinite")
    )
    left_out += "".join(both_empty_line(r["candidate"], r.get("both_empty", 0)) for r in records)
    return "".join(f"| {' | '.join(row)} |\n" for row in rows) + left_out


def both_empty_line(name: str, count: int) -> str:
    """Return the line on masks that are empty like their reference; "" if there are none."""
    if not count:
        return ""
    return f"\n{name}: empty masks of an empty reference, not included in the means: {count}.\n"


def overlap_words(mean: float) -> str:
    """Return a mean overlap as text: "none" if all masks were empty like their references."""
    return f"{mean:.3f}" if isfinite(mean) else "none"


def _distances(record: dict[str, Any]) -> list[str]:
    """Return "none" if all masks are empty: the protocol's 0 would be a perfect distance for a total miss."""
    return [distance_words(record[key]) if _measured(record) else "none" for key in ("hd95_vox", "asd_vox")]


def distance_words(mean: float) -> str:
    """Return a mean distance as text: "none" if it is of no distance but the 0 of empty masks."""
    return f"{mean:.2f}" if isfinite(mean) else "none"


def _measured(record: dict[str, Any]) -> bool:
    """Return whether a distance was measured; the 0 of an empty mask is none."""
    return record.get("empty", 0) != record.get("masks", -1) and isfinite(record["hd95_vox"])


def _empty(records: list[dict[str, Any]]) -> str:
    lines = [
        f"{empty_words(r['candidate'], r['empty'], r['masks'], measured=_measured(r))}\n"
        for r in records
        if r.get("empty")
    ]
    return "\n" + "\n".join(lines) if lines else ""


def empty_words(name: str, empty: int, masks: int, *, measured: bool) -> str:
    """Return the sentence on empty masks, which are in the means as 0 if any distance was measured."""
    counted = "count as (0, 0, 0, 0)" if measured else "have no distance"
    return f"{name}: {empty} of {masks} masks are empty and {counted}."


def _files(history: dict[str, Any]) -> str:
    """Return the line on the content of the manifest; its figures are of the last and the kept weights."""
    line = "The exact configuration and the figures of each case are in `manifest.json`"
    if history["kept"] == "last":
        return f"{line}.\n"
    cases = "`validation_cases` with the last weights"
    if history["validation_kept_cases"]:
        cases += ", `validation_kept_cases` with the weights of the bundle"
    return f"{line}: {cases}.\n"


def _best(record: dict[str, Any] | None) -> str:
    if record is None:
        return "not measured"
    return f"Dice {record['dice']:.3f} ({record['candidate']}, iteration {record['iteration']})"
