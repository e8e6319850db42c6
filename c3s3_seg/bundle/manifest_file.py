"""The manifest's file and the files that it names: read, written, and checked against their hashes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from c3s3_seg.bundle.manifest import Manifest, check_patch, differ
from c3s3_seg.errors import ConfigError, InputError
from c3s3_seg.system.names import PlainName
from c3s3_seg.system.ownership import announced
from c3s3_seg.system.reading import parse_json, sha256
from c3s3_seg.system.schema import dump, parse

MANIFEST = "manifest.json"
# That of a shipped bundle has up to 31 KB, some 100 bytes for each scan of the validation: this is room for
# 100,000 scans. Parsed JSON takes up to 30 times the memory of its text.
MANIFEST_BYTES = 16 << 20
LONGEST_KEY, LONGEST_NAME = 8, 80  # parts of a key, and characters of each, that a message repeats


def is_file(path: Path) -> bool:
    """Return whether a file exists; False for a name that no file system accepts."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_plain(name: str) -> bool:
    """Return whether a name is that of a file or folder alone, without a path."""
    try:
        return bool(PlainName(name))
    except ValueError:
        return False


def parse_manifest(text: bytes, where: Path) -> Manifest:
    """Return a manifest whose values were checked."""
    data = parse_json(text, where)
    _check_finite(data, where)
    manifest = parse(Manifest, data, where)
    check_patch(manifest.task, where)
    return manifest


def manifest_text(manifest: Manifest) -> bytes:
    """Return the content of the manifest's file.

    Raises
    ------
    ConfigError
        If the manifest holds a value that JSON cannot.
    """
    from pydantic_core import PydanticSerializationError

    try:
        return json.dumps(dump(manifest), indent=1).encode()
    except (PydanticSerializationError, TypeError, ValueError) as error:
        what = f"the manifest would hold a value that JSON cannot: {error}"
        raise ConfigError(what, where=MANIFEST) from None


def checked_text(folder: Path, manifest: Manifest) -> tuple[bytes, Manifest]:
    """Return the content of the manifest's file, and the manifest as `load` will read it from there.

    Raises
    ------
    InputError
        If `load` would refuse it: before it is written, and before it replaces a good one.
    """
    text, where = manifest_text(manifest), folder / MANIFEST
    if len(text) > MANIFEST_BYTES:
        what = f"its manifest would have {len(text):,} bytes, wanted at most {MANIFEST_BYTES:,}"
        raise InputError(what, where=where)
    read = parse_manifest(text, where)
    check_networks(folder, read)
    return text, read


def _check_finite(data: Any, where: Path) -> None:
    """Raise if JSON data hold NaN or infinity, which Python reads but cannot compare meaningfully.

    The dotted key is built for the message only: the keys of all values would take memory that grows with
    the square of the manifest.
    """
    levels: list[Iterator[tuple[str | int, Any]]] = [iter([("", data)])]
    parents: list[str | int] = []
    while levels:
        for name, value in levels[-1]:
            if isinstance(value, dict | list):
                levels.append(iter(value.items() if isinstance(value, dict) else enumerate(value)))
                parents.append(name)
                break
            if isinstance(value, float) and not math.isfinite(value):
                key = ".".join(str(part)[:LONGEST_NAME] for part in [*parents[1:][-LONGEST_KEY:], name])
                raise ConfigError(f"{key} = {value}: wanted a finite number", where=where)
        else:
            levels.pop()
            del parents[-1:]


def check_networks(folder: Path, manifest: Manifest) -> None:
    """Check that each network has weights of its own among the files whose hashes were checked."""
    weights = [network.weights for network in manifest.networks]
    for name in weights:
        if name not in manifest.files:
            raise InputError(f"the manifest names a network in '{name}' and no hash of it", where=folder)
    if not differ(weights):
        raise InputError("the manifest names two networks with the same stem", where=folder)


def verified_files(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """Return the sha256 of each file: that of the manifest, or one that a killed `add` was to write."""
    coming = announced(folder) or {}
    return {name: _verified(folder, name, known, coming.get(name, set())) for name, known in files.items()}


def _verified(folder: Path, name: str, expected: str, coming: set[str]) -> str:
    """Return the sha256 of a file, which must be the expected one or one of those that are coming."""
    path = folder / name
    if not is_plain(name) or path.is_symlink():
        raise InputError(f"the manifest names '{name}', wanted a plain file inside the bundle", where=folder)
    if not is_file(path):
        raise InputError("the manifest names this file, but it is not there", where=path)
    found = sha256(path)
    if found != expected and found not in coming:
        todo = "Get the bundle again; do not use this one"
        raise InputError(
            f"sha256 is {found[:12]}..., the manifest says {expected[:12]}...", where=path, todo=todo
        )
    return found
