"""A trained model turned into an ONNX graph, and the signature that says what goes in and what comes out."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx import open_session
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.release.catboost_trees import catboost_graph
from tailrace.release.original import Original
from tailrace.release.pipelines import pipeline_graph
from tailrace.release.probe import probe_graph
from tailrace.release.refusals import NoGraphError
from tailrace.release.rows import read_rows
from tailrace.release.sklearn_trees import forest_graph
from tailrace.release.table import column_dtype, column_width, holds_float32, spread_rows
from tailrace.release.trees import INPUT, OUTPUT, histogram_graph, lightgbm_graph, regressor_graph

OPSET_CONVERTED: Final = 15
"""The newest operator set that onnxmltools' tree converters write."""

ROWS_RUN: Final = 8
"""Rows that an ONNX file is tried on."""

_ONNX_DTYPES: Final = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(int64)": "int64", "tensor(int32)": "int32",
    "tensor(bool)": "bool", "tensor(string)": "string",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX graph (serialised) with its signature. rewrite: the form it was rewritten to, or empty.

    session: what computes it in ONNX Runtime's place, for a model that has no graph.
    """

    graph: bytes
    signature: Signature
    rewrite: str = ""
    session: Any = None


def convert(original: Original, table: Any, target: str | None, *, embedding: bool = False) -> list[Converted]:
    """Return the model's ONNX graphs, the preferred one first; the next ones are for when its scores differ.

    table: holds the model's features, by name. target: a column of it that is no feature. embedding: its output is a
    vector a row, and no scores.
    Raises ModelPackageError when a feature is missing, NoGraphError when the converter refuses the model.
    """
    if original.framework == "none":
        return [_accept_onnx(original.model, table, target, embedding=embedding)]
    if original.framework == "pytorch":
        return [_accept_onnx(original.model.graph(), table, target, embedding=embedding)]
    names = original.features or ()
    require_columns(names, table)
    if embedding or any(column_width(table, name) for name in names):
        raise ModelPackageError(
            f"a vector, taken or given, is none of a {original.framework} model's",
            where="model",
            next="export it to ONNX, and package the .onnx file",
        )
    if original.refusal is not None:
        raise original.refusal
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the converters warn of their own dependencies
            if original.framework == "scikit-learn":
                return [_convert_sklearn(original, names, table)]
            return _convert_trees(original, names, table)
    except ModelPackageError:
        raise
    except Exception as error:  # the converters raise whatever they meet
        raise NoGraphError(
            f"the {original.framework} {original.model_type} cannot be converted to ONNX: "
            + str(error).splitlines()[0][:300],
            where="model",
            next="export it to ONNX yourself and package the .onnx file",
        ) from error


def require_columns(names: tuple[str, ...], table: Any) -> None:
    """Raise ModelPackageError unless the data has every feature that the model was trained on."""
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ModelPackageError(
            f"the model wants {len(names)} features; the data has no column for {missing[:5]}",
            where="data",
            next=f"give data with the columns the model was trained on: {', '.join(names[:8])}"
            + (", …" if len(names) > 8 else ""),
        )
    for name in names:
        column_dtype(table, name)


def _convert_trees(original: Original, names: tuple[str, ...], table: Any) -> list[Converted]:
    """Return CatBoost's, LightGBM's or XGBoost's trees, in the fast form first where there is one."""
    if original.framework == "catboost":
        return [_fast(catboost_graph(original.model), (TensorSpec(INPUT, "float32", names),), original)]
    from onnxmltools import convert_lightgbm, convert_xgboost
    from onnxmltools.convert.common.data_types import FloatTensorType

    inputs = (TensorSpec(INPUT, "float32", names),)
    types = [(INPUT, FloatTensorType([None, len(names)]))]
    if original.framework == "lightgbm":
        exact = [holds_float32(table, name) for name in names]
        fast = lightgbm_graph(original.model.dump_model(), exact, margin=original.margin)
        if fast is None and original.margin:
            raise ModelPackageError(
                "its trees split on categories, and it is calibrated by what they sum up to",
                where="model",
                next="encode the categories in the features, or calibrate it by `tailrace package --calibrate`",
            )
        if fast is not None:
            return [_fast(fast, inputs, original)]
        plain = convert_lightgbm(original.model, initial_types=types, zipmap=False, target_opset=OPSET_CONVERTED)
    else:
        plain = convert_xgboost(original.model, initial_types=types, target_opset=OPSET_CONVERTED)
    found = [Converted(plain.SerializeToString(), _classic_signature(plain, inputs, original))]
    fast = regressor_graph(plain)
    return [_fast(fast, inputs, original), *found] if fast is not None else found


def _fast(graph: Any, inputs: tuple[TensorSpec, ...], original: Original) -> Converted:
    form = "+".join(node.op_type for node in graph.graph.node)
    return Converted(graph.SerializeToString(), Signature.of_scores(inputs, OUTPUT, original.classes), form)


def _classic_signature(graph: Any, inputs: tuple[TensorSpec, ...], original: Original) -> Signature:
    """Return the signature of a converter's graph: a classifier's last output is its probabilities."""
    return Signature.of_classes(inputs, graph.graph.output[-1].name, original.classes)


def _convert_sklearn(original: Original, names: tuple[str, ...], table: Any) -> Converted:
    """Return a scikit-learn model: one float matrix, or one input a column where it knows columns by name."""
    exact = [holds_float32(table, name) for name in names]
    trees = forest_graph(original.model) or histogram_graph(original.model, exact, margin=original.margin)
    if trees is not None:
        return _fast(trees, (TensorSpec(INPUT, "float32", names),), original)
    dtypes = {name: column_dtype(table, name) for name in names}
    graph, inputs = pipeline_graph(original.model, dtypes, margin=original.margin)
    return Converted(graph.SerializeToString(), _classic_signature(graph, inputs, original))


def _accept_onnx(graph: bytes, table: Any, target: str | None, *, embedding: bool) -> Converted:
    """Return an ONNX file as it is, with the data's columns as its features."""
    session = open_session(graph)
    inputs = find_inputs(session.get_inputs(), table, target)
    output = session.get_outputs()[-1]
    if output.type not in {"tensor(float)", "tensor(double)"}:
        raise ModelPackageError(
            f"the graph's last output {output.name!r} is {output.type}, not scores",
            where="model",
            next="export it with the probabilities as a tensor (no ZipMap) and as the last output",
        )
    width = _measure_width(graph, session, output.name, inputs, table)
    if embedding and width == 1:
        raise ModelPackageError("it gives one number a row, no vector", where="model", next="leave out --embedding")
    if embedding:
        return Converted(graph, Signature(inputs, output.name, None, vector=width))
    classes = tuple(range(width)) if width > 1 else ()
    return Converted(graph, Signature.of_classes(inputs, output.name, classes))


def find_inputs(tensors: Sequence[Any], table: Any, target: str | None) -> tuple[TensorSpec, ...]:
    """Return what fills the inputs of an ONNX file, or of what has inputs as that has.

    One input takes all columns in order; several inputs take the columns of their names, one each. A column of vectors
    fills as many of an input's as they are long.
    """
    columns = tuple(name for name in table.column_names if name != target)
    unknown = [tensor.type for tensor in tensors if tensor.type not in _ONNX_DTYPES]
    if unknown:
        raise ModelPackageError(
            f"the graph has an input of {unknown[0]}", where="model", next=f"use one of {', '.join(_ONNX_DTYPES)}"
        )
    if len(tensors) > 1:
        require_columns(tuple(tensor.name for tensor in tensors), table)
        specs = [_spec_of(tensor, (tensor.name,), table) for tensor in tensors]
    else:
        specs = [_spec_of(tensors[0], columns, table)]
    for tensor, spec in zip(tensors, specs, strict=True):
        width = tensor.shape[1] if len(tensor.shape) > 1 else None
        if isinstance(width, int) and width != spec.width:
            raise ModelPackageError(
                f"the graph's input {tensor.name!r} has {width} columns; the data has {spec.width}",
                where="data",
                next="give exactly the features, in the order the model was trained on",
            )
    return tuple(specs)


def _spec_of(tensor: Any, names: tuple[str, ...], table: Any) -> TensorSpec:
    widths = tuple(column_width(table, name) or 1 for name in names)
    return TensorSpec(tensor.name, _ONNX_DTYPES[tensor.type], names, widths if max(widths, default=1) > 1 else ())


def _measure_width(graph: bytes, session: Any, output: str, inputs: tuple[TensorSpec, ...], table: Any) -> int:
    """Return how many scores a row gets: computed, since a graph may declare its shape by names, or not at all."""
    rows = read_rows(spread_rows(table, ROWS_RUN), tuple(name for spec in inputs for name in spec.features))
    rows = rows.take(np.arange(ROWS_RUN) % len(rows))
    try:
        probe_graph(graph, rows.feeds(inputs))
        shape = session.run([output], rows.feeds(inputs))[0].shape
    except ModelPackageError:
        raise
    except Exception as error:  # ONNX Runtime's exceptions share no base of their own
        raise ModelPackageError(
            f"the graph cannot be computed on the data: {str(error).splitlines()[0][:300]}",
            where="model",
            next=f"export it with a batch dimension of any size, for the {len(rows.columns)} columns of the data",
        ) from error
    if shape[:1] != (ROWS_RUN,) or len(shape) > 2 or 0 in shape:
        raise ModelPackageError(
            f"the graph's last output {output!r} has the shape {shape} for {ROWS_RUN} rows",
            where="model",
            next="export it with one score a row, or one a class, as the last output",
        )
    return int(shape[1]) if len(shape) == 2 else 1
