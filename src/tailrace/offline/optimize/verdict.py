"""Which candidate wins, and why: a pure function of what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple

from tailrace.deadline import format_duration
from tailrace.inference.backends.table import ONNX_RUNTIME
from tailrace.offline.optimize.certainty import Z, rows_needed
from tailrace.offline.optimize.journal import Trial
from tailrace.offline.optimize.metric import Metric

GAIN_CLEAR: Final = 1.05
"""A candidate is faster where it takes so much less, with the lower bound of its speedup above 1."""

Standing = Literal["baseline", "wins", "fits", "worse", "unclear", "moved", "late", "threads", "failed", "skipped"]


class Terms(NamedTuple):
    """What is asked.

    metric, tolerance: how much worse its value may be. budget_ns: of the p99 of a call of the first batch. threads_max:
    that a call may take in serving. change_max: how far a single score may move; None for any distance. rows: that
    judge.
    """

    metric: Metric
    tolerance: float
    budget_ns: int
    threads_max: int = 1
    change_max: float | None = None
    rows: int = 0


class Verdict(NamedTuple):
    """What was found. winner: None where nothing is better than the model as packaged. why: a sentence or two.

    standings: of each trial, in their order.
    """

    baseline: Trial
    winner: Trial | None
    why: str
    standings: tuple[Standing, ...]


def judge(trials: Sequence[Trial], terms: Terms) -> Verdict:
    """Return the fastest trial within the tolerance, the budget and the threads, at the first batch.

    It must be clearly faster than whatever computes the model as packaged. Compared is the lower bound of the speedup,
    so that nothing wins by noise. Of several that are equally fast the smallest file wins, then the one with the least
    changed scores.
    """
    baseline = next(each for each in trials if each.is_as_packaged and each.backend == ONNX_RUNTIME)
    fits = [each for each in trials if _standing(each, baseline, terms) == "fits"]
    packaged = [each for each in trials if each.is_as_packaged and each.status == "measured"]
    best = max(packaged, key=lambda each: each.timings[0].speedup)
    faster = [each for each in fits if not each.is_as_packaged and _is_faster(each, best)]
    winner = None
    if faster:
        most = max(each.timings[0].speedup_low for each in faster)
        equal = [each for each in faster if each.timings[0].speedup_low * GAIN_CLEAR >= most]
        winner = min(equal, key=lambda each: (each.size_bytes, each.difference_max, -each.timings[0].speedup_low))
    standings: list[Standing] = [
        "wins" if each is winner else "baseline" if each is baseline else _standing(each, baseline, terms)
        for each in trials
    ]
    why = _tell_winner(winner, baseline, best, terms) if winner else _tell_none(trials, standings, best, terms)
    return Verdict(baseline, winner, why, tuple(standings))


def _standing(trial: Trial, baseline: Trial, terms: Terms) -> Standing:
    if trial.status != "measured":
        return trial.status
    if terms.metric.loss(baseline.metric, trial.metric) > terms.tolerance:
        return "worse"
    if terms.change_max is not None and trial.difference_max > terms.change_max:
        return "moved"
    if trial.recipe.session.threads > terms.threads_max:
        return "threads"
    if trial.timings[0].p99_ns > terms.budget_ns:
        return "late"
    return "unclear" if loss_bounds(baseline, trial, terms.metric)[1] > terms.tolerance else "fits"


def loss_bounds(baseline: Trial, trial: Trial, metric: Metric) -> tuple[float, float]:
    """Return between which values the true loss is: below the second, and above the first, at 95% each."""
    loss = metric.loss(baseline.metric, trial.metric)
    return loss - Z * trial.loss_error, loss + Z * trial.loss_error


def _is_faster(trial: Trial, best: Trial) -> bool:
    """Return whether a trial is clearly faster than the best of the model as packaged."""
    own, other = trial.timings[0], best.timings[0]
    if best.backend == ONNX_RUNTIME:  # which each trial was timed beside
        return own.speedup >= GAIN_CLEAR and own.speedup_low > 1
    return own.speedup >= GAIN_CLEAR * other.speedup and own.speedup_low > other.speedup


def _tell_winner(winner: Trial, baseline: Trial, best: Trial, terms: Terms) -> str:
    timing, metric = winner.timings[0], terms.metric
    rows = "1 row" if timing.batch == 1 else f"{timing.batch} rows"
    text = (
        f"{winner.name} wins: {rows} in {format_duration(timing.p50_ns)}, {timing.speedup:.1f} times as fast as ONNX "
        f"Runtime on the model as packaged ({timing.speedup_low:.1f} to {timing.speedup_high:.1f})"
    )
    if best is not baseline:
        text += f" and {timing.speedup / best.timings[0].speedup:.1f} times as fast as {best.backend} on it"
    most = loss_bounds(baseline, winner, metric)[1]
    kept = "no worse" if most <= 0 else f"{most:.1g} worse at most (95%), of {terms.tolerance:g} allowed"
    return (
        f"{text}, {winner.size_bytes / baseline.size_bytes:.2f} of its size; {metric.name} {baseline.metric:.5g} → "
        f"{winner.metric:.5g}, {kept}; no held-back score moves by more than {winner.difference_max:.2g}."
    )


def _tell_none(trials: Sequence[Trial], standings: Sequence[Standing], best: Trial, terms: Terms) -> str:
    """Return why the model stays as it is."""
    text = f"Nothing is faster within the tolerance: the model stays as packaged, computed by {best.backend}"
    p99_ns = best.timings[0].p99_ns
    if p99_ns > terms.budget_ns:
        text += f", whose p99 of {format_duration(p99_ns)} is over the budget of {format_duration(terms.budget_ns)}"
    reasons = []
    changed = [each for each, standing in zip(trials, standings, strict=True) if standing == "worse"]
    if changed:
        near = min(changed, key=lambda each: terms.metric.loss(best.metric, each.metric))
        reasons.append(
            f"{len(changed)} lost more than {terms.tolerance:g} of {terms.metric.name}, {near.name} the least of them "
            f"({terms.metric.loss(best.metric, near.metric):.2g})"
        )
    reasons += _tell_unclear([each for each, standing in zip(trials, standings, strict=True) if standing == "unclear"],
                             best, terms)  # fmt: skip
    for standing, words in (
        ("moved", "moved a score by more than --score-change"),
        ("late", "were over the budget"),
        ("threads", "took more threads than --threads"),
    ):
        count = sum(each == standing for each in standings)
        reasons += [f"{count} {words}"] if count else []
    return f"{text}. {'; '.join(reasons)}." if reasons else f"{text}."


def _tell_unclear(unclear: Sequence[Trial], best: Trial, terms: Terms) -> list[str]:
    """Return how many candidates the rows cannot tell from worse ones, and how many rows would; none for none."""
    metric = terms.metric
    losses = [metric.loss(best.metric, each.metric) for each in unclear]
    needed = [
        (rows, each.name)
        for each, loss in zip(unclear, losses, strict=True)
        if (rows := rows_needed(terms.rows, loss, each.loss_error, terms.tolerance)) is not None
    ]
    if not unclear:
        return []
    text = f"{len(unclear)} may be within it, or not: {terms.rows:,} rows that judge do not tell"
    if not needed:
        return [text]
    rows, name = min(needed)
    return [f"{text}, about {rows:,} would for {name}"]
