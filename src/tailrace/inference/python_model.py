"""A model that is a class of the user's, as a pipeline declares it, and the guard around its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.declaration import Constant, StageDeclaration
from tailrace.inference.predictor import Feeds, Predictor
from tailrace.inference.signature import NUMPY_DTYPES, Signature, TensorSpec

INPUT: Final = "features"
"""The one input of a model that declares none: all features of the pipeline, as float32."""


@dataclass(frozen=True, slots=True, init=False)
class PythonModel(StageDeclaration):
    """A model that is a class of your own: rules, a library that Tailrace does not know, a formula.

    model: an object, or a class without arguments, with `predict(self, feeds)`: takes an array for each input, (rows,
        columns); returns the scores as floats, (rows,), or (rows, classes). `blocks = True` on it says that it waits
        for something else, or takes long and lets go of the interpreter meanwhile: it then runs on the inference
        thread, whatever it took when it was measured. `examples(self, rows)` may give feeds to measure it with; without
        it, it meets random numbers.
    inputs: what it is fed with; None: all features of the pipeline, in one float32 matrix, "features".
    classes: of a classifier of more than two, in the order of its scores' columns.
    fallback: what scores a row that it raises for, gives NaN for, or is late with; None: such a row is an error.
    Raises ValueError for a model without `predict`, or for inputs and classes that are none.
    """

    name: str
    model: Any
    inputs: tuple[TensorSpec, ...] | None
    classes: tuple[str | int, ...]
    fallback: Constant | None

    def __init__(
        self,
        name: str,
        model: Any,
        *,
        inputs: Sequence[TensorSpec] | None = None,
        classes: Sequence[str | int] = (),
        fallback: Constant | None = None,
    ) -> None:
        if not isinstance(fallback, Constant | None):
            raise ValueError(f"PythonModel({name!r}): the fallback is {fallback!r}; write tr.Constant(0.5)")
        values = {"name": name, "model": model, "inputs": None if inputs is None else tuple(inputs),
                  "classes": tuple(classes), "fallback": fallback}  # fmt: skip
        for attribute, value in values.items():
            object.__setattr__(self, attribute, value)
        if problem := self._problem():
            raise ValueError(f"PythonModel({name!r}): {problem}")

    @property
    def constant(self) -> Constant | None:
        """What answers where it does not."""
        return self.fallback

    def signature(self, features: Sequence[str]) -> Signature:
        """Return what it takes and gives. features: of the pipeline."""
        inputs = self.inputs or (TensorSpec(INPUT, "float32", tuple(features)),)
        return Signature.of_scores(inputs, "scores", self.classes)

    def _problem(self) -> str:
        if not self.name:
            return "a model has a name, such as 'rules'"
        if not callable(getattr(self.model, "predict", None)):
            return "it has no `predict(self, feeds)`"
        strange = [each for each in self.inputs or () if each.dtype not in NUMPY_DTYPES or not each.features]
        if strange or self.inputs == ():
            return f"an input needs a type of {', '.join(NUMPY_DTYPES)}, and features"
        return "one class is no choice" if len(self.classes) == 1 else ""


class GuardedModel:
    """An object of the user's that scores, held to what it declares: floats of one shape, or an error."""

    backend: Final = "Python"

    def __init__(self, model: Any, signature: Signature) -> None:
        self.model: Predictor = model() if isinstance(model, type) else model
        self.signature = signature
        self.blocks = bool(getattr(self.model, "blocks", False))
        self._first = signature.inputs[0].name
        self._width = signature.scores_width

    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores, (rows,) or (rows, classes), an array of their own.

        Raises ValueError for others, and what the model raises; RuntimeError for what is no `Exception`.
        """
        rows = len(feeds[self._first])
        try:
            scores = np.array(self.model.predict(feeds))  # a copy: the model may write its next batch over these
        except (Exception, KeyboardInterrupt):
            raise
        except BaseException as error:  # a panic of a library in Rust, SystemExit: of a row, not of the worker
            raise RuntimeError(f"{type(error).__name__}: {error}") from error
        wanted = (rows,) if self._width == 1 else (rows, self._width)
        if scores.shape == (rows, 1) and self._width == 1:
            scores = scores[:, 0]
        if scores.shape != wanted or scores.dtype.kind not in "fiub":
            raise ValueError(f"it gives {scores.dtype} of shape {scores.shape}, not floats of shape {wanted}")
        return scores if scores.dtype.kind == "f" else scores.astype(np.float64)

    def sample_feeds(self, rows: int, *, seed: int = 0) -> Mapping[str, NDArray[Any]]:
        """Return feeds to measure it with: the model's own examples, or random numbers, and texts without letters."""
        examples = getattr(self.model, "examples", None)
        if examples is not None:
            given: Mapping[str, NDArray[Any]] = examples(rows)
            return given
        rng = np.random.default_rng(seed)
        return {spec.name: _draw(spec, rows, rng) for spec in self.signature.inputs}


def _draw(spec: TensorSpec, rows: int, rng: np.random.Generator) -> NDArray[Any]:
    shape = (rows, spec.width)
    if spec.dtype == "string":
        return np.full(shape, "", object)
    return np.ascontiguousarray(rng.lognormal(size=shape).astype(spec.numpy_dtype))
