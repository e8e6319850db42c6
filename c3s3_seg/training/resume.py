"""What a resumed run may change of the configuration it was started with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from c3s3_seg.errors import InputError
from c3s3_seg.system.schema import dump
from c3s3_seg.training.config import TrainConfig, warm_up
from c3s3_seg.training.history import differences
from c3s3_seg.training.method_settings import without_unread
from c3s3_seg.training.precision import Precision

# Keys that a resumed run may change: its length, its reports, settings that only inference reads, and the
# place of the data, of which only the names of the cases are compared. The changes are noted in the history.
MAY_CHANGE = {
    "run.iterations",
    "c3s3.warm_up",
    "run.validate_every",
    "run.checkpoint_every",
    "run.patience",
    "run.threads",
    "run.activation_checkpointing",
    "networks.ship",
    "networks.storage",
    "task.overlap",
    "task.weighting",
    "task.keep_largest",
    "data.note",
    "data.folder",
}
# Paths of a teacher, whose content is noted in the history: they may change, but not from or to "".
PLACES = {"teacher.bundle", "teacher.masks"}


def refuse_shorter(iteration: int, before: TrainConfig, config: TrainConfig, folder: Path) -> None:
    """Refuse to end a run at or before an iteration at which its learning rate has not fallen to 0.

    Parameters
    ----------
    iteration
        Number of iterations that the run in `folder` has.
    before, config
        Configuration that the run had, and the one it is to go on with.

    Raises
    ------
    InputError
        If the run has that many iterations already, and was to have more.
    """
    wanted, planned = config.run.iterations, before.run.iterations
    if wanted < iteration == planned:
        what = f"the run has ended at iteration {iteration}, and run.iterations = {wanted}"
        raise InputError(
            what, where=folder, todo=f"Set run.iterations to {iteration} or more, or start another run"
        )
    if iteration > wanted or (iteration == wanted < planned):
        what = f"the checkpoint is at iteration {iteration}, and run.iterations = {wanted}: its weights are"
        what += " of a learning rate that has not fallen to the end of its schedule"
        todo = f"Set run.iterations above {iteration}, as {planned} before, or start another run"
        raise InputError(what, where=folder, todo=todo)


def refuse_earlier_phase(iteration: int, before: TrainConfig, config: TrainConfig, folder: Path) -> None:
    """Refuse to go back to the warm-up or pre-training, which ended: it would undo what followed.

    The pre-training of BCP and SDCL is a share of the run, so more iterations make it longer.

    Raises
    ------
    InputError
        If the run has left that phase, and the configuration would begin it again.
    """
    ended, now = warm_up(before), warm_up(config)
    if ended <= iteration < now:
        what = f"the checkpoint is at iteration {iteration}, after a warm-up or pre-training of {ended}; of"
        what += f" {config.run.iterations} iterations it would be {now}, and begin again"
        todo = f"Set run.iterations to at most {before.run.iterations} and such keys as before"
        todo += ", or start another run"
        raise InputError(what, where=folder, todo=todo)


def changed_settings(
    before: TrainConfig, config: TrainConfig, began: Precision | None, folder: Path
) -> dict[str, list[Any]]:
    """Return the keys that differ from the run's start; "auto" counts as the precision it became.

    Raises
    ------
    InputError
        If keys outside `MAY_CHANGE` differ, or there is a teacher in one of the two only.
    """
    # Other methods' defaults may change from version to version.
    changed = differences(without_unread(dump(before)), without_unread(dump(config)))
    if began is None or config.run.precision in ("auto", began.name):
        changed.pop("run.precision", None)
    moved = {key for key in PLACES & changed.keys() if all(changed[key])}
    if fixed := changed.keys() - MAY_CHANGE - moved:
        keys = ", ".join(sorted(fixed))
        what = f"the checkpoint was made with other settings ({keys})"
        todo = "Resume with the configuration the run was started with, or start another run"
        raise InputError(what, where=folder, todo=todo)
    return changed
