"""The rows that a model is optimised on: a part calibrates and is searched with, the rest judges and no more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import msgspec
import numpy as np
from numpy.typing import NDArray

from tailrace.errors import ModelPackageError
from tailrace.inference.manifest import Manifest
from tailrace.inference.predictor import Feeds
from tailrace.release.rows import read_rows
from tailrace.release.table import read_outcomes, spread_rows

ROWS_MAX: Final = 100_000
"""A larger table is sampled evenly."""
CALIBRATION_SHARE: Final = 0.25
CALIBRATION_ROWS_MAX: Final = 4_000
ROWS_MIN: Final = 100
_OUTCOMES: Final = "outcomes"
_JUDGES: Final = "judges"


@dataclass(frozen=True, slots=True)
class Evidence:
    """Rows as the model takes them, and what became of each. judges: which of them judge; the others calibrate."""

    feeds: Feeds
    outcomes: tuple[Any, ...]
    judges: NDArray[np.bool_]

    @classmethod
    def gather(cls, manifest: Manifest, table: Any, target: str) -> Self:
        """Return the rows of a table that get a score in serving, a quarter of them drawn for calibration.

        Raises ModelPackageError for too few of them, a feature that is missing or does not fit, or a null outcome.
        """
        signature = manifest.signature
        missing = [name for name in signature.feature_names if name not in table.column_names]
        if missing:
            raise ModelPackageError(
                f"the data has no column for the model's features {missing[:5]}", where="--data",
                next="give data with the columns that the model was packaged on",
            )  # fmt: skip
        table = spread_rows(table, ROWS_MAX)
        rows = read_rows(table, signature.feature_names)
        outcomes = read_outcomes(table, target)
        if not manifest.source.missing:
            known = np.flatnonzero(rows.known(signature.inputs))
            rows, outcomes = rows.take(known), outcomes[known]
        if len(outcomes) < ROWS_MIN:
            raise ModelPackageError(
                f"the data has {len(outcomes)} rows that can be scored; {ROWS_MIN} are the least", where="--data",
                next="give more rows, held back from training: a metric of few rows tells two models apart by luck",
            )  # fmt: skip
        count = min(CALIBRATION_ROWS_MAX, int(len(outcomes) * CALIBRATION_SHARE))
        judges = np.ones(len(outcomes), np.bool_)
        judges[np.random.default_rng(0).permutation(len(outcomes))[:count]] = False
        return cls(rows.feeds(signature.inputs), tuple(outcomes.tolist()), judges)

    def part(self, *, judges: bool) -> Evidence:
        """Return the rows that judge, or those that calibrate."""
        picked = self.judges == judges
        outcomes = tuple(outcome for outcome, wanted in zip(self.outcomes, picked, strict=True) if wanted)
        feeds = {name: np.ascontiguousarray(array[picked]) for name, array in self.feeds.items()}
        return Evidence(feeds, outcomes, self.judges[picked])

    def draw(self, count: int, seed: int) -> Feeds:
        """Return the feeds of so many rows, other ones for another seed."""
        picked = np.random.default_rng(seed).integers(0, len(self.outcomes), count)
        return {name: np.ascontiguousarray(array[picked]) for name, array in self.feeds.items()}

    def save(self, path: Path) -> None:
        """Write a file that the processes of the trials read; texts without pickles."""
        arrays = {f"feeds:{name}": array for name, array in self.feeds.items() if array.dtype != object}
        texts = {name: array.tolist() for name, array in self.feeds.items() if array.dtype == object}
        arrays |= {f"texts:{name}": _to_bytes(rows) for name, rows in texts.items()}
        np.savez(path, **{_OUTCOMES: _to_bytes(self.outcomes), _JUDGES: self.judges}, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what was saved."""
        with np.load(path, allow_pickle=False) as arrays:
            feeds = {name.partition(":")[2]: arrays[name] for name in arrays.files if name.startswith("feeds:")}
            texts = {
                name.partition(":")[2]: np.array(msgspec.json.decode(arrays[name].tobytes()), object)
                for name in arrays.files
                if name.startswith("texts:")
            }
            outcomes = msgspec.json.decode(arrays[_OUTCOMES].tobytes(), type=tuple[int | float | str, ...])
            return cls(feeds | texts, outcomes, arrays[_JUDGES])


def _to_bytes(value: object) -> NDArray[np.uint8]:
    """Return a value as JSON: an array of texts of one length each would be as long as its longest."""
    return np.frombuffer(msgspec.json.encode(value), np.uint8)
