"""The guarded model call of the engine: a row that cannot be scored takes its fallback, its neighbours their scores."""

from __future__ import annotations

from math import isfinite
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.batch import Degraded
from tailrace.deadline import Clock, MonotonicClock
from tailrace.inference.declaration import Constant
from tailrace.inference.predictor import Feeds, Predictor, slice_feeds
from tailrace.inference.scored import Gaps, Scored, has_scores

CALLS_MAX: Final = 512
"""Predictor calls that isolating the failing rows of one batch may take; isolating one of 256 takes 17."""

FAILURE_CHARACTERS_MAX: Final = 300
"""Of what a model raised, that is kept to be told."""


class Scorer:
    """Scores batches and never raises for what a row holds.

    model: the first choice. fallback: a `Constant` of scores, as many as there are classes, not a label; a second model
    that takes the same feeds, or a `Scorer` of one (which has a fallback of its own); None leaves a row that the model
    cannot score failed. classes: columns of the scores; 1 for scores of shape (rows,).
    failures: batches with a row that the model could not score; failure: why, of the last one, for the log: what the
    model raised, cut short, and no row.
    """

    def __init__(
        self,
        model: Predictor,
        fallback: Constant | Predictor | Scorer | None = None,
        *,
        classes: int = 1,
        clock: Clock | None = None,
    ) -> None:
        self.model = model
        self.fallback: Constant | Scorer | None = (
            fallback
            if fallback is None or isinstance(fallback, Constant | Scorer)
            else Scorer(fallback, classes=classes, clock=clock)
        )
        self.failures = 0
        self.failure = ""
        self._predict = model.predict
        self._classes = classes
        self._clock = clock or MonotonicClock()

    def score(self, feeds: Feeds, rows: int, deadline_ns: int | None = None) -> Scored:
        """Return the scores of the first `rows` rows that `feeds` holds.

        A model that raises is asked again for halves of the batch until the rows that it raises for stand alone: at
        most `CALLS_MAX` calls, none begun after `deadline_ns` (monotonic). Those rows, and rows whose score is NaN or
        infinite, take the fallback.
        """
        late: NDArray[np.bool_] | None = None
        try:
            scores = self._predict(feeds)
            # Finite only if every score is; what overflows is looked at closely below. 0.8 µs at 64 rows, where
            # sum() takes 1.5 and isfinite().all() 2.7.
            flat = scores if scores.ndim == 1 else scores.ravel()
            if isfinite(flat.dot(flat)) and len(scores) == rows:
                return Scored(scores)
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a model may raise anything for what one row holds: a panic, or SystemExit
            self._note(_told(error))
            scores, late = self._isolate(feeds, rows, deadline_ns)
        else:
            scores = self._checked(scores, rows)
        found = has_scores(scores)
        if found.all():
            return Scored(scores)
        if late is None:
            self._note("it gave scores that are no finite numbers, or not one a row")
        return self._fall_back(scores, ~found, late, feeds, deadline_ns)

    def fall_back(self, feeds: Feeds, rows: int, reason: Degraded, deadline_ns: int | None = None) -> Scored:
        """Return fallback scores for a whole batch that the model was not asked for, or did not answer in time."""
        late = np.full(rows, reason is Degraded.MODEL_TIMEOUT)
        return self._fall_back(self._blank(rows), np.ones(rows, bool), late, feeds, deadline_ns)

    def _note(self, failure: str) -> None:
        self.failures += 1
        self.failure = failure

    def _blank(self, rows: int) -> NDArray[Any]:
        return np.full(rows if self._classes == 1 else (rows, self._classes), np.nan, np.float32)

    def _checked(self, scores: NDArray[Any], rows: int) -> NDArray[Any]:
        """Return the scores, or NaN for all where the model gave another number of rows than it was asked for."""
        return scores if len(scores) == rows else self._blank(rows)

    def _isolate(self, feeds: Feeds, rows: int, deadline_ns: int | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Return scores, NaN where the model raises, and the rows that there was no time or no call left for."""
        scores, late = self._blank(rows), np.zeros(rows, bool)
        parts = [(rows // 2, rows), (0, rows // 2)] if rows > 1 else []
        calls = 1
        while parts:
            start, end = parts.pop()
            if calls >= CALLS_MAX or (deadline_ns is not None and self._clock.now_ns() >= deadline_ns):
                late[start:end] = True
                continue
            calls += 1
            try:
                part = self._predict(slice_feeds(feeds, start, end))
                scores[start:end] = self._checked(part, end - start)
            except KeyboardInterrupt:
                raise
            except BaseException:  # as above
                if end - start > 1:
                    middle = (start + end) // 2
                    parts += [(middle, end), (start, middle)]
        return scores, late

    def _fall_back(
        self,
        scores: NDArray[Any],
        bad: NDArray[np.bool_],
        late: NDArray[np.bool_] | None,
        feeds: Feeds,
        deadline_ns: int | None,
    ) -> Scored:
        """Return the scores with the fallback's in the bad rows; a row without one is NaN and failed."""
        gaps = Gaps(scores, bad, late)
        if not isinstance(self.fallback, Scorer):
            return gaps.filled_by(self.fallback)
        own = {name: array[bad] for name, array in feeds.items()}
        return gaps.filled_by(self.fallback.score(own, int(bad.sum()), deadline_ns))


def _told(error: BaseException) -> str:
    """Return what a model raised in one short line, whatever its text is, or raises itself."""
    try:
        text = str(error)
    except Exception:  # of the model's own class of errors
        text = ""
    return " ".join(f"{type(error).__name__}: {text}"[:FAILURE_CHARACTERS_MAX].split())
