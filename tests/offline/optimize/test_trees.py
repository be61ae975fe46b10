from __future__ import annotations

from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.ensemble import RandomForestClassifier
from sklearn.tree import DecisionTreeRegressor

from offline.optimize.conftest import NAMES
from tailrace.inference.backends.onnx import open_session, select_scores
from tailrace.inference.manifest import MODEL_FILE
from tailrace.inference.model_directory import read_manifest
from tailrace.offline.optimize.trees import TreeGraph
from tailrace.release.package import package


def score(graph: bytes, signature: Any, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a graph's scores."""
    outputs = open_session(graph).run([signature.output], {signature.inputs[0].name: matrix})
    return select_scores(outputs[0], signature.column)


def matrix_of(rows: pa.Table) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the rows as the trees take them."""
    return np.column_stack([rows[name].to_numpy() for name in NAMES]).astype(np.float32)


@pytest.mark.parametrize("count", [1, 17, 40])
def test_first_trees_score_as_the_framework_does(
    booster: lightgbm.Booster, baseline: Path, rows: pa.Table, count: int
) -> None:
    """A graph of the first trees is the model of so many iterations, rows with NaN included."""
    signature, matrix = read_manifest(baseline).signature, matrix_of(rows)
    graph = TreeGraph((baseline / MODEL_FILE).read_bytes()).keep_trees(count, scaled=False)
    expected = booster.predict(matrix, num_iteration=count)
    np.testing.assert_allclose(score(graph, signature, matrix), expected, atol=1e-6)


def test_trees_of_several_classes_are_kept_together(rows: pa.Table, tmp_path: Path) -> None:
    """Of three classes ten iterations are thirty trees, and five of them fifteen."""
    kinds = np.digitize(np.nan_to_num(rows["amount"].to_numpy()), [0.7, 1.5])
    frame = rows.select(NAMES).to_pandas()
    options = {"objective": "multiclass", "num_class": 3, "num_leaves": 5, "num_threads": 1, "verbose": -1}
    trained = lightgbm.train(options, lightgbm.Dataset(frame, kinds), 10)
    directory = package(trained, frame, name="kinds", out=tmp_path / "kinds").directory
    trees = TreeGraph((directory / MODEL_FILE).read_bytes())
    assert trees.count == 10
    found = score(trees.keep_trees(5, scaled=False), read_manifest(directory).signature, matrix_of(rows))
    np.testing.assert_allclose(found, trained.predict(frame, num_iteration=5), atol=1e-6)


def test_forest_that_is_kept_in_part_still_averages(rows: pa.Table, tmp_path: Path) -> None:
    """Half of a forest, scaled, gives the mean of its trees: probabilities, not halves of them."""
    frame = rows.select(NAMES).to_pandas().fillna(0.0)
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(frame, rows["fraud"].to_numpy())
    directory = package(forest, frame, name="forest", out=tmp_path / "forest").directory
    signature, matrix = read_manifest(directory).signature, frame.to_numpy(np.float32)
    found = score(TreeGraph((directory / MODEL_FILE).read_bytes()).keep_trees(5, scaled=True), signature, matrix)
    expected = np.mean([tree.predict_proba(matrix)[:, 1] for tree in forest.estimators_[:5]], axis=0)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_cut_tree_gives_the_mean_of_the_rows_below(tmp_path: Path) -> None:
    """A tree that is cut at a depth is what scikit-learn grows to that depth: a leaf is the mean of its rows."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame(rng.normal(size=(1_000, 3)).astype(np.float32), columns=["a", "b", "c"])
    target = frame["a"] * 3 + np.sin(frame["b"] * 2) + rng.normal(size=1_000) * 0.1
    deep, shallow = (DecisionTreeRegressor(max_depth=depth, random_state=0).fit(frame, target) for depth in (6, 2))
    directory = package(deep, frame, name="tree", out=tmp_path / "tree").directory
    trees = TreeGraph((directory / MODEL_FILE).read_bytes())
    assert trees.depth() == 6
    signature, matrix = read_manifest(directory).signature, frame.to_numpy()
    name = signature.inputs[0].name
    cut = trees.cut_trees(2, {name: matrix})
    np.testing.assert_allclose(np.ravel(score(cut, signature, matrix)), shallow.predict(frame), atol=1e-4)
    whole = trees.cut_trees(6, {name: matrix})
    np.testing.assert_allclose(np.ravel(score(whole, signature, matrix)), deep.predict(frame), atol=1e-4)


def test_trees_without_rows_to_count_are_cut_in_the_middle(baseline: Path, rows: pa.Table) -> None:
    """Leaves that no calibration row reaches count alike; every score stays a probability."""
    signature, matrix = read_manifest(baseline).signature, matrix_of(rows)
    graph = TreeGraph((baseline / MODEL_FILE).read_bytes()).cut_trees(1, {signature.inputs[0].name: matrix[:1]})
    scores = score(graph, signature, matrix)
    assert np.isfinite(scores).all()
    assert 0 < scores.min() < scores.max() < 1


def test_graph_without_trees_is_told(network: Path) -> None:
    """A network has nothing to cut."""
    with pytest.raises(LookupError, match="0 tree ensembles"):
        TreeGraph(network.read_bytes())
