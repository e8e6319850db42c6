"""A source of studies besides the listener: a folder that is watched."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field
from pathlib import Path

from c3s3_seg.errors import InputError, StorageError, public
from c3s3_seg.io.pacs.identity import identity
from c3s3_seg.service.database import Clock
from c3s3_seg.service.entries import (
    UNREADABLE,
    HeldUpError,
    checked_files,
    entries_of,
    signature_of,
)
from c3s3_seg.service.intake import Intake, Sending
from c3s3_seg.service.metrics import LATE_S
from c3s3_seg.service.node_settings import WatchSettings
from c3s3_seg.service.patience import FULL, NoRoomError, Patience
from c3s3_seg.service.spool import key_of
from c3s3_seg.system.reading import read_regular

LOGGER = logging.getLogger(__name__)


@dataclass
class FolderSource:
    """A watched folder: inspected at intervals, which works on network mounts too.

    Its entries are files or folders. An entry is taken once nothing in it has changed for a while, and again
    if something changes later. Nothing in the folder is ever written, moved or removed.

    Parameters
    ----------
    settings, object_bytes
        Settings of the folder; size of the largest file.
    intake, clock
        Intake and clock of the service.
    """

    settings: WatchSettings
    object_bytes: int
    intake: Intake
    clock: Clock
    _seen: dict[str, tuple[str, float]] = field(default_factory=dict)  # entry -> signature, first seen
    _half: dict[str, Sending] = field(default_factory=dict)  # entries of which a file could not be read

    def __post_init__(self) -> None:
        """Start without failures."""
        self._patience = Patience(self.settings.every_s, self.clock)

    @property
    def name(self) -> str:
        """The name in messages and metrics."""
        return f"watch {key_of(str(self.settings.folder))[:8]}"

    def look(self) -> int:
        """Take the entries that have settled; return the number of files.

        Raises
        ------
        InputError
            If the folder cannot be read.
        """
        folder, memory = key_of(str(self.settings.folder)), self.intake.memory
        taken, there = 0, set()
        self._begin_step()
        for entry in entries_of(self.settings.folder):
            self._begin_step()
            key = f"{folder}:{key_of(os.fsdecode(entry.name))}"
            there.add(key)
            signature = signature_of(entry)
            before, since = self._seen.get(key, ("", 0.0))
            if signature != before:
                self._seen[key] = (signature, self.clock())
                continue
            settled = not 0 <= self.clock() - since < self.settings.settle_s  # clock may be set back
            known = memory.remembered("watched", key) == signature
            if settled and not known and self._patience.is_due(key):
                taken += self._take_whole(entry, key, signature)
        for gone in set(self._seen) - there:
            del self._seen[gone]
        if there:  # the folder of a share that is not mounted is empty
            for gone in set(self._half) - there:
                self.intake.parted(self._half.pop(gone))
            memory.forget_watched(folder, there)
        return taken

    def _begin_step(self) -> None:
        """Record that another entry or file is being read: a share that is gone may never answer."""
        self.intake.metrics.expect(self.name, LATE_S)

    def _take_whole(self, entry: Path, key: str, signature: str) -> int:
        sender = self._half.pop(key, None) or Sending()
        try:
            taken = self._take(entry, sender)
        except StorageError:  # no entry could be taken; the intake has noted the file
            raise
        except InputError as error:  # other entries may still be taken
            LOGGER.warning("%s: %s", self.name, public(error.what))
            self._patience.failed(key)
            if isinstance(error, HeldUpError):
                self._half[key] = sender  # keeps the partial study incomplete
            return 0
        except Exception:  # of the reading, so that the missing files are noted nowhere
            self._half[key] = sender
            raise
        finally:
            if key not in self._half:
                self.intake.parted(sender)
        self._patience.succeeded(key)
        if signature != UNREADABLE and signature_of(entry) == signature:  # else it is taken again
            self.intake.memory.remember("watched", key, signature)
        return taken

    def _take(self, entry: Path, sender: Sending) -> int:
        taken = 0
        for path in self._checked_files(entry):
            self._begin_step()
            content = self._read(path)
            try:
                found = identity(content)
            except InputError:  # no DICOM file: other files of the entry may be
                self.intake.metrics.failed("not DICOM")
                continue
            if not self.intake.take(found, content, sender):
                raise NoRoomError(FULL)
            taken += 1
        return taken

    def _read(self, path: Path) -> bytes:
        """Read a file; return b"", which is no DICOM file, if the file has gone or is too large."""
        try:
            return read_regular(path, self.object_bytes)
        except InputError as error:
            cause = error.__cause__
            if isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError):
                self.intake.metrics.failed("unreadable")
                raise HeldUpError(UNREADABLE) from error
            return b""

    def _checked_files(self, entry: Path) -> list[Path]:
        try:
            return checked_files(entry, self.object_bytes)
        except HeldUpError:
            self.intake.metrics.failed("unreadable")
            raise
