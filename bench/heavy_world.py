"""What the parts of the bench serve beside the fraud example: a network of 20 MFLOP a row, and a light model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np

from constant_model import write_constant_model
from peers import HERE, WORKPLACE

FOLDER: Final = WORKPLACE / "heavy"
FILE: Final = HERE / "heavy" / "pipeline.py"
MIXED: Final = HERE / "heavy" / "mixed.py"
NAMES: Final = tuple(f"f{index}" for index in range(24))
HIDDEN: Final = (2048, 2048, 2560)
"""9.5 million weights: 19 MFLOP a row."""


@cache
def make_heavy_world() -> Path:
    """Package the models that FILE and MIXED serve; return a file of requests of the network.

    It is made once a run, by whoever needs it first: nothing is served that another Tailrace has packaged.
    """
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    write_network(FOLDER / "mlp")
    write_constant_model(("f0", "f1"), FOLDER / "light")
    rows = np.random.default_rng(1).normal(size=(500, len(NAMES))).round(3).tolist()
    path = FOLDER / "jobs.jsonl"
    path.write_text("".join(json.dumps(dict(zip(NAMES, row, strict=True))) + "\n" for row in rows))
    return path


def write_network(folder: Path, hidden: Sequence[int] = HIDDEN) -> None:
    """Package a multi-layer perceptron with weights drawn at random, whose score is between 0 and 1."""
    import pyarrow as pa
    from onnx import TensorProto, helper, numpy_helper

    from tailrace.release.package import package

    rng = np.random.default_rng(0)
    widths, last, nodes, weights = (len(NAMES), *hidden, 1), "x", [], []
    for layer, (inner, outer) in enumerate(pairwise(widths)):
        spread = (2 / inner) ** 0.5
        weights.append(numpy_helper.from_array(rng.normal(0, spread, (inner, outer)).astype(np.float32), f"w{layer}"))
        weights.append(numpy_helper.from_array(np.zeros(outer, np.float32), f"b{layer}"))
        nodes.append(helper.make_node("Gemm", [last, f"w{layer}", f"b{layer}"], [f"g{layer}"]))
        last = f"a{layer}"
        nodes.append(
            helper.make_node("Relu" if outer > 1 else "Sigmoid", [f"g{layer}"], [last if outer > 1 else "score"])
        )
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, len(NAMES)])],
        [helper.make_tensor_value_info("score", TensorProto.FLOAT, [None, 1])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = folder.with_suffix(".onnx")
    path.write_bytes(model.SerializeToString())
    rows = rng.normal(size=(400, len(NAMES)))
    package(path, pa.table(dict(zip(NAMES, rows.T, strict=True))), name=folder.name, out=folder, overwrite=True)
