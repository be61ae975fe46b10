"""A profile becomes series whose cells hold what they say, whatever the profile lacks."""

from __future__ import annotations

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from tailrace.inference.manifest import NumberProfile, Profile, TextProfile
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.monitor.drift.series import CELLS_MAX, NumberSeries, series_of
from tailrace.monitor.drift.window import DriftWindow, reference_tally
from tailrace.release.profile import TOP_MAX, profile_model, profile_numbers


def of_numbers(values: np.ndarray) -> NumberSeries:
    """Return the series of a feature with these values."""
    series = series_of(Profile(len(values), {"x": profile_numbers(values)}, ()))[0]
    assert isinstance(series, NumberSeries)
    return series


@pytest.mark.parametrize("values", [np.arange(100) / 10, np.repeat([0.1, 0.2, 0.7], 40), np.full(9, 0.3)], ids=len)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_rows_of_the_profile_fill_its_cells_again(values: np.ndarray, dtype: type) -> None:
    """Numbers of 32 bits, as served, fall where those of 64 did, as profiled: also the ends, ties and a constant."""
    series = of_numbers(values)
    assert series.reference is not None
    counts, sums, _, missing = series.count(values.astype(dtype))
    assert counts.tolist() == series.reference[0].tolist()
    assert sums == pytest.approx(series.reference[1], abs=1e-5)
    assert missing == 0
    assert counts[0] == counts[-1] == 0
    assert len(series.labels) == series.cells <= CELLS_MAX


def test_reference_has_mean_zero_and_deviation_one() -> None:
    """Values are told in standard deviations of the reference, from its mean."""
    tally = reference_tally([of_numbers(np.random.default_rng(0).lognormal(size=1_000) * 1e6)])
    assert tally.means[0] == pytest.approx(0, abs=1e-9)
    assert tally.variances[0] == pytest.approx(1)


def test_profile_of_an_older_manifest_is_read() -> None:
    """Without the sums of its bins their values lie as the whole mean has it, and the confidence is learned."""
    profile = Profile(
        1_000, {"x": profile_numbers(np.linspace(0, 1, 1_000))}, (profile_numbers(np.linspace(0, 1, 50)),)
    )
    old = msgspec.to_builtins(profile)
    del old["confidence"], old["features"]["x"]["sums"], old["scores"][0]["sums"]
    series = series_of(msgspec.convert(old, Profile))
    assert [each.name for each in series] == ["x", "score", "confidence"]
    assert series[2].reference is None
    assert reference_tally(series).means[0] == pytest.approx(0, abs=0.01)


def test_long_tail_of_an_older_manifest_has_its_mean() -> None:
    """In the middle of the last tenth the tail would lie far beyond its values, and all traffic be a shift."""
    values = np.random.default_rng(0).lognormal(sigma=1.5, size=20_000)
    old = msgspec.structs.replace(profile_numbers(values), sums=())
    series = series_of(Profile(len(values), {"x": old}, ()))
    tally = reference_tally(series)
    assert tally.means[0] == pytest.approx(0, abs=1e-9)
    _, live, _, _ = series[0].count(values)
    assert np.abs(live - tally.sums[0, : len(live)]).sum() / len(values) < 0.1  # less than any shift that matters


def test_profile_has_the_sums_of_its_bins_and_the_confidence() -> None:
    """What a package is written with is enough for a distance, and for how sure the model is."""
    values, scores = np.arange(1_000.0), np.linspace(0, 1, 1_000)
    signature = Signature.of_scores((TensorSpec("input", "float32", ("x",)),), "score")
    profile = profile_model(signature, pa.table({"x": values}), scores)
    found = profile.features["x"]
    assert isinstance(found, NumberProfile)
    assert sum(found.sums) == pytest.approx(values.sum())
    assert len(found.sums) == len(found.counts)
    assert profile.confidence is not None
    assert (profile.confidence.min, profile.confidence.max) == (pytest.approx(0.5, abs=1e-3), 1.0)
    assert profile_model(signature, pa.table({"x": values}), scores * 2).confidence is None


@pytest.mark.parametrize(
    "profile",
    [profile_numbers(np.array([np.nan])), profile_numbers(np.array([-1e308, 1e308, 0.0])),
     profile_numbers(np.array([np.inf, 1.0, 2.0]))],
    ids=["empty", "huge", "infinite"],
)  # fmt: skip
def test_profile_that_tells_nothing_breaks_nothing(profile: NumberProfile) -> None:
    """A feature of nulls alone, or of numbers beyond measure, is counted without a reference."""
    series = series_of(Profile(3, {"x": profile}, ()))
    window = DriftWindow(series)
    window.add({"x": np.array([1.0, np.nan, 1e308, -np.inf])})
    assert np.isfinite(window.tally.sums).all()
    assert window.tally.rows[0] == 3


def test_categories_beyond_those_named_are_others() -> None:
    """A profile names twenty; what is beyond is one cell."""
    top = tuple((f"c{place}", 10) for place in range(TOP_MAX))
    (series,) = series_of(Profile(300, {"x": TextProfile(300, 0, 50, top, 100)}, ()))
    counts, *_, missing = series.count(np.array(["c0", "c0", "zz", None, ""], object))
    assert (counts[0], counts[-1], missing) == (2, 1, 2)
    assert series.cells == TOP_MAX + 1


def test_feature_that_is_called_as_a_score_is_not_watched() -> None:
    """A credit score that goes in is no score that comes out: held against each other they would drift for ever."""
    scores = profile_numbers(np.linspace(0, 1, 1_000))
    names = ("score", "confidence", "decision", "x")
    profile = Profile(1_000, {name: profile_numbers(np.linspace(300, 850, 1_000)) for name in names}, (scores,))
    series = series_of(profile, ("allow", "block"))
    assert [(each.name, each.kind) for each in series] == [
        ("x", "feature"), ("score", "score"), ("confidence", "confidence"), ("decision", "decision"),
    ]  # fmt: skip
