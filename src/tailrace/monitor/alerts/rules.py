"""The built-in rules: what each looks at, when it fires, when it is over, and the cause that it names.

The windows of the burn rates are those of the SRE workbook (chapter 5, table 5-8): 14.4 over 1 h and 5 min, 6 over 6 h
and 30 min, 1 over 3 d and 6 h. Both must hold; so one is over soon after its cause is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from tailrace.deadline import format_duration
from tailrace.monitor.alerts.sight import DAY_S, HOUR_S, LATENCY_SPAN_S, MINUTE_S, PARTS, Sight
from tailrace.monitor.drift.shown import ShownSeries

Severity = Literal["page", "ticket"]
"""page: somebody must look now; ticket: within a day."""
REQUESTS_MIN: Final = 100
ERRORS_MIN: Final = 5
ROWS_MIN: Final = 1_000
SHARE_SPAN_S: Final = 5 * MINUTE_S
CACHE_SPAN_S: Final = 30 * MINUTE_S
RELIEF: Final = 0.9
"""An alert is over once its value is under so much of its threshold: one that hovers there is told once."""
SIGNED: Final = ("mean", "missing", "default", "unseen")
"""Statistics of drift that say in which direction."""
PREDICTED: Final = ("score", "decision")
"""Kinds of series that are predictions."""
PERIOD_S: Final = 30 * DAY_S
"""Over which the share of the availability holds."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a rule found. is_over: beyond the threshold; is_clear: well within it. cause: a line with the numbers."""

    value: float
    threshold: float
    is_over: bool
    is_clear: bool
    cause: str


@dataclass(frozen=True, slots=True)
class Rule:
    """One alert. look: returns None where it is switched off, or there is too little to tell by.

    for_s: how long it must hold to be told; clear_s: how long it must be over to be called so. runbook: its page of
    docs/runbooks.
    """

    name: str
    severity: Severity
    summary: str
    runbook: str
    for_s: float
    clear_s: float
    look: Callable[[Sight], Finding | None]


@dataclass(frozen=True, slots=True)
class BurnRate:
    """How fast the share of errors that is allowed is used up: `rate` times as fast as the whole period would."""

    rate: float
    long_s: float
    short_s: float

    def look(self, sight: Sight) -> Finding | None:
        """Return what both windows say; see `Rule`."""
        target = sight.alerts.availability
        if target is None or sight.age_s < self.short_s:
            return None
        counted = [sight.counts(span_s) for span_s in (self.long_s, self.short_s)]
        if any(each["requests"] < REQUESTS_MIN for each in counted):
            return None
        long, short = (each["errors"] / each["requests"] / (1 - target) for each in counted)
        value = min(long, short)
        over = value > self.rate and counted[0]["errors"] >= ERRORS_MIN
        gone = f": all of it in {span(PERIOD_S / long)}" if long else ""
        return Finding(
            value, self.rate, over, value < self.rate * RELIEF,
            f"errors use up what {target:.4g} allows {long:.3g}× too fast over {span(self.long_s)}, "
            f"{short:.3g}× over {span(self.short_s)} > {self.rate:g}×{gone}",
        )  # fmt: skip


def _latency(sight: Sight) -> Finding | None:
    times, over = sight.times(), sight.alerts.p99_over
    if over is None or "" not in times or times[""].count < REQUESTS_MIN:
        return None
    p99_ns, limit_ns = times[""].quantile(0.99), over * sight.budget_ns
    parts: dict[str, float] = {
        name: times[name].quantile(0.99) for name in PARTS if name in times and times[name].count
    }
    worst = max(parts, key=lambda name: parts[name], default="")
    blamed = f": {worst} {format_duration(parts[worst])} of it" if worst else ""
    sign = ">" if p99_ns > limit_ns else "≤"
    cause = f"p99 {format_duration(p99_ns)} {sign} {over:g} × {format_duration(sight.budget_ns)}{blamed}"
    return Finding(p99_ns / 1e9, limit_ns / 1e9, p99_ns > limit_ns, p99_ns < limit_ns * RELIEF, cause)


def _errors(sight: Sight) -> Finding | None:
    allowed, counts = sight.alerts.error_share, sight.counts(SHARE_SPAN_S)
    requests, errors, shed = counts["requests"], counts["errors"], counts["shed"]
    if allowed is None or requests < REQUESTS_MIN:
        return None
    share = errors / requests
    blamed = f": {shed:,} of the {errors:,} were shed" if shed else ""
    cause = f"{share:.2%} of {requests:,} answers of {span(SHARE_SPAN_S)} are a 5xx, {allowed:.4g} may be{blamed}"
    over = share > allowed and errors >= ERRORS_MIN
    return Finding(share, allowed, over, share < allowed * RELIEF, cause)


def _cache(sight: Sight) -> Finding | None:
    wanted, counts = sight.alerts.cache_hit_share, sight.counts(CACHE_SPAN_S)
    rows = counts["cache_hits"] + counts["cache_misses"]
    if wanted is None or rows < ROWS_MIN:
        return None
    share = counts["cache_hits"] / rows
    cause = f"the cache held {share:.1%} of {rows:,} rows of {span(CACHE_SPAN_S)}, {wanted:.3g} are wanted"
    return Finding(share, wanted, share < wanted, share > wanted + (1 - wanted) * (1 - RELIEF), cause)


def _breaker(sight: Sight) -> Finding | None:
    if not sight.alerts.breaker:
        return None
    if not sight.breakers:
        return Finding(0.0, 0.0, is_over=False, is_clear=True, cause="no breaker is open")
    told = [
        f"{workers} worker{'s' if workers > 1 else ''} leave{'' if workers > 1 else 's'} "
        f"{f'the remote model {model!r}' if model else 'the online store'} alone"
        for model, workers in sight.breakers
    ]
    workers = float(sum(workers for _, workers in sight.breakers))
    return Finding(workers, 0.0, is_over=True, is_clear=False, cause="; ".join(told))


def _stale(sight: Sight) -> Finding | None:
    allowed, counts = sight.alerts.stale_share, sight.counts(SHARE_SPAN_S)
    rows = counts["values"]
    if allowed is None or rows < REQUESTS_MIN:
        return None
    share = counts["stale"] / rows
    blamed = f": {sight.stalest} most of them" if counts["stale"] else ""
    cause = f"{share:.2%} of {rows:,} view rows of {span(SHARE_SPAN_S)} are stale, {allowed:.4g} may be{blamed}"
    return Finding(share, allowed, share > allowed, share < allowed * RELIEF, cause)


def _predictions(sight: Sight) -> Finding | None:
    found = {kind: count for kind, count in sight.deviating.items() if kind in PREDICTED}
    if not sight.alerts.predictions or not found:
        return None
    cause = "beyond two standard deviations of their baseline"
    worst = _worst(sight, lambda each: each.is_deviating and each.kind in PREDICTED)
    told = f": {worst.series} {worst.deviations:+.1f}" if worst is not None and worst.deviations is not None else ""
    return _of_kinds(found, cause + told)


def _drift(sight: Sight) -> Finding | None:
    if not sight.alerts.drift or not sight.drifted:
        return None
    worst = _worst(sight, lambda each: bool(each.alarms))
    told = f": {worst.series} most, {_statistics(worst)}" if worst is not None else ""
    return _of_kinds(sight.drifted, f"no more what the model was packaged on{told}")


def _worst(sight: Sight, is_meant: Callable[[ShownSeries], bool]) -> ShownSeries | None:
    """Return the worst series of those that are shown and meant; None where none is."""
    return next(filter(is_meant, sight.shown), None)


def _statistics(series: ShownSeries) -> str:
    """Return the statistics of a series that have an alarm, as "mean +0.62, psi 0.31"."""
    return ", ".join(
        f"{name} {series.statistics[name]:{'+' if name in SIGNED else ''}.2g}"
        for name in series.alarms
        if name in series.statistics
    )


def _of_kinds(found: dict[str, int], what: str) -> Finding:
    """Return how many series of each kind are so."""
    told = [f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in found.items() if count]
    total = sum(found.values())
    listed = " and ".join([", ".join(told[:-1])] * (len(told) > 1) + told[-1:])
    cause = f"{listed or 'nothing'} {'are' if total > 1 else 'is'} {what}"
    return Finding(float(total), 0.0, is_over=total > 0, is_clear=total == 0, cause=cause)


BURN_RATES: Final = {
    "burn_fast": BurnRate(14.4, HOUR_S, 5 * MINUTE_S),
    "burn_medium": BurnRate(6.0, 6 * HOUR_S, 30 * MINUTE_S),
    "burn_slow": BurnRate(1.0, 3 * DAY_S, 6 * HOUR_S),
}
RULES: Final = (
    Rule("latency", "page", "answers take too long", "latency.md", 30, 60, _latency),
    Rule("errors", "page", "too many calls fail", "errors.md", 30, 60, _errors),
    Rule("burn_fast", "page", "a month's errors are used up in two days", "burn-rate.md", 60, 120,
         BURN_RATES["burn_fast"].look),
    Rule("burn_medium", "page", "a month's errors are used up in five days", "burn-rate.md", 60, 300,
         BURN_RATES["burn_medium"].look),
    Rule("burn_slow", "ticket", "a month's errors are used up before the month is", "burn-rate.md", 300, 900,
         BURN_RATES["burn_slow"].look),
    Rule("breaker", "page", "a store or a remote model is left alone", "breaker.md", 5, 30, _breaker),
    Rule("stale", "ticket", "features are older than they may be", "stale.md", 120, 300, _stale),
    Rule("cache", "ticket", "the cache holds too little", "cache.md", 300, 300, _cache),
    Rule("predictions", "ticket", "what is predicted has moved", "predictions.md", 0, 60, _predictions),
    Rule("drift", "ticket", "what comes in is not what the model learned from", "drift.md", 0, 60, _drift),
)  # fmt: skip
"""Every built-in alert, the most urgent first."""


def span(seconds: float) -> str:
    """Return a span of time as a person says it: "5 min", "6 h", "3 d"."""
    for unit, size_s in (("d", DAY_S), ("h", HOUR_S), ("min", LATENCY_SPAN_S)):
        if seconds >= size_s:
            return f"{seconds / size_s:.3g} {unit}"
    return f"{seconds:.3g} s"
