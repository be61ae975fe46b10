"""How sure a loss is: what the error says of a few rows is what many draws of as many rows show."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tailrace.offline.optimize.certainty import Z, loss_error, rows_needed
from tailrace.offline.optimize.metric import Metric

ROWS = 225
DRAWS = 120
TOLERANCE = 0.001

TWO, THREE, NUMBERS = (0, 1), (0, 1, 2), ()


def population(rows: int = 30_000) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return probabilities, others that are a little worse, and the outcomes."""
    rng = np.random.default_rng(2)
    signal, noise = rng.normal(size=(2, rows))
    truth = (rng.random(rows) < 1 / (1 + np.exp(-1.3 * signal))).astype(int)
    return 1 / (1 + np.exp(-signal)), 1 / (1 + np.exp(-signal - 0.17 * noise)), truth


@pytest.mark.parametrize("name", ["auc", "average_precision", "log_loss", "accuracy", "rmse", "mae"])
def test_error_is_what_draws_show(name: str) -> None:
    """The standard error that one draw tells is the spread of the loss over many, for each metric."""
    before, after, truth = population()
    metric = Metric(name, NUMBERS if name in {"rmse", "mae"} else TWO)
    rng, losses, errors = np.random.default_rng(0), [], []
    for draw in range(40):
        rows = rng.integers(0, len(truth), 600)
        own, other, came = before[rows], after[rows], truth[rows].tolist()
        losses.append(metric.loss(metric.measure(own, came), metric.measure(other, came)))
        if draw < 5:
            errors.append(loss_error(metric, own, other, came))
    assert np.mean(errors) == pytest.approx(np.std(losses), rel=0.4)


def test_worse_model_is_rarely_within_the_tolerance() -> None:
    """On 225 rows a model that is truly worse looks no worse in many draws; its bound does in few."""
    before, after, truth = population()
    metric = Metric("auc", TWO)
    true_loss = metric.loss(metric.measure(before, truth.tolist()), metric.measure(after, truth.tolist()))
    assert 0.003 < true_loss < 0.009
    rng, looks, told = np.random.default_rng(1), 0, 0
    for _ in range(DRAWS):
        rows = rng.integers(0, len(truth), ROWS)
        own, other, came = before[rows], after[rows], truth[rows].tolist()
        loss = metric.loss(metric.measure(own, came), metric.measure(other, came))
        looks += loss <= TOLERANCE
        told += loss + Z * loss_error(metric, own, other, came) <= TOLERANCE
    assert looks / DRAWS > 0.15
    assert told / DRAWS <= 0.05


def test_equal_scores_are_certain() -> None:
    """Where no score moves, nothing is luck."""
    before, _, truth = population(1_000)
    assert loss_error(Metric("auc", TWO), before, before.copy(), truth.tolist()) == 0.0


def test_three_classes_have_an_error() -> None:
    """Scores of several classes are judged by the one that came."""
    rng = np.random.default_rng(0)
    before, after = (rng.dirichlet(np.ones(3), 500) for _ in range(2))
    came = rng.integers(0, 3, 500).tolist()
    for name in ("log_loss", "accuracy"):
        assert loss_error(Metric(name, THREE), before, after, came) > 0


def test_rows_needed_grow_with_the_square() -> None:
    """Half the room wants four times the rows; no room, none would do."""
    assert rows_needed(1_000, 0.0, 0.001, Z * 0.001) == 1_000
    assert rows_needed(1_000, 0.0, 0.001, Z * 0.0005) == 4_000
    assert rows_needed(1_000, 0.002, 0.001, 0.001) is None
