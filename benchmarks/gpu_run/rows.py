"""The rows of the result table, and the agreement of two masks."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = ("what", "runtime, path", "precision", "result", "flipped voxels", "Dice", "remark")
FAILED = ("failed", "out of time", "not run")


@dataclass(frozen=True)
class Row:
    """One line of the table; `result` begins with a word of `FAILED` if there is no result."""

    what: str
    how: str = ""
    precision: str = ""
    result: str = ""
    flipped: str = ""
    dice: str = ""
    remark: str = ""

    @property
    def failed(self) -> bool:
        """Whether a requested measurement is missing."""
        return self.result.startswith(FAILED)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [f"| {' | '.join(HEAD)} |", "|" + "---|" * len(HEAD)]
    lines += [f"| {' | '.join(_cell(text) for text in asdict(row).values())} |" for row in rows]
    return "\n".join(lines) + "\n"


def add(path: Path, row: Row) -> None:
    """Append a row to the file of a part, so that rows written before a failure are kept."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(asdict(row)) + "\n")


def read(path: Path) -> list[Row]:
    """Return the rows of a part; an incomplete last line is left out."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.is_file() else []
    return [Row(**json.loads(line)) for line in lines if line.endswith("\n")]


def agreement(mask: NDArray[Any], wanted: NDArray[Any]) -> dict[str, str]:
    """Return the number of voxels with another label and the foreground Dice, as cells of a row.

    Parameters
    ----------
    mask, wanted
        Labels (x, y, z) on one grid. Two empty masks have a Dice of 1.

    Raises
    ------
    ValueError
        If the masks have different shapes.
    """
    if mask.shape != wanted.shape:
        raise ValueError(f"the masks have the shapes {mask.shape} and {wanted.shape}")
    a, b = mask > 0, wanted > 0
    total = int(a.sum()) + int(b.sum())
    dice = 2 * int((a & b).sum()) / total if total else 1.0
    return {"flipped": f"{int(np.count_nonzero(mask != wanted))} of {mask.size}", "dice": f"{dice:.5f}"}


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "/")
