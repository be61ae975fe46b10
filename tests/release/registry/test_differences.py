"""Scores of two models on the same rows: how far they are apart, and how many rows change sides."""

from __future__ import annotations

from pathlib import Path

import lightgbm
import numpy as np
import pyarrow as pa
import pytest

from tailrace.inference.loading import load_model
from tailrace.inference.packaged import PackagedModel
from tailrace.release.package import package
from tailrace.release.registry.differences import Differences, compare

NAMES = ["a", "b"]


def trained(folder: Path, classes: int, rounds: int, names: list[str] = NAMES) -> PackagedModel:
    """Return a packaged model of so many classes."""
    random = np.random.default_rng(5)
    x = random.normal(size=(400, 2))
    y = np.digitize(
        x[:, 0] + random.normal(size=400) / 2, np.linspace(-0.5, 0.5, classes - 1) if classes > 2 else [0.0]
    )
    options = {"objective": "multiclass", "num_class": classes} if classes > 2 else {"objective": "binary"}
    order = [NAMES.index(name) for name in names]
    data = lightgbm.Dataset(x[:, order], y, feature_name=names)
    model = lightgbm.train(options | {"verbosity": -1, "num_leaves": 4}, data, rounds)
    out = folder / f"{classes}-{rounds}-{''.join(names)}"
    package(model, pa.table({name: x[:, place] for name, place in zip(names, order, strict=True)}), name="m", out=out)
    return load_model(out)


@pytest.mark.parametrize("classes", [2, 3])
def test_flips_are_rows_that_change_sides(tmp_path: Path, classes: int) -> None:
    """Of two classes the threshold counts, of more the likeliest class; each model's own golden rows are among them."""
    one, other = trained(tmp_path, classes, 2), trained(tmp_path, classes, 12)
    found = compare(one, other, threshold=0.6)
    assert isinstance(found, Differences)
    feeds = [model.manifest.golden.feeds(model.signature)[model.signature.inputs[0].name] for model in (one, other)]
    rows = np.concatenate(feeds)
    scores = [np.asarray(model.predict({model.signature.inputs[0].name: rows}), np.float64) for model in (one, other)]
    if classes == 2:
        sides = [score >= 0.6 for score in scores]
        distances = np.abs(scores[0] - scores[1])
    else:
        sides = [score.argmax(axis=1) for score in scores]
        distances = np.abs(scores[0] - scores[1]).max(axis=1)
    assert found.rows == len(rows)
    assert found.flips == int((sides[0] != sides[1]).sum()) > 0
    assert found.max == pytest.approx(distances.max())
    assert found.mean == pytest.approx(distances.mean())
    assert found.threshold == (0.6 if classes == 2 else None)


def test_features_in_another_order_are_the_same_features(tmp_path: Path) -> None:
    """A column is found by its name, not by its place."""
    one, other = trained(tmp_path, 2, 8), trained(tmp_path, 2, 8, ["b", "a"])
    found = compare(one, other)
    assert isinstance(found, Differences)
    assert found.max < 1e-6


def test_models_of_other_classes_are_not_compared(tmp_path: Path) -> None:
    """It says why."""
    assert compare(trained(tmp_path, 2, 2), trained(tmp_path, 3, 2)) == "they have other classes: [0, 1] and [0, 1, 2]"
