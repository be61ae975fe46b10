"""What a model takes and gives: its input tensors, the features that fill them, and where the score is."""

from __future__ import annotations

from typing import Final, Self

import msgspec
import numpy as np

NUMPY_DTYPES: Final[dict[str, str]] = {
    "float32": "float32", "float64": "float64", "int32": "int32", "int64": "int64", "bool": "bool", "string": "object",
}  # fmt: skip
"""The dtypes of a `TensorSpec`, and the NumPy dtype an array for it has."""


Classes = tuple[str | int, ...]


class TensorSpec(msgspec.Struct, frozen=True):
    """One input of a model: an array of shape (rows, width), in C order.

    dtype: a key of `NUMPY_DTYPES`; "string" is an object array of str.
    features: the canonical names of its columns, in order: `amount`, `CustomerProfile.avg_amount_90d`, `amount_ratio`.
    widths: how many columns each has, where one of them is a vector; empty where each is one column.
    Raises ValueError for widths that are not one a feature, each of one at least.
    """

    name: str
    dtype: str
    features: tuple[str, ...]
    widths: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.widths and (len(self.widths) != len(self.features) or min(self.widths) < 1):
            raise ValueError(f"the input {self.name!r} has widths {self.widths} for {len(self.features)} features")

    @property
    def width(self) -> int:
        """How many columns the array has."""
        return sum(self.widths) if self.widths else len(self.features)

    @property
    def feature_widths(self) -> tuple[int, ...]:
        """How many columns each feature has."""
        return self.widths or (1,) * len(self.features)

    @property
    def numpy_dtype(self) -> np.dtype[np.generic]:
        """The dtype of an array that feeds this input."""
        return np.dtype(NUMPY_DTYPES[self.dtype])


def class_column(classes: int) -> int | None:
    """Return which of an output's columns, one a class, is the score; None where all of them are: of more than two."""
    return None if classes > 2 else max(classes - 1, 0)


class Signature(msgspec.Struct, frozen=True):
    """A model's inputs and its score.

    output: the ONNX output that holds the scores; no other output is computed.
    column: the column of that output which is the score, shape (rows,); None gives all of them, (rows, classes).
    classes: a classifier's labels in the order of the output's columns; empty for a regression.
    vector: how many numbers the output has, where they are one vector a row, an embedding, and no scores; else 0.
    """

    inputs: tuple[TensorSpec, ...]
    output: str
    column: int | None = None
    classes: Classes = ()
    vector: int = 0

    @classmethod
    def of_scores(cls, inputs: tuple[TensorSpec, ...], output: str, classes: Classes = ()) -> Self:
        """Return the signature of an output with one score a row, or one a class where there are more than two."""
        return cls(inputs, output, None if len(classes) > 2 else 0, classes)

    @classmethod
    def of_classes(cls, inputs: tuple[TensorSpec, ...], output: str, classes: Classes = ()) -> Self:
        """Return the signature of an output with a column a class: of two classes the score is the second's.

        Without classes it has one column, the score.
        """
        return cls(inputs, output, class_column(len(classes)), classes)

    @property
    def scores_width(self) -> int:
        """How many columns the scores have; 1 where they are one a row."""
        if self.vector:
            return self.vector
        return len(self.classes) if self.column is None and self.classes else 1

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The canonical names of all features, input after input."""
        return tuple(name for spec in self.inputs for name in spec.features)
