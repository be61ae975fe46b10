"""Tree ensembles in the graph form that ONNX Runtime computes fastest: a regressor, and a link of its own.

The converters write a classifier of two classes as `TreeEnsembleClassifier`, which also finds labels and writes both
probabilities. `TreeEnsembleRegressor` and `Sigmoid` give the same score in a quarter less time (docs/performance.md).

LightGBM's and scikit-learn's histogram trees are written here rather than by a converter: their thresholds are doubles
and the inputs are float32. For a feature whose values are float32 a threshold is rounded down, so that `x <= threshold`
is the same for each of them; rounded to the nearest it may pass the value it stands below. For a feature whose values
are doubles the threshold is rounded as they are, to the nearest: it may be one of them (scikit-learn's often are), and
rounded down it would come to stand below that value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from tailrace.errors import ModelPackageError
from tailrace.release.refusals import NoGraphError

INPUT: Final = "features"
OUTPUT: Final = "score"
OPSET: Final = 17
OPSET_ML: Final = 1
IR_VERSION: Final = 8

_IDENTITY_OBJECTIVES: Final = {
    "regression", "regression_l1", "huber", "fair", "quantile", "mape", "lambdarank", "rank_xendcg",
}  # fmt: skip
_LOSSES: Final = {"squared_error": "", "absolute_error": "", "quantile": "", "poisson": "Exp", "gamma": "Exp"}
"""The operator behind scikit-learn's trees, by their loss; "" for none."""
_HISTOGRAM_FIELDS: Final = (
    "is_categorical", "is_leaf", "value", "feature_idx", "num_threshold", "left", "right", "missing_go_to_left",
)  # fmt: skip
_LINKS: Final = {
    "cross_entropy": "Sigmoid", "multiclass": "Softmax", "poisson": "Exp", "gamma": "Exp", "tweedie": "Exp",
}  # fmt: skip


def lightgbm_graph(dump: dict[str, Any], exact: Sequence[bool], *, margin: bool = False) -> Any | None:
    """Return an ONNX model of LightGBM's `Booster.dump_model()`, or None for what only onnxmltools converts.

    exact: of each feature, whether its values are float32. margin: the sum of the trees, without a link.
    Categorical splits and custom objectives are left to it.
    Raises NoGraphError for zeros as missing values and for linear trees, which have no form in ONNX.
    """
    objective, *options = str(dump["objective"] or "").split(" ")
    link, scale = ("", 1.0) if margin else _lightgbm_link(objective, options)
    targets = int(dump["num_tree_per_iteration"])
    forest = bool(dump["average_output"])
    trees = _Trees(exact, scale * targets / len(dump["tree_info"]) if forest else scale)
    added = [trees.add(tree["tree_structure"], place, place % targets) for place, tree in enumerate(dump["tree_info"])]
    if link is None or not all(added):
        if forest:
            raise _no_form(f"a random forest on categories, or of the objective {objective!r}", "boosting=rf")
        return None
    return build_graph(trees.attributes(targets), link, int(dump["max_feature_idx"]) + 1, targets)


def histogram_graph(model: Any, exact: Sequence[bool], *, margin: bool = False) -> Any | None:
    """Return an ONNX model of scikit-learn's histogram gradient boosting, or None for another model.

    exact: of each feature, whether its values are float32. margin: the sum of the trees, without a link.
    Written here since skl2onnx's graph of it is refused by newer versions of onnx.
    Raises NoGraphError for splits on categories.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor

    classifier = type(model) is HistGradientBoostingClassifier
    if not classifier and not (type(model) is HistGradientBoostingRegressor and model.loss in _LOSSES):
        return None
    targets = model.n_trees_per_iteration_
    trees = _Trees(exact)
    tables, baseline = _histogram_parts(model)
    for index, nodes in enumerate(tables):
        for position, node in enumerate(nodes):
            if node["is_categorical"]:
                raise _no_form("splits on categories", "categorical_features", "scikit-learn")
            if node["is_leaf"]:
                trees.add_leaf(index, position, index % targets, float(node["value"]))
            else:
                trees.add_split(
                    index, position, int(node["feature_idx"]), float(node["num_threshold"]),
                    int(node["left"]), int(node["right"]), bool(node["missing_go_to_left"]),
                )  # fmt: skip
    attributes = trees.attributes(targets)
    attributes["base_values"] = baseline
    link = ("Softmax" if targets > 1 else "Sigmoid") if classifier else _LOSSES[model.loss]
    return build_graph(attributes, "" if margin else link, int(model.n_features_in_), targets)


def _histogram_parts(model: Any) -> tuple[list[Any], list[float]]:
    """Return the nodes of each histogram tree, as a structured array, and the scores that they are added to.

    scikit-learn makes neither public, so its version is pinned (pyproject.toml), and this is the one place that reads
    them. Raises ModelPackageError for a version that has them otherwise.
    """
    import sklearn

    try:
        tables = [predictor.nodes for iteration in model._predictors for predictor in iteration]
        baseline = [float(value) for value in np.ravel(model._baseline_prediction)]
        missing = [name for name in _HISTOGRAM_FIELDS if any(name not in nodes.dtype.names for nodes in tables)]
    except (AttributeError, TypeError) as error:
        missing = [str(error)]
    if missing:
        raise ModelPackageError(
            f"scikit-learn {sklearn.__version__} keeps histogram trees otherwise than 1.6 to 1.9 do: {missing[0]}",
            where="model",
            next="install scikit-learn below 1.10, or export the model to ONNX yourself and package the .onnx file",
        )
    return tables, baseline


def regressor_graph(model: Any) -> Any | None:
    """Return a two-class `TreeEnsembleClassifier` model rewritten to a regressor and a sigmoid, or None if it is none.

    Only a graph whose one tree classifier reads the input itself and has a logistic score of one weight a leaf is
    rewritten; that the scores stayed the same is for the caller to check.
    """
    from onnx import helper

    nodes = [node for node in model.graph.node if node.op_type not in {"Identity", "Cast", "ZipMap", "Mul"}]
    if len(nodes) != 1 or nodes[0].op_type != "TreeEnsembleClassifier" or len(model.graph.input) != 1:
        return None
    tensor = model.graph.input[0]
    found = {item.name: helper.get_attribute_value(item) for item in nodes[0].attribute}
    labels = found.get("classlabels_int64s") or found.get("classlabels_strings") or ()
    logistic = found.get("post_transform") == b"LOGISTIC"
    if nodes[0].input[0] != tensor.name or len(labels) != 2 or not logistic or len(set(found["class_ids"])) != 1:
        return None
    attributes = {name: value for name, value in found.items() if name.startswith("nodes_")}
    attributes.pop("nodes_hitrates", None)
    for name in ("ids", "nodeids", "treeids", "weights"):
        attributes[f"target_{name}"] = found[f"class_{name}"]
    attributes["target_ids"] = [0] * len(found["class_ids"])
    base = [float(value) for value in found.get("base_values") or ()]
    if len(base) > 1:
        return None
    if base:
        attributes["base_values"] = base
    width = tensor.type.tensor_type.shape.dim[1].dim_value
    return build_graph({**attributes, "n_targets": 1}, "Sigmoid", width, 1)


def build_graph(attributes: dict[str, Any], link: str, features: int, targets: int) -> Any:
    """Return the ONNX model of a `TreeEnsembleRegressor` with these attributes and a link ("" for none) behind it."""
    from onnx import TensorProto, checker, helper

    raw = "raw" if link else OUTPUT
    nodes = [
        helper.make_node(
            "TreeEnsembleRegressor",
            [INPUT],
            [raw],
            domain="ai.onnx.ml",
            aggregate_function="SUM",
            post_transform="NONE",
            **attributes,
        )
    ]
    if link:
        nodes.append(helper.make_node(link, [raw], [OUTPUT]))  # a Softmax is over the last axis
    graph = helper.make_graph(
        nodes,
        "tailrace",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [None, features])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, [None, targets])],
    )
    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid("ai.onnx.ml", OPSET_ML)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="tailrace")
    checker.check_model(model)
    return model


def round_down(threshold: float) -> float:
    """Return the largest float32 that is not above a double threshold."""
    with np.errstate(over="ignore"):
        near = np.float32(threshold)
    return float(np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near)


def round_near(threshold: float) -> float:
    """Return the float32 nearest to a double threshold; the largest there is for one beyond."""
    with np.errstate(over="ignore"):
        near = float(np.float32(threshold))
    return near if np.isfinite(near) else round_down(threshold)


def _lightgbm_link(objective: str, options: list[str]) -> tuple[str | None, float]:
    """Return the operator behind the trees for an objective, and what a leaf is multiplied by before it.

    "" for no operator, None for an objective not known here.
    """
    if objective in {"binary", "multiclassova"}:
        sigmoid = [float(option.partition(":")[2]) for option in options if option.startswith("sigmoid:")]
        return ("Sigmoid", sigmoid[0]) if sigmoid else (None, 1.0)
    if objective in _LINKS:
        return _LINKS[objective], 1.0
    return ("" if objective in _IDENTITY_OBJECTIVES and not options else None), 1.0


def _no_form(what: str, option: str, framework: str = "LightGBM") -> NoGraphError:
    return NoGraphError(
        f"the {framework} model has {what}, for which there is no form in ONNX",
        where="model",
        next=f"train it without {option}",
    )


class _Trees:
    """The parallel lists that a TreeEnsembleRegressor wants, filled tree by tree."""

    def __init__(self, exact: Sequence[bool], scale: float = 1.0) -> None:
        self.rounds = [round_down if each else round_near for each in exact]
        self.scale = scale
        self.nodes: dict[str, list[Any]] = {
            name: []
            for name in ("treeids", "nodeids", "featureids", "modes", "values", "truenodeids", "falsenodeids",
                         "missing_value_tracks_true")
        }  # fmt: skip
        self.leaves: dict[str, list[Any]] = {name: [] for name in ("treeids", "nodeids", "ids", "weights")}

    def add(self, root: dict[str, Any], tree: int, target: int) -> bool:
        """Append one tree; return False if it holds a split that cannot be written."""
        stack: list[tuple[dict[str, Any], int]] = [(root, 0)]
        count = 1
        while stack:
            node, index = stack.pop()
            if "split_feature" not in node:
                if "leaf_coeff" in node:
                    raise _no_form("linear models in its leaves", "linear_tree")
                self.add_leaf(tree, index, target, float(node["leaf_value"]))
                continue
            if node["missing_type"] == "Zero":
                raise _no_form("zero as a missing value", "zero_as_missing")
            if node["decision_type"] != "<=":
                return False
            threshold = float(node["threshold"])
            # LightGBM takes NaN for 0.0 in a feature that had none in training.
            missing_left = node["default_left"] if node["missing_type"] == "NaN" else threshold >= 0.0
            left, right, count = count, count + 1, count + 2
            feature = int(node["split_feature"])
            self.add_split(tree, index, feature, threshold, left, right, bool(missing_left))
            stack += [(node["right_child"], right), (node["left_child"], left)]
        return True

    def attributes(self, targets: int) -> dict[str, Any]:
        """Return the attributes of the operator."""
        return {
            **{f"nodes_{name}": values for name, values in self.nodes.items()},
            **{f"target_{name}": values for name, values in self.leaves.items()},
            "n_targets": targets,
        }

    def add_leaf(self, tree: int, index: int, target: int, value: float) -> None:
        """Append the leaf `index` of a tree."""
        self._append(tree, index, 0, "LEAF", 0.0, 0, 0, 0)
        for name, cell in zip(self.leaves, (tree, index, target, value * self.scale), strict=True):
            self.leaves[name].append(cell)

    def add_split(
        self, tree: int, index: int, feature: int, threshold: float, left: int, right: int, missing_left: bool
    ) -> None:
        """Append the split `index` of a tree: to the left where the feature is at most the double threshold."""
        rounded = self.rounds[feature](threshold)
        self._append(tree, index, feature, "BRANCH_LEQ", rounded, left, right, int(missing_left))

    def _append(self, *values: Any) -> None:
        for name, value in zip(self.nodes, values, strict=True):
            self.nodes[name].append(value)
