"""Model bundles, which training writes and inference reads: folders of plain files, each with its sha256.

    manifest.json       see `manifest.Manifest`
    model.safetensors   weights of the primary network; convolutions in half precision, the rest in single
    model.onnx          its graph; reads the weights from model.safetensors
    secondary.*         the same for the other network, where it ships; an ensemble has fold-2.*, ...
    README.md           the model card

A bundle contains no pickle, and no file is trusted unless its hash is that in the manifest.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from c3s3_seg.bundle.domain import Domain
from c3s3_seg.bundle.manifest import Calibration, Manifest, Network, Task
from c3s3_seg.bundle.manifest_file import (
    MANIFEST,
    MANIFEST_BYTES,
    check_networks,
    checked_text,
    is_file,
    is_plain,
    parse_manifest,
    verified_files,
)
from c3s3_seg.errors import InputError, shown
from c3s3_seg.geometry.arguments import instances_of
from c3s3_seg.system.files import make_folder, remove_partial, write_whole
from c3s3_seg.system.lock import NAME as LOCK
from c3s3_seg.system.lock import hold, is_held
from c3s3_seg.system.names import folded, plain_name
from c3s3_seg.system.ownership import UNFINISHED, amending, check_set, replacing
from c3s3_seg.system.reading import given_path, read_known, read_regular, sha256

CARD = "README.md"
CARD_BYTES = 16 << 20
RESERVED = {MANIFEST, LOCK, UNFINISHED}  # names of files that this module writes itself
PAUSES_S = (0.1, 0.2, 0.4, 0.8)  # writing the files of a bundle takes less, as a rule
PARITY = instances_of(Mapping, "a mapping of file names to the parity of graphs").or_none()
WEIGHTS = Path(__file__).parents[1] / "weights"


@dataclass(frozen=True)
class ModelBundle:
    """A verified bundle folder.

    Parameters
    ----------
    folder, manifest
        Folder of the bundle, and the content of its manifest.
    loaded_sha256
        sha256 of the manifest's file as it was loaded; "" if the bundle was not loaded from its folder.
    """

    folder: Path
    manifest: Manifest
    loaded_sha256: str = field(default="", compare=False, repr=False)

    @classmethod
    def load(cls, folder: str | Path, *, unfinished: bool = False) -> ModelBundle:
        """Read a bundle and check the sha256 of every file that its manifest names.

        Parameters
        ----------
        folder
            Folder of the bundle.
        unfinished
            Whether to take a bundle in which `add` was killed, as if its manifest had the hashes that `add`
            was to write: for a command that writes the manifest anew.

        Raises
        ------
        InputError
            If there is no manifest, a value in it is not allowed, a file is missing or has another hash, or a
            network has no weights of its own among the files; or if another command does not end writing.
        """
        folder = given_path(folder)
        for pause_s in PAUSES_S:
            before = _manifest_sha256(folder)
            try:
                return cls._read(folder, unfinished)
            except InputError:
                if not is_held(folder) and _manifest_sha256(folder) == before:
                    raise
            time.sleep(pause_s)  # files and manifest were read between two writes of another command
        try:
            return cls._read(folder, unfinished)
        except InputError as error:
            if not is_held(folder):
                raise
            todo = "Wait for it to end, and give this command again"
            raise InputError(
                "another command is writing into this bundle", where=folder, todo=todo
            ) from error

    @classmethod
    def _read(cls, folder: Path, unfinished: bool) -> ModelBundle:
        """Read a bundle once, as `load` does."""
        path = folder / MANIFEST
        if not is_file(path):
            raise InputError(f"there is no {MANIFEST} here", where=folder, todo=_known_bundles())
        text = read_regular(path, MANIFEST_BYTES)
        loaded_sha256 = hashlib.sha256(text).hexdigest()
        manifest = parse_manifest(text, path)
        files = verified_files(folder, manifest.files)
        if files != manifest.files and not unfinished:
            what = "a command was ended while it wrote into this bundle"
            raise InputError(what, where=folder, todo="Give it again (export, or train --resume)")
        manifest = replace(manifest, files=files)
        check_networks(folder, manifest)
        return cls(folder, manifest, loaded_sha256)

    @classmethod
    def find(cls, name: str | Path) -> ModelBundle:
        """Load a shipped bundle by its name, or any bundle by its folder; `./name` is always a folder.

        A `Path` is taken as a folder if a bundle is there: `Path("./name")` is the same as `Path("name")`.

        Raises
        ------
        InputError
            If there is neither, or for the reasons of `load`.
        """
        if isinstance(name, Path) and is_file(name / MANIFEST):
            return cls.load(name)
        name = str(name)
        if not name:
            raise InputError("found an empty name, wanted that of a model", todo=_known_bundles())
        shipped = WEIGHTS / name
        # `WEIGHTS / "./name"` is the shipped bundle too, which must not stand in for the folder `./name`.
        if name == os.path.basename(name) and is_file(shipped / MANIFEST):
            return cls.load(shipped)
        if not os.path.exists(name):  # unlike `Path.exists`, it does not raise for a name that is too long
            raise InputError(f"there is no model {shown(name)}", todo=_known_bundles())
        return cls.load(Path(name))

    @classmethod
    def find_to_change(cls, name: str) -> ModelBundle:
        """Load a bundle by its folder in order to rewrite its files, even if a kill has left it half written.

        Raises
        ------
        InputError
            For the reasons of `find`, or if it is the name of a shipped bundle: a change would give all users
            of the installation other masks, reports or graphs.
        """
        if name in shipped_bundles():
            what = f"the model '{name}' ships with the package, and this would change its files"
            linked = cls.load(WEIGHTS / name).manifest.linked_bundle
            folders = str(WEIGHTS / name) + (f" and, beside the copy, {WEIGHTS / linked}" if linked else "")
            raise InputError(what, todo=f"Copy the folder {folders}; then give the copy")
        return cls.load(Path(name), unfinished=True) if is_file(Path(name) / MANIFEST) else cls.find(name)

    @classmethod
    def create(
        cls,
        folder: str | Path,
        task: Task,
        files: Mapping[str, bytes],
        networks: tuple[Network, ...],
        training: dict[str, Any],
    ) -> ModelBundle:
        """Write a new bundle, the manifest last, so that an incomplete bundle has no manifest.

        Raises
        ------
        InputError
            If `load` would refuse this bundle, a file's name or content is not allowed, or the folder cannot
            be written to or holds files of other origin. An earlier bundle there is then as before.
        """
        folder = given_path(folder)
        empty = cls(folder, Manifest(task=task, networks=networks, files={}, training=training))
        files = _contents(files, folder)
        text, manifest = checked_text(folder, empty._naming(files, {}))
        make_folder(folder)
        with hold(folder), replacing(folder, files, MANIFEST):
            remove_partial(folder)
            return _write(folder, files, text, manifest)

    def add(self, files: Mapping[str, bytes], parity: Mapping[str, Any] | None = None) -> ModelBundle:
        """Write more files into the bundle, then the manifest with their hashes and their parity.

        Raises
        ------
        InputError
            If another process writes into the bundle, or has changed its manifest since it was loaded; if
            `load` would refuse it afterwards; or if a file cannot be written: all files are then as before.
        """
        files = _contents(files, self.folder)
        check_set(self.folder, files, MANIFEST)
        text, manifest = checked_text(self.folder, self._naming(files, PARITY.take("parity", parity) or {}))
        with hold(self.folder):
            self._refuse_changed()
            remove_partial(self.folder)
            with amending(self.folder, files, MANIFEST):
                return _write(self.folder, files, text, manifest)

    def _naming(self, files: Mapping[str, bytes], parity: Mapping[str, Any]) -> Manifest:
        """Return the manifest with the hashes of more files, and their parity."""
        hashes = dict(self.manifest.files)
        hashes |= {
            plain_name(name, "the file", self.folder): hashlib.sha256(content).hexdigest()
            for name, content in files.items()
        }
        parities = {**self.manifest.parity, **parity}
        return replace(self.manifest, files=dict(sorted(hashes.items())), parity=parities)

    def __repr__(self) -> str:
        labels = ", ".join(label.name for label in self.task.labels)
        networks = ", ".join(network.architecture for network in self.networks)
        return (
            f"ModelBundle({self.task.name}, labels=({labels}), networks=({networks}), folder={self.folder})"
        )

    def _refuse_changed(self) -> None:
        if self.loaded_sha256 and sha256(self.folder / MANIFEST) != self.loaded_sha256:
            what = "another command has changed the bundle since this one loaded it"
            raise InputError(what, where=self.folder / MANIFEST, todo="Give the command again")

    def with_domain(self, domain: Domain) -> ModelBundle:
        """Return the bundle with another domain; its manifest's file stays as it is."""
        manifest = replace(self.manifest, task=replace(self.manifest.task, domain=domain))
        return replace(self, manifest=manifest)

    def calibrated(self, domain: Domain | None = None, uncertainty: Calibration | None = None) -> ModelBundle:
        """Write the domain and the uncertainty limit into the manifest; None keeps the present value."""
        changed = self if domain is None else self.with_domain(domain)
        manifest = replace(changed.manifest, uncertainty=uncertainty or self.manifest.uncertainty)
        return replace(changed, manifest=manifest).add({})

    @property
    def task(self) -> Task:
        """The task of the model."""
        return self.manifest.task

    def members(self) -> list[tuple[ModelBundle, Network]]:
        """Return all networks for this task, primary first, each with the bundle that holds it.

        A bundle may name a linked bundle, a folder beside it: another bundle for the same task, with the
        networks that would have made this one too large. Of a bundle that was loaded through a symbolic link,
        it is a folder beside the bundle, not beside the link.

        Raises
        ------
        InputError
            If the linked bundle is missing, damaged, or for another task.
        """
        own = [(self, network) for network in self.networks]
        name = self.manifest.linked_bundle
        if name is None:
            return own
        own_folder = self.folder.resolve()  # `Path(".").parent` is "." itself
        folder = own_folder.parent / name
        if not is_plain(name) or folder.resolve() == own_folder:
            raise InputError(f"the linked bundle '{name}' is not a folder beside this one", where=self.folder)
        other = ModelBundle.load(folder)
        if _interface(other.task) != _interface(self.task):
            what = "its labels, its recipe or its strides are not those of its linked bundle"
            raise InputError(what, where=other.folder)
        return own + [(other, network) for network in other.networks]

    @property
    def networks(self) -> tuple[Network, ...]:
        """The backbones, primary first."""
        return self.manifest.networks

    def card(self) -> str:
        """Return the text of the model card in Markdown; "" if there is none.

        Raises
        ------
        InputError
            If the card is not UTF-8, is larger than 16 MiB, or has changed since the bundle was loaded.
        """
        if not self.has(CARD):
            return ""
        path = self.folder / CARD
        try:
            return read_known(path, self.manifest.files, CARD_BYTES).decode()
        except UnicodeDecodeError as error:
            raise InputError(f"is no text in UTF-8 ({error.reason})", where=path) from None

    def has(self, name: str) -> bool:
        """Return whether the manifest names this file."""
        return name in self.manifest.files


def shipped_bundles() -> list[str]:
    """Return the names of the bundles that come with the package."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST}"))


def _contents(files: Any, folder: Path) -> dict[str, bytes]:
    """Return the files of a bundle that is written; raise for one without a name, or with a taken one."""
    if not isinstance(files, Mapping):
        what = f"found files of type {type(files).__name__}, wanted a mapping of file names to bytes"
        raise InputError(what, where=folder)
    for name, content in files.items():
        if not (isinstance(name, str) and isinstance(content, bytes)):
            what = f"found {type(content).__name__} under {shown(name)}, wanted a file name and bytes"
            raise InputError(what, where=folder)
        if folded(name) in RESERVED:
            raise InputError(f"a file of a bundle cannot be named {name}", where=folder)
    return dict(files)


def _write(folder: Path, files: Mapping[str, bytes], text: bytes, manifest: Manifest) -> ModelBundle:
    """Write the files, then the manifest with this text."""
    for name, content in files.items():
        write_whole(folder / name, content)
    write_whole(folder / MANIFEST, text)
    return ModelBundle(folder, manifest, hashlib.sha256(text).hexdigest())


def _known_bundles() -> str:
    return f"Give the name of a shipped model ({', '.join(shipped_bundles())}), or a folder with a {MANIFEST}"


def _interface(task: Task) -> tuple[Any, ...]:
    """Return the parts of a task that fix the input of a network and the meaning and order of its outputs."""
    labels = [(label.name, label.value) for label in task.labels]
    return labels, task.recipe, task.network_strides


def _manifest_sha256(folder: Path) -> str:
    """Return the sha256 of a manifest; "" if it cannot be read."""
    with suppress(InputError):
        return sha256(folder / MANIFEST)
    return ""
