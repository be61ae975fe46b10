"""What the console takes to open in a real Chromium with ten minutes of history, and how many bytes come."""

from __future__ import annotations

import shutil
import sys
from statistics import median
from typing import Final

from figures import Figures
from part import Line, Part, Session
from peers import ROOT

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "server")]  # the browser's driver, and a console to open

from chromium import Chromium, chromium  # noqa: E402
from console_server import Counted, filled, served  # noqa: E402

ROUNDS: Final = 15
HISTORY_S: Final = 600
PAINT: Final = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
CHARTS: Final = "performance.getEntriesByName('charts')[0]?.startTime"
BYTES: Final = """[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .filter(each => each.responseEnd).reduce((sum, each) => sum + each.transferSize, 0)"""


def open_once(page: Chromium, url: str) -> tuple[float, float, float]:
    """Open the console, with nothing kept of the last time; return its first paint and its charts in ms, and its kB."""
    page.open(url)
    charts_ms = float(page.wait(CHARTS))
    return float(page.wait(PAINT)), charts_ms, float(page.value(BYTES)) / 1_000


def measure(session: Session) -> Figures:
    """Return the medians of the rounds; none where there is no Chromium."""
    if shutil.which("chromium") is None:
        session.notes.append("monitoring_console: chromium is missing: apt-get install chromium")
        return {"monitoring": dict.fromkeys(("console_first_paint_ms", "console_charts_ms", "console_kb"))}
    session.tell("console: opened in Chromium")
    counted = Counted()
    with served(counted, filled(counted, session.pick(HISTORY_S, 60))) as port, chromium() as page:
        page.send("Network.setCacheDisabled", cacheDisabled=True)
        url = f"http://127.0.0.1:{port}/console"
        found = [open_once(page, url) for _ in range(1 + session.pick(ROUNDS, 2))][1:]  # the first warms up
    paint_ms, charts_ms, kb = (median(each) for each in zip(*found, strict=True))
    return {
        "monitoring": {
            "console_first_paint_ms": round(paint_ms),
            "console_charts_ms": round(charts_ms),
            "console_kb": round(kb, 1),
        }
    }


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    found = figures["monitoring"]
    return [
        Line("Console, first paint in Chromium", found["console_first_paint_ms"], 500, 200, " ms"),
        Line("  its charts drawn", found["console_charts_ms"], unit=" ms"),
        Line("  whole page with ten minutes of history", found["console_kb"], 200, 120, " kB"),
    ]


PART: Final = Part(
    name="monitoring_console",
    about="the console in Chromium: its first paint, and its bytes",
    caveats=("monitoring_console: from loopback, nothing cached, drawn by the CPU, on the server's cores.",),
    steps=lambda session: 1,
    measure=measure,
    lines=lines,
)
