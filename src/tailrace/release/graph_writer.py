"""A graph that skl2onnx writes: nodes and constants that are named by themselves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

NAN: Final = float("nan")
"""The key of a null in a look-up of floats."""


class GraphWriter:
    """A graph that skl2onnx writes: nodes that are named by themselves."""

    def __init__(self, scope: Any, container: Any) -> None:
        self._scope = scope
        self._container = container

    def columns(self, variables: Sequence[Any]) -> list[tuple[str, str]]:
        """Return the name and the kind of every column, (rows, 1), of some inputs."""
        from onnx import TensorProto
        from skl2onnx.common.data_types import BooleanTensorType, FloatTensorType, Int64TensorType, StringTensorType

        kinds = {Int64TensorType: "int64s", BooleanTensorType: "int64s", StringTensorType: "strings",
                 FloatTensorType: "floats"}  # fmt: skip
        found = []
        for variable in variables:
            name, width = variable.full_name, variable.type.shape[1]
            if isinstance(variable.type, BooleanTensorType):
                name = self.node("Cast", [name], to=TensorProto.INT64)
            for place in range(width):
                index = self.constant(np.array([place], np.int64))
                column = self.node("Gather", [name, index], axis=1) if width > 1 else name
                found.append((column, kinds[type(variable.type)]))
        return found

    def label(self, name: str, kind: str, keys: Sequence[Any], default: int) -> str:
        """Write a look-up of keys, and return their places."""
        known = [key for key in keys if key is not NAN]
        places = {f"keys_{kind}": known, "values_int64s": list(range(len(known))), "default_int64": default}
        place = self.node("LabelEncoder", [name], domain="ai.onnx.ml", version=2, **places)
        if len(known) == len(keys):
            return place
        null = self.constant(np.array([len(known)], np.int64))  # ONNX Runtime's look-up does not find NaN
        return self.node("Where", [self.node("IsNaN", [name]), null, place])

    def flat(self, name: str, width: int) -> str:
        """Return a tensor as (rows, width)."""
        return self.node("Reshape", [name, self.constant(np.array([-1, width], np.int64))])

    def constant(self, array: NDArray[Any]) -> str:
        """Write an array, and return its name."""
        from onnx import TensorProto

        name: str = self._scope.get_unique_variable_name("constant")
        kind = TensorProto.INT64 if array.dtype == np.int64 else TensorProto.FLOAT
        self._container.add_initializer(name, kind, list(array.shape), array.ravel().tolist())
        return name

    def scalar(self, value: float) -> str:
        """Write one number, and return its name."""
        from onnx import TensorProto

        name: str = self._scope.get_unique_variable_name("scalar")
        self._container.add_initializer(name, TensorProto.FLOAT, [], [value])
        return name

    def texts(self, texts: Sequence[str]) -> str:
        """Write an array of texts, and return its name."""
        from onnx import TensorProto

        name: str = self._scope.get_unique_variable_name("texts")
        self._container.add_initializer(name, TensorProto.STRING, [len(texts)], [text.encode() for text in texts])
        return name

    def node(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Write a node, and return its output."""
        name: str = self._scope.get_unique_variable_name(kind.lower())
        self.write(kind, inputs, name, **attributes)
        return name

    def write(
        self,
        kind: str,
        inputs: Sequence[str],
        output: Any,
        *,
        domain: str = "",
        version: int | None = None,
        **attributes: Any,
    ) -> None:
        """Write a node with an output of this name."""
        name = self._scope.get_unique_operator_name(kind)
        self._container.add_node(
            kind, list(inputs), output, op_domain=domain, op_version=version, name=name, **attributes
        )
