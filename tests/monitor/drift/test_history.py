"""What is shown of drift is bounded, whatever a model has, and the worst comes first."""

from __future__ import annotations

import msgspec
import pytest

from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.history import SERIES_MAX, SERIES_SHOWN_MAX, WINDOWS_SHOWN, DriftHistory, shown_drift


def finding(name: str, **told: object) -> Finding:
    """Return a series in a window, with twenty-four cells whose names are long."""
    told = {"statistics": {"psi": 0.01, "mean": -0.05}, **told}
    return Finding(series=name, kind="feature", rows=600, psi_threshold=0.2, labels=("x" * 500,) * 24,
                   shares=(1 / 24,) * 24, baseline=(1 / 24,) * 24, **told)  # type: ignore[arg-type] # fmt: skip


def window(*findings: Finding) -> Findings:
    """Return a window of these series."""
    return Findings(span="window", started_s=1.0, ended_s=2.0, rows=600, learning=0, findings=findings)


def test_the_worst_come_first() -> None:
    """A series with an alarm is before one that deviates, and that before the largest statistic."""
    history = DriftHistory()
    history.add(
        window(
            finding("still"),
            finding("large", statistics={"psi": 5.0}),
            finding("off", is_deviating=True, deviations=-3.0),
            finding("alarmed", alarms=("mean",), statistics={"mean": 0.3}),
        )
    )
    shown = shown_drift({"fraud": history, "new": DriftHistory()})
    assert list(shown) == ["fraud"]
    assert [each.series for each in shown["fraud"].series] == ["alarmed", "off", "large", "still"]
    assert (shown["fraud"].watched, shown["fraud"].alarmed, shown["fraud"].deviating) == (4, 1, 1)
    assert [each.severity for each in shown["fraud"].series] == pytest.approx([1.5, 1.5, 25.0, 0.25])


def test_history_is_of_the_last_windows() -> None:
    """The index and the mean of windows gone by, the oldest first; of a window that could not be compared, nothing."""
    history = DriftHistory()
    for number in range(WINDOWS_SHOWN + 2):
        history.add(window(finding("a", statistics={"psi": number / 100} if number % 2 else {})))
    [series] = shown_drift({"fraud": history})["fraud"].series
    assert len(series.psi) == WINDOWS_SHOWN
    assert series.psi[-3:] == (0.47, None, 0.49)
    assert set(series.mean) == {None}
    history.add(window(finding("b")))  # another model: what was is not its own
    [series] = shown_drift({"fraud": history})["fraud"].series
    assert series.mean == (-0.05,)


def test_what_is_shown_is_bounded() -> None:
    """A hundred pipelines of fifty features, with categories as long as requests, take 200 kB at most."""
    histories = {f"p{number}": DriftHistory() for number in range(100)}
    for history in histories.values():
        for _ in range(WINDOWS_SHOWN):
            history.add(window(*(finding(f"f{place}") for place in range(50))))
    shown = shown_drift(histories)
    assert len(shown) == 100
    assert sum(len(each.series) for each in shown.values()) == SERIES_MAX
    assert max(len(each.series) for each in shown.values()) == 1
    assert len(msgspec.json.encode(shown)) < 200_000
    assert len(shown_drift({"p0": histories["p0"]})["p0"].series) == SERIES_SHOWN_MAX
