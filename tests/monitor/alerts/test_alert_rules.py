"""Each built-in rule fires for what it is there for, names its cause with the numbers, and is over when it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from monitor.alerts.counted_pipeline import Counted, names
from tailrace.alerting import Alerts
from tailrace.monitor.alerts.rules import BURN_RATES, RULES, span
from tailrace.monitor.alerts.sight import SPANS_S
from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.history import DriftHistory, shown_drift

RUNBOOKS = Path(__file__).parents[3] / "docs" / "runbooks"


def test_latency_names_the_layer_that_takes_the_time() -> None:
    """A p99 of over twice the budget is told after 30 s, with the layer; it is over a minute after its end."""
    counted = Counted()
    told = []
    for _ in range(31):
        counted.take(100, 120)
        told += counted.look()
    [alert] = told
    assert (alert.alert, alert.severity, alert.state) == ("latency", "page", "firing")
    assert re.fullmatch(r"p99 1[12]\d ms > 2 × 50.0 ms: inference 1[12]\d ms of it", alert.cause), alert.cause
    quick = []
    for _ in range(180):
        counted.take(100, 20)
        quick += counted.look()
    assert names(quick) == [("latency", "resolved")]


def test_latency_of_a_few_calls_tells_nothing() -> None:
    """Under a hundred calls a minute have no p99 to speak of."""
    counted = Counted()
    for _ in range(120):
        counted.take(1, 120)
        assert not counted.look()


def test_errors_are_sheds_too() -> None:
    """Over 0.1% of 5xx is told; the cause says how many of them were shed."""
    counted = Counted()
    told = []
    for _ in range(60):
        counted.add("tailrace_shed_total", "deadline")
        told += counted.run(1, good=99, bad=1)
    assert names(told)[0] == ("errors", "firing")
    assert "1.00% of" in told[0].cause
    assert "were shed" in told[0].cause


def test_errors_hover_at_the_threshold_and_are_told_once() -> None:
    """A share that goes back and forth about its threshold is one alert."""
    counted = Counted(Alerts(availability=None, error_share=0.01))
    told = counted.run(100, good=98, bad=2)
    counted.step_s = 5
    for _ in range(5):
        told += counted.run(70, good=991, bad=9)
        told += counted.run(70, good=988, bad=12)
    assert names(told) == [("errors", "firing")]


def test_one_error_at_night_wakes_nobody() -> None:
    """A single error among few calls is a high share, and tells nothing."""
    counted = Counted()
    assert not counted.run(1, good=0, bad=1)
    assert not counted.run(200, good=1)


@pytest.mark.parametrize("name", BURN_RATES)
def test_burn_rate_fires_above_its_rate_alone(name: str) -> None:
    """Each burn rate fires just above its rate and not just below it; it is over once its short window is."""
    rate = BURN_RATES[name]
    bad = round(rate.rate * 100)  # of 100,000, at 99.9%: as fast as the rate
    counted, below = Counted(Alerts(error_share=None)), Counted(Alerts(error_share=None))
    counted.step_s = below.step_s = int(rate.short_s) // 20
    looks = 60
    assert name not in dict(names(below.run(looks, good=100_000 - bad + 5, bad=bad - 5)))
    told = [alert for alert in counted.run(looks, good=100_000 - bad - 5, bad=bad + 5) if alert.alert == name]
    assert names(told) == [(name, "firing")]
    assert f"> {rate.rate:g}×" in told[0].cause
    assert (name, "resolved") in names(counted.run(looks + 20, good=100_000))


def test_cache_that_is_off_or_cold_tells_nothing() -> None:
    """Without a cache there are no hits to miss; a cold one has five minutes."""
    counted = Counted()
    assert not counted.run(400, good=100)
    told = []
    for second in range(400):
        counted.add("tailrace_cache_hits_total", count=60)
        counted.add("tailrace_cache_misses_total", count=40)
        changed = counted.look()
        assert not changed or second > 290
        told += changed
    assert names(told) == [("cache", "firing")]
    assert told[0].cause.startswith("the cache held 60.0% of")


def test_breaker_names_what_is_left_alone() -> None:
    """An open breaker is told after five seconds, the remote model by name; then it is over."""
    counted = Counted()
    counted.add("tailrace_store_breaker_open", count=2)
    counted.add("tailrace_remote_breaker_open", "judge")
    [alert] = counted.run(7)
    assert alert.cause == "2 workers leave the online store alone; 1 worker leaves the remote model 'judge' alone"
    counted.add("tailrace_store_breaker_open", count=-2)
    counted.add("tailrace_remote_breaker_open", "judge", count=-1)
    assert names(counted.run(40)) == [("breaker", "resolved")]


def test_stale_features_name_the_view() -> None:
    """Rows older than they may be are told, with the view that has most of them."""
    counted = Counted()
    told = []
    for _ in range(130):
        counted.add("tailrace_feature_values_total", "Profile", "fresh", count=90)
        counted.add("tailrace_feature_values_total", "Profile", "stale", count=2)
        counted.add("tailrace_feature_values_total", "Activity", "stale", count=8)
        told += counted.look()
    assert names(told) == [("stale", "firing")]
    assert "are stale, 0.01 may be: Activity most of them" in told[0].cause


def test_drift_and_predictions_are_told_apart() -> None:
    """What has drifted is told by kind; what is predicted, and deviates from its baseline, has an alert of its own."""
    counted = Counted()
    counted.tell_drift("alarms", "feature", 2)
    counted.tell_drift("alarms", "score", 1)
    counted.tell_drift("deviating", "decision", 1)
    counted.tell_drift("deviating", "feature", 7)
    assert {alert.alert: alert.cause for alert in counted.look()} == {
        "predictions": "1 decision is beyond two standard deviations of their baseline",
        "drift": "2 features and 1 score are no more what the model was packaged on",
    }
    for name, kind in (("alarms", "feature"), ("alarms", "score"), ("deviating", "decision")):
        counted.tell_drift(name, kind, 0)
    assert dict(names(counted.run(70))) == {"predictions": "resolved", "drift": "resolved"}


def test_cause_of_drift_names_the_worst_series() -> None:
    """With its statistics that have an alarm; of what is predicted, how many deviations it is off."""
    history = DriftHistory()
    told = {"kind": "feature", "rows": 600, "psi_threshold": 0.2}
    off = told | {"kind": "score", "deviations": -3.25, "is_deviating": True}
    history.add(
        Findings(
            span="window", started_s=0.0, ended_s=300.0, rows=600, learning=0,
            findings=(
                Finding(series="age", statistics={"mean": 0.3, "psi": 0.1}, alarms=("mean",), **told),
                Finding(series="amount", statistics={"mean": 0.62, "psi": 0.4}, alarms=("psi", "mean"), **told),
                Finding(series="score", statistics={"mean": 0.1}, **off),
            ),
        )
    )  # fmt: skip
    counted = Counted()
    counted.tell_drift("alarms", "feature", 2)
    counted.tell_drift("deviating", "score", 1)
    changed = counted.look(shown_drift({"fraud": history}))
    assert {alert.alert: alert.cause for alert in changed} == {
        "predictions": "1 score is beyond two standard deviations of their baseline: score -3.2",
        "drift": "2 features are no more what the model was packaged on: amount most, psi 0.4, mean +0.62",
    }


def test_thresholds_are_the_pipelines() -> None:
    """What a pipeline switches off is not told, and what it declares holds."""
    off = Alerts(p99_over=None, error_share=None, availability=None, breaker=False, predictions=False, drift=False)
    counted = Counted(off)
    counted.tell_drift("alarms", "feature", 1)
    counted.tell_drift("deviating", "score", 1)
    counted.add("tailrace_store_breaker_open")
    counted.take(1_000, 500)
    assert not counted.run(100, good=10, bad=10)
    counted = Counted(Alerts(error_share=0.6, availability=None))
    assert not counted.run(100, good=10, bad=10)


@pytest.mark.parametrize("wrong", [{"p99_over": 0}, {"error_share": 1.0}, {"cache_hit_share": "0.8"}, {"drift": 1},
                                   {"availability": float("nan")}])  # fmt: skip
def test_thresholds_out_of_range_are_told(wrong: dict[str, object]) -> None:
    """A threshold that cannot be meant is an error that names it."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Alerts(**wrong)  # type: ignore[arg-type]


def test_every_rule_has_its_runbook() -> None:
    """The page that an alert names is there, and says what it means, what to look at and what to do."""
    for rule in RULES:
        text = (RUNBOOKS / rule.runbook).read_text()
        for heading in ("## What it means", "## Look at", "## Do"):
            assert heading in text, f"{rule.runbook}: {heading}"
        assert f"`{rule.name}`" in text


def test_windows_of_the_rules_are_kept() -> None:
    """A burn rate looks at windows that are counted, and they are told as a person says them."""
    assert {rate.long_s for rate in BURN_RATES.values()} | {rate.short_s for rate in BURN_RATES.values()} <= set(
        SPANS_S
    )
    assert [span(span_s) for span_s in SPANS_S] == ["5 min", "30 min", "1 h", "6 h", "3 d"]
