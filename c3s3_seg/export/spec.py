"""Describe a requested export, and an export before it is written."""

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
    """The form of an exported file.

    Parameters
    ----------
    precision
        Precision of weights and arithmetic. Input and output are always float32.
    batch
        Patches in one call; None leaves the number free.
    ensemble
        Whether the file gives the mean probabilities of all networks, including the linked bundle's.
    """

    precision: ExportPrecision = "float32"
    batch: int | None = None
    ensemble: bool = False

    def members(self, bundle: ModelBundle) -> Members:
        """Return the networks that go into the file, the primary first.

        Raises
        ------
        InputError
            If an ensemble is requested and there is one network, or the linked bundle is not whole.
        """
        if not self.ensemble:
            return [(bundle, bundle.networks[0])]
        members = bundle.members()
        if len(members) < 2:
            what = "an ensemble was asked for, but this bundle holds one network"
            raise InputError(what, where=bundle.folder)
        return members

    def stem(self, bundle: ModelBundle) -> str:
        """Return the file name without its ending: task name, and precision and ensemble if not default.

        Raises
        ------
        InputError
            If the task's name is not valid as a file name, or too long.
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
        Function from the path of the written network to a backend that runs it.
    card
        Path of the card inside the folder.
    batch
        Inputs that the network takes in one call, in words; empty if the spec states them all.
    """

    files: dict[str, bytes]
    open: Callable[[Path], Backend]
    card: str = CARD
    batch: str = ""

    @property
    def network(self) -> str:
        """The path of the network inside the folder."""
        return next(iter(self.files))
