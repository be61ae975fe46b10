"""What pictures of the documentation are made of: scales, lines and words, as SVG in one style; and their command."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from figures import Figures, read_figures
from machine import BenchError
from peers import ROOT

GROUND: Final = "#fbfaf7"
TEAL, BLUE, OCHRE, PURPLE, GREY, PALE = "#2f8f83", "#3f6fa3", "#b5782a", "#8a5a9e", "#4b5b6b", "#c9d6e2"
STYLE: Final = """\
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;fill:#1f2a37}
.h{font-size:16px;font-weight:600}.s{font-size:12.5px;fill:#4b5b6b}.n{font-size:13px;font-weight:600}
.m{text-anchor:middle}.e{text-anchor:end}
.grid{stroke:#e4e8ec;stroke-width:1}.axis{stroke:#7c8b9a;stroke-width:1.2}
.line{fill:none;stroke-width:2.4;stroke-linejoin:round}.dash{fill:none;stroke-width:1.6;stroke-dasharray:6 5}
.halo{paint-order:stroke;stroke:#ffffff;stroke-width:5px;stroke-linejoin:round}"""


@dataclass(frozen=True, slots=True)
class Scale:
    """From values to places on the page: `low` lies at `begin`, `high` at `end`; a logarithmic one in powers."""

    low: float
    high: float
    begin: float
    end: float
    is_log: bool = False

    def at(self, value: float) -> float:
        """Return the place of a value, to a tenth."""
        low, high, here = (math.log(each) if self.is_log else each for each in (self.low, self.high, value))
        return round(self.begin + (self.end - self.begin) * (here - low) / (high - low), 1)


def frame(width: int, height: int, title: str, about: str, parts: Sequence[str]) -> str:
    """Return a whole picture. title, about: its name, and what it shows in words, for those who do not see it."""
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img" aria-labelledby="t d">',
        f'<title id="t">{title}</title>',
        f'<desc id="d">{about}</desc>',
        f"<style>\n{STYLE}</style>",
        f'<rect width="{width}" height="{height}" rx="14" fill="{GROUND}"/>',
        *parts,
        "</svg>\n",
    ])  # fmt: skip


def draw_line(places: Sequence[tuple[float, float]], colour: str, kind: str = "line") -> str:
    """Return a line through places."""
    return f'<path class="{kind}" stroke="{colour}" d="{path_of(places)}"/>'


def path_of(places: Sequence[tuple[float, float]]) -> str:
    """Return the path through places."""
    return "M" + "L".join(f"{across:g} {up:g}" for across, up in places)


def text(across: float, up: float, words: str, kind: str, colour: str = "") -> str:
    """Return words at a place; kind: their classes."""
    style = f' style="fill:{colour}"' if colour else ""
    return f'<text class="{kind}" x="{across:g}" y="{up:g}"{style}>{words}</text>'


def write_picture(about: str | None, key: str, draw: Callable[[Figures], str], out: str) -> int:
    """Draw a picture from the file of figures, as a command; return its exit status, 1 where nothing is drawn.

    about: the command's help. key: of the file, what `draw` gets. out: the file in docs/img, where no other is named.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figures", nargs="?", type=Path, default=ROOT / "build" / "bench.json")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img" / out)
    options = parser.parse_args()
    try:
        picture = draw(read_figures(options.figures).get(key, {}))
    except BenchError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    options.out.write_text(picture)
    return 0
