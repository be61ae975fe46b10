"""A fitted scikit-learn pipeline as one ONNX graph, from the raw columns to the scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from tailrace.inference.signature import TensorSpec
from tailrace.release.calibrated import convert_calibrated, shape_calibrated
from tailrace.release.encoders import convert_encoder, encoder_types, shape_encoder
from tailrace.release.texts import check_texts, convert_counts, convert_text_imputer, mend_texts
from tailrace.release.trees import INPUT, OPSET


def pipeline_graph(
    model: Any, dtypes: Mapping[str, str], *, margin: bool = False
) -> tuple[Any, tuple[TensorSpec, ...]]:
    """Return the graph of a scikit-learn model, and its inputs: one float matrix, or one a column.

    dtypes: of the model's features, in order, as `column_dtype` has them. margin: a classifier's scores are those of
    its `decision_function`, not probabilities. Raises whatever skl2onnx raises.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import BooleanTensorType, FloatTensorType, Int64TensorType, StringTensorType

    if "string" in dtypes.values() or _tells_columns_apart(model):
        kinds = {"string": StringTensorType, "int64": Int64TensorType, "bool": BooleanTensorType,
                 "float32": FloatTensorType}  # fmt: skip
        inputs = [TensorSpec(name, dtype, (name,)) for name, dtype in dtypes.items()]
        types = [(spec.name, kinds[spec.dtype]([None, 1])) for spec in inputs]
    else:
        inputs = [TensorSpec(INPUT, "float32", tuple(dtypes))]
        types = [(INPUT, FloatTensorType([None, len(dtypes)]))]
    check_texts(model)
    _register_boosters()
    graph = convert_sklearn(
        model,
        name=type(model).__name__,
        initial_types=types,
        options=_options(model, margin),
        target_opset={"": OPSET, "ai.onnx.ml": 3},
        custom_conversion_functions=_converters(),
        custom_shape_calculators=_shapes(),
    )
    mend_texts(graph, model)
    # The converter keeps the order of the inputs, but not a dot in their names.
    named = zip(graph.graph.input, inputs, strict=True)
    return graph, tuple(TensorSpec(found.name, spec.dtype, spec.features) for found, spec in named)


def _options(model: Any, margin: bool) -> dict[Any, Any] | None:
    """Return skl2onnx's options: what a classifier gives."""
    if not margin:
        return {"zipmap": False} if hasattr(model, "classes_") else None
    last = model.steps[-1][1] if hasattr(model, "steps") else model
    # Only a classifier that gives probabilities gives them as maps unless it is told not to.
    return {id(last): {"raw_scores": True} | ({"zipmap": False} if hasattr(last, "predict_proba") else {})}


def _converters() -> dict[type, Callable[[Any, Any, Any], None]]:
    """Return the converters that take the place of skl2onnx's own."""
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.feature_extraction.text import TfidfTransformer, TfidfVectorizer
    from sklearn.impute import SimpleImputer

    return {
        CalibratedClassifierCV: convert_calibrated,
        **dict.fromkeys(encoder_types(), convert_encoder),
        SimpleImputer: convert_text_imputer,
        TfidfTransformer: convert_counts,
        TfidfVectorizer: convert_counts,
    }


def _shapes() -> dict[type, Callable[[Any], None]]:
    """Return what takes the place of skl2onnx's own shapes."""
    from sklearn.calibration import CalibratedClassifierCV

    return {CalibratedClassifierCV: shape_calibrated, **dict.fromkeys(encoder_types(), shape_encoder)}


def _tells_columns_apart(model: Any) -> bool:
    """Return whether a scikit-learn model, or a step inside it, is a ColumnTransformer."""
    from sklearn.compose import ColumnTransformer

    return isinstance(model, ColumnTransformer) or any(
        isinstance(value, ColumnTransformer) for value in getattr(model, "get_params", dict)().values()
    )


def _convert_xgboost(scope: Any, operator: Any, container: Any) -> None:
    """Write an XGBoost model into a graph, for skl2onnx: without its features' names, which onnxmltools refuses."""
    from onnxmltools.convert.xgboost.operator_converters.XGBoost import convert_xgboost

    named = operator.raw_operator
    booster = named.get_booster().copy()
    booster.feature_names = booster.feature_types = None
    unnamed = copy(named)
    unnamed.get_booster = lambda: booster
    operator.raw_operator = unnamed
    try:
        convert_xgboost(scope, operator, container)
    finally:
        operator.raw_operator = named


def _register_boosters() -> None:
    """Let skl2onnx convert a pipeline that ends in a LightGBM or XGBoost model, where these are installed."""
    from contextlib import suppress

    from skl2onnx import update_registered_converter
    from skl2onnx.common.shape_calculator import (
        calculate_linear_classifier_output_shapes,
        calculate_linear_regressor_output_shapes,
    )

    options = {"nocl": [True, False], "zipmap": [True, False, "columns"]}
    with suppress(ImportError):
        import lightgbm
        from onnxmltools.convert.lightgbm.operator_converters.LightGbm import convert_lightgbm

        update_registered_converter(
            lightgbm.LGBMClassifier, "LgbmClassifier", calculate_linear_classifier_output_shapes, convert_lightgbm,
            options=options,
        )  # fmt: skip
        update_registered_converter(
            lightgbm.LGBMRegressor, "LgbmRegressor", calculate_linear_regressor_output_shapes, convert_lightgbm,
            options={"split": None},
        )  # fmt: skip
    with suppress(ImportError):
        import xgboost

        update_registered_converter(
            xgboost.XGBClassifier, "XgbClassifier", calculate_linear_classifier_output_shapes, _convert_xgboost,
            options=options,
        )  # fmt: skip
        update_registered_converter(
            xgboost.XGBRegressor, "XgbRegressor", calculate_linear_regressor_output_shapes, _convert_xgboost
        )
