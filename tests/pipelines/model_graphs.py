"""The models of the small pipelines: ONNX graphs of a few nodes whose scores a test can compute by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from onnx import TensorProto, helper, numpy_helper

from tailrace.release.package import package

FLOAT, DOUBLE, INT64, BOOL, STRING = (
    TensorProto.FLOAT,
    TensorProto.DOUBLE,
    TensorProto.INT64,
    TensorProto.BOOL,
    TensorProto.STRING,
)

PAYMENT_WEIGHTS = {
    "amount": 0.001,
    "CustomerProfile.avg_amount": 0.0005,
    "CustomerProfile.chargebacks": 0.05,
    "CustomerProfile.watched": 0.25,
    "TerminalProfile.fraud_rate": 0.5,
    "amount_ratio": 0.01,
}
RANKING_WEIGHTS = {
    "UserProfile.affinity": 0.5,
    "ItemProfile.popularity": 0.25,
    "ItemProfile.price": 0.001,
    "budget": 0.0001,
    "price_fit": 0.125,
}
FAULTED_WEIGHTS = {"CustomerSpend.spend": 0.001, "ShopRank.rank": 0.01}
WINDOWS = ("5m", "1h", "1d", "7d", "30d")
_CUSTOMER = [f"CustomerActivity.{kind}_{window}" for window in WINDOWS for kind in ("count", "mean")]
ACTIVITY_WEIGHTS = dict.fromkeys(
    ["amount", *_CUSTOMER, "CustomerActivity.spent_1d", "TerminalActivity.seen_1d", "TerminalActivity.seen_7d",
     "TerminalFrauds.fraud_share_7d"], 0.001,
)  # fmt: skip
PAIRS_WEIGHTS = dict.fromkeys(
    ["amount", "PairProfile.usual", "PairActivity.count_1d", "PairActivity.spent_1d", "TerminalActivity.seen_1d"], 0.001
)
PAIRS_RANKED_WEIGHTS = {"UserItem.liking": 0.5, "UserRegion.local": 0.25, "Item.price": 0.0}
DERIVED_WEIGHTS = dict.fromkeys(
    ["amount", "CustomerCategory.count_1d", "CustomerCategory.own_1d", "CustomerCategory.spent_1d", "Department.heads",
     "Category.margin"], 0.001,
)  # fmt: skip
DERIVED_RANKED_WEIGHTS = dict.fromkeys(
    ["UserCategory.liking", "RankedCategory.margin", "Region.tax", "RegionCategory.local"], 0.001
)
COSTLY_INLINE_TURNS = 400
COSTLY_THREADED_TURNS = 3_200
COUNTRIES = ("DE", "FR", "IT")
WEEKDAYS = ("weekday", "weekend")


def write_models(folder: Path) -> None:
    """Package every model under `folder`, each in the directory of its name."""
    linear(folder, "payment", PAYMENT_WEIGHTS)
    linear(folder, "payment_second", dict.fromkeys(PAYMENT_WEIGHTS, 0.0), bias=0.125)
    linear(folder, "ranking", RANKING_WEIGHTS)
    linear(folder, "activity", ACTIVITY_WEIGHTS)
    linear(folder, "pairs", PAIRS_WEIGHTS)
    linear(folder, "pairs_ranked", PAIRS_RANKED_WEIGHTS)
    linear(folder, "derived", DERIVED_WEIGHTS)
    linear(folder, "derived_ranked", DERIVED_RANKED_WEIGHTS)
    graph = save(folder / "log.onnx", [helper.make_node("Log", ["x"], ["score"])], {"x": FLOAT}, 1)
    package(graph, pa.table({"amount": np.linspace(0.5, 2, 50)}), name="log", out=folder / "log")
    topics(folder)
    heavy(folder, "heavy", level=0.75)
    heavy(folder, "heavy_second", level=0.5, share=0.0001)
    linear(folder, "faulted", FAULTED_WEIGHTS)
    costly(folder, "costly_inline", COSTLY_INLINE_TURNS)
    costly(folder, "costly_threaded", COSTLY_THREADED_TURNS)


def save(
    path: Path, nodes: list[Any], inputs: dict[str, int], width: int, initializers: Any = (), in_width: int = 1
) -> Path:
    """Write a graph whose output is `score`, of shape (rows, width)."""
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info(name, kind, [None, in_width]) for name, kind in inputs.items()],
        [helper.make_tensor_value_info("score", FLOAT, [None, width])],
        list(initializers),
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())
    return path


def constant(name: str, value: Any, dtype: Any = np.float32) -> Any:
    """Return a value that is part of the graph."""
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def linear(folder: Path, name: str, weights: dict[str, float], bias: float = 0.0) -> None:
    """Package score = features · weights + bias: one float matrix in."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["sum"]), helper.make_node("Add", ["sum", "b"], ["score"])]
    column = np.array(list(weights.values())).reshape(-1, 1)
    path = save(
        folder / f"{name}.onnx", nodes, {"x": FLOAT}, 1, [constant("w", column), constant("b", [bias])], len(weights)
    )
    values = np.random.default_rng(3).random((60, len(weights)))
    package(path, pa.table(dict(zip(weights, values.T, strict=True))), name=name, out=folder / name)


def topics(folder: Path) -> None:
    """Package a classifier of three classes with named inputs of five types; the logits are simple sums.

    class 0: country is DE or FR, + amount; class 1: count, + vip; class 2: weekend.
    """
    nodes = [
        helper.make_node("OneHotEncoder", ["country"], ["hot"], domain="ai.onnx.ml", cats_strings=list(COUNTRIES)),
        helper.make_node("Reshape", ["hot", "flat"], ["countries"]),
        helper.make_node("OneHotEncoder", ["day_kind"], ["day_hot"], domain="ai.onnx.ml", cats_strings=list(WEEKDAYS)),
        helper.make_node("Reshape", ["day_hot", "flat_2"], ["days"]),
        helper.make_node("Cast", ["amount"], ["amount_f"], to=FLOAT),
        helper.make_node("Cast", ["count"], ["count_f"], to=FLOAT),
        helper.make_node("Cast", ["vip"], ["vip_f"], to=FLOAT),
        helper.make_node("Concat", ["countries", "days", "amount_f", "count_f", "vip_f"], ["all"], axis=1),
        helper.make_node("MatMul", ["all", "w"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["score"], axis=1),
    ]
    inputs = {"country": STRING, "day_kind": STRING, "amount": DOUBLE, "count": INT64, "vip": BOOL}
    weights = np.zeros((8, 3))
    weights[[0, 1, 5], 0] = 2.0, 1.0, 1.0
    weights[[6, 7], 1] = 1.0, 2.0
    weights[4, 2] = 3.0
    initializers = [constant("w", weights), constant("flat", [-1, 3], np.int64), constant("flat_2", [-1, 2], np.int64)]
    path = save(folder / "topics.onnx", nodes, inputs, 3, initializers)
    rng = np.random.default_rng(5)
    table = {
        "country": rng.choice(COUNTRIES, 60),
        "day_kind": rng.choice(WEEKDAYS, 60),
        "amount": rng.random(60),
        "count": rng.integers(0, 3, 60),
        "vip": rng.random(60) < 0.5,
    }
    package(path, pa.table(table), name="topics", out=folder / "topics")


def heavy(folder: Path, name: str, *, level: float, share: float = 1.0) -> None:
    """Package a loop of as many turns as a share of the largest `work` of the batch, half a microsecond each or more.

    Its sample rows take far over a millisecond on any machine: a lighter model would run on the loop.
    """
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Cos", ["in"], ["out"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("in", FLOAT, [None, 1]),
        ],
        [helper.make_tensor_value_info("go_on", BOOL, []), helper.make_tensor_value_info("out", FLOAT, [None, 1])],
    )
    nodes = [
        helper.make_node("ReduceMax", ["work"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "share"], ["part"]),
        helper.make_node("Cast", ["part"], ["turns"], to=INT64),
        helper.make_node("Loop", ["turns", "", "work"], ["spent"], body=body),
        helper.make_node("Mul", ["spent", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "level"], ["score"]),
    ]
    constants = [constant("zero", [0.0]), constant("level", [level]), constant("share", share)]
    path = save(folder / f"{name}.onnx", nodes, {"work": FLOAT}, 1, constants)
    package(path, pa.table({"work": np.full(50, 8_000.0)}), name=name, out=folder / name)


def costly(folder: Path, name: str, turns: int) -> None:
    """Package a loop of `turns` turns for each row, one after the other; the score is 0.75."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Cos", ["in"], ["out"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", INT64, []),
            helper.make_tensor_value_info("go", BOOL, []),
            helper.make_tensor_value_info("in", FLOAT, []),
        ],
        [helper.make_tensor_value_info("go_on", BOOL, []), helper.make_tensor_value_info("out", FLOAT, [])],
    )
    nodes = [
        helper.make_node("Shape", ["job"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Mul", ["rows", "a_row"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "start"], ["spent"], body=body),
        helper.make_node("Mul", ["spent", "zero"], ["nothing"]),
        helper.make_node("Mul", ["job", "zero"], ["nothings"]),
        helper.make_node("Add", ["nothings", "nothing"], ["all"]),
        helper.make_node("Add", ["all", "level"], ["score"]),
    ]
    constants = [
        constant("first", 0, np.int64),
        constant("a_row", turns, np.int64),
        constant("start", 1.0),
        constant("zero", 0.0),
        constant("level", 0.75),
    ]
    path = save(folder / f"{name}.onnx", nodes, {"job": FLOAT}, 1, constants)
    package(path, pa.table({"job_id": np.arange(50.0)}), name=name, out=folder / name)
