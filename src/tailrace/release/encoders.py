"""scikit-learn's encoders of categories as look-ups in a graph: each category's code, asked of the fitted encoder.

skl2onnx has converters of its own. They write the category None or NaN as the text "None" or "nan", leave out that an
`OrdinalEncoder` refuses a category it has not seen, and cannot group rare categories or encode by three classes. Here
the encoder itself encodes every category once, and one that it has not seen; the graph looks these codes up.
"""

from __future__ import annotations

import warnings
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.release.graph_writer import NAN, GraphWriter

UNSEEN: Final = "\x00unseen"
"""A text that no category is."""


@dataclass(frozen=True, slots=True)
class Codes:
    """One column of an encoder. keys: its categories, without null; codes: (categories, columns).

    A one-hot code is one number, the place of its 1, or -1 without any: many categories make no large table.
    width: the columns that the encoder makes. null: the code of a null; None where nulls have none of their own.
    unseen: that of a category which training had not seen; None where the encoder refuses it.
    """

    keys: NDArray[Any]
    codes: NDArray[np.float64]
    null: NDArray[np.float64] | None
    unseen: NDArray[np.float64] | None
    width: int


def encoder_types() -> tuple[type, ...]:
    """Return the classes of encoders that are read here."""
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, TargetEncoder

    return OneHotEncoder, OrdinalEncoder, TargetEncoder


def is_null(category: Any) -> bool:
    """Return whether a category stands for a null: None or NaN."""
    return category is None or (isinstance(category, float | np.floating) and bool(np.isnan(category)))


def read_known(encoder: Any, column: int) -> tuple[NDArray[Any], bool, bool]:
    """Return a column's categories without null, whether null is one of them, and whether it refuses any other."""
    categories = encoder.categories_[column]
    nulls = np.array([is_null(category) for category in categories], np.bool_)
    return categories[~nulls], bool(nulls.any()), _read_unseen(encoder, column) is None


def read_codes(encoder: Any, column: int) -> Codes:
    """Return what a fitted encoder makes of one of its columns."""
    categories = encoder.categories_[column]
    encoded = _encode(encoder, column, categories)
    nulls = np.array([is_null(category) for category in categories], np.bool_)
    null, unseen = encoded[nulls][0] if nulls.any() else None, _read_unseen(encoder, column)
    return Codes(categories[~nulls], encoded[~nulls], null, unseen, _width(encoder, column))


def _read_unseen(encoder: Any, column: int) -> NDArray[np.float64] | None:
    """Return the code of a category that training had not seen; None where the encoder refuses it."""
    try:
        return np.asarray(_encode(encoder, column, _find_unseen(encoder.categories_[column]))[0])
    except ValueError:  # handle_unknown="error"
        return None


def _width(encoder: Any, column: int) -> int:
    """Return how many columns an encoder makes of one."""
    from sklearn.preprocessing import OneHotEncoder, TargetEncoder

    if isinstance(encoder, TargetEncoder):
        return len(encoder.classes_) if encoder.target_type_ == "multiclass" else 1
    if not isinstance(encoder, OneHotEncoder):
        return 1
    rare = (getattr(encoder, "infrequent_categories_", None) or [None] * len(encoder.categories_))[column]
    grouped = 0 if rare is None else len(rare) - 1
    dropped = encoder.drop_idx_ is not None and encoder.drop_idx_[column] is not None
    return len(encoder.categories_[column]) - grouped - dropped


def above_all(known: NDArray[Any]) -> float:
    """Return a number that is none of the known ones, nor one of them as float32: above them, or below them."""
    near = known[np.isfinite(known)].astype(np.float32, copy=False)
    near = near[np.isfinite(near)]
    if not len(near):
        return 0.0
    above = np.nextafter(near.max(), np.float32(np.inf))
    return float(above if np.isfinite(above) else np.nextafter(near.min(), np.float32(-np.inf)))


def _find_unseen(categories: NDArray[Any]) -> NDArray[Any]:
    """Return one value of the categories' kind that is none of them."""
    if categories.dtype.kind in "OUS":
        return np.array([UNSEEN], object)
    if categories.dtype.kind == "f":
        return np.array([above_all(categories)])
    known = categories.astype(np.int64)
    return np.array([known.max() + 1 if known.max() < np.iinfo(np.int64).max else known.min() - 1])


def _encode(encoder: Any, column: int, values: NDArray[Any]) -> NDArray[np.float64]:
    """Return the encoder's own codes of values in one column, beside the first category in the others."""
    from sklearn.preprocessing import OneHotEncoder

    hot = isinstance(encoder, OneHotEncoder)
    if hot:  # dense codes of many categories would take their square in memory
        encoder = deepcopy(encoder)  # of a flat copy set_output changes the original too
        encoder.sparse_output = True
        encoder.set_output(transform="default")  # a table cannot be sparse
    firsts = [np.repeat(categories[:1], len(values)) for categories in encoder.categories_]
    columns = [values if place == column else first for place, first in enumerate(firsts)]
    names = getattr(encoder, "feature_names_in_", None)
    if names is None:
        matrix: Any = np.column_stack([np.asarray(values, object) for values in columns])
    else:
        import pandas  # type: ignore[import-untyped]

        matrix = pandas.DataFrame(dict(zip(names, columns, strict=True)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a category is not known
        encoded = encoder.transform(matrix)
    start, width = sum(_width(encoder, place) for place in range(column)), _width(encoder, column)
    whole = encoded if hot else np.asarray(encoded, np.float64)
    part = whole[:, start : start + width]
    return _places(part) if hot else part


def _places(codes: Any) -> NDArray[np.float64]:
    """Return the place of the 1 in each row of a sparse matrix, (rows, 1); -1 for a row without."""
    entries = codes.tocoo()
    places = np.full((codes.shape[0], 1), -1.0)
    places[entries.row[entries.data != 0], 0] = entries.col[entries.data != 0]
    return places


def shape_encoder(operator: Any) -> None:
    """Set the shape and type of what an encoder gives, for skl2onnx."""
    from skl2onnx.common.data_types import FloatTensorType, Int64TensorType

    encoder = operator.raw_operator
    width = sum(_width(encoder, column) for column in range(len(encoder.categories_)))
    whole = np.issubdtype(getattr(encoder, "dtype", np.float64), np.integer)
    operator.outputs[0].type = (Int64TensorType if whole else FloatTensorType)([None, width])


def convert_encoder(scope: Any, operator: Any, container: Any) -> None:
    """Write an encoder's look-ups into a graph, for skl2onnx."""
    from onnx import TensorProto
    from skl2onnx.common.data_types import Int64TensorType

    graph = GraphWriter(scope, container)
    encoder, parts = operator.raw_operator, []
    for column, (name, kind) in enumerate(graph.columns(operator.inputs)):
        parts.append(_look_up(graph, encoder, read_codes(encoder, column), name, kind))
    joined = graph.node("Concat", parts, axis=1)
    whole = isinstance(operator.outputs[0].type, Int64TensorType)
    graph.write("Cast", [joined], operator.output_full_names, to=TensorProto.INT64 if whole else TensorProto.FLOAT)


def _look_up(graph: GraphWriter, encoder: Any, codes: Codes, name: str, kind: str) -> str:
    """Write the look-up of one column, (rows, 1), and return its codes, (rows, width)."""
    from sklearn.preprocessing import OneHotEncoder

    keys, table = _key_codes(codes, kind)
    hot = isinstance(encoder, OneHotEncoder)
    place = graph.label(name, kind, keys, len(keys))
    # A category that the encoder refuses has a place behind the table, which fails the row as the original does.
    table = table[:, 0].astype(np.int64) if hot else table.astype(np.float32)
    found = graph.node("Gather", [graph.constant(table), place], axis=0)
    if hot and codes.width:
        found = graph.node("OneHotEncoder", [found], domain="ai.onnx.ml", cats_int64s=range(codes.width), zeros=1)
    return graph.flat(found, codes.width)


def _key_codes(codes: Codes, kind: str) -> tuple[list[Any], NDArray[np.float64]]:
    """Return the keys of a look-up, as its input has them, and a code for each; behind them that of an unseen one.

    A null text comes as "", so that "" is the null category where training knew nulls but no empty text.
    """
    keys: list[Any] = [_key(category, kind) for category in codes.keys.tolist()]
    rows = codes.codes
    if codes.null is not None and (kind == "floats" or (kind == "strings" and "" not in keys)):
        keys, rows = [*keys, NAN if kind == "floats" else ""], np.vstack([rows, codes.null])
    if len(set(keys)) < len(keys):
        raise ModelPackageError(
            "two categories are one number in float32",
            where="model",
            next="encode whole numbers or texts: cast the column before training",
        )
    return keys, rows if codes.unseen is None else np.vstack([rows, codes.unseen])


def _key(category: Any, kind: str) -> Any:
    """Return a category as the look-up's input has it; whole numbers beside texts come to it as texts."""
    if kind == "strings" and isinstance(category, int) and not isinstance(category, bool):
        return str(category)
    if (kind == "strings") != isinstance(category, str):
        raise ModelPackageError(
            f"the category {category!r} is none of the column's values, which come to the encoder as {kind}",
            where="model",
            next="give the data's column as the model was trained on it, and fractions an encoder apart from texts",
        )
    return category if kind == "strings" else int(category) if kind == "int64s" else float(np.float32(category))
