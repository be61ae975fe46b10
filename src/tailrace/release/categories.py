"""Which raw columns of a fitted scikit-learn model are categories, which of them it knows, and what it calls a null."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from tailrace.inference.manifest import Category, Vocabulary
from tailrace.release.encoders import encoder_types, is_null, read_known

CATEGORIES_MAX: Final = 1_000
"""Categories of a feature that a manifest names; the others are counted."""
TEXT_MAX: Final = 200
"""Characters of a category that is named."""


def find_steps(model: Any, names: Sequence[str] | None) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Yield each step of a fitted model that takes raw columns, and the names of these.

    A step behind an imputer takes the imputer's columns; behind any other step columns are not raw.
    """
    if names is None or model is None or isinstance(model, str):
        return
    if hasattr(model, "transformers_"):  # a ColumnTransformer
        for _, step, columns in model.transformers_:
            yield from find_steps(step, _pick(names, columns))
    elif hasattr(model, "transformer_list"):  # a FeatureUnion
        for _, step in model.transformer_list:
            yield from find_steps(step, names)
    elif hasattr(model, "steps"):  # a Pipeline
        for _, step in model.steps:
            yield from find_steps(step, names)
            names = names if _keeps_columns(step) else None
    elif (inner := _inner(model)) is not None:
        yield from find_steps(inner, names)
    else:
        yield model, tuple(names)


def find_vocabularies(model: Any, names: Sequence[str]) -> dict[str, Vocabulary]:
    """Return the categories of each feature that an encoder of a scikit-learn model knows."""
    found: dict[str, Vocabulary] = {}
    for encoder, columns in find_steps(model, names):
        if isinstance(encoder, encoder_types()):
            for column, name in enumerate(columns):
                found.setdefault(name, _vocabulary(encoder, column))
    return found


def find_nulls(model: Any, names: Sequence[str]) -> Mapping[str, Any]:
    """Return what stands for a null, None or NaN, in the columns where a scikit-learn model knows one."""
    found: dict[str, Any] = {}
    for step, columns in find_steps(model, names):
        if isinstance(step, encoder_types()):
            categories: Sequence[Any] = step.categories_  # type: ignore[attr-defined]
            for name, known in zip(columns, categories, strict=True):
                found.update((name, null) for null in known.tolist() if is_null(null))
        elif _is_imputer(step) and not isinstance(step.missing_values, str):
            found = dict.fromkeys(columns, step.missing_values) | found
    return found


def _vocabulary(encoder: Any, column: int) -> Vocabulary:
    keys, has_null, refuses = read_known(encoder, column)
    known: list[Category] = keys.tolist()
    named = [category for category in known if not isinstance(category, str) or len(category) <= TEXT_MAX]
    named = named[:CATEGORIES_MAX]
    return Vocabulary(tuple(named), len(known) - len(named), has_null, refuses)


def _pick(names: Sequence[str], columns: Any) -> list[str] | None:
    """Return the names that a ColumnTransformer gives to a step: by name, by place, by a slice or a mask."""
    if isinstance(columns, str):
        return [columns]
    picked = list(columns) if not isinstance(columns, slice) else columns
    if isinstance(picked, list) and all(isinstance(each, str) for each in picked):
        return picked
    try:
        return [str(name) for name in np.asarray(names, object)[picked]]
    except (IndexError, TypeError):  # a slice of names
        return None


def _inner(model: Any) -> Any:
    """Return the fitted model inside one that wraps it; None for one that does not."""
    members = getattr(model, "calibrated_classifiers_", None)
    if members:
        return members[0].estimator
    frozen = model.estimator if type(model).__name__ == "FrozenEstimator" else None
    return getattr(model, "best_estimator_", frozen)


def _is_imputer(step: Any) -> bool:
    from sklearn.impute import SimpleImputer

    return isinstance(step, SimpleImputer)


def _keeps_columns(step: Any) -> bool:
    return step is None or step == "passthrough" or (_is_imputer(step) and not step.add_indicator)
