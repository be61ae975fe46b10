from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from offline.optimize.conftest import NAMES, write_network
from tailrace.inference.backends.onnx import open_session
from tailrace.inference.manifest import MODEL_FILE
from tailrace.inference.model_directory import read_manifest
from tailrace.offline.optimize.evidence import Evidence
from tailrace.offline.optimize.layers import halve, has_layers, optimise_graph, quantise
from tailrace.offline.optimize.making import rewrite
from tailrace.offline.optimize.recipes import Kind, Recipe, recipes_of_layers
from tailrace.release.package import package


@pytest.fixture(scope="module")
def graph(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return a network that is large enough for its weights to be most of its file."""
    return write_network(tmp_path_factory.mktemp("wide") / "wide.onnx", rows, width=256).read_bytes()


@pytest.fixture(scope="module")
def matrix(rows: pa.Table) -> np.ndarray[Any, Any]:
    """Return the rows as the network takes them."""
    return np.nan_to_num(np.column_stack([rows[name].to_numpy() for name in NAMES])).astype(np.float32)


def score(graph: bytes, matrix: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return a graph's scores."""
    scores: np.ndarray[Any, Any] = open_session(graph).run(["score"], {"features": matrix})[0]
    return scores


@pytest.mark.parametrize("recipe", recipes_of_layers(reduced=False)[:6], ids=lambda recipe: recipe.name)
def test_int8_is_near_and_a_quarter_of_the_size(graph: bytes, matrix: np.ndarray[Any, Any], recipe: Recipe) -> None:
    """Each way to int8 gives almost the scores, but for rows beyond the calibration, and weights of a byte."""
    short = quantise(graph, recipe, {"features": matrix[:300]})
    assert np.abs(score(short, matrix) - score(graph, matrix)).mean() < 0.02
    assert len(short) < 0.35 * len(graph)


def test_seven_bits_are_near_too(graph: bytes, matrix: np.ndarray[Any, Any]) -> None:
    """Weights of 7 bits, for processors that add up without VNNI, are no more than twice as far off."""
    short = quantise(graph, Recipe(kind="int8 dynamic", reduced=True), {})
    assert np.abs(score(short, matrix) - score(graph, matrix)).max() < 0.1


def test_float16_is_nearer_and_half_the_size(graph: bytes, matrix: np.ndarray[Any, Any]) -> None:
    """Half the bits give three digits; inputs and outputs stay float32."""
    half = halve(graph)
    scores = score(half, matrix)
    assert scores.dtype == np.float32
    assert np.abs(scores - score(graph, matrix)).max() < 0.005
    assert len(half) < 0.6 * len(graph)


def test_optimised_graph_scores_alike(graph: bytes, matrix: np.ndarray[Any, Any]) -> None:
    """What ONNX Runtime rewrites when it loads a graph can be written down, and computes the same."""
    np.testing.assert_allclose(score(optimise_graph(graph), matrix), score(graph, matrix), atol=1e-6)


def test_trees_have_no_layers(baseline: Path, graph: bytes) -> None:
    """Nothing is quantised that has no weights."""
    assert has_layers(graph)
    assert not has_layers((baseline / MODEL_FILE).read_bytes())


@pytest.mark.parametrize("kind", ["int8 dynamic", "int8 static", "float16"])
def test_network_behind_a_scaler_is_shortened(rows: pa.Table, tmp_path: Path, kind: Kind) -> None:
    """A pipeline of scikit-learn's has operators of another domain, behind which no type is inferred."""
    frame = rows.select(NAMES).to_pandas().fillna(0.0)
    network = MLPClassifier((32,), max_iter=20, tol=10.0, n_iter_no_change=2, random_state=0)
    model = make_pipeline(StandardScaler(), network).fit(frame, rows["fraud"].to_numpy())
    directory = package(model, frame, name="net", out=tmp_path / "net").directory
    before, signature = (directory / MODEL_FILE).read_bytes(), read_manifest(directory).signature
    feeds = {signature.inputs[0].name: frame.to_numpy(np.float32)}
    after = rewrite(before, Recipe(kind=kind), Evidence(feeds, (), np.zeros(0, np.bool_)))
    scores = [open_session(each).run([signature.output], feeds)[0] for each in (before, after)]
    assert 0 < np.abs(scores[0] - scores[1]).mean() < 0.02
