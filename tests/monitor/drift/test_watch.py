"""A watched model: no alarm without drift, one after three windows of it, and nothing that grows or breaks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow.parquet as pq
import pytest

from tailrace.batch import Provenance
from tailrace.deadline import NS_PER_S
from tailrace.inference.drift import Drift
from tailrace.inference.manifest import Profile, TextProfile
from tailrace.monitor.drift.columns import columns_of
from tailrace.monitor.drift.findings import Finding, Findings
from tailrace.monitor.drift.history import severity
from tailrace.monitor.drift.series import series_of
from tailrace.monitor.drift.watch import DriftWatch
from tailrace.monitor.predictions import Predictions
from tailrace.release.profile import profile_numbers

ROWS = 600
COUNTRIES = ["at", "ch", "de", "fr"]
DECISIONS = ("allow", "review", "block")


def draw(rng: np.random.Generator, rows: int = ROWS) -> dict[str, Any]:
    """Return rows of three features, a score and a decision."""
    amount = rng.lognormal(3, 1, rows)
    score = 1 / (1 + np.exp(4 - amount / 20))
    return {
        "amount": amount.astype(np.float32),
        "age": np.floor(rng.uniform(18, 90, rows)),
        "country": rng.choice(np.array(COUNTRIES, object), rows, p=[0.1, 0.2, 0.5, 0.2]),
        "score": score,
        "confidence": np.maximum(score, 1 - score),
        "decision": (score > 0.5).astype(np.int64) * 2,
    }


@pytest.fixture(scope="module")
def profile() -> Profile:
    """Return the profile of such rows."""
    rows = draw(np.random.default_rng(0), 20_000)
    texts, counts = np.unique(rows["country"].astype(str), return_counts=True)
    country = TextProfile(20_000, 0, 4, tuple(zip(texts.tolist(), counts.tolist(), strict=True)), 0)
    numbers = {name: profile_numbers(rows[name]) for name in ("amount", "age")}
    return Profile(
        20_000, {**numbers, "country": country}, (profile_numbers(rows["score"]),), profile_numbers(rows["confidence"])
    )


class Watched:
    """A watch with its own time, a window at a time."""

    def __init__(self, profile: Profile, declared: Drift | None = None) -> None:
        self.now_s, self.wall_s, self.rng = 0.0, 1e9, np.random.default_rng(7)
        self.declared = declared or Drift(season=None)
        self.watch = DriftWatch(series_of(profile, DECISIONS, ["profiles"]), self.declared, 0, self.wall_s)

    def window(self, rows: int = ROWS, defaulted: float = 0.0, **changed: Any) -> tuple[Findings, ...]:
        """Add a window's rows, some columns replaced by what a function makes of them; return what has ended."""
        self.now_s += self.declared.window_ns / NS_PER_S
        self.wall_s += self.declared.window_ns / NS_PER_S
        columns = draw(self.rng, rows)
        columns |= {name: change(columns[name]) for name, change in changed.items()}
        noted = {"profiles": self.rng.uniform(size=rows) < defaulted}
        return self.watch.add(columns, int(self.now_s * NS_PER_S), self.wall_s, noted)


def alarms(told: tuple[Findings, ...]) -> dict[str, tuple[str, ...]]:
    """Return the alarms of a window, by series."""
    return {each.series: each.alarms for findings in told for each in findings.alarms}


def finding(told: tuple[Findings, ...], series: str) -> Finding:
    """Return what a window says of a series."""
    return next(each for each in told[0].findings if each.series == series)


def test_no_drift_raises_no_alarm(profile: Profile) -> None:
    """Of sixty windows none speaks, of features whose values are many, whole or texts."""
    watched = Watched(profile)
    for _ in range(60):
        (told,) = watched.window()
        assert not any(each.signals or each.is_deviating for each in told.findings)


@pytest.mark.parametrize("name", ["amount", "age"])
def test_half_a_deviation_is_an_alarm_after_three_windows(profile: Profile, name: str) -> None:
    """The series that shifted is named, with its statistics, and no other feature."""
    watched, shift = Watched(profile), 0.5 * profile.features[name].std  # type: ignore[union-attr]
    found = [alarms(watched.window(**{name: lambda values: values + shift})) for _ in range(3)]
    assert found[:2] == [{}, {}]
    assert set(found[2]) == {name}
    assert "mean" in found[2][name]


def test_alarm_ends_when_the_drift_ends(profile: Profile) -> None:
    """Three quiet windows of the last five end it."""
    watched = Watched(profile)
    for _ in range(4):
        told = watched.window(age=lambda values: values + 30)
    assert alarms(told)
    assert [bool(alarms(watched.window())) for _ in range(4)] == [True, True, False, False]


def test_new_and_missing_values_are_told_apart(profile: Profile) -> None:
    """A category that was never seen, and a field that comes empty, are each its own statistic."""
    watched = Watched(profile)
    for _ in range(3):
        told = watched.window(
            country=lambda values: np.where(watched.rng.uniform(size=ROWS) < 0.05, "xx", values),
            age=lambda values: np.where(watched.rng.uniform(size=ROWS) < 0.05, np.nan, values),
        )
    found = alarms(told)
    assert "unseen" in found["country"]
    assert found["age"] == ("missing",)


@pytest.mark.parametrize("shift", [0.0, 1.5])
def test_rows_that_are_alike_are_no_drift_for_ever(profile: Profile, shift: float) -> None:
    """Sixty customers with ten payments each seem to differ in every window: that is learned though all of them speak.

    What has drifted from the first window on stays an alarm: windows that have drifted are like each other.
    """
    watched = Watched(profile)
    off = shift * profile.features["age"].std  # type: ignore[union-attr]

    def alike(values: np.ndarray) -> np.ndarray:
        return np.repeat(values[: ROWS // 10], 10) + off

    told = [alarms(watched.window(age=alike, amount=lambda values: np.repeat(values[::10], 10))) for _ in range(40)]
    assert all(not found for found in told[20:]) is (shift == 0.0)
    assert all("amount" not in found for found in told[20:])
    assert all("age" in found for found in told[20:]) is (shift > 0.0)


@pytest.mark.parametrize(("mean", "deviation"), [(0.42, 0.02), (5e4, 1e4)], ids=["probabilities", "amounts"])
def test_learned_scores_are_told_in_their_own_deviations(mean: float, deviation: float) -> None:
    """No profile has the scores of several models: whatever their unit, one deviation off is an alarm."""
    rng = np.random.default_rng(4)
    watch = DriftWatch(series_of(Profile(0, {}, ()), outputs=1), Drift("1s", season=None), 0, 0.0)
    told: list[Finding] = []
    for number in range(1, 25):
        scores = rng.normal(mean + deviation * (number > 20), deviation, 2_000)
        (found,) = watch.add({"score": scores}, number * NS_PER_S, float(number))
        told += found.findings
    assert not any(each.alarms for each in told[:22])
    assert severity(told[19]) < 1.0
    assert set(told[-1].alarms) >= {"distance", "mean"}
    assert told[-1].statistics["mean"] == pytest.approx(1.0, abs=0.1)
    assert told[-1].statistics["distance"] == pytest.approx(1.0, abs=0.1)


def test_decisions_and_defaults_are_learned(profile: Profile) -> None:
    """What no profile has is held against the first twelve windows: who is blocked, whose profile is not there."""
    watched = Watched(profile)
    for _ in range(12):
        told = watched.window(defaulted=0.01)
    assert not finding(told, "decision").statistics.get("psi")
    for _ in range(3):
        told = watched.window(defaulted=0.3, decision=lambda values: np.where(values == 0, 1, values))
    assert alarms(told)["decision"] == ("psi",)
    assert alarms(told)["profiles"] == ("default",)


def test_two_deviations_of_window_means_are_told(profile: Profile) -> None:
    """The plain rule: a mean beyond two standard deviations of the baseline's means, in three of five windows."""
    watched = Watched(profile)
    for _ in range(60):
        watched.window()
    shift = 0.17 * profile.features["age"].std  # type: ignore[union-attr]
    for _ in range(4):
        told = watched.window(age=lambda values: np.minimum(values + shift, 89))
    found = finding(told, "age")
    assert found.deviations is not None
    assert found.deviations > 2
    assert found.is_deviating
    assert not found.alarms  # it is less than what matters


def test_two_deviations_of_a_decision_are_told(profile: Profile) -> None:
    """The plain rule of decisions is one of their shares: half as many again are blocked as in earlier windows."""
    watched = Watched(profile)
    for _ in range(40):
        told = watched.window(decision=lambda values: (watched.rng.uniform(size=len(values)) < 0.15) * 2)
        assert not finding(told, "decision").is_deviating
    for _ in range(4):
        told = watched.window(decision=lambda values: (watched.rng.uniform(size=len(values)) < 0.22) * 2)
    found = finding(told, "decision")
    assert found.is_deviating
    assert found.deviations is not None
    assert abs(found.deviations) > 2
    assert not found.alarms  # it is less than what matters


def test_rare_decision_deviates_by_some_rows_not_by_one(profile: Profile) -> None:
    """Of a decision that hardly ever is, three rows more are chance; ten are not, nor where it never was before."""
    watched = Watched(profile)

    def blocked(count: int) -> Any:
        return lambda values: np.where(np.arange(len(values)) < count, 2, np.arange(len(values)) % 2)

    for number in range(30):
        told = watched.window(decision=blocked(number % 7 == 0))
    for _ in range(5):
        told = watched.window(decision=blocked(3))
        assert not finding(told, "decision").is_deviating
    for _ in range(5):
        told = watched.window(decision=blocked(10))
    assert finding(told, "decision").is_deviating


def test_window_with_few_rows_goes_on(profile: Profile) -> None:
    """Fewer rows than are needed make no finding, and are not lost."""
    watched = Watched(profile)
    assert watched.window(rows=300) == ()
    assert watched.window(rows=300)[0].rows == 600


def test_jump_of_the_clock_ends_no_window_and_starts_none(profile: Profile) -> None:
    """A window is as long as the monotonic clock says; the clock on the wall may jump by years, either way."""
    watched = Watched(profile, Drift())
    for jump_s in (1e9, -3e9, 0.0):
        watched.wall_s += jump_s
        assert watched.watch.add(draw(watched.rng), int((watched.now_s + 1) * NS_PER_S), watched.wall_s) == ()
        (told,) = watched.window()
        assert told.rows == 2 * ROWS


@pytest.mark.filterwarnings("error")
def test_absurd_values_break_nothing_and_are_no_drift(profile: Profile) -> None:
    """One infinite amount in each window, or one of 1e300, is no drift; a column that is none of its kind is left."""
    watched = Watched(profile)
    for absurd in (np.inf, -np.inf, 1e300, np.nan):

        def with_one(values: Any, absurd: float = absurd) -> Any:
            values = values.astype(np.float64)
            values[0] = absurd
            return values

        told = watched.window(amount=with_one, age=lambda values: values.astype(str).astype(object))
        assert not alarms(told)
        assert all(np.isfinite(list(each.statistics.values())).all() for each in told[0].findings)
        assert finding(told, "age").rows == 0


def test_memory_does_not_grow_with_categories(profile: Profile) -> None:
    """A hundred thousand names that never came before are one cell, and the findings are as large as ever."""
    watched = Watched(profile)
    before = len(msgspec.json.encode(watched.window()))
    for number in range(3):
        names = np.array([f"{number}-{place}" for place in range(30_000)], object)
        told = watched.window(rows=30_000, country=lambda _, names=names: names)
    assert "unseen" in alarms(told)["country"]
    assert len(msgspec.json.encode(told)) < 1.5 * before


def test_whole_cycle_is_held_against_the_reference(profile: Profile) -> None:
    """With a season the hours learn what comes, and a day that is another one than the reference still is told."""
    watched = Watched(profile, Drift("1h", season="day"))
    cycles = []
    for _ in range(48):
        told = watched.window(amount=lambda values: values * 1.5)
        assert not told[0].alarms
        cycles += [each for each in told if each.span == "cycle"]
    assert [[each.series for each in cycle.alarms] for cycle in cycles] == [[], ["amount"]]


def test_hour_of_the_day_is_no_drift_once_it_is_learned(profile: Profile) -> None:
    """Amounts that double every night raise no alarm, and a shift of one hour's own is one."""
    watched = Watched(profile, Drift("1h", season="day"))

    def by_hour(values: Any) -> Any:
        return values * (2.0 if int(watched.wall_s // 3_600) % 24 < 6 else 1.0)

    for _ in range(24 * 5):
        told = watched.window(amount=by_hour)
        assert not told[0].alarms
    assert told[0].learning == 0
    for _ in range(3):
        told = watched.window(amount=lambda values: by_hour(values) * 3)
    assert set(alarms(told[:1])) == {"amount"}


def test_predictions_become_columns(profile: Profile) -> None:
    """Rows without a score count as features alone; the decision is a place among the labels; vectors are norms."""
    of_requests = np.zeros(3, np.int64)
    predictions = Predictions(
        pipeline="fraud", release="1", slot=0, requests=[b"{}"] * 3, request_ids=[""] * 3, traces=[""] * 3,
        clients=[""] * 3, errors=[""] * 3, answered_ns=of_requests, waits_ns=of_requests, whole_ns=of_requests,
        layers_ns=np.zeros((3, 5), np.int64), row_request=None,
        features={"amount": np.array([1.0, 2, 3]), "picture": np.array([[3.0, 4], [0, 0], [0, 1]], np.float32)},
        provenance={"profiles": np.array([Provenance.FRESH, Provenance.DEFAULT, Provenance.TIMEOUT], np.uint8)},
        event_ns={}, scores=np.array([0.2, np.nan, 0.9]), decisions=np.array([0, -1, 2]), labels=DECISIONS,
        reasons=None, degraded=np.zeros(3, np.uint8), failed=np.array([False, True, False]),
    )  # fmt: skip
    columns, defaulted = columns_of(predictions)
    assert columns["picture"].tolist() == [5, 0, 1]
    assert columns["score"].tolist() == [0.2, 0.9]
    assert columns["confidence"].tolist() == [0.8, 0.9]
    assert columns["decision"].tolist() == [0, 2]
    assert defaulted["profiles"].tolist() == [False, True, True]
    watch = DriftWatch(series_of(profile, DECISIONS, ["profiles"]), Drift(rows_min=30), 0, 0.0)
    for _ in range(10):
        told = watch.add(columns, Drift().window_ns, 0.0, defaulted)
    assert finding(told, "profiles").rows == 30


@pytest.mark.slow
def test_real_payments_raise_fewer_than_one_alarm_in_a_thousand_windows(shared_data: Path) -> None:
    """Three weeks of card payments in windows of a quarter of an hour, with their rhythm of days; then fraud in one."""
    table = pq.read_table(shared_data, columns=["TX_AMOUNT", "TX_TIME_SECONDS", "TX_TIME_DAYS"])
    amount, second, day = (table.column(name).to_numpy() for name in table.column_names)
    first = int(day.min())
    hours = second / 3_600 % 24
    past = day < first + 28
    features = {"amount": profile_numbers(amount[past]), "hour": profile_numbers(hours[past])}
    series = series_of(Profile(int(past.sum()), features, (profile_numbers(amount[past]),)))
    declared = Drift("15m", rows_min=30)
    start_s = (first + 28) * 86_400
    watch, judged, alarmed = DriftWatch(series, declared, 0, float(start_s)), 0, 0
    for end_s in range(start_s + 900, start_s + 60 * 86_400, 900):
        begin, end = np.searchsorted(second, [end_s - 900, end_s])
        rows = {"amount": amount[begin:end], "hour": hours[begin:end]}
        for told in watch.add(rows, (end_s - start_s) * NS_PER_S, float(end_s)):
            if told.span == "window" and told.learning <= 1:
                judged += 1
                alarmed += bool(told.alarms)
    assert judged > 3_000
    assert alarmed <= judged / 1_000
