"""A CalibratedClassifierCV of several classifiers, or of several classes, in a graph: the curves are part of it.

skl2onnx's own converter takes the nearest point of an isotonic curve, where scikit-learn goes straight between two.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tailrace.inference.calibration import Isotonic
from tailrace.release.calibration import read_fitted
from tailrace.release.graph_writer import GraphWriter


def shape_calibrated(operator: Any) -> None:
    """Set the types of the label and the probabilities of a `CalibratedClassifierCV`, for skl2onnx: of any inputs."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType, StringTensorType

    classes = operator.raw_operator.classes_
    operator.outputs[0].type = (StringTensorType if classes.dtype.kind in "OUS" else Int64TensorType)([None])
    operator.outputs[1].type = FloatTensorType([None, len(classes)])


def convert_calibrated(scope: Any, operator: Any, container: Any) -> None:
    """Write a `CalibratedClassifierCV` into a graph, for skl2onnx: labels and probabilities, (rows, classes)."""
    from onnx import TensorProto

    graph = GraphWriter(scope, container)
    model = operator.raw_operator
    parts = [
        _write_member(graph, scope, operator, container, member, len(model.classes_))
        for member in model.calibrated_classifiers_
    ]
    label, probability = (output.full_name for output in operator.outputs)
    total = parts[0] if len(parts) == 1 else graph.node("Sum", parts)
    graph.write("Div", [total, graph.constant(np.array([len(parts)], np.float32))], probability)
    best = graph.node("ArgMax", [probability], axis=1, keepdims=0)
    if model.classes_.dtype.kind in "OUS":
        names = graph.texts([str(each) for each in model.classes_])
        graph.write("Gather", [names, best], label)
    else:
        known = graph.constant(model.classes_.astype(np.int64))
        graph.write("Cast", [graph.node("Gather", [known, best])], label, to=TensorProto.INT64)


def _write_member(graph: GraphWriter, scope: Any, operator: Any, container: Any, member: Any, classes: int) -> str:
    """Write one calibrated classifier, and return its probabilities, (rows, classes)."""
    from onnx import TensorProto

    raw = _write_classifier(graph, scope, operator, container, member.estimator)
    one = graph.constant(np.ones(1, np.float32))
    columns = []
    for place, calibrator in enumerate(member.calibrators):
        wanted = place + 1 if classes == 2 else place
        column = graph.node("Gather", [raw, graph.constant(np.array([wanted], np.int64))], axis=1)
        columns.append(_write_curve(graph, read_fitted(calibrator), column))
    if classes == 2:
        return graph.node("Concat", [graph.node("Sub", [one, columns[0]]), columns[0]], axis=1)
    joined = graph.node("Concat", columns, axis=1)
    total = graph.node("ReduceSum", [joined, graph.constant(np.array([1], np.int64))], keepdims=1)
    # Where no class has a probability they have equal ones, as in scikit-learn.
    none = graph.node("Not", [graph.node("Cast", [total], to=TensorProto.BOOL)])
    equal = graph.constant(np.full(classes, 1.0 / classes, np.float32))
    shares = graph.node("Div", [joined, graph.node("Where", [none, one, total])])
    return graph.node("Where", [none, equal, shares])


def _write_classifier(graph: GraphWriter, scope: Any, operator: Any, container: Any, classifier: Any) -> str:
    """Write the classifier inside, and return what scikit-learn calibrates: its `decision_function`, if it has one."""
    from skl2onnx._supported_operators import sklearn_operator_name_map
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    inner = classifier.estimator if type(classifier).__name__ == "FrozenEstimator" else classifier
    last = inner.steps[-1][1] if hasattr(inner, "steps") else inner
    margin, boosted = hasattr(inner, "decision_function"), type(last).__module__.startswith("lightgbm")
    options = {"raw_scores": True} if margin and not boosted else {}
    options |= {"zipmap": False} if hasattr(last, "predict_proba") else {}
    container.add_options(id(last), options)
    scope.add_options(id(last), options)
    found = scope.declare_local_operator(sklearn_operator_name_map[type(inner)], inner)
    found.inputs = operator.inputs
    found.outputs.append(scope.declare_local_variable("label", Int64TensorType()))
    found.outputs.append(scope.declare_local_variable("raw", FloatTensorType()))
    name: str = found.outputs[1].full_name
    return _write_odds(graph, name) if margin and boosted else name


def _write_odds(graph: GraphWriter, probabilities: str) -> str:
    """Return the log odds of two probabilities, (rows, 2): LightGBM's margin, which onnxmltools does not give."""
    least = graph.constant(np.array([np.finfo(np.float32).tiny], np.float32))
    logarithms = graph.node("Log", [graph.node("Max", [probabilities, least])])
    turned = graph.node("Gather", [logarithms, graph.constant(np.array([1, 0], np.int64))], axis=1)
    return graph.node("Sub", [logarithms, turned])


def _write_curve(graph: GraphWriter, curve: Any, column: str) -> str:
    """Write a calibration of a score, (rows, 1), and return the probabilities, (rows, 1)."""
    from onnx import TensorProto

    if not isinstance(curve, Isotonic):
        slope, shift = (graph.constant(np.array([value], np.float32)) for value in (-curve.a, -curve.b))
        return graph.node("Sigmoid", [graph.node("Add", [graph.node("Mul", [column, slope]), shift])])
    x, y = np.array(curve.x, np.float32), np.array(curve.y, np.float32)
    slopes = np.append(np.diff(curve.y) / np.diff(curve.x), 0.0).astype(np.float32)
    inside = graph.node("Clip", [column, graph.scalar(float(x[0])), graph.scalar(float(x[-1]))])
    # The piece that a score is in: one fewer than the points that are not above it.
    passed = graph.node("Cast", [graph.node("GreaterOrEqual", [inside, graph.constant(x)])], to=TensorProto.INT64)
    axis = graph.constant(np.array([1], np.int64))
    piece = graph.node("Sub", [graph.node("ReduceSum", [passed, axis], keepdims=1), axis])
    start, base, slope = (graph.node("Gather", [graph.constant(each), piece]) for each in (x, y, slopes))
    return graph.node("Add", [base, graph.node("Mul", [slope, graph.node("Sub", [inside, start])])])
