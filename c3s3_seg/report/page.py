"""Build self-contained HTML pages: style, script, pictures and surfaces all in one file."""

from __future__ import annotations

import base64
import gzip
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from c3s3_seg.errors import MissingError, to_install
from c3s3_seg.report.mesh import Floats, Mesh, mesh_webp
from c3s3_seg.report.numbers import in_page
from c3s3_seg.report.outlines import Colour
from c3s3_seg.report.rows import Failure
from c3s3_seg.report.viewer import VIEWER
from c3s3_seg.system.ownership import GENERATOR, is_ours, read_head

TEXT = ' class="text"'  # of a cell of text, which is aligned left
ASSETS = Path(__file__).parent / "page"

# The browser itself refuses every request that anything in the page might make. `unsafe-eval` is needed,
# since WebGL code is compiled at run time; pictures are inside the page.
POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline' 'unsafe-eval'"
)

# Marks a page of predicted cases, near its beginning, since `evaluate` also writes a report.html.
FOLDER_PAGE = '<meta name="description" content="predicted cases">'

SOLID = '<figure class="solid">'  # start of a surface; a page without a surface needs no script for it

FOLDED = 10  # largest number of failures whose list is not folded

# Blue is too small, orange too large: distinguishable with any colour vision.
SIGNED = ((33, 76, 158), (112, 164, 222), (236, 236, 232), (240, 163, 68), (166, 60, 6))
RISING = ((236, 236, 232), (244, 190, 96), (214, 96, 24), (120, 20, 50))


@dataclass(frozen=True)
class Scale:
    """A colour scale.

    Parameters
    ----------
    low, high
        Values of the first and the last colour; values beyond them get these colours too.
    colours
        (r, g, b), 0 to 255, at even distances from `low` to `high`.
    low_word, high_word
        Meaning of the ends.
    unit
        Unit of the values.
    """

    low: float
    high: float
    colours: tuple[tuple[int, int, int], ...]
    low_word: str
    high_word: str
    unit: str = "mm"

    def colour(self, values: Floats) -> NDArray[np.uint8]:
        """Return the colours of values: (n,) -> (n, 3) uint8."""
        place = np.clip((values - self.low) / (self.high - self.low), 0, 1) * (len(self.colours) - 1)
        table = np.array(self.colours, dtype=np.float64)
        each = [np.interp(place, np.arange(len(table)), table[:, n]) for n in range(3)]
        return np.asarray(np.stack(each, axis=1).round(), dtype=np.uint8)

    def bar(self) -> str:
        """Return a strip of colours with its numbers and words as HTML; empty for a plain colour."""
        if len(set(self.colours)) == 1:
            return ""
        stops = ", ".join(f"rgb{colour}" for colour in self.colours)
        middle = (self.low + self.high) / 2
        sign = "+" if self.low < 0 else ""
        ends = (f"{self.low:g}", f"{middle:g}", f"{sign}{self.high:g} {self.unit}")
        words = "".join(f"<span>{escape(word)}</span>" for word in (self.low_word, "", self.high_word))
        numbers = "".join(f"<span>{end}</span>" for end in ends)
        strip = f'<div class="strip" style="background: linear-gradient(to right, {stops})"></div>'
        return f'<div class="scale">{strip}<div>{numbers}</div><div>{words}</div></div>'


@dataclass(frozen=True, eq=False)
class Solid:
    """A surface that the reader can turn: mesh, a value at each vertex, colour scale, and caption."""

    mesh: Mesh
    values: Floats
    scale: Scale
    words: str


def is_folder_page(path: Path) -> bool:
    """Return whether a file is a page of predicted cases written by this package."""
    return is_ours(path) and FOLDER_PAGE.encode() in read_head(path)


def page(title: str, body: str, kind: str = "") -> bytes:
    """Return the whole page around its body; `kind` is a tag that identifies the page.

    Raises
    ------
    MissingError
        If there are surfaces, and plotly, whose script turns them, is not installed.
    """
    style, script = ((ASSETS / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    # The script is unpacked when the first surface is turned, so that the page opens without waiting.
    plotly = f'<script type="text/plain" id="plotly">{_plotly()}</script>' if SOLID in body else ""
    head = (
        f'{GENERATOR}{kind}<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(title)}</title><style>{style}</style>'
    )
    viewer = (ASSETS / "viewer.js").read_text(encoding="utf-8") if VIEWER in body else ""
    foot = f"{plotly}<script>{script}{viewer}</script>"
    whole = f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>{body}{foot}</body></html>\n'
    return whole.encode("utf-8", "backslashreplace")  # file names need not be Unicode


def solid_html(solid: Solid, name: str) -> str:
    """Return the HTML of a surface: still picture, scale, caption and the data for the script."""
    picture = mesh_webp(solid.mesh, solid.scale.colour(solid.values))
    x, y, z = solid.mesh.vertices_mm.T
    i, j, k = solid.mesh.triangles.T
    corners = np.uint16 if len(x) < 65536 else np.uint32
    numbers: dict[str, object] = {
        key: _packed(v, np.float32) for key, v in zip("xyz", (x, y, z), strict=True)
    }
    numbers |= {key: _packed(v, corners) for key, v in zip("ijk", (i, j, k), strict=True)}
    stops = np.linspace(0, 1, len(solid.scale.colours)).tolist()
    numbers |= {
        "intensity": _packed(solid.values, np.float32),
        "cmin": solid.scale.low,
        "cmax": solid.scale.high,
        "colorscale": [[s, f"rgb{c}"] for s, c in zip(stops, solid.scale.colours, strict=True)],
        "unit": solid.scale.unit if solid.scale.bar() else None,
    }
    return (
        f'{SOLID}<div class="stage" tabindex="0" role="application" '
        f'aria-label="Surface of {escape(name, quote=True)}: drag or use the arrow keys to turn it">'
        f"{image(picture, f'Surface of {name} from the front')}"
        '<div class="plot"></div><p class="hint">Drag to turn, scroll to zoom</p>'
        f'<script type="application/json" class="mesh">{json.dumps(numbers)}</script></div>'
        f"{solid.scale.bar()}<figcaption>{escape(solid.words)}</figcaption></figure>"
    )


def image(webp: bytes, words: str) -> str:
    """Return a picture as HTML, with its data inside the page."""
    data = base64.b64encode(webp).decode()
    return f'<img src="data:image/webp;base64,{data}" alt="{escape(words, quote=True)}">'


def key(name: str, colour: Colour) -> str:
    """Return an entry of the legend as HTML."""
    return f'<span class="key" style="border-color: rgb{colour}"></span>{escape(name)} &nbsp;'


def folded(summary: str, inner: str, kind: str) -> str:
    """Return HTML that is hidden until its summary is clicked."""
    return f'<details class="{kind}"><summary>{escape(summary)}</summary>{inner}</details>'


def failed(failures: Sequence[Failure], what: str) -> str:
    """Return the number of failed cases and their reasons; more than `FOLDED` are folded."""
    listed = "".join(f"<li><b>{escape(f.case)}</b>: {escape(f.reason)}</li>" for f in failures)
    summary = f"{len(failures)} {what}"
    if len(failures) > FOLDED:
        return folded(summary, f"<ul>{listed}</ul>", "flags")
    return f'<div class="flags"><b>{summary}</b><ul>{listed}</ul></div>'


def number_cell(value: float, name: str) -> str:
    """Return a cell with a value of a score's column, sorted by size."""
    plain = {math.inf: "Infinity", -math.inf: "-Infinity"}.get(value, str(value))
    bad = ' class="bad"' if math.isinf(value) else ""
    return f'<td data-v="{plain}"{bad}>{escape(in_page(value, name))}</td>'


def text_cell(inner: str, order: int | None = None) -> str:
    """Return a cell of text that is HTML already, sorted as text or by a number."""
    value = "" if order is None else f' data-v="{order}"'
    return f"<td{TEXT}{value}>{inner}</td>"


def table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, sortable: bool = False, kind: str = ""
) -> str:
    """Return a table of cells that are HTML already; the first column is the row's name."""
    button = '<button type="button">{}</button>' if sortable else "{}"
    first = rows[0] if rows else [""] * len(headers)
    kinds_of = [TEXT if TEXT in cell.partition(">")[0] else "" for cell in first]
    named = [button.format(escape(header)) for header in headers]
    head = "".join(f'<th scope="col"{of}>{name}</th>' for of, name in zip(kinds_of, named, strict=True))
    lines = "".join("<tr>" + f'<th scope="row">{row[0]}</th>' + "".join(row[1:]) + "</tr>" for row in rows)
    kinds = " ".join(["sortable"] * sortable + [kind] * bool(kind))
    name = f' class="{kinds}"' if kinds else ""
    return (
        f'<div class="wide"><table{name}><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'
    )


def _packed(values: NDArray[np.generic], dtype: type) -> dict[str, str]:
    """Return a typed array as plotly reads it."""
    names: dict[type, str] = {np.float32: "f4", np.uint16: "u2", np.uint32: "u4"}
    data = np.asarray(values, dtype=np.dtype(dtype).newbyteorder("<"))
    return {"dtype": names[dtype], "bdata": base64.b64encode(data.tobytes()).decode()}


def _plotly() -> str:
    """Return plotly's own offline script, packed: 4.8 MB become 1.9."""
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        todo = to_install("report")
        raise MissingError(
            "an HTML page needs plotly, which the base installation leaves out", todo=todo
        ) from error
    return _packed_script(get_plotlyjs())


@lru_cache(1)
def _packed_script(script: str) -> str:
    """Return the packed script, cached: packing takes 0.2 s, and all pages of a run need it."""
    return base64.b64encode(gzip.compress(script.encode(), mtime=0)).decode()
