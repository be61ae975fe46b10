"""Calibration: the curve that turns a model's score into a probability, behind whichever backend computes the score."""

from __future__ import annotations

from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import REPACKAGE

_EXPONENT_MAX: Final = 700.0
"""exp() of more is no float64."""
_ODDS_MIN: Final = 1e-12
"""A probability is taken as at least so far from 0 and from 1, where its log odds are infinite."""


class Isotonic(msgspec.Struct, frozen=True, tag="isotonic", dict=True):
    """Straight lines through the points (x, y), flat before the first and behind the last one.

    Raises ValueError unless the points are finite, x rises, and y does not fall.
    """

    x: tuple[float, ...]
    y: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.x or len(self.x) != len(self.y) or not all(map(isfinite, (*self.x, *self.y))):
            raise ValueError("an isotonic calibration wants as many finite x as y, and one at least")
        if any(np.diff(self.x) <= 0) or any(np.diff(self.y) < 0):
            raise ValueError("an isotonic calibration wants x that rise, and y that do not fall")

    @cached_property
    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return np.array(self.x, np.float64), np.array(self.y, np.float64)

    def apply(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities of scores, (rows,); NaN where a score is NaN or infinite."""
        values = scores.astype(np.float64)
        return _kept_finite(np.interp(values, *self._points), values)


class Platt(msgspec.Struct, frozen=True, tag="platt"):
    """1 / (1 + exp(a s + b)) of a score s, or, where `log_odds`, of its log odds ln(s / (1 - s)).

    J. Platt, Probabilistic Outputs for Support Vector Machines (1999). Raises ValueError unless a and b are finite.
    """

    a: float
    b: float
    log_odds: bool = False

    def __post_init__(self) -> None:
        if not (isfinite(self.a) and isfinite(self.b)):
            raise ValueError("a Platt calibration wants a finite a and b")

    def apply(self, scores: NDArray[Any]) -> NDArray[np.float64]:
        """Return the probabilities of scores, (rows,); NaN where a score is NaN or infinite."""
        values = scores.astype(np.float64)
        inputs = log_odds(values) if self.log_odds else values
        exponents = np.minimum(self.a * inputs + self.b, _EXPONENT_MAX)  # np.clip takes 3 µs more
        return _kept_finite(1.0 / (1.0 + np.exp(exponents)), values)


Calibration = Isotonic | Platt


def read_calibration(path: Path) -> Calibration:
    """Return the calibration in a file. Raises ModelPackageError where it is none."""
    try:
        found: Calibration = msgspec.json.decode(path.read_bytes(), type=Isotonic | Platt)
        return found
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ModelPackageError(f"the calibration cannot be read: {error}", where=str(path), next=REPACKAGE) from error


def log_odds(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ln(p / (1 - p)), finite at 0 and at 1 as well."""
    inside = np.minimum(np.maximum(probabilities, _ODDS_MIN), 1.0 - _ODDS_MIN)
    return np.asarray(np.log(inside) - np.log1p(-inside))


def _kept_finite(probabilities: NDArray[np.float64], scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the probabilities, but NaN for a score that is none: an infinite one is a model that failed."""
    if isfinite(scores.dot(scores)):
        return probabilities
    return np.where(np.isfinite(scores), probabilities, np.nan)
