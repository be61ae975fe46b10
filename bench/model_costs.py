"""What a model's call costs: by its trees, by its features, and by the rows of a request. Drawn by draw_models.py."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Final

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
ROWS: Final = (1, 4, 16, 64, 128, 256, 500)
SHOWN: Final = (1, 16, 64)
"""Rows of a call at which trees and features are compared."""
SAMPLES: Final = 2_000
LEAVES: Final = 31
RATE: Final = 0.01
"""What a tree learns: with more of it the last of 2,000 trees have nothing left to learn, and four leaves."""
BINS: Final = 63
"""Of a feature's values: with 255, which is usual, 500 features take three times as long to learn from."""
CURVE_NS: Final = 500 * NS_PER_MS


def measure_model_costs(session: Session) -> Figures:
    """Return curves of pairs: a number, and the µs of a call; each for several numbers of rows."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    by_trees, by_features = {}, {}
    for trees in session.pick(TREES, TREES[:2]):
        session.tell(f"inference: the cost of {trees:,} trees")
        by_trees[trees] = measure_cost(trees, FEATURES_USUAL)
    for features in session.pick(FEATURES, FEATURES[:2]):
        session.tell(f"inference: the cost of {features} features")
        by_features[features] = measure_cost(TREES_USUAL, features)
    usual = by_trees[TREES_USUAL]
    return {
        "cost_trees_us": {str(rows): pairs_of(by_trees, rows) for rows in SHOWN},
        "cost_features_us": {str(rows): pairs_of(by_features, rows) for rows in SHOWN},
        "cost_rows_us": [[rows, round(usual.cost_ns(rows) / 1e3, 2)] for rows in ROWS],
    }


def pairs_of(curves: Mapping[int, CostCurve], rows: int) -> list[list[float]]:
    """Return pairs of a number, and the µs that a call of so many rows costs there."""
    return [[number, round(curve.cost_ns(rows) / 1e3, 2)] for number, curve in curves.items()]


def measure_cost(trees: int, features: int) -> CostCurve:
    """Return what a boosted model of so many trees and features costs, by the backend that is chosen for it."""
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
    return measure_curve(load_model(out), sizes=ROWS, limit_ns=CURVE_NS)
