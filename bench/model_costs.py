"""What a model's call costs: by its trees, by its features, and by the rows of a request. Drawn by draw_models.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import numpy as np

from figures import Figures
from part import Session
from peers import WORKPLACE
from tailrace.inference.curve import measure_curve
from tailrace.inference.loading import load_model

FOLDER: Final = WORKPLACE / "model-costs"
TREES: Final = (100, 200, 500, 1_000, 2_000)
FEATURES: Final = (10, 25, 50, 100, 250, 500)
ROWS: Final = (1, 4, 16, 64, 128, 256, 500)
SHOWN: Final = (1, 16, 64)
"""Rows of a call at which trees and features are compared."""
SAMPLES: Final = 4_000


def measure_model_costs(session: Session) -> Figures:
    """Return curves of pairs: a number, and the µs of a call; each for several numbers of rows."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    by_trees, by_features, by_rows = {}, {}, []
    for trees in session.pick(TREES, TREES[:2]):
        session.tell(f"inference: the cost of {trees} trees")
        by_trees[trees] = curve_of(session, trees, 24)
    for features in session.pick(FEATURES, FEATURES[:2]):
        session.tell(f"inference: the cost of {features} features")
        by_features[features] = curve_of(session, 200, features)
    by_rows = [[rows, by_trees[200].cost_ns(rows) / 1e3] for rows in ROWS]
    return {
        "cost_trees_us": {str(rows): [[n, c.cost_ns(rows) / 1e3] for n, c in by_trees.items()] for rows in SHOWN},
        "cost_features_us": {str(rows): [[n, c.cost_ns(rows) / 1e3] for n, c in by_features.items()] for rows in SHOWN},
        "cost_rows_us": by_rows,
    }


def curve_of(session: Session, trees: int, features: int) -> Any:
    """Return the cost curve of a boosted model of so many trees and features, by the backend that is chosen for it."""
    import lightgbm
    import pyarrow as pa

    from tailrace.release.package import package

    rng = np.random.default_rng(features)
    rows = rng.normal(size=(SAMPLES, features)).astype(np.float32)
    target = (rows[:, : min(features, 12)].sum(axis=1) + rng.normal(size=SAMPLES) > 0).astype(int)
    names = [f"f{index}" for index in range(features)]
    settings = {"objective": "binary", "num_leaves": 31, "verbose": -1, "num_threads": 2}
    model = lightgbm.train(settings, lightgbm.Dataset(rows, target, feature_name=names), trees)
    out = FOLDER / f"{trees}-{features}"
    package(model, pa.table(dict(zip(names, rows.T, strict=True))), name="m", out=Path(out))
    return measure_curve(load_model(out), sizes=ROWS)
