"""Forests in ONNX graphs as tables: what is laid out is what the graph computes, and what is no forest is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import pytest
from onnx import helper, load_from_string
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier, RandomForestRegressor

from inference.forest_models import Many
from inference.tree_models import Forest, draw_forest, scaled_graph, signature_of
from tailrace.inference.backends.forest import LIBRARY, ForestModel
from tailrace.inference.backends.onnx import OnnxModel
from tailrace.inference.loading import load_model
from tailrace.release.forest import lay_out_forest, suits_forest
from tailrace.release.package import package
from tailrace.release.tree_graph import NoTablesError

NAMES = ["a", "b", "c", "d"]

MODELS: dict[str, tuple[str, Any]] = {
    "two classes": ("fraud", RandomForestClassifier(12, random_state=0)),
    "three classes": ("kind", RandomForestClassifier(12, random_state=0)),
    "amounts": ("loss", RandomForestRegressor(12, random_state=0)),
    "extra trees": ("loss", ExtraTreesRegressor(12, random_state=0)),
}


@pytest.mark.parametrize("kind", MODELS)
def test_forest_without_a_limit_of_depth_scores_as_the_original(kind: str, tmp_path: Path) -> None:
    """scikit-learn's own scores on rows with gaps; ONNX Runtime's beside every threshold, at infinity and zero."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1200, 4)).astype(np.float32)
    signal = values[:, 0] * 2 + np.sin(values[:, 1] * 3) + rng.normal(size=1200)
    values[::6, 2] = np.nan
    frame = pd.DataFrame(values, columns=NAMES)
    outcomes = {"fraud": signal > 0, "kind": np.digitize(signal, [-1.0, 1.0]), "loss": signal}
    target, model = MODELS[kind]
    model.fit(frame, outcomes[target])
    report = package(model, frame, name="m", out=tmp_path / "m")
    served = load_model(tmp_path / "m")
    expected = model.predict(frame) if target == "loss" else model.predict_proba(frame)
    expected = expected[:, 1] if target == "fraud" else expected
    name = report.manifest.signature.inputs[0].name
    np.testing.assert_allclose(served.predict({name: values}), expected, rtol=1e-5, atol=1e-5)
    if not LIBRARY.is_file():
        return
    assert isinstance(served, ForestModel)
    columns, thresholds = served.tables.conditions()
    assert len(thresholds) > 12 * 64
    probes = rng.normal(size=(2000, 4)).astype(np.float32)
    for column in range(4):
        near = thresholds[columns == column]
        sides = [np.nextafter(near, np.float32(side)) for side in (-np.inf, np.inf)]
        candidates = np.concatenate([near, *sides, np.array([np.nan, np.inf, -np.inf, 0.0, -0.0], np.float32)])
        probes[:, column] = rng.choice(candidates, len(probes))
    beside = OnnxModel.load(tmp_path / "m").predict({name: probes})
    np.testing.assert_allclose(served.predict({name: probes}), beside, rtol=1e-6, atol=1e-6)


def spoiled(change: Callable[[dict[str, Any]], None]) -> bytes:
    """Return the graph of a forest whose attributes were changed, unchecked."""
    model = load_from_string(draw_forest(0, features=3, trees=4, leaves=9).graph())
    node = model.graph.node[0]
    found = {item.name: helper.get_attribute_value(item) for item in node.attribute}
    change(found)
    del node.attribute[:]
    node.attribute.extend(helper.make_attribute(name, value) for name, value in found.items())
    content: bytes = model.SerializeToString()
    return content


def child_of_itself(found: dict[str, Any]) -> None:
    """Make a node the child of the node below it: a walk would go round."""
    place = next(i for i, mode in enumerate(found["nodes_modes"]) if mode != b"LEAF" and found["nodes_nodeids"][i] > 0)
    found["nodes_truenodeids"][place] = found["nodes_nodeids"][place]


def child_that_is_not_there(found: dict[str, Any]) -> None:
    """Point a node at one that the tree has not."""
    found["nodes_truenodeids"][next(i for i, mode in enumerate(found["nodes_modes"]) if mode != b"LEAF")] = 1_000_000


def child_of_two(found: dict[str, Any]) -> None:
    """Give a node one child on both sides."""
    place = next(i for i, mode in enumerate(found["nodes_modes"]) if mode != b"LEAF")
    found["nodes_truenodeids"][place] = found["nodes_falsenodeids"][place]


def same_number_twice(found: dict[str, Any]) -> None:
    """Give two nodes one number."""
    found["nodes_nodeids"][-1] = found["nodes_nodeids"][-2]


def negative_number(found: dict[str, Any]) -> None:
    """Give a node a number below zero."""
    found["nodes_nodeids"][-1] = -5


def feature_beyond(found: dict[str, Any]) -> None:
    """Test a feature that the input has not."""
    found["nodes_featureids"][next(i for i, mode in enumerate(found["nodes_modes"]) if mode != b"LEAF")] = 3


def threshold_of_nan(found: dict[str, Any]) -> None:
    """Test against no number."""
    found["nodes_values"][next(i for i, mode in enumerate(found["nodes_modes"]) if mode != b"LEAF")] = float("nan")


def weight_twice(found: dict[str, Any]) -> None:
    """Give a leaf two weights."""
    for name in ("target_treeids", "target_nodeids", "target_ids", "target_weights"):
        found[name] = [*found[name], found[name][0]]


def largest_of_all(found: dict[str, Any]) -> None:
    """Put the trees together by their largest."""
    found["aggregate_function"] = b"MAX"


FAULTS = {
    child_of_itself: "a tree has no root|child of",
    child_that_is_not_there: "a node is not there",
    child_of_two: "a tree has no root|child of",
    same_number_twice: "have one id",
    negative_number: "out of bounds",
    feature_beyond: "a feature that the input has not",
    threshold_of_nan: "a threshold is no number",
    weight_twice: "two weights",
    largest_of_all: "put together by MAX",
}


@pytest.mark.parametrize("change", FAULTS, ids=lambda change: change.__name__)
def test_graph_that_is_no_forest_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """It ends, and says what is wrong: such a graph is ONNX Runtime's to refuse or to compute."""
    graph = spoiled(change)
    with pytest.raises(NoTablesError, match=FAULTS[change]):
        lay_out_forest(graph, signature_of(3))


def test_features_that_are_changed_first_are_refused() -> None:
    """The trees read the input itself."""
    with pytest.raises(NoTablesError, match="changed before"):
        lay_out_forest(scaled_graph(draw_forest(0, features=3, trees=4, leaves=9)), signature_of(3))


def test_score_that_depends_on_others_is_refused() -> None:
    """One column of a softmax needs them all."""
    many = Many(draw_forest(0, features=3, trees=6, leaves=9), 3)
    graph = many.graph("Softmax")
    assert lay_out_forest(graph, many.signature).outputs == 3
    with pytest.raises(NoTablesError, match="depends on all"):
        lay_out_forest(graph, msgspec.structs.replace(many.signature, column=1))


@pytest.mark.parametrize(("features", "suits"), [(64, False), (65, True)])
def test_trees_of_many_features_suit_it(features: int, suits: bool) -> None:
    """Bit vectors look every feature up; walks, those that they come by."""
    forest = Forest(features)
    for feature in range(features):
        other = (feature + 1) % features
        forest.add((feature, 0.5, "BRANCH_LEQ", False, 0.25, (other, 1.5, "BRANCH_LEQ", False, 0.5, 1.0)))
    assert suits_forest(forest.graph(), signature_of(features)) == suits
