"""The conversion against the original: the same rows through both, and no score apart by more than the tolerance.

The original scores the rows as the data has them, the conversion as a server feeds it: in float32. A row that stands
so close to a split that float32 moves it across gets another score. Such rows are few in ordinary data: up to 1 in
1,000 are let through, counted and reported; more of them mean a feature that float32 does not hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.backends.onnx import open_session, select_scores
from tailrace.inference.calibration import Calibration
from tailrace.inference.packaged import GOLDEN_TOLERANCE, score_error
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature
from tailrace.release.convert import Converted
from tailrace.release.original import Original
from tailrace.release.rounding import explain_rounding, is_rounding
from tailrace.release.rows import Rows, Specs, float_features, read_rows
from tailrace.release.table import spread_rows
from tailrace.release.unseen import unseen_rows

ROWS_COMPARED_MAX: Final = 10_000
ROWS_TOGETHER: Final = 2_000
"""Rows of one call of the graph."""
ROUNDED_SHARE_MAX: Final = 0.001
"""The share of rows (and one row at least) that float32 may move across a split."""

STEEP_SHARE_MAX: Final = 0.01
"""The share where the scores are calibrated: an isotonic curve rises steeply between two of its steps."""
RAW_TOLERANCE: Final = 1e-6
"""How far a score before the calibration may be from the original's, for the curve to be the cause."""
STEEP_MAX: Final = 1e-3
"""How far such a score may be from the original's, where the curve stands inside the graph."""
TEXTS_SHOWN_MAX: Final = 3
"""Texts that ONNX reads otherwise which are shown, the ones of the largest difference first."""
TEXT_SHOWN_MAX: Final = 80
"""Characters of each."""

_NEXT_TEXTS: Final = "it lower-cases İ, and a Σ that ends a word, otherwise; of letters it keeps two blanks as two"


@dataclass(frozen=True, slots=True)
class Comparison:
    """A conversion that gives the original's scores. session: computes it, ONNX Runtime's or what has its `run`.

    difference_max: None for a model that came as ONNX. rows_rounded: of the rows compared those that float32 moves
    across a split, difference_rounded the largest of theirs; difference_max is that of the others. unfilled: the inputs
    in which a NaN does not get the original's score. rows_text: those whose text ONNX reads otherwise, difference_text
    the largest of theirs, which is left out as well; texts: some of them.
    """

    converted: Converted
    session: Any
    difference_max: float | None = None
    rows_compared: int = 0
    rows_rounded: int = 0
    difference_rounded: float = 0.0
    unfilled: tuple[str, ...] = ()
    rows_text: int = 0
    difference_text: float = 0.0
    texts: tuple[str, ...] = ()
    calibration: Calibration | None = None

    @property
    def signature(self) -> Signature:
        """What the conversion takes and gives."""
        return self.converted.signature

    @property
    def missing(self) -> bool:
        """Whether rows with NaN get the original's scores, wherever it stands."""
        return not self.unfilled

    @property
    def unfilled_inputs(self) -> Specs:
        """The inputs in which a NaN does not get the original's score."""
        return tuple(spec for spec in self.signature.inputs if spec.name in self.unfilled)

    def score(self, feeds: Feeds) -> NDArray[Any]:
        """Return the conversion's scores, (rows,) or (rows, classes), calibrated where the model is."""
        raw = self.score_raw(feeds)
        return raw if self.calibration is None else self.calibration.apply(raw)

    def score_raw(self, feeds: Feeds) -> NDArray[Any]:
        """Return the graph's scores. Some rows at a time: a one-hot code of many categories is wide."""
        count = len(next(iter(feeds.values())))
        parts = [
            self.session.run(
                [self.signature.output], {name: each[start : start + ROWS_TOGETHER] for name, each in feeds.items()}
            )[0]
            for start in range(0, max(count, 1), ROWS_TOGETHER)
        ]
        return select_scores(parts[0] if len(parts) == 1 else np.concatenate(parts), self.signature.column)


@dataclass(frozen=True, slots=True)
class Distances:
    """How far the conversion's scores are from the original's. errors: the largest of each row.

    wrong: the rows that are too far; rounded: those that are, since float32 moves them across a split; text: those that
    are, since ONNX reads their text otherwise.
    """

    scores: NDArray[Any]
    expected: NDArray[Any]
    errors: NDArray[np.float64]
    wrong: NDArray[np.intp]
    rounded: NDArray[np.intp]
    text: NDArray[np.intp]


def choose_graph(
    original: Original, candidates: list[Converted], table: Any, text_tolerance: float = 0.0
) -> Comparison:
    """Return the first conversion whose scores are the original's on the data.

    text_tolerance: the share of rows whose score may be another one since ONNX reads their text otherwise.

    Raises ModelPackageError that shows the worst row of the last candidate, or the features that float32 loses.
    """
    rows = read_rows(spread_rows(table, ROWS_COMPARED_MAX), candidates[0].signature.feature_names, original.nulls)
    refusal: ModelPackageError | None = None
    for converted in candidates:
        session = converted.session or open_session(converted.graph)
        found = Comparison(converted, session, calibration=original.calibration)
        if original.score is None:
            return found
        try:
            return _compare(original, found, rows, text_tolerance)
        except ModelPackageError as error:
            refusal = error
    assert refusal is not None, "there is always a candidate"
    raise refusal


def compare_calibrated(original: Original, chosen: Comparison, table: Any, text_tolerance: float = 0.0) -> Comparison:
    """Return a conversion compared again, once both have a calibration behind them.

    Raises ModelPackageError as `choose_graph` does.
    """
    found = replace(chosen, calibration=original.calibration)
    rows = read_rows(spread_rows(table, ROWS_COMPARED_MAX), chosen.signature.feature_names, original.nulls)
    return _compare(original, found, rows, text_tolerance)


def measure_distances(original: Original, found: Comparison, rows: Rows) -> Distances:
    """Return how far apart the scores of some rows are. Raises ModelPackageError for rows that either side refuses."""
    feeds = rows.feeds(found.signature.inputs)
    try:
        scores, expected = found.score(feeds), original.score_rows(rows)
    except Exception as error:  # each framework raises its own
        raise _unscored(original, rows, error) from error
    if scores.shape != expected.shape:
        raise ModelPackageError(
            f"the conversion gives scores of shape {scores.shape}, the original {expected.shape}",
            where="model",
            next="export the model to ONNX yourself, with its scores as the last output, and package the .onnx file",
        )
    errors = score_error(scores, expected).reshape(len(scores), -1).max(axis=1, initial=0.0)
    apart = np.flatnonzero(errors > GOLDEN_TOLERANCE)
    rounded = np.zeros(0, np.bool_)
    if len(apart):
        rounded = is_rounding(original, rows.take(apart), found.signature.inputs)
        rounded |= _is_steep(original, found, rows.take(apart))
    rest = apart[~rounded]
    text = _is_text(original, found, rows.take(rest))
    return Distances(scores, expected, errors, rest[~text], apart[rounded], rest[text])


def find_finite(scores: NDArray[Any]) -> NDArray[np.bool_]:
    """Return which rows have finite scores alone, (rows,)."""
    return np.asarray(np.isfinite(scores).reshape(len(scores), -1).all(axis=1))


def _is_steep(original: Original, found: Comparison, rows: Rows) -> NDArray[np.bool_]:
    """Return for which rows it is an isotonic curve, steep between two of its steps, that sets the scores apart.

    Both give them one score before the curve, to float32; where curves stand inside the graph, almost one behind it.
    """
    feeds = rows.feeds(found.signature.inputs)
    if original.has_steps:
        errors = score_error(found.score(feeds), original.score_rows(rows))
        return np.asarray(errors.reshape(len(rows), -1).max(axis=1, initial=0.0) <= STEEP_MAX)
    if original.calibration is None:
        return np.zeros(len(rows), np.bool_)
    return np.asarray(score_error(found.score_raw(feeds), original.score_raw(rows)) <= RAW_TOLERANCE)


def _is_text(original: Original, found: Comparison, rows: Rows) -> NDArray[np.bool_]:
    """Return for which rows both give one score once their texts are empty: it is these that they read otherwise."""
    names = _text_features(original, found)
    if not names or not len(rows):
        return np.zeros(len(rows), np.bool_)
    emptied = Rows({**rows.columns, **dict.fromkeys(names, np.full(len(rows), "", object))})
    try:
        scores, expected = found.score(emptied.feeds(found.signature.inputs)), original.score_rows(emptied)
    except Exception:  # each framework raises its own
        return np.zeros(len(rows), np.bool_)
    errors = score_error(scores, expected).reshape(len(rows), -1).max(axis=1, initial=0.0)
    return np.asarray(errors <= GOLDEN_TOLERANCE)


def _text_features(original: Original, found: Comparison) -> list[str]:
    """Return the features that are texts of words, not categories."""
    texts = [name for spec in found.signature.inputs if spec.dtype == "string" for name in spec.features]
    return [name for name in texts if name not in original.vocabularies]


def _compare(original: Original, found: Comparison, rows: Rows, text_tolerance: float) -> Comparison:
    """Return the comparison on the data, and on made-up rows with zeros and with NaN."""
    distances = measure_distances(original, found, rows)
    if len(distances.wrong):
        raise differs(rows, distances, original.nulls)
    rounded, text, errors = distances.rounded, distances.text, distances.errors
    worst = text[errors[text].argsort()[::-1][:TEXTS_SHOWN_MAX]]
    texts = tuple(str(rows.columns[name][row]) for row in worst for name in _text_features(original, found))
    if len(text) > text_tolerance * len(rows):
        raise _reads_otherwise(texts, distances, len(rows), text_tolerance)
    share_max = STEEP_SHARE_MAX if original.has_steps or original.calibration is not None else ROUNDED_SHARE_MAX
    if len(rounded) > max(1, share_max * len(rows)):
        raise explain_rounding(original, rows.take(rounded), found.signature.inputs, len(rows))
    _check_zeros(original, found, rows)
    _check_unseen(original, found, rows)
    return replace(
        found,
        difference_max=float(np.delete(errors, np.concatenate([rounded, text])).max(initial=0.0)),
        rows_compared=len(rows),
        rows_rounded=len(rounded),
        difference_rounded=float(errors[rounded].max(initial=0.0)),
        unfilled=_find_unfilled(original, found, rows),
        rows_text=len(text),
        difference_text=float(errors[text].max(initial=0.0)),
        texts=texts,
    )


def _find_unfilled(original: Original, found: Comparison, rows: Rows) -> tuple[str, ...]:
    """Return the inputs in which a NaN does not get the original's score: one after the other, then all the rest."""
    specs = [spec for spec in found.signature.inputs if spec.dtype.startswith("float")]
    unfilled = [spec for spec in specs if not _agrees_on_missing(original, found, rows, (spec,))]
    filled = tuple(spec for spec in specs if spec not in unfilled)
    if len(filled) > 1 and not _agrees_on_missing(original, found, rows, filled):
        unfilled = specs
    return tuple(spec.name for spec in unfilled)


def _agrees_on_missing(original: Original, found: Comparison, rows: Rows, specs: Specs) -> bool:
    """Return whether rows with NaN get the original's scores; False as well where the original refuses them."""
    spoiled = rows.with_value(specs, np.nan)
    if not len(spoiled):
        return True
    try:
        return not len(measure_distances(original, found, spoiled).wrong)
    except ModelPackageError:  # the original refuses NaN
        return False


def _check_zeros(original: Original, found: Comparison, rows: Rows) -> None:
    """Raise ModelPackageError where a zero, the usual default in serving, is scored otherwise than by the original."""
    zeros = rows.with_value(found.signature.inputs, 0.0)
    if not len(zeros):
        return
    try:
        distances = measure_distances(original, found, zeros)
    except ModelPackageError:  # a model that is not defined at zero
        return
    wrong = [row for row in distances.wrong if np.isfinite(distances.expected[row]).all()]
    if wrong:
        scores, expected = (array[wrong[0]].tolist() for array in (distances.scores, distances.expected))
        place = (*float_features(found.signature.inputs), "every feature")[wrong[0]]
        raise ModelPackageError(
            f"the conversion scores a row with zero in {place} otherwise than the original: {scores} instead of "
            f"{expected}",
            where="model",
            next="train it again so that zero is a number as any other: without zero_as_missing",
        )


def _check_unseen(original: Original, found: Comparison, rows: Rows) -> None:
    """Raise ModelPackageError where a category that training had not seen is scored otherwise than by the original."""
    for what, row in unseen_rows(original, rows):
        try:
            distances = measure_distances(original, found, row)
        except ModelPackageError:  # one that the original refuses
            continue
        if len(distances.wrong) and np.isfinite(distances.expected).all():
            raise ModelPackageError(
                f"the conversion scores a row with {what} otherwise than the original: {distances.scores[0].tolist()} "
                f"instead of {distances.expected[0].tolist()}",
                where="model",
                next="encode the feature as whole numbers or texts, and train again",
            )


def _reads_otherwise(
    texts: tuple[str, ...], distances: Distances, rows: int, text_tolerance: float
) -> ModelPackageError:
    """Return the refusal of a conversion that reads too many texts otherwise: some of them."""
    text, shown = distances.text, ", ".join(repr(text[:TEXT_SHOWN_MAX]) for text in texts)
    return ModelPackageError(
        f"ONNX reads the text of {len(text)} of {rows} rows otherwise than the original, and their scores differ by up "
        f"to {distances.errors[text].max():.1e}; --text-tolerance lets {text_tolerance:g} of them through: {shown}",
        where="data",
        next=f"change such texts before they come to the model, in training and in serving ({_NEXT_TEXTS}), or let "
        f"them through: --text-tolerance {-(-len(text) * 1000 // rows) / 1000:g}",
    )


def differs(rows: Rows, distances: Distances, nulls: Mapping[str, Any]) -> ModelPackageError:
    """Return the refusal of a conversion with other scores: its worst row."""
    worst = distances.wrong[distances.errors[distances.wrong].argmax()]
    values = {name: column[worst] for name, column in rows.columns.items()}
    inputs = {name: value.item() if hasattr(value, "item") else value for name, value in values.items()}
    return ModelPackageError(
        f"the conversion scores {len(distances.wrong)} of {len(rows)} rows otherwise than the original; the worst is "
        f"row {worst}: {distances.scores[worst].tolist()} instead of {distances.expected[worst].tolist()}, "
        f"for {inputs}",
        where="model",
        next=_next_of(rows, nulls),
    )


def _next_of(rows: Rows, nulls: Mapping[str, Any]) -> str:
    """Return what to do about other scores."""
    for name in nulls:
        column = rows.columns[name]
        if column.dtype.kind == "O" and "" in column.tolist() and not all(isinstance(text, str) for text in column):
            return f'the column {name} holds nulls and "", which are one in serving: fill the nulls, and train again'
    why = "a value beyond float32, or an operator ONNX computes otherwise"
    return f"{why}: leave that feature or option out and train again"


def _unscored(original: Original, rows: Rows, error: Exception) -> ModelPackageError:
    """Return the refusal of data that the original or its conversion cannot score."""
    why = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    nulls = {name: int(np.isnan(column).sum()) for name, column in rows.columns.items() if column.dtype.kind == "f"}
    holed = [f"{name} ({count})" for name, count in nulls.items() if count]
    if holed:
        return ModelPackageError(
            f"the {original.model_type} cannot score the data, which holds nulls in {', '.join(holed[:5])}: {why}",
            where="data",
            next="fill them as the features' defaults do in serving, or drop these rows",
        )
    return ModelPackageError(
        f"the {original.model_type} cannot score the data: {why}",
        where="data",
        next="give the columns as the model was trained on them",
    )
