"""The reference profile of a model: how its inputs and scores were distributed when it was packaged."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from tailrace.inference.manifest import NumberProfile, Profile, TextProfile
from tailrace.inference.signature import Signature, TensorSpec
from tailrace.release.table import column_width, to_numbers, to_vectors

QUANTILES: Final = tuple(np.linspace(0.0, 1.0, 11))
"""Deciles: ten bins of equal weight, as the population stability index wants."""
TOP_MAX: Final = 20
"""Categories of a text that are counted by name."""


def profile_model(signature: Signature, table: Any, scores: NDArray[Any]) -> Profile:
    """Return the profile of a table's feature columns and of the scores, (rows,) or (rows, classes).

    Of vectors, in or out, it is that of their norms.
    """
    features = {name: _profile_feature(spec, table, name) for spec in signature.inputs for name in spec.features}
    columns = _norms(scores)[np.newaxis] if signature.vector else scores.reshape(len(scores), -1).T
    profiles = tuple(profile_numbers(column) for column in columns)
    return Profile(table.num_rows, features, profiles, None if signature.vector else _profile_confidence(scores))


def _profile_confidence(scores: NDArray[Any]) -> NumberProfile | None:
    """Return the profile of the probability of the likelier class; None where the scores are no probabilities."""
    if not len(scores) or not ((scores >= 0) & (scores <= 1)).all():
        return None
    columns = scores.reshape(len(scores), -1)
    single = columns.shape[1] == 1
    return profile_numbers(np.maximum(columns[:, 0], 1.0 - columns[:, 0]) if single else columns.max(axis=1))


def _profile_feature(spec: TensorSpec, table: Any, name: str) -> NumberProfile | TextProfile:
    """Return the profile of a column; of vectors that of their norms."""
    if column_width(table, name):
        return profile_numbers(_norms(to_vectors(table, name)))
    return profile_texts(table.column(name)) if spec.dtype == "string" else profile_numbers(to_numbers(table, name))


def _norms(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """Return the Euclidean norm of each row."""
    return np.asarray(np.linalg.norm(vectors.astype(np.float64), axis=1))


def profile_numbers(values: NDArray[Any]) -> NumberProfile:
    """Return the profile of numbers; NaN counts as null, infinities as numbers at the ends."""
    values = np.asarray(values, np.float64)
    known = values[~np.isnan(values)]
    nulls = len(values) - len(known)
    if not len(known):
        return NumberProfile(0, nulls, None, None, None, None, (), ())
    known = np.clip(known, np.finfo(np.float64).min / 4, np.finfo(np.float64).max / 4)
    edges = np.unique(np.quantile(known, QUANTILES, method="inverted_cdf"))
    inner = np.searchsorted(edges, known, side="left")  # (a, b] has the index of b
    places, bins = np.maximum(inner, 1) - 1, max(len(edges) - 1, 1)
    counts = np.bincount(places, minlength=bins)
    if len(edges) == 1:
        edges = np.repeat(edges, 2)
    with np.errstate(over="ignore", invalid="ignore"):
        mean, std = float(known.mean()), float(known.std())
        sums = np.bincount(places, known, minlength=bins)
    return NumberProfile(
        count=len(known),
        nulls=nulls,
        mean=mean if np.isfinite(mean) else None,
        std=std if np.isfinite(std) else None,
        min=float(known.min()),
        max=float(known.max()),
        edges=tuple(edges.tolist()),
        counts=tuple(counts.tolist()),
        sums=tuple(sums.tolist()) if np.isfinite(sums).all() else (),
    )


def profile_texts(column: Any) -> TextProfile:
    """Return the profile of a pyarrow column of texts; equal counts come in the order of the texts."""
    counted = {entry["values"]: entry["counts"] for entry in column.value_counts().to_pylist()}
    nulls = counted.pop(None, 0)
    ranked = sorted(counted.items(), key=lambda item: (-item[1], item[0]))
    return TextProfile(
        count=sum(counted.values()),
        nulls=nulls,
        distinct=len(counted),
        top=tuple(ranked[:TOP_MAX]),
        others=sum(count for _, count in ranked[TOP_MAX:]),
    )
