"""The conversion against the original: the same rows through both, and no score apart by more than the tolerance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.onnx import open_session, select_scores
from tailrace.inference.packaged import GOLDEN_TOLERANCE, score_error
from tailrace.inference.signature import Signature
from tailrace.release.convert import Converted
from tailrace.release.original import Original
from tailrace.release.table import spread_rows, to_feeds

ROWS_COMPARED_MAX: Final = 10_000

Feeds = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A conversion that gives the original's scores.

    difference_max: None for a model that came as ONNX. missing: rows with NaN get the original's scores as well.
    """

    converted: Converted
    session: Any
    difference_max: float | None = None
    rows_compared: int = 0
    missing: bool = True

    def score(self, feeds: Feeds) -> NDArray[Any]:
        """Return the conversion's scores, (rows,) or (rows, classes)."""
        signature = self.converted.signature
        return select_scores(self.session.run([signature.output], dict(feeds))[0], signature.column)


def choose_graph(original: Original, candidates: list[Converted], table: Any) -> Comparison:
    """Return the first conversion whose scores are the original's on the data.

    Raises ModelPackageError that shows the worst row of the last candidate.
    """
    rows = spread_rows(table, ROWS_COMPARED_MAX)
    refusal: ModelPackageError | None = None
    for converted in candidates:
        found = Comparison(converted, open_session(converted.graph))
        feeds = to_feeds(rows, converted.signature.inputs)
        if original.score is None:
            found.score(feeds)
            return found
        try:
            expected = score_original(original, converted.signature, feeds)
            difference = _difference(expected, found, feeds)
        except ModelPackageError as error:
            refusal = error
            continue
        return replace(
            found,
            difference_max=difference,
            rows_compared=rows.num_rows,
            missing=_agrees_on_missing(original, found, feeds),
        )
    assert refusal is not None, "there is always a candidate"
    raise refusal


def score_original(original: Original, signature: Signature, feeds: Feeds) -> NDArray[np.float64]:
    """Return the original's scores for the arrays that the conversion takes. Raises what the framework raises."""
    assert original.score is not None, "an ONNX file has no original"
    if original.framework == "scikit-learn":
        return original.score(_to_frame(signature, feeds))
    return original.score(feeds[signature.inputs[0].name])


def missing_feeds(signature: Signature, feeds: Feeds) -> dict[str, NDArray[Any]]:
    """Return copies of the first rows with NaN: in one feature each, and the last row in all; none without floats."""
    floats = [(spec.name, column) for spec in signature.inputs if spec.dtype.startswith("float")
              for column in range(len(spec.features))]  # fmt: skip
    rows = min(len(floats) + 1, len(feeds[signature.inputs[0].name])) if floats else 0
    spoiled = {name: array[:rows].copy() for name, array in feeds.items()}
    for row in range(rows - 1):
        name, column = floats[row]
        spoiled[name][row, column] = np.nan
    for name, column in floats if rows else ():
        spoiled[name][rows - 1, column] = np.nan
    return spoiled


def _agrees_on_missing(original: Original, found: Comparison, feeds: Feeds) -> bool:
    """Return whether rows with NaN get the original's scores; False as well where the original refuses them."""
    signature = found.converted.signature
    spoiled = missing_feeds(signature, feeds)
    if not len(next(iter(spoiled.values()))):
        return True
    try:
        expected = score_original(original, signature, spoiled)
        return bool(score_error(found.score(spoiled), expected).max() <= GOLDEN_TOLERANCE)
    except Exception:  # the refusal of NaN, in each framework's own words
        return False


def _difference(expected: NDArray[Any], found: Comparison, feeds: Feeds) -> float:
    scores = found.score(feeds)
    if scores.shape != expected.shape:
        raise ModelPackageError(
            f"the conversion gives scores of shape {scores.shape}, the original {expected.shape}",
            where="model",
            next="export the model to ONNX yourself, with its scores as the last output, and package the .onnx file",
        )
    errors = score_error(scores, expected)
    by_row = errors if errors.ndim == 1 else errors.max(axis=1)
    worst = int(by_row.argmax())
    if by_row[worst] > GOLDEN_TOLERANCE:
        inputs = {
            name: value.item() if hasattr(value, "item") else value
            for spec in found.converted.signature.inputs
            for name, value in zip(spec.features, feeds[spec.name][worst], strict=True)
        }
        raise ModelPackageError(
            f"the conversion scores {int((by_row > GOLDEN_TOLERANCE).sum())} of {len(by_row)} rows otherwise than the "
            f"original; the worst is row {worst}: {scores[worst].tolist()} instead of {expected[worst].tolist()}, "
            f"for {inputs}",
            where="model",
            next="a value beyond float32, zero as a missing value, or an operator ONNX computes otherwise: "
            "leave that feature or option out and train again",
        )
    return float(by_row[worst])


def _to_frame(signature: Signature, feeds: Feeds) -> Any:
    """Return the arrays as a pandas DataFrame with the features as its columns."""
    import pandas  # type: ignore[import-untyped]

    return pandas.DataFrame(
        {name: feeds[spec.name][:, column] for spec in signature.inputs for column, name in enumerate(spec.features)}
    )
