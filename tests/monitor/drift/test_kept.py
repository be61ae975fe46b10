"""What a watch has learned outlives its process, and what does not fit is learned anew."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest

import tailrace as tr
from monitor.drift.predicted import predictions
from tailrace.inference.drift import Drift
from tailrace.inference.manifest import Profile
from tailrace.monitor.drift.kept import keep, recall
from tailrace.monitor.drift.pipelines import PipelineDrift, profile_of
from tailrace.monitor.drift.series import series_of
from tailrace.monitor.drift.watch import DriftWatch
from tailrace.pipeline import Pipeline
from tailrace.release.profile import profile_numbers

ROWS = 600
DECLARED = Drift("1s", season=None)


def watch(shift: float = 0.0) -> DriftWatch:
    """Return a watch of one feature whose reference is normal."""
    reference = profile_numbers(np.random.default_rng(0).normal(shift, 1, 5_000))
    return DriftWatch(series_of(Profile(5_000, {"x": reference}, ())), DECLARED, 0, 0.0)


def learned() -> DriftWatch:
    """Return one that has seen twenty windows."""
    found, rng = watch(), np.random.default_rng(1)
    for second in range(1, 21):
        assert found.add({"x": rng.normal(size=ROWS)}, second * 10**9, float(second))
    return found


def test_a_successor_knows_what_was_learned() -> None:
    """The baseline of its predecessor is its own, to the last bit."""
    before, after = learned(), watch()
    assert recall(after, keep(before))
    for ours, theirs in zip(after.baselines[0].arrays, before.baselines[0].arrays, strict=True):
        assert np.array_equal(ours, theirs)
    assert after.baselines[0].windows[0] == 20


def test_a_successor_knows_how_its_predecessor_voted() -> None:
    """Two windows that spoke before it died, and one after it, are the three that make an alarm."""
    before, after, rng = learned(), watch(), np.random.default_rng(2)
    for second in (21, 22):
        (told,) = before.add({"x": rng.normal(1.0, size=ROWS)}, second * 10**9, float(second))
        assert not told.alarms
    assert recall(after, keep(before))
    (told,) = after.add({"x": rng.normal(1.0, size=ROWS)}, 10**9, 23.0)
    assert [each.series for each in told.alarms] == ["x"]


def test_a_cycle_goes_on_over_a_restart() -> None:
    """Of a day, twenty hours before a restart and four after it are whole: what creeps is found all the same."""
    reference = series_of(Profile(5_000, {"x": profile_numbers(np.random.default_rng(0).normal(0, 1, 5_000))}, ()))
    declared, rng, told = Drift("1h", season="day"), np.random.default_rng(1), []
    watches = [DriftWatch(reference, declared, 0, 0.0) for _ in range(4)]
    for number, each in enumerate(watches):
        if number:
            assert recall(each, keep(watches[number - 1]))
        for hour in range(1, 16):  # its monotonic clock begins anew
            found = each.add({"x": rng.normal(1.0, size=ROWS)}, hour * 3_600 * 10**9, (15 * number + hour) * 3_600.0)
            told += [window for window in found if window.span == "cycle"]
    assert [(each.ended_s / 3_600, bool(each.alarms)) for each in told] == [(24, False), (48, True)]
    assert told[0].rows == 24 * ROWS


def test_what_is_broken_or_another_ones_is_learned_anew() -> None:
    """Cut short, with a bit turned, of another reference, or of no kind at all: nothing is taken, nothing raised."""
    data = keep(learned())
    turned = [bytearray(data) for _ in range(40)]
    for place, each in zip(np.linspace(0, len(data) - 1, 40).astype(int), turned, strict=True):
        each[place] ^= 4
    wrong = [data[:length] for length in range(0, len(data), 7)]
    for each in [*wrong, *map(bytes, turned), b"no", b"\xc0"]:
        after = watch()
        assert not recall(after, each)
        assert after.baselines[0].windows[0] == 0
    assert not recall(watch(shift=3), data)


def test_a_bomb_is_not_unpacked() -> None:
    """Bytes that would unpack to more than a watch has are refused, whatever they claim."""
    kept: list[Any] = msgspec.msgpack.decode(keep(watch()))
    kept[4] = zlib.compress(bytes(20 << 20), 1)
    assert not recall(watch(), msgspec.msgpack.encode(kept))


def test_pipelines_are_watched_by_the_profile_of_their_model(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A pipeline's own model is the reference; a new release begins anew; who is not declared is not watched."""
    log, other = replace(pipeline_of("log"), drift=DECLARED), replace(pipeline_of("heavy"), drift=None)
    drift = PipelineDrift([log, other])
    for second in range(1, 5):
        found = drift.take(predictions(log, "1", shift=1.0), second * 2 * 10**9, second * 2.0)
    assert {each.series for each in found[0].alarms} == {"amount", "score"}
    assert drift.latest["log"]["window"] is found[0]
    assert drift.take(predictions(other, "1"), 10**12, 1e3) == ()
    assert drift.take(predictions(log, "2"), 9 * 10**9, 9.0) == ()  # its first window has just begun
    kept = drift.keep()
    assert set(kept) == {"log"}
    successor = PipelineDrift([log])
    successor.recall(kept | {"gone": b""})
    assert successor.keep() == kept
    successor.take(predictions(log, "2"), 0, 0.0)
    assert successor.keep()["log"] == kept["log"]


def test_two_releases_at_once_are_not_mixed(pipeline_of: Callable[[str], Pipeline]) -> None:
    """While both are served the first is watched; the second takes over, with what was learned, when it has ended."""
    log = replace(pipeline_of("log"), drift=DECLARED)
    drift, told = PipelineDrift([log]), []
    for second in range(1, 6):
        told += drift.take(predictions(log, "1"), second * 2 * 10**9, second * 2.0)
        told += drift.take(predictions(log, "2", shift=3.0), second * 2 * 10**9, second * 2.0)
    assert len(told) == 4
    assert not any(each.signals for findings in told for each in findings.findings)
    for second in range(21, 26):
        told += drift.take(predictions(log, "2", shift=3.0), second * 2 * 10**9, second * 2.0)
    watch = drift._watched["log"].watch
    assert watch is not None
    assert watch.baselines[0].windows.min() == 4
    assert told[-1].alarms


def test_scores_of_several_models_are_learned(pipeline_of: Callable[[str], Pipeline]) -> None:
    """A score that no profile knows is held against the first twelve windows; a feature against its model's profile."""
    log = pipeline_of("log")
    both = replace(
        log,
        drift=DECLARED,
        model=tr.Ensemble("both", [log.model, tr.Model("second", path=log.model.path or "models/log")]),
    )
    drift, told = PipelineDrift([both]), []
    for second in range(1, 21):
        shift = 0.0 if second <= 15 else 0.3
        told += drift.take(predictions(both, "1", shift=shift), second * 2 * 10**9, second * 2.0)
    series = {each.series: each for each in told[-1].findings}
    assert set(series) == {"amount", "score", "Profiles"}
    assert [bool(findings.alarms) for findings in told[:15]] == [False] * 15
    assert "mean" in series["score"].alarms


@pytest.mark.parametrize("name", ["log_with_fallback", "heavy_with_second"])
def test_a_fallback_is_no_reference(pipeline_of: Callable[[str], Pipeline], name: str) -> None:
    """The profile is the model's that is asked first."""
    plain = name.partition("_")[0]
    assert profile_of(pipeline_of(name)) == profile_of(pipeline_of(plain))
