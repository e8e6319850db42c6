"""What is asked of an export, and what an export is before it is written."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from c3s3_seg.bundle import CARD, ModelBundle, Network
from c3s3_seg.errors import InputError
from c3s3_seg.inference.backends.execute import Backend
from c3s3_seg.system.choices import ExportPrecision
from c3s3_seg.system.names import plain_name

Members = Sequence[tuple[ModelBundle, Network]]  # networks, each with the bundle that holds it


@dataclass(frozen=True)
class GraphSpec:
    """What an exported file is to be.

    Parameters
    ----------
    precision
        Of weights and arithmetic. Input and output are float32 in both.
    batch
        Patches in one call; None leaves it free.
    ensemble
        Whether the file gives the mean of all networks' probabilities, the linked bundle's among them.
    """

    precision: ExportPrecision = "float32"
    batch: int | None = None
    ensemble: bool = False

    def members(self, bundle: ModelBundle) -> Members:
        """The networks that go into the file, the primary first.

        Raises
        ------
        InputError
            If an ensemble is asked for and there is one network, or the linked bundle is not whole.
        """
        if not self.ensemble:
            return [(bundle, bundle.networks[0])]
        members = bundle.members()
        if len(members) < 2:
            what = "an ensemble was asked for, but this bundle holds one network"
            raise InputError(what, where=bundle.folder)
        return members

    def stem(self, bundle: ModelBundle) -> str:
        """File name without its ending: the task's name and what is not the default.

        Raises
        ------
        InputError
            If the task's name is no file's name, or too long for one.
        """
        parts = [bundle.task.name, "ensemble" * self.ensemble, "float16" * (self.precision == "float16")]
        stem = "-".join(part for part in parts if part)
        for name in (stem, f"{stem}.engine"):
            plain_name(name, "the task's name makes the file name", bundle.folder)
        return stem


@dataclass(frozen=True)
class Built:
    """An export that is not written yet.

    Parameters
    ----------
    files
        Path inside the folder, with `/` -> content. The first is the network.
    open
        Path of the written network -> a backend that runs it.
    card
        Path of the file for people.
    batch
        Which inputs the network takes in one call, in words; empty where the spec says it all.
    """

    files: dict[str, bytes]
    open: Callable[[Path], Backend]
    card: str = CARD
    batch: str = ""

    @property
    def network(self) -> str:
        """Path of the network inside the folder."""
        return next(iter(self.files))
