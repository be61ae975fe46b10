"""What came of a load run: exact latency percentiles, outcomes, a timeline, and whether the run counts at all."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.deadline import NS_PER_S, format_duration
from tailrace.loadtest.plan import LAG_SHARE_MAX, LoadPlan
from tailrace.loadtest.record import BROKEN, UNANSWERED, UNREADABLE, ShotRecord

STATUS_REFUSED: Final = 503


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Exact percentiles (nearest rank) of `count` durations, in nanoseconds."""

    count: int
    p50_ns: int
    p90_ns: int
    p95_ns: int
    p99_ns: int
    p999_ns: int
    max_ns: int


@dataclass(frozen=True, slots=True)
class Second:
    """One second of a run. All but `answered` speak of the shots DUE in it, whenever their answers came."""

    second: int
    offered: int
    answered: int
    """Answers that came in this second, of any status."""
    ok: int
    ok_within_budget: int
    refused: int
    failed: int
    """Other statuses, errors, and shots without an answer."""
    ok_p99_ns: int | None


@dataclass(frozen=True, slots=True)
class LoadReport:
    """One run. Latency counts from the intended send time; `ok` is 2xx, `refused` is 503.

    rate_sent_per_s is over the time that sending took; answered_per_s, ok_per_s, goodput_per_s (ok within budget) and
    refused_per_s are shots of that kind over the plan's duration. errors = broken (their connection broke) + unreadable
    + unanswered (sent, no answer when the drain ended) + unsent (no connection had room until then); the percentiles
    say nothing about those. held: shots that waited for room on a connection, their latency clock running. lag: the
    generator's own, of shots not held. valid: whether its p99 stays within 5% of the budget; reasons: why not.
    record: every shot, in order.
    """

    plan: LoadPlan
    valid: bool
    reasons: tuple[str, ...]
    shots: int
    sent: int
    answered: int
    rate_sent_per_s: float
    answered_per_s: float
    ok_per_s: float
    goodput_per_s: float
    refused_per_s: float
    ok: LatencySummary | None
    refused: LatencySummary | None
    lag: LatencySummary | None
    statuses: dict[int, int]
    broken: int
    unreadable: int
    unanswered: int
    unsent: int
    held: int
    reconnects: int
    cpu_share: float
    """Processor time of the sending processes over the run's duration; 1.0 is one core."""
    timeline: tuple[Second, ...]
    record: ShotRecord = field(repr=False, compare=False)

    @property
    def errors(self) -> int:
        """Shots that got no readable answer."""
        return self.broken + self.unreadable + self.unanswered + self.unsent

    @property
    def bodies(self) -> list[bytes | None]:
        """The answers' bodies in shot order; empty unless the plan keeps them."""
        return self.record.bodies

    def as_dict(self) -> dict[str, Any]:
        """Return what a program would read, of JSON's types; without the plan's bodies and the single shots."""
        shown = ("url", "rate", "duration_s", "connections", "arrival", "seed", "budget_ns", "processes", "drain_s")
        content: dict[str, Any] = {name: getattr(self.plan, name) for name in shown}
        for part in dataclasses.fields(self):
            if part.name not in ("plan", "record", "statuses"):
                content[part.name] = as_json_type(getattr(self, part.name))
        return content | {"statuses": {str(status): n for status, n in self.statuses.items()}, "errors": self.errors}


def as_json_type(value: Any) -> Any:
    """Return a field's value with its dataclasses as dicts."""
    if isinstance(value, tuple):
        return [as_json_type(item) for item in value]
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def summarize(durations_ns: NDArray[np.int64]) -> LatencySummary | None:
    """Return the percentiles of durations, shape (count,); None where there are none."""
    count = len(durations_ns)
    if count == 0:
        return None
    ordered = np.sort(durations_ns)
    ranks = np.ceil(np.array([0.5, 0.9, 0.95, 0.99, 0.999, 1.0]) * count - 1e-9).astype(np.int64)
    return LatencySummary(count, *(int(value) for value in ordered[ranks - 1]))


def build_report(
    plan: LoadPlan, record: ShotRecord, start_ns: int, reconnects: int = 0, cpu_s: float = 0.0
) -> LoadReport:
    """Return the report of a finished run whose shot times count from `start_ns`."""
    statuses, latencies_ns = record.statuses, record.latencies_ns
    is_sent, is_ok = record.sent_ns > 0, (statuses >= 200) & (statuses < 300)
    is_refused = statuses == STATUS_REFUSED
    is_in_budget = is_ok & (latencies_ns <= plan.budget_ns)
    lag = summarize(record.lags_ns)
    reasons = find_faults(plan, lag)
    found, counts = np.unique(statuses[statuses > 0], return_counts=True)

    def per_s(chosen: NDArray[np.bool_]) -> float:
        return int(chosen.sum()) / plan.duration_s

    return LoadReport(
        plan=plan,
        valid=not reasons,
        reasons=reasons,
        shots=record.shots,
        sent=int(is_sent.sum()),
        answered=int(counts.sum()),
        rate_sent_per_s=int(is_sent.sum()) / max(plan.duration_s, (int(record.sent_ns.max()) - start_ns) / NS_PER_S),
        answered_per_s=per_s(statuses > 0),
        ok_per_s=per_s(is_ok),
        goodput_per_s=per_s(is_in_budget),
        refused_per_s=per_s(is_refused),
        ok=summarize(latencies_ns[is_ok]),
        refused=summarize(latencies_ns[is_refused]),
        lag=lag,
        statuses={int(status): int(count) for status, count in zip(found, counts, strict=True)},
        broken=int((statuses == BROKEN).sum()),
        unreadable=int((statuses == UNREADABLE).sum()),
        unanswered=int(((statuses == UNANSWERED) & is_sent).sum()),
        unsent=int(((statuses == UNANSWERED) & ~is_sent).sum()),
        held=int(record.held.sum()),
        reconnects=reconnects,
        cpu_share=cpu_s / plan.duration_s,
        timeline=build_timeline(record, start_ns, is_ok, is_in_budget, is_refused),
        record=record,
    )


def find_faults(plan: LoadPlan, lag: LatencySummary | None) -> tuple[str, ...]:
    """Return why the run says nothing about the server; empty when it does."""
    if lag is None:
        return ("no request was sent on time: every one of them waited for a connection",)
    if lag.p99_ns > plan.lag_ns_max:
        return (
            f"the generator's own schedule lag has a p99 of {format_duration(lag.p99_ns)}, over"
            f" {LAG_SHARE_MAX:.0%} of the budget of {format_duration(plan.budget_ns)}: give it a free core,"
            " more processes or a lower rate",
        )
    return ()


def build_timeline(
    record: ShotRecord,
    start_ns: int,
    is_ok: NDArray[np.bool_],
    is_in_budget: NDArray[np.bool_],
    is_refused: NDArray[np.bool_],
) -> tuple[Second, ...]:
    """Return the run's seconds, up to the last answer's."""
    due_s = (record.intended_ns - start_ns) // NS_PER_S
    has_answer = record.statuses > 0
    answered_s = (record.answered_ns[has_answer] - start_ns) // NS_PER_S
    seconds = int(max(due_s.max(), answered_s.max(initial=0))) + 1
    offered, ok, in_budget, refused = (
        np.bincount(due_s[chosen], minlength=seconds) for chosen in (slice(None), is_ok, is_in_budget, is_refused)
    )
    answered = np.bincount(answered_s, minlength=seconds)
    bounds = np.searchsorted(due_s, np.arange(seconds + 1))
    timeline = []
    for second in range(seconds):
        own = slice(bounds[second], bounds[second + 1])
        summary = summarize(record.latencies_ns[own][is_ok[own]])
        timeline.append(
            Second(
                second,
                offered=int(offered[second]),
                answered=int(answered[second]),
                ok=int(ok[second]),
                ok_within_budget=int(in_budget[second]),
                refused=int(refused[second]),
                failed=int(offered[second] - ok[second] - refused[second]),
                ok_p99_ns=summary.p99_ns if summary else None,
            )
        )
    return tuple(timeline)
