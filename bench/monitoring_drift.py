"""Drift: alarms where there is none, and how soon a shift is found. No server runs.

Predicted before it ran: no false alarm in a thousand windows, three windows for half a standard deviation (no fewer can
vote), and none ever for a tenth, which is below what matters; the same with a daily rhythm, once it is learned. The
plain rule (two standard deviations of earlier windows) is wrong in some of a thousand windows.
"""

from __future__ import annotations

from statistics import median
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from figures import Figures
from part import Line, Part, Session
from tailrace.deadline import NS_PER_S
from tailrace.inference.drift import Drift
from tailrace.inference.manifest import Profile
from tailrace.monitor.drift.findings import Findings
from tailrace.monitor.drift.kept import keep, recall
from tailrace.monitor.drift.series import series_of
from tailrace.monitor.drift.watch import DriftWatch
from tailrace.release.profile import profile_numbers

FEATURES: Final = 30
REFERENCE_ROWS: Final = 50_000
WINDOWS: Final = 1_000
ROWS: Final = 600
"""Of a window: hardly more than the fewest that are compared."""
WINDOW_S: Final = 900
DAY_S: Final = 86_400
SHIFTS: Final = (0.1, 0.2, 0.3, 0.5, 1.0, 2.0)
LEARNING: Final = 3 * DAY_S // WINDOW_S
"""Windows of three days, by which the hours of a day are learned."""
PREDICTED: Final = ("score", "decision")
TRIALS: Final = 9
GIVEN_UP: Final = 20
"""Windows after which a shift counts as not found."""


def draw(rng: np.random.Generator, hours: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Return rows, one for each hour of the day given, whose features, score and decision go with the hour.

    A third is normal, a third log-normal, the rest counts, flags and a copy of another with noise.
    """
    values = rng.normal(size=(len(hours), FEATURES))
    values += 0.5 * np.sin(2 * np.pi * hours / 24)[:, np.newaxis]
    score = 1 / (1 + np.exp(3 - values[:, 0] - values[:, 1]))
    values[:, 10:20] = np.exp(values[:, 10:20])
    values[:, 20:24] = np.floor(np.exp(values[:, 20:24]))
    values[:, 24:27] = values[:, 24:27] > 1.5
    values[:, 28] = values[:, 27] + 0.1 * values[:, 28]
    columns: dict[str, NDArray[Any]] = {f"f{place}": values[:, place].astype(np.float32) for place in range(FEATURES)}
    decision = np.where(score > 0.5, "block", "allow")
    return columns | {"score": score, "confidence": np.maximum(score, 1 - score), "decision": decision}


def profile(rng: np.random.Generator, *, daily: bool) -> Profile:
    """Return the reference of such rows, of all hours of a day or of midnight alone."""
    columns = draw(rng, rng.uniform(0, 24, REFERENCE_ROWS) if daily else np.zeros(REFERENCE_ROWS))
    features = {f"f{place}": profile_numbers(columns[f"f{place}"]) for place in range(FEATURES)}
    return Profile(
        REFERENCE_ROWS, features, (profile_numbers(columns["score"]),), profile_numbers(columns["confidence"])
    )


def watch_windows(
    rng: np.random.Generator,
    found: Profile,
    windows: int,
    *,
    daily: bool = False,
    shift: float = 0.0,
    learned: bytes | None = None,
) -> tuple[list[Findings], DriftWatch]:
    """Return what so many windows say, and the watch. shift: of one feature, in its standard deviations.

    learned: what a watch has kept that has seen `LEARNING` windows; these begin after them.
    """
    declared = Drift("15m", season="day" if daily else None)
    begin_s = LEARNING * WINDOW_S if learned is not None else 0
    watch = DriftWatch(series_of(found, ("allow", "review", "block")), declared, begin_s * NS_PER_S, float(begin_s))
    if learned is not None:
        assert recall(watch, learned)
    deviation = found.features["f3"].std  # type: ignore[union-attr]
    told: list[Findings] = []
    for number in range(1, windows + 1):
        now_s = begin_s + number * WINDOW_S
        columns = draw(rng, np.full(ROWS, (now_s - WINDOW_S / 2) / 3_600 if daily else 0.0))
        columns["f3"] = columns["f3"] + shift * deviation
        told += watch.add(columns, now_s * NS_PER_S, float(now_s))
    return told, watch


def false_alarms(told: list[Findings]) -> tuple[float, float]:
    """Return how many of a thousand windows with a learned baseline have an alarm, and whose predictions deviate."""
    judged = [each for each in told if each.span == "window" and each.learning <= 1]
    deviating = [any(each.is_deviating for each in window.findings if each.kind in PREDICTED) for window in judged]
    return 1_000 * sum(bool(each.alarms) for each in judged) / len(judged), 1_000 * sum(deviating) / len(judged)


def windows_to_detect(
    rng: np.random.Generator, found: Profile, shift: float, learned: bytes | None = None
) -> float | None:
    """Return after how many windows there is an alarm on the shifted feature, the median of several trials; or None.

    learned: of traffic with a daily rhythm; None for even traffic.
    """
    counts = []
    for _ in range(TRIALS):
        told, _ = watch_windows(rng, found, GIVEN_UP, daily=learned is not None, shift=shift, learned=learned)
        windows = [each for each in told if each.span == "window"]
        alarmed = [any(each.series == "f3" for each in window.alarms) for window in windows]
        counts.append(alarmed.index(True) + 1 if any(alarmed) else float("inf"))
    found_after = median(counts)
    return found_after if np.isfinite(found_after) else None


def measure(session: Session) -> Figures:
    """Return the false alarms on even traffic and with a daily rhythm, and how soon shifts are found."""
    rng = np.random.default_rng(12)
    windows = session.pick(WINDOWS, 200)
    even, daily = profile(rng, daily=False), profile(rng, daily=True)
    session.tell("drift: even traffic without drift")
    alarms, deviating = false_alarms(watch_windows(rng, even, windows)[0])
    figures: Figures = {"false_alarms_per_1000": alarms, "false_deviations_per_1000": deviating}
    session.tell("drift: a daily rhythm without drift")
    _, watch = watch_windows(rng, daily, LEARNING, daily=True)
    learned = keep(watch)
    alarms, deviating = false_alarms(watch_windows(rng, daily, windows, daily=True, learned=learned)[0])
    figures |= {"false_alarms_per_1000_daily": alarms, "false_deviations_per_1000_daily": deviating}
    for shift in SHIFTS:
        session.tell(f"drift: a shift of {shift} standard deviations")
        figures[f"windows_to_detect_{shift}"] = windows_to_detect(rng, even, shift)
        figures[f"windows_to_detect_{shift}_daily"] = windows_to_detect(rng, daily, shift, learned)
    figures["windows_to_detect"] = figures["windows_to_detect_0.5"]
    return {"monitoring": figures}


def lines(figures: Figures) -> list[Line]:
    """Return the lines of the table."""
    found = figures["monitoring"]
    return [
        Line("False alarms in 1,000 windows, 30 features", found["false_alarms_per_1000"], 1, 0.1),
        Line("  with a daily rhythm", found["false_alarms_per_1000_daily"], 1, 0.1),
        Line("  predictions beyond two deviations, by the plain rule", found["false_deviations_per_1000"]),
        Line("  the same with a daily rhythm", found["false_deviations_per_1000_daily"]),
        Line("Windows to find 0.5 σ in one feature of 30", found["windows_to_detect"], 4, 3),
        *(
            Line(f"  {shift} σ{told}", found[f"windows_to_detect_{shift}{key}"] or f"not within {GIVEN_UP}")
            for key, told in (("", ""), ("_daily", " with a daily rhythm"))
            for shift in SHIFTS
        ),
    ]


PART: Final = Part(
    name="monitoring_drift",
    about="drift: false alarms, and windows until a shift is found",
    caveats=(f"monitoring_drift: generated rows, {ROWS} a window, independent of each other as no real ones are.",),
    steps=lambda session: 2 + len(SHIFTS),
    measure=measure,
    lines=lines,
)
