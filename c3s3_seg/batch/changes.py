"""Compare the settings of this run with those that made a mask: changes in words, and their effect."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from c3s3_seg.batch.case_files import RequestedMaps
from c3s3_seg.system.names import printable
from c3s3_seg.version import __version__

LONGEST = 60  # characters shown of a value
UNKNOWN = "weights or settings have changed"
# Files made from a mask and its scan: they can be added to an existing mask.
REPORTS = ("request.truth", "request.preview", "request.html", "request.secondary_capture")
FORMAT_KEY = "request.suffix"
REMARKS = ("profile",)  # keys of the provenance that decide no mask
VERSION_KEY = "version"
PROBABILITIES_KEY, UNCERTAINTY_KEY = "asked.probabilities", "asked.uncertainty"
COMPARED_KEY = "made_with.compared_sha256"
# Names of keys on the command line; any other key is reported by its own name.
NAMES = {
    "made_with.bundle": "model",
    "made_with.task_sha256": "labels, grid, domain or networks of the model",
    "made_with.weights_sha256": "weights",
    "made_with.compared_sha256": "networks that are compared",
    "made_with.mirroring": "--tta",
    "made_with.backend": "--backend",
    "made_with.device": "--device",
    "made_with.precision": "--precision",
    "made_with.on_device": "network.on_device",
    "made_with.overlap": "tiling.overlap",
    "made_with.stride": "tiling.stride",
    "made_with.weighting": "tiling.weighting",
    "made_with.keep_largest": "postprocess.keep_largest",
    "made_with.min_volume_ml": "postprocess.min_volume_ml",
    "made_with.fill_holes": "postprocess.fill_holes",
    "request.suffix": "--format",
    "request.truth": "--truth",
    "request.preview": "--report png",
    "request.html": "--report html",
    "request.secondary_capture": "--report sc",
    "request.deterministic": "--deterministic",
    "request.reading.series": "--series",
    "request.reading.repair": "--repair",
    "request.roi": "--roi",
    "request.allow_out_of_domain": "--allow-out-of-domain",
    "asked.probabilities": "--probabilities",
    "asked.uncertainty": "--uncertainty",
    VERSION_KEY: "c3s3-seg",
}
WORDS = {True: "yes", False: "no", None: "default"}


@dataclass(frozen=True)
class Change:
    """One setting that has changed.

    Parameters
    ----------
    key
        Path of the setting as a dotted key.
    before, now
        Both values of the setting, as in JSON.
    """

    key: str
    before: Any
    now: Any

    @property
    def words(self) -> str:
        """The change in words, such as `tiling.overlap: default -> 0.25`."""
        name = NAMES.get(self.key, self.key.partition(".")[2])
        return f"{name}: {_words(self.before)} -> {_words(self.now)}"


def setting_of(origin: Mapping[str, Any], request: Mapping[str, Any], maps: RequestedMaps) -> dict[str, Any]:
    """Return all settings that a finished case must agree with, as read back from JSON.

    Remarks are left out: which profile chose the backend, or why none did. The backend itself is compared.

    Parameters
    ----------
    origin
        Provenance shared by all masks, as returned by `job.origin`.
    request
        The request, as returned by `Job.request`.
    maps
        The maps that are written.
    """
    asked = {"probabilities": maps.probabilities, "uncertainty": maps.uncertainty}
    decides = {key: value for key, value in origin.items() if key not in REMARKS}
    parts = {"made_with": decides, "request": request, "asked": asked}
    known: dict[str, Any] = json.loads(json.dumps(parts, sort_keys=True))
    return known


def setting_sha256(setting: Mapping[str, Any]) -> str:
    """Return one hash for weights, settings and request."""
    return hashlib.sha256(json.dumps(setting, sort_keys=True).encode()).hexdigest()


def changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> tuple[Change, ...] | None:
    """Return the changes between two settings by key, the version last; None if the first is unknown."""
    if before is None or not all(isinstance(before.get(part), dict) for part in now):
        return None
    old, new = (dict(_flat({part: setting[part] for part in now})) for setting in (before, now))
    keys = sorted({*old, *new})
    found = [Change(k, old.get(k), new.get(k)) for k in keys if old.get(k) != new.get(k)]
    if any(change.key == UNCERTAINTY_KEY for change in found):  # which opens these networks, or does not
        found = [change for change in found if change.key != COMPARED_KEY]
    versions = before.get("versions") if before else None
    made_by = versions.get("c3s3_seg") if isinstance(versions, dict) else None
    if found and made_by not in (None, __version__):  # a new version alone is no reason
        found.append(Change(VERSION_KEY, made_by, __version__))
    return tuple(found)


def is_addition(change: Change) -> bool:
    """Return whether a change can be made from the mask and its scan, or only leaves probabilities out."""
    left_out = change.key == PROBABILITIES_KEY and not change.now
    return change.key in (*REPORTS, FORMAT_KEY, VERSION_KEY) or left_out


def reason(found: tuple[Change, ...] | None) -> str:
    """Return the reason why a case is processed again, as a clause."""
    if not found:
        return UNKNOWN
    keys = {change.key for change in found}
    what = "weights" if any(key.startswith("made_with.weights_sha256") for key in keys) else "settings"
    return f"{what} have changed ({'; '.join(change.words for change in found)})"


def _flat(setting: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield nested tables as dotted keys. Hashes of weights stay one value: their files have like names."""
    for key, value in setting.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and key not in ("weights_sha256", "compared_sha256"):
            yield from _flat(value, f"{name}.")
        else:
            yield name, value


def _words(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return WORDS[value]
    if isinstance(value, dict):
        return ", ".join(f"{name} {str(known)[:12]}" for name, known in sorted(value.items())) or "none"
    if isinstance(value, list):
        return ",".join(map(str, value)) or "none"
    text = printable(str(value))
    is_hash = len(text) == 64 and set(text) <= set("0123456789abcdef")
    return text[:12] if is_hash else text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
