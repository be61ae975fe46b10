"""Two versions compared: both score the golden rows of both, and what differs is counted."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.loading import load_model
from tailrace.inference.packaged import PackagedModel
from tailrace.release.registry.fetching import fetch
from tailrace.release.registry.records import VersionRecord
from tailrace.release.registry.registering import OnProgress
from tailrace.release.registry.registry import Registry

QUANTILES: Final = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Differences:
    """How two models' scores differ, absolutely, on the same rows.

    rows: compared. quantiles: the differences at `QUANTILES`; of several classes a row's largest counts.
    flips: rows on which another side of `threshold`, or another class, wins; None for a regression.
    unscored: rows that one of the two gives no score (NaN).
    """

    rows: int
    max: float
    mean: float
    quantiles: tuple[float, ...]
    flips: int | None
    threshold: float | None
    unscored: int


def compare(one: PackagedModel, other: PackagedModel, threshold: float = 0.5) -> Differences | str:
    """Return how the scores of two models differ on the golden rows of both; why they cannot be compared otherwise."""
    if problem := _unlike(one, other):
        return problem
    parts = [_columns(model) for model in (one, other)]
    columns = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    scores = [_scores(model, columns) for model in (one, other)]
    return _measure(scores[0], scores[1], bool(one.signature.classes), threshold)


@contextmanager
def loaded(
    registry: Registry, records: Sequence[VersionRecord], *, on_progress: OnProgress = lambda f, d, w: None
) -> Iterator[list[PackagedModel]]:
    """Fetch versions into a temporary directory, and load them. Raises RegistryError, ModelPackageError."""
    with tempfile.TemporaryDirectory(prefix="tailrace-compare-") as folder:
        models = []
        for place, record in enumerate(records):
            directory = Path(folder, str(place))
            directory.mkdir()
            fetch(registry, record, directory, on_progress=on_progress)
            models.append(load_model(directory))
        yield models


def _unlike(one: PackagedModel, other: PackagedModel) -> str:
    """Say why two models cannot score the same rows; nothing where they can."""
    names, others = set(one.signature.feature_names), set(other.signature.feature_names)
    if names != others:
        sides = (("first", names - others), ("second", others - names))
        only = [f"only the {which} takes {', '.join(sorted(found))}" for which, found in sides if found]
        return f"they take other features: {'; '.join(only)}"
    texts = [
        {name for spec in model.signature.inputs if spec.dtype == "string" for name in spec.features}
        for model in (one, other)
    ]
    if texts[0] != texts[1]:
        return f"one takes {', '.join(sorted(texts[0] ^ texts[1]))} as text, the other as a number"
    widths = [
        {name: width for spec in model.signature.inputs
         for name, width in zip(spec.features, spec.feature_widths, strict=True)}
        for model in (one, other)
    ]  # fmt: skip
    if widths[0] != widths[1]:
        apart = sorted(name for name in names if widths[0][name] != widths[1][name])
        return f"they take vectors of other lengths: {', '.join(apart)}"
    if one.signature.vector != other.signature.vector:
        return f"one gives a vector of {one.signature.vector}, the other of {other.signature.vector}"
    if one.signature.classes != other.signature.classes:
        return f"they have other classes: {list(one.signature.classes)} and {list(other.signature.classes)}"
    return ""


def _columns(model: PackagedModel) -> dict[str, NDArray[Any]]:
    """Return the golden rows of a model, by feature: (rows,), or (rows, width) of a vector."""
    feeds = model.manifest.golden.feeds(model.signature)
    found: dict[str, NDArray[Any]] = {}
    for spec in model.signature.inputs:
        parts = np.split(feeds[spec.name], np.cumsum(spec.feature_widths)[:-1], axis=1)
        for name, part in zip(spec.features, parts, strict=True):
            found[name] = part if part.shape[1] > 1 else part[:, 0]
    return found


def _scores(model: PackagedModel, columns: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
    """Return a model's scores of rows, (rows, classes), in parts as large as its own golden rows."""
    feeds = {
        spec.name: np.ascontiguousarray(
            np.column_stack([columns[name] for name in spec.features]).astype(spec.numpy_dtype, copy=False)
        )
        for spec in model.signature.inputs
    }
    scores = np.asarray(model.predict(feeds), np.float64)
    return scores.reshape(len(scores), -1)


def _measure(
    one: NDArray[np.float64], other: NDArray[np.float64], is_classifier: bool, threshold: float
) -> Differences:
    missing = np.isnan(one).any(axis=1), np.isnan(other).any(axis=1)
    scored = ~(missing[0] | missing[1])
    one_scored, other_scored = one[scored], other[scored]
    distances = np.abs(one_scored - other_scored).max(axis=1, initial=0.0)
    is_binary = is_classifier and one.shape[1] == 1
    flips: int | None = None
    if is_binary:
        flips = int(((one_scored >= threshold) != (other_scored >= threshold)).sum())
    elif is_classifier:
        flips = int((one_scored.argmax(axis=1) != other_scored.argmax(axis=1)).sum())
    some = distances if len(distances) else np.zeros(1)
    return Differences(
        rows=len(distances),
        max=float(some.max()),
        mean=float(some.mean()),
        quantiles=tuple(float(value) for value in np.quantile(some, QUANTILES)),
        flips=flips,
        threshold=threshold if is_binary else None,
        unscored=int((missing[0] != missing[1]).sum()),
    )
