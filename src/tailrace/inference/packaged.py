"""What every packaged model has, whichever backend computes it: manifest, sample rows, golden rows that must hold."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.calibration import Calibration
from tailrace.inference.manifest import REPACKAGE, Manifest
from tailrace.inference.predictor import Feeds
from tailrace.inference.signature import Signature

GOLDEN_TOLERANCE: Final = 1e-5
"""How far a score may be from the expected one: absolute up to a score of 1, relative above."""


class PackagedModel(ABC):
    """A packaged model, ready to score. Satisfies `Predictor`.

    calibration: what the scores of the backend go through; None where they are served as they are.
    backend: what computes it, in words. backend_reason: why it is not a faster one; empty where there is none.
    directory: that it was loaded from.
    """

    __slots__ = ("_floats", "_golden_feeds", "_unfinished", "backend_reason", "calibration", "directory", "manifest",
                 "signature", "version")  # fmt: skip

    backend: ClassVar[str]

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self.signature: Signature = manifest.signature
        self.version: str = manifest.version
        self.backend_reason = ""
        self.directory = Path()
        # The inputs to look for NaN in, where the model would give a row with NaN another score than the original does.
        self._floats = manifest.source.unfilled or tuple(
            spec.name
            for spec in self.signature.inputs
            if spec.dtype.startswith("float") and not manifest.source.missing
        )
        self.calibration: Calibration | None = None
        self._unfinished = bool(self._floats)
        self._golden_feeds = manifest.golden.feeds(manifest.signature)

    @classmethod
    @abstractmethod
    def load(cls, directory: str | Path, trusted: Sequence[str] = ()) -> Self:
        """Return the model of a directory that `tailrace package` wrote, its golden rows checked.

        trusted: types that the user trusts, of a form that names types.
        Raises OSError, saying why, where this machine cannot use the backend; ModelPackageError where the files are not
        what they should be.
        """

    @abstractmethod
    def predict(self, feeds: Feeds) -> NDArray[Any]:
        """Return the scores: float, shape (rows,), or (rows, classes) where the signature names no column.

        feeds: for each input of the signature an array of its dtype, (rows, features), in C order.
        """

    def sample_feeds(self, rows: int, *, seed: int = 0) -> dict[str, NDArray[Any]]:
        """Return golden rows in a random order, as many as asked for, to warm the model and measure it with.

        Real rows, since equal ones mislead: a processor that can foresee every branch of every tree computes 64 equal
        rows in a quarter of the time that 64 different ones take.
        """
        picked = np.random.default_rng(seed).integers(0, len(self.manifest.golden.scores), rows)
        return {name: np.ascontiguousarray(array[picked]) for name, array in self._golden_feeds.items()}

    def check_golden(self, path: Path) -> None:
        """Raise ModelPackageError, about the file `path`, unless every golden row gets its expected score."""
        expected = np.array(self.manifest.golden.scores, np.float64)
        try:
            scores = self.predict(self._golden_feeds)
        except Exception as error:  # ONNX Runtime's exceptions share no base of their own
            raise ModelPackageError(
                f"the golden rows cannot be scored: {error}", where=str(path), next=REPACKAGE
            ) from error
        found = scores.reshape(len(scores), -1)
        if found.shape != expected.shape:
            raise ModelPackageError(
                f"the golden rows get scores of shape {found.shape}; the manifest expects {expected.shape}",
                where=str(path),
                next=REPACKAGE,
            )
        distances = score_error(found, expected).max(axis=1)
        worst = int(distances.argmax())
        if distances[worst] > GOLDEN_TOLERANCE + self.manifest.golden.rounding:
            raise ModelPackageError(
                f"golden row {worst} gets the score {found[worst].tolist()} where {expected[worst].tolist()} "
                "is expected",
                where=str(path),
                next=f"{self.backend} on this machine does not compute what was packaged: " + REPACKAGE,
            )

    def calibrate(self, calibration: Calibration) -> None:
        """Give from now on the probabilities that a calibration makes of the scores. The golden rows hold before it."""
        self.calibration = calibration
        self._unfinished = True

    def _finish(self, scores: NDArray[Any], feeds: Feeds) -> NDArray[Any]:
        """Return the scores as they are served, where `_unfinished`: calibrated, and NaN for a row with NaN."""
        scores = self._without_missing(scores, feeds) if self._floats else scores
        return scores if self.calibration is None else self.calibration.apply(scores)

    def _without_missing(self, scores: NDArray[Any], feeds: Feeds) -> NDArray[Any]:
        """Return the scores with NaN for every row that has a NaN in an input of `_floats`."""
        for name in self._floats:
            if isnan(feeds[name].sum()):  # a NaN, or infinities of both signs
                scores = np.where(_has_nan(feeds[name], scores.ndim), np.nan, scores)
        return scores


def score_error(scores: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.float64]:
    """Return each score's distance from the expected one: absolute up to 1, relative above; NaN equals NaN.

    A score that is finite where the other is not is infinitely far.
    """
    scores, expected = np.asarray(scores, np.float64), np.asarray(expected, np.float64)
    with np.errstate(invalid="ignore"):
        error = np.abs(scores - expected) / np.maximum(np.abs(expected), 1.0)
    same = (scores == expected) | (np.isnan(scores) & np.isnan(expected))
    return np.where(same, 0.0, np.where(np.isnan(error), np.inf, error))


def _has_nan(matrix: NDArray[Any], ndim: int) -> NDArray[np.bool_]:
    """Return which rows hold a NaN, as (rows,) or, to go with a matrix of scores, (rows, 1)."""
    rows: NDArray[np.bool_] = np.isnan(matrix).any(axis=1)
    return rows if ndim == 1 else rows[:, np.newaxis]
