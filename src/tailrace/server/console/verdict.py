"""How the server is doing, in one line, with the cause named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import msgspec

from tailrace.monitor.alerts.watch import Alert
from tailrace.server.console.figures import PipelineFigures

Level = Literal["good", "idle", "warn", "bad"]
FAILED_SHARE_MAX: Final = 0.001
SHED_WORDS: Final = {
    "deadline": "no time left to answer",
    "queue_full": "the queue is full",
    "expired": "out of time when their batch began",
    "priority": "room is kept for higher priorities",
}
_GRAVITY: Final = {"bad": 3, "warn": 2, "good": 1, "idle": 0}


class Verdict(msgspec.Struct, frozen=True):
    """One line. pipeline: whose it is; empty for the server's."""

    level: Level
    text: str
    pipeline: str = ""


def verdict_of(
    *, ready: bool, missing: int, pipelines: Sequence[PipelineFigures], alerts: Sequence[Alert] = ()
) -> Verdict:
    """Return the gravest of what there is to say. missing: workers that should be ready and are not.

    An alert that calls somebody is told where all is well just now: it has fired, and is not over.
    """
    found = _of_now(ready=ready, missing=missing, pipelines=pipelines)
    calling = [alert for alert in alerts if alert.state == "firing" and alert.severity == "page"]
    if not calling or _GRAVITY[found.level] >= _GRAVITY["warn"]:
        return found
    alert = next((each for each in calling if each.pipeline == found.pipeline), calling[0])
    now = f"{found.text} · " if alert.pipeline == found.pipeline else ""
    return Verdict("warn", f"{now}alert {_words(alert.alert)}: {alert.cause}", alert.pipeline)


def _of_now(*, ready: bool, missing: int, pipelines: Sequence[PipelineFigures]) -> Verdict:
    """Return the gravest of what there is to say of the last seconds."""
    if not ready:
        return Verdict("bad", "Not ready: no worker is ready to serve")
    found = [_of_pipeline(figures) for figures in pipelines]
    if missing:
        found.insert(0, Verdict("warn", f"{missing} {'worker is' if missing == 1 else 'workers are'} not ready"))
    if not found:
        return Verdict("idle", "No pipeline is served yet")
    return max(found, key=lambda verdict: _GRAVITY[verdict.level])


def _of_pipeline(figures: PipelineFigures) -> Verdict:
    """Return what there is to say of one pipeline."""
    level, text = _judge(figures)
    return Verdict(level, text, figures.name)


def _judge(figures: PipelineFigures) -> tuple[Level, str]:
    """Return the gravest that holds of a pipeline, and how it is told."""
    if not figures.offered:
        return "idle", "No requests in the last seconds"
    return _fault(figures) or _weakness(figures) or ("good", _praise(figures))


def _fault(figures: PipelineFigures) -> tuple[Level, str] | None:
    """Return what costs callers their answer, or their time."""
    if figures.failed > FAILED_SHARE_MAX:
        reason = max(figures.errors_by, key=figures.errors_by.__getitem__, default="unknown")
        return "bad", f"Failing {_percent(figures.failed)}: {_words(reason)}"
    if figures.shed:
        reason = max(figures.shed_by, key=figures.shed_by.__getitem__, default="deadline")
        waited = "" if figures.wait.p99 is None else f", queue wait {_ms(figures.wait.p99)}"
        cause = SHED_WORDS.get(reason, _words(reason))
        return "bad", f"Shedding {_percent(figures.shed)}: {cause}{waited}; {_slowest(figures)}"
    if figures.p99 is not None and figures.budget and figures.p99 > figures.budget:
        return "bad", f"Over budget: p99 {_ms(figures.p99)} > {_ms(figures.budget)}; {_slowest(figures)}"
    return None


def _weakness(figures: PipelineFigures) -> tuple[Level, str] | None:
    """Return what makes answers poorer than they should be."""
    if figures.breakers:
        return "warn", f"Breakers open: {figures.breakers}; a store or a remote model is left alone"
    if figures.degraded:
        reason = max(figures.degraded_by, key=figures.degraded_by.__getitem__)
        return "warn", f"Degraded {_percent(figures.degraded)}: {_words(reason)}"
    return None


def _praise(figures: PipelineFigures) -> str:
    return "Within budget" + ("" if figures.p99 is None else f": p99 {_ms(figures.p99)} of {_ms(figures.budget)}")


def _slowest(figures: PipelineFigures) -> str:
    """Name what takes most: the layer that is farthest over its own budget, else the longest."""
    timed = [layer for layer in figures.layers if layer.p99 is not None]
    over = [layer for layer in timed if layer.budget and (layer.p99 or 0) > layer.budget]
    if over:
        worst = max(over, key=lambda layer: (layer.p99 or 0) / layer.budget)
        return f"{worst.name} {_ms(worst.p99 or 0)} > {_ms(worst.budget)}"
    longest = max((*timed, figures.wait), key=lambda layer: layer.p99 or 0)
    return f"most of it is {longest.name}, {_ms(longest.p99 or 0)}"


def _percent(share: float) -> str:
    return f"{100 * share:.2g}%" if share < 0.1 else f"{100 * share:.0f}%"


def _ms(time_ms: float) -> str:
    return f"{time_ms:.3g} ms"


def _words(reason: str) -> str:
    return reason.replace("_", " ")
