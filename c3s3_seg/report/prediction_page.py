"""Write a predicted case as one HTML file: labels, views, uncertainty and provenance."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from c3s3_seg.errors import GeometryError
from c3s3_seg.geometry.volume import Volume
from c3s3_seg.metrics.boundary_errors import BoundaryError, boundary_error
from c3s3_seg.metrics.results import CaseScore
from c3s3_seg.metrics.surface_distance import surface_voxels
from c3s3_seg.report.case_view import PLAIN, at_vertices, error_scale, error_solid, worst_spot
from c3s3_seg.report.mesh import surface_mesh
from c3s3_seg.report.numbers import column, in_page
from c3s3_seg.report.outlines import TRUTH, label_colours, outlines
from c3s3_seg.report.overlay import planes_webp
from c3s3_seg.report.page import RISING, Scale, Solid, folded, image, key, page, solid_html
from c3s3_seg.report.viewer import Contents, Spot, pack, viewer_html
from c3s3_seg.system.files import write_whole

SCORES = ("dice", "hd95_mm", "hd95_vox", "asd_mm", "asd_vox")  # shown beside the volume if there is a truth
SHOWN = ("case", "volume_ml", "scores", "uncertainty", "notes", "warnings")  # metadata shown at the top
STILL = re.compile(rb'<img src="data:image/webp;base64,([A-Za-z0-9+/=]+)"')


@dataclass(frozen=True, eq=False)
class Uncertainty:
    """The uncertainty of the prediction at each voxel, and for each label in one number.

    Parameters
    ----------
    volume
        Uncertainty (i, j, k) on the mask's grid, not negative; more is less sure.
    words
        Description of these numbers, a sentence without its full stop.
    hd95_mm
        Name of the label -> 95HD between the masks of two networks.
    limit_mm
        Limit beyond which a case is flagged; None if it is not calibrated.
    """

    volume: Volume
    words: str
    hd95_mm: Mapping[str, float] = field(default_factory=dict)
    limit_mm: float | None = None


@dataclass(frozen=True, eq=False)
class PredictedCase:
    """A predicted case with its results and provenance.

    Parameters
    ----------
    name
        Title, written unchanged: no patient's name.
    scan, mask
        Intensities and labels (i, j, k) on one grid.
    labels
        Name -> value in the mask.
    volumes_ml
        Name -> volume.
    truth
        Labels on the same grid; None if unknown.
    scores
        Scores of the labels, if there is a truth.
    flags
        Cautions to read before trusting the result, a sentence each.
    uncertainty
        Uncertainty that colours the surface, if known.
    made
        Model, version and date, for the line below the title.
    metadata
        Provenance: scan, model, hashes, settings; nested as in the case's JSON.
    """

    name: str
    scan: Volume
    mask: Volume
    labels: Mapping[str, int]
    volumes_ml: Mapping[str, float]
    truth: Volume | None = None
    scores: tuple[CaseScore, ...] = ()
    flags: tuple[str, ...] = ()
    uncertainty: Uncertainty | None = None
    made: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def contents(self) -> Contents:
        """The contents of the case's viewer."""
        return Contents(self.scan, self.mask, self.labels, self.truth)


def write_prediction_page(path: Path, case: PredictedCase) -> None:
    """Write the page of a predicted case.

    Parameters
    ----------
    path
        HTML file to write or replace. The same case gives the same bytes.
    case
        Case to show.

    Raises
    ------
    GeometryError
        If scan, mask, truth and uncertainty are not on one grid.
    InputError
        If the file cannot be written.
    MissingError
        If plotly is not installed.
    """
    known = [case.scan, case.truth, case.uncertainty.volume if case.uncertainty else None]
    if not all(volume.geometry.matches(case.mask.geometry) for volume in known if volume is not None):
        what = "scan, mask, truth and uncertainty are not on one grid"
        raise GeometryError(what, where=case.scan.source.path)
    parts = [_head(case), _view(case)]
    metadata = {name: value for name, value in case.metadata.items() if name not in SHOWN}
    parts.append(folded("Provenance", f'<dl class="facts">{_metadata_rows(metadata)}</dl>', "provenance"))
    write_whole(path, page(case.name, f"<main>{''.join(parts)}</main>"))


def still_of(page: Path) -> bytes | None:
    """Return the WebP of the planes from the page of a case; None if its first MiB has none."""
    with page.open("rb") as file:
        found = STILL.search(file.read(1 << 20))  # the WebP stands before the volume and the surfaces
    if found is None:
        return None
    try:
        return base64.b64decode(found[1], validate=True)
    except binascii.Error:
        return None


def _head(case: PredictedCase) -> str:
    listed = "".join(f"<li>{escape(flag)}</li>" for flag in case.flags)
    warning = f'<div class="flags"><b>Look at these first</b><ul>{listed}</ul></div>' if listed else ""
    made = f'<p class="lead">{escape(case.made)}</p>' if case.made else ""
    rows = "".join(f'<div class="tiles row">{"".join(_tiles(case, name))}</div>' for name in case.volumes_ml)
    return (
        f'<header><h1>{escape(case.name)}</h1>{made}<p class="research">Research use only. Not a medical '
        f"device. Made by a program; nobody has checked it.</p></header>{warning}{rows}"
    )


def _tiles(case: PredictedCase, name: str) -> Iterable[str]:
    """Yield the numbers of one label: its volume, its scores, and the disagreement of two networks."""
    score = next((row.score.flat() for row in case.scores if row.label == name), {})
    found = bool((case.mask.array == case.labels[name]).any())
    told = [] if found else ["nothing was found"]
    told += [f"truth {in_page(score['truth_ml'], 'truth_ml')} ml"] if "truth_ml" in score else []
    volume = f"{in_page(case.volumes_ml[name], 'volume_ml')} ml"
    yield _tile(volume, name, ", ".join(told), "tile" if found else "tile bad")
    for metric in SCORES:
        if metric in score:
            yield _tile(in_page(score[metric], metric), column(metric)[0])
    if case.uncertainty and name in case.uncertainty.hd95_mm:
        value, limit = case.uncertainty.hd95_mm[name], case.uncertainty.limit_mm
        words = "no limit is calibrated" if limit is None else f"limit {in_page(limit, 'uncertainty_mm')} mm"
        beyond = limit is not None and value > limit
        yield _tile(
            in_page(value, "uncertainty_mm"), column("uncertainty_mm")[0], words, "tile bad" if beyond else ""
        )


def _tile(number: str, words: str, more: str = "", kind: str = "") -> str:
    extra = f"<span>{escape(more)}</span>" if more else ""
    return f'<div class="{kind or "tile"}"><b>{number}</b><span>{escape(words)}</span>{extra}</div>'


def _view(case: PredictedCase) -> str:
    """Return planes and surfaces in one view; labels without a voxel in the mask have no surface."""
    errors = _errors(case)
    worst_first = sorted(errors.items(), key=lambda item: -item[1].worst_mm)
    spots = [worst_spot(error, name if len(case.labels) > 1 else "") for name, error in worst_first]
    start = spots[0].at if spots else None
    packed = pack(case.contents, "volume-1")
    solids = "".join(_surface(case, name, errors.get(name)) for name in case.labels)
    still = _planes(case, start)
    viewer = viewer_html(packed, still, solids, spots + _least_sure(case), case.name, start)
    colours = label_colours(case.labels)
    keys = "".join(key(name, colours[name]) for name in case.labels)
    truth = key("truth", TRUTH) if case.truth else ""
    return f'<p class="lead">{keys} {truth} L is the patient\'s left.</p>{viewer}{packed.html}'


def _errors(case: PredictedCase) -> dict[str, BoundaryError]:
    """Return the boundary errors by label; empty without a truth."""
    if case.truth is None:
        return {}
    found = {
        name: boundary_error(case.mask.array == value, case.truth.array == value, case.mask)
        for name, value in case.labels.items()
    }
    return {name: error for name, error in found.items() if error is not None}


def _least_sure(case: PredictedCase) -> list[Spot]:
    """Return a spot at the voxel of largest uncertainty; empty if it is unknown or 0."""
    if case.uncertainty is None:
        return []
    values = case.uncertainty.volume.array
    i, j, k = (int(n) for n in np.unravel_index(int(values.argmax()), values.shape))
    return [Spot("Least sure voxel", (i, j, k))] if values[i, j, k] > 0 else []


def _planes(case: PredictedCase, at: tuple[int, int, int] | None) -> str:
    """Return the still planes, through a voxel or where the labels have their largest areas."""
    shown = outlines(case.mask, case.labels, case.truth)
    words = "Planes through the largest error, in the ring." if at else "The planes of the largest area."
    picture = image(planes_webp(case.scan, shown, at), "Three planes with the contours")
    return f'<figure class="planes">{picture}<figcaption>{words}</figcaption></figure>'


def _surface(case: PredictedCase, name: str, error: BoundaryError | None) -> str:
    """Return a surface coloured by uncertainty if known, else by the distance to the truth, else plain."""
    mask = case.mask.array == case.labels[name]
    if not mask.any():
        return ""
    mesh = surface_mesh(mask, case.mask.geometry)
    solid: Solid | None = Solid(mesh, np.zeros(len(mesh.vertices_mm)), PLAIN, f"{name}. Smoothed to look at.")
    if case.uncertainty:
        there, _ = surface_voxels(mask)
        values = case.uncertainty.volume.array[tuple(there)].astype(np.float64)
        shown = at_vertices(mesh, case.mask.geometry.to_mm(there.T), values)
        top = float(np.percentile(values, 99)) or 1.0
        scale = Scale(0.0, float(f"{top:.2g}"), RISING, "sure", "unsure", unit="")
        solid = Solid(mesh, shown, scale, f"{name}. {case.uncertainty.words}. Smoothed to look at.")
    elif error is not None:
        truth = np.zeros_like(mask) if case.truth is None else case.truth.array == case.labels[name]
        solid = error_solid(mask, truth, case.mask.geometry, error, error_scale(case.scores))
    return solid_html(solid, name) if solid else ""


def _metadata_rows(metadata: Mapping[str, Any], prefix: str = "") -> str:
    """Return nested metadata as HTML, one line each; empty values are left out."""
    lines = []
    for word, value in metadata.items():
        name = f"{prefix}{word}"
        if isinstance(value, Mapping):
            lines.append(_metadata_rows(value, f"{name}, "))
        elif value not in (None, "", [], ()):
            text = ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else _plain(value)
            text = Path(text).name if word == "path" else text  # a shared page must not reveal folders
            lines.append(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>")
    return "".join(lines)


def _plain(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
