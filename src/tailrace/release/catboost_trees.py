"""CatBoost's trees as an ONNX graph.

The graph is written here, from the model's own JSON: CatBoost's export ends in a ZipMap, and has no form for trees that
are not oblivious. Its borders are float32 already, and `x > border` goes right, so nothing is rounded. A tree stays
oblivious in the graph, where the forest kernel finds it to be so (`release.forest`).
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.catboost import EXPONENTIAL, find_loss
from tailrace.release.trees import build_graph

_LINKS: Final = {
    "Logloss": "Sigmoid", "CrossEntropy": "Sigmoid", "MultiClass": "Softmax", "MultiClassOneVsAll": "Sigmoid",
    **dict.fromkeys(EXPONENTIAL, "Exp"),
}  # fmt: skip
"""The operator behind the trees, by the loss; none behind all others."""
_NODES: Final = (
    "treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids", "missing_value_tracks_true",
)  # fmt: skip


def catboost_graph(model: Any) -> Any:
    """Return an ONNX model of a CatBoost model. Raises ModelPackageError for a split or a loss without a form in it."""
    found = _read_json(model)
    scale, bias = found["scale_and_bias"]
    targets = len(bias)
    classes = len(model.classes_)
    loss = find_loss(model)
    if (classes <= 2 and targets != 1) or (classes > 2 and targets != classes):
        raise ModelPackageError(
            f"the CatBoost model of the loss {loss!r} gives {targets} numbers a row",
            where="model",
            next="train it with a loss of one score, or one a class",
        )
    trees = _Trees(found["features_info"]["float_features"], scale, targets)
    for tree in found.get("oblivious_trees") or ():
        trees.add_oblivious(tree["splits"], np.reshape(tree["leaf_values"], (-1, targets)))
    for tree in found.get("trees") or ():
        trees.add(tree)
    attributes = trees.attributes() | {"base_values": [float(value) for value in bias]}
    return build_graph(attributes, _LINKS.get(loss, ""), len(model.feature_names_), targets)


def _read_json(model: Any) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save_model(str(path), format="json")
        found: dict[str, Any] = json.loads(path.read_bytes())
    return found


class _Trees:
    """The parallel lists that a TreeEnsembleRegressor wants, filled tree by tree."""

    def __init__(self, features: list[dict[str, Any]], scale: float, targets: int) -> None:
        self._columns = [int(feature["flat_feature_index"]) for feature in features]
        # NaN is below every border, or above it where it was the largest in training.
        self._missing_left = [int(feature["nan_value_treatment"] != "AsTrue") for feature in features]
        self._scale = scale
        self._targets = targets
        self._nodes: dict[str, list[Any]] = {name: [] for name in _NODES}
        self._leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}
        self._count = 0

    def add_oblivious(self, splits: list[dict[str, Any]], values: NDArray[np.float64]) -> None:
        """Append a tree that asks the same at every node of a level; its first split is the lowest bit of a leaf."""
        inner = len(values) - 1
        for level, split in enumerate(reversed(splits)):
            for node in range((1 << level) - 1, (2 << level) - 1):
                self._add_split(node, split, 2 * node + 1)
        for leaf, weights in enumerate(values):
            self._add_leaf(inner + leaf, weights)
        self._count += 1

    def add(self, root: dict[str, Any]) -> None:
        """Append a tree of any form."""
        queue = [root]
        for node, each in enumerate(queue):
            if "split" in each:
                self._add_split(node, each["split"], len(queue))
                queue += [each["left"], each["right"]]
            else:
                self._add_leaf(node, np.ravel(each["value"]))
        self._count += 1

    def attributes(self) -> dict[str, Any]:
        """Return the attributes of the operator."""
        return {
            **{f"nodes_{name}": values for name, values in self._nodes.items()},
            **{f"target_{name}": values for name, values in self._leaves.items()},
            "n_targets": self._targets,
        }

    def _add_split(self, node: int, split: dict[str, Any], left: int) -> None:
        if split["split_type"] != "FloatFeature":
            raise ModelPackageError(
                f"the CatBoost model has a split of the type {split['split_type']}",
                where="model",
                next="train it on numbers: encode the categories in the feature view",
            )
        feature = int(split["float_feature_index"])
        self._append(node, self._columns[feature], "BRANCH_LEQ", float(split["border"]), left, left + 1,
                     self._missing_left[feature])  # fmt: skip

    def _add_leaf(self, node: int, values: NDArray[np.float64]) -> None:
        self._append(node, 0, "LEAF", 0.0, 0, 0, 0)
        for target, value in enumerate(values):
            for name, cell in zip(self._leaves, (self._count, node, target, float(value) * self._scale), strict=True):
                self._leaves[name].append(cell)

    def _append(self, *values: Any) -> None:
        for name, value in zip(self._nodes, (self._count, *values), strict=True):
            self._nodes[name].append(value)
