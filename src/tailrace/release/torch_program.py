"""A network of PyTorch as it is packaged: exported, compared, and converted to ONNX where that has a form for it."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.pytorch import load_program, to_scores
from tailrace.inference.backends.torch_archive import clean_archive
from tailrace.release.refusals import NoGraphError
from tailrace.release.rows import read_rows

ROWS_EXPORTED: Final = 8
"""Rows that a module is exported with; it takes any number of them."""
_TYPES: Final = {
    "torch.float32": "tensor(float)", "torch.float64": "tensor(double)", "torch.int64": "tensor(int64)",
    "torch.int32": "tensor(int32)", "torch.bool": "tensor(bool)",
}  # fmt: skip
_DTYPES: Final = {told: name.removeprefix("torch.") for name, told in _TYPES.items()}
_SHAPE: Final = "export it for any number of rows, with dynamic_shapes={'x': {0: torch.export.Dim('rows')}}"


class TorchInput(NamedTuple):
    """An input of a program, as ONNX Runtime tells of a graph's. shape: a text where it is any number."""

    name: str
    shape: list[int | str]
    type: str


class TorchProgram:
    """A program of `torch.export`. content: its archive, of which nothing but the program is left."""

    def __init__(self, content: bytes) -> None:
        self.content = clean_archive(content)
        self.program = load_program(content)
        self.module = self.program.module()

    @property
    def version(self) -> str:
        """Of PyTorch."""
        import torch

        return str(torch.__version__)

    def inputs(self) -> list[TorchInput]:
        """Return its inputs, in their order."""
        places = {node.name: node.meta["val"] for node in self.program.graph.nodes if node.op == "placeholder"}
        found = [(str(name), places[name]) for name in self.program.graph_signature.user_inputs]
        return [
            TorchInput(name, [size if isinstance(size, int) else str(size) for size in value.shape],
                       _TYPES.get(str(value.dtype), str(value.dtype)))
            for name, value in found
        ]  # fmt: skip

    def graph(self) -> bytes:
        """Return it as an ONNX graph. Raises NoGraphError, saying why, where there is no such."""
        import torch

        try:
            with _quiet():
                converted: Any = torch.onnx.export(self.program, dynamo=True, verbose=False)
            graph: bytes = converted.model_proto.SerializeToString()
        except Exception as error:  # the exporter raises whatever it meets
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise NoGraphError(
                f"the PyTorch program cannot be converted to ONNX: {lines[0][:300]}",
                where="model",
                next="install the extra 'torch', or leave that operator out",
            ) from error
        return graph

    def score(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Return its scores of columns, some of which may be vectors: (rows,), or (rows, classes) for more than two."""
        import torch

        with torch.inference_mode():
            scores = to_scores(self.module(*map(torch.from_numpy, self._arrays(columns)))).astype(np.float64)
        if scores.ndim == 2 and scores.shape[1] <= 2:
            return scores[:, -1]
        return scores

    def _arrays(self, columns: Mapping[str, NDArray[Any]]) -> Iterator[NDArray[Any]]:
        """Give an array for each input: all columns for the one, or the column of its name for each of several."""
        inputs = self.inputs()
        for each in inputs:
            names = list(columns) if len(inputs) == 1 else [each.name]
            parts = [columns[name].reshape(len(columns[name]), -1) for name in names]
            yield np.ascontiguousarray(np.concatenate(parts, axis=1).astype(_DTYPES[each.type]))


def exported(model: Any, table: Any, target: str | None) -> Any:
    """Return a module or program of PyTorch as a `TorchProgram`, and any other model as it is."""
    names = {f"{base.__module__}.{base.__qualname__}" for base in type(model).__mro__}
    if "torch.export.exported_program.ExportedProgram" in names:
        return TorchProgram(_save(model))
    return TorchProgram(_export(model, table, target)) if "torch.nn.modules.module.Module" in names else model


def _save(program: Any) -> bytes:
    import torch

    written = io.BytesIO()
    torch.export.save(program, written)
    return written.getvalue()


def _export(module: Any, table: Any, target: str | None) -> bytes:
    """Return the archive of a `torch.nn.Module` that takes one float32 matrix: the data's columns but the target."""
    import torch

    names = tuple(name for name in table.column_names if name != target)
    matrix = read_rows(table.slice(0, ROWS_EXPORTED), names).matrix().astype(np.float32)
    rows = torch.from_numpy(np.resize(np.nan_to_num(matrix), (ROWS_EXPORTED, len(names))))
    try:
        with _quiet():
            program = torch.export.export(module.eval(), (rows,), dynamic_shapes=({0: torch.export.Dim("rows")},))
            return _save(program)
    except Exception as error:  # what PyTorch raises shares no base
        lines = str(error).strip().splitlines() or [type(error).__name__]
        raise ModelPackageError(
            f"the module cannot be exported for a matrix of {len(names)} columns: {lines[0][:300]}",
            where="model",
            next=f"export it yourself with torch.export, and package the .pt2 file; {_SHAPE}",
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's warnings of its own dependencies to itself."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
