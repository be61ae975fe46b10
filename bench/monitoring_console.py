"""What the console takes to open in a real Chromium with all that it may show, and how many bytes come."""

from __future__ import annotations

import shutil
import sys
import time
from statistics import median
from typing import Final

import msgspec

from figures import Figures
from part import Line, Part, Session
from peers import ROOT
from tailrace.monitor.drift.history import SERIES_SHOWN_MAX
from tailrace.monitor.observed import Observed
from tailrace.monitor.slowest import SLOW_MAX, SlowRequest
from tailrace.server.log_lines import LINES_MAX, LogLine, LogLines

sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "server")]  # the browser's driver, and a console to open

from chromium import Chromium, chromium  # noqa: E402
from console_server import Counted, drifted, filled, served  # noqa: E402

ROUNDS: Final = 15
HISTORY_S: Final = 600
PAINT: Final = "performance.getEntriesByName('first-contentful-paint')[0]?.startTime"
CHARTS: Final = "performance.getEntriesByName('charts')[0]?.startTime"
BYTES: Final = """[...performance.getEntriesByType('navigation'), ...performance.getEntriesByType('resource')]
    .filter(each => each.responseEnd).reduce((sum, each) => sum + each.transferSize, 0)"""


def observed() -> Observed:
    """Return what an observer says of a busy pipeline: all the slow requests and series of drift that are told."""
    now_s = time.time()
    slow = tuple(
        SlowRequest(
            id=f"{number:08x}-4b1f-4e7a-9d2c-{number * 7919:012x}", at_s=now_s - number, whole=90.5 - number,
            wait=1.234, layers=(0.151, 41.734 - number, 3.052, 0.221, 0.083), release="81b56d03137c",
            decision="allow", score=0.0123 * number, degraded=("event_lost",) if number % 3 else (),
        )
        for number in range(2 * SLOW_MAX)
    )  # fmt: skip
    window = drifted()
    series = tuple(
        msgspec.structs.replace(
            window.series[0], series=f"CustomerActivity.feature_{number}",
            psi=tuple(0.013 * each for each in range(48)),
            labels=tuple(f"{each}.5 to {each + 1}.5" for each in range(12)),
            shares=tuple(0.0833 for _ in range(12)), baseline=tuple(0.0411 * each % 0.2 for each in range(12)),
        )
        for number in range(SERIES_SHOWN_MAX)
    )  # fmt: skip
    return Observed(at_s=now_s, slow={"fraud": slow}, drift={"fraud": msgspec.structs.replace(window, series=series)})


def logged() -> LogLines:
    """Return as many lines of the log as are kept."""
    lines, now_s = LogLines(), time.time()
    text = "answers degraded slot=0 pipeline=fraud reason=event_lost rows={}"
    lines.hear(LogLine(now_s - number, "warning", "worker 0", text.format(number)) for number in range(LINES_MAX))
    return lines


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
    counted.said = observed()
    console = filled(counted, session.pick(HISTORY_S, 60), logged(), explains=True)
    with served(counted, console) as port, chromium() as page:
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
