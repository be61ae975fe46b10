"""The metric that a model must keep: what it is called, what it takes, and how much worse another value is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.signature import Signature
from tailrace.release.metrics import measure_quality

KEYS: Final = {
    "auc": "roc_auc", "average_precision": "average_precision", "log_loss": "log_loss", "accuracy": "accuracy",
    "rmse": "rmse", "mae": "mae",
}  # fmt: skip
"""What a metric is called here, and in a manifest."""
LESS_IS_BETTER: Final = frozenset({"log_loss", "rmse", "mae"})
OF_NUMBERS: Final = frozenset({"rmse", "mae"})
OF_TWO: Final = frozenset({"auc", "average_precision"})


class Metric(NamedTuple):
    """A metric of one model's scores. classes: as the metric takes them, which an ONNX file of one score has not."""

    name: str
    classes: tuple[int | str, ...]

    def measure(self, scores: NDArray[Any], outcomes: Sequence[Any]) -> float:
        """Return the metric of scores, (rows,) or (rows, classes). Raises ModelPackageError where there is none."""
        found = measure_quality(scores, np.array(outcomes, object), self.classes)
        try:
            return float(found[KEYS[self.name]])
        except KeyError:
            raise ModelPackageError(
                f"the data gives no {self.name}: {_why(found)}",
                where="--metric",
                next="give more rows, of both outcomes, or another metric: log_loss, accuracy",
            ) from None

    def loss(self, before: float, after: float) -> float:
        """Return by how much a value is worse than the one before; below zero where it is better."""
        return after - before if self.name in LESS_IS_BETTER else before - after


def choose_metric(name: str, signature: Signature, outcomes: Sequence[Any]) -> Metric:
    """Return the metric of a name for a model. Raises ModelPackageError for one that the model cannot have."""
    if name not in KEYS:
        raise ModelPackageError(f"no metric is called {name!r}", where="--metric", next=f"use one of {', '.join(KEYS)}")
    classes = signature.classes
    if not classes and name not in OF_NUMBERS and signature.column is not None and set(outcomes) <= {0, 1}:
        classes = (0, 1)  # an ONNX file says nothing of classes
    able = OF_NUMBERS if not classes else set(KEYS) - OF_NUMBERS - (OF_TWO if len(classes) > 2 else set())
    if name not in able:
        what = "a regression" if not classes else f"a classifier of {len(classes)} classes"
        raise ModelPackageError(
            f"{what} has no {name}",
            where="--metric",
            next=f"use one of {', '.join(key for key in KEYS if key in able)}",
        )
    return Metric(name, classes)


def _why(found: dict[str, float | int | str]) -> str:
    rows, positives = found["rows"], found.get("positives", 0)
    return f"of its {rows} held-back rows {positives} have the second outcome"
