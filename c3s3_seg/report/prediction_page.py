"""A predicted case as one HTML file: what was found, where, how sure, and what it was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import GeometryError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.metrics.surface_distance import surface_voxels
from c3s3_seg.report.case_view import PLAIN, Mask, at_vertices
from c3s3_seg.report.mesh import surface_mesh
from c3s3_seg.report.overlay import COLOURS, planes_webp
from c3s3_seg.report.page import RISING, Scale, Solid, image, page, solid_html
from c3s3_seg.system.files import write_whole


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """How unsure the prediction is at each voxel.

    Parameters
    ----------
    volume
        Numbers (i, j, k) on the mask's grid, not negative; more is less sure.
    words
        What they are, a sentence without its full stop.
    unit
        Of the numbers; empty for shares.
    """

    volume: Volume
    words: str
    unit: str = ""


@dataclass(frozen=True, eq=False)
class PredictedCase:
    """What is known of a case that was predicted.

    Parameters
    ----------
    name
        The title. It is written as it stands: no patient's name.
    scan, mask
        Intensities and labels (i, j, k) on one grid.
    labels
        Name -> value in the mask.
    volumes_ml
        Name -> volume.
    flags
        What a reader should know before trusting it, a sentence each.
    uncertainty
        Colours the surface, where it is known.
    facts
        Provenance: scan, model, hashes, settings; nested as in the case's JSON.
    """

    name: str
    scan: Volume
    mask: Volume
    labels: Mapping[str, int]
    volumes_ml: Mapping[str, float]
    flags: tuple[str, ...] = ()
    uncertainty: Uncertainty | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


def write_prediction_page(path: Path, case: PredictedCase) -> None:
    """Write the page of a predicted case.

    Parameters
    ----------
    path
        The HTML file; it is replaced if it is there. The same case gives the same bytes.
    case
        What is shown.

    Raises
    ------
    GeometryError
        If scan, mask and uncertainty are not on one grid.
    InputError
        If it cannot be written.
    MissingError
        If plotly is not installed.
    """
    known = [case.scan, *([case.uncertainty.volume] if case.uncertainty else [])]
    if not all(volume.geometry.matches(case.mask.geometry) for volume in known):
        raise GeometryError("scan, mask and uncertainty are not on one grid", where=case.scan.source.path)
    masks = {name: case.mask.array == value for name, value in case.labels.items()}
    found = {name: mask for name, mask in masks.items() if mask.any()}
    parts = [_head(case, [name for name in masks if name not in found])]
    if found:
        parts.append(_planes(case, found))
        parts += [_surface(case, name, mask) for name, mask in found.items()]
    parts.append(f'<h2>Provenance</h2><dl class="facts">{_facts(case.facts)}</dl>')
    write_whole(path, page(case.name, f"<main>{''.join(parts)}</main>"))


def _head(case: PredictedCase, missing: list[str]) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{volume:.1f} ml</b><span>{escape(name)}</span></div>'
        for name, volume in case.volumes_ml.items()
    )
    flags = [*case.flags, *(f"Nothing was found of {name}." for name in missing)]
    listed = "".join(f"<li>{escape(flag)}</li>" for flag in flags)
    warning = f'<div class="flags"><b>Look at these first</b><ul>{listed}</ul></div>' if flags else ""
    return (
        f'<header><h1>{escape(case.name)}</h1><p class="research">Research use only. Not a medical device. '
        f'Made by a program; nobody has checked it.</p></header>{warning}<div class="tiles">{tiles}</div>'
    )


def _planes(case: PredictedCase, found: Mapping[str, Mask]) -> str:
    picture = planes_webp(case.scan, list(found.values()))
    keys = "".join(
        f'<span class="key" style="border-color: rgb{COLOURS[n % len(COLOURS)]}"></span>{escape(name)} &nbsp;'
        for n, name in enumerate(found)
    )
    return (
        f'<h2>Planes</h2><figure class="planes alone">{image(picture, "Three planes with the contours")}'
        f"<figcaption>{keys} The planes of the largest area. L is the patient's left.</figcaption></figure>"
    )


def _surface(case: PredictedCase, name: str, mask: Mask) -> str:
    mesh = surface_mesh(mask, case.mask.geometry)
    solid = Solid(mesh, np.zeros(len(mesh.vertices_mm)), PLAIN, "Smoothed to look at.")
    if case.uncertainty:
        there, _ = surface_voxels(mask)
        values = case.uncertainty.volume.array[tuple(there)].astype(np.float64)
        shown = at_vertices(mesh, case.mask.geometry.to_mm(there.T), values)
        top = float(np.percentile(values, 99)) or 1.0
        scale = Scale(0.0, float(f"{top:.2g}"), RISING, "sure", "unsure", case.uncertainty.unit)
        solid = Solid(mesh, shown, scale, f"{case.uncertainty.words}. Smoothed to look at.")
    return f'<h2>Surface: {escape(name)}</h2><div class="alone">{solid_html(solid, name)}</div>'


def _facts(facts: Mapping[str, Any], prefix: str = "") -> str:
    """Nested facts, one line each; what is empty is left out."""
    lines = []
    for key, value in facts.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            lines.append(_facts(value, f"{name}, "))
        elif value not in (None, "", [], ()):
            text = ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else _plain(value)
            text = Path(text).name if key == "path" else text  # pages are passed on: folders tell too much
            lines.append(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>")
    return "".join(lines)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
