"""The metrics of outcomes, by what the observer has found."""

from __future__ import annotations

from collections.abc import Mapping

from tailrace.monitor.drift.outcomes import LiveOutcomes


def outcome_values(outcomes: Mapping[str, LiveOutcomes]) -> dict[tuple[str, tuple[str, ...]], float]:
    """Return the values of the metrics of outcomes; none of what is not known."""
    values: dict[tuple[str, tuple[str, ...]], float | None] = {}
    for pipeline, found in outcomes.items():
        card = found.scorecard
        values["tailrace_outcome_rows", (pipeline,)] = card.rows
        values["tailrace_outcome_auc", (pipeline,)] = card.auc
        values["tailrace_outcome_brier", (pipeline,)] = card.brier
        values["tailrace_outcome_calibration_error", (pipeline,)] = card.calibration_error
        for each in found.decisions:
            values["tailrace_outcome_precision", (pipeline, each.decision)] = each.precision
            values["tailrace_outcome_recall", (pipeline, each.decision)] = each.recall
    return {key: value for key, value in values.items() if value is not None}
