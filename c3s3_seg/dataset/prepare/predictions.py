"""Find the outputs of `predict` in the source of a data set: masks, and files that are not scans.

A person may correct a mask in place, or save the correction beside it. The JSON of each case has the
hashes of the files as written, so a mask that was changed since is detected.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from c3s3_seg.errors import C3S3Error
from c3s3_seg.system.ownership import FILES, read_case
from c3s3_seg.system.reading import sha256

MaskOrigin = Literal["", "prediction", "correction"]


@dataclass(frozen=True)
class Predictions:
    """The outputs of `predict` among some files.

    Parameters
    ----------
    masks
        Mask -> whether it is as it was written (`prediction`) or was changed since (`correction`).
    others
        Probabilities, uncertainty maps, repaired scans, pictures and reports.
    """

    masks: Mapping[Path, MaskOrigin] = field(default_factory=dict)
    others: frozenset[Path] = frozenset()

    def origin(self, path: Path) -> MaskOrigin:
        """Return the origin of a mask; empty if `predict` did not write the mask."""
        return self.masks.get(path, "")


def find_predictions(files: Collection[Path]) -> Predictions:
    """Find the outputs listed in the JSON files among `files`; outputs must be among `files` too."""
    known = set(files)
    masks: dict[Path, MaskOrigin] = {}
    others: set[Path] = set()
    for path in files:
        if path.suffix != ".json":
            continue
        for number, (name, digest) in enumerate(_outputs(path).items()):
            output = path.parent / name
            if output not in known:
                continue
            if number == 0:  # the mask is written first
                masks[output] = "prediction" if _is_unchanged(output, digest) else "correction"
            else:
                others.add(output)
    return Predictions(masks, frozenset(others))


def _outputs(path: Path) -> dict[str, Any]:
    """Return name -> sha256 from the JSON of a case; empty if `predict` did not write that JSON."""
    listed = (read_case(path) or {}).get(FILES)
    return {str(name): digest for name, digest in listed.items()} if isinstance(listed, dict) else {}


def _is_unchanged(path: Path, digest: object) -> bool:
    with suppress(C3S3Error, OSError):
        return sha256(path) == digest
    return False
