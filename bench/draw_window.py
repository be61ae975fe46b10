"""Draw docs/img/window.svg and window-edges.svg: what windows serve as time passes, and what counts at a moment.

python bench/draw_window.py    counts some payments of one card in, and reads what is stored as a server does
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

import tailrace as tr
from peers import ROOT
from picture import BLUE, GREY, OCHRE, PURPLE, TEAL, Scale, frame, text
from tailrace.features.events import Events
from tailrace.features.stores.memory import MemoryWriter
from tailrace.features.streams import window_of
from tailrace.ingest.applier import Applier
from tailrace.ingest.decoded import DecodedEvents
from tailrace.testing import ManualClock

NS_PER_S: Final = 10**9
CARD: Final = 4021
NOON_S: Final = int(datetime(2026, 3, 2, 12, tzinfo=UTC).timestamp())


def clock_s(text_: str) -> int:
    """Return the seconds since noon of a time of that day, as in 12:04:10."""
    hours, minutes, seconds = (int(part) for part in text_.split(":"))
    return (hours - 12) * 3_600 + minutes * 60 + seconds


PAYMENTS: Final = (
    ("12:04:10", 60.0), ("12:12:41", 5.0), ("12:12:47", 5.0), ("12:12:49", 5.0), ("12:12:56", 5.0), ("12:13:03", 5.0),
    ("12:31:40", 180.0),
)  # fmt: skip
"""A card is tried out with five small payments, and used."""
ASKED: Final = "12:17:53"
BURST: Final = PAYMENTS[1:6]


class Payment(tr.Request):
    """A payment."""

    payment_id: int
    card_id: int
    amount: float
    time: float


payments = tr.Stream("payments", schema=Payment, time="time", id="payment_id", lateness="2h")


class CardActivity(tr.StreamFeatureView):
    """What the pictures show."""

    entity = tr.Entity("card", key="card_id")
    stream = payments
    count_5m: int = tr.count(window="5m")
    count_5m_own: int = tr.count(window="5m", include_current=True)
    count_5m_2m_ago: int = tr.count(window="5m", delay="2m")
    count_5m_30m_ago: int = tr.count(window="5m", delay="30m")
    count_1h: int = tr.count(window="1h")
    mean_1h: float = tr.mean("amount", window="1h", decimals=2)


def serve(seconds: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Return every column for requests at these seconds since noon, (rows,), from the state of all payments."""
    stored: dict[bytes, bytes] = {}
    spec, clock = CardActivity.spec, ManualClock(wall_ns=(NOON_S + 86_400) * NS_PER_S)
    events = [
        Payment(payment_id=number, card_id=CARD, amount=amount, time=NOON_S + clock_s(at))
        for number, (at, amount) in enumerate(PAYMENTS)
    ]
    Applier(payments, [spec], MemoryWriter(stored), clock).apply(DecodedEvents(payments).columns(events))
    codec = spec.codec()
    rows = len(seconds)
    asked = Events((NOON_S * NS_PER_S + np.rint(seconds * NS_PER_S)).astype(np.int64), None, lambda _: np.ones(rows))
    found = codec.unpack([CARD] * rows, [stored[codec.key(CARD)]] * rows, 0, None, asked)
    return {column.name: found.column(column.name) for column in spec.columns}


# -- how values fall --------------------------------------------------------------------------------------------------

WIDTH: Final = 920
LEFT, RIGHT = 74, 884
LINE_Y: Final = 146
COUNT_TOP, COUNT_BOTTOM = 200, 338
MEAN_TOP, MEAN_BOTTOM = 380, 466
END_S: Final = 105 * 60
TICK_S: Final = 900
STEP_S: Final = 0.25


def draw_decay() -> str:
    """Return the picture of counts and a mean from noon on, payments above."""
    seconds = np.arange(0, END_S + STEP_S, STEP_S)
    served = serve(seconds)
    across = Scale(0, END_S, LEFT, RIGHT)
    count, mean = Scale(0, 8.4, COUNT_BOTTOM, COUNT_TOP), Scale(0, 220, MEAN_BOTTOM, MEAN_TOP)
    ticks = range(0, END_S + 1, TICK_S)
    last = across.at(clock_s(PAYMENTS[-1][0]))
    parts = [
        text(24, 38, "A window falls by itself", "h"),
        text(24, 58, "what a request at each moment is served, of one card", "s"),
        *draw_payments(across, LINE_Y),
        *draw_panel(across, ticks, count, (0, 2, 4, 6)),
        *draw_panel(across, ticks, mean, (0, 100, 200)),
        f'<path class="dash" stroke="{GREY}" d="M{last:g} {LINE_Y}V{MEAN_BOTTOM}"/>',
        text(last + 12, LINE_Y + 20, f"from here on nothing is written: {PAYMENTS[-1][0]} is the last payment", "s"),
        text(LEFT, COUNT_TOP - 10, "how many", "n"),
        *draw_steps(seconds, served["count_5m_30m_ago"], across, count, OCHRE),
        *draw_steps(seconds, served["count_1h"], across, count, BLUE),
        *draw_steps(seconds, served["count_5m"], across, count, TEAL),
        text(across.at(2_100), count.at(7) - 8, 'tr.count(window="1h")', "n halo", BLUE),
        text(across.at(1_130), count.at(3) + 4, 'of "5m"', "n halo", TEAL),
        text(across.at(2_930), count.at(3) + 4, 'of "5m", delay="30m"', "n halo", OCHRE),
        text(LEFT, MEAN_TOP - 10, "how much", "n"),
        *draw_steps(seconds, served["mean_1h"], across, mean, PURPLE),
        text(across.at(2_100), mean.at(38) - 8, 'tr.mean("amount", window="1h")', "n halo", PURPLE),
        *(text(across.at(tick), MEAN_BOTTOM + 20, told(tick), "s m") for tick in ticks),
    ]
    return frame(WIDTH, MEAN_BOTTOM + 40, "How windows fall without an event", describe_decay(seconds, served), parts)


def describe_decay(seconds: NDArray[np.float64], served: dict[str, NDArray[Any]]) -> str:
    """Return the picture in words."""
    zero = {name: told(seconds[np.flatnonzero(served[name])[-1] + 1]) for name in ("count_5m", "count_1h", "mean_1h")}
    highest = {name: int(served[name].max()) for name in ("count_5m", "count_1h")}
    return (
        f"Seven payments of one card, the last at {PAYMENTS[-1][0]}. The count over five minutes reaches "
        f"{highest['count_5m']} and is 0 for good at {zero['count_5m']}; with a delay of half an hour it is the same "
        f"half an hour later. The count over an hour reaches {highest['count_1h']} and is 0 at {zero['count_1h']}. The "
        f"mean over an hour changes whenever a payment leaves, and is 0 from {zero['mean_1h']} on. Nothing is written "
        "meanwhile."
    )


def draw_payments(across: Scale, line_y: float) -> Iterator[str]:
    """Give the payments on a line of time, each as high as it is large, as its square root."""
    yield text(LEFT, line_y - 60, "payments of one card", "n")
    for at, amount in PAYMENTS:
        here, high = across.at(clock_s(at)), line_y - 3 * amount**0.5
        yield f'<path d="M{here:g} {line_y}V{high:g}" stroke="{GREY}" stroke-width="1.6"/>'
        yield f'<circle cx="{here:g}" cy="{high:g}" r="3" fill="{GREY}"/>'
    for at, label in ((PAYMENTS[0][0], "60"), (BURST[-1][0], "five of 5"), (PAYMENTS[-1][0], "180")):
        yield text(across.at(clock_s(at)) + 9, line_y - 8, label, "s")
    yield f'<path class="axis" d="M{LEFT} {line_y}H{RIGHT}"/>'


def draw_panel(across: Scale, ticks: Sequence[int], up: Scale, lines: Sequence[float]) -> Iterator[str]:
    """Give the ground of a panel."""
    top, bottom = up.end, up.begin
    yield f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}" height="{bottom - top}" fill="#ffffff"/>'
    for line in lines:
        yield f'<path class="grid" d="M{LEFT} {up.at(line):g}H{RIGHT}"/>'
        yield text(LEFT - 10, up.at(line) + 4, f"{line:g}", "s e")
    for tick in ticks:
        yield f'<path class="grid" d="M{across.at(tick):g} {top}V{bottom}"/>'
    yield f'<path class="axis" d="M{LEFT} {bottom}H{RIGHT}"/>'


def draw_steps(
    seconds: NDArray[np.float64], values: NDArray[Any], across: Scale, up: Scale, colour: str, kind: str = "line"
) -> Iterator[str]:
    """Give a line that is level between the changes of a value."""
    changes = np.flatnonzero(np.diff(values.astype(np.float64))) + 1
    path = f"M{across.at(float(seconds[0])):g} {up.at(float(values[0])):g}"
    for place in changes:
        path += f"H{across.at(float(seconds[place])):g}V{up.at(float(values[place])):g}"
    yield f'<path class="{kind}" stroke="{colour}" d="{path}H{across.at(float(seconds[-1])):g}"/>'


def told(seconds: float, *, seconds_too: bool = False) -> str:
    """Return a time of the day: its minutes, and its seconds where it has any or they are asked for."""
    hours, rest = divmod(round(seconds), 3_600)
    return f"{12 + hours}:{rest // 60:02}" + (f":{rest % 60:02}" if rest % 60 or seconds_too else "")


# -- what counts at a moment ------------------------------------------------------------------------------------------

BAR_FROM, BAR_UNTIL = clock_s("12:09:50"), clock_s("12:19:00")
BAR_LINE_Y: Final = 122
BAR_Y: Final = 146
BAR_STEP: Final = 38
BAR_RIGHT: Final = 780
VALUE_X: Final = 850
BARS: Final = {"count_5m": ('window="5m"', TEAL), "count_5m_own": ("include_current=True", PURPLE),
               "count_5m_2m_ago": ('delay="2m"', OCHRE)}  # fmt: skip
EDGE_FROM, EDGE_UNTIL = clock_s("12:17:35"), clock_s("12:18:15")
EDGE_TOP, EDGE_BOTTOM = 330, 464
EDGE_STEP_S: Final = 0.05


def draw_edges() -> str:
    """Return the picture of three windows at one moment, and of the hops by which payments leave."""
    rule = "a window begins at a multiple of its hop, a sixtieth of its length, and ends right before the request"
    parts = [
        text(24, 38, f"What counts at {ASKED}", "h"),
        text(24, 58, rule, "s"),
        *draw_bars(),
        *draw_hops(),
    ]
    return frame(WIDTH, EDGE_BOTTOM + 40, "Where windows begin and end", describe_edges(), parts)


def describe_edges() -> str:
    """Return the picture in words."""
    served = serve(np.array([float(clock_s(ASKED))]))
    begin_s, end_s = edges_of("count_5m")
    early_s, before_s = edges_of("count_5m_2m_ago")
    return (
        f"At {ASKED} a window of five minutes has the payments from {told(begin_s)} to right before {told(end_s)}: "
        f"{served['count_5m'][0]}. With include_current the payment that is scored counts too: "
        f"{served['count_5m_own'][0]}. With a delay of two minutes the window is that of two minutes ago, from "
        f"{told(early_s)} to {told(before_s)}: {served['count_5m_2m_ago'][0]}. Payments leave at multiples of the hop "
        "of 5 seconds, those of one hop together."
    )


def edges_of(column: str) -> tuple[float, float]:
    """Return when the window of a column begins and ends at the moment that is asked, in seconds since noon."""
    window = window_of(CardActivity.spec.aggregates[column])
    now_ns = (NOON_S + clock_s(ASKED)) * NS_PER_S
    begin_ns = int(window.begin(np.array([now_ns]))[0])
    return begin_ns / NS_PER_S - NOON_S, (now_ns - window.delay_ns) / NS_PER_S - NOON_S


def draw_bars() -> Iterator[str]:
    """Give the payments, and below them a bar for each window, with its value at its end."""
    across = Scale(BAR_FROM, BAR_UNTIL, LEFT, BAR_RIGHT)
    now = across.at(clock_s(ASKED))
    served = serve(np.array([float(clock_s(ASKED))]))
    bottom = BAR_Y + BAR_STEP * len(BARS)
    for tick in range(clock_s("12:10:00"), BAR_UNTIL + 1, 60):
        yield f'<path class="grid" d="M{across.at(tick):g} {BAR_LINE_Y}V{bottom}"/>'
        yield text(across.at(tick), bottom + 18, told(tick), "s m")
    yield f'<path class="axis" d="M{LEFT} {BAR_LINE_Y}H{BAR_RIGHT}"/>'
    yield f'<path class="dash" stroke="{GREY}" d="M{now:g} {BAR_LINE_Y - 14}V{bottom}"/>'
    yield text(now, BAR_LINE_Y - 20, "the request", "n m")
    yield text(VALUE_X, BAR_LINE_Y - 20, "tr.count", "n m")
    yield text(across.at(clock_s(BURST[2][0])), BAR_LINE_Y - 14, "five payments", "s m")
    yield from draw_dots(across, BAR_LINE_Y, GREY, 0, END_S)
    for number, (column, (label, colour)) in enumerate(BARS.items()):
        y = BAR_Y + BAR_STEP * number
        yield from draw_bar(across, y, edges_of(column), label, colour)
        if column == "count_5m_own":
            yield f'<circle cx="{now:g}" cy="{y + 11}" r="3.6" fill="{colour}"/>'
        yield text(VALUE_X, y + 17, f"{served[column][0]}", "h m", colour)


def draw_bar(across: Scale, y: float, edges_s: tuple[float, float], label: str, colour: str) -> Iterator[str]:
    """Give one window as a bar, with the payments in it. edges_s: its beginning and end."""
    begin, end = across.at(edges_s[0]), across.at(edges_s[1])
    yield f'<rect x="{begin:g}" y="{y}" width="{end - begin:g}" height="22" fill="{colour}" fill-opacity="0.18"/>'
    yield f'<path d="M{begin:g} {y}v22" stroke="{colour}" stroke-width="2.4"/>'
    yield text((across.at(clock_s(BURST[-1][0])) + end) / 2, y + 15.5, label, "n m", colour)
    yield text(begin - 7, y + 15.5, told(edges_s[0]), "s e")
    if edges_s[1] != clock_s(ASKED):
        yield text(end + 7, y + 15.5, told(edges_s[1]), "s")
    yield from draw_dots(across, y + 11, colour, *edges_s)


def draw_dots(across: Scale, y: float, colour: str, begin_s: float, end_s: float) -> Iterator[str]:
    """Give those of the five payments that lie between two times."""
    for at, _ in BURST:
        if begin_s <= clock_s(at) < end_s:
            yield f'<circle cx="{across.at(clock_s(at)):g}" cy="{y}" r="3.6" fill="{colour}"/>'


def draw_hops() -> Iterator[str]:
    """Give the seconds in which the payments leave: five minutes after each came, at the next multiple of the hop."""
    seconds = np.arange(EDGE_FROM, EDGE_UNTIL + EDGE_STEP_S, EDGE_STEP_S)
    served = serve(seconds)
    across, up = Scale(EDGE_FROM, EDGE_UNTIL, LEFT, RIGHT), Scale(0, 6.6, EDGE_BOTTOM, EDGE_TOP)
    window = window_of(CardActivity.spec.aggregates["count_5m"])
    hop_s, length_s = window.hop_ns // NS_PER_S, (window.length_ns or 0) // NS_PER_S
    ticks = range(EDGE_FROM, EDGE_UNTIL + 1, hop_s)
    now, middle = across.at(clock_s(ASKED)), across.at(EDGE_UNTIL - 15) + 10
    yield text(LEFT, EDGE_TOP - 12, f"how the five leave: by hops of {hop_s} s", "n")
    yield from draw_panel(across, ticks, up, (0, 2, 4, 6))
    yield f'<path class="dash" stroke="{GREY}" d="M{now:g} {EDGE_TOP}V{EDGE_BOTTOM}"/>'
    yield text(now + 8, EDGE_TOP + 18, "the request", "n halo")
    yield from draw_steps(seconds, served["count_5m_own"], across, up, PURPLE, "dash")
    yield from draw_steps(seconds, served["count_5m"], across, up, TEAL)
    for at, _ in BURST:
        here = clock_s(at) + length_s
        value = float(served["count_5m"][round((here - EDGE_FROM) / EDGE_STEP_S)])
        yield draw_ring(across.at(here), up.at(value))
    yield draw_ring(middle, up.at(5))
    yield text(middle + 10, up.at(5) + 4, "a payment is five minutes old", "s halo")
    yield f'<path class="dash" stroke="{PURPLE}" d="M{middle - 9:g} {up.at(4):g}h18"/>'
    yield text(middle + 14, up.at(4) + 4, "include_current=True", "s halo")
    for tick in ticks:
        yield text(across.at(tick), EDGE_BOTTOM + 20, told(tick, seconds_too=True), "s m")


def draw_ring(across: float, up: float) -> str:
    """Return the mark of a payment that reaches its window's length."""
    return f'<circle cx="{across:g}" cy="{up:g}" r="4" fill="#ffffff" stroke="{TEAL}" stroke-width="1.8"/>'


def main() -> int:
    """Draw, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "img", help="the folder; default: docs/img")
    out: Path = parser.parse_args().out
    for name, draw in PICTURES.items():
        (out / name).write_text(draw())
    return 0


PICTURES: Final = {"window.svg": draw_decay, "window-edges.svg": draw_edges}


if __name__ == "__main__":
    sys.exit(main())
