"""What a model's call costs: by its trees, by its features, and by the rows of a request. Drawn by draw_models.py."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from figures import Figures
from part import Session
from peers import WORKPLACE
from tailrace.deadline import NS_PER_MS
from tailrace.inference.curve import CostCurve, measure_curve
from tailrace.inference.loading import load_model

FOLDER: Final = WORKPLACE / "model-costs"
TREES: Final = (100, 200, 500, 1_000, 2_000)
TREES_USUAL: Final = 200
FEATURES: Final = (10, 25, 50, 100, 250, 500)
FEATURES_USUAL: Final = 24
ROWS: Final = (1, 4, 16, 64, 200, 500)
SHOWN: Final = (1, 16, 64)
"""Rows of a call at which trees and features are compared."""
TREES_SHOWN: Final = (200, 2_000)
"""At which the rows of a call are compared."""
SAMPLES: Final = 2_000
LEAVES: Final = 31
RATE: Final = 0.01
"""What a tree learns: with more of it the last of 2,000 trees have nothing left to learn, and four leaves."""
BINS: Final = 63
"""Of a feature's values: with 255, which is usual, 500 features take three times as long to learn from."""
CURVE_NS: Final = 500 * NS_PER_MS


def measure_model_costs(session: Session) -> Figures:
    """Return curves of pairs, a number and the µs of a call, for several numbers of rows or trees; and the backends."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    by_trees, by_features = {}, {}
    for trees in session.pick(TREES, (TREES[0], TREES[1], TREES[-1])):
        session.tell(f"inference: the cost of {trees:,} trees")
        by_trees[trees] = measure_cost(trees, FEATURES_USUAL)
    for features in session.pick(FEATURES, FEATURES[:2]):
        session.tell(f"inference: the cost of {features} features")
        by_features[features] = measure_cost(TREES_USUAL, features)
    return {
        "cost_trees_us": {str(rows): pairs_of(by_trees, rows) for rows in SHOWN},
        "cost_features_us": {str(rows): pairs_of(by_features, rows) for rows in SHOWN},
        "cost_rows_us": {str(trees): [[rows, by_trees[trees].us(rows)] for rows in ROWS] for trees in TREES_SHOWN},
        "cost_trees_backends": [[trees, cost.backend] for trees, cost in by_trees.items()],
        "cost_features_backends": [[features, cost.backend] for features, cost in by_features.items()],
    }


class Cost(NamedTuple):
    """What calls of a model cost, by the backend that was chosen for it."""

    curve: CostCurve
    backend: str

    def us(self, rows: int) -> float:
        """Return the µs of a call of so many rows."""
        return round(self.curve.cost_ns(rows) / 1e3, 2)


def pairs_of(costs: Mapping[int, Cost], rows: int) -> list[list[float]]:
    """Return pairs of a number, and the µs that a call of so many rows costs there."""
    return [[number, cost.us(rows)] for number, cost in costs.items()]


def measure_cost(trees: int, features: int) -> Cost:
    """Return what a boosted model of so many trees and features costs."""
    import lightgbm
    import pyarrow as pa

    from tailrace.release.package import package

    rng = np.random.default_rng(features)
    rows = rng.normal(size=(SAMPLES, features)).astype(np.float32)
    target = (rows.mean(axis=1) * features**0.5 + 0.3 * rng.normal(size=SAMPLES) > 0).astype(int)
    names = [f"f{index}" for index in range(features)]
    # One thread: two that find another program on their core wait for each other at each leaf, many times as long.
    settings = {"objective": "binary", "num_leaves": LEAVES, "learning_rate": RATE, "max_bin": BINS, "num_threads": 1,
                "verbose": -1}  # fmt: skip
    model = lightgbm.train(settings, lightgbm.Dataset(rows, target, feature_name=names), trees)
    out = FOLDER / f"{trees}-{features}"
    package(model, pa.table(dict(zip(names, rows.T, strict=True))), name="m", out=out)
    loaded = load_model(out)
    return Cost(measure_curve(loaded, sizes=ROWS, limit_ns=CURVE_NS), loaded.backend)
