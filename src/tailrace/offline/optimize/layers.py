"""Graphs of shorter numbers: int8 and float16, by ONNX Runtime's own quantiser and converter."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.predictor import Feeds
from tailrace.offline.optimize.recipes import Recipe

LAYERS: Final = ("MatMul", "Gemm", "Conv")
"""The operators whose weights are made shorter."""
CALIBRATION_BATCH: Final = 64


def has_layers(graph: bytes) -> bool:
    """Return whether a graph has an operator with a matrix of weights of its own."""
    import onnx

    model = onnx.load_from_string(graph).graph
    weights = {tensor.name for tensor in model.initializer if len(tensor.dims) > 1}
    return any(node.op_type in LAYERS and weights & set(node.input) for node in model.node)


def optimise_graph(graph: bytes, level: str = "ORT_ENABLE_EXTENDED") -> bytes:
    """Return a graph as ONNX Runtime has rewritten it, up to what depends on the processor."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="tailrace-graph-") as folder:
        path = Path(folder) / "graph.onnx"
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        return path.read_bytes()


def quantise(graph: bytes, recipe: Recipe, calibration: Feeds) -> bytes:
    """Return a graph whose layers compute in int8.

    calibration: the rows that show a static recipe between which values each layer's input lies.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    model = onnx.load_from_string(optimise_graph(graph, "ORT_ENABLE_BASIC"))
    layers = [node for node in model.graph.node if node.op_type in LAYERS]
    for place, node in enumerate(model.graph.node):
        node.name = node.name or f"node_{place}"
    options: dict[str, Any] = {
        "op_types_to_quantize": list(LAYERS),
        "per_channel": recipe.per_channel,
        "reduce_range": recipe.reduced,
        "weight_type": QuantType.QInt8,
        # What a type is inferred for is float32: behind scikit-learn's scalers, which are of another domain, none is.
        "extra_options": {"DefaultTensorType": onnx.TensorProto.FLOAT},
        "nodes_to_exclude": [] if recipe.ends else [layers[0].name, layers[-1].name],
    }
    with tempfile.TemporaryDirectory(prefix="tailrace-int8-") as folder, _quiet():
        path = Path(folder) / "graph.onnx"
        if recipe.kind == "int8 dynamic":
            quantize_dynamic(model, path, **options)
        else:
            quantize_static(
                model, path, _Batches(calibration), quant_format=QuantFormat.QDQ, activation_type=QuantType.QUInt8,
                **options,
            )  # fmt: skip
        return path.read_bytes()


def halve(graph: bytes) -> bytes:
    """Return a graph that computes in float16, with inputs and outputs as they were."""
    import onnx
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        half = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True)
    content: bytes = half.SerializeToString()
    return content


def adds_up_shorts() -> bool:
    """Return whether this processor adds up products of int8 without an overflow between: VNNI, or not x86."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    flags = {word for line in text.splitlines() if line.startswith("flags") for word in line.split()}
    return not flags or bool(flags & {"avx512_vnni", "avx_vnni"})


class _Batches:
    """The rows of a calibration, batch by batch, as the quantiser asks for them."""

    def __init__(self, feeds: Feeds) -> None:
        rows = len(next(iter(feeds.values())))
        self._batches: Iterator[dict[str, NDArray[Any]]] = iter([
            {name: np.ascontiguousarray(array[start : start + CALIBRATION_BATCH]) for name, array in feeds.items()}
            for start in range(0, rows, CALIBRATION_BATCH)
        ])  # fmt: skip

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Return the next batch, or None behind the last one."""
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what the quantiser logs at its root from the standard error, where a failure's last line is looked for."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)
