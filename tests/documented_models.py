"""Small models for the pipelines that the documentation shows: of numbers, of texts, or of vectors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pyarrow as pa

from tailrace.compile.wiring import Wire
from tailrace.pipeline import Pipeline
from tailrace.release.package import package

ROWS = 400


def train(pipeline: Pipeline, features: Mapping[str, Wire], model: str, out: Path) -> None:
    """Package a small model of a pipeline's features."""
    if any(wire.width > 1 for wire in features.values()):
        _sum_vectors({name: wire.width for name, wire in features.items()}, model, out)
    elif any(wire.is_text for wire in features.values()):
        _train_on_texts(list(features), _labels_of(pipeline), model, out)
    else:
        _train_on_numbers(list(features), model, out)


def _labels_of(pipeline: Pipeline) -> list[str]:
    """Return the classes that the response's decision lists."""
    return list(get_args(get_type_hints(pipeline.response)["decision"]))


def _train_on_numbers(features: list[str], model: str, out: Path) -> None:
    import lightgbm

    x = np.random.default_rng(3).normal(size=(ROWS, len(features)))
    data = lightgbm.Dataset(x, x[:, 0] > 0, feature_name=features)
    booster = lightgbm.train({"objective": "binary", "verbosity": -1}, data, num_boost_round=3)
    package(booster, pa.table(dict(zip(features, x.T, strict=True))), name=model, out=out)


def _train_on_texts(features: list[str], labels: list[str], model: str, out: Path) -> None:
    import pandas as pd
    from sklearn.compose import ColumnTransformer
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rng = np.random.default_rng(3)
    kinds = rng.choice(labels, ROWS)
    frame = pd.DataFrame({name: [f"{kind} {rng.integers(9)}0" for kind in kinds] for name in features})
    steps = [(name, TfidfVectorizer(), name) for name in features]
    fitted: Any = make_pipeline(ColumnTransformer(steps), LogisticRegression()).fit(frame, kinds)
    package(fitted, frame, name=model, out=out)


def _sum_vectors(widths: dict[str, int], model: str, out: Path) -> None:
    """Package the sum of all numbers of all vectors."""
    from onnx import TensorProto, helper

    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, sum(widths.values())])]
    outputs = [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])]
    nodes = [
        helper.make_node("Constant", [], ["axis"], value_ints=[1]),
        helper.make_node("ReduceSum", ["x", "axis"], ["score"]),
    ]
    graph = helper.make_graph(nodes, "sum", inputs, outputs)
    content = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = out.with_suffix(".onnx")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.SerializeToString())
    rng = np.random.default_rng(3)
    table = {name: rng.normal(size=(ROWS, width)).tolist() for name, width in widths.items()}
    package(path, pa.table({name: [v if widths[name] > 1 else v[0] for v in rows] for name, rows in table.items()}),
            name=model, out=out)  # fmt: skip
