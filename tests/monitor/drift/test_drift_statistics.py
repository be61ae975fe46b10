"""The statistics of drift are those of SciPy, and chance is where their sources say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tailrace.monitor.drift.statistics import (
    chi_square_tail,
    discoveries,
    share_effect,
    stability_index,
    stability_threshold,
    transport_chance,
    transport_distance,
    two_sided,
)

stats = pytest.importorskip("scipy.stats")


def cells(values: np.ndarray, edges: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return counts and sums a cell: below, the bins, above."""
    places = np.searchsorted(edges, values)
    width = len(edges) + 1
    return np.bincount(places, minlength=width)[np.newaxis], np.bincount(places, values, minlength=width)[np.newaxis]


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 300), st.integers(1, 40))
def test_chi_square_tail_is_scipys(value: float, freedom: int) -> None:
    """The tail is exact for even and for odd degrees of freedom, far out too."""
    found = chi_square_tail(np.array([value]), np.array([freedom]))[0]
    assert found == pytest.approx(stats.chi2.sf(value, freedom), rel=1e-9, abs=1e-300)


def test_two_sided_is_scipys() -> None:
    """Four standard errors are one in sixteen thousand."""
    z = np.array([0.0, -1.96, 4.0, 9.0])
    assert two_sided(z) == pytest.approx(2 * stats.norm.sf(np.abs(z)), rel=1e-12)


def test_threshold_of_the_index_is_where_chance_exceeds_it() -> None:
    """Of windows without drift, one in a hundred has an index above the threshold for one in a hundred."""
    rng, rows, most = np.random.default_rng(1), 800, 5_000
    shares = np.full(10, 0.1)
    live = rng.multinomial(rows, shares, 4_000).astype(float)
    reference = rng.multinomial(most, shares, 4_000).astype(float)
    index, freedom = stability_index(live, reference, np.full(4_000, float(rows)))
    threshold = stability_threshold(0.01, freedom, np.full(4_000, 1 / rows + 1 / most))
    assert set(freedom) == {9}
    assert threshold[0] == pytest.approx(stats.chi2.isf(0.01, 9) * (1 / rows + 1 / most))
    assert 0.005 < (index > threshold).mean() < 0.016


def test_index_pools_cells_that_expect_few() -> None:
    """A category that hardly ever comes does not make an index by itself."""
    index, freedom = stability_index(np.array([[500.0, 499, 1]]), np.array([[5e3, 5e3, 0]]), np.array([1e3]))
    assert freedom[0] == 2
    assert index[0] < 0.01


@pytest.mark.parametrize("shift", [-3.0, -0.5, 0.2, 1.0])
def test_transport_distance_is_scipys_where_a_feature_shifts(shift: float) -> None:
    """By ten bins and their sums alone the distance of a shifted sample is that of all its values."""
    rng = np.random.default_rng(2)
    reference, live = rng.normal(size=20_000), rng.normal(shift, 1, 5_000)
    edges = np.quantile(reference, np.linspace(0, 1, 11))
    found = transport_distance(*cells(live, edges), *cells(reference, edges), np.append(edges, 0.0)[np.newaxis])
    exact = stats.wasserstein_distance(reference, live)
    assert found[0] == pytest.approx(exact, rel=0.03)
    assert found[0] <= exact * (1 + 1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.floats(0.2, 4))
def test_transport_distance_is_never_too_large(seed: int, scale: float) -> None:
    """Where distributions cross within a cell the distance found is a lower bound."""
    rng = np.random.default_rng(seed)
    reference, live = rng.normal(size=500), rng.normal(0, scale, 300)
    edges = np.quantile(reference, np.linspace(0, 1, 11))
    found = transport_distance(*cells(live, edges), *cells(reference, edges), np.append(edges, 0.0)[np.newaxis])
    assert found[0] <= stats.wasserstein_distance(reference, live) * (1 + 1e-9)


def test_transport_distance_without_drift_stays_below_what_chance_makes() -> None:
    """The bound holds in the mean over samples."""
    rng = np.random.default_rng(3)
    whole = rng.normal(size=100_000)
    edges = np.quantile(whole, np.linspace(0, 1, 11))
    last = np.append(edges, 0.0)[np.newaxis]
    counts, sums = cells(whole, edges)
    found = [transport_distance(*cells(rng.normal(size=400), edges), counts, sums, last)[0] for _ in range(100)]
    assert np.mean(found) < transport_chance(counts, last)[0] / 20


def test_share_effect_is_the_same_at_both_ends() -> None:
    """From 0 to 1% is as far as from 100 to 99%, and 0.2."""
    assert share_effect(np.array([0.01]), np.array([0.0]))[0] == pytest.approx(0.2003, abs=1e-3)
    assert share_effect(np.array([0.99]), np.array([1.0]))[0] == pytest.approx(-0.2003, abs=1e-3)


def test_discoveries_are_scipys() -> None:
    """The step-up of Benjamini and Yekutieli, with what is not known left out."""
    rng = np.random.default_rng(4)
    for _ in range(50):
        chances = np.concatenate([rng.uniform(size=30), rng.uniform(0, 1e-3, 8)])
        found, _ = discoveries(np.append(chances, np.nan), 0.05)
        assert not found[-1]
        assert found[:-1].tolist() == (stats.false_discovery_control(chances, method="by") <= 0.05).tolist()
