"""A small graph that makes much of little is refused wherever it comes from, and most graphs are not asked at all."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from onnx import TensorProto, helper, numpy_helper
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression

from pipelines.model_graphs import linear
from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx_growth import is_bounded
from tailrace.release import probe
from tailrace.release.model_file import read_model
from tailrace.release.package import package
from tailrace.release.registry.fetching import fetch
from tailrace.release.registry.registering import register
from tailrace.release.registry.registry import open_registry
from tailrace.release.settle import _keep_model
from tailrace.release.shelf import Shelf

SIDE = 200_000
COPIES = 64


def graph_of(nodes: list[Any], weights: list[Any]) -> bytes:
    """Return a graph from `x`, (rows, 1), to `score`, to which `big` is added."""
    ends = [
        helper.make_node("ReduceMax", ["big"], ["most"], keepdims=0),
        helper.make_node("Add", ["x", "most"], ["score"]),
    ]
    return whole([*nodes, *ends], weights)


def whole(nodes: list[Any], weights: list[Any]) -> bytes:
    """Return a graph from `x`, (rows, 1), to `score`."""
    graph = helper.make_graph(
        nodes, "grows",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 1])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, ["rows", 1])],
        weights,
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 17)]
    content: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    return content


def crossed(kind: str, *, folded: bool = True, side: int = SIDE) -> bytes:
    """Return a graph that crosses a column with a row: 160 GB from 1.6 MB. folded: when it is opened already."""
    weights = [numpy_helper.from_array(np.ones(shape, np.float32), name)
               for name, shape in (("a", (side, 1)), ("b", (1, side)))]  # fmt: skip
    first = [] if folded else [helper.make_node("ReduceMax", ["x"], ["one"], keepdims=0),
                               helper.make_node("Add", ["a", "one"], ["c"])]  # fmt: skip
    return graph_of([*first, helper.make_node(kind, ["a" if folded else "c", "b"], ["big"])], weights)


def copied() -> bytes:
    """Return a graph that puts copies of its input side by side, five times over: 4 GB from 2 KB."""
    names = ["x", *(f"d{place}" for place in range(4)), "big"]
    return graph_of(
        [helper.make_node("Concat", [one] * COPIES, [other], axis=1) for one, other in itertools.pairwise(names)], []
    )


def met(times: int) -> bytes:
    """Return a graph that lays its rows over themselves laid down, so many times: the rows to the power of 2**times."""
    column = numpy_helper.from_array(np.array([-1, 1]), "column")
    nodes, before = [], "x"
    for time in range(times):
        nodes += [
            helper.make_node("Reshape", [before, "column"], [f"a{time}"]),
            helper.make_node("Transpose", [f"a{time}"], [f"b{time}"]),
            helper.make_node("Mul", [f"a{time}", f"b{time}"], [f"c{time}"]),
        ]
        before = f"c{time}"
    nodes.append(helper.make_node("Identity", [before], ["big"]))
    return graph_of(nodes, [column])


GROWING: dict[str, Callable[[], bytes]] = {
    "product, folded": lambda: crossed("Mul"),
    "product, at run time": lambda: crossed("Mul", folded=False),
    "matrices": lambda: crossed("MatMul", folded=False),
    "copies": copied,
    "rows that meet": lambda: met(4),
}


def promised(kind: str, attribute: str, value: Any) -> bytes:
    """Return a graph with an operator whose attribute promises what no byte of it holds."""
    inputs, domain = ([], "") if kind == "Constant" else (["x"], "ai.onnx.ml")
    return graph_of([helper.make_node(kind, inputs, ["big"], domain=domain, **{attribute: value})], [])


def sparse() -> Any:
    """Return a tensor of 160 GB of which one number is not 0."""
    values = numpy_helper.from_array(np.ones(1, np.float32), "v")
    return helper.make_sparse_tensor(values, numpy_helper.from_array(np.zeros(1, np.int64), "i"), [40_000_000_000])


PROMISED: dict[str, tuple[str, str, Callable[[], Any]]] = {
    "targets of trees": ("TreeEnsembleRegressor", "n_targets", lambda: 10**10),
    "targets of weights": ("LinearRegressor", "targets", lambda: 10**10),
    "a sparse constant": ("Constant", "sparse_value", sparse),
    "inputs of a width": ("FeatureVectorizer", "inputdimensions", lambda: [10**10]),
}


def laid(*steps: tuple[str, list[str]]) -> bytes:
    """Return a graph of steps, operator and inputs, the last of which gives `score`. `y` is `x` in one axis."""
    weights = [numpy_helper.from_array(np.ones((1, 4), np.float32), "w"),
               numpy_helper.from_array(np.array([1]), "last")]  # fmt: skip
    ends = [*(f"s{place}" for place in range(len(steps) - 1)), "score"]
    nodes = [helper.make_node(kind, inputs, [end]) for (kind, inputs), end in zip(steps, ends, strict=True)]
    return whole([helper.make_node("Squeeze", ["x", "last"], ["y"]), *nodes], weights)


CROSSING: dict[str, Callable[[], bytes]] = {
    "a column and a row": lambda: laid(("Transpose", ["x"]), ("Mul", ["x", "s0"])),
    "two ranks": lambda: laid(("Mul", ["x", "y"])),
    "an axis before": lambda: laid(("Unsqueeze", ["x", "last"]), ("Where", ["s0", "x", "x"])),
    "a product of matrices": lambda: laid(("Transpose", ["x"]), ("MatMul", ["x", "s0"])),
    "Gemm, which may transpose": lambda: laid(("Gemm", ["x", "x"])),
    "a choice by the rows": lambda: laid(("Gather", ["x", "x"])),
}


def alter(directory: Path, content: bytes) -> Path:
    """Write a graph into a model directory, with its checksum, as whoever makes one can; return the directory."""
    (directory / "model.onnx").write_bytes(content)
    manifest = json.loads((directory / "manifest.json").read_text())
    manifest["files"]["model.onnx"] = hashlib.sha256(content).hexdigest()
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


@pytest.mark.parametrize("kind", GROWING)
def test_graph_that_makes_much_of_little_is_not_packaged(kind: str, tmp_path: Path) -> None:
    """Whatever its operators: it is opened and run first where it may not take the memory."""
    (tmp_path / "model.onnx").write_bytes(GROWING[kind]())
    with pytest.raises(ModelPackageError, match="MiB of memory for 256 rows or fewer"):
        read_model(tmp_path / "model.onnx")


def test_directory_with_such_a_graph_becomes_no_part_of_a_release(tmp_path: Path) -> None:
    """It is refused before the copy has its place, so that no worker loads it, and one that was fetched likewise."""
    linear(tmp_path, "one", {"amount": 0.001})
    directory = alter(tmp_path / "one", crossed("Mul", folded=False))
    shelf = Shelf(tmp_path / "shelf")
    with pytest.raises(ModelPackageError, match="MiB of memory for 256 rows or fewer"):
        _keep_model(shelf, directory)
    assert list((tmp_path / "shelf" / "models").iterdir()) == []
    shelf.close()
    registry = open_registry(str(tmp_path / "registry"), create=True)
    record = register(registry, directory, "one").record
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelPackageError, match="MiB of memory for 256 rows or fewer"):
        fetch(registry, record, tmp_path / "out")


def test_graph_whose_rows_meet_once_is_refused(tmp_path: Path) -> None:
    """A few rows take little, and a full batch their square: also where the golden rows are one."""
    (tmp_path / "model.onnx").write_bytes(met(1))
    with pytest.raises(ModelPackageError, match="it brings rows together"):
        read_model(tmp_path / "model.onnx")
    linear(tmp_path, "one", {"amount": 0.001})
    directory = alter(tmp_path / "one", met(1))
    with pytest.raises(ModelPackageError, match="it brings rows together"):
        probe.probe_directory(directory)
    assert sorted(path.name for path in directory.iterdir()) == ["manifest.json", "model.onnx"]


def many(rows: int) -> bytes:
    """Return a graph that makes a hundred million numbers a row where there are more than so many rows."""
    then = helper.make_graph(
        [
            helper.make_node("Mul", ["count", "side"], ["size"]),
            helper.make_node("Expand", ["zero", "size"], ["wide"]),
            helper.make_node("ReduceMax", ["wide"], ["then"], keepdims=0),
        ],
        "then", [], [helper.make_tensor_value_info("then", TensorProto.FLOAT, [])],
    )  # fmt: skip
    other = helper.make_graph(
        [helper.make_node("ReduceMax", ["zero"], ["else"], keepdims=0)],
        "else", [], [helper.make_tensor_value_info("else", TensorProto.FLOAT, [])],
    )  # fmt: skip
    weights = [numpy_helper.from_array(np.array([value], dtype), name) for name, value, dtype in
               (("side", 10**8, np.int64), ("limit", rows, np.int64), ("zero", 0, np.float32))]  # fmt: skip
    nodes = [
        helper.make_node("Shape", ["x"], ["count"], end=1),
        helper.make_node("Greater", ["count", "limit"], ["is"]),
        helper.make_node("If", ["is"], ["big"], then_branch=then, else_branch=other),
    ]
    return graph_of(nodes, weights)


def test_graph_that_is_small_for_a_few_rows_alone_is_refused() -> None:
    """It may ask how many there are: the largest batch of which a worker learns what it costs is computed too."""
    with pytest.raises(ValueError, match="MiB of memory for 256 rows"):
        probe.probe_graph(many(200))
    probe.probe_graph(many(256))


def test_graph_that_makes_as_much_as_a_feature_says_is_refused(tmp_path: Path) -> None:
    """Its golden rows may say little: it is neither packaged nor taken into a release."""
    nodes = [
        helper.make_node("Cast", ["x"], ["whole"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["whole"], ["largest"], keepdims=0),
        helper.make_node("Reshape", ["largest", "one"], ["size"]),
        helper.make_node("Expand", ["x", "size"], ["big"]),
    ]
    content = graph_of(nodes, [numpy_helper.from_array(np.array([1]), "one")])
    with pytest.raises(ValueError, match="Expand makes a tensor as large as a feature says"):
        probe.probe_graph(content)
    linear(tmp_path, "one", {"amount": 0.001})
    with pytest.raises(ModelPackageError, match="Expand makes a tensor as large as a feature says"):
        probe.probe_directory(alter(tmp_path / "one", content))


def test_graph_that_its_golden_rows_do_not_fit_is_refused(tmp_path: Path) -> None:
    """No other end than having computed them passes: a graph that fails here may do anything elsewhere."""
    linear(tmp_path, "one", {"amount": 0.001, "ratio": 0.5})
    directory = alter(tmp_path / "one", crossed("Mul", folded=False))
    with pytest.raises(ModelPackageError, match="it cannot be computed: "):
        probe.probe_directory(directory)


def test_child_that_ends_otherwise_does_not_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A probe that could not start, here for want of a Python, says nothing good of a graph."""
    monkeypatch.setattr(probe.sys, "executable", "/bin/false")
    with pytest.raises(ValueError, match="or crashes: 1"):
        probe.probe_graph(crossed("Mul", side=3_000))


def test_graph_that_is_copied_again_is_probed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy that is kept has been probed; one of another content is probed again."""
    linear(tmp_path, "one", {"amount": 0.001})
    probed: list[int] = []
    real = probe._probe
    monkeypatch.setattr(probe, "_probe", lambda asked, size: (probed.append(size), real(asked, size)))
    shelf = Shelf(tmp_path / "shelf")
    for side in (3_000, 3_000, 3_001):
        content = crossed("Mul", folded=False, side=side)
        first = _keep_model(shelf, alter(tmp_path / "one", content))
    assert len(probed) == 2
    assert first.is_dir()
    shelf.close()


def test_graphs_of_weights_and_trees_are_seen_to_stay_small(tmp_path: Path) -> None:
    """They start no process; a model that multiplies what it is given is asked."""
    linear(tmp_path, "one", {"amount": 0.001})
    assert is_bounded((tmp_path / "one" / "model.onnx").read_bytes())
    rows = pd.DataFrame(np.random.default_rng(1).normal(size=(80, 3)), columns=["a", "b", "c"])
    model = LogisticRegression().fit(rows, rows.a > 0)
    package(model, rows, name="m", out=tmp_path / "m")
    assert is_bounded((tmp_path / "m" / "model.onnx").read_bytes())
    forest = RandomForestClassifier(60, random_state=0).fit(rows, rows.a * rows.b > 0)
    package(forest, rows, name="forest", out=tmp_path / "forest")
    assert is_bounded((tmp_path / "forest" / "model.onnx").read_bytes())
    assert not any(is_bounded(make()) for make in GROWING.values())
    assert not any(is_bounded(promised(kind, name, make())) for kind, name, make in PROMISED.values())


@pytest.mark.parametrize("kind", CROSSING)
def test_rows_that_may_meet_are_not_seen_to_stay_small(kind: str) -> None:
    """Whatever moved them from the axis they came along."""
    assert not is_bounded(CROSSING[kind]())


def test_branches_of_one_row_are_seen_to_stay_small() -> None:
    """A product of two, each of which is one with weights, as in a gated network; so is a row with its own square."""
    branches = [("Gemm", ["x", "w"]), ("MatMul", ["x", "w"]), ("Sigmoid", ["s1"]), ("Mul", ["s0", "s2"])]
    assert is_bounded(laid(*branches))
    assert is_bounded(laid(("Transpose", ["x"]), ("Mul", ["s0", "s0"])))
