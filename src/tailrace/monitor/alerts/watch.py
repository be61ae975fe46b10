"""The watch over all pipelines: once a second it holds what was counted against the rules, and tells what changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Literal

import msgspec

from tailrace.alerting import DEFAULTS, Alerts
from tailrace.deadline import NS_PER_S
from tailrace.monitor.alerts.rules import RULES, Finding, Rule
from tailrace.monitor.alerts.sight import Sight
from tailrace.monitor.drift.shown import ShownDrift, ShownSeries
from tailrace.monitor.merged import Key, MergedMetrics, MergedSeries

State = Literal["pending", "firing", "resolved"]


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One alert of one pipeline. state: "pending" while it must yet hold on to be told. since_s: for how long it is so.

    value, threshold: of what its rule looks at. cause: a line with the numbers. runbook: the URL of the page that says
    what to do.
    """

    alert: str
    pipeline: str
    severity: str
    state: State
    since_s: float
    value: float
    threshold: float
    summary: str
    cause: str
    runbook: str


class AlertWatch:
    """Holds the pipelines' figures against the rules. Its memory is that of its pipelines' windows, and no more.

    runbooks: where they are; a path of the admin port, or a URL.
    """

    def __init__(self, rules: Sequence[Rule] = RULES) -> None:
        self.runbooks = "/runbooks"
        self._rules = rules
        self._sights: dict[str, Sight] = {}
        self._states: dict[tuple[str, str], _State] = {}
        self._earlier = MergedMetrics({}, 0)

    def look(
        self,
        metrics: MergedMetrics,
        declared: Mapping[str, Alerts | None],
        drift: Mapping[str, ShownDrift] = MappingProxyType({}),
    ) -> list[Alert]:
        """Take in one second; return the alerts that fire now, or are over now.

        metrics: all that was counted, with the monotonic time. declared: the thresholds of each pipeline; None for one
        that wants no alerts. The defaults hold for one that is not named. drift: what the observer has found, of which
        the worst is named.
        """
        own: dict[str, dict[Key, MergedSeries]] = {}
        for key in metrics.series:
            if key[0] == "tailrace_request_seconds":
                own[key[1][0]] = {}
        for key, merged in metrics.series.items():
            if key[1] and key[1][0] in own:
                own[key[1][0]][key] = merged
        changed = []
        for pipeline, series in own.items():
            alerts = declared.get(pipeline, DEFAULTS)
            if alerts is not None:
                shown = drift[pipeline].series if pipeline in drift else ()
                changed += self._look_at(pipeline, series, alerts, shown, metrics.at_ns)
        watched = {name for name in own if declared.get(name, DEFAULTS) is not None}
        changed += self._forget({name for name in self._sights if name not in watched}, metrics.at_ns)
        self._earlier = metrics
        return changed

    def active(self) -> list[Alert]:
        """Return the alerts that fire, and those that will if they hold on."""
        at_ns = self._earlier.at_ns
        return [state.told(at_ns, self.runbooks) for state in self._states.values() if state.since_ns is not None]

    def _look_at(
        self,
        pipeline: str,
        series: Mapping[Key, MergedSeries],
        alerts: Alerts,
        shown: tuple[ShownSeries, ...],
        at_ns: int,
    ) -> list[Alert]:
        sight = self._sights.setdefault(pipeline, Sight(pipeline, at_ns))
        sight.alerts, sight.shown = alerts, shown
        sight.look(at_ns, series, self._earlier)
        changed = []
        for rule in self._rules:
            state = self._states.setdefault((rule.name, pipeline), _State(rule, pipeline))
            if state.look(rule.look(sight), at_ns):
                changed.append(state.told(at_ns, self.runbooks))
        return changed

    def _forget(self, pipelines: set[str], at_ns: int) -> list[Alert]:
        """Let go of pipelines that are served no more, or want no alerts; theirs are over."""
        over = []
        for name in pipelines:
            del self._sights[name]
            for rule in self._rules:
                state = self._states.pop((rule.name, name), None)
                if state is not None and state.is_firing:
                    state.is_firing, state.since_ns = False, None
                    over.append(state.told(at_ns, self.runbooks))
        return over


class _State:
    """One alert of one pipeline over time. since_ns: when it began to hold, or to fire; None while it does neither."""

    def __init__(self, rule: Rule, pipeline: str) -> None:
        self._rule = rule
        self._pipeline = pipeline
        self._last = Finding(0.0, 0.0, is_over=False, is_clear=True, cause="")
        self._clear_ns: int | None = None
        self._fired_ns = 0
        self.since_ns: int | None = None
        self.is_firing = False

    def look(self, finding: Finding | None, at_ns: int) -> bool:
        """Take in what its rule found; return whether it fires from now on, or is over from now on."""
        if finding is not None:
            self._last = finding
        if self.is_firing:
            return self._look_for_end(finding is None or finding.is_clear, at_ns)
        if finding is None or not finding.is_over:
            self.since_ns = None
            return False
        self.since_ns = at_ns if self.since_ns is None else self.since_ns
        if at_ns - self.since_ns < self._rule.for_s * NS_PER_S:
            return False
        self.is_firing, self.since_ns, self._fired_ns, self._clear_ns = True, at_ns, at_ns, None
        return True

    def _look_for_end(self, is_clear: bool, at_ns: int) -> bool:
        if not is_clear:
            self._clear_ns = None
            return False
        self._clear_ns = at_ns if self._clear_ns is None else self._clear_ns
        if at_ns - self._clear_ns < self._rule.clear_s * NS_PER_S:
            return False
        self.is_firing, self.since_ns = False, None
        return True

    def told(self, at_ns: int, runbooks: str) -> Alert:
        """Return it as it is told; one that is over with the seconds since it fired."""
        rule, last = self._rule, self._last
        began_ns = self._fired_ns if self.since_ns is None else self.since_ns
        return Alert(
            alert=rule.name,
            pipeline=self._pipeline,
            severity=rule.severity,
            state="firing" if self.is_firing else "resolved" if self.since_ns is None else "pending",
            since_s=round((at_ns - began_ns) / NS_PER_S, 3),
            value=last.value,
            threshold=last.threshold,
            summary=rule.summary,
            cause=last.cause,
            runbook=f"{runbooks}/{rule.runbook}",
        )
