"""A graph whose tensors are as large as a feature says is refused; one that goes by shapes and weights is not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.neighbors import KNeighborsClassifier

from tailrace.inference.backends import onnx_sizes
from tailrace.inference.backends.onnx_sizes import check_sizes

OPSETS = [helper.make_opsetid("", 19), helper.make_opsetid("own", 1)]
WORDS = "as large as a feature says"


def node(kind: str, inputs: list[str], output: str, **more: Any) -> onnx.NodeProto:
    """Return a node of one output."""
    return helper.make_node(kind, inputs, [output], **more)


SIZE = [node("ReduceMax", ["x"], "most", keepdims=0), node("Cast", ["most"], "whole", to=TensorProto.INT64),
        node("Reshape", ["whole", "one"], "size")]  # fmt: skip
"""What makes a size of the largest feature."""
ROWS = [node("Shape", ["x"], "shape"), node("Gather", ["shape", "zero"], "rows")]
"""What makes one of how many rows there are."""


def values(*names: str, kind: int = TensorProto.FLOAT) -> list[Any]:
    """Return the inputs or outputs of a graph."""
    return [helper.make_tensor_value_info(name, kind, None) for name in names]


def content_of(nodes: list[Any], functions: list[Any] | None = None) -> bytes:
    """Return a graph from `x` to `y`, with the weights `one`, [1], and `zero`, [0]."""
    weights = [numpy_helper.from_array(np.array([place]), name) for place, name in enumerate(("zero", "one"))]
    graph = helper.make_graph(nodes, "sizes", values("x"), values("y"), weights)
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=9, functions=functions or [])
    content: bytes = model.SerializeToString()
    return content


def within(kind: str, size: str) -> list[Any]:
    """Return a node with a graph in it that is told a size by the one around it."""
    body = [node("Expand", ["x", size], "b")]
    if kind == "If":
        other = helper.make_graph([node("Identity", ["x"], "c")], "else", [], values("c"))
        branch = helper.make_graph(body, "then", [], values("b"))
        return [
            node("Cast", ["zero"], "is", to=TensorProto.BOOL),
            node("If", ["is"], "y", then_branch=branch, else_branch=other),
        ]
    body += [node("Identity", ["go"], "on"), node("Identity", ["s"], "t")]
    loop = helper.make_graph(body, "loop", values("i", "go", "s"), values("on", "t", "b"))
    return [helper.make_node("Loop", ["one", "", "x"], ["z", "y"], body=loop)]


def called(size: str) -> tuple[list[Any], list[Any]]:
    """Return a node that calls a function with a size, which calls another, and both."""
    inner = helper.make_function("own", "inner", ["a", "n"], ["b"], [node("Expand", ["a", "n"], "b")], OPSETS)
    outer = helper.make_function(
        "own", "outer", ["a", "n"], ["b"], [node("inner", ["a", "n"], "b", domain="own")], OPSETS
    )
    return [node("outer", ["x", size], "y", domain="own")], [inner, outer]


SIZED: dict[str, Callable[[str], tuple[list[Any], list[Any]]]] = {
    "Expand": lambda size: ([node("Expand", ["x", size], "y")], []),
    "Tile": lambda size: ([node("Tile", ["x", size], "y")], []),
    "ConstantOfShape": lambda size: ([node("ConstantOfShape", [size], "y")], []),
    "Range": lambda size: (
        [node("Squeeze", [size], "end"), node("Squeeze", ["zero"], "a"), node("Squeeze", ["one"], "b"),
         node("Range", ["a", "end", "b"], "y")], [],
    ),
    "a product": lambda size: ([node("Mul", [size, size], "more"), node("Pad", ["x", "more"], "y")], []),
    "a branch": lambda size: (within("If", size), []),
    "a loop": lambda size: (within("Loop", size), []),
    "functions": called,
}  # fmt: skip


@pytest.mark.parametrize("kind", SIZED)
def test_size_that_a_feature_says_is_refused(kind: str) -> None:
    """Wherever the operator stands: in a branch, in a loop, in a function of a function."""
    nodes, functions = SIZED[kind]("size")
    with pytest.raises(ValueError, match=WORDS):
        check_sizes(content_of([*SIZE, *nodes], functions))


@pytest.mark.parametrize("kind", SIZED)
@pytest.mark.parametrize("size", ["one", "rows"])
def test_size_of_a_weight_or_a_shape_is_taken(kind: str, size: str) -> None:
    """What converters make: as many as there are rows, columns, or as a weight says."""
    nodes, functions = SIZED[kind](size)
    check_sizes(content_of([*ROWS, *nodes], functions))


def test_size_that_a_loop_takes_in_again_is_refused() -> None:
    """What is a weight in the first round, and a feature's in the second."""
    body = [
        node("Expand", ["x", "s"], "b"),
        node("Identity", ["go"], "on"),
        *SIZE,
    ]
    loop = helper.make_graph(body, "loop", values("i", "go", "s"), values("on", "size", "b"))
    with pytest.raises(ValueError, match=WORDS):
        check_sizes(content_of([helper.make_node("Loop", ["one", "", "one"], ["z", "y"], body=loop)]))


def test_operators_in_no_order_are_refused() -> None:
    """ONNX Runtime puts them in order, and what is computed later would not be known."""
    with pytest.raises(ValueError, match="do not stand in the order"):
        check_sizes(content_of([node("Expand", ["x", "size"], "y"), *SIZE]))


def test_functions_that_call_each_other_are_walked_through_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that calls itself, and a dozen that call the next ten times each, end."""
    own = helper.make_function("own", "f", ["a"], ["b"], [node("f", ["a"], "b", domain="own")], OPSETS)
    expand = node("Expand", ["x", "one"], "y")
    with pytest.raises(ValueError, match="call each other"):
        check_sizes(content_of([expand, node("f", ["x"], "z", domain="own")], [own]))
    monkeypatch.setattr(onnx_sizes, "STEPS_MAX", 10_000)
    many = [
        helper.make_function(
            "own", f"f{place}", ["a"], ["b9"],
            [node(f"f{place + 1}", ["a"], f"b{each}", domain="own") for each in range(10)], OPSETS,
        )
        for place in range(12)
    ]  # fmt: skip
    with pytest.raises(ValueError, match="more than 10000 operators"):
        check_sizes(content_of([expand, node("f0", ["x"], "z", domain="own")], many))


def test_models_of_scikit_learn_are_taken() -> None:
    """Those whose graphs expand and tile: neighbours and Gaussian processes."""
    skl2onnx = pytest.importorskip("skl2onnx")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(30, 2)).astype(np.float32)
    for model in (KNeighborsClassifier(3), GaussianProcessRegressor(optimizer=None)):
        graph = skl2onnx.to_onnx(model.fit(rows, (rows[:, 0] > 0).astype(int)), rows[:1])
        check_sizes(graph.SerializeToString())


TURNS: dict[str, tuple[list[Any], bool]] = {
    "the same": ([node("Cos", ["s"], "u"), node("Add", ["u", "one"], "t")], False),
    "joined": ([node("Concat", ["s", "s"], "t", axis=0)], True),
    "tiled": ([node("Tile", ["s", "two"], "t")], True),
    "crossed": ([node("Transpose", ["s"], "u"), node("Mul", ["s", "u"], "t")], True),
    "of a function": ([node("f", ["s"], "t", domain="own")], True),
}
"""What a turn of a loop makes `t` of `s` with, and whether that may be more."""


@pytest.mark.parametrize("kind", TURNS)
def test_loop_of_as_many_turns_as_a_feature_says_gives_no_more_for_it(kind: str) -> None:
    """Turns take time, which a deadline bounds; only where each turn may add to a value do they take memory."""
    turn, is_refused = TURNS[kind]
    body = [node("Identity", ["go"], "on"), *turn]
    loop = helper.make_graph(body, "loop", values("i", "go", "s"), values("on", "t"))
    function = helper.make_function("own", "f", ["a"], ["b"], [node("Concat", ["a", "a"], "b", axis=0)], OPSETS)
    content = content_of([*SIZE, helper.make_node("Loop", ["size", "", "x"], ["y"], body=loop)], [function])
    if is_refused:
        with pytest.raises(ValueError, match=WORDS):
            check_sizes(content)
    else:
        check_sizes(content)
